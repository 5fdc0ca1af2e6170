//! What an entry says about itself in its `user_data`, and its completion repeats: what kind of
//! entry it was, for which slot, and a mark. For a connection the mark is the low bits of its
//! generation, so that a late completion is told from one of the slot's next connection.

use worker::Slot;

/// Bits of a mark.
const MARK_BITS: u32 = 24;

/// The largest mark.
pub(crate) const MARK_MAX: u32 = (1 << MARK_BITS) - 1;

/// What an entry asks for, and so what its completion means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    /// An accept; the mark is its cell in the address table.
    Accept = 1,
    /// The close of a listener, whose number stands in place of a slot.
    ListenerClose,
    /// The multishot poll of the waker's eventfd.
    WakePoll,
    /// Posted here by another ring.
    Woken,
    /// A wake sent to a member, whose number stands in place of a slot. Only a failure completes.
    Wake,
    /// A cancellation. What it cancels completes by itself, so this one means nothing.
    Cancel,
    /// The poll of an idle connection.
    Poll,
    /// A one-shot receive.
    Receive,
    /// A multishot receive.
    Multishot,
    /// The poll of a socket that refused bytes.
    WritePoll,
    /// One target of an offer; the mark is its frame.
    Offer,
    /// A send; the mark is its frame.
    Send,
    /// The shutdown of the writing half.
    Shutdown,
    /// The connect to nowhere that resets a connection.
    Abort,
    /// The close of a connection.
    Close,
    /// One target of an offer that is sent without a copy; the mark is its place in the arena, and
    /// some bits of the slot's generation.
    ZeroCopy,
}

impl Kind {
    fn from_byte(byte: u8) -> Option<Self> {
        use Kind::{
            Abort, Accept, Cancel, Close, ListenerClose, Multishot, Offer, Poll, Receive, Send,
            Shutdown, Wake, WakePoll, Woken, WritePoll, ZeroCopy,
        };
        [
            Accept,
            ListenerClose,
            WakePoll,
            Woken,
            Wake,
            Cancel,
            Poll,
            Receive,
            Multishot,
            WritePoll,
            Offer,
            Send,
            Shutdown,
            Abort,
            Close,
            ZeroCopy,
        ]
        .get(usize::from(byte).wrapping_sub(1))
        .copied()
    }
}

/// The `user_data` of an entry, taken apart: kind (8 bits), mark (24 bits), slot (32 bits).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tag {
    pub(crate) kind: Kind,
    pub(crate) mark: u32,
    pub(crate) slot: Slot,
}

impl Tag {
    /// For an entry of one generation of a slot.
    pub(crate) fn of_connection(kind: Kind, generation: u32, slot: Slot) -> Self {
        Self { kind, mark: generation & MARK_MAX, slot }
    }

    /// For an entry that belongs to no connection.
    pub(crate) fn of_engine(kind: Kind, number: u32) -> Self {
        Self { kind, mark: 0, slot: number }
    }

    pub(crate) fn pack(self) -> u64 {
        (u64::from(self.kind as u8) << 56) | (u64::from(self.mark) << 32) | u64::from(self.slot)
    }

    /// `None`: no entry of this engine has such a tag.
    #[expect(clippy::cast_possible_truncation, reason = "each part is cut out of the whole")]
    pub(crate) fn unpack(user_data: u64) -> Option<Self> {
        let kind = Kind::from_byte((user_data >> 56) as u8)?;
        Some(Self { kind, mark: (user_data >> 32) as u32 & MARK_MAX, slot: user_data as u32 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_survives_the_kernel() {
        for byte in 1..=16 {
            let kind = Kind::from_byte(byte).unwrap();
            assert_eq!(kind as u8, byte);
            let tag = Tag { kind, mark: 0x00ab_cdef, slot: 0xfedc_ba98 };
            assert_eq!(Tag::unpack(tag.pack()), Some(tag));
        }
    }

    #[test]
    fn the_layout_is_kind_mark_slot() {
        let tag = Tag::of_connection(Kind::Poll, 0xff00_0002, 3);
        assert_eq!(tag.pack(), 0x0700_0002_0000_0003);
    }

    #[test]
    fn an_unknown_kind_is_no_tag() {
        assert_eq!(Tag::unpack(0), None);
        assert_eq!(Tag::unpack(17 << 56), None);
        assert_eq!(Tag::unpack(u64::MAX), None);
    }
}
