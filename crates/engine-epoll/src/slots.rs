//! The connection table: the socket of each slot, and what is happening to it. Slots that were never
//! used take no memory.
//!
//! ```text
//!           accepted          Finish, Abort
//!     Free ─────────▶ Open ──────────────────▶ Ended
//!      ▲               │ Linger                  ▲ │
//!      │               └──────▶ Lingering ───────┘ │
//!      │                  end of stream, failure,  │
//!      │                    bytes_max, or Abort    │
//!      └───────────────────────────────────────────┘
//!            Closed is told: the generation goes up by one
//! ```
//!
//! The socket is closed on the way to `Ended`; the slot is free when the worker has been told.

use std::os::fd::OwnedFd;

use bitflags::bitflags;
use rustix::event::epoll::EventData;
use sockets::FreeSlots;
use worker::{ConnectionId, Slot};

/// Where a slot is in its life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Phase {
    /// In the pool of free slots.
    #[default]
    Free,
    /// The worker's.
    Open,
    /// FIN is out; what still comes in is thrown away.
    Lingering,
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
        /// An edge has come that no receive has found the end of.
        const READABLE = 1 << 2;
        /// There is more to learn than bytes: an end, an error, or an urgent mark, at which a receive
        /// stops short. Reading goes on until the socket has nothing.
        const MORE = 1 << 3;
        /// The slot is on the list of those to receive from.
        const LISTED = 1 << 4;
        /// A send was refused, or cut short, and the worker has not been told.
        const REFUSED = 1 << 5;
        /// The socket owes `Writable`, and epoll watches for it.
        const OWES_WRITABLE = 1 << 6;
    }
}

/// What the engine knows of one slot. Everything else about a connection is the worker's.
#[derive(Debug, Default)]
pub(crate) struct SlotState {
    /// There exactly when the connection is open or lingers.
    pub(crate) socket: Option<OwnedFd>,
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
}

/// What an event is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tag {
    /// A slot, or a place behind all slots.
    pub(crate) place: Slot,
    /// Of the connection; 0 for all else.
    pub(crate) generation: u32,
}

impl Tag {
    pub(crate) fn pack(self) -> EventData {
        EventData::new_u64(u64::from(self.generation) << 32 | u64::from(self.place))
    }

    #[expect(clippy::cast_possible_truncation, reason = "each half is what the cast keeps")]
    pub(crate) fn unpack(data: EventData) -> Self {
        let data = data.u64();
        Self { place: data as u32, generation: (data >> 32) as u32 }
    }
}

impl From<ConnectionId> for Tag {
    fn from(connection: ConnectionId) -> Self {
        Self { place: connection.slot, generation: connection.generation }
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

    /// Gives a socket the lowest free slot.
    pub(crate) fn open(&mut self, socket: OwnedFd) -> Option<ConnectionId> {
        let slot = self.free.take()?;
        while self.states.len() <= slot as usize {
            self.states.push(SlotState::default());
        }
        let state = &mut self.states[slot as usize];
        state.socket = Some(socket);
        state.phase = Phase::Open;
        Some(ConnectionId { slot, generation: state.generation })
    }

    /// Frees a slot for a new generation.
    pub(crate) fn release(&mut self, slot: Slot) {
        let state = &mut self.states[slot as usize];
        // The list that a slot may be on is tidied when it is next walked.
        *state = SlotState {
            generation: state.generation.wrapping_add(1),
            flags: state.flags & Flags::LISTED,
            ..SlotState::default()
        };
        self.free.put_back(slot);
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

    /// The state of a connection that has a socket.
    pub(crate) fn connection_mut(&mut self, connection: ConnectionId) -> Option<&mut SlotState> {
        self.slot_mut(connection.slot).filter(|state| {
            state.generation == connection.generation
                && matches!(state.phase, Phase::Open | Phase::Lingering)
        })
    }

    /// The state of a connection that is the worker's.
    pub(crate) fn open_mut(&mut self, connection: ConnectionId) -> Option<&mut SlotState> {
        self.connection_mut(connection).filter(|state| state.phase == Phase::Open)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn socket() -> OwnedFd {
        std::net::UdpSocket::bind(("127.0.0.1", 0)).unwrap().into()
    }

    #[test]
    fn a_released_slot_has_a_new_generation() {
        let mut slots = Slots::new(8);
        let first = slots.open(socket()).unwrap();
        assert!(slots.open_mut(first).is_some());
        slots.release(first.slot);
        let second = slots.open(socket()).unwrap();
        assert_eq!(second, ConnectionId { slot: first.slot, generation: 1 });
        assert!(slots.open_mut(first).is_none(), "an operation for the first");
        assert!(slots.open_mut(second).is_some());
    }

    #[test]
    fn a_tag_holds_both_of_its_halves() {
        let tag = Tag { place: 0x8000_0001, generation: 0xfedc_ba98 };
        assert_eq!(tag.pack().u64(), 0xfedc_ba98_8000_0001);
        assert_eq!(Tag::unpack(tag.pack()), tag);
    }

    /// A hundred thousand of them must fit a small container.
    #[test]
    fn a_slot_takes_sixteen_bytes() {
        assert_eq!(size_of::<SlotState>(), 16);
    }
}
