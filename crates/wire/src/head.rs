//! Heads of client frames and every rule about them (RFC 6455 sections 5.2 to 5.5, RFC 7692
//! section 6). The rules are checked in the order of the bytes, each as soon as its bytes are
//! there, so that a peer gets the same answer however its bytes were cut.

use crate::{DataOpcode, Violation, decode, deflate};

/// Bytes of the longest head: two, an eight byte length, the key.
pub(crate) const HEAD_BYTES_MAX: usize = 14;

/// The head of a frame that the peer may send in its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) kind: FrameKind,
    /// Whether the frame ends its message.
    pub(crate) is_final: bool,
    /// True exactly in the first frame of a compressed message.
    pub(crate) is_compressed: bool,
    pub(crate) payload_bytes: usize,
    pub(crate) key: [u8; 4],
}

/// What a frame is to its message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FrameKind {
    /// The first frame of a message.
    First(DataOpcode),
    /// A later frame of a message.
    Continuation,
    /// No part of a message.
    Control(ControlOpcode),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ControlOpcode {
    Close,
    Ping,
    Pong,
}

/// What decides whether a head is allowed in its place.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place {
    /// The message that has begun and not ended.
    pub(crate) open_message: Option<OpenMessage>,
    /// The longest message.
    pub(crate) message_bytes_max: usize,
    /// Whether messages may be compressed.
    pub(crate) is_deflate_agreed: bool,
}

/// A message that has begun and not ended.
#[derive(Debug, Clone, Copy)]
pub(crate) struct OpenMessage {
    /// Payload bytes so far.
    pub(crate) bytes: usize,
    pub(crate) is_compressed: bool,
}

impl Head {
    /// The head at the start of `bytes`, and how many bytes it has. `None`: more are needed.
    pub(crate) fn parse(bytes: &[u8], place: Place) -> Result<Option<(Self, usize)>, Violation> {
        let Some(&first) = bytes.first() else { return Ok(None) };
        let is_final = first & 0x80 != 0;
        let (kind, is_compressed) = parse_kind(first, is_final, place)?;
        let Some(&second) = bytes.get(1) else { return Ok(None) };
        let is_control = matches!(kind, FrameKind::Control(_));
        check_second(second, is_control)?;
        let Some((payload_bytes, length_end)) = parse_length(second & 0x7F, bytes)? else {
            return Ok(None);
        };
        let payload_bytes = if is_control {
            usize::from(second & 0x7F)
        } else {
            check_size(payload_bytes, is_compressed, place)?
        };
        let Some(key) = bytes[length_end..].first_chunk() else { return Ok(None) };
        Ok(Some((
            Self { kind, is_final, is_compressed, payload_bytes, key: *key },
            length_end + key.len(),
        )))
    }
}

/// The first byte: final bit, reserved bits, opcode. With the kind, whether the frame begins a
/// compressed message.
fn parse_kind(first: u8, is_final: bool, place: Place) -> Result<(FrameKind, bool), Violation> {
    // RFC 6455 section 5.2: must be 0 unless an extension is negotiated that gives them a meaning.
    let is_compressed = place.is_deflate_agreed && first & 0x40 != 0;
    let reserved = if place.is_deflate_agreed { 0x30 } else { 0x70 };
    if first & reserved != 0 {
        return Err(decode::RESERVED_BITS);
    }
    let kind = match first & 0x0F {
        0x0 => FrameKind::Continuation,
        0x1 => FrameKind::First(DataOpcode::Text),
        0x2 => FrameKind::First(DataOpcode::Binary),
        0x8 => FrameKind::Control(ControlOpcode::Close),
        0x9 => FrameKind::Control(ControlOpcode::Ping),
        0xA => FrameKind::Control(ControlOpcode::Pong),
        _ => return Err(decode::RESERVED_OPCODE),
    };
    // RFC 7692 section 6.1: only the first frame of a message has the bit.
    if is_compressed && !matches!(kind, FrameKind::First(_)) {
        return Err(decode::RESERVED_BITS);
    }
    match (kind, place.open_message) {
        // RFC 6455 section 5.5.
        (FrameKind::Control(_), _) if !is_final => Err(decode::FRAGMENTED_CONTROL),
        // RFC 6455 section 5.4.
        (FrameKind::Continuation, None) => Err(decode::NOTHING_TO_CONTINUE),
        (FrameKind::First(_), Some(_)) => Err(decode::MESSAGE_NOT_ENDED),
        _ => Ok((kind, is_compressed)),
    }
}

/// The second byte: mask bit, and the length as far as it stands there.
fn check_second(second: u8, is_control: bool) -> Result<(), Violation> {
    // RFC 6455 section 5.1: a server must close on an unmasked frame.
    if second & 0x80 == 0 {
        return Err(decode::UNMASKED);
    }
    // RFC 6455 section 5.5.
    if is_control && second & 0x7F > 125 {
        return Err(decode::CONTROL_TOO_LONG);
    }
    Ok(())
}

/// The payload's length and where the key begins (RFC 6455 section 5.2: the shortest form must be
/// used, and the top bit of the longest form must be 0).
fn parse_length(short: u8, bytes: &[u8]) -> Result<Option<(u64, usize)>, Violation> {
    let extended = &bytes[2..];
    match short {
        126 => {
            let Some(length) = extended.first_chunk() else { return Ok(None) };
            let length = u64::from(u16::from_be_bytes(*length));
            if length < 126 { Err(decode::LENGTH_NOT_MINIMAL) } else { Ok(Some((length, 4))) }
        }
        127 => {
            let Some(length) = extended.first_chunk() else { return Ok(None) };
            let length = u64::from_be_bytes(*length);
            if length >> 63 != 0 {
                Err(decode::LENGTH_TOP_BIT)
            } else if length <= u64::from(u16::MAX) {
                Err(decode::LENGTH_NOT_MINIMAL)
            } else {
                Ok(Some((length, 10)))
            }
        }
        _ => Ok(Some((u64::from(short), 2))),
    }
}

/// A data frame must leave its message within the limit (RFC 6455 section 10.4). Known, and
/// refused, before any payload comes; of a compressed one only what is certain is known so early.
fn check_size(payload_bytes: u64, is_compressed: bool, place: Place) -> Result<usize, Violation> {
    let message = place.open_message.unwrap_or(OpenMessage { bytes: 0, is_compressed });
    let bytes_max = if message.is_compressed {
        deflate::compressed_bytes_max(place.message_bytes_max)
    } else {
        place.message_bytes_max
    };
    let room = bytes_max.saturating_sub(message.bytes);
    usize::try_from(payload_bytes)
        .ok()
        .filter(|payload_bytes| *payload_bytes <= room)
        .ok_or(decode::MESSAGE_TOO_BIG)
}
