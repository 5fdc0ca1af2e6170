//! How many whole messages a socket has taken: the frames that a server sends, counted from the
//! bytes, and apart from what the worker says about them. It shows the payloads of the compressed
//! ones.

use crate::frames::COMPRESSED;

/// The opcodes of messages (RFC 6455 section 5.2).
const MESSAGES: std::ops::RangeInclusive<u8> = 1..=2;

/// The end of a response head.
const HEAD_END: &[u8] = b"\r\n\r\n";

/// Where in the bytes of a connection.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Tally {
    /// No frames come: it was not upgraded.
    Nothing,
    /// In the head of a 101, of whose end so many bytes have come.
    Head(usize),
    /// In the header of a frame, of which these bytes have come.
    Header([u8; 10], usize),
    /// In a payload, of which so many bytes are still to come.
    Payload(usize, Kind),
}

/// Of what a payload is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Control,
    Message,
    Compressed,
}

impl Tally {
    /// At the beginning of a frame.
    pub(crate) const FRAME: Self = Self::Header([0; 10], 0);

    /// Goes on with these bytes. How many messages end in them.
    pub(crate) fn take(&mut self, bytes: &[u8]) -> u64 {
        self.take_showing(bytes, |_, _| ())
    }

    /// Does the same, and shows every piece of the payload of a compressed message, and whether it
    /// is the last.
    pub(crate) fn take_showing(&mut self, bytes: &[u8], mut show: impl FnMut(&[u8], bool)) -> u64 {
        let mut messages = 0;
        let mut rest = bytes;
        while let [byte, behind @ ..] = rest {
            match self {
                Self::Nothing => return messages,
                Self::Head(matched) => {
                    rest = behind;
                    let goes_on = *byte == HEAD_END[*matched];
                    *matched = if goes_on { *matched + 1 } else { usize::from(*byte == b'\r') };
                    if *matched == HEAD_END.len() {
                        *self = Self::FRAME;
                    }
                }
                Self::Header(header, length) => {
                    rest = behind;
                    header[*length] = *byte;
                    *length += 1;
                    if let Some(payload) = payload_bytes(&header[..*length]) {
                        *self = Self::Payload(payload, Kind::of(header[0]));
                        messages += self.end_payload();
                    }
                }
                Self::Payload(left, kind) => {
                    let (piece, behind) = rest.split_at(rest.len().min(*left));
                    rest = behind;
                    *left -= piece.len();
                    if *kind == Kind::Compressed {
                        show(piece, *left == 0);
                    }
                    messages += self.end_payload();
                }
            }
        }
        messages
    }

    /// True exactly when a frame may begin.
    pub(crate) fn is_between(self) -> bool {
        matches!(self, Self::Header(_, 0))
    }

    /// The next frame, if nothing of the payload is still to come. How many messages ended.
    fn end_payload(&mut self) -> u64 {
        let Self::Payload(0, kind) = *self else { return 0 };
        *self = Self::FRAME;
        u64::from(kind != Kind::Control)
    }

    /// How many messages end in the rest of bytes that begin with a frame, of which so many were
    /// taken.
    pub(crate) fn left_of(frames: &[u8], taken: usize) -> u64 {
        let mut tally = Self::FRAME;
        tally.take(&frames[..taken]);
        tally.take(&frames[taken..])
    }
}

impl Kind {
    /// By the first byte of the frame.
    fn of(first: u8) -> Self {
        match MESSAGES.contains(&(first & 0x0F)) {
            false => Self::Control,
            true if first & COMPRESSED != 0 => Self::Compressed,
            true => Self::Message,
        }
    }
}

/// The bytes of the payload, once the header is complete (RFC 6455 section 5.2, without a mask).
fn payload_bytes(header: &[u8]) -> Option<usize> {
    match *header {
        [_, short @ 0..=125] => Some(usize::from(short)),
        [_, 126, high, low] => Some(usize::from(u16::from_be_bytes([high, low]))),
        [_, 127, a, b, c, d, e, f, g, h] => {
            let long = u64::from_be_bytes([a, b, c, d, e, f, g, h]);
            Some(usize::try_from(long).unwrap_or(usize::MAX))
        }
        // Masked: no frame of a server. What is sent here means nothing to whoever counts.
        [_, masked, ..] if masked >= 128 => Some(0),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_counted_where_they_end_however_the_bytes_are_cut() {
        let medium = [&[0x82, 126, 1, 0][..], &[7; 256]].concat();
        let head = b"HTTP/1.1 101 S\r\nX: \r\r\n\r\n";
        let frames = [b"\x81\x03one\x89\x00\x81\x00", &medium[..], b"\x88\x02\x03\xe8"].concat();
        let all = [&head[..], &frames].concat();
        for piece in [1, 2, 3, 7, 1_000] {
            let mut tally = Tally::Head(0);
            let counts: u64 = all.chunks(piece).map(|piece| tally.take(piece)).sum();
            assert_eq!(counts, 3, "in pieces of {piece}");
        }
        for (taken, left) in [(0, 3), (4, 3), (5, 2), (9, 1), (9 + 259, 1), (9 + 260, 0)] {
            assert_eq!(Tally::left_of(&frames, taken), left, "{taken}");
        }
        assert_eq!(Tally::Nothing.take(&frames), 0);
    }
}
