//! Large frames without a copy, where that was asked for. A target of an offer is then sent to out of
//! the arena by SEND_ZC, which completes twice: what the socket took is told by the first completion,
//! in the enter that consumed the entry, as of every send; that the kernel reads the bytes no more by
//! the second, the notification, whenever that is. A connection may be closed in between and its slot
//! be used again: a notification concerns the arena, and no socket. But the kernel ends no ring before
//! its last notification, and keeps the ring's table until then: a process that is killed would leave
//! every socket of a worker open until the last peer has read, or its socket has timed out. So where
//! frames leave from an arena, connections and listeners are to be ordinary descriptors (the gateway's
//! choice; the contract of this engine holds on both).
//!
//! A route is a connection. A notification also says whether the kernel copied all the same: loopback,
//! a tunnel and a packet capture make it, and a network card that does not gather. Such a connection is
//! marked by one bit in its slot and gets its frames as without the arena from then on, so a route
//! that copies costs each of its connections what was out before the first report.

use bytes::Bytes;
use io_uring::cqueue;
use worker::Slot;

use crate::{
    arena::{Arena, Pages, is_of_generation},
    engine::RingEngine,
    queue::Entry,
    sends::FrameMark,
    slots::{Flags, Phase},
    tag::{Kind, Tag},
};

/// When frames are sent without a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ZeroCopy {
    /// Frames of at least so many bytes, at least 1.
    pub bytes_min: u32,
    /// Bytes of frames that are out at once, rounded up to 2 MiB; at most 1 GiB.
    pub arena_bytes: u32,
}

impl ZeroCopy {
    /// Bytes of the smallest frame.
    pub(crate) fn least(self) -> usize {
        self.bytes_min.max(1) as usize
    }
}

impl RingEngine {
    /// True exactly when such a frame may leave from the arena.
    #[inline]
    pub(crate) fn is_large(&self, frame: &Bytes) -> bool {
        frame.len() >= self.zero_copy_bytes_min
    }

    /// One target of an offer, from the arena. `None`: its route copies, or there is no room, which
    /// `is_large` no longer says then.
    pub(crate) fn offer_from_arena(
        &mut self,
        is_large: &mut bool,
        frame: &Bytes,
        mark: FrameMark,
        slot: Slot,
    ) -> Option<Entry> {
        let arena = self.arena.as_mut()?;
        let state = self.slots.slot_mut(slot).filter(|state| !state.has(Flags::COPIES))?;
        let (generation, file) = (state.generation, state.file(slot));
        let Some(place) = arena.hold(frame) else {
            *is_large = false;
            self.counts.zero_copy_exhausted += 1;
            return None;
        };
        self.counts.zero_copy_sends += 1;
        Some(arena.send(place, mark, (slot, generation), file))
    }

    /// Takes either completion of a send from the arena.
    pub(crate) fn on_zero_copy(&mut self, tag: Tag, completion: &cqueue::Entry) {
        let (result, flags) = (completion.result(), completion.flags());
        let is_last = !cqueue::more(flags);
        let arena = self.arena.as_mut();
        let Some(mark) = arena.and_then(|arena| arena.complete(tag, is_last)) else {
            self.counts.completions_stale += 1;
            return;
        };
        if cqueue::notif(flags) {
            self.on_notified(tag, result);
            return;
        }
        if result <= 0
            && !is_last
            && let Some(state) = self.slots.slot_mut(tag.slot)
        {
            state.flags.insert(Flags::TOOK_NOTHING);
        }
        self.on_decided(Tag { kind: Kind::Offer, mark: mark.number(), slot: tag.slot }, result);
    }

    /// The kernel reads the frame no more.
    fn on_notified(&mut self, tag: Tag, result: i32) {
        // IORING_NOTIF_USAGE_ZC_COPIED is the sign bit.
        let copied = result < 0;
        let state = self.slots.slot_mut(tag.slot).filter(|state| state.phase == Phase::Open);
        let state = state.filter(|state| copied && is_of_generation(tag, state.generation));
        let Some(state) = state else { return };
        if state.has(Flags::TOOK_NOTHING) {
            // Of what was refused whole the kernel says so too, since nothing of it left uncopied.
            state.flags.remove(Flags::TOOK_NOTHING);
            return;
        }
        self.counts.zero_copy_copied += 1;
        if self.avoids_copies && !state.has(Flags::COPIES) {
            state.flags.insert(Flags::COPIES);
            self.counts.zero_copy_routes_off += 1;
        }
    }
}

/// What the operator is told where zero copies were asked for.
pub(crate) fn note_on_arena(arena: Option<&Arena>) -> &'static str {
    match arena.map(Arena::pages) {
        None => {
            "large frames are copied as all others: there is no arena for them, or this kernel does \
             not take SEND_ZC with IORING_SEND_ZC_REPORT_USAGE as needed, which Linux 6.2 has"
        }
        Some(Pages::Huge) => {
            "large frames are sent without a copy, out of huge pages (vm.nr_hugepages)"
        }
        Some(Pages::Advised) => {
            "large frames are sent without a copy, out of memory for which transparent huge pages \
             are asked for: vm.nr_hugepages has none to spare"
        }
        Some(Pages::Ordinary) => {
            "large frames are sent without a copy, out of ordinary pages: neither vm.nr_hugepages \
             nor transparent huge pages are to be had"
        }
    }
}
