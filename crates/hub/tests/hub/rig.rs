//! Whole workers with real queues between them on an engine that is a few lists: what clients send
//! is put in, what they would receive can be looked at, time stands still unless told.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    io, mem,
    sync::Arc,
    time::Duration,
};

use mesh::{Delivery, Endpoint, Member};
use ringway_hub::{Access, Hub, Interest, Letter, OriginRule};
use tokens::{Keys, Rules, Verifier};
use worker::{
    Completion, ConnectionId, Engine, EngineCounts, Failure, Limits, ListenerId, Operation,
    Reception, Report, Slot, SlowConsumer, Taken, Time, Waker, Worker,
};

/// A client by worker and connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Client {
    pub(crate) worker: usize,
    pub(crate) connection: ConnectionId,
}

/// Some workers and the guest behind them.
pub(crate) struct Rig {
    workers: Vec<Place>,
    pub(crate) guest: Endpoint<Letter>,
    pub(crate) interest: Arc<Interest>,
}

struct Place {
    worker: Worker<Hub>,
    engine: ListEngine,
    endpoint: Endpoint<Letter>,
}

/// What differs between tests.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Setting {
    pub(crate) workers: u16,
    pub(crate) letters_max: usize,
    pub(crate) guest_letters_max: usize,
    pub(crate) client_publish: bool,
    pub(crate) held_bytes_max: u64,
    pub(crate) fanout_publications_max: u32,
    /// Messages from so many bytes on are compressed where connections agree; `None`: none is.
    pub(crate) compression_bytes_min: Option<u32>,
    /// What tokens are signed with; `None`: nobody needs one.
    pub(crate) secret: Option<&'static str>,
}

impl Setting {
    pub(crate) const PLAIN: Self = Self {
        workers: 2,
        letters_max: 64,
        guest_letters_max: 64,
        client_publish: true,
        held_bytes_max: 1 << 20,
        fanout_publications_max: 4096,
        compression_bytes_min: None,
        secret: None,
    };
}

impl Place {
    /// Takes the worker apart and puts another together of what came out.
    fn move_connections(&mut self) {
        let Self { worker, engine, endpoint } = self;
        let (was_quiet, deadline) = (engine.was_quiet, engine.deadline);
        worker.settle(engine, endpoint).unwrap();
        let ids: Vec<_> = worker.connections().collect();
        let records: Vec<_> = ids.iter().map(|it| worker.export(*it).unwrap()).collect();
        worker.forget(|hub| hub.forget(endpoint.member()));
        records.into_iter().for_each(|record| worker.import(endpoint, record));
        // The wait of `settle` was short.
        (engine.was_quiet, engine.deadline) = (was_quiet, deadline);
    }
}

impl Rig {
    pub(crate) fn new(setting: Setting) -> Self {
        let guest = Member(setting.workers);
        let mut endpoints = mesh::join(setting.workers + 1, |from, to| {
            if from == guest || to == guest {
                setting.guest_letters_max
            } else {
                setting.letters_max
            }
        });
        let guest = endpoints.pop().unwrap();
        let interest = Arc::new(Interest::new(setting.workers, 1 << 10, 1));
        let workers = endpoints.into_iter().map(|endpoint| Place {
            worker: Worker::new(
                worker_options(setting),
                Hub::new(hub_options(setting, &interest), endpoint.member()),
                endpoint.member(),
                Time(1),
            ),
            engine: ListEngine::default(),
            endpoint,
        });
        Self { workers: workers.collect(), guest, interest }
    }

    /// A worker forgets its connections, and none of them comes back.
    pub(crate) fn lose(&mut self, worker: usize) {
        let Place { worker, engine, endpoint } = &mut self.workers[worker];
        worker.settle(engine, endpoint).unwrap();
        worker.forget(|hub| hub.forget(endpoint.member()));
    }

    /// Another engine takes over the worker of two clients, each of whom stands in the other's place
    /// there.
    pub(crate) fn exchange(&mut self, [first, second]: [Client; 2]) -> [Client; 2] {
        let Place { worker, engine, endpoint } = &mut self.workers[first.worker];
        worker.settle(engine, endpoint).unwrap();
        assert!(engine.input.is_empty(), "nothing is about their old places");
        let name = |connection| match connection {
            _ if connection == first.connection => second.connection,
            _ if connection == second.connection => first.connection,
            _ => connection,
        };
        let records: Vec<_> = worker.connections().map(|it| worker.export(it).unwrap()).collect();
        worker.forget(|hub| hub.forget(endpoint.member()));
        let output = mem::take(&mut engine.output).into_iter();
        engine.output = output.map(|(connection, bytes)| (name(connection), bytes)).collect();
        engine.receiving = mem::take(&mut engine.receiving).into_iter().map(name).collect();
        for mut record in records {
            record.connection = name(record.connection);
            worker.import(endpoint, record);
        }
        [second, first]
    }

    /// One turn of one worker.
    pub(crate) fn turn(&mut self, worker: usize) {
        let place = &mut self.workers[worker];
        place.worker.turn(&mut place.engine, &mut place.endpoint).unwrap();
        if env!("CARGO_CRATE_NAME") == "moved" {
            place.move_connections();
        }
    }

    /// Turns of all workers until none has anything to do. Twice: what was held back in the first
    /// quiet round may go out in the second.
    pub(crate) fn settle(&mut self) {
        let mut quiet_rounds = 0;
        for _ in 0..10_000 {
            (0..self.workers.len()).for_each(|worker| self.turn(worker));
            let is_quiet = self.workers.iter().all(|place| place.engine.was_quiet);
            quiet_rounds = if is_quiet { quiet_rounds + 1 } else { 0 };
            if quiet_rounds == 2 {
                return;
            }
        }
        panic!("it never settles");
    }

    /// A connection in this slot that was answered with 101.
    pub(crate) fn connect(&mut self, worker: usize, slot: Slot, target: &str) -> Client {
        self.connect_with(worker, slot, target, "")
    }

    /// The same with more header lines.
    pub(crate) fn connect_with(
        &mut self,
        worker: usize,
        slot: Slot,
        target: &str,
        headers: &str,
    ) -> Client {
        let (client, answer) = self.ask_with(worker, slot, target, headers);
        assert!(answer.starts_with(b"HTTP/1.1 101 ") && answer.ends_with(b"\r\n\r\n"));
        client
    }

    /// A request in this slot, and what is answered.
    pub(crate) fn ask(&mut self, worker: usize, slot: Slot, target: &str) -> Vec<u8> {
        self.ask_with(worker, slot, target, "").1
    }

    fn ask_with(
        &mut self,
        worker: usize,
        slot: Slot,
        target: &str,
        headers: &str,
    ) -> (Client, Vec<u8>) {
        let client = self.request(worker, slot, target, headers);
        for _ in 0..4 {
            self.turn(worker);
        }
        (client, self.received_bytes(client))
    }

    /// A request in this slot; the worker has not had a turn yet.
    pub(crate) fn request(
        &mut self,
        worker: usize,
        slot: Slot,
        target: &str,
        headers: &str,
    ) -> Client {
        let engine = &mut self.workers[worker].engine;
        let generation = engine.generations.entry(slot).or_default();
        *generation += 1;
        let connection = ConnectionId { slot, generation: *generation };
        engine.input.push_back(Input::Accepted(connection));
        let head = format!(
            "GET {target} HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{headers}\r\n"
        );
        engine.input.push_back(Input::Bytes(connection, head.into_bytes()));
        Client { worker, connection }
    }

    /// The client sends a text; the worker has not had a turn yet.
    pub(crate) fn send(&mut self, client: Client, text: &str) {
        let length = u8::try_from(text.len()).unwrap();
        assert!(length < 126);
        self.send_bytes(client, &[&[0x81, 0x80 | length, 0, 0, 0, 0], text.as_bytes()].concat());
    }

    /// The client sends these bytes. A mask of zeros leaves a payload as it is.
    pub(crate) fn send_bytes(&mut self, client: Client, bytes: &[u8]) {
        self.engine(client).input.push_back(Input::Bytes(client.connection, bytes.to_vec()));
    }

    /// The client closes in order.
    pub(crate) fn leave(&mut self, client: Client) {
        let close = vec![0x88, 0x80, 0, 0, 0, 0];
        self.engine(client).input.push_back(Input::Bytes(client.connection, close));
    }

    /// The client is cut off, whether it is read from or not.
    pub(crate) fn reset(&mut self, client: Client) {
        self.engine(client).input.push_back(Input::Reset(client.connection));
    }

    /// The texts that the client has received since it was last asked. What came compressed has a
    /// mark before it.
    pub(crate) fn received(&mut self, client: Client) -> Vec<String> {
        let bytes = self.received_bytes(client);
        let mut rest = &bytes[..];
        let mut texts = Vec::new();
        while let [opcode, length, payload @ ..] = rest {
            let (length, payload) = match (length, payload) {
                (126, [high, low, payload @ ..]) => (u16::from_be_bytes([*high, *low]), payload),
                _ => (u16::from(*length), payload),
            };
            let (payload, behind) = payload.split_at(usize::from(length));
            texts.push(match (opcode, payload) {
                (0x81, text) => String::from_utf8(text.to_vec()).unwrap(),
                (0xC1, text) => format!("deflated {}", String::from_utf8(inflate(text)).unwrap()),
                (0x88, [high, low, reason @ ..]) => {
                    let code = u16::from_be_bytes([*high, *low]);
                    format!("close {code} {}", String::from_utf8_lossy(reason))
                }
                (opcode, _) => format!("opcode {opcode:#x}"),
            });
            rest = behind;
        }
        texts
    }

    /// Letters that a worker has not taken.
    pub(crate) fn letters(&self, worker: usize) -> usize {
        self.workers[worker].endpoint.waiting()
    }

    /// So much time passes for all workers.
    pub(crate) fn pass(&mut self, span: Duration) {
        for place in &mut self.workers {
            place.engine.passed += span;
        }
    }

    /// Until when a worker waits if nothing comes.
    pub(crate) fn waits_until(&self, worker: usize) -> Time {
        self.workers[worker].engine.deadline
    }

    /// Whether the worker reads what the client sends.
    pub(crate) fn is_read_from(&mut self, client: Client) -> bool {
        self.engine(client).receiving.contains(&client.connection)
    }

    pub(crate) fn hub(&self, worker: usize) -> &Hub {
        self.workers[worker].worker.handler()
    }

    pub(crate) fn is_drained(&self, worker: usize) -> bool {
        self.workers[worker].worker.is_drained()
    }

    pub(crate) fn tell(&mut self, worker: u16, letter: Letter) {
        self.guest.post(Member(worker), letter, 0).unwrap();
    }

    /// What the guest has been told since it last looked, by whom.
    pub(crate) fn told(&mut self) -> Vec<(u16, Letter)> {
        let deliveries = std::iter::from_fn(|| self.guest.take());
        deliveries.map(|Delivery { from, letter, .. }| (from.0, letter)).collect()
    }

    /// The counts of a worker since they were last asked for.
    pub(crate) fn report(&mut self, worker: u16) -> Report {
        self.tell(worker, Letter::Report(Box::default()));
        self.turn(worker.into());
        match self.told().pop() {
            Some((from, Letter::Report(report))) if from == worker => *report,
            other => panic!("{other:?}"),
        }
    }

    fn received_bytes(&mut self, client: Client) -> Vec<u8> {
        self.engine(client).output.remove(&client.connection).unwrap_or_default()
    }

    fn engine(&mut self, client: Client) -> &mut ListEngine {
        &mut self.workers[client.worker].engine
    }
}

fn worker_options(setting: Setting) -> worker::Options {
    worker::Options {
        connections_max: 10_000,
        listeners: 1,
        handshake_timeout: Duration::from_secs(5),
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
        limits: Limits {
            fanout_publications_max: setting.fanout_publications_max,
            compression_bytes_min: setting.compression_bytes_min.unwrap_or(u32::MAX),
            ..Limits::default()
        },
        seed: 1,
    }
}

fn hub_options(setting: Setting, interest: &Arc<Interest>) -> ringway_hub::Options {
    ringway_hub::Options {
        client_publish: setting.client_publish,
        echo: true,
        compression: setting.compression_bytes_min.is_some(),
        origins: OriginRule::Any,
        access: setting.secret.map(access),
        topics_per_connection_max: 64,
        topic_bytes_max: 255,
        held_bytes_max: setting.held_bytes_max,
        interest: Arc::clone(interest),
    }
}

/// The access of whoever has a token signed with this secret; the wall clock began with the
/// workers'.
pub(crate) fn access(secret: &str) -> Arc<Access> {
    let rules = Rules { issuer: None, audiences: Vec::new(), expiry_required: true };
    let keys = Keys::from_key_file(secret.as_bytes()).unwrap();
    Arc::new(Access { verifier: Arc::new(Verifier::new(keys, rules)), unix_at_zero_ms: 0 })
}

/// What was compressed by itself.
fn inflate(payload: &[u8]) -> Vec<u8> {
    let payload = [payload, &[0x00, 0x00, 0xFF, 0xFF]].concat();
    let mut output = Vec::with_capacity(1 << 16);
    let mut state = flate2::Decompress::new(false);
    state.decompress_vec(&payload, &mut output, flate2::FlushDecompress::Sync).unwrap();
    assert_eq!(state.total_in(), payload.len() as u64);
    output
}

enum Input {
    Accepted(ConnectionId),
    Bytes(ConnectionId, Vec<u8>),
    Reset(ConnectionId),
    Sent(ConnectionId, Taken),
    Offered(u32),
    Closed(ConnectionId),
    StoppedAccepting(ListenerId),
}

/// An engine whose sockets take everything.
#[derive(Default)]
struct ListEngine {
    input: VecDeque<Input>,
    output: BTreeMap<ConnectionId, Vec<u8>>,
    /// The last one of each slot.
    generations: BTreeMap<Slot, u32>,
    receiving: BTreeSet<ConnectionId>,
    /// What has passed since the first moment.
    passed: Duration,
    /// Whether the last wait had nothing to deliver and would have been long.
    was_quiet: bool,
    /// Until when it would have been.
    deadline: Time,
}

impl Engine for ListEngine {
    fn now(&self) -> Time {
        Time(1) + self.passed
    }

    fn submit(&mut self, operation: Operation<'_>) {
        match operation {
            Operation::Accept { .. } | Operation::Wake { .. } => {}
            Operation::StopAccepting { listener } => {
                self.input.push_back(Input::StoppedAccepting(listener));
            }
            Operation::Receive { connection } => _ = self.receiving.insert(connection),
            Operation::StopReceiving { connection } => _ = self.receiving.remove(&connection),
            Operation::Send { connection, bytes } => {
                self.output.entry(connection).or_default().extend_from_slice(&bytes);
                let taken = bytes.len();
                self.input.push_back(Input::Sent(connection, Taken { bytes, taken }));
            }
            Operation::Offer { frame, targets } => {
                for &slot in targets {
                    let connection = ConnectionId { slot, generation: self.generations[&slot] };
                    self.output.entry(connection).or_default().extend_from_slice(&frame);
                }
                self.input.push_back(Input::Offered(u32::try_from(targets.len()).unwrap()));
            }
            Operation::Close { connection, .. } => {
                self.receiving.remove(&connection);
                self.input.push_back(Input::Closed(connection));
            }
        }
    }

    fn wait(
        &mut self,
        deadline: Time,
        mut on_completion: impl FnMut(Time, Completion<'_>),
    ) -> Result<(), io::Error> {
        let mut unread = VecDeque::new();
        self.was_quiet = true;
        let now = self.now();
        let was_quiet = &mut self.was_quiet;
        for input in mem::take(&mut self.input) {
            let mut deliver = |completion| {
                *was_quiet = false;
                on_completion(now, completion);
            };
            match input {
                Input::Accepted(connection) => deliver(Completion::Accepted {
                    connection,
                    listener: ListenerId(0),
                    peer: ([127, 0, 0, 1], 1).into(),
                }),
                // What comes to a connection that is not read from waits.
                Input::Bytes(connection, mut bytes) => {
                    if self.receiving.contains(&connection) || is_head(&bytes) {
                        let outcome = Reception::Bytes(&mut bytes);
                        deliver(Completion::Received { connection, outcome });
                    } else {
                        unread.push_back(Input::Bytes(connection, bytes));
                    }
                }
                Input::Reset(connection) => {
                    let outcome = Reception::Failed(Failure::Reset);
                    deliver(Completion::Received { connection, outcome });
                }
                Input::Sent(connection, taken) => {
                    deliver(Completion::Sent { connection, outcome: Ok(taken) });
                }
                Input::Offered(targets) => deliver(Completion::Offered { targets }),
                Input::Closed(connection) => deliver(Completion::Closed { connection }),
                Input::StoppedAccepting(listener) => {
                    deliver(Completion::StoppedAccepting { listener });
                }
            }
        }
        self.was_quiet = self.was_quiet && deadline > self.now();
        self.deadline = deadline;
        self.input.extend(unread);
        Ok(())
    }

    fn waker(&self) -> Arc<dyn Waker> {
        unreachable!("workers do not ask for it")
    }

    fn counts(&self) -> EngineCounts {
        EngineCounts::default()
    }
}

fn is_head(bytes: &[u8]) -> bool {
    bytes.starts_with(b"GET ")
}
