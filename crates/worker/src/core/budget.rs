//! The bound of all queues together. Over it the worst debtor goes first, which is who has the most
//! bytes queued for the longest time.

use std::collections::BinaryHeap;

use super::Core;
use crate::{breakage, operation::Slot, stats::CloseReason};

impl Core {
    /// Whether more is queued for all than may be.
    pub(crate) fn is_over_budget(&self) -> bool {
        let mut bytes_max = self.options.limits.send_queue_total_bytes_max;
        if breakage::doubles_budget() {
            bytes_max *= 2;
        }
        self.send_queue_bytes as u64 > bytes_max
    }

    /// Holds the bound of all queues together: once a turn, when it is known what became of every
    /// send, for of one that is cut before nobody would count what was lost. Each queue is looked at
    /// once, however many must go: within a turn a cut changes nobody else's debt. Returns how many
    /// were looked at.
    pub(crate) fn check_budget(&mut self) -> usize {
        if !self.is_over_budget() {
            return 0;
        }
        let mut looks = 0;
        let mut debtors = self.debtors(&mut looks);
        while self.is_over_budget() {
            let Some((_, slot)) = debtors.pop() else { break };
            if let Some(debtor) = self.connections.id_at(slot) {
                self.cut(debtor, CloseReason::OverBudget);
            }
        }
        looks
    }

    /// Who has something queued, by bytes × (milliseconds that the oldest has waited + 1).
    fn debtors(&self, looks: &mut usize) -> BinaryHeap<(u128, Slot)> {
        let tick = self.tick();
        let debt = |slot: Slot| {
            *looks += 1;
            let queue = self.connections.record(slot as usize).queue()?;
            let age = queue.oldest().map_or(0, |oldest| tick.since(oldest).as_millis());
            Some((queue.bytes() as u128 * (age + 1), slot))
        };
        self.connections.queued().iter().filter_map(debt).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::Bytes;
    use mesh::Member;

    use super::*;
    use crate::{
        Limits, Options, Proxies, SlowConsumer,
        connections::{Identity, State},
        operation::{ConnectionId, Time},
        send_queue::{Content, Frame},
        wheel::Tick,
    };

    const DEBTORS: u32 = 10_000;

    fn core() -> Core {
        let options = Options {
            connections_max: DEBTORS,
            listeners: 0,
            handshake_timeout: Duration::from_secs(5),
            write_timeout: Duration::from_secs(10),
            close_timeout: Duration::from_secs(5),
            ping_interval: None,
            pong_timeout: Duration::from_secs(10),
            coalesce_delay: Duration::ZERO,
            connection_age_max: None,
            addresses: None,
            proxies: Proxies::default(),
            publish_rate_max: None,
            slow_consumer: SlowConsumer::Close,
            limits: Limits { send_queue_frame_charge_bytes: 0, ..Limits::default() },
            seed: 7,
        };
        Core::new(options, Member(0), Time(1))
    }

    /// Opens a connection that owes so many bytes.
    fn owe(core: &mut Core, slot: Slot, bytes: usize) {
        let connection = ConnectionId { slot, generation: 0 };
        let identity = Identity::new("192.0.2.1:1".parse().unwrap(), Tick(0));
        core.connections.insert(connection, identity, Tick(0)).state = State::Open;
        core.connections.count_open(slot);
        let content = Content::Messages(None);
        let bytes = Bytes::from(vec![0; bytes]);
        let frame = Frame { bytes, messages: 1, content, queued: Tick(0) };
        core.with_queue(connection, |queue| queue.push(frame, 0));
    }

    #[test]
    fn ten_thousand_debtors_are_each_looked_at_once_however_many_must_go() {
        let mut core = core();
        // From 1 to 10,000 bytes, each once, in no order: 7,919 is a prime and no divisor.
        let owed = |slot: u32| slot * 7_919 % DEBTORS + 1;
        (0..DEBTORS).for_each(|slot| owe(&mut core, slot, owed(slot) as usize));
        assert_eq!(core.send_queue_bytes, 50_005_000);
        core.options.limits.send_queue_total_bytes_max = 50_005_000;
        assert_eq!(core.check_budget(), 0);
        // The half that owes least owes 12,502,500 bytes.
        core.options.limits.send_queue_total_bytes_max = 12_502_500;
        assert_eq!(core.check_budget(), 10_000);
        assert_eq!(core.send_queue_bytes, 12_502_500);
        let cut: Vec<u32> = core.closed.iter().map(|(cut, _)| owed(cut.slot)).collect();
        assert_eq!(cut, (5_001..=10_000).rev().collect::<Vec<_>>(), "the worst first");
    }
}
