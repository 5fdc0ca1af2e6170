//! The connection table of an engine: a state for each slot, and which slots are free. Slots that
//! were never used take no memory.

use worker::{ConnectionId, Slot};

use crate::free_slots::FreeSlots;

/// What an engine knows of one slot. A new one is nobody's, in its first generation.
pub trait SlotState: Default {
    /// How many connections have had the slot.
    fn generation(&self) -> u32;

    /// Whether a connection has it, from its accept until `Closed`.
    fn is_taken(&self) -> bool;

    /// Whether that connection is the worker's.
    fn is_open(&self) -> bool;

    /// Makes it nobody's, in this generation.
    fn renew(&mut self, generation: u32);
}

/// The table.
#[derive(Debug)]
pub struct Slots<S> {
    /// Grows to the highest slot used so far; its room is reserved, and becomes resident by use.
    states: Vec<S>,
    free: FreeSlots,
}

impl<S: SlotState> Slots<S> {
    /// A table of `count` free slots.
    #[must_use]
    pub fn new(count: u32) -> Self {
        Self { states: Vec::with_capacity(count as usize), free: FreeSlots::new(count) }
    }

    /// Bytes of the whole table.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.states.capacity() * size_of::<S>() + self.free.bytes()
    }

    /// How many slots are free.
    #[must_use]
    pub fn free_count(&self) -> u32 {
        self.free.count()
    }

    /// Takes the lowest free slot out of the pool, for a connection that is to come.
    pub fn take_free(&mut self) -> Option<Slot> {
        let slot = self.free.take()?;
        while self.states.len() <= slot as usize {
            self.states.push(S::default());
        }
        Some(slot)
    }

    /// Puts a slot back for which no connection came.
    pub fn put_back(&mut self, slot: Slot) {
        self.free.put_back(slot);
    }

    /// Frees a slot whose connection is gone, for a new generation.
    ///
    /// # Panics
    /// The slot was never taken.
    pub fn release(&mut self, slot: Slot) {
        let state = &mut self.states[slot as usize];
        state.renew(state.generation().wrapping_add(1));
        self.put_back(slot);
    }

    /// The connection that has this slot now.
    ///
    /// # Panics
    /// The slot was never taken.
    #[must_use]
    pub fn connection(&self, slot: Slot) -> ConnectionId {
        ConnectionId { slot, generation: self.states[slot as usize].generation() }
    }

    /// The state of a slot that has been used.
    #[inline]
    pub fn slot_mut(&mut self, slot: Slot) -> Option<&mut S> {
        self.states.get_mut(slot as usize)
    }

    /// The state of a connection that still has its slot.
    #[inline]
    pub fn connection_mut(&mut self, connection: ConnectionId) -> Option<&mut S> {
        self.slot_mut(connection.slot)
            .filter(|state| state.generation() == connection.generation && state.is_taken())
    }

    /// The state of a connection that is the worker's.
    #[inline]
    pub fn open_mut(&mut self, connection: ConnectionId) -> Option<&mut S> {
        self.connection_mut(connection).filter(|state| state.is_open())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[derive(Default)]
    struct State {
        generation: u32,
        is_taken: bool,
        is_open: bool,
    }

    impl SlotState for State {
        fn generation(&self) -> u32 {
            self.generation
        }

        fn is_taken(&self) -> bool {
            self.is_taken
        }

        fn is_open(&self) -> bool {
            self.is_open
        }

        fn renew(&mut self, generation: u32) {
            *self = Self { generation, ..Self::default() };
        }
    }

    /// A connection in the lowest free slot.
    fn open(slots: &mut Slots<State>) -> ConnectionId {
        let slot = slots.take_free().unwrap();
        let state = slots.slot_mut(slot).unwrap();
        (state.is_taken, state.is_open) = (true, true);
        slots.connection(slot)
    }

    #[test]
    fn a_slot_that_took_nobody_keeps_its_generation() {
        let mut slots = Slots::<State>::new(2);
        let slot = slots.take_free().unwrap();
        slots.put_back(slot);
        assert_eq!((slots.take_free(), slots.free_count()), (Some(slot), 1));
        assert_eq!(slots.connection(slot).generation, 0);
    }

    #[test]
    fn a_released_slot_has_a_new_generation() {
        let mut slots = Slots::new(1);
        let first = open(&mut slots);
        assert!(slots.open_mut(first).is_some());
        slots.release(first.slot);
        assert!(slots.connection_mut(slots.connection(0)).is_none(), "nobody has it");
        assert_eq!(open(&mut slots), ConnectionId { slot: 0, generation: 1 });
        assert!(slots.connection_mut(first).is_none(), "an operation for the first");
    }

    #[test]
    fn a_connection_that_ends_has_its_slot_and_is_not_the_workers() {
        let mut slots = Slots::new(1);
        let connection = open(&mut slots);
        slots.open_mut(connection).unwrap().is_open = false;
        assert!(slots.connection_mut(connection).is_some());
        assert!(slots.open_mut(connection).is_none());
    }

    #[test]
    fn the_generation_after_the_last_is_the_first() {
        let mut slots = Slots::<State>::new(1);
        let slot = slots.take_free().unwrap();
        slots.slot_mut(slot).unwrap().generation = u32::MAX;
        slots.release(slot);
        assert_eq!(slots.connection(slot).generation, 0);
    }
}
