//! The connection table: the socket of each slot, and what is happening to it. Slots that were never
//! used take no memory.
//!
//! ```text
//!           accept started        accepted        Finish, Abort
//!     Free ───────────────▶ Taken ────────▶ Open ──────────────▶ Ending ──────▶ Ended
//!      ▲ ▲                    │              │ Linger               ▲  no task    │
//!      │ └────────────────────┘              └─────▶ Lingering ─────┘  has it     │
//!      │        failed                          end of stream, failure,           │
//!      │                                        bytes_max, or Abort               │
//!      └──────────────────────────────────────────────────────────────────────────┘
//!                     Closed is told: the generation goes up by one
//! ```
//!
//! The socket is closed on the way to `Ended`, when no task has it any more; the slot is free when
//! the worker has been told.

use std::{convert::Infallible, rc::Rc};

use bitflags::bitflags;
use sockets::FreeSlots;
use tokio::sync::oneshot;
use worker::{ConnectionId, Slot};

use crate::socket::Socket;

/// Where a slot is in its life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Phase {
    /// In the pool of free slots.
    #[default]
    Free,
    /// Kept for whom an accept brings.
    Taken,
    /// The worker's.
    Open,
    /// FIN is out; what still comes in is thrown away.
    Lingering,
    /// Waits for its tasks to end, to be closed.
    Ending,
    /// Closed, and the worker has not been told.
    Ended,
}

bitflags! {
    /// What is true of a slot at a moment.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub(crate) struct Flags: u8 {
        /// Bytes are to be received: the worker asked, or the engine lingers.
        const WANTED = 1;
        /// The stream has ended or failed: nothing is left to receive.
        const ENDED = 1 << 1;
        /// A read waits in the kernel, or is about to be started.
        const READING = 1 << 2;
        /// The slot is on the list of those to read from.
        const LISTED = 1 << 3;
        /// A send was refused, or cut short, and the worker has not been told.
        const REFUSED = 1 << 4;
        /// A task watches the socket for room, or is about to be started.
        const WATCHED = 1 << 5;
    }
}

/// What the engine knows of one slot. Everything else about a connection is the worker's.
#[derive(Debug, Default)]
pub(crate) struct SlotState {
    /// There exactly until the connection is closed.
    pub(crate) socket: Option<Rc<Socket>>,
    /// Dropped, it ends the task that watches for room.
    pub(crate) watch: Option<oneshot::Sender<Infallible>>,
    /// How many connections have had this slot.
    pub(crate) generation: u32,
    /// Bytes thrown away while lingering.
    pub(crate) lingered_bytes: u32,
    pub(crate) phase: Phase,
    pub(crate) flags: Flags,
}

impl SlotState {
    /// Whether this flag is raised.
    pub(crate) fn has(&self, flag: Flags) -> bool {
        self.flags.contains(flag)
    }

    /// True exactly when a task has the socket.
    pub(crate) fn is_waited_for(&self) -> bool {
        self.flags.intersects(Flags::READING | Flags::WATCHED)
    }

    /// True exactly when there is something to receive for.
    pub(crate) fn receives(&self) -> bool {
        matches!(self.phase, Phase::Open | Phase::Lingering) && self.has(Flags::WANTED)
    }
}

/// The table.
#[derive(Debug)]
pub(crate) struct Slots {
    /// Grows to the highest slot used so far; its room is reserved, and becomes resident by use.
    states: Vec<SlotState>,
    free: FreeSlots,
}

impl Slots {
    /// A table of `count` free slots.
    pub(crate) fn new(count: u32) -> Self {
        Self { states: Vec::with_capacity(count as usize), free: FreeSlots::new(count) }
    }

    /// Bytes of the whole table.
    pub(crate) fn bytes(&self) -> usize {
        self.states.capacity() * size_of::<SlotState>() + self.free.bytes()
    }

    /// How many slots are free.
    pub(crate) fn free_count(&self) -> u32 {
        self.free.count()
    }

    /// Takes the lowest free slot out of the pool, for an accept.
    pub(crate) fn take_free(&mut self) -> Option<Slot> {
        let slot = self.free.take()?;
        while self.states.len() <= slot as usize {
            self.states.push(SlotState::default());
        }
        self.states[slot as usize].phase = Phase::Taken;
        Some(slot)
    }

    /// Puts a slot back whose accept took nothing.
    pub(crate) fn put_back(&mut self, slot: Slot) {
        self.states[slot as usize].phase = Phase::Free;
        self.free.put_back(slot);
    }

    /// Gives the socket that an accept has brought the slot that was kept for it.
    pub(crate) fn open(&mut self, slot: Slot, socket: Socket) -> ConnectionId {
        let state = &mut self.states[slot as usize];
        state.socket = Some(Rc::new(socket));
        state.phase = Phase::Open;
        self.connection(slot)
    }

    /// Frees a slot whose socket is closed, for a new generation.
    pub(crate) fn release(&mut self, slot: Slot) {
        let state = &mut self.states[slot as usize];
        // The list that the slot may be on is tidied when it is next walked.
        *state = SlotState {
            generation: state.generation.wrapping_add(1),
            flags: state.flags & Flags::LISTED,
            ..SlotState::default()
        };
        self.put_back(slot);
    }

    /// The connection that has this slot now.
    pub(crate) fn connection(&self, slot: Slot) -> ConnectionId {
        ConnectionId { slot, generation: self.states[slot as usize].generation }
    }

    /// The state of a slot that has been used.
    #[inline]
    pub(crate) fn slot_mut(&mut self, slot: Slot) -> Option<&mut SlotState> {
        self.states.get_mut(slot as usize)
    }

    /// The state of a connection that still has its slot.
    pub(crate) fn connection_mut(&mut self, connection: ConnectionId) -> Option<&mut SlotState> {
        self.slot_mut(connection.slot).filter(|state| {
            state.generation == connection.generation
                && !matches!(state.phase, Phase::Free | Phase::Taken)
        })
    }

    /// The state of a connection that is the worker's.
    pub(crate) fn open_mut(&mut self, connection: ConnectionId) -> Option<&mut SlotState> {
        self.connection_mut(connection).filter(|state| state.phase == Phase::Open)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn a_slot_that_took_nobody_keeps_its_generation() {
        let mut slots = Slots::new(2);
        let slot = slots.take_free().unwrap();
        slots.put_back(slot);
        assert_eq!((slots.take_free(), slots.free_count()), (Some(slot), 1));
        assert_eq!(slots.connection(slot).generation, 0);
    }

    #[test]
    fn a_released_slot_has_a_new_generation() {
        let mut slots = Slots::new(1);
        let slot = slots.take_free().unwrap();
        slots.slot_mut(slot).unwrap().phase = Phase::Open;
        let first = slots.connection(slot);
        assert!(slots.open_mut(first).is_some());
        slots.release(slot);
        assert_eq!(slots.take_free(), Some(slot));
        slots.slot_mut(slot).unwrap().phase = Phase::Open;
        assert_eq!(slots.connection(slot), ConnectionId { slot: 0, generation: 1 });
        assert!(slots.open_mut(first).is_none(), "an operation for the first");
    }

    /// A hundred thousand of them are 4 MB.
    #[test]
    fn a_slot_takes_forty_bytes() {
        assert!(size_of::<SlotState>() <= 40, "{} bytes", size_of::<SlotState>());
    }
}
