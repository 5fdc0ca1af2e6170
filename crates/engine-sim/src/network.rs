//! The virtual network: links between clients and listeners, and a clock that moves from one thing
//! that happens to the next. Everything that happens has a time and a number; what is left open is
//! decided by the seed, so the same calls in the same order have the same outcome.

use std::{
    cell::RefCell,
    collections::{BTreeMap, VecDeque},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use mesh::Member;
use worker::{Failure, Time};

use crate::{
    chance::Chance,
    client::Client,
    engine::SimEngine,
    options::{EngineOptions, NetworkOptions},
    pipe::{Pipe, Segment},
};

/// How long a client waits before it knocks again at a listener whose queue is full.
const KNOCK_AGAIN: Duration = Duration::from_millis(200);

/// A link by number. Numbers are not used again.
pub(crate) type LinkId = usize;

/// Whose end of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Client,
    Server,
}

impl Side {
    fn other(self) -> Self {
        match self {
            Self::Client => Self::Server,
            Self::Server => Self::Client,
        }
    }
}

/// One end of a link.
#[derive(Debug, Default)]
struct End {
    /// Why it carries no more bytes.
    broken: Option<Failure>,
    /// True exactly when its program has closed it: what still arrives is answered by a reset.
    closed: bool,
}

/// A connection as the network knows it.
#[derive(Debug)]
struct Link {
    address: SocketAddr,
    /// Which engine, and which of its listeners.
    listener: (usize, usize),
    latency: Duration,
    /// True exactly when the listener's queue has taken it.
    established: bool,
    client: End,
    server: End,
    /// From the client to the server.
    up: Pipe,
    /// From the server to the client.
    down: Pipe,
}

impl Link {
    fn end(&mut self, side: Side) -> &mut End {
        match side {
            Side::Client => &mut self.client,
            Side::Server => &mut self.server,
        }
    }

    fn from(&mut self, side: Side) -> &mut Pipe {
        match side {
            Side::Client => &mut self.up,
            Side::Server => &mut self.down,
        }
    }

    fn to(&mut self, side: Side) -> &mut Pipe {
        self.from(side.other())
    }
}

#[derive(Debug)]
struct Listener {
    open: bool,
    waiting: VecDeque<LinkId>,
}

/// What happens at some time.
#[derive(Clone, Copy, Debug)]
enum Happening {
    /// A client knocks at a listener.
    Knock(LinkId),
    /// A segment arrives that this side has sent.
    Arrive(LinkId, Side),
    /// This side learns that its peer has read.
    Window(LinkId, Side),
    /// Somebody wants to look again.
    Tick,
}

/// Something that was done or told, for the account of a history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deed {
    /// When.
    pub time: Time,
    /// Whose, or which connection's.
    pub who: u64,
    /// What.
    pub what: &'static str,
    /// How much of it.
    pub count: u64,
}

/// How many deeds are remembered.
const DEEDS_MAX: usize = 400;

#[derive(Debug)]
pub(crate) struct State {
    pub(crate) now: Time,
    pub(crate) chance: Chance,
    pub(crate) options: NetworkOptions,
    happenings: BTreeMap<(Time, u64), Happening>,
    happened: u64,
    links: Vec<Link>,
    listeners: Vec<Vec<Listener>>,
    /// By member of the mesh: whether somebody has woken it.
    pub(crate) woken: Vec<Arc<AtomicBool>>,
    deeds: VecDeque<Deed>,
    fingerprint: u64,
}

impl State {
    fn at(&mut self, time: Time, happening: Happening) {
        self.happened += 1;
        self.happenings.insert((time, self.happened), happening);
    }

    pub(crate) fn wake(&self, member: Member) {
        if let Some(woken) = self.woken.get(usize::from(member.0)) {
            woken.store(true, Ordering::Release);
        }
    }

    /// Sees to it that the clock stops at that time.
    pub(crate) fn tick(&mut self, time: Time) {
        self.at(time, Happening::Tick);
    }

    pub(crate) fn note(&mut self, who: u64, what: &'static str, count: usize) {
        let deed = Deed { time: self.now, who, what, count: count as u64 };
        if self.deeds.len() == DEEDS_MAX {
            self.deeds.pop_front();
        }
        self.deeds.push_back(deed);
        for word in [deed.time.0, deed.who, deed.count, what.len() as u64] {
            // FNV-1a by words: it need not resist anybody.
            self.fingerprint = (self.fingerprint ^ word).wrapping_mul(0x0100_0000_01b3);
        }
    }

    fn connect(&mut self, listener: (usize, usize)) -> LinkId {
        let id = self.links.len();
        let span = self.options.latency_min.as_nanos()..=self.options.latency_max.as_nanos();
        let nanoseconds = |span: u128| u64::try_from(span).unwrap_or(u64::MAX);
        let span = nanoseconds(*span.start())..=nanoseconds(*span.end());
        let latency = Duration::from_nanos(self.chance.long(span));
        let pipe = Pipe::new(self.options.send_buffer_bytes, self.options.window_bytes);
        let other = Pipe::new(self.options.send_buffer_bytes, self.options.window_bytes);
        self.links.push(Link {
            address: address(id),
            listener,
            latency,
            established: false,
            client: End::default(),
            server: End::default(),
            up: pipe,
            down: other,
        });
        self.at(self.now + latency, Happening::Knock(id));
        id
    }

    fn knock(&mut self, id: LinkId) {
        let (member, listener) = self.links[id].listener;
        if self.links[id].client.broken.is_some() {
            return;
        }
        let listener = &mut self.listeners[member][listener];
        if !listener.open {
            self.reset(id, Side::Server);
        } else if listener.waiting.len() >= self.options.backlog {
            self.at(self.now + KNOCK_AGAIN, Happening::Knock(id));
        } else {
            listener.waiting.push_back(id);
            self.links[id].established = true;
            self.pump(id, Side::Client);
        }
    }

    /// Sends what this side has written and the window lets through.
    fn pump(&mut self, id: LinkId, side: Side) {
        let bytes_max = self.options.segment_bytes_max;
        let link = &mut self.links[id];
        if !link.established {
            return;
        }
        while self.links[id].from(side).depart(bytes_max) {
            self.segment_left(id, side);
        }
    }

    fn segment_left(&mut self, id: LinkId, side: Side) {
        let link = &mut self.links[id];
        let arrival = (self.now + link.latency).max(link.from(side).last_arrival);
        link.from(side).last_arrival = arrival;
        self.at(arrival, Happening::Arrive(id, side));
    }

    fn arrive(&mut self, id: LinkId, sender: Side) {
        if self.chance.of(self.options.faults.broken_links) {
            self.break_link(id);
        }
        let link = &mut self.links[id];
        let Some(segment) = link.from(sender).arrive() else { return };
        let receiver = sender.other();
        if link.end(receiver).broken.is_some() {
            return;
        }
        match segment {
            Segment::Bytes(_) if link.end(receiver).closed => self.reset(id, receiver),
            Segment::Bytes(bytes) => link.to(receiver).keep(&bytes),
            Segment::Fin => {}
            Segment::Reset => {
                link.end(receiver).broken = Some(Failure::Reset);
                link.to(receiver).forget_arrived();
                link.from(receiver).forget_unsent();
            }
        }
    }

    /// A middlebox or a dead path: both ends learn at once, each in its way.
    fn break_link(&mut self, id: LinkId) {
        let failures = [Failure::Reset, Failure::TimedOut, Failure::Unreachable, Failure::Other(5)];
        let failure = *self.chance.one(&failures);
        self.note(id as u64, "the link breaks", 0);
        let link = &mut self.links[id];
        link.client.broken.get_or_insert(Failure::Reset);
        link.server.broken.get_or_insert(failure);
        for pipe in [&mut link.up, &mut link.down] {
            pipe.forget_arrived();
            pipe.forget_unsent();
        }
    }

    /// What this side's socket takes of the bytes.
    pub(crate) fn write(&mut self, id: LinkId, side: Side, bytes: &[u8]) -> usize {
        let link = &mut self.links[id];
        let end = link.end(side);
        if end.broken.is_some() || end.closed || link.from(side).is_finished_by_writer() {
            return 0;
        }
        let count = link.from(side).room().min(bytes.len());
        link.from(side).write(&bytes[..count]);
        self.pump(id, side);
        count
    }

    /// Takes bytes that have arrived at this side.
    pub(crate) fn read(&mut self, id: LinkId, side: Side, bytes_max: usize) -> Vec<u8> {
        let link = &mut self.links[id];
        let bytes = link.to(side).read(bytes_max);
        if !bytes.is_empty() && link.to(side).is_held_up() {
            let learns = self.now + link.latency;
            self.at(learns, Happening::Window(id, side.other()));
        }
        bytes
    }

    pub(crate) fn arrived_bytes(&mut self, id: LinkId, side: Side) -> usize {
        self.links[id].to(side).arrived_bytes()
    }

    pub(crate) fn is_at_its_end(&mut self, id: LinkId, side: Side) -> bool {
        self.links[id].to(side).is_at_its_end()
    }

    pub(crate) fn broken(&mut self, id: LinkId, side: Side) -> Option<Failure> {
        self.links[id].end(side).broken
    }

    /// Whether a writer that was refused is told to try again.
    pub(crate) fn is_writable(&mut self, id: LinkId, side: Side) -> bool {
        let link = &mut self.links[id];
        link.end(side).broken.is_some() || link.from(side).has_enough_room()
    }

    pub(crate) fn room(&mut self, id: LinkId, side: Side) -> usize {
        self.links[id].from(side).room()
    }

    /// shutdown(2) for writing: FIN behind what was written.
    pub(crate) fn finish(&mut self, id: LinkId, side: Side) {
        if self.links[id].from(side).finish() {
            self.pump(id, side);
        }
    }

    /// close(2): FIN, or a reset where bytes are unread.
    pub(crate) fn close(&mut self, id: LinkId, side: Side) {
        let link = &mut self.links[id];
        if link.to(side).arrived_bytes() > 0 {
            self.reset(id, side);
        } else {
            link.end(side).closed = true;
            self.finish(id, side);
        }
    }

    /// Cuts the link: what is queued is forgotten.
    pub(crate) fn reset(&mut self, id: LinkId, side: Side) {
        let link = &mut self.links[id];
        let end = link.end(side);
        end.closed = true;
        if end.broken.is_some() {
            return;
        }
        end.broken = Some(Failure::Reset);
        link.to(side).forget_arrived();
        link.from(side).depart_reset();
        self.segment_left(id, side);
    }

    pub(crate) fn address(&self, id: LinkId) -> SocketAddr {
        self.links[id].address
    }

    /// The next client in the queue of a listener.
    pub(crate) fn accept(&mut self, member: usize, listener: usize) -> Option<LinkId> {
        self.listeners[member][listener].waiting.pop_front()
    }

    pub(crate) fn has_waiting(&self, member: usize, listener: usize) -> bool {
        !self.listeners[member][listener].waiting.is_empty()
    }

    pub(crate) fn close_listener(&mut self, member: usize, listener: usize) {
        let listener = &mut self.listeners[member][listener];
        listener.open = false;
        for id in std::mem::take(&mut listener.waiting) {
            self.reset(id, Side::Server);
        }
    }

    /// When the next thing happens.
    pub(crate) fn next(&self) -> Time {
        self.happenings.first_key_value().map_or(Time::NEVER, |((time, _), _)| *time)
    }

    /// Moves the clock, and has everything happen that does until then.
    pub(crate) fn advance(&mut self, to: Time) {
        while let Some(entry) = self.happenings.first_entry().filter(|entry| entry.key().0 <= to) {
            let ((time, _), happening) = entry.remove_entry();
            self.now = self.now.max(time);
            match happening {
                Happening::Knock(id) => self.knock(id),
                Happening::Arrive(id, side) => self.arrive(id, side),
                Happening::Window(id, side) => self.pump(id, side),
                Happening::Tick => {}
            }
        }
        self.now = self.now.max(to);
    }
}

/// Every other client comes from an IPv6 address, and none from the address of another.
fn address(id: LinkId) -> SocketAddr {
    let number = u32::try_from(id).unwrap_or(u32::MAX);
    let ip = if number.is_multiple_of(2) {
        IpAddr::V4(Ipv4Addr::from_bits(0x0a00_0000 | number >> 1))
    } else {
        IpAddr::V6(Ipv6Addr::from_bits(0xfd00 << 112 | u128::from(number)))
    };
    SocketAddr::new(ip, 40_000)
}

/// A virtual network. Clones are handles of the same one.
#[derive(Clone, Debug)]
pub struct Network {
    pub(crate) state: Rc<RefCell<State>>,
}

impl Network {
    /// A network without engines and clients.
    #[must_use]
    pub fn new(options: NetworkOptions) -> Self {
        let state = State {
            now: Time(1_000_000_000),
            chance: Chance::new(options.seed),
            options,
            happenings: BTreeMap::new(),
            happened: 0,
            links: Vec::new(),
            listeners: Vec::new(),
            woken: Vec::new(),
            deeds: VecDeque::new(),
            fingerprint: 0xcbf2_9ce4_8422_2325,
        };
        Self { state: Rc::new(RefCell::new(state)) }
    }

    /// A further engine: the member of the mesh whose number is how many there were before.
    #[must_use]
    pub fn engine(&self, options: EngineOptions) -> SimEngine {
        let mut state = self.state.borrow_mut();
        let member = state.listeners.len();
        let listener = || Listener { open: true, waiting: VecDeque::new() };
        state.listeners.push((0..options.listeners).map(|_| listener()).collect());
        state.woken.push(Arc::default());
        drop(state);
        SimEngine::new(self.clone(), member, options)
    }

    /// A further member of the mesh that has no engine: how it learns that it was woken.
    #[must_use]
    pub fn guest(&self) -> Arc<AtomicBool> {
        let mut state = self.state.borrow_mut();
        let woken = Arc::<AtomicBool>::default();
        state.listeners.push(Vec::new());
        state.woken.push(Arc::clone(&woken));
        woken
    }

    /// A client that has begun to connect to a listener of an engine.
    ///
    /// # Panics
    /// There is no such engine or listener.
    #[must_use]
    pub fn connect(&self, member: usize, listener: usize) -> Client {
        let mut state = self.state.borrow_mut();
        assert!(listener < state.listeners[member].len(), "there is no such listener");
        let link = state.connect((member, listener));
        drop(state);
        Client::new(self.clone(), link)
    }

    /// A client of the listeners with this number, which share a port: it is dealt to any of those
    /// that are open, and refused where none is.
    ///
    /// # Panics
    /// No engine has such a listener.
    #[must_use]
    pub fn connect_any(&self, listener: usize) -> Client {
        let mut state = self.state.borrow_mut();
        let all: Vec<usize> = (0..state.listeners.len())
            .filter(|member| state.listeners[*member].len() > listener)
            .collect();
        let open: Vec<usize> =
            all.iter().copied().filter(|member| state.listeners[*member][listener].open).collect();
        let member = *state.chance.one(if open.is_empty() { &all } else { &open });
        drop(state);
        self.connect(member, listener)
    }

    /// Wakes a member of the mesh.
    pub fn wake(&self, member: Member) {
        self.state.borrow().wake(member);
    }

    /// The time now.
    #[must_use]
    pub fn now(&self) -> Time {
        self.state.borrow().now
    }

    /// When the next thing happens by itself.
    #[must_use]
    pub fn next(&self) -> Time {
        self.state.borrow().next()
    }

    /// Moves the clock forward, and has everything happen that does until then.
    pub fn advance(&self, to: Time) {
        self.state.borrow_mut().advance(to);
    }

    /// Adds to the account of the history.
    pub fn note(&self, who: u64, what: &'static str, count: usize) {
        self.state.borrow_mut().note(who, what, count);
    }

    /// The last things that were done and told.
    #[must_use]
    pub fn deeds(&self) -> Vec<Deed> {
        self.state.borrow().deeds.iter().copied().collect()
    }

    /// A number that two histories have in common if they are the same.
    #[must_use]
    pub fn fingerprint(&self) -> u64 {
        self.state.borrow().fingerprint
    }
}
