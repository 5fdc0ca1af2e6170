//! The connection table: what is happening to each slot, and which slots are free. Slots
//! that were never used take no memory.
//!
//! ```text
//!           accept armed            accepted          Finish
//!     Free ─────────────▶ Accepting ────────▶ Open ────────────────▶ Ending ───────▶ Closing
//!      ▲ ▲                    │                │ Linger                ▲     nothing    │
//!      │ └────────────────────┘                └──────▶ Lingering ─────┘     in flight  │
//!      │        failed                                   end of stream, failure,        │
//!      │                                                 bytes_max, or Abort            │
//!      └────────────────────────────────────────────────────────────────────────────────┘
//!                        closed: the generation goes up by one
//! ```
//!
//! `Abort` leads to `Ending` from every state in which the kernel may hold something. A CLOSE is
//! submitted only when nothing of the connection is in flight: as long as something is armed, the
//! kernel keeps the socket open behind it.

use std::os::fd::OwnedFd;

use bitflags::bitflags;
use sockets::FreeSlots;
use worker::{ConnectionId, Slot, Time};

use crate::{
    descriptors::File,
    tag::{Kind, Tag},
};

/// Where a slot is in its life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Phase {
    /// In the pool of free slots.
    #[default]
    Free,
    /// Named by an armed accept.
    Accepting,
    /// The worker's.
    Open,
    /// FIN goes out, or is out; what still comes in is thrown away.
    Lingering,
    /// Waits until nothing is in flight, to be closed.
    Ending,
    /// The CLOSE is submitted.
    Closing,
}

/// What is armed for receiving.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Armed {
    /// Nothing.
    #[default]
    Nothing,
    /// A poll, until there is something to receive.
    Poll,
    /// A one-shot receive, which does not wait.
    Receive,
    /// A multishot receive.
    Multishot,
}

impl Armed {
    fn kind(self) -> Option<Kind> {
        match self {
            Self::Nothing => None,
            Self::Poll => Some(Kind::Poll),
            Self::Receive => Some(Kind::Receive),
            Self::Multishot => Some(Kind::Multishot),
        }
    }
}

bitflags! {
    /// What is true of a slot at a moment.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub(crate) struct Flags: u16 {
        /// A cancellation of what is armed was submitted.
        const CANCELLING = 1;
        /// Bytes are to be received: the worker asked, or the engine lingers.
        const WANTED = 1 << 1;
        /// The stream has ended or failed: nothing is left to receive.
        const ENDED = 1 << 2;
        /// The slot is on the list of those to arm.
        const LISTED = 1 << 3;
        /// More bytes are there, so that no poll is needed before the next receive.
        const MORE = 1 << 4;
        /// The slot is on the list of multishots.
        const MULTISHOT_LISTED = 1 << 5;
        /// A send was refused, or cut short, and the worker has not been told.
        const REFUSED = 1 << 6;
        /// The poll for writability is armed.
        const WRITE_POLL = 1 << 7;
        /// A SHUTDOWN is in flight.
        const SHUTDOWN = 1 << 8;
        /// The CONNECT that resets the connection is in flight.
        const ABORT = 1 << 9;
    }
}

/// What the engine knows of one slot. Everything else about a connection is the worker's.
#[derive(Debug, Default)]
pub(crate) struct SlotState {
    /// How many connections have had this slot.
    pub(crate) generation: u32,
    /// Its socket, unless that stands in the ring's table in the place of the slot.
    pub(crate) socket: Option<OwnedFd>,
    /// The batch that last sent to it.
    pub(crate) batch: u32,
    /// Bytes thrown away while lingering.
    pub(crate) lingered_bytes: u32,
    /// The second of the clock, modulo 2^16, in which `receives` were counted.
    pub(crate) second: u16,
    /// Receives within that second.
    pub(crate) receives: u8,
    /// Receives since the last poll.
    pub(crate) receives_in_row: u8,
    pub(crate) phase: Phase,
    pub(crate) armed: Armed,
    pub(crate) flags: Flags,
}

impl SlotState {
    /// Whether this flag is raised.
    pub(crate) fn has(&self, flag: Flags) -> bool {
        self.flags.contains(flag)
    }

    /// True exactly when the kernel holds an entry of this connection.
    pub(crate) fn in_flight(&self) -> bool {
        self.armed != Armed::Nothing
            || self.flags.intersects(Flags::WRITE_POLL | Flags::SHUTDOWN | Flags::ABORT)
    }

    /// Its socket, as entries name it.
    #[inline]
    pub(crate) fn file(&self, slot: Slot) -> File {
        self.socket.as_ref().map_or(File::direct(slot), File::ordinary)
    }

    /// The tag of an entry for this connection.
    pub(crate) fn tag(&self, kind: Kind, slot: Slot) -> Tag {
        Tag::of_connection(kind, self.generation, slot)
    }

    /// Counts a receive within its second of the clock.
    pub(crate) fn count_receive(&mut self, now: Time) {
        let second = second(now);
        if self.second != second {
            self.second = second;
            self.receives = 0;
        }
        self.receives = self.receives.saturating_add(1);
    }

    /// True exactly when so many receives were counted within this second or the last. 0: never.
    pub(crate) fn is_busy(&self, now: Time, receives_min: u8) -> bool {
        receives_min > 0 && self.receives >= receives_min && !self.is_quiet(now)
    }

    /// True exactly when nothing was received within the last whole second.
    pub(crate) fn is_quiet(&self, now: Time) -> bool {
        second(now).wrapping_sub(self.second) > 1
    }

    /// The tag of what is armed for receiving.
    pub(crate) fn armed_tag(&self, slot: Slot) -> Option<Tag> {
        self.armed.kind().map(|kind| self.tag(kind, slot))
    }
}

/// The second of the clock, modulo 2^16.
fn second(now: Time) -> u16 {
    u16::try_from((now.0 / 1_000_000_000) % (1 << 16)).unwrap_or(0)
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
        self.states[slot as usize].phase = Phase::Accepting;
        Some(slot)
    }

    /// Gives a slot the socket that was accepted for it, unless that stands in its place.
    pub(crate) fn hold(&mut self, slot: Slot, socket: Option<OwnedFd>) {
        self.states[slot as usize].socket = socket;
    }

    /// Puts a slot back whose accept took nothing.
    pub(crate) fn put_back(&mut self, slot: Slot) {
        self.states[slot as usize].phase = Phase::Free;
        self.free.put_back(slot);
    }

    /// Frees a slot that the kernel holds nothing of any more, for a new generation.
    pub(crate) fn release(&mut self, slot: Slot) {
        let state = &mut self.states[slot as usize];
        // The lists that a slot may be on are tidied when they are next walked.
        *state = SlotState {
            generation: state.generation.wrapping_add(1),
            flags: state.flags & (Flags::LISTED | Flags::MULTISHOT_LISTED),
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
                && !matches!(state.phase, Phase::Free | Phase::Accepting)
        })
    }

    /// The state of a connection that is the worker's.
    pub(crate) fn open_mut(&mut self, connection: ConnectionId) -> Option<&mut SlotState> {
        self.connection_mut(connection).filter(|state| state.phase == Phase::Open)
    }

    /// The state of the connection that a completion speaks of.
    pub(crate) fn tagged_mut(&mut self, tag: Tag) -> Option<&mut SlotState> {
        self.slot_mut(tag.slot).filter(|state| {
            state.tag(tag.kind, tag.slot) == tag
                && !matches!(state.phase, Phase::Free | Phase::Accepting)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_released_slot_has_a_new_generation() {
        let mut slots = Slots::new(8);
        let slot = slots.take_free().unwrap();
        slots.slot_mut(slot).unwrap().phase = Phase::Open;
        let first = slots.connection(slot);
        let tag = slots.slot_mut(slot).unwrap().tag(Kind::Poll, slot);
        assert!(slots.open_mut(first).is_some() && slots.tagged_mut(tag).is_some());
        slots.release(slot);
        assert_eq!(slots.take_free(), Some(slot));
        slots.slot_mut(slot).unwrap().phase = Phase::Open;
        assert_eq!(slots.connection(slot), ConnectionId { slot: 0, generation: 1 });
        assert!(slots.open_mut(first).is_none(), "an operation for the first");
        assert!(slots.tagged_mut(tag).is_none(), "a completion of the first");
    }

    /// A million of them must fit a small machine.
    #[test]
    fn a_slot_takes_twenty_four_bytes() {
        assert!(size_of::<SlotState>() <= 24, "{} bytes", size_of::<SlotState>());
    }
}
