//! One worker with its hub on an engine that takes everything and does nothing with it.

use std::{collections::VecDeque, io, sync::Arc, time::Duration};

use bytes::Bytes;
use mesh::Endpoint;
use ringway_hub::{Hub, Interest, Letter, OriginRule};
use worker::{
    Completion, ConnectionId, Engine, EngineCounts, Limits, ListenerId, Operation, Reception, Slot,
    SlowConsumer, Taken, Time, Waker, Worker,
};

pub(crate) const PING_INTERVAL: Duration = Duration::from_secs(25);

pub(crate) const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(3);

/// Completions of connections that a wait tells of at most: what a busy ring brings in one turn.
const INPUTS_PER_WAIT: usize = 64;

/// What a client has done.
#[derive(Debug, Clone, Copy)]
enum Input {
    Accepted(Slot),
    /// Sends the head with this index.
    Head(Slot, u32),
    Message(Slot),
    Pong(Slot),
}

/// The engine. Every connection is of the first generation of its slot.
#[derive(Debug)]
struct NullEngine {
    now: Time,
    /// Until when time may pass.
    end: Time,
    inputs: VecDeque<Input>,
    decided: VecDeque<(ConnectionId, Bytes)>,
    heads: Vec<Vec<u8>>,
    message: Vec<u8>,
    pong: Vec<u8>,
    /// Targets not yet told of, and all offered so far.
    untold: u32,
    offered: u32,
    sent_total: u32,
    /// True exactly when the last wait had nothing to tell and could have been long.
    is_parked: bool,
}

#[derive(Debug)]
struct NoWaker;

impl Waker for NoWaker {
    fn wake(&self) {}
}

impl Engine for NullEngine {
    fn now(&self) -> Time {
        self.now
    }

    fn submit(&mut self, operation: Operation<'_>) {
        match operation {
            Operation::Offer { frame, targets } => {
                let count = u32::try_from(targets.len()).expect("targets are few");
                self.untold += count;
                self.offered += count;
                if frame == wire::PING {
                    self.inputs.extend(targets.iter().map(|slot| Input::Pong(*slot)));
                }
            }
            Operation::Send { connection, bytes } => {
                self.sent_total += 1;
                self.decided.push_back((connection, bytes));
            }
            Operation::Accept { .. }
            | Operation::StopAccepting { .. }
            | Operation::Receive { .. }
            | Operation::StopReceiving { .. }
            | Operation::Close { .. }
            | Operation::Wake { .. } => {}
        }
    }

    fn wait(
        &mut self,
        deadline: Time,
        mut on_completion: impl FnMut(Time, Completion<'_>),
    ) -> Result<(), io::Error> {
        let is_idle = self.inputs.is_empty() && self.decided.is_empty() && self.untold == 0;
        self.is_parked = is_idle && deadline > self.now;
        if self.is_parked {
            self.now = deadline.min(self.end);
        }
        let now = self.now;
        for (connection, bytes) in self.decided.drain(..) {
            let taken = bytes.len();
            let outcome = Ok(Taken { bytes, taken });
            on_completion(now, Completion::Sent { connection, outcome });
        }
        if self.untold > 0 {
            let targets = std::mem::take(&mut self.untold);
            on_completion(now, Completion::Offered { targets });
        }
        for _ in 0..INPUTS_PER_WAIT {
            let Some(input) = self.inputs.pop_front() else { break };
            let (slot, bytes) = match input {
                Input::Accepted(slot) => {
                    let peer = ([127, 0, 0, 1], 1).into();
                    let (connection, listener) = (id(slot), ListenerId(0));
                    on_completion(now, Completion::Accepted { connection, listener, peer });
                    continue;
                }
                Input::Head(slot, index) => (slot, &mut self.heads[index as usize]),
                // Masked by zeros: unmasking them leaves them as they are.
                Input::Message(slot) => (slot, &mut self.message),
                Input::Pong(slot) => (slot, &mut self.pong),
            };
            let (connection, outcome) = (id(slot), Reception::Bytes(bytes));
            on_completion(now, Completion::Received { connection, outcome });
        }
        Ok(())
    }

    fn waker(&self) -> Arc<dyn Waker> {
        Arc::new(NoWaker)
    }

    fn counts(&self) -> EngineCounts {
        EngineCounts::default()
    }
}

fn id(slot: Slot) -> ConnectionId {
    ConnectionId { slot, generation: 1 }
}

/// The worker and what it runs on.
pub(crate) struct Bed {
    worker: Worker<Hub>,
    engine: NullEngine,
    endpoint: Endpoint<Letter>,
    /// Kept, so that the mesh has its guest.
    _guest: Endpoint<Letter>,
    clients: Slot,
}

impl Bed {
    pub(crate) fn new(change: impl FnOnce(&mut worker::Options)) -> Self {
        let mut options = worker::Options {
            connections_max: 20_000,
            listeners: 1,
            handshake_timeout: HANDSHAKE_TIMEOUT,
            write_timeout: Duration::from_secs(10),
            close_timeout: Duration::from_secs(5),
            ping_interval: None,
            pong_timeout: Duration::from_secs(10),
            coalesce_delay: Duration::ZERO,
            connection_age_max: None,
            addresses: None,
            proxies: worker::Proxies::default(),
            publish_rate_max: None,
            slow_consumer: SlowConsumer::Close,
            limits: Limits::default(),
            seed: 1,
        };
        change(&mut options);
        let hub_options = ringway_hub::Options {
            client_publish: true,
            echo: true,
            compression: false,
            origins: OriginRule::Any,
            access: None,
            topics_per_connection_max: options.limits.topics_per_connection_max,
            topic_bytes_max: options.limits.topic_bytes_max,
            held_bytes_max: 1 << 20,
            interest: Arc::new(Interest::new(1, 20_000, 1)),
        };
        let [endpoint, guest] =
            mesh::join(2, |_, _| 64).try_into().expect("two members were asked for");
        let now = Time(1);
        let hub = Hub::new(hub_options, endpoint.member());
        let worker = Worker::new(options, hub, endpoint.member(), now);
        let engine = NullEngine {
            now,
            end: now,
            inputs: VecDeque::new(),
            decided: VecDeque::new(),
            heads: Vec::new(),
            message: Vec::new(),
            pong: vec![0x8A, 0x80, 0, 0, 0, 0],
            untold: 0,
            offered: 0,
            sent_total: 0,
            is_parked: false,
        };
        Self { worker, engine, endpoint, _guest: guest, clients: 0 }
    }

    /// Counted: turns until the worker has nothing to do before the end of the time.
    #[inline(never)]
    pub(crate) fn measured(&mut self) {
        self.settle();
    }

    /// So many clients that were answered with 101. Returns how many.
    pub(crate) fn connect(&mut self, count: u32, target: impl Fn(Slot) -> String) -> u32 {
        self.knock(count, target);
        self.settle();
        count
    }

    /// So many clients whose requests wait to be taken. The head is about what a browser sends.
    pub(crate) fn knock(&mut self, count: u32, target: impl Fn(Slot) -> String) {
        for slot in self.clients..self.clients + count {
            let target = target(slot);
            let head = format!(
                "GET {target} HTTP/1.1\r\nHost: push.example.com\r\nConnection: Upgrade\r\n\
                 Pragma: no-cache\r\nCache-Control: no-cache\r\n\
                 User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 \
                 Firefox/140.0\r\nUpgrade: websocket\r\nOrigin: https://www.example.com\r\n\
                 Sec-WebSocket-Version: 13\r\nAccept-Encoding: gzip, deflate, br, zstd\r\n\
                 Accept-Language: en-GB,en;q=0.9\r\n\
                 Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
                 Sec-WebSocket-Extensions: permessage-deflate\r\n\r\n"
            );
            self.engine.heads.push(head.into_bytes());
            self.engine.inputs.extend([Input::Accepted(slot), Input::Head(slot, slot)]);
        }
        self.clients += count;
    }

    /// A text message of a client waits to be taken; all messages of a bed are of one length.
    pub(crate) fn say(&mut self, slot: Slot, payload_bytes: usize) {
        let length = u8::try_from(payload_bytes).expect("the length fits the first byte");
        assert!(length < 126, "the length fits the first byte");
        let payload = vec![b'x'; payload_bytes];
        self.engine.message = [&[0x81, 0x80 | length, 0, 0, 0, 0], &payload[..]].concat();
        self.engine.inputs.push_back(Input::Message(slot));
    }

    /// Lets time pass, counted.
    pub(crate) fn pass(&mut self, span: Duration) {
        self.engine.end = self.engine.end + span;
        self.measured();
    }

    /// Lets time pass.
    pub(crate) fn pass_unmeasured(&mut self, span: Duration) {
        self.engine.end = self.engine.end + span;
        self.settle();
    }

    /// Targets of all offers so far.
    pub(crate) fn offered(&self) -> u32 {
        self.engine.offered
    }

    /// All sends so far.
    pub(crate) fn sent(&self) -> u32 {
        self.engine.sent_total
    }

    fn settle(&mut self) {
        loop {
            let turned = self.worker.turn(&mut self.engine, &mut self.endpoint);
            turned.expect("this engine does not fail");
            if self.engine.is_parked && self.engine.now >= self.engine.end {
                return;
            }
        }
    }
}
