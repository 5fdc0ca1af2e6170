//! When listeners are accepted from, and what becomes of one that is to be closed. How an accept is
//! made is the engine's.

use std::{os::fd::AsFd, time::Duration};

use rustix::io::Errno;
use worker::Time;

use crate::syn_filter::drop_syns;

/// How long accepting rests after the kernel had no descriptor or memory for a connection.
const REST: Duration = Duration::from_millis(100);

/// A listener that has accepted nobody for this long has nobody in the middle of a handshake that is
/// worth waiting for.
const QUIET: Duration = Duration::from_secs(1);

/// Between two looks into queues that nobody has called for. A kernel that moves connections to a
/// listener from one that was closed (`net.ipv4.tcp_migrate_req`, 5.14) may not wake who waits.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// When all listeners of an engine are accepted from.
#[derive(Debug)]
pub struct Pace {
    rest_until: Time,
    look_at: Time,
    /// How long a listener settles before it is closed.
    settle: Duration,
    /// True exactly when newcomers wait for want of a slot.
    paused: bool,
}

impl Pace {
    /// At once. A listener with newcomers settles for `settle` before it is closed.
    #[must_use]
    pub fn new(settle: Duration) -> Self {
        Self { rest_until: Time(0), look_at: Time(0), settle, paused: false }
    }

    /// The kernel had no descriptor or memory for a connection, and would not have any at once.
    pub fn rest(&mut self, now: Time) {
        self.rest_until = now + REST;
    }

    /// Whether accepting rests.
    #[must_use]
    pub fn is_resting(&self, now: Time) -> bool {
        now < self.rest_until
    }

    /// Whether it is time to look into the queues; if so, the next time is an interval later.
    pub fn looks(&mut self, now: Time) -> bool {
        let looks = now >= self.look_at;
        if looks {
            self.look_at = now + LOOK_INTERVAL;
        }
        looks
    }

    /// When a rest ends, or the first of the listeners that settle until then has settled. Looks have
    /// no time of their own: a worker is called every second for its report.
    #[must_use]
    pub fn due(&self, now: Time, settling: impl Iterator<Item = Time>) -> Time {
        let rest = if self.is_resting(now) { self.rest_until } else { Time::NEVER };
        settling.fold(rest, Time::min)
    }

    /// Takes note of whether newcomers wait for want of a slot. True exactly when they begin to.
    pub fn pauses(&mut self, paused: bool) -> bool {
        let was_paused = std::mem::replace(&mut self.paused, paused);
        paused && !was_paused
    }

    /// Until when a listener that is to be closed accepts on and lets the kernel drop SYNs; none where
    /// it is to be closed at once. `accepted_at` is when it accepted somebody last: if that is long
    /// ago nobody is on the way.
    #[must_use]
    pub fn settle(
        &self,
        now: Time,
        accepted_at: Option<Time>,
        listener: &impl AsFd,
    ) -> Option<Time> {
        let is_busy = accepted_at.is_some_and(|accepted_at| now.since(accepted_at) < QUIET);
        let settles = is_busy
            && !self.settle.is_zero()
            // A kernel that takes no filter resets who has not got through: as without one.
            && drop_syns(listener).is_ok();
        settles.then(|| now + self.settle)
    }
}

/// What a failed accept asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AcceptFailure {
    /// The next accept. Nobody was there, or has gone again.
    Passing,
    /// A rest. There was no descriptor or no memory.
    Exhausted,
    /// The end of the engine: what it was given is no listening TCP socket.
    Wrong,
}

/// What the errno of a failed accept asks for. One that is not known rests, so that whatever goes on
/// failing costs little.
#[must_use]
pub fn accept_failure(errno: i32) -> AcceptFailure {
    match Errno::from_raw_os_error(errno) {
        Errno::CANCELED | Errno::AGAIN | Errno::INTR | Errno::CONNABORTED => AcceptFailure::Passing,
        Errno::INVAL | Errno::BADF | Errno::NOTSOCK | Errno::OPNOTSUPP => AcceptFailure::Wrong,
        // EMFILE, ENFILE, ENOMEM, ENOBUFS.
        _ => AcceptFailure::Exhausted,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use std::net::TcpListener;

    use super::*;

    const SECOND: u64 = 1_000_000_000;

    /// Numbers of asm-generic/errno-base.h and asm-generic/errno.h; EPERM is a filter's.
    #[test]
    fn a_failed_accept_is_told_by_its_errno() {
        for (errnos, failure) in [
            (&[125, 11, 4, 103][..], AcceptFailure::Passing),
            (&[24, 23, 12, 105, 1], AcceptFailure::Exhausted),
            (&[22, 9, 88, 95], AcceptFailure::Wrong),
        ] {
            for errno in errnos {
                assert_eq!(accept_failure(*errno), failure, "{errno}");
            }
        }
    }

    #[test]
    fn a_rest_is_a_tenth_of_a_second_and_due_at_its_end() {
        let mut pace = Pace::new(Duration::ZERO);
        let now = Time(5 * SECOND);
        assert_eq!(pace.due(now, std::iter::empty()), Time::NEVER);
        pace.rest(now);
        let end = Time(5 * SECOND + SECOND / 10);
        assert!(pace.is_resting(Time(end.0 - 1)) && !pace.is_resting(end));
        assert_eq!(pace.due(now, std::iter::empty()), end);
        let settling = [Time(9 * SECOND), Time(5 * SECOND + 1)];
        assert_eq!(pace.due(now, settling.into_iter()), settling[1]);
        assert_eq!(pace.due(end, std::iter::empty()), Time::NEVER);
    }

    #[test]
    fn queues_are_looked_into_every_second() {
        let mut pace = Pace::new(Duration::ZERO);
        let looks: Vec<u64> =
            (0..40).filter(|tenth| pace.looks(Time(tenth * SECOND / 10))).collect();
        assert_eq!(looks, [0, 10, 20, 30]);
    }

    #[test]
    fn a_pause_is_counted_when_it_begins() {
        let mut pace = Pace::new(Duration::ZERO);
        let begins = [false, true, true, false, true].map(|paused| pace.pauses(paused));
        assert_eq!(begins, [false, true, false, false, true]);
    }

    #[test]
    fn only_a_listener_with_newcomers_settles_and_only_where_that_takes_time() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let pace = Pace::new(Duration::from_secs(3));
        let now = Time(8 * SECOND);
        let newcomer = Some(Time(7 * SECOND + 1));
        assert_eq!(pace.settle(now, newcomer, &listener), Some(Time(11 * SECOND)));
        assert_eq!(pace.settle(now, Some(Time(7 * SECOND)), &listener), None);
        assert_eq!(pace.settle(now, None, &listener), None);
        assert_eq!(Pace::new(Duration::ZERO).settle(now, newcomer, &listener), None);
    }
}
