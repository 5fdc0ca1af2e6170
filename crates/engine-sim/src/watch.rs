//! What is seen of a worker's promises to one connection: who is silent is pinged, who does not
//! answer is cut, and who is cut has given cause.

use std::time::Duration;

use bytes::Bytes;
use worker::{CloseReason, Failure, Time};

use crate::options::Promises;

/// How much later than promised is still in time: deadlines and pings go by ticks, at most a second
/// each, and a turn may have much to do.
const GRACE: Duration = Duration::from_secs(2);

/// By how much deadlines are rounded.
const TICKS: Duration = Duration::from_millis(50);

/// By how much a turn comes late at most.
const LATE: Duration = Duration::from_millis(1_600);

/// The first byte of a Close frame.
const CLOSE: u8 = 0x88;

/// The beginning of an answer that upgrades.
const SWITCHING: &[u8] = b"HTTP/1.1 101 ";

/// What was seen of one connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Watch {
    accepted: Time,
    /// Since when it has been silent, able to take a ping, and not pinged.
    quiet: Time,
    /// The first ping since bytes were last told.
    pinged: Option<Time>,
    /// When its request was answered.
    answered: Option<Time>,
    /// True exactly when its 101 was sent.
    is_open: bool,
    /// True exactly when a Close frame was sent.
    is_closing: bool,
    /// When it first refused bytes.
    refused: Option<Time>,
    /// Since when it has been refusing them.
    refusing: Option<Time>,
    /// When it last ceased to.
    writable: Time,
    /// True exactly when its worker has stopped receiving from it, and when it last went on.
    is_paused: bool,
    resumed: Option<Time>,
    /// Why it carries no more bytes, if the worker was told.
    pub(crate) failure: Option<Failure>,
    /// When its close was submitted, and whether it was being received from.
    ended: Option<(Time, bool)>,
}

impl Watch {
    pub(crate) fn new(now: Time) -> Self {
        Self {
            accepted: now,
            quiet: now,
            pinged: None,
            answered: None,
            is_open: false,
            is_closing: false,
            refused: None,
            refusing: None,
            writable: now,
            is_paused: false,
            resumed: None,
            failure: None,
            ended: None,
        }
    }

    pub(crate) fn is_closing(&self) -> bool {
        self.is_closing
    }

    pub(crate) fn is_open(&self) -> bool {
        self.is_open
    }

    pub(crate) fn is_answered(&self) -> bool {
        self.answered.is_some()
    }

    /// True exactly when its close was submitted.
    pub(crate) fn has_ended(&self) -> bool {
        self.ended.is_some()
    }

    pub(crate) fn handle_heard(&mut self, now: Time) {
        self.quiet = now;
        self.pinged = None;
    }

    /// Something leaves that belongs to this connection alone; `is_frame`: it begins with a frame.
    pub(crate) fn handle_send(&mut self, now: Time, bytes: &Bytes, is_frame: bool) {
        self.quiet = now;
        self.is_closing |= is_frame && bytes.first() == Some(&CLOSE);
        let is_first = self.answered.is_none();
        self.answered.get_or_insert(now);
        // What a socket has refused may come again with messages behind it.
        if is_first && bytes.starts_with(SWITCHING) {
            self.is_open = lets_in(bytes);
            self.is_closing = !self.is_open;
        }
    }

    /// A ping was submitted: from then on its worker awaits the pong.
    pub(crate) fn handle_ping(&mut self, now: Time) {
        self.quiet = now;
        self.pinged.get_or_insert(now);
    }

    pub(crate) fn handle_refused(&mut self, now: Time) {
        self.quiet = now;
        self.refused.get_or_insert(now);
        self.refusing.get_or_insert(now);
    }

    pub(crate) fn handle_writable(&mut self, now: Time) {
        self.quiet = now;
        (self.refusing, self.writable) = (None, now);
    }

    pub(crate) fn handle_receiving(&mut self, now: Time, is_receiving: bool) {
        if is_receiving && self.is_paused {
            self.resumed = Some(now);
        }
        self.is_paused = !is_receiving;
    }

    pub(crate) fn handle_close(&mut self, now: Time, receiving: bool) {
        self.ended.get_or_insert((now, receiving));
    }

    /// What the worker owes the connection and has not given, though it could have since `since`.
    pub(crate) fn debt(&self, promises: &Promises, since: Time, now: Time) -> Option<&'static str> {
        // What waits for its socket has a deadline of its own, instead of the pong's.
        if let Some(refusing) = self.refusing.filter(|_| self.is_open) {
            let is_due = now.since(refusing.max(since)) > promises.stall_max + GRACE;
            return is_due.then_some("has taken nothing, and is not cut");
        }
        let interval = promises.ping_interval.filter(|_| self.is_open && !self.is_closing)?;
        if let Some(pinged) = self.pinged {
            if self.is_paused {
                // Nobody would hear its pong.
                return None;
            }
            // Whoever was paused meanwhile is looked at once more in an interval, which begins anew
            // with every excuse: the worker's clock has stood still for as long as it was late.
            let resumed = self.resumed.map_or(pinged, |resumed| resumed.max(since) + interval);
            let since = pinged.max(self.writable).max(resumed).max(since);
            let is_due = now.since(since) > promises.pong_timeout + GRACE;
            return is_due.then_some("has not answered a ping, and is not cut");
        }
        // A connection is visited once in an interval, and pinged unless a byte was heard within
        // its last half.
        let is_due = now.since(self.quiet.max(since)) > interval * 3 / 2 + GRACE;
        is_due.then_some("is silent, and is not pinged")
    }

    /// Whether the connection was closed with cause, as far as the engine can know.
    pub(crate) fn justifies(&self, reason: CloseReason, promises: &Promises) -> bool {
        match reason {
            CloseReason::Reset => self.failure == Some(Failure::Reset),
            CloseReason::TimedOut => self.failure == Some(Failure::TimedOut),
            CloseReason::Unreachable => self.failure == Some(Failure::Unreachable),
            CloseReason::Failed => matches!(self.failure, Some(Failure::Other(_))),
            CloseReason::NoPong => self.ended.is_some_and(|(ended, receiving)| {
                let waited = self.pinged.map(|pinged| ended.since(pinged) + TICKS);
                receiving && waited.is_some_and(|waited| waited >= promises.pong_timeout)
            }),
            CloseReason::Stalled => self.refused.is_some_and(|refused| {
                let ended = self.ended.map_or(Time::NEVER, |(ended, _)| ended);
                ended.since(refused) + LATE >= promises.write_timeout
            }),
            CloseReason::SlowConsumer => self.refused.is_some(),
            // Or what it has queued is its 101 and what came behind it, as with many others.
            CloseReason::OverBudget => {
                let ended = self.ended.map_or(Time::NEVER, |(ended, _)| ended);
                let is_new = self.answered.is_some_and(|answered| ended.since(answered) <= LATE);
                self.refused.is_some() || is_new
            }
            // What it did is known to its visitor, and what it may do to the guest.
            CloseReason::ProtocolError
            | CloseReason::InvalidPayload
            | CloseReason::MessageTooBig
            | CloseReason::PublishingIsOff
            | CloseReason::NotAllowed
            | CloseReason::Removed
            | CloseReason::TokenExpired
            | CloseReason::Restarting
            | CloseReason::Moving
            | CloseReason::Overloaded => true,
            // The first two are never told one by one; nothing closes for the others.
            CloseReason::PeerClosed
            | CloseReason::PeerGone
            | CloseReason::UnsupportedData
            | CloseReason::InternalError => false,
        }
    }

    /// How old it was when its close was submitted, or is.
    pub(crate) fn age(&self, now: Time) -> Duration {
        self.ended.map_or(now, |(ended, _)| ended).since(self.accepted)
    }
}

/// True exactly when a first answer lets its visitor in: behind the head of who is dismissed there is
/// its Close frame.
pub(crate) fn lets_in(answer: &[u8]) -> bool {
    answer.starts_with(SWITCHING) && answer.ends_with(b"\r\n\r\n")
}

#[cfg(test)]
mod tests {
    use worker::AddressLimits;

    use super::*;

    const PROMISES: Promises = Promises {
        ping_interval: Some(Duration::from_secs(10)),
        pong_timeout: Duration::from_secs(3),
        handshake_timeout: Duration::from_secs(5),
        write_timeout: Duration::from_secs(15),
        stall_max: Duration::from_secs(20),
        connections_max: 10,
        head_bytes_max: 1_000,
        addresses: AddressLimits { connections_max: None, handshakes_rate: None },
    };

    fn seconds(number: u64) -> Time {
        Time(number * 1_000_000_000)
    }

    fn open() -> Watch {
        let mut watch = Watch::new(seconds(0));
        let answer = b"HTTP/1.1 101 Switching Protocols\r\n\r\n";
        watch.handle_send(seconds(1), &Bytes::from_static(answer), false);
        watch
    }

    #[test]
    fn who_is_silent_must_be_pinged_and_who_does_not_answer_be_cut() {
        let mut watch = open();
        assert_eq!(watch.debt(&PROMISES, Time(0), seconds(17)), None);
        assert!(watch.debt(&PROMISES, Time(0), seconds(19)).is_some());
        assert_eq!(watch.debt(&PROMISES, seconds(10), seconds(19)), None, "it had an excuse");
        watch.handle_ping(seconds(17));
        assert_eq!(watch.debt(&PROMISES, Time(0), seconds(22)), None);
        assert!(watch.debt(&PROMISES, Time(0), seconds(23)).is_some());
        watch.handle_heard(seconds(21));
        assert_eq!(watch.debt(&PROMISES, Time(0), seconds(23)), None);
    }

    #[test]
    fn whose_socket_refuses_need_not_be_pinged_but_must_be_cut_in_its_own_time() {
        let mut watch = open();
        watch.handle_refused(seconds(2));
        watch.handle_refused(seconds(9));
        assert_eq!(watch.debt(&PROMISES, Time(0), seconds(24)), None);
        assert!(watch.debt(&PROMISES, Time(0), seconds(25)).is_some());
        watch.handle_writable(seconds(24));
        assert_eq!(watch.debt(&PROMISES, Time(0), seconds(40)), None);
        assert!(watch.debt(&PROMISES, Time(0), seconds(42)).is_some(), "it is silent again");
    }

    #[test]
    fn who_is_not_received_from_owes_no_pong_before_it_is_looked_at_again() {
        let mut watch = open();
        watch.handle_ping(seconds(10));
        watch.handle_receiving(seconds(11), false);
        assert_eq!(watch.debt(&PROMISES, Time(0), seconds(40)), None);
        watch.handle_receiving(seconds(40), true);
        assert_eq!(watch.debt(&PROMISES, Time(0), seconds(55)), None);
        assert!(watch.debt(&PROMISES, Time(0), seconds(56)).is_some());
        assert_eq!(watch.debt(&PROMISES, seconds(45), seconds(60)), None, "it had an excuse");
        assert!(watch.debt(&PROMISES, seconds(45), seconds(61)).is_some());
    }

    #[test]
    fn a_pong_is_missing_only_if_nothing_was_heard_for_as_long_as_it_had_time() {
        let cut = |heard: bool, at: u64| {
            let mut watch = open();
            watch.handle_ping(seconds(10));
            if heard {
                watch.handle_heard(seconds(12));
            }
            watch.handle_close(seconds(at), true);
            watch.justifies(CloseReason::NoPong, &PROMISES)
        };
        assert_eq!([cut(false, 13), cut(false, 12), cut(true, 13)], [true, false, false]);
    }
}
