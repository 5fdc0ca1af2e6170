//! What the connection table knows of a slot: its socket, and what is happening to it.
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
use worker::{ConnectionId, Slot};

/// Where a slot is in its life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Nobody's.
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
        /// The slot is on the list of those to receive from, or on that of those that rest before.
        const LISTED = 1 << 4;
        /// A send was refused, or cut short, and the worker has not been told.
        const REFUSED = 1 << 5;
        /// The socket owes `Writable`, and epoll watches for it.
        const OWES_WRITABLE = 1 << 6;
    }
}

/// The table.
pub(crate) type Slots = sockets::Slots<SlotState>;

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

impl sockets::SlotState for SlotState {
    fn generation(&self) -> u32 {
        self.generation
    }

    fn is_taken(&self) -> bool {
        self.phase != Phase::Free
    }

    fn is_open(&self) -> bool {
        self.phase == Phase::Open
    }

    fn renew(&mut self, generation: u32) {
        // The list that the slot may be on is tidied when it is next walked.
        *self = Self { generation, flags: self.flags & Flags::LISTED, ..Self::default() };
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

#[cfg(test)]
mod tests {
    use super::*;

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
