//! Pings without a timer each: a cursor walks the table in slot order, so much of it a tick that
//! every connection is visited once in an interval, and a trail behind it finds the pings that
//! were not answered.

use std::{collections::VecDeque, time::Duration};

use crate::{
    breakage,
    connections::{Connections, Flags, State},
    operation::Slot,
    wheel::{TICK, Tick},
};

/// The longest that a pong may take: pings are timed in microseconds of 32 bits, which wrap after
/// 71 minutes.
pub const PONG_TIMEOUT_MAX: Duration = Duration::from_secs(60 * 60);

/// The cursor and its trail.
#[derive(Debug)]
pub(crate) struct Heartbeat {
    interval: Duration,
    pong_timeout: Duration,
    /// How often the cursor moves: a wake-up of an idle worker each.
    period: Duration,
    /// The slots of the current tick that have not been visited.
    next: usize,
    end: usize,
    /// The part of a slot that the last tick owed, in units of an interval's nanoseconds.
    owed: u128,
    last: Tick,
    /// Visited slots and when, oldest first.
    trail: VecDeque<(Tick, usize, usize)>,
}

impl Heartbeat {
    pub(crate) fn new(interval: Duration, pong_timeout: Duration, now: Tick) -> Self {
        let period = (interval / 16).clamp(TICK, Duration::from_secs(1));
        Self {
            interval,
            pong_timeout,
            period,
            next: 0,
            end: 0,
            owed: 0,
            last: now,
            trail: VecDeque::new(),
        }
    }

    /// Moves the cursor's goal on, if a tick has passed.
    pub(crate) fn handle_time(&mut self, now: Tick, slots: usize) {
        let passed = now.since(self.last);
        if now.is_before(self.last) || passed < self.period {
            return;
        }
        self.last = now;
        if self.next >= self.end && self.next >= slots {
            (self.next, self.end) = (0, 0);
        }
        let owed = self.owed + passed.as_nanos() * slots as u128;
        let interval = self.interval.as_nanos().max(1);
        let step = usize::try_from(owed / interval).unwrap_or(usize::MAX);
        self.owed = owed % interval;
        self.end = self.end.saturating_add(step).min(slots);
    }

    /// The next connections to ping, at most `targets_max`, marked as pinged. One that is busy
    /// is not: the write timeout watches it.
    pub(crate) fn poll_pings(
        &mut self,
        now: Tick,
        now_us: u32,
        connections: &mut Connections,
        targets_max: usize,
        targets: &mut Vec<Slot>,
    ) {
        let from = self.next;
        let silent_ticks = Tick(0).after(self.interval / 2).0;
        while self.next < self.end && targets.len() < targets_max {
            let record = connections.record_mut(self.next);
            // In ticks, and the commonest reasons first: a worker visits all its connections.
            let is_due = record.state == State::Open
                && now.0.wrapping_sub(record.heard.0) >= silent_ticks
                && !record.has(Flags::AWAITING_PONG)
                && !record.is_busy();
            if is_due && !breakage::forgets_pings() {
                record.flags.insert(Flags::AWAITING_PONG);
                record.timed_us = now_us;
                targets.push(Slot::try_from(self.next).expect("slots are numbers of 32 bits"));
            }
            self.next += 1;
        }
        if self.next > from {
            self.trail.push_back((now, from, self.next));
        }
    }

    /// Slots whose ping was not answered in time.
    pub(crate) fn poll_unanswered(
        &mut self,
        now: Tick,
        now_us: u32,
        connections: &Connections,
        unanswered: &mut Vec<Slot>,
    ) {
        while let Some(&(visited, from, to)) = self.trail.front() {
            if now.is_before(self.due(visited)) {
                return;
            }
            self.trail.pop_front();
            let waited = |since: u32| Duration::from_micros(now_us.wrapping_sub(since).into());
            unanswered.extend((from..to).filter_map(|slot| {
                let record = connections.record(slot);
                // Who is not read from cannot be heard: it is looked at again when the cursor has
                // come round.
                let is_late = record.has(Flags::AWAITING_PONG)
                    && record.state == State::Open
                    && !record.has(Flags::PAUSED)
                    && waited(record.timed_us) >= self.pong_timeout;
                is_late.then(|| Slot::try_from(slot).expect("slots are numbers of 32 bits"))
            }));
        }
    }

    /// Someone who was pinged by another worker is looked after like those pinged now.
    pub(crate) fn watch(&mut self, now: Tick, slot: Slot) {
        self.trail.push_back((now, slot as usize, slot as usize + 1));
    }

    /// When pings sent in the tick `visited` are overdue: even one that left at the end of that
    /// tick has had its time then, for nobody looks at it again before the cursor comes round.
    fn due(&self, visited: Tick) -> Tick {
        visited.after(self.pong_timeout + TICK)
    }

    /// Whether pings wait to be sent.
    pub(crate) fn has_pings(&self) -> bool {
        self.next < self.end
    }

    /// How long from `now` until the cursor moves or the trail must be looked at.
    pub(crate) fn next_in(&self, now: Tick) -> Duration {
        let tick = self.last.after(self.period);
        let trail = self.trail.front().map(|(visited, ..)| self.due(*visited));
        let until = |due: Tick| if due.is_before(now) { Duration::ZERO } else { due.since(now) };
        trail.map_or(until(tick), |trail| until(tick).min(until(trail)))
    }
}
