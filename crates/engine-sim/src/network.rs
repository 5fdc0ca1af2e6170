//! The virtual network: links between clients and listeners, and a clock that moves from one thing
//! that happens to the next. Everything that happens has a time and a number; what is left open is
//! decided by the seed, so the same calls in the same order have the same outcome.

mod losing;

use std::{
    cell::RefCell,
    cmp::Reverse,
    collections::{BinaryHeap, VecDeque},
    net::SocketAddr,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use mesh::Member;
use worker::{Failure, Slot, Time};

use crate::{
    chance::Chance,
    client::Client,
    deeds::{Deed, Deeds},
    engine::SimEngine,
    hosts::{self, Hosts},
    inflated::Payloads,
    link::{End, Link, LinkId, Side},
    options::{EngineOptions, NetworkOptions},
    pipe::{Pipe, Segment},
    reached::{Reached, STALLED_LINK},
};

/// How much longer than the others a delayed segment takes at most, and how long a link that stalls
/// lets nothing through at most.
const DELAY_US_MAX: u64 = 50_000;
const STALL_MS_MAX: u64 = 20_000;

/// How long a client waits before it knocks again at a listener whose queue is full.
const KNOCK_AGAIN: Duration = Duration::from_millis(200);

#[derive(Debug)]
struct Listener {
    open: bool,
    waiting: VecDeque<LinkId>,
}

/// What happens at some time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Happening {
    /// A client knocks at a listener.
    Knock(LinkId),
    /// A segment arrives that this side has sent.
    Arrive(LinkId, Side),
    /// This side learns that its peer has read.
    Window(LinkId, Side),
    /// The server's end has had no acknowledgement for so long that it gives up.
    GiveUp(LinkId),
    /// Somebody wants to look again.
    Tick,
}

#[derive(Debug)]
pub(crate) struct State {
    pub(crate) now: Time,
    pub(crate) chance: Chance,
    pub(crate) options: NetworkOptions,
    happenings: BinaryHeap<Reverse<(Time, u64, Happening)>>,
    happened: u64,
    links: Vec<Link>,
    listeners: Vec<Vec<Listener>>,
    /// By member of the mesh: whether somebody has woken it.
    pub(crate) woken: Vec<Arc<AtomicBool>>,
    pub(crate) reached: Reached,
    /// What addresses have of all engines together.
    pub(crate) hosts: Hosts,
    /// What was sent compressed.
    pub(crate) payloads: Payloads,
    deeds: Deeds,
    /// Links at whose client's end something has happened, each once.
    client_news: Vec<LinkId>,
    /// By member of the mesh: slots where something has happened.
    server_news: Vec<Vec<Slot>>,
}

impl State {
    fn at(&mut self, time: Time, happening: Happening) {
        self.happened += 1;
        self.happenings.push(Reverse((time, self.happened, happening)));
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
        let time = self.now;
        self.deeds.note(Deed { time, who, what, count: count as u64 });
    }

    /// Something has happened at this end, which its owner will want to look at.
    fn touch(&mut self, id: LinkId, side: Side) {
        let link = &mut self.links[id];
        match side {
            Side::Client if !std::mem::replace(&mut link.has_client_news, true) => {
                self.client_news.push(id);
            }
            Side::Client => {}
            Side::Server => {
                if let Some(slot) = link.slot {
                    self.server_news[link.listener.0].push(slot);
                }
            }
        }
    }

    /// The engine has given the link a place, or taken it away.
    pub(crate) fn place(&mut self, id: LinkId, slot: Option<Slot>) {
        self.links[id].slot = slot;
        self.touch(id, Side::Server);
    }

    /// The slots of a member where something has happened since the last call.
    pub(crate) fn take_server_news(&mut self, member: usize) -> std::vec::Drain<'_, Slot> {
        self.server_news[member].drain(..)
    }

    fn connect(&mut self, listener: (usize, usize)) -> LinkId {
        let id = self.links.len();
        let span = self.options.latency_min.as_nanos()..=self.options.latency_max.as_nanos();
        let nanoseconds = |span: u128| u64::try_from(span).unwrap_or(u64::MAX);
        let span = nanoseconds(*span.start())..=nanoseconds(*span.end());
        let latency = Duration::from_nanos(self.chance.long(span));
        let (send_buffer_bytes, window_bytes) =
            (self.options.send_buffer_bytes, self.options.window_bytes);
        let pipe = || Pipe::new(send_buffer_bytes, window_bytes);
        let address = hosts::address(id, self.options.hosts);
        self.links.push(Link::new(address, listener, latency, pipe));
        self.at(self.now + latency, Happening::Knock(id));
        id
    }

    fn knock(&mut self, id: LinkId) {
        let (member, listener) = self.links[id].listener;
        if self.links[id].is_lost || self.links[id].end(Side::Client).broken.is_some() {
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
        let mut arrival = self.now + link.latency;
        if self.chance.of(self.options.faults.delayed_segments) {
            arrival = arrival + Duration::from_micros(self.chance.long(1..=DELAY_US_MAX));
        }
        if self.chance.of(self.options.faults.stalled_links) {
            self.reached.count(STALLED_LINK);
            arrival = arrival + Duration::from_millis(self.chance.long(1..=STALL_MS_MAX));
        }
        let link = &mut self.links[id];
        let arrival = arrival.max(link.from(side).last_arrival);
        link.from(side).last_arrival = arrival;
        self.at(arrival, Happening::Arrive(id, side));
    }

    fn arrive(&mut self, id: LinkId, sender: Side) {
        if self.links[id].is_lost {
            return self.swallow(id, sender);
        }
        if self.chance.of(self.options.faults.broken_links) {
            self.break_link(id);
        }
        let receiver = sender.other();
        self.touch(id, receiver);
        let link = &mut self.links[id];
        let End { broken, closed } = *link.end(receiver);
        let is_broken = broken.is_some();
        let Some(segment) = link.from(sender).arrive(!is_broken && !closed) else { return };
        if is_broken {
            return;
        }
        match segment {
            Segment::Bytes(_) if closed => self.reset(id, receiver),
            Segment::Bytes(_) | Segment::Fin => {}
            Segment::Reset => {
                link.end(receiver).broken = Some(Failure::Reset);
                link.to(receiver).forget_arrived();
                link.from(receiver).forget_unsent();
            }
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

    /// Takes bytes that have arrived at this side, puts them behind those, and says how many.
    pub(crate) fn read(
        &mut self,
        id: LinkId,
        side: Side,
        bytes_max: usize,
        received: &mut Vec<u8>,
    ) -> usize {
        let link = &mut self.links[id];
        let count = link.to(side).read(bytes_max, received);
        if count > 0 && link.to(side).is_held_up() {
            let learns = self.now + link.latency;
            self.at(learns, Happening::Window(id, side.other()));
        }
        count
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

    /// The client writes a compressed message between these two places of all its bytes.
    pub(crate) fn note_compressed(&mut self, id: LinkId, place: (u64, u64)) {
        self.links[id].compressed.push(place);
    }

    /// True exactly when so many of the client's bytes end within a compressed message.
    pub(crate) fn is_within_compressed(&self, id: LinkId, bytes: u64) -> bool {
        let mut places = self.links[id].compressed.iter();
        places.any(|(begin, end)| (*begin + 1..*end).contains(&bytes))
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
        self.happenings.peek().map_or(Time::NEVER, |Reverse((time, ..))| *time)
    }

    /// Moves the clock, and has everything happen that does until then.
    pub(crate) fn advance(&mut self, to: Time) {
        while self.next() <= to {
            let Some(Reverse((time, _, happening))) = self.happenings.pop() else { break };
            self.now = self.now.max(time);
            match happening {
                Happening::Knock(id) => self.knock(id),
                Happening::Arrive(id, side) => self.arrive(id, side),
                Happening::Window(id, _) if self.links[id].is_lost => {}
                Happening::GiveUp(id) => self.give_up(id),
                Happening::Window(id, side) => {
                    self.pump(id, side);
                    self.touch(id, side);
                }
                Happening::Tick => {}
            }
        }
        self.now = self.now.max(to);
    }
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
            deeds: Deeds::new(options.deeds_max),
            options,
            happenings: BinaryHeap::new(),
            happened: 0,
            links: Vec::new(),
            listeners: Vec::new(),
            woken: Vec::new(),
            reached: Reached::default(),
            hosts: Hosts::default(),
            payloads: Payloads::default(),
            client_news: Vec::new(),
            server_news: Vec::new(),
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
        state.server_news.push(Vec::new());
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
        state.server_news.push(Vec::new());
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

    /// The links at whose client's end something has happened since the last call, into `news`.
    pub(crate) fn take_client_news(&self, news: &mut Vec<LinkId>) {
        let state = &mut *self.state.borrow_mut();
        for id in state.client_news.drain(..) {
            state.links[id].has_client_news = false;
            news.push(id);
        }
    }

    /// From now on links neither break nor stall.
    pub(crate) fn come_to_rest(&self) {
        let faults = &mut self.state.borrow_mut().options.faults;
        faults.broken_links = 0.0;
        faults.stalled_links = 0.0;
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
        self.state.borrow().deeds.last()
    }

    /// What has been reached here.
    pub(crate) fn reached(&self) -> Reached {
        self.state.borrow().reached.clone()
    }

    /// How many links there have been.
    pub(crate) fn links(&self) -> usize {
        self.state.borrow().links.len()
    }

    /// Counts that something was reached.
    pub(crate) fn reach(&self, row: &str) {
        self.state.borrow_mut().reached.count(row);
    }

    /// A number that two histories have in common if they are the same.
    #[must_use]
    pub fn fingerprint(&self) -> u64 {
        self.state.borrow().deeds.fingerprint()
    }
}
