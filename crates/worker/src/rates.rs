//! How fast each client may publish. A client over its rate is not read from until it is within it
//! again, so what it sends waits in its own socket and nothing of it is lost.

use std::{cmp::Reverse, collections::BinaryHeap, num::NonZeroU32};

use crate::operation::{ConnectionId, Slot, Time};

/// The clocks of all connections, and who waits for how long.
#[derive(Debug)]
pub(crate) struct Rates {
    period_ns: u64,
    burst_ns: u64,
    /// When each slot's allowance will be whole again, in nanoseconds (the "theoretical arrival
    /// time" of the generic cell rate algorithm, ITU-T I.371). Grown to the highest slot that sent.
    whole_at: Vec<u64>,
    /// Who is paused until when: each connection once.
    paused: BinaryHeap<Reverse<(Time, ConnectionId)>>,
}

impl Rates {
    /// So many messages a second; as many may come at once after a second of rest.
    pub(crate) fn new(rate: NonZeroU32) -> Self {
        let (period_ns, burst_ns) = spans(rate);
        Self { period_ns, burst_ns, whole_at: Vec::new(), paused: BinaryHeap::new() }
    }

    /// From now on so many. What has come counts on, and who is paused waits as long as this rate
    /// asks for.
    pub(crate) fn change(&mut self, rate: NonZeroU32) {
        (self.period_ns, self.burst_ns) = spans(rate);
        for Reverse((_, connection)) in std::mem::take(&mut self.paused) {
            self.pause(connection);
        }
    }

    /// Who is paused.
    pub(crate) fn paused(&self) -> impl Iterator<Item = ConnectionId> {
        self.paused.iter().map(|Reverse((_, connection))| *connection)
    }

    /// A new connection begins with a whole allowance.
    pub(crate) fn begin(&mut self, slot: Slot) {
        if let Some(whole_at) = self.whole_at.get_mut(slot as usize) {
            *whole_at = 0;
        }
    }

    /// A message has been taken. `true` exactly when no other may come before `poll_due` says so.
    pub(crate) fn handle_message(&mut self, connection: ConnectionId, now: Time) -> bool {
        let index = connection.slot as usize;
        if index >= self.whole_at.len() {
            self.whole_at.resize(index + 1, 0);
        }
        self.whole_at[index] = self.whole_at[index].max(now.0) + self.period_ns;
        self.is_over(connection, now)
    }

    /// Whether the connection's allowance has no room for another message now.
    pub(crate) fn is_over(&self, connection: ConnectionId, now: Time) -> bool {
        self.due(connection) > now
    }

    /// The connection is paused until its allowance has room for one message.
    pub(crate) fn pause(&mut self, connection: ConnectionId) {
        self.paused.push(Reverse((self.due(connection), connection)));
    }

    /// When there is room for one message.
    fn due(&self, connection: ConnectionId) -> Time {
        let whole_at = self.whole_at.get(connection.slot as usize).copied().unwrap_or_default();
        Time((whole_at + self.period_ns).saturating_sub(self.burst_ns))
    }

    /// The next connection that may go on.
    pub(crate) fn poll_due(&mut self, now: Time) -> Option<ConnectionId> {
        let Reverse((due, _)) = *self.paused.peek()?;
        if due > now {
            return None;
        }
        self.paused.pop().map(|Reverse((_, connection))| connection)
    }

    /// What is known of a connection, to go on elsewhere: when its allowance will be whole, and
    /// whether it waits for room in it.
    pub(crate) fn allowance(&self, connection: ConnectionId) -> (u64, bool) {
        let whole_at = self.whole_at.get(connection.slot as usize).copied().unwrap_or_default();
        (whole_at, self.paused.iter().any(|Reverse((_, paused))| *paused == connection))
    }

    /// Goes on with what `allowance` has said.
    pub(crate) fn restore(&mut self, connection: ConnectionId, (whole_at, waits): (u64, bool)) {
        let index = connection.slot as usize;
        if index >= self.whole_at.len() {
            self.whole_at.resize(index + 1, 0);
        }
        self.whole_at[index] = whole_at;
        if waits {
            self.pause(connection);
        }
    }

    /// When `poll_due` has something.
    pub(crate) fn deadline(&self) -> Option<Time> {
        self.paused.peek().map(|Reverse((due, _))| *due)
    }
}

/// Nanoseconds from one message to the next, and of rest after which as many may come at once.
fn spans(rate: NonZeroU32) -> (u64, u64) {
    const SECOND: u64 = 1_000_000_000;
    let period_ns = SECOND / u64::from(rate.get());
    (period_ns, SECOND.max(period_ns))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;
    const CLIENT: ConnectionId = ConnectionId { slot: 70, generation: 1 };

    #[test]
    fn a_second_of_messages_may_come_at_once_and_then_one_a_period() {
        let mut rates = Rates::new(NonZeroU32::new(4).unwrap());
        let start = Time(50 * SECOND);
        assert_eq!(
            [0; 4].map(|_| rates.handle_message(CLIENT, start)),
            [false, false, false, true]
        );
        rates.pause(CLIENT);
        assert_eq!(rates.deadline(), Some(Time(start.0 + SECOND / 4)));
        assert_eq!(rates.poll_due(start), None);
        let later = Time(start.0 + SECOND / 4);
        assert_eq!(rates.poll_due(later), Some(CLIENT));
        assert_eq!(rates.poll_due(later), None);
        assert!(rates.handle_message(CLIENT, later), "it was the only one it had room for");
        rates.begin(CLIENT.slot);
        assert!(!rates.handle_message(CLIENT, later), "a new connection in the same slot");
    }

    #[test]
    fn who_is_paused_waits_by_the_rate_that_counts_now() {
        let mut rates = Rates::new(NonZeroU32::new(1).unwrap());
        assert!(rates.handle_message(CLIENT, Time(5 * SECOND)));
        rates.pause(CLIENT);
        rates.change(NonZeroU32::new(4).unwrap());
        assert_eq!(rates.deadline(), Some(Time(5 * SECOND + SECOND / 4)));
        rates.change(NonZeroU32::new(1).unwrap());
        assert_eq!(rates.deadline(), Some(Time(6 * SECOND)));
        assert_eq!(rates.paused().collect::<Vec<_>>(), [CLIENT]);
    }

    #[test]
    fn one_a_second_is_one_a_second() {
        let mut rates = Rates::new(NonZeroU32::new(1).unwrap());
        assert!(rates.handle_message(CLIENT, Time(5 * SECOND)));
        rates.pause(CLIENT);
        assert_eq!(rates.deadline(), Some(Time(6 * SECOND)));
    }
}
