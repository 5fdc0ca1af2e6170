//! Which slots are open, and whose turn it is to be pinged. Shared by both loops.

use std::ops::Range;

/// What stands in a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Slot {
    /// Nothing, or a connection that is still in its handshake.
    Free,
    /// A connection that is sent to.
    Subscriber,
    /// A connection that is sent to and received from.
    Publisher,
}

/// The slots in order, with the cursor of the heartbeat.
#[derive(Debug)]
pub(crate) struct Table {
    slots: Vec<Slot>,
    /// One past the highest slot that was ever open, so that a small run walks a small table.
    used: u32,
    cursor: u32,
}

impl Table {
    /// A table of `size` free slots.
    pub(crate) fn new(size: u32) -> Table {
        Table { slots: vec![Slot::Free; size as usize], used: 0, cursor: 0 }
    }

    /// What stands in `slot`.
    pub(crate) fn get(&self, slot: u32) -> Slot {
        self.slots[slot as usize]
    }

    /// Puts `what` into `slot`.
    pub(crate) fn set(&mut self, slot: u32, what: Slot) {
        self.slots[slot as usize] = what;
        self.used = self.used.max(slot + 1);
    }

    /// The range of slots that may be open.
    pub(crate) fn all(&self) -> Range<u32> {
        0..self.used
    }

    /// The open slots among `range`, in order.
    pub(crate) fn open(&self, range: Range<u32>) -> impl Iterator<Item = u32> + '_ {
        range.filter(|slot| self.get(*slot) != Slot::Free)
    }

    /// The share of the table to ping in this tick when all is to be pinged in `ticks`.
    pub(crate) fn next_share(&mut self, ticks: u32) -> Range<u32> {
        if self.cursor >= self.used {
            self.cursor = 0;
        }
        let share = self.used.div_ceil(ticks.max(1));
        let range = self.cursor..(self.cursor + share).min(self.used);
        self.cursor = range.end;
        range
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_of_the_ticks_cover_the_table_once() {
        let mut table = Table::new(100);
        for slot in 0..10 {
            table.set(slot, Slot::Subscriber);
        }
        table.set(3, Slot::Free);
        let shares: Vec<_> = (0..4).map(|_| table.next_share(4)).collect();
        assert_eq!(shares, [0..3, 3..6, 6..9, 9..10]);
        assert_eq!(table.open(3..6).collect::<Vec<_>>(), [4, 5]);
        assert_eq!(table.next_share(4), 0..3);
    }
}
