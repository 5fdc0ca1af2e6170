//! The boundary between a worker and its engine: what a worker asks for, what it is told, and the
//! rules both keep. An operation is an imperative; its completion is the same verb in the past. The
//! worker reads no clock, socket, thread or random number: time and bytes come in, operations go
//! out. The conformance suite (`conformance.rs`) holds every engine to the rules written here.
//!
//! * **Sends never wait in the kernel.** `Offer` and `Send` give the socket what it takes at once.
//!   What it did not take comes back (`Refused`, or a short `Sent`), the engine waits once for the
//!   socket to become writable and completes `Writable`; until then nothing may be sent to it.
//! * **One send a connection between two enters.** The engine enters by itself where a second one
//!   is submitted; if the first was refused, so is the second, whole and behind it.
//! * **Refusals first.** `Refused` and `Sent` of a batch are delivered before anything else of it.
//! * **Receiving goes on** from `Receive` to `StopReceiving`, `Close`, end of stream or failure.
//!   Bytes already on their way still arrive after `StopReceiving`.
//! * **`Closed` is last.** After `Close` nothing but `Closed` is delivered for the connection, and
//!   `Closed` says that the kernel holds nothing of it: its slot is free for a new generation.

use std::{fmt, io, net::SocketAddr, ops::Add, sync::Arc, time::Duration};

use bytes::Bytes;
use mesh::Member;

/// A place in an engine's connection table, from 0. Neighbours were usually accepted together.
pub type Slot = u32;

/// Which connection: a slot and how often the slot has been used before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnectionId {
    /// Where the connection stands in the table.
    pub slot: Slot,
    /// Differs from that of every other recent connection in the same slot.
    pub generation: u32,
}

/// Which of the worker's listeners, in the order the engine was given them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ListenerId(pub u16);

/// A moment of the monotonic clock, in nanoseconds from an epoch all workers share.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Time(pub u64);

/// How a connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Closing {
    /// Nothing is unread and nothing unsent: close, which sends FIN.
    Finish,
    /// Bytes may be unread: send FIN, read and discard until the peer's FIN or
    /// `linger_bytes_max`, then close. The worker sets the deadline, with `Abort`.
    Linger,
    /// Reset the connection and free what the kernel has queued, now. May follow the other two.
    Abort,
}

/// What a worker asks of its engine. None of them fails by itself: completions tell.
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "the fields are what their types say")]
pub enum Operation<'a> {
    /// Accept connections from the listener until told to stop; each completes as `Accepted`.
    Accept { listener: ListenerId },
    /// Empty the listener's queue, then close it; completes as `StoppedAccepting`.
    StopAccepting { listener: ListenerId },
    /// Receive until told to stop; completes as `Received`, again and again.
    Receive { connection: ConnectionId },
    /// Back-pressure: receive no more until the next `Receive`. No completion.
    StopReceiving { connection: ConnectionId },
    /// Send bytes that belong to this connection alone; completes as `Sent`. At most one is
    /// submitted and not completed for a connection.
    Send { connection: ConnectionId, bytes: Bytes },
    /// Offer one frame to up to [`OFFER_TARGETS_MAX`] open connections, in slot order. Each takes
    /// it whole, without a completion, or completes as `Refused`. `Offered` says that so many
    /// targets have been decided, in the order of submission.
    Offer { frame: Bytes, targets: &'a [Slot] },
    /// End the connection; completes as `Closed`.
    Close { connection: ConnectionId, how: Closing },
    /// Wake another member of the mesh out of its wait. No completion; the member gets `Woken`.
    Wake { member: Member },
}

/// The most targets of one `Offer`.
pub const OFFER_TARGETS_MAX: usize = 64;

/// What an engine tells its worker. Bytes are borrowed for the length of the call.
#[derive(Debug)]
#[expect(missing_docs, reason = "the fields are what their types say")]
pub enum Completion<'a> {
    /// A connection was accepted and nothing is being received from it yet.
    Accepted { connection: ConnectionId, listener: ListenerId, peer: SocketAddr },
    /// The listener is closed and none of its connections is still to come.
    StoppedAccepting { listener: ListenerId },
    /// Bytes, the end of the stream, or a failure. After the last two receiving has ended.
    Received { connection: ConnectionId, outcome: Reception<'a> },
    /// The `Send` was decided. If the socket did not take all of it, `Writable` follows.
    Sent { connection: ConnectionId, outcome: Result<Taken, Failure> },
    /// The socket that refused bytes may take some again.
    Writable { connection: ConnectionId },
    /// An offered connection did not take the whole frame, perhaps nothing of it. The rest must be
    /// the next bytes sent there (`Writable` follows); or the connection has failed.
    Refused { connection: ConnectionId, outcome: Result<Taken, Lost> },
    /// So many targets of the offers submitted so far were decided.
    Offered { targets: u32 },
    /// The connection is gone and its slot is free.
    Closed { connection: ConnectionId },
    /// Another member of the mesh has called `Wake`.
    Woken,
}

/// How much of some bytes a socket has taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Taken {
    /// What was offered or sent, whole.
    pub bytes: Bytes,
    /// How many of its first bytes the socket has taken.
    pub taken: usize,
}

/// What was offered to a connection that can carry no more bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lost {
    /// What was offered, whole.
    pub bytes: Bytes,
    /// Why nothing of it will arrive.
    pub failure: Failure,
}

/// The outcome of a `Receive`.
#[derive(Debug)]
pub enum Reception<'a> {
    /// At least one byte. The receiver may write over them: unmasking is done in place.
    Bytes(&'a mut [u8]),
    /// The peer has sent FIN.
    Finished,
    /// The connection is broken.
    Failed(Failure),
}

/// Why a connection can carry no more bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Failure {
    /// ECONNRESET, EPIPE, ENOTCONN: the peer or a middlebox has cut it.
    Reset,
    /// ETIMEDOUT: the kernel gave up on unacknowledged bytes (TCP_USER_TIMEOUT).
    TimedOut,
    /// EHOSTUNREACH, ENETUNREACH and their kin.
    Unreachable,
    /// Any other errno, kept for the log.
    Other(i32),
}

/// What the worker runs on: a ring, epoll, or a virtual network.
pub trait Engine {
    /// The time now. One reading a turn is enough.
    fn now(&self) -> Time;

    /// Takes an operation. It may be handed to the kernel at once or at the next `wait`.
    fn submit(&mut self, operation: Operation<'_>);

    /// Hands everything submitted to the kernel and delivers what has completed, with the time at
    /// which it was collected. If nothing has, waits for a completion until `deadline`; a deadline
    /// that has passed means not to wait.
    ///
    /// # Errors
    /// Only what makes the engine useless: the worker ends with it.
    fn wait(
        &mut self,
        deadline: Time,
        on_completion: impl FnMut(Time, Completion<'_>),
    ) -> Result<(), io::Error>;

    /// A handle with which any thread ends this engine's wait.
    fn waker(&self) -> Arc<dyn Waker>;

    /// What the engine has counted since its start.
    fn counts(&self) -> EngineCounts;
}

/// Ends an engine's wait from any thread, at the price of a system call.
pub trait Waker: Send + Sync + fmt::Debug {
    /// The engine's current or next `wait` delivers `Woken`.
    fn wake(&self);
}

/// An engine's own counters since its start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EngineCounts {
    /// Entries into the kernel.
    pub enters: u64,
    /// Accepted connections lost to EMFILE, ENFILE, ENOMEM or ENOBUFS.
    pub accepts_failed: u64,
    /// Receives that found no free buffer (ENOBUFS).
    pub receive_buffers_exhausted: u64,
    /// Times the completion queue was full.
    pub completions_overflowed: u64,
    /// Completions of an unknown kind or of a connection that is gone.
    pub completions_stale: u64,
    /// Sends that went to the kernel a second time in one turn's batch, each an extra enter.
    pub batches_split: u64,
    /// Times the submission queue was full in the middle of a turn, each an extra enter.
    pub submissions_full: u64,
    /// Times an enter was tried again, because the kernel had no memory or no request for it.
    pub enters_retried: u64,
    /// Times the last free place was taken, so that newcomers waited in the listeners' queues.
    pub accepts_paused: u64,
    /// Connections now receiving by multishot.
    pub multishots: u64,
    /// Frames given to a socket without a copy being asked for, one a target.
    pub zero_copy_sends: u64,
    /// Those that the kernel reports to have copied all the same.
    pub zero_copy_copied: u64,
    /// Offers of large frames for which the memory of such sends had no room.
    pub zero_copy_exhausted: u64,
    /// Connections that get copies from then on, because the kernel copied for them anyway.
    pub zero_copy_routes_off: u64,
}

impl Time {
    /// Later than every moment that will be.
    pub const NEVER: Self = Self(u64::MAX);

    /// How long after `earlier` this is; zero if it is not after it.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Time {
    type Output = Self;

    fn add(self, span: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)))
    }
}
