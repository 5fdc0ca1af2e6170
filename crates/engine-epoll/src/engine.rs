//! The turn: what the worker submits is done at once as far as the socket goes along; `wait` tells
//! what became of it, asks epoll once what has happened since, and takes what there is: bytes,
//! connections, room to write. What is left for the next turn keeps that one from waiting.

use std::{
    collections::VecDeque, fmt, io, net::TcpListener, os::fd::OwnedFd, sync::Arc, time::Duration,
};

use mesh::Member;
use rustix::{
    buffer::spare_capacity,
    event::{
        Timespec,
        epoll::{self, CreateFlags, Event, EventFlags},
    },
    io::Errno,
};
use sockets::{Decided, EventWaker, Resting};
use worker::{Completion, Engine, EngineCounts, Operation, Slot, Time, Waker};

use crate::{
    accept::Acceptor,
    slots::{Slots, Tag},
};

/// What epoll is asked for at once: a turn has at most so many things to do for the others before a
/// connection has its turn again.
const EVENTS_MAX: usize = 256;

/// The longest wait, well within what epoll_wait(2) takes: nobody has a later deadline in earnest.
const WAIT_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// Sizes and bounds of one engine; all are resolved for one worker.
#[derive(Clone, Debug)]
pub struct EpollOptions {
    /// Places for connections, the surplus included.
    pub connections_max: u32,
    /// Bytes of the buffer that all connections are received into: what one of them can bring in a
    /// turn; at least 64.
    pub receive_bytes: u32,
    /// Connections accepted from one listener in a turn.
    pub accepts_max: u32,
    /// How long a listener with newcomers accepts on and lets the kernel drop SYNs before it is
    /// closed; 0 closes it at once, as is right where the kernel moves who waits to another process.
    pub settle: Duration,
    /// Bytes read and thrown away after a FIN, waiting for the peer's.
    pub linger_bytes_max: u32,
}

/// What epoll has said last.
struct Events(Vec<Event>);

impl fmt::Debug for Events {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Events({})", self.0.len())
    }
}

/// The boundary on one epoll instance.
#[derive(Debug)]
pub struct EpollEngine {
    pub(crate) epoll: OwnedFd,
    pub(crate) slots: Slots,
    pub(crate) acceptor: Acceptor,
    /// Where connections are received into, one after the other.
    pub(crate) buffer: Vec<u8>,
    /// Slots that have something and are to be received from, each once.
    pub(crate) ready: VecDeque<Slot>,
    /// Slots for whose bytes the kernel had no memory.
    pub(crate) resting: Resting,
    /// What became of sends, in order, not yet told.
    pub(crate) decided: Vec<Decided>,
    /// Targets of offers that the worker has not been told of.
    pub(crate) offered: u32,
    /// Slots whose end the worker has not been told.
    pub(crate) ended: Vec<Slot>,
    pub(crate) linger_bytes_max: u32,
    pub(crate) counts: EngineCounts,
    connections_max: u32,
    events: Events,
    waker: EventWaker,
    /// True exactly when somebody has called and the worker has not been told.
    woken: bool,
    /// By member: how it is woken.
    members: Vec<Option<EventWaker>>,
    /// What makes the engine useless; `wait` says so.
    failure: Option<io::Error>,
}

impl EpollEngine {
    /// Makes an epoll instance that watches the listeners, which are the engine's from now on.
    ///
    /// # Errors
    /// The process has no descriptor left, or what was given is no listener.
    pub fn new(options: &EpollOptions, listeners: Vec<TcpListener>) -> io::Result<Self> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        let waker = EventWaker::new()?;
        let mut place = options.connections_max;
        let mut watch = |descriptor: &OwnedFd| {
            let tag = Tag { place, generation: 0 };
            place += 1;
            epoll::add(&epoll, descriptor, tag.pack(), EventFlags::IN | EventFlags::ET)
        };
        watch(waker.event())?;
        let mut watched = Vec::with_capacity(listeners.len());
        for listener in listeners {
            // An accept that finds nobody must not wait.
            listener.set_nonblocking(true)?;
            let listener = OwnedFd::from(listener);
            watch(&listener)?;
            watched.push(listener);
        }
        Ok(Self {
            epoll,
            slots: Slots::new(options.connections_max),
            acceptor: Acceptor::new(watched, options.accepts_max.max(1), options.settle),
            buffer: vec![0; options.receive_bytes.max(64) as usize],
            ready: VecDeque::new(),
            resting: Resting::default(),
            decided: Vec::new(),
            offered: 0,
            ended: Vec::new(),
            linger_bytes_max: options.linger_bytes_max,
            counts: EngineCounts::default(),
            connections_max: options.connections_max,
            events: Events(Vec::with_capacity(EVENTS_MAX)),
            waker,
            woken: false,
            members: Vec::new(),
            failure: None,
        })
    }

    /// How another member of the mesh wakes this one.
    #[must_use]
    pub fn wake_target(&self) -> EventWaker {
        self.waker.clone()
    }

    /// Says how a member of the mesh is woken. Before the first `Wake` of it.
    pub fn connect(&mut self, member: Member, target: EventWaker) {
        let index = usize::from(member.0);
        if self.members.len() <= index {
            self.members.resize(index + 1, None);
        }
        self.members[index] = Some(target);
    }

    /// Memory that this engine has reserved whatever its load: table, buffer, events.
    #[must_use]
    pub fn fixed_bytes(&self) -> usize {
        self.slots.bytes() + self.buffer.len() + self.events.0.capacity() * size_of::<Event>()
    }

    /// Wakes a member at once. One that is not connected is not woken.
    fn wake(&mut self, member: Member) {
        if let Some(Some(target)) = self.members.get(usize::from(member.0)) {
            self.counts.enters += 1;
            target.wake();
        }
    }

    /// The engine is useless from now on; the first reason is the one that `wait` tells.
    pub(crate) fn fail(&mut self, error: io::Error) {
        self.failure.get_or_insert(error);
    }

    /// True exactly when there is something to tell or to do without any event.
    fn has_work(&self, now: Time) -> bool {
        self.offered > 0
            || !self.decided.is_empty()
            || !self.ended.is_empty()
            || !self.ready.is_empty()
            || self.acceptor.has_work(now, self.slots.free_count())
    }

    /// Asks epoll what has happened, once.
    fn poll(&mut self, span: Duration) {
        self.counts.enters += 1;
        self.events.0.clear();
        let span = Timespec::try_from(span.min(WAIT_MAX)).unwrap_or_default();
        match epoll::wait(&self.epoll, spare_capacity(&mut self.events.0), Some(&span)) {
            // A signal: the worker has its say, and waits again.
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => self.fail(io::Error::other(format!("epoll_wait failed: {error}"))),
        }
    }

    /// Takes note of what epoll has said, and tells who can be written to again.
    fn handle_events(&mut self, now: Time, on_completion: &mut impl FnMut(Time, Completion<'_>)) {
        for index in 0..self.events.0.len() {
            let Event { flags, data } = self.events.0[index];
            let tag = Tag::unpack(data);
            match tag.place.checked_sub(self.connections_max) {
                None => self.handle_event(now, tag, flags, on_completion),
                Some(0) => self.woken = true,
                Some(place) => self.acceptor.on_event(place as usize - 1),
            }
        }
    }

    /// The first reason for which the engine is useless, and a shorter one from then on.
    fn check(&mut self) -> io::Result<()> {
        let Some(error) = self.failure.take() else { return Ok(()) };
        self.failure = Some(io::Error::other("the engine has failed before"));
        Err(error)
    }
}

impl Engine for EpollEngine {
    fn now(&self) -> Time {
        sockets::now()
    }

    fn submit(&mut self, operation: Operation<'_>) {
        match operation {
            Operation::Accept { listener } => self.acceptor.accept(listener),
            Operation::StopAccepting { listener } => self.stop_accepting(listener),
            Operation::Receive { connection } => self.receive(connection),
            Operation::StopReceiving { connection } => self.stop_receiving(connection),
            Operation::Send { connection, bytes } => self.send(connection, bytes),
            Operation::Offer { frame, targets } => self.offer(&frame, targets),
            Operation::Close { connection, how } => self.close(connection, how),
            Operation::Wake { member } => self.wake(member),
        }
    }

    fn wait(
        &mut self,
        deadline: Time,
        mut on_completion: impl FnMut(Time, Completion<'_>),
    ) -> io::Result<()> {
        let now = self.now();
        self.acceptor.look(now);
        let span = if self.has_work(now) {
            Duration::ZERO
        } else {
            deadline.min(self.acceptor.due(now)).min(self.resting.due()).since(now)
        };
        self.poll(span);
        self.check()?;
        let now = self.now();
        self.deliver_decided(now, &mut on_completion);
        self.handle_events(now, &mut on_completion);
        self.receive_ready(now, &mut on_completion);
        self.deliver_ended(now, &mut on_completion);
        self.accept_waiting(now, &mut on_completion);
        if std::mem::take(&mut self.woken) {
            on_completion(now, Completion::Woken);
        }
        self.check()
    }

    fn waker(&self) -> Arc<dyn Waker> {
        Arc::new(self.waker.clone())
    }

    fn counts(&self) -> EngineCounts {
        self.counts
    }
}
