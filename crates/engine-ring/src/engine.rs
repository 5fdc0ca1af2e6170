//! The turn: operations become entries of the submission queue, `wait` hands them to the kernel and
//! tells the worker what has completed. Completions that the engine deals with by itself (a poll
//! that leads to a receive, a cancellation that leads to a close) lead to more entries and another
//! enter within the same turn.

use std::{
    collections::VecDeque,
    io,
    net::TcpListener,
    os::fd::{AsRawFd, OwnedFd},
    sync::Arc,
    thread,
    time::Duration,
};

use io_uring::cqueue;
use sockets::{Decided, EventWaker};
use worker::{Completion, Engine, EngineCounts, Operation, Time, Waker};

use crate::{
    accept::Acceptor,
    arena::Arena,
    buffers::ReceiveBuffers,
    close::Shutdowns,
    descriptors::{Descriptors, Places},
    queue::{Entry, Queue, Stay, accepted},
    receive::Receptions,
    self_test::{self, Pair},
    sends::Sends,
    setup::{self, StartError},
    slots::Slots,
    tag::{Kind, Tag},
    wake::{WakeTarget, Wakes},
    zero_copy::{ZeroCopy, note_on_arena},
};

/// Enters of one turn that do not wait: each runs about twenty deferred completions (kernel 6.13).
const ENTERS_MAX: u32 = 16;

/// Between two tries where the kernel had no memory for something.
pub(crate) const BACK_OFF: Duration = Duration::from_millis(1);

/// Tries before the engine gives up: 5 seconds.
const BACK_OFFS_MAX: u32 = 5000;

/// Sizes and bounds of one ring; all are resolved for one worker.
#[derive(Clone, Debug)]
pub struct RingOptions {
    /// How the ring's files are named; [`Descriptors::probe`] says what fits this kernel.
    pub descriptors: Descriptors,
    /// Places for connections, the surplus included.
    pub connections_max: u32,
    /// Entries of the submission queue, at least 8.
    pub submission_entries: u32,
    /// Entries of the completion queue, at least 16; never fewer than those to submit.
    pub completion_entries: u32,
    /// Receive buffers, at least 4 and at most 32,768 (the kernel's bound).
    pub receive_buffers: u32,
    /// Bytes of one of them.
    pub receive_buffer_bytes: u32,
    /// One-shot accepts armed on a listener.
    pub accepts_armed_max: u32,
    /// How long a listener with newcomers accepts on and lets the kernel drop SYNs before it is
    /// closed; 0 closes it at once, as is right where the kernel moves who waits to another process.
    pub settle: Duration,
    /// Bytes read and thrown away after a FIN, waiting for the peer's.
    pub linger_bytes_max: u32,
    /// Shutdowns in flight at once.
    pub shutdowns_max: u32,
    /// One connection in so many may receive by multishot.
    pub multishot_share: u32,
    /// Receives within a second that promote a connection to multishot, at most 255; 0 never does.
    pub multishot_messages_min: u32,
    /// Whether large frames are sent without a copy; the start says whether they are. On direct
    /// descriptors a killed process then leaves its sockets open (`zero_copy.rs`).
    pub zero_copy: Option<ZeroCopy>,
}

/// How a ring is started; tests start it otherwise.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Start {
    /// True exactly when whole sends may skip their completions if the self-test allows it.
    pub(crate) inline: bool,
    /// True exactly when large frames may leave from the arena if the self-test allows it.
    pub(crate) takes_arena: bool,
    /// Operations allowed beside the engine's own.
    pub(crate) extra: &'static [u8],
    /// True exactly when a connection for which the kernel copies is sent to as without an arena.
    pub(crate) avoids_copies: bool,
}

impl Start {
    /// As outside of tests.
    pub(crate) const USUAL: Self =
        Self { inline: true, takes_arena: true, extra: &[], avoids_copies: true };
}

/// The boundary on one ring. It is used on the thread that created it, and on no other:
///
/// ```compile_fail
/// fn send<T: Send>() {}
/// send::<ringway_engine_ring::RingEngine>();
/// ```
#[derive(Debug)]
pub struct RingEngine {
    // First, so that it is gone before the memory that the kernel reads and writes.
    pub(crate) queue: Queue,
    pub(crate) buffers: ReceiveBuffers,
    pub(crate) sends: Sends,
    pub(crate) arena: Option<Arena>,
    /// Of the frames that leave from there; more than any has, where there is none.
    pub(crate) zero_copy_bytes_min: usize,
    /// See [`Start`].
    pub(crate) avoids_copies: bool,
    pub(crate) acceptor: Acceptor,
    pub(crate) slots: Slots,
    pub(crate) places: Places,
    pub(crate) receptions: Receptions,
    pub(crate) shutdowns: Shutdowns,
    pub(crate) linger_bytes_max: u32,
    pub(crate) wakes: Wakes,
    /// The number of the batch that is being queued: goes up when an enter has consumed all of it.
    pub(crate) batch: u32,
    /// Targets of offers in the batch.
    pub(crate) offered: u32,
    /// Targets of earlier batches that the worker has not been told of.
    pub(crate) offered_decided: u32,
    /// What became of sends, in order, not yet told.
    pub(crate) decided: VecDeque<Decided>,
    /// Other completions, in order, not yet dealt with.
    completed: Vec<cqueue::Entry>,
    /// True exactly when somebody has called and the worker has not been told.
    pub(crate) woken: bool,
    pub(crate) counts: EngineCounts,
    pub(crate) waker: EventWaker,
    /// The ring once more, for those that wake it.
    ring: Arc<OwnedFd>,
    notes: Vec<String>,
    fixed_bytes: usize,
    /// What makes the engine useless; `wait` says so.
    failure: Option<io::Error>,
}

impl RingEngine {
    /// Creates a ring on the thread that is to use it, proves on a loopback pair what its sends
    /// rest on, and takes the listeners over: they live in its table from now on.
    ///
    /// # Errors
    /// One sentence that names what is in the way and the cure.
    pub fn new(options: &RingOptions, listeners: Vec<TcpListener>) -> Result<Self, StartError> {
        Self::start(options, listeners, Start::USUAL, || ())
    }

    /// As [`new`](Self::new), of several rings that share what may be locked: where there is to be an
    /// arena of large frames, `before_arena` is called between the ring's memory and the arena's, so
    /// that it can wait for the others. A ring that cannot be had does not start, one without an arena
    /// does. Else it is dropped.
    ///
    /// # Errors
    /// As those of `new`.
    pub fn new_beside(
        options: &RingOptions,
        listeners: Vec<TcpListener>,
        before_arena: impl FnOnce(),
    ) -> Result<Self, StartError> {
        Self::start(options, listeners, Start::USUAL, before_arena)
    }

    pub(crate) fn start(
        options: &RingOptions,
        listeners: Vec<TcpListener>,
        start: Start,
        before_arena: impl FnOnce(),
    ) -> Result<Self, StartError> {
        let failed = |step| move |error: io::Error| StartError::Failed { step, error };
        let waker = EventWaker::new().map_err(failed("making an eventfd"))?;
        let listeners: Vec<OwnedFd> = listeners.into_iter().map(OwnedFd::from).collect();
        let places = Places {
            descriptors: options.descriptors,
            connections: options.connections_max,
            listeners: u32::try_from(listeners.len()).unwrap_or(u32::MAX),
        };
        let pair = Pair::new();
        let mut files = setup::raw(&listeners);
        files.push(waker.event().as_raw_fd());
        let sender = pair.as_ref().ok().map(|pair| pair.sender.as_raw_fd());
        let mut notes = vec![note_on_descriptors(options.descriptors).to_owned()];
        // In this order, so that the queue is gone first where the start fails.
        let (mut arena, buffers, mut queue) =
            setup::open(options, places, &files, sender, start.extra, before_arena, &mut notes)?;
        let proofs = self_test::run(&mut queue, arena.as_mut(), pair, places, &mut notes)?;
        let inline = proofs.inline && start.inline;
        let zero_copy = options.zero_copy.filter(|_| proofs.zero_copy && start.takes_arena);
        if zero_copy.is_none() {
            arena = arena.filter(|arena| !arena.give_back(queue.submitter()));
        }
        if options.zero_copy.is_some() {
            let arena = arena.as_ref().filter(|_| zero_copy.is_some());
            notes.push(note_on_arena(arena).to_owned());
        }
        notes.push(note_on_sends(inline).to_owned());
        let ring = queue.duplicate().map_err(failed("duplicating the ring's descriptor"))?;
        let slots = Slots::new(options.connections_max);
        let armed_max = options.accepts_armed_max.max(1);
        let acceptor = Acceptor::new(listeners, places, armed_max, options.settle);
        let fixed_bytes =
            queue.bytes() + buffers.bytes() + slots.bytes() + acceptor.bytes() + places.bytes();
        let fixed_bytes = fixed_bytes + arena.as_ref().map_or(0, Arena::bytes);
        let mut engine = Self {
            queue,
            buffers,
            sends: Sends::new(inline),
            arena,
            zero_copy_bytes_min: zero_copy.map_or(usize::MAX, ZeroCopy::least),
            avoids_copies: start.avoids_copies,
            acceptor,
            slots,
            places,
            receptions: Receptions::new(
                options.connections_max,
                options.multishot_share,
                options.multishot_messages_min,
            ),
            shutdowns: Shutdowns::new(options.shutdowns_max),
            linger_bytes_max: options.linger_bytes_max,
            wakes: Wakes::default(),
            batch: 1,
            offered: 0,
            offered_decided: 0,
            decided: VecDeque::new(),
            completed: Vec::new(),
            woken: false,
            counts: EngineCounts::default(),
            waker,
            ring: Arc::new(ring),
            notes,
            fixed_bytes,
            failure: None,
        };
        engine.poll_wakes();
        Ok(engine)
    }

    /// How another ring wakes this one.
    #[must_use]
    pub fn wake_target(&self) -> WakeTarget {
        WakeTarget::ring(&self.ring)
    }

    /// Memory that this engine has reserved whatever its load: queues, receive buffers, tables.
    #[must_use]
    pub fn fixed_bytes(&self) -> usize {
        self.fixed_bytes
    }

    /// What the operator should know of how the ring was started, a sentence each.
    #[must_use]
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Queues an entry, after an enter if there is no room.
    #[inline]
    pub(crate) fn push(&mut self, entry: &Entry) {
        if !self.queue.push(entry) {
            self.counts.submissions_full += 1;
            self.flush();
            // It fits now, unless the engine has failed: then nothing matters any more.
            self.queue.push(entry);
        }
    }

    /// Sees to it that the next `push` needs no enter.
    #[inline]
    pub(crate) fn make_room(&mut self) {
        if self.queue.is_full() {
            self.counts.submissions_full += 1;
            self.flush();
        }
    }

    /// Hands the batch to the kernel in the middle of a turn. Nothing is told before `wait`.
    pub(crate) fn flush(&mut self) {
        self.enter(Stay::Submit);
    }

    /// The engine is useless from now on; the first reason is the one that `wait` tells.
    pub(crate) fn fail(&mut self, error: io::Error) {
        self.failure.get_or_insert(error);
    }

    /// Enters until the kernel has consumed the whole batch and kept back no completion.
    fn enter(&mut self, stay: Stay) {
        let mut stay = stay;
        let mut back_offs = 0;
        while self.failure.is_none() {
            self.counts.enters += 1;
            let outcome = self.queue.enter(stay);
            self.drain();
            match outcome.map_err(|error| (error.raw_os_error(), error)) {
                // A signal or the end of the time: whatever there is has been taken.
                Ok(()) | Err((Some(libc::EINTR | libc::ETIME), _)) => {}
                Err((Some(libc::EAGAIN | libc::ENOMEM), _)) if back_offs < BACK_OFFS_MAX => {
                    back_offs += 1;
                    self.counts.enters_retried += 1;
                    thread::sleep(BACK_OFF);
                }
                // Too many completions are kept back: they are reaped below.
                Err((Some(libc::EBUSY), _)) => {}
                // EBADR: completions were lost.
                Err((_, error)) => {
                    self.fail(io::Error::other(format!("io_uring_enter failed: {error}")));
                }
            }
            // What is still to be done here is done without waiting.
            stay = Stay::Reap;
            if self.queue.has_overflowed() {
                self.counts.completions_overflowed += 1;
            } else if self.queue.is_empty() {
                break;
            }
        }
        if self.failure.is_none() {
            self.settle();
        }
    }

    /// The kernel has consumed every entry of the batch, so its sends are decided.
    fn settle(&mut self) {
        self.sends.settle();
        if let Some(arena) = &mut self.arena {
            arena.settle();
        }
        self.wakes.settle();
        self.batch = self.batch.wrapping_add(1);
        self.offered_decided += std::mem::take(&mut self.offered);
    }

    /// Takes what has completed out of the queue: the sends apart, since they are told first.
    fn drain(&mut self) {
        let mut completed = std::mem::take(&mut self.completed);
        let first = completed.len();
        self.queue.drain(|completion| completed.push(completion));
        let mut kept = first;
        for index in first..completed.len() {
            let completion = &completed[index];
            match Tag::unpack(completion.user_data()) {
                Some(tag) if matches!(tag.kind, Kind::Offer | Kind::Send) => {
                    self.on_decided(tag, completion.result());
                }
                Some(tag) if tag.kind == Kind::ZeroCopy => {
                    let completion = completion.clone();
                    self.on_zero_copy(tag, &completion);
                }
                _ => {
                    completed.swap(kept, index);
                    kept += 1;
                }
            }
        }
        completed.truncate(kept);
        self.completed = completed;
    }

    /// True exactly when there is something to tell or to deal with.
    fn has_completions(&self) -> bool {
        self.woken
            || self.offered > 0
            || self.offered_decided > 0
            || !self.decided.is_empty()
            || !self.completed.is_empty()
    }

    /// Tells the worker what has completed, sends first, and deals with the rest. Says whether
    /// anything was told.
    fn deliver(&mut self, on_completion: &mut impl FnMut(Time, Completion<'_>)) -> bool {
        if !self.has_completions() {
            return false;
        }
        let now = self.now();
        let mut told = false;
        let on_completion = &mut |time: Time, completion: Completion<'_>| {
            told = true;
            on_completion(time, completion);
        };
        self.deliver_decided(now, on_completion);
        let mut completed = std::mem::take(&mut self.completed);
        for completion in completed.drain(..) {
            self.handle(now, completion, on_completion);
        }
        // An enter in between has brought new ones: the room of both is kept in turn.
        if self.completed.is_empty() {
            self.completed = completed;
        }
        self.deliver_woken(now, on_completion);
        self.buffers.publish();
        told
    }

    fn handle(
        &mut self,
        now: Time,
        completion: cqueue::Entry,
        on_completion: &mut impl FnMut(Time, Completion<'_>),
    ) {
        let result = completion.result();
        let Some(tag) = Tag::unpack(completion.user_data()) else {
            self.counts.completions_stale += 1;
            return;
        };
        match tag.kind {
            Kind::Accept => {
                let outcome = accepted(completion, self.places.descriptors);
                self.on_accept(now, tag, outcome, on_completion);
            }
            Kind::ListenerClose => self.on_listener_closed(now, tag, on_completion),
            Kind::WakePoll => self.on_wake_poll(cqueue::more(completion.flags())),
            Kind::Woken => self.woken = true,
            Kind::Wake => self.on_wake_failed(now, tag, result),
            Kind::Poll => self.on_poll(tag, result),
            Kind::Receive | Kind::Multishot => {
                self.on_received(now, tag, &completion, on_completion);
            }
            Kind::WritePoll => self.on_write_poll(now, tag, on_completion),
            Kind::Shutdown => self.on_shutdown(tag, result),
            Kind::Abort => self.on_abort(tag, result),
            Kind::Close => self.on_closed(now, tag, on_completion),
            // `drain` has taken the sends out.
            Kind::Cancel | Kind::Offer | Kind::Send | Kind::ZeroCopy => {}
        }
    }

    /// How long to wait: until the deadline, or until the engine has something to do by itself.
    fn span_to_wait(&self, now: Time, deadline: Time) -> Duration {
        let receiving = self.receptions.due().min(self.receptions.resting.due());
        let own = receiving.min(self.acceptor.due(now)).min(self.wakes.due());
        deadline.min(own).since(now)
    }
}

impl Engine for RingEngine {
    fn now(&self) -> Time {
        sockets::now()
    }

    fn submit(&mut self, operation: Operation<'_>) {
        match operation {
            Operation::Accept { listener } => self.accept(listener),
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
    ) -> Result<(), io::Error> {
        let mut told = false;
        let mut enters = 0;
        while enters < ENTERS_MAX {
            let now = self.now();
            // Between the bytes of a connection and its next poll the worker has its say, so a
            // turn that has told something arms no more.
            if !told {
                self.arm_receives(now);
            }
            self.arm_accepts(now);
            self.shut_down();
            self.demote_quiet(now);
            self.wake_again(now);
            let span = self.span_to_wait(now, deadline);
            let queued = !self.queue.is_empty() || self.offered > 0;
            if !told && !self.has_completions() && !span.is_zero() {
                self.enter(Stay::Wait(span));
            } else if queued || self.queue.has_deferred_work() || self.queue.has_overflowed() {
                self.enter(Stay::Reap);
                enters += 1;
            } else if !self.has_completions() {
                break;
            }
            if let Some(error) = self.failure.take() {
                self.failure = Some(io::Error::other("the ring has failed before"));
                return Err(error);
            }
            told |= self.deliver(&mut on_completion);
        }
        Ok(())
    }

    fn waker(&self) -> Arc<dyn Waker> {
        Arc::new(self.waker.clone())
    }

    fn counts(&self) -> EngineCounts {
        self.counts
    }
}

impl Drop for RingEngine {
    /// Closes who was accepted and not told to anybody. A table ends with its ring, and sockets that
    /// are known to their slots end with those.
    fn drop(&mut self) {
        if self.places.descriptors == Descriptors::Direct {
            return;
        }
        self.queue.cancel_all();
        for _ in 0..ENTERS_MAX {
            // Whatever it says, what has completed is taken.
            let _ = self.queue.enter(Stay::Reap);
            self.drain();
            if !self.queue.has_deferred_work() && !self.queue.has_overflowed() {
                break;
            }
        }
        for completion in self.completed.drain(..) {
            drop(accepted(completion, Descriptors::Ordinary));
        }
    }
}

fn note_on_descriptors(descriptors: Descriptors) -> &'static str {
    match descriptors {
        Descriptors::Direct => "sockets are direct descriptors, in a table of the ring's own",
        Descriptors::Ordinary => "sockets are ordinary descriptors of the process",
    }
}

fn note_on_sends(inline: bool) -> &'static str {
    if inline {
        "whole sends complete inline, without a completion"
    } else {
        "whole sends are completed one by one: the self-test has not allowed to skip that"
    }
}
