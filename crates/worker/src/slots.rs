//! A set of slots as a bitmap: one bit each, iterated in slot order, 64 at a step.

use crate::operation::Slot;

/// A set of slots. Grows to the highest slot ever inserted.
#[derive(Debug, Default, Clone)]
pub struct SlotSet {
    words: Vec<u64>,
    count: u32,
}

impl SlotSet {
    /// An empty set that owns no memory.
    #[must_use]
    pub const fn new() -> Self {
        Self { words: Vec::new(), count: 0 }
    }

    /// Adds a slot; `false` when it was there.
    pub fn insert(&mut self, slot: Slot) -> bool {
        let (index, bit) = place(slot);
        if index >= self.words.len() {
            self.words.resize(index + 1, 0);
        }
        let added = self.words[index] & bit == 0;
        self.words[index] |= bit;
        self.count += u32::from(added);
        added
    }

    /// Takes a slot out; `false` when it was not there.
    pub fn remove(&mut self, slot: Slot) -> bool {
        let (index, bit) = place(slot);
        let Some(word) = self.words.get_mut(index) else { return false };
        let removed = *word & bit != 0;
        *word &= !bit;
        self.count -= u32::from(removed);
        removed
    }

    /// Whether the slot is in the set.
    #[must_use]
    pub fn contains(&self, slot: Slot) -> bool {
        let (index, bit) = place(slot);
        self.words.get(index).is_some_and(|word| word & bit != 0)
    }

    /// How many slots are in the set.
    #[must_use]
    pub fn len(&self) -> usize {
        self.count as usize
    }

    /// Whether no slot is in the set.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The 64 slots from `64 * index` on, the lowest in the lowest bit; zero beyond the end.
    #[must_use]
    pub fn word(&self, index: usize) -> u64 {
        self.words.get(index).copied().unwrap_or(0)
    }

    /// How many words hold the set.
    #[must_use]
    pub fn words(&self) -> usize {
        self.words.len()
    }

    /// The first slot of the set at or after `from`.
    #[must_use]
    pub fn next(&self, from: Slot) -> Option<Slot> {
        let (mut index, bit) = place(from);
        let mut word = self.word(index) & !(bit - 1);
        while word == 0 {
            index += 1;
            word = *self.words.get(index)?;
        }
        Some(slot_at(index, word.trailing_zeros()))
    }

    /// The slots in order.
    pub fn iter(&self) -> impl Iterator<Item = Slot> + '_ {
        std::iter::successors(self.next(0), |&slot| self.next(slot + 1))
    }
}

fn place(slot: Slot) -> (usize, u64) {
    ((slot / 64) as usize, 1 << (slot % 64))
}

#[expect(clippy::cast_possible_truncation, reason = "an index comes from a slot, which is a u32")]
fn slot_at(index: usize, bit: u32) -> Slot {
    index as u32 * 64 + bit
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_come_back_in_order_whatever_the_order_of_insertion() {
        let mut set = SlotSet::new();
        for slot in [700, 3, 64, 63, 127, 0] {
            assert!(set.insert(slot));
        }
        assert!(!set.insert(64));
        assert_eq!(set.iter().collect::<Vec<_>>(), [0, 3, 63, 64, 127, 700]);
        assert!(set.remove(63));
        assert!(!set.remove(63));
        assert!(!set.remove(100_000));
        assert_eq!(set.next(4), Some(64));
        assert_eq!(set.next(701), None);
        assert_eq!(set.len(), 5);
    }
}
