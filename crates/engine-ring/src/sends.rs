//! The memory that the kernel reads: frames on their way to sockets, and a few constants. A send
//! of this engine never waits in the kernel (`MSG_DONTWAIT`), so a frame is held from the making of
//! its entry until the enter that consumed it has returned: for the length of one batch.
#![expect(unsafe_code, reason = "the kernel reads this memory")]

use std::os::fd::RawFd;

use bytes::Bytes;
use io_uring::{opcode, squeue, types::Fd};
use worker::Slot;

use crate::{
    descriptors::File,
    queue::Entry,
    tag::{Kind, MARK_MAX, Tag},
};

/// What is added to a guest's eventfd.
static ONE: [u8; 8] = 1_u64.to_ne_bytes();

/// An address of no family: connecting to it dissolves a connection (connect(2)).
static NOWHERE: [u8; 16] = [0; 16];

const _: () = assert!(libc::AF_UNSPEC == 0 && size_of::<libc::sockaddr>() == 16);

/// A frame of the current batch.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct FrameMark(u32);

impl FrameMark {
    /// As a tag has it.
    pub(crate) fn number(self) -> u32 {
        self.0
    }
}

/// The frames of the current batch.
#[derive(Debug)]
pub(crate) struct Sends {
    frames: Vec<Bytes>,
    /// The mark of the first of them. Marks go round, so that a completion which comes later than
    /// it may is not taken for one of this batch.
    first: u32,
    /// True exactly when a whole send may skip its completion: see `self_test.rs`.
    inline: bool,
}

impl Sends {
    /// For a kernel on which sends are `inline` or not.
    pub(crate) fn new(inline: bool) -> Self {
        Self { frames: Vec::new(), first: 0, inline }
    }

    /// Holds a frame for the rest of the batch.
    pub(crate) fn hold(&mut self, bytes: Bytes) -> FrameMark {
        let mark = self.first.wrapping_add(u32::try_from(self.frames.len()).unwrap_or(0));
        self.frames.push(bytes);
        FrameMark(mark & MARK_MAX)
    }

    /// One target of an offer. A whole send completes only where the kernel is not `inline`.
    #[inline]
    pub(crate) fn offer(&self, mark: FrameMark, slot: Slot, file: File) -> Option<Entry> {
        let flags = if self.inline { squeue::Flags::SKIP_SUCCESS } else { squeue::Flags::empty() };
        self.entry(mark, Kind::Offer, slot, file, flags)
    }

    /// A send that completes, whatever becomes of it.
    pub(crate) fn send(&self, mark: FrameMark, slot: Slot, file: File) -> Option<Entry> {
        self.entry(mark, Kind::Send, slot, file, squeue::Flags::empty())
    }

    #[inline]
    fn entry(
        &self,
        mark: FrameMark,
        kind: Kind,
        slot: Slot,
        file: File,
        flags: squeue::Flags,
    ) -> Option<Entry> {
        let bytes = self.frame(mark.0)?;
        // Without MSG_WAITALL a partial send counts as a success and is skipped in silence.
        let wait_all = if self.inline { libc::MSG_WAITALL } else { 0 };
        let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        let entry = opcode::Send::new(file.number(), bytes.as_ptr(), length)
            .flags(libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL | wait_all)
            .build()
            .flags(flags | file.flags());
        // SAFETY: the bytes are immutable and held in `frames` until `settle`, which the engine
        // calls when an enter has consumed every entry of the batch (`RingEngine::enter`).
        Some(unsafe { Entry::with_memory(entry, Tag { kind, mark: mark.0, slot }) })
    }

    /// The frame that a completion of this batch speaks of.
    pub(crate) fn frame(&self, mark: u32) -> Option<&Bytes> {
        let index = mark.wrapping_sub(self.first) & MARK_MAX;
        self.frames.get(index as usize)
    }

    /// The kernel has consumed every entry of the batch: it reads the frames no more.
    pub(crate) fn settle(&mut self) {
        let count = u32::try_from(self.frames.len()).unwrap_or(0);
        self.first = self.first.wrapping_add(count) & MARK_MAX;
        self.frames.clear();
    }
}

/// Resets a connection: RST to the peer, and everything queued for it is freed.
pub(crate) fn abort(file: File, tag: Tag) -> Entry {
    let entry = opcode::Connect::new(file.number(), NOWHERE.as_ptr().cast(), 16).build();
    // SAFETY: the address is a constant as long as a `sockaddr`.
    unsafe { Entry::with_memory(entry.flags(file.flags()), tag) }
}

/// Adds one to a guest's eventfd. Completes only when that fails.
pub(crate) fn wake_event(event: RawFd, tag: Tag) -> Entry {
    let entry = opcode::Write::new(Fd(event), ONE.as_ptr(), 8).build();
    // SAFETY: the eight bytes are a constant.
    unsafe { Entry::with_memory(entry.flags(squeue::Flags::SKIP_SUCCESS), tag) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_completion_of_an_earlier_batch_finds_no_frame() {
        let mut sends = Sends::new(true);
        let early = sends.hold(Bytes::from_static(b"early"));
        sends.settle();
        let late = sends.hold(Bytes::from_static(b"late"));
        assert_eq!(sends.frame(early.0), None);
        assert_eq!(sends.frame(late.0).unwrap(), "late");
    }

    #[test]
    fn marks_go_round() {
        let mut sends = Sends::new(true);
        sends.first = MARK_MAX;
        let last = sends.hold(Bytes::from_static(b"last"));
        let first = sends.hold(Bytes::from_static(b"first"));
        assert_eq!((last.0, first.0), (MARK_MAX, 0));
        assert_eq!(sends.frame(first.0).unwrap(), "first");
        sends.settle();
        assert_eq!(sends.first, 1);
    }
}
