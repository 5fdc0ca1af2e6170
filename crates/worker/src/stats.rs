//! What a worker counts: closes and refusals by reason, messages, bytes, gauges, and the time that
//! each stage takes. A [`Report`] holds what was counted since the last one was taken; the control
//! thread adds reports up.

use std::{mem, net::SocketAddr, time::Duration};

use bytes::Bytes;
use hdrhistogram::Histogram;
use wire::{CloseCode, Converted, StatusCode};

use crate::operation::{ConnectionId, EngineCounts};

/// Why a connection that was open is no longer open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "each is named after its label")]
pub enum CloseReason {
    /// The peer sent Close; the answer echoes its code.
    PeerClosed,
    /// The peer's FIN came without a Close.
    PeerGone,
    /// The peer or a middlebox has cut the connection.
    Reset,
    /// The kernel gave up on unacknowledged bytes.
    TimedOut,
    Unreachable,
    /// Any other failure of the socket.
    Failed,
    ProtocolError,
    UnsupportedData,
    InvalidPayload,
    MessageTooBig,
    PublishingIsOff,
    NotAllowed,
    Removed,
    TokenExpired,
    InternalError,
    Restarting,
    Moving,
    SlowConsumer,
    Overloaded,
    /// No byte came within the pong timeout of a ping.
    NoPong,
    /// The write timeout.
    Stalled,
    /// The worker's share of the process's send-queue budget.
    OverBudget,
}

impl CloseReason {
    /// Every reason, in the order of their numbers.
    pub const ALL: [Self; 22] = [
        Self::PeerClosed,
        Self::PeerGone,
        Self::Reset,
        Self::TimedOut,
        Self::Unreachable,
        Self::Failed,
        Self::ProtocolError,
        Self::UnsupportedData,
        Self::InvalidPayload,
        Self::MessageTooBig,
        Self::PublishingIsOff,
        Self::NotAllowed,
        Self::Removed,
        Self::TokenExpired,
        Self::InternalError,
        Self::Restarting,
        Self::Moving,
        Self::SlowConsumer,
        Self::Overloaded,
        Self::NoPong,
        Self::Stalled,
        Self::OverBudget,
    ];

    /// The metric label, and with spaces for underscores the reason in the Close frame.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::PeerClosed => "peer_closed",
            Self::PeerGone => "peer_gone",
            Self::Reset => "reset",
            Self::TimedOut => "timed_out",
            Self::Unreachable => "unreachable",
            Self::Failed => "failed",
            Self::ProtocolError => "protocol_error",
            Self::UnsupportedData => "unsupported_data",
            Self::InvalidPayload => "invalid_payload",
            Self::MessageTooBig => "message_too_big",
            Self::PublishingIsOff => "publishing_is_off",
            Self::NotAllowed => "not_allowed",
            Self::Removed => "removed",
            Self::TokenExpired => "token_expired",
            Self::InternalError => "internal_error",
            Self::Restarting => "restarting",
            Self::Moving => "moving",
            Self::SlowConsumer => "slow_consumer",
            Self::Overloaded => "overloaded",
            Self::NoPong => "no_pong",
            Self::Stalled => "stalled",
            Self::OverBudget => "over_budget",
        }
    }

    /// The Close code and reason that the peer is told; `None` where it gets no Close frame of
    /// ours, or one that echoes or explains what it did.
    #[must_use]
    pub const fn close(self) -> Option<(CloseCode, &'static str)> {
        Some(match self {
            Self::PublishingIsOff => (CloseCode::POLICY_VIOLATION, "publishing is off"),
            Self::NotAllowed => (CloseCode::POLICY_VIOLATION, "not allowed"),
            Self::Removed => (CloseCode::POLICY_VIOLATION, "removed"),
            Self::TokenExpired => (CloseCode::POLICY_VIOLATION, "token expired"),
            Self::InternalError => (CloseCode::INTERNAL_ERROR, "internal error"),
            Self::Restarting => (CloseCode::SERVICE_RESTART, "restarting"),
            Self::Moving => (CloseCode::SERVICE_RESTART, "moving"),
            Self::SlowConsumer => (CloseCode::TRY_AGAIN_LATER, "slow consumer"),
            Self::Overloaded => (CloseCode::TRY_AGAIN_LATER, "overloaded"),
            _ => return None,
        })
    }

    /// Whether the peer asked for it, so that nobody needs to be told.
    #[must_use]
    pub const fn is_ordinary(self) -> bool {
        matches!(self, Self::PeerClosed | Self::PeerGone)
    }
}

/// Why messages that were queued for a connection never left.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DropReason {
    /// The connection's queue was over its bound: it was cut behind the message that had begun.
    SlowConsumer,
    /// The worker's share of the process's budget was over: the worst debtor was reset.
    OverBudget,
    /// The socket took nothing for the write timeout, or for the close timeout of a closing one.
    Stalled,
    /// The connection was reset for a missing pong.
    NoPong,
    /// The peer had left, or the socket had failed.
    Gone,
    /// The oldest of a queue over its bound, under `SlowConsumer::DropOldest` or `Latest`.
    Oldest,
    /// A newer message of the same topic came behind it, under `SlowConsumer::Latest`.
    Replaced,
}

impl DropReason {
    /// Every reason, in the order of their numbers.
    pub const ALL: [Self; 7] = [
        Self::SlowConsumer,
        Self::OverBudget,
        Self::Stalled,
        Self::NoPong,
        Self::Gone,
        Self::Oldest,
        Self::Replaced,
    ];

    /// The metric label.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::SlowConsumer => "slow_consumer",
            Self::OverBudget => "over_budget",
            Self::Stalled => "stalled",
            Self::NoPong => "no_pong",
            Self::Gone => "gone",
            Self::Oldest => "oldest",
            Self::Replaced => "replaced",
        }
    }
}

/// Why a connection never became open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "each is named after its label")]
pub enum RefusalReason {
    Malformed,
    BadTopic,
    Origin,
    NotFound,
    Method,
    Timeout,
    NoUpgrade,
    WrongVersion,
    HeadTooLarge,
    Full,
    Draining,
    /// The peer left before it was answered.
    Gone,
    /// Its address has as many connections as it may.
    AddressConnections,
    /// Its address begins handshakes faster than it may.
    AddressRate,
    /// It did not begin with a PROXY header where one is required.
    ProxyHeader,
    /// It brought no token, and one is needed.
    TokenMissing,
    /// Its token cannot be read, or has no expiry.
    TokenMalformed,
    /// No key of ours has signed its token.
    TokenSignature,
    TokenExpired,
    TokenNotYetValid,
    TokenIssuer,
    TokenAudience,
    /// Its token is valid, and not for this.
    NotAllowed,
    /// Whom its token means was removed, and is blocked.
    TokenBlocked,
}

impl RefusalReason {
    /// Every reason, in the order of their numbers.
    pub const ALL: [Self; 24] = [
        Self::Malformed,
        Self::BadTopic,
        Self::Origin,
        Self::NotFound,
        Self::Method,
        Self::Timeout,
        Self::NoUpgrade,
        Self::WrongVersion,
        Self::HeadTooLarge,
        Self::Full,
        Self::Draining,
        Self::Gone,
        Self::AddressConnections,
        Self::AddressRate,
        Self::ProxyHeader,
        Self::TokenMissing,
        Self::TokenMalformed,
        Self::TokenSignature,
        Self::TokenExpired,
        Self::TokenNotYetValid,
        Self::TokenIssuer,
        Self::TokenAudience,
        Self::NotAllowed,
        Self::TokenBlocked,
    ];

    /// The metric label.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::BadTopic => "bad_topic",
            Self::Origin => "origin",
            Self::NotFound => "not_found",
            Self::Method => "method",
            Self::Timeout => "timeout",
            Self::NoUpgrade => "no_upgrade",
            Self::WrongVersion => "wrong_version",
            Self::HeadTooLarge => "head_too_large",
            Self::Full => "full",
            Self::Draining => "draining",
            Self::Gone => "gone",
            Self::AddressConnections => "address_connections",
            Self::AddressRate => "address_rate",
            Self::ProxyHeader => "proxy_header",
            Self::TokenMissing => "token_missing",
            Self::TokenMalformed => "token_malformed",
            Self::TokenSignature => "token_signature",
            Self::TokenExpired => "token_expired",
            Self::TokenNotYetValid => "token_not_yet_valid",
            Self::TokenIssuer => "token_issuer",
            Self::TokenAudience => "token_audience",
            Self::NotAllowed => "not_allowed",
            Self::TokenBlocked => "token_blocked",
        }
    }

    /// The status that the peer is told; 499 stands for nobody being left to tell.
    #[must_use]
    pub fn status(self) -> StatusCode {
        let code = match self {
            Self::Malformed | Self::BadTopic | Self::ProxyHeader => 400,
            Self::TokenMissing
            | Self::TokenMalformed
            | Self::TokenSignature
            | Self::TokenExpired
            | Self::TokenNotYetValid
            | Self::TokenIssuer
            | Self::TokenAudience => 401,
            Self::Origin | Self::NotAllowed | Self::TokenBlocked => 403,
            Self::NotFound => 404,
            Self::Method => 405,
            Self::Timeout => 408,
            Self::NoUpgrade | Self::WrongVersion => 426,
            Self::AddressConnections | Self::AddressRate => 429,
            Self::HeadTooLarge => 431,
            Self::Full | Self::Draining => 503,
            Self::Gone => 499,
        };
        StatusCode::from_u16(code).expect("every code above is between 100 and 999")
    }
}

/// What is timed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Stage {
    /// Accepted until open.
    Handshake,
    /// A publication received until its frame was encoded and handed on.
    Encode,
    /// A letter posted until taken.
    Hop,
    /// A publication received until the kernel has taken the last local subscriber's bytes.
    Fanout,
    /// One turn with the enter before it, waiting left out: how long the worker heard nobody.
    Turn,
    /// A ping sent until the next byte.
    Ping,
}

impl Stage {
    /// Every stage, in the order of their numbers.
    pub const ALL: [Self; 6] =
        [Self::Handshake, Self::Encode, Self::Hop, Self::Fanout, Self::Turn, Self::Ping];

    /// The name in `/latency`, in the interval log and in the `stage` label.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Handshake => "handshake",
            Self::Encode => "encode",
            Self::Hop => "hop",
            Self::Fanout => "fanout",
            Self::Turn => "turn",
            Self::Ping => "ping",
        }
    }
}

/// Nanoseconds, 1 µs to 60 s, two significant digits: about 10 KiB.
pub type StageHistogram = Histogram<u32>;

/// Takes `count` off what was counted, and notes what an earlier report has counted of it.
pub(crate) fn withdraw(counted: &mut u64, withdrawn: &mut u64, count: u64) {
    let earlier = count.saturating_sub(*counted);
    *counted -= count - earlier;
    *withdrawn += earlier;
}

/// What one worker counted since its last report, and how it stands.
#[derive(Debug, Clone)]
pub struct Report {
    /// Connections that became open.
    pub opened: u64,
    /// Open connections that ended, by [`CloseReason`].
    pub closed: [u64; CloseReason::ALL.len()],
    /// Handshakes refused, by [`RefusalReason`].
    pub refused: [u64; RefusalReason::ALL.len()],
    /// Messages that clients sent.
    pub messages_received: u64,
    /// Messages offered to subscribers or queued for them, less those dropped.
    pub messages_delivered: u64,
    /// Messages among those dropped that an earlier report has counted as delivered.
    pub messages_withdrawn: u64,
    /// Messages that were queued and never left, by [`DropReason`].
    pub messages_dropped: [u64; DropReason::ALL.len()],
    /// Bytes received.
    pub received_bytes: u64,
    /// Bytes handed to the kernel.
    pub sent_bytes: u64,
    /// Bytes that an earlier report has counted as sent, though the kernel had not taken them.
    pub sent_bytes_withdrawn: u64,
    /// Messages compressed here, each once however many got it.
    pub deflated: Converted,
    /// Bytes of frames that compression spared, over everybody who was offered or queued them.
    pub deflated_saved_bytes: u64,
    /// Compressed messages of clients.
    pub inflated: Converted,
    /// Publications that some queue had no room for, so that their publisher was held back.
    pub publications_refused: u64,
    /// Times a client was not read from because it had sent faster than it may.
    pub rate_pauses: u64,
    /// Times the rest of what a client had sent had to wait for the next turn.
    pub share_deferrals: u64,
    /// Requests whose tokens had to wait for a later turn to be verified.
    pub verification_deferrals: u64,
    /// Closes to be logged: those the peer did not ask for, at most `closes_logged_max` a reason.
    pub closes: Vec<ClosedConnection>,
    /// Such closes beyond those, by [`CloseReason`].
    pub closes_unlogged: [u32; CloseReason::ALL.len()],
    /// How the worker stands at the moment of the report.
    pub gauges: Gauges,
    /// What the engine has counted since its start.
    pub engine: EngineCounts,
    /// One histogram a [`Stage`], by its number.
    stages: Box<[StageHistogram]>,
}

/// A connection that was closed otherwise than by its peer's wish.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClosedConnection {
    /// Which.
    pub connection: ConnectionId,
    /// Its address.
    pub peer: SocketAddr,
    /// What the handler says it was there for: its topics.
    pub purpose: String,
    /// Why it was closed.
    pub reason: CloseReason,
}

/// How a worker stands.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say what is counted, with its unit")]
pub struct Gauges {
    pub connections: u32,
    pub connections_max: u32,
    pub connections_deflate: u32,
    pub handshakes: u32,
    pub topics: u64,
    pub subscriptions: u64,
    pub send_queues: u32,
    pub send_queue_bytes: u64,
    pub send_queue_bytes_max: u64,
    pub partial_bytes: u64,
    pub partial_bytes_max: u64,
    pub handshake_bytes: u64,
    pub handshake_bytes_max: u64,
    pub inbox_letters: u32,
    pub inbox_letters_max: u32,
    pub fanout_jobs: u32,
    pub fanout_publications: u32,
    pub fanout_publications_max: u32,
    pub fanout_bytes: u64,
    pub fanout_bytes_max: u64,
    pub publishers_paused: u32,
    /// Reserved whatever the load: the connection table, the wheel, a report, the inbox. The
    /// engine's share is its own affair, and handlers have none: their tables grow.
    pub fixed_bytes: u64,
}

impl Report {
    /// A report of nothing.
    #[must_use]
    pub fn new() -> Self {
        let histogram = || {
            Histogram::new_with_bounds(1_000, 60_000_000_000, 2)
                .expect("the bounds are a factor of two apart and the digits at most five")
        };
        Self::empty(Stage::ALL.iter().map(|_| histogram()).collect(), Vec::new())
    }

    /// Empties it without giving its memory back.
    pub fn reset(&mut self) {
        let (mut stages, mut closes) = (mem::take(&mut self.stages), mem::take(&mut self.closes));
        // Most of the memory, and often there was nothing to record.
        stages.iter_mut().filter(|stage| !stage.is_empty()).for_each(Histogram::reset);
        closes.clear();
        *self = Self::empty(stages, closes);
    }

    /// A report of nothing, in memory that is there.
    fn empty(stages: Box<[StageHistogram]>, closes: Vec<ClosedConnection>) -> Self {
        Self {
            opened: 0,
            closed: [0; CloseReason::ALL.len()],
            refused: [0; RefusalReason::ALL.len()],
            messages_received: 0,
            messages_delivered: 0,
            messages_withdrawn: 0,
            messages_dropped: [0; DropReason::ALL.len()],
            received_bytes: 0,
            sent_bytes: 0,
            sent_bytes_withdrawn: 0,
            deflated: Converted::default(),
            deflated_saved_bytes: 0,
            inflated: Converted::default(),
            publications_refused: 0,
            rate_pauses: 0,
            share_deferrals: 0,
            verification_deferrals: 0,
            closes,
            closes_unlogged: [0; CloseReason::ALL.len()],
            gauges: Gauges::default(),
            engine: EngineCounts::default(),
            stages,
        }
    }

    /// How much memory it takes, whatever it has counted.
    pub(crate) fn fixed_bytes(&self) -> usize {
        let buckets = self.stages.iter().map(|stage| stage.distinct_values() * size_of::<u32>());
        size_of_val(self) + size_of_val(&*self.stages) + buckets.sum::<usize>()
    }

    /// Counts one passage through a stage.
    pub fn record(&mut self, stage: Stage, span: Duration) {
        self.record_many(stage, span, 1);
    }

    /// Counts passages of the same length.
    pub fn record_many(&mut self, stage: Stage, span: Duration, passages: u32) {
        let ns = u64::try_from(span.as_nanos()).unwrap_or(u64::MAX);
        self.stages[stage as usize].saturating_record_n(ns, passages);
    }

    /// Counts what so many receivers are spared by getting these frames instead of plain ones,
    /// which are no shorter.
    pub(crate) fn count_saved(&mut self, receivers: usize, plain_bytes: usize, frames: &Bytes) {
        self.deflated_saved_bytes += (receivers * (plain_bytes - frames.len())) as u64;
    }

    /// The histogram of a stage.
    #[must_use]
    pub fn stage(&self, stage: Stage) -> &StageHistogram {
        &self.stages[stage as usize]
    }
}

impl Default for Report {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_earlier_report_has_counted_is_withdrawn() {
        let (mut counted, mut withdrawn) = (5, 0);
        withdraw(&mut counted, &mut withdrawn, 3);
        assert_eq!((counted, withdrawn), (2, 0));
        withdraw(&mut counted, &mut withdrawn, 6);
        assert_eq!((counted, withdrawn), (0, 4));
    }

    #[test]
    fn a_report_that_was_emptied_holds_nothing_and_counts_again() {
        let mut report = Report::new();
        report.opened = 1;
        report.closed[CloseReason::Reset as usize] = 2;
        report.engine.enters = 3;
        report.record(Stage::Turn, Duration::from_millis(4));
        report.closes.push(ClosedConnection {
            connection: ConnectionId { slot: 5, generation: 6 },
            peer: SocketAddr::from(([127, 0, 0, 1], 7)),
            purpose: "a topic".to_owned(),
            reason: CloseReason::Reset,
        });
        report.reset();
        assert_eq!((report.opened, report.closed, report.engine.enters), (0, [0; 22], 0));
        assert_eq!((report.closes.len(), report.stage(Stage::Turn).len()), (0, 0));
        report.record(Stage::Ping, Duration::from_millis(4));
        assert_eq!(report.stage(Stage::Ping).len(), 1);
    }
}
