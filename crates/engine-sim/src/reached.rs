//! What histories have come by: faults, pressures, timers, and every way in which a connection is
//! refused or closed. A simulation in which something never happens shows nothing about it, so each
//! of these is a row of a table in which no number may be zero.

use std::{collections::BTreeMap, fmt};

use worker::{CloseReason, DropReason, RefusalReason, Report};

/// A send that took some of the bytes.
pub(crate) const SHORT_SEND: &str = "short send";
/// A send that took none, because there was no room or for no reason.
pub(crate) const EAGAIN: &str = "EAGAIN";
/// A receive that found no buffer.
pub(crate) const ENOBUFS: &str = "ENOBUFS";
/// Something was told of a connection that was gone.
pub(crate) const STALE_COMPLETION: &str = "stale completion";
/// Something that was ready was told later.
pub(crate) const LATE_COMPLETION: &str = "late completion";
/// For some milliseconds hardly any send took anything.
pub(crate) const EAGAIN_STORM: &str = "EAGAIN storm";
/// A link let nothing through for a while.
pub(crate) const STALLED_LINK: &str = "stalled link";
/// An accepted connection was lost.
pub(crate) const FAILED_ACCEPT: &str = "failed accept";
/// Bytes that had arrived together were received apart.
pub(crate) const SPLIT_RECEIVE: &str = "split receive";
/// A link broke.
pub(crate) const BROKEN_LINK: &str = "broken link";
/// A worker was kept from its turn.
pub(crate) const LATE_TURN: &str = "late turn";
/// A member of the mesh has come to have no room for a letter.
pub(crate) const MESH_FULL: &str = "mesh full";
/// A worker was taken apart and put together again.
pub(crate) const MOVED_WORKER: &str = "moved worker";
/// The same, with a compressed message that had come in part; and on another engine, where every
/// connection stands in another place.
pub(crate) const MOVED_WITHIN_COMPRESSED: &str = "moved within compressed";
pub(crate) const HANDED_OVER: &str = "moved to another engine";
/// A publisher was no longer read from.
pub(crate) const PAUSED_PUBLISHER: &str = "paused publisher";
/// A client was told to come back later.
pub(crate) const STATUS_503: &str = "503";
/// A client that did not answer a Close frame was cut.
pub(crate) const CLOSE_TIMER: &str = "timer: close";
/// The same, behind a FIN of ours; and one that lingers has ended, or sent too much, before that.
pub(crate) const LINGER_TIMER: &str = "timer: linger";
pub(crate) const LINGER_END: &str = "linger end";
/// A silent client was pinged.
pub(crate) const PING_TIMER: &str = "timer: ping";
/// Publications were delayed, and the delay was over.
pub(crate) const COALESCE_TIMER: &str = "timer: coalesce";
/// A client that had published faster than it may was read from again.
pub(crate) const RATE_TIMER: &str = "timer: rate";
/// Accepting went on that had rested.
pub(crate) const ACCEPT_REST_OVER: &str = "timer: accept";

/// A visitor got out of reach, so that only the server's own timeouts tell; and its socket gave up
/// before they did.
pub(crate) const OUT_OF_REACH: &str = "out of reach";
pub(crate) const GIVEN_UP: &str = "out of reach: given up";

/// The control thread has asked workers something, or given them other settings.
pub(crate) const ASKED: &str = "asked";
pub(crate) const REMOVED_TOPIC: &str = "asked: remove by topic";
pub(crate) const REMOVED_ADDRESS: &str = "asked: remove by address";
pub(crate) const REMOVED_ID: &str = "asked: remove by id";
pub(crate) const SETTINGS: &str = "other settings";

/// The same where tokens are needed: by whom they mean, who is blocked from then on; those that are
/// not any more; and what tokens are verified with.
pub(crate) const REMOVED_SUBJECT: &str = "asked: remove by subject";
pub(crate) const UNBLOCKED: &str = "unblocked";
pub(crate) const OTHER_ACCESS: &str = "other access";

/// A visitor was let in with a token that had ended a moment before, or after it had been blocked;
/// and a page was told by a Close frame why it is not let in.
pub(crate) const IN_GRACE: &str = "token: in its grace";
pub(crate) const LET_IN_AGAIN: &str = "token: good again";
pub(crate) const PAGE_DISMISSED: &str = "token: page dismissed";

/// A thousand connections were open at once: once a history.
pub(crate) const MANY_OPEN: &str = "1,000 open at once";

/// What was queued for a connection was seen, from outside, to be half of what may be; and
/// for one that was sent compressed messages.
pub(crate) const QUEUE_HALF_FULL: &str = "queue half full";
pub(crate) const DEFLATED_QUEUE_HALF_FULL: &str = "compressed: queue half full";

/// Somebody has received a message that its publisher had sent in three fragments or more, with
/// control frames between them; and one that was compressed.
pub(crate) const FRAGMENTS: &str = "many fragments";
pub(crate) const DEFLATED_FRAGMENTS: &str = "compressed: many fragments";

/// A visitor has received a compressed message.
pub(crate) const COMPRESSED_RECEIVED: &str = "compressed: received";

/// A request was refused for what its extensions are.
pub(crate) const BAD_EXTENSIONS: &str = "bad: extensions";
/// A visitor was closed for what it said compressed.
pub(crate) const BAD_STREAM: &str = "bad: broken stream";
pub(crate) const BAD_CUT_OFF: &str = "bad: stream cut off";
pub(crate) const BAD_TEXT: &str = "bad: compressed no text";
pub(crate) const BAD_BOMB: &str = "bad: bomb";
pub(crate) const BAD_LENGTH: &str = "bad: compressed too long";
pub(crate) const BAD_CONTINUATION: &str = "bad: RSV1 continues";
pub(crate) const BAD_CONTROL: &str = "bad: RSV1 on a ping";
pub(crate) const BAD_AGREEMENT: &str = "bad: RSV1 unagreed";

/// The rows that no report counts.
const ROWS: [&str; 52] = [
    MOVED_WORKER,
    MOVED_WITHIN_COMPRESSED,
    HANDED_OVER,
    SHORT_SEND,
    EAGAIN,
    EAGAIN_STORM,
    STALLED_LINK,
    ENOBUFS,
    STALE_COMPLETION,
    LATE_COMPLETION,
    FAILED_ACCEPT,
    SPLIT_RECEIVE,
    BROKEN_LINK,
    LATE_TURN,
    MESH_FULL,
    PAUSED_PUBLISHER,
    STATUS_503,
    CLOSE_TIMER,
    LINGER_TIMER,
    LINGER_END,
    PING_TIMER,
    COALESCE_TIMER,
    RATE_TIMER,
    ACCEPT_REST_OVER,
    OUT_OF_REACH,
    GIVEN_UP,
    ASKED,
    REMOVED_TOPIC,
    REMOVED_ADDRESS,
    REMOVED_ID,
    SETTINGS,
    REMOVED_SUBJECT,
    UNBLOCKED,
    OTHER_ACCESS,
    IN_GRACE,
    LET_IN_AGAIN,
    PAGE_DISMISSED,
    MANY_OPEN,
    QUEUE_HALF_FULL,
    DEFLATED_QUEUE_HALF_FULL,
    FRAGMENTS,
    DEFLATED_FRAGMENTS,
    COMPRESSED_RECEIVED,
    BAD_EXTENSIONS,
    BAD_STREAM,
    BAD_CUT_OFF,
    BAD_TEXT,
    BAD_BOMB,
    BAD_LENGTH,
    BAD_CONTINUATION,
    BAD_CONTROL,
    BAD_AGREEMENT,
];

/// The other timers, each of which has a reason of its own.
const HANDSHAKE_TIMER: &str = "timer: handshake";
const PONG_TIMER: &str = "timer: pong";
const WRITE_TIMER: &str = "timer: write";
const AGE_TIMER: &str = "timer: age";

/// A client was not read from because it had published faster than it may.
const RATE_PAUSE: &str = "paused by rate";

/// A client had sent more than a worker decodes of it in one turn.
const SHARE_DEFERRAL: &str = "deferred by share";

/// A token had to wait for a later turn to be verified.
const VERIFICATION_DEFERRAL: &str = "token: deferred";

/// A worker has inflated what a visitor has sent.
const COMPRESSED_SENT: &str = "compressed: sent";

/// Reasons that nothing closes for: no violation that a decoder finds is of data that is not
/// supported, and a worker that fails ends with its process.
const UNREACHED: [CloseReason; 2] = [CloseReason::UnsupportedData, CloseReason::InternalError];

/// The reason that nothing here refuses for: nobody comes through a proxy.
const UNASKED: [RefusalReason; 1] = [RefusalReason::ProxyHeader];

/// How often each row was reached.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reached(BTreeMap<String, u64>);

impl Reached {
    pub(crate) fn count(&mut self, row: &str) {
        self.add(row, 1);
    }

    fn add(&mut self, row: &str, times: u64) {
        if times == 0 {
            return;
        }
        match self.0.get_mut(row) {
            Some(count) => *count += times,
            None => _ = self.0.insert(row.to_owned(), times),
        }
    }

    /// What a worker has counted.
    pub(crate) fn add_report(&mut self, report: &Report) {
        // Most reports count few of them: no name is made for the others.
        let some = |times: &u64| *times > 0;
        for reason in CloseReason::ALL {
            let times = Some(report.closed[reason as usize]).filter(some);
            times.into_iter().for_each(|times| self.add(&closed(reason), times));
        }
        for reason in RefusalReason::ALL {
            let times = Some(report.refused[reason as usize]).filter(some);
            times.into_iter().for_each(|times| self.add(&refused(reason), times));
        }
        for reason in DropReason::ALL {
            let times = Some(report.messages_dropped[reason as usize]).filter(some);
            times.into_iter().for_each(|times| self.add(&dropped(reason), times));
        }
        self.add(COMPRESSED_SENT, report.inflated.messages);
        self.add(RATE_PAUSE, report.rate_pauses);
        self.add(SHARE_DEFERRAL, report.share_deferrals);
        self.add(VERIFICATION_DEFERRAL, report.verification_deferrals);
        self.add(HANDSHAKE_TIMER, report.refused[RefusalReason::Timeout as usize]);
        self.add(PONG_TIMER, report.closed[CloseReason::NoPong as usize]);
        self.add(WRITE_TIMER, report.closed[CloseReason::Stalled as usize]);
        self.add(AGE_TIMER, report.closed[CloseReason::Moving as usize]);
    }

    /// Adds what another history has reached.
    pub fn merge(&mut self, other: &Self) {
        other.0.iter().for_each(|(row, times)| self.add(row, *times));
    }

    /// The rows that must be reached and were not.
    #[must_use]
    pub fn missing(&self) -> Vec<String> {
        rows().filter(|row| !self.0.contains_key(row)).collect()
    }
}

/// Every row that must be reached.
fn rows() -> impl Iterator<Item = String> {
    let reported = [
        HANDSHAKE_TIMER,
        PONG_TIMER,
        WRITE_TIMER,
        AGE_TIMER,
        RATE_PAUSE,
        SHARE_DEFERRAL,
        VERIFICATION_DEFERRAL,
        COMPRESSED_SENT,
    ];
    let closes = CloseReason::ALL.into_iter().filter(|reason| !UNREACHED.contains(reason));
    let named = ROWS.into_iter().chain(reported).map(str::to_owned);
    let refusals = RefusalReason::ALL.into_iter().filter(|reason| !UNASKED.contains(reason));
    let drops = DropReason::ALL.into_iter().map(dropped);
    named.chain(closes.map(closed)).chain(drops).chain(refusals.map(refused))
}

fn closed(reason: CloseReason) -> String {
    format!("closed: {}", reason.label())
}

fn dropped(reason: DropReason) -> String {
    format!("dropped: {}", reason.label())
}

fn refused(reason: RefusalReason) -> String {
    format!("refused: {}", reason.label())
}

impl fmt::Display for Reached {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unexpected = self.0.keys().filter(|row| rows().all(|other| other != **row)).cloned();
        for row in rows().chain(unexpected) {
            let times = self.0.get(&row).copied().unwrap_or(0);
            let remark = if times == 0 { "  never reached" } else { "" };
            writeln!(formatter, "  {row:<28} {times:>12}{remark}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_never_reached_is_missing_and_what_was_is_not() {
        let mut report = Report::new();
        report.closed[CloseReason::NoPong as usize] = 2;
        let mut reached = Reached::default();
        assert!(reached.missing().contains(&"closed: no_pong".to_owned()));
        reached.add_report(&report);
        let mut all = Reached::default();
        all.count(EAGAIN);
        all.merge(&reached);
        let missing = all.missing();
        for row in ["closed: no_pong", "timer: pong", "EAGAIN"] {
            assert!(!missing.contains(&row.to_owned()), "{row}");
        }
        assert!(missing.contains(&"short send".to_owned()));
        assert!(missing.contains(&"closed: removed".to_owned()));
        assert!(!missing.contains(&"refused: proxy_header".to_owned()), "nobody has a proxy");
    }
}
