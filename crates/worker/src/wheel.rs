//! Deadlines of connections in a wheel of ticks. Only what is exceptional has one: a handshake, a
//! queue that waits, a close. An entry is a hint to look again at a connection, whose record says
//! what its deadline really is; so a deadline that moves later costs nothing.

use std::time::Duration;

use crate::operation::ConnectionId;

/// A moment in units of [`TICK`] since the worker's start. Wraps after two years, so moments are
/// compared by their distance.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Tick(pub(crate) u32);

/// The resolution of deadlines.
pub(crate) const TICK: Duration = Duration::from_nanos(TICK_NS);
const TICK_NS: u64 = 1_000_000_000 / 64;

const BUCKETS: u32 = 512;

/// The wheel: 8 seconds in buckets of one tick. What is due later is looked at again after that.
#[derive(Debug)]
pub(crate) struct Wheel {
    buckets: Vec<Vec<ConnectionId>>,
    /// The first tick that has not been taken yet.
    next: Tick,
    entries: usize,
}

impl Tick {
    /// The tick that contains the moment so long after the worker's start.
    #[expect(clippy::cast_possible_truncation, reason = "ticks wrap, and are compared by distance")]
    pub(crate) fn at(elapsed: Duration) -> Self {
        Self((elapsed.as_nanos() / u128::from(TICK_NS)) as u32)
    }

    /// The first tick that is wholly behind `span` from this one.
    pub(crate) fn after(self, span: Duration) -> Self {
        let ticks = span.as_nanos().div_ceil(u128::from(TICK_NS));
        Self(self.0.wrapping_add(u32::try_from(ticks).unwrap_or(u32::MAX / 2).min(u32::MAX / 2)))
    }

    /// Whether this tick is before `other`.
    pub(crate) fn is_before(self, other: Self) -> bool {
        other.0.wrapping_sub(self.0).wrapping_sub(1) < u32::MAX / 2
    }

    /// How long this tick is after `earlier`.
    pub(crate) fn since(self, earlier: Self) -> Duration {
        TICK * self.0.wrapping_sub(earlier.0)
    }
}

impl Wheel {
    pub(crate) fn new() -> Self {
        Self { buckets: vec![Vec::new(); BUCKETS as usize], next: Tick(0), entries: 0 }
    }

    /// An empty wheel at a moment other than the start.
    pub(crate) fn starting_at(now: Tick) -> Self {
        Self { next: now, ..Self::new() }
    }

    /// Asks for a look at the connection at `due`, or earlier where that is beyond the wheel.
    /// Returns when it will be.
    pub(crate) fn insert(&mut self, connection: ConnectionId, due: Tick) -> Tick {
        let due = if due.is_before(self.next) { self.next } else { due };
        let ahead = due.0.wrapping_sub(self.next.0).min(BUCKETS - 1);
        let due = Tick(self.next.0.wrapping_add(ahead));
        self.buckets[(due.0 % BUCKETS) as usize].push(connection);
        self.entries += 1;
        due
    }

    /// The connections to look at up to and including `now`, a bucket at a time: put them into
    /// `looks`, and return the tick of that bucket. `None`: all have been taken.
    pub(crate) fn poll(&mut self, now: Tick, looks: &mut Vec<ConnectionId>) -> Option<Tick> {
        if self.entries == 0 {
            self.next =
                if now.is_before(self.next) { self.next } else { Tick(now.0.wrapping_add(1)) };
            return None;
        }
        while !now.is_before(self.next) {
            let tick = self.next;
            self.next = Tick(tick.0.wrapping_add(1));
            let bucket = &mut self.buckets[(tick.0 % BUCKETS) as usize];
            if !bucket.is_empty() {
                self.entries -= bucket.len();
                looks.append(bucket);
                // A storm of handshakes would leave each bucket as large as its worst moment.
                bucket.shrink_to(8);
                return Some(tick);
            }
        }
        None
    }

    /// How much memory it takes without entries.
    pub(crate) fn fixed_bytes(&self) -> usize {
        size_of_val(&*self.buckets)
    }

    /// How long from the start of `now` until something is to be looked at, if anything is.
    pub(crate) fn next_in(&self, now: Tick) -> Option<Duration> {
        if self.entries == 0 {
            return None;
        }
        let (first, _) = (0..BUCKETS)
            .map(|ahead| Tick(self.next.0.wrapping_add(ahead)))
            .map(|tick| (tick, &self.buckets[(tick.0 % BUCKETS) as usize]))
            .find(|(_, bucket)| !bucket.is_empty())?;
        Some(if first.is_before(now) { Duration::ZERO } else { first.since(now) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: ConnectionId = ConnectionId { slot: 1, generation: 7 };
    const B: ConnectionId = ConnectionId { slot: 2, generation: 9 };

    #[test]
    fn entries_come_out_at_their_tick_in_order() {
        let mut wheel = Wheel::new();
        let mut looks = Vec::new();
        assert_eq!(wheel.insert(A, Tick(70)), Tick(70));
        assert_eq!(wheel.insert(B, Tick(3)), Tick(3));
        assert_eq!(wheel.next_in(Tick(1)), Some(TICK * 2));
        assert_eq!(wheel.poll(Tick(2), &mut looks), None);
        assert_eq!(wheel.poll(Tick(80), &mut looks), Some(Tick(3)));
        assert_eq!(looks, [B]);
        looks.clear();
        assert_eq!(wheel.poll(Tick(80), &mut looks), Some(Tick(70)));
        assert_eq!(looks, [A]);
        assert_eq!(wheel.poll(Tick(80), &mut looks), None);
        assert_eq!(wheel.next_in(Tick(80)), None);
    }

    #[test]
    fn what_is_due_beyond_the_wheel_is_looked_at_when_it_has_turned() {
        let mut wheel = Wheel::new();
        let mut looks = Vec::new();
        assert_eq!(wheel.insert(A, Tick(100_000)), Tick(511));
        assert_eq!(wheel.poll(Tick(511), &mut looks), Some(Tick(511)));
    }

    #[test]
    fn what_is_overdue_comes_out_next() {
        let mut wheel = Wheel::new();
        let mut looks = Vec::new();
        assert_eq!(wheel.poll(Tick(1_000), &mut looks), None);
        assert_eq!(wheel.insert(A, Tick(5)), Tick(1_001));
        assert_eq!(wheel.poll(Tick(1_001), &mut looks), Some(Tick(1_001)));
    }

    #[test]
    fn ticks_are_compared_across_the_wrap() {
        assert!(Tick(u32::MAX).is_before(Tick(2)));
        assert!(!Tick(2).is_before(Tick(u32::MAX)));
        assert!(!Tick(5).is_before(Tick(5)));
        assert_eq!(Tick(u32::MAX).after(TICK * 3), Tick(2));
        assert_eq!(Tick(10).after(Duration::from_nanos(1)), Tick(11));
    }
}
