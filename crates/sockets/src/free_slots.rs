//! Which slots of a connection table are free. The lowest goes first, so that a table which is
//! mostly empty stays dense, and neighbours were usually accepted together.

use worker::Slot;

/// The free slots of a table of fixed size.
#[derive(Debug)]
pub(crate) struct FreeSlots {
    /// One bit per slot: set exactly when it is free.
    words: Vec<u64>,
    /// No word before this one has a bit set.
    from: usize,
    count: u32,
}

impl FreeSlots {
    /// All of a table of `count`.
    pub(crate) fn new(count: u32) -> Self {
        let mut words = vec![u64::MAX; (count as usize).div_ceil(64)];
        if let Some(last) = words.last_mut().filter(|_| !count.is_multiple_of(64)) {
            *last = (1 << (count % 64)) - 1;
        }
        Self { words, from: 0, count }
    }

    /// Bytes of the bitmap.
    pub(crate) fn bytes(&self) -> usize {
        self.words.len() * size_of::<u64>()
    }

    /// How many slots are free.
    pub(crate) fn count(&self) -> u32 {
        self.count
    }

    /// Takes the lowest free slot.
    pub(crate) fn take(&mut self) -> Option<Slot> {
        let words = self.words.get_mut(self.from..)?;
        let Some(offset) = words.iter().position(|word| *word != 0) else {
            self.from = self.words.len();
            return None;
        };
        let word = &mut words[offset];
        let bit = word.trailing_zeros();
        *word &= *word - 1;
        self.from += offset;
        self.count -= 1;
        Some(u32::try_from(self.from).unwrap_or(0) * 64 + bit)
    }

    /// Gives back a slot that was taken.
    pub(crate) fn put_back(&mut self, slot: Slot) {
        let word = slot as usize / 64;
        self.words[word] |= 1 << (slot % 64);
        self.from = self.from.min(word);
        self.count += 1;
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_free_slot_goes_first() {
        let mut free = FreeSlots::new(130);
        let taken: Vec<Slot> = std::iter::from_fn(|| free.take()).collect();
        assert_eq!(taken, (0..130).collect::<Vec<Slot>>());
        assert_eq!(free.count(), 0);
        for slot in [128, 3, 65] {
            free.put_back(slot);
        }
        assert_eq!(free.count(), 3);
        let again: Vec<Slot> = std::iter::from_fn(|| free.take()).collect();
        assert_eq!(again, [3, 65, 128]);
    }

    #[test]
    fn a_table_of_whole_words_has_no_slot_beyond_its_end() {
        let mut free = FreeSlots::new(64);
        assert_eq!(std::iter::from_fn(|| free.take()).count(), 64);
        assert_eq!(FreeSlots::new(0).take(), None);
    }
}
