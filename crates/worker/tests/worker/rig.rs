//! The engine, the handler and the clients of these tests. In the crate `moved` every connection
//! is exported and imported after each turn.

use std::{
    collections::{BTreeMap, VecDeque},
    io,
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use mesh::{Endpoint, Member};
use ringway_worker::{
    Actions, Answer, Audience, Chunk, CloseReason, Closing, Completion, ConnectionId, Engine,
    EngineCounts, Failure, Flow, Handler, HandlerCounts, Limits, ListenerId, Lost,
    OFFER_TARGETS_MAX, Operation, Options, Publication, Readiness, Reception, Report, Settings,
    Sight, Slot, SlotSet, SlowConsumer, Taken, Time, Waker, Worker,
};
use wire::{DataOpcode, Extensions, Message, Request};

/// A client's masked text frame. The mask is zero, so the payload stays as it is.
pub(crate) fn text(payload: &str) -> Vec<u8> {
    let length = u8::try_from(payload.len()).unwrap();
    assert!(length < 126);
    [&[0x81, 0x80 | length, 0, 0, 0, 0], payload.as_bytes()].concat()
}

/// A client's request for an upgrade, with more header lines.
pub(crate) fn upgrade(headers: &str) -> String {
    format!(
        "GET / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{headers}\r\n"
    )
}

/// What tests tell a worker through the mesh.
#[derive(Debug)]
pub(crate) enum Letter {
    Report(Box<Report>),
    Resume(ConnectionId),
    Settings(Settings),
    Publish(Vec<u64>, String),
    /// The same of a client that does not want its own.
    PublishFrom(ConnectionId, Vec<u64>, String),
}

/// Everyone is in every audience, and what one says is for all.
#[derive(Debug, Default)]
pub(crate) struct Everyone {
    members: SlotSet,
    pub(crate) messages: Vec<String>,
    pub(crate) closed: Vec<&'static str>,
    /// Requests that were answered.
    pub(crate) requests: u32,
}

impl Handler for Everyone {
    type Letter = Letter;
    type Admission = ();

    fn verifies(&self, request: &Request) -> bool {
        request.headers().contains_key("authorization")
    }

    fn on_request(&mut self, _: &Request, _: SocketAddr, _: Readiness, _: Time) -> Answer<()> {
        self.requests += 1;
        Answer::Upgrade {
            subprotocol: None,
            extensions: Extensions { deflate: true },
            admission: (),
        }
    }

    fn on_open(&mut self, _: &mut Actions<'_, Letter>, connection: ConnectionId, (): ()) {
        assert!(self.members.insert(connection.slot));
    }

    fn admission(&self, _: ConnectionId) {}

    fn purpose(&self, _: ConnectionId) -> String {
        String::new()
    }

    fn on_message(
        &mut self,
        actions: &mut Actions<'_, Letter>,
        _: ConnectionId,
        message: Message<'_>,
    ) -> Flow {
        let text = String::from_utf8(message.payload.to_vec()).unwrap();
        let flow = if text == "pause" { Flow::Pause } else { Flow::Continue };
        publish(actions, 0, &text, None);
        self.messages.push(text);
        flow
    }

    fn on_close(
        &mut self,
        _: &mut Actions<'_, Letter>,
        connection: ConnectionId,
        reason: CloseReason,
    ) {
        assert!(self.members.remove(connection.slot));
        self.closed.push(reason.label());
    }

    fn on_letter(&mut self, actions: &mut Actions<'_, Letter>, from: Member, letter: Letter) {
        match letter {
            Letter::Report(empty) => {
                let report = actions.swap_report(empty, HandlerCounts::default());
                actions.post(from, Letter::Report(report)).unwrap();
            }
            Letter::Resume(connection) => actions.resume(connection),
            Letter::Settings(settings) => actions.adopt(settings),
            Letter::Publish(audiences, text) => {
                audiences.into_iter().for_each(|audience| publish(actions, audience, &text, None));
            }
            Letter::PublishFrom(from, audiences, text) => audiences
                .into_iter()
                .for_each(|audience| publish(actions, audience, &text, Some((Member(0), from)))),
        }
    }

    fn poll_held(&mut self, _: &mut Actions<'_, Letter>) -> bool {
        false
    }

    fn fill(&self, _: Audience, from: Slot, busy: &SlotSet, chunk: &mut Chunk) -> Option<Slot> {
        let mut next = self.members.next(from);
        while let Some(slot) = next {
            if chunk.room() == 0 {
                return next;
            }
            let list = if busy.contains(slot) { &mut chunk.busy } else { &mut chunk.targets };
            list.push(slot);
            next = self.members.next(slot + 1);
        }
        None
    }
}

fn publish(
    actions: &mut Actions<'_, Letter>,
    audience: u64,
    text: &str,
    excluded: Option<(Member, ConnectionId)>,
) {
    let (opcode, payload) = (DataOpcode::Text, text.as_bytes());
    let publication = Publication::new(None, opcode, payload, excluded, actions.now());
    actions.publish(Audience(audience), Arc::new(publication));
}

#[derive(Debug)]
enum Event {
    Accepted(ConnectionId),
    Bytes(ConnectionId, Vec<u8>),
    Finished(ConnectionId),
    Failed(ConnectionId),
    Sent(ConnectionId, Result<Taken, Failure>),
    Refused(ConnectionId, Result<Taken, Lost>),
    Writable(ConnectionId),
    Offered(u32),
    Closed(ConnectionId),
}

#[derive(Debug, Default)]
struct Socket {
    /// How many more bytes it takes; `None`: all.
    takes: Option<usize>,
    is_refusing: bool,
    /// True exactly when the peer has reset it: sends fail.
    is_reset: bool,
    /// True exactly when the worker knows that it is refusing.
    is_told: bool,
    is_received_from: bool,
    /// True exactly when the worker knows that nothing more comes.
    has_ended: bool,
    sent: Vec<u8>,
    closes: Vec<Closing>,
}

/// An engine that does at once what it is asked, and says so at the next wait.
#[derive(Debug, Default)]
struct ListEngine {
    now: u64,
    /// Refusals and sends before everything else.
    first: VecDeque<Event>,
    events: VecDeque<Event>,
    sockets: BTreeMap<Slot, Socket>,
    offered: usize,
    waits: u64,
    /// Until when the worker would have waited last.
    deadline: Time,
    /// The same when it last found nothing.
    parked_until: Option<Time>,
}

#[derive(Debug)]
struct NoWaker;

impl Waker for NoWaker {
    fn wake(&self) {}
}

impl ListEngine {
    fn send(&mut self, slot: Slot, bytes: Bytes) -> Taken {
        let socket = self.sockets.get_mut(&slot).unwrap();
        assert!(!socket.is_told, "a send before Writable");
        let takes = if socket.is_refusing { 0 } else { socket.takes.unwrap_or(usize::MAX) };
        let taken = takes.min(bytes.len());
        socket.sent.extend_from_slice(&bytes[..taken]);
        socket.takes = socket.takes.map(|takes| takes - taken.min(takes));
        socket.is_refusing = taken < bytes.len();
        Taken { bytes, taken }
    }

    fn id(slot: Slot) -> ConnectionId {
        ConnectionId { slot, generation: 1 }
    }
}

impl Engine for ListEngine {
    fn now(&self) -> Time {
        Time(self.now)
    }

    fn submit(&mut self, operation: Operation<'_>) {
        match operation {
            Operation::Send { connection, bytes } => {
                let outcome = if self.sockets[&connection.slot].is_reset {
                    Err(Failure::Reset)
                } else {
                    Ok(self.send(connection.slot, bytes))
                };
                self.first.push_back(Event::Sent(connection, outcome));
            }
            Operation::Offer { frame, targets } => {
                assert!(targets.len() <= OFFER_TARGETS_MAX);
                for &slot in targets {
                    let refused = if self.sockets[&slot].is_reset {
                        Err(Lost { bytes: frame.clone(), failure: Failure::Reset })
                    } else {
                        Ok(self.send(slot, frame.clone()))
                    };
                    if refused.as_ref().map_or(true, |taken| taken.taken < frame.len()) {
                        self.first.push_back(Event::Refused(Self::id(slot), refused));
                    }
                }
                self.offered += targets.len();
                self.events.push_back(Event::Offered(u32::try_from(targets.len()).unwrap()));
            }
            Operation::Close { connection, how } => {
                self.sockets.get_mut(&connection.slot).unwrap().closes.push(how);
                if how != Closing::Linger {
                    self.events.push_back(Event::Closed(connection));
                }
            }
            Operation::Receive { connection } => {
                let socket = self.sockets.get_mut(&connection.slot).unwrap();
                assert!(!socket.has_ended, "nothing more comes, and it is received from");
                socket.is_received_from = true;
            }
            Operation::StopReceiving { connection } => {
                self.sockets.get_mut(&connection.slot).unwrap().is_received_from = false;
            }
            Operation::Accept { .. } | Operation::StopAccepting { .. } | Operation::Wake { .. } => {
            }
        }
    }

    fn wait(
        &mut self,
        deadline: Time,
        mut on_completion: impl FnMut(Time, Completion<'_>),
    ) -> Result<(), io::Error> {
        self.waits += 1;
        self.deadline = deadline;
        let now = Time(self.now);
        self.sockets.values_mut().for_each(|socket| socket.is_told = socket.is_refusing);
        let events: Vec<_> = self.first.drain(..).chain(self.events.drain(..)).collect();
        self.parked_until = (events.is_empty() && deadline > now).then_some(deadline);
        for mut event in events {
            if let Event::Finished(id) | Event::Failed(id) = event {
                self.sockets.get_mut(&id.slot).unwrap().has_ended = true;
            }
            on_completion(
                now,
                match event {
                    Event::Accepted(connection) => Completion::Accepted {
                        connection,
                        listener: ListenerId(0),
                        peer: SocketAddr::from(([127, 0, 0, 1], 1)),
                    },
                    Event::Bytes(connection, ref mut bytes) => {
                        Completion::Received { connection, outcome: Reception::Bytes(bytes) }
                    }
                    Event::Finished(connection) => {
                        Completion::Received { connection, outcome: Reception::Finished }
                    }
                    Event::Failed(connection) => {
                        let outcome = Reception::Failed(Failure::Reset);
                        Completion::Received { connection, outcome }
                    }
                    Event::Sent(connection, outcome) => Completion::Sent { connection, outcome },
                    Event::Refused(connection, outcome) => {
                        Completion::Refused { connection, outcome }
                    }
                    Event::Writable(connection) => Completion::Writable { connection },
                    Event::Offered(targets) => Completion::Offered { targets },
                    Event::Closed(connection) => Completion::Closed { connection },
                },
            );
        }
        Ok(())
    }

    fn waker(&self) -> Arc<dyn Waker> {
        Arc::new(NoWaker)
    }

    fn counts(&self) -> EngineCounts {
        EngineCounts { enters: self.waits, ..EngineCounts::default() }
    }
}

/// One worker, its engine, and the guest that asks for reports.
pub(crate) struct Rig {
    worker: Worker<Everyone>,
    engine: ListEngine,
    endpoint: Endpoint<Letter>,
    guest: Endpoint<Letter>,
    options: Options,
    /// True exactly when the worker is taken apart after each turn.
    is_moved: bool,
}

impl Rig {
    pub(crate) fn new(change: impl FnOnce(&mut Options)) -> Self {
        let mut options = Options {
            connections_max: 10,
            listeners: 1,
            handshake_timeout: Duration::from_secs(5),
            write_timeout: Duration::from_secs(10),
            close_timeout: Duration::from_secs(5),
            ping_interval: None,
            pong_timeout: Duration::from_secs(10),
            coalesce_delay: Duration::ZERO,
            connection_age_max: None,
            addresses: None,
            proxies: ringway_worker::Proxies::default(),
            publish_rate_max: None,
            slow_consumer: SlowConsumer::Close,
            limits: Limits::default(),
            seed: 7,
        };
        change(&mut options);
        let [endpoint, guest] = mesh::join(2, |_, _| 8).try_into().unwrap();
        let engine = ListEngine { now: 1, ..ListEngine::default() };
        let worker = Worker::new(options.clone(), Everyone::default(), Member(0), Time(1));
        let is_moved = env!("CARGO_CRATE_NAME") == "moved";
        Self { worker, engine, endpoint, guest, options, is_moved }
    }

    /// The worker stays whole: what it does a chunk at a time is done at once when it is moved.
    pub(crate) fn keep_whole(&mut self) {
        self.is_moved = false;
    }

    /// One client that has said "one", and takes nothing of what it is answered.
    pub(crate) fn with_stalled_reader(change: impl FnOnce(&mut Options)) -> (Self, Slot) {
        let mut rig = Self::new(change);
        let client = rig.connect();
        rig.takes(client, Some(0));
        rig.receive(client, &text("one"));
        rig.settle();
        (rig, client)
    }

    /// A client that was answered with 101.
    pub(crate) fn connect(&mut self) -> Slot {
        self.connect_all(1)[0]
    }

    /// So many clients that were answered with 101.
    pub(crate) fn connect_all(&mut self, count: u32) -> Vec<Slot> {
        self.connect_all_with(count, "")
    }

    /// The same with more header lines.
    pub(crate) fn connect_all_with(&mut self, count: u32, headers: &str) -> Vec<Slot> {
        let head = upgrade(headers);
        let slots: Vec<_> = (0..count).map(|_| self.accept()).collect();
        slots.iter().for_each(|slot| self.receive(*slot, head.as_bytes()));
        self.settle();
        for slot in &slots {
            let socket = self.engine.sockets.get_mut(slot).unwrap();
            assert!(socket.sent.starts_with(b"HTTP/1.1 101 "));
            socket.sent.clear();
        }
        slots
    }

    /// A client that has said nothing.
    pub(crate) fn accept(&mut self) -> Slot {
        let slot = Slot::try_from(self.engine.sockets.len()).unwrap();
        self.engine.sockets.insert(slot, Socket::default());
        self.engine.events.push_back(Event::Accepted(ListEngine::id(slot)));
        slot
    }

    /// The end of a connection that lingered.
    pub(crate) fn closed(&mut self, slot: Slot) {
        self.engine.events.push_back(Event::Closed(ListEngine::id(slot)));
    }

    /// From now on the client's socket takes so many bytes; `None`: all.
    pub(crate) fn takes(&mut self, slot: Slot, takes: Option<usize>) {
        let socket = self.engine.sockets.get_mut(&slot).unwrap();
        socket.takes = takes;
        socket.is_told &= takes == Some(0);
        if takes != Some(0) && std::mem::take(&mut socket.is_refusing) {
            self.engine.events.push_back(Event::Writable(ListEngine::id(slot)));
        }
    }

    /// The client has reset its connection: the next send will tell.
    pub(crate) fn reset(&mut self, slot: Slot) {
        self.takes(slot, None);
        self.engine.sockets.get_mut(&slot).unwrap().is_reset = true;
    }

    pub(crate) fn receive(&mut self, slot: Slot, bytes: &[u8]) {
        self.engine.events.push_back(Event::Bytes(ListEngine::id(slot), bytes.to_vec()));
    }

    pub(crate) fn finish(&mut self, slot: Slot) {
        self.engine.events.push_back(Event::Finished(ListEngine::id(slot)));
    }

    /// The client has reset its connection: receiving tells.
    pub(crate) fn fail(&mut self, slot: Slot) {
        self.engine.events.push_back(Event::Failed(ListEngine::id(slot)));
    }

    pub(crate) fn resume(&mut self, slot: Slot) {
        self.guest.post(Member(0), Letter::Resume(ListEngine::id(slot)), 0).unwrap();
    }

    /// The worker goes by other settings from now on.
    pub(crate) fn adopt(&mut self, change: impl FnOnce(&mut Settings)) {
        let mut settings = Settings {
            handshake_timeout: self.options.handshake_timeout,
            close_timeout: self.options.close_timeout,
            addresses: self.options.addresses.clone(),
            trusted: Arc::clone(&self.options.proxies.trusted),
            publish_rate_max: self.options.publish_rate_max,
            limits: self.options.limits.clone(),
        };
        change(&mut settings);
        self.guest.post(Member(0), Letter::Settings(settings), 0).unwrap();
        self.settle();
    }

    pub(crate) fn sight(&self, slot: Slot) -> Option<Sight> {
        self.worker.sight(slot)
    }

    pub(crate) fn publish_to(&mut self, audiences: &[u64], text: &str) {
        let letter = Letter::Publish(audiences.to_vec(), text.to_owned());
        self.guest.post(Member(0), letter, 0).unwrap();
    }

    pub(crate) fn publish_from(&mut self, slot: Slot, audiences: &[u64], text: &str) {
        let from = ListEngine::id(slot);
        let letter = Letter::PublishFrom(from, audiences.to_vec(), text.to_owned());
        self.guest.post(Member(0), letter, 0).unwrap();
    }

    /// True exactly when the worker asked last that the client be received from.
    pub(crate) fn is_received_from(&self, slot: Slot) -> bool {
        self.engine.sockets[&slot].is_received_from
    }

    pub(crate) fn turn(&mut self) {
        self.worker.turn(&mut self.engine, &mut self.endpoint).unwrap();
        if self.is_moved {
            self.move_connections();
        }
    }

    /// Takes the worker apart and puts another together of what came out.
    fn move_connections(&mut self) {
        self.move_through(|rig| {
            rig.worker.forget(|everyone| everyone.members = SlotSet::new());
        });
    }

    /// Moves every connection to a worker that has never seen one, which takes so long.
    pub(crate) fn move_to_another(&mut self, taking: Duration) {
        self.move_through(|rig| {
            rig.stall(taking);
            let now = Time(rig.engine.now);
            rig.worker = Worker::new(rig.options.clone(), Everyone::default(), Member(0), now);
        });
    }

    fn move_through(&mut self, change: impl FnOnce(&mut Self)) {
        let Self { worker, engine, endpoint, .. } = self;
        let nothing_completed = engine.first.is_empty() && engine.events.is_empty();
        let parked_until = engine.parked_until.filter(|_| nothing_completed);
        worker.settle(engine, endpoint).unwrap();
        engine.parked_until = parked_until;
        let records: Vec<_> =
            worker.connections().map(|connection| worker.export(connection).unwrap()).collect();
        change(self);
        records.into_iter().for_each(|record| self.worker.import(&mut self.endpoint, record));
    }

    /// True exactly when the worker did not want to wait in its last turn.
    pub(crate) fn was_hurried(&self) -> bool {
        self.engine.deadline == Time(0)
    }

    /// Turns until the worker would wait. Says how many turns that were.
    pub(crate) fn settle(&mut self) -> u32 {
        for turns in 1..10_000 {
            self.turn();
            if self.engine.parked_until.is_some() {
                return turns;
            }
        }
        panic!("it never waits");
    }

    /// Lets seconds pass until a ping is the last that the client was sent.
    pub(crate) fn pass_until_pinged(&mut self, client: Slot) {
        while !self.sent(client).ends_with(b"\x89\x00") {
            self.pass(Duration::from_secs(1));
        }
    }

    /// Lets time pass, waking the worker when it wants to be.
    pub(crate) fn pass(&mut self, span: Duration) {
        let end = Time(self.engine.now) + span;
        loop {
            self.settle();
            let until = self.engine.parked_until.unwrap();
            if until > end {
                break;
            }
            self.engine.now = until.0;
        }
        self.engine.now = end.0;
        self.settle();
    }

    /// Lets time pass without the worker being run.
    pub(crate) fn stall(&mut self, span: Duration) {
        self.engine.now = (Time(self.engine.now) + span).0;
    }

    /// Everything that was sent to the client behind its 101.
    pub(crate) fn sent(&self, slot: Slot) -> &[u8] {
        &self.engine.sockets[&slot].sent
    }

    pub(crate) fn closes(&self, slot: Slot) -> &[Closing] {
        &self.engine.sockets[&slot].closes
    }

    /// Targets of all offers so far.
    pub(crate) fn offered(&self) -> usize {
        self.engine.offered
    }

    pub(crate) fn handler(&self) -> &Everyone {
        self.worker.handler()
    }

    /// What was counted since the last report, as it stands when the letter is taken.
    pub(crate) fn report(&mut self) -> Report {
        self.guest.post(Member(0), Letter::Report(Box::default()), 0).unwrap();
        self.turn();
        match self.guest.take().map(|delivery| delivery.letter) {
            Some(Letter::Report(report)) => *report,
            other => panic!("{other:?}"),
        }
    }
}
