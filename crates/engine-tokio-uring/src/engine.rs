//! The turn: what the worker submits is done at once as far as the socket goes along; `wait` tells
//! what became of it, starts the tasks for what has to wait, enters the runtime once, and tells what
//! tasks have found.
//!
//! tokio-uring hands its queue to the kernel when the runtime has nothing left to do, and ignores
//! where that fails. A task that finds the queue full submits it, and panics where that fails. So no
//! more entries are queued than there is room for without a NOP of ours among the last of them that
//! has completed; a turn that does not wait ends with one as well, and has then collected all that
//! had completed before.

use std::{fmt, io, net::TcpListener, pin::pin, rc::Rc, sync::Arc, time::Duration};

use mesh::Member;
use sockets::{Decided, EventWaker, Resting};
use tokio::time::timeout;
use tokio_uring::Runtime;
use worker::{Completion, Engine, EngineCounts, Operation, Slot, Time, Waker};

use crate::{
    accept::Acceptor,
    receive::FIRST_BYTES,
    setup::{self, StartError},
    slots::Slots,
    tasks::{self, BACK_OFF, Ended, Endings, Start},
};

/// Tries before the engine gives up: 5 seconds.
const BACK_OFFS_MAX: u32 = 5000;

/// The longest wait: nobody has a later deadline in earnest.
const WAIT_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// Sizes and bounds of one engine; all are resolved for one worker.
#[derive(Clone, Debug)]
pub struct TokioUringOptions {
    /// Places for connections, the surplus included.
    pub connections_max: u32,
    /// Entries of the submission queue, at least 8.
    pub submission_entries: u32,
    /// Entries of the completion queue; never fewer than those to submit.
    pub completion_entries: u32,
    /// Bytes of the buffer that all connections are received into: what one of them can bring at
    /// once; at least 64.
    pub receive_bytes: u32,
    /// Accepts waiting on a listener.
    pub accepts_armed_max: u32,
    /// How long a listener with newcomers accepts on and lets the kernel drop SYNs before it is
    /// closed; 0 closes it at once, as is right where the kernel moves who waits to another process.
    pub settle: Duration,
    /// Bytes read and thrown away after a FIN, waiting for the peer's.
    pub linger_bytes_max: u32,
}

/// The boundary on one tokio-uring runtime. It is used on the thread that created it, and on no
/// other:
///
/// ```compile_fail
/// fn send<T: Send>() {}
/// send::<ringway_engine_tokio_uring::TokioUringEngine>();
/// ```
pub struct TokioUringEngine {
    // First, so that the tasks are gone before what they wait with.
    runtime: Runtime,
    endings: Rc<Endings>,
    /// Waits that begin with the next turn.
    pub(crate) starts: Vec<Start>,
    pub(crate) slots: Slots,
    pub(crate) acceptor: Acceptor,
    /// Where the first bytes and those behind them come together, one connection after the other.
    pub(crate) buffer: Vec<u8>,
    /// Slots to read from, each once.
    pub(crate) to_read: Vec<Slot>,
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
    /// What tasks have found; between turns its room is kept.
    found: Vec<Ended>,
    /// Entries queued since a NOP has come back.
    queued: u32,
    queued_max: u32,
    ring_bytes: usize,
    waker: EventWaker,
    /// By member: how it is woken.
    members: Vec<Option<EventWaker>>,
    /// What makes the engine useless; `wait` says so.
    failure: Option<io::Error>,
}

impl fmt::Debug for TokioUringEngine {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("TokioUringEngine")
            .field("starts", &self.starts)
            .field("endings", &self.endings)
            .field("counts", &self.counts)
            .finish_non_exhaustive()
    }
}

impl TokioUringEngine {
    /// Starts a runtime on the thread that is to use it, and takes the listeners over.
    ///
    /// # Errors
    /// One sentence that names what is in the way and the cure.
    pub fn new(
        options: &TokioUringOptions,
        listeners: Vec<TcpListener>,
    ) -> Result<Self, StartError> {
        let failed = |step| move |error: io::Error| StartError::Failed { step, error };
        let submissions = options.submission_entries.max(8);
        let runtime = setup::runtime(submissions, options.completion_entries)?;
        let waker = EventWaker::new().map_err(failed("making an eventfd"))?;
        let endings = Rc::new(Endings::default());
        runtime
            .block_on(async { tasks::watch_wakes(waker.clone(), &endings) })
            .map_err(failed("watching an eventfd"))?;
        let armed_max = options.accepts_armed_max.max(1);
        let acceptor = Acceptor::new(listeners, armed_max, options.settle)
            .map_err(failed("duplicating a listener"))?;
        // As the kernel lays them out: 64 and 16 bytes an entry, and an index for each to submit.
        let completions = options.completion_entries.max(submissions) as usize;
        let ring_bytes = submissions as usize * (64 + 4) + completions * 16;
        Ok(Self {
            runtime,
            endings,
            starts: Vec::new(),
            slots: Slots::new(options.connections_max),
            acceptor,
            buffer: vec![0; FIRST_BYTES + options.receive_bytes.max(64) as usize],
            to_read: Vec::new(),
            resting: Resting::default(),
            decided: Vec::new(),
            offered: 0,
            ended: Vec::new(),
            linger_bytes_max: options.linger_bytes_max,
            counts: EngineCounts::default(),
            found: Vec::new(),
            queued: 0,
            // One is the NOP's.
            queued_max: submissions - 1,
            ring_bytes,
            waker,
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

    /// Memory that this engine has reserved whatever its load: queues, buffer, table.
    #[must_use]
    pub fn fixed_bytes(&self) -> usize {
        self.ring_bytes + self.buffer.len() + self.slots.bytes()
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

    /// True exactly when there is something to tell without any task having ended.
    fn has_news(&self) -> bool {
        self.offered > 0
            || !self.decided.is_empty()
            || !self.ended.is_empty()
            || self.acceptor.has_news()
            || !self.endings.is_empty()
    }

    /// Starts the tasks for what has to wait, and lets the runtime run: until a task has found
    /// something, for at most `span`; or once through, if that is nothing.
    fn enter(&mut self, span: Duration) {
        self.counts.enters += 1;
        let mut turn = Turn {
            endings: &self.endings,
            queued: self.queued,
            queued_max: self.queued_max,
            retried: 0,
        };
        let starts = self.starts.drain(..);
        let outcome = self.runtime.block_on(async {
            turn.start(starts).await?;
            if span.is_zero() {
                return turn.pass().await;
            }
            // Elapsed is an end like any other.
            let _ = timeout(span.min(WAIT_MAX), turn.endings.some()).await;
            Ok(())
        });
        self.queued = turn.queued;
        self.counts.enters_retried += turn.retried;
        if let Err(error) = outcome {
            self.fail(error);
        }
    }

    /// Tells what tasks have found, and deals with it.
    fn deliver_found(&mut self, now: Time, on_completion: &mut impl FnMut(Time, Completion<'_>)) {
        let mut woken = false;
        let mut found = std::mem::take(&mut self.found);
        self.endings.swap(&mut found);
        for ended in found.drain(..) {
            match ended {
                Ended::Accepted { index, slot, outcome } => {
                    self.on_accept(now, index, slot, outcome, on_completion);
                }
                Ended::Read { connection, outcome } => {
                    self.on_read(now, connection, outcome, on_completion);
                }
                Ended::Watched { connection } => self.on_watched(now, connection, on_completion),
                Ended::Woken => woken = true,
            }
        }
        self.found = found;
        if woken {
            on_completion(now, Completion::Woken);
        }
    }

    /// The first reason for which the engine is useless, and a shorter one from then on.
    fn check(&mut self) -> io::Result<()> {
        let Some(error) = self.failure.take() else { return Ok(()) };
        self.failure = Some(io::Error::other("the engine has failed before"));
        Err(error)
    }
}

/// What a turn does within the runtime.
struct Turn<'a> {
    endings: &'a Rc<Endings>,
    queued: u32,
    queued_max: u32,
    retried: u64,
}

impl Turn<'_> {
    /// Starts tasks, never more at once than the submission queue has room for.
    async fn start(&mut self, starts: impl Iterator<Item = Start>) -> io::Result<()> {
        for start in starts {
            if start.takes_entry() {
                if self.queued >= self.queued_max {
                    self.pass().await?;
                }
                self.queued += 1;
            }
            start.spawn(self.endings);
        }
        Ok(())
    }

    /// Has the kernel take all that is queued, and collects what has completed. The NOP is a task
    /// among the others, so that its entry stands behind theirs and its turn comes after theirs.
    async fn pass(&mut self) -> io::Result<()> {
        let mut last = pin!(tokio_uring::spawn(tokio_uring::no_op()));
        for _ in 0..BACK_OFFS_MAX {
            // Where the kernel has no memory for a request nothing wakes the runtime to try again.
            if timeout(BACK_OFF, last.as_mut()).await.is_ok() {
                self.queued = 0;
                return Ok(());
            }
            self.retried += 1;
        }
        Err(io::Error::other("the kernel has had no memory for a request for 5 seconds"))
    }
}

impl Engine for TokioUringEngine {
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
        self.start_reads(now);
        self.start_accepts(now);
        let span = if self.has_news() {
            Duration::ZERO
        } else {
            deadline.min(self.acceptor.due(now)).min(self.resting.due()).since(now)
        };
        self.enter(span);
        self.check()?;
        let now = self.now();
        self.deliver_decided(now, &mut on_completion);
        self.deliver_found(now, &mut on_completion);
        self.deliver_ended(now, &mut on_completion);
        self.deliver_stopped(now, &mut on_completion);
        self.check()
    }

    fn waker(&self) -> Arc<dyn Waker> {
        Arc::new(self.waker.clone())
    }

    fn counts(&self) -> EngineCounts {
        self.counts
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;
    use crate::tests::{Rig, options};

    /// tokio-uring would enter by itself where its queue is full, and panics where that fails.
    #[test]
    fn no_more_entries_are_queued_than_there_is_room_for_with_a_nop() {
        let few = TokioUringOptions { submission_entries: 8, accepts_armed_max: 1, ..options() };
        let mut rig = Rig::new(&few);
        let clients: Vec<_> = (0..17).map(|_| rig.client()).collect();
        rig.turn();
        assert_eq!((rig.engine.queued, rig.engine.queued_max), (0, 7));
        for (connection, _) in &clients {
            rig.receive(*connection);
        }
        // One that waits has no NOP at its end: seven and seven are gone with one each.
        let soon = rig.engine.now() + Duration::from_millis(1);
        rig.wait(soon);
        assert_eq!(rig.engine.queued, 3);
        // They count in the next turn too.
        let (more, _more_client) = rig.client();
        rig.turn();
        rig.receive(more);
        rig.engine.queued = 7;
        let soon = rig.engine.now() + Duration::from_millis(1);
        rig.wait(soon);
        assert_eq!(rig.engine.queued, 1);
        rig.assert_clean();
    }
}
