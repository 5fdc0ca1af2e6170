//! What becomes of a receive that has failed, and who is not received from for a while because of
//! it. How a receive is made is the engine's.

use std::time::Duration;

use rustix::io::Errno;
use worker::{Failure, Slot, Time};

use crate::failure;

/// How long receiving rests from connections for whose bytes the kernel had no memory. It would have
/// none at once, and each try costs a system call.
const REST: Duration = Duration::from_millis(100);

/// What a failed receive asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReceiveFailure {
    /// The next receive, when there are bytes. Nobody's fault.
    Passing,
    /// A rest. There was no memory.
    Exhausted,
    /// The end of the connection.
    Lost(Failure),
}

/// What the errno of a failed receive asks for.
#[must_use]
pub fn receive_failure(errno: i32) -> ReceiveFailure {
    match Errno::from_raw_os_error(errno) {
        Errno::AGAIN | Errno::INTR | Errno::CANCELED => ReceiveFailure::Passing,
        Errno::NOMEM | Errno::NOBUFS => ReceiveFailure::Exhausted,
        _ => ReceiveFailure::Lost(failure(errno)),
    }
}

/// Connections that are not received from for a while. An engine keeps each off its other lists
/// meanwhile, by the mark that it has for being on one of them, so that it is here once.
#[derive(Debug, Default)]
pub struct Resting {
    slots: Vec<Slot>,
    /// When the rest ends; of no meaning while nobody rests.
    until: Time,
}

impl Resting {
    /// Lets a connection rest: as long as those that rest already, so that all are tried together.
    pub fn rest(&mut self, now: Time, slot: Slot) {
        if self.slots.is_empty() {
            self.until = now + REST;
        }
        self.slots.push(slot);
    }

    /// When the rest ends; never where nobody rests.
    #[must_use]
    pub fn due(&self) -> Time {
        if self.slots.is_empty() { Time::NEVER } else { self.until }
    }

    /// Those whose rest has ended, in the order in which they were put here.
    pub fn rested(&mut self, now: Time) -> impl Iterator<Item = Slot> {
        let ended = if now < self.due() { 0 } else { self.slots.len() };
        self.slots.drain(..ended)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    /// Numbers of asm-generic/errno-base.h and asm-generic/errno.h.
    #[test]
    fn a_failed_receive_is_told_by_its_errno() {
        for (errnos, failure) in [
            (&[11, 4, 125][..], ReceiveFailure::Passing),
            (&[12, 105], ReceiveFailure::Exhausted),
            (&[104, 32], ReceiveFailure::Lost(Failure::Reset)),
            (&[110], ReceiveFailure::Lost(Failure::TimedOut)),
            (&[13], ReceiveFailure::Lost(Failure::Other(13))),
        ] {
            for errno in errnos {
                assert_eq!(receive_failure(*errno), failure, "{errno}");
            }
        }
    }

    #[test]
    fn all_rest_until_a_tenth_of_a_second_after_the_first() {
        let mut resting = Resting::default();
        let begin = Time(5 * SECOND);
        let end = Time(5 * SECOND + SECOND / 10);
        assert_eq!(resting.due(), Time::NEVER);
        assert_eq!(resting.rested(begin).count(), 0);
        resting.rest(begin, 7);
        resting.rest(Time(end.0 - 1), 3);
        assert_eq!(resting.due(), end);
        assert_eq!(resting.rested(Time(end.0 - 1)).count(), 0);
        assert_eq!(resting.rested(end).collect::<Vec<Slot>>(), [7, 3]);
        assert_eq!(resting.due(), Time::NEVER);
        resting.rest(Time(9 * SECOND), 7);
        assert_eq!(resting.due(), Time(9 * SECOND + SECOND / 10));
    }
}
