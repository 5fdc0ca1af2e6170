//! What the connection table knows of a slot: what is happening to it, and what is in flight.
//!
//! ```text
//!           accepted          Finish
//!     Free ─────────▶ Open ────────────────▶ Ending ───────▶ Closing
//!      ▲               │ Linger                ▲     nothing    │
//!      │               └──────▶ Lingering ─────┘     in flight  │
//!      │                         end of stream, failure,        │
//!      │                         bytes_max, or Abort            │
//!      └────────────────────────────────────────────────────────┘
//!            closed: the generation goes up by one
//! ```
//!
//! `Abort` leads to `Ending` from every state in which the kernel may hold something. A CLOSE is
//! submitted only when nothing of the connection is in flight: as long as something is armed, the
//! kernel keeps the socket open behind it.

use std::os::fd::OwnedFd;

use bitflags::bitflags;
use worker::{Slot, Time};

use crate::{
    descriptors::File,
    tag::{Kind, Tag},
};

/// Where a slot is in its life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Nobody's; perhaps named by an armed accept.
    #[default]
    Free,
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
        /// The slot is on the list of those to arm, or on that of those that rest before.
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
        /// The kernel has copied what was sent without a copy: nothing is sent so any more.
        const COPIES = 1 << 10;
        /// A send without a copy was refused whole, and the kernel has not notified of it.
        const TOOK_NOTHING = 1 << 11;
    }
}

/// The table.
pub(crate) type Slots = sockets::Slots<SlotState>;

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
        // The lists that the slot may be on are tidied when they are next walked.
        *self = Self {
            generation,
            flags: self.flags & (Flags::LISTED | Flags::MULTISHOT_LISTED),
            ..Self::default()
        };
    }
}

/// The state of the connection that a completion speaks of.
pub(crate) fn tagged_mut(slots: &mut Slots, tag: Tag) -> Option<&mut SlotState> {
    slots
        .slot_mut(tag.slot)
        .filter(|state| state.tag(tag.kind, tag.slot) == tag && state.phase != Phase::Free)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_late_completion_is_not_for_the_next_connection() {
        let mut slots = Slots::new(8);
        let slot = slots.take_free().unwrap();
        slots.slot_mut(slot).unwrap().phase = Phase::Open;
        let tag = slots.slot_mut(slot).unwrap().tag(Kind::Poll, slot);
        assert!(tagged_mut(&mut slots, tag).is_some());
        slots.release(slot);
        assert_eq!(slots.take_free(), Some(slot));
        let next = slots.slot_mut(slot).unwrap().tag(Kind::Poll, slot);
        assert!(tagged_mut(&mut slots, next).is_none(), "nobody has it yet");
        slots.slot_mut(slot).unwrap().phase = Phase::Open;
        assert!(tagged_mut(&mut slots, next).is_some());
        assert!(tagged_mut(&mut slots, tag).is_none(), "a completion of the first");
    }

    /// A million of them must fit a small machine.
    #[test]
    fn a_slot_takes_twenty_four_bytes() {
        assert!(size_of::<SlotState>() <= 24, "{} bytes", size_of::<SlotState>());
    }
}
