//! The clock that all workers share.

use rustix::time::{ClockId, clock_gettime};
use worker::Time;

/// The time now: CLOCK_MONOTONIC in nanoseconds.
#[must_use]
#[inline]
pub fn now() -> Time {
    let now = clock_gettime(ClockId::Monotonic);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    let nanoseconds = u64::try_from(now.tv_nsec).unwrap_or(0);
    Time(seconds.saturating_mul(1_000_000_000).saturating_add(nanoseconds))
}
