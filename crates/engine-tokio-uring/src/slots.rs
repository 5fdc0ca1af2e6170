//! What the connection table knows of a slot: its socket, and what is happening to it.
//!
//! ```text
//!           accepted        Finish, Abort
//!     Free ─────────▶ Open ──────────────▶ Ending ──────▶ Ended
//!      ▲               │ Linger               ▲  no task    │
//!      │               └─────▶ Lingering ─────┘  has it     │
//!      │                  end of stream, failure,           │
//!      │                  bytes_max, or Abort               │
//!      └────────────────────────────────────────────────────┘
//!            Closed is told: the generation goes up by one
//! ```
//!
//! The socket is closed on the way to `Ended`, when no task has it any more; the slot is free when
//! the worker has been told.

use std::{convert::Infallible, rc::Rc};

use bitflags::bitflags;
use tokio::sync::oneshot;

use crate::socket::Socket;

/// Where a slot is in its life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Nobody's; perhaps kept for whom an accept brings.
    #[default]
    Free,
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
        /// The slot is on the list of those to read from, or on that of those that rest before.
        const LISTED = 1 << 3;
        /// A send was refused, or cut short, and the worker has not been told.
        const REFUSED = 1 << 4;
        /// A task watches the socket for room, or is about to be started.
        const WATCHED = 1 << 5;
    }
}

/// The table.
pub(crate) type Slots = sockets::Slots<SlotState>;

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

#[cfg(test)]
mod tests {
    use super::*;

    /// A hundred thousand of them are 4 MB.
    #[test]
    fn a_slot_takes_forty_bytes() {
        assert!(size_of::<SlotState>() <= 40, "{} bytes", size_of::<SlotState>());
    }
}
