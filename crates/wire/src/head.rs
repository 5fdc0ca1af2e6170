//! Heads of client frames and every rule about them (RFC 6455 sections 5.2 to 5.5). The rules are
//! checked in the order of the bytes, each as soon as its bytes are there, so that a peer gets the
//! same answer however its bytes were cut.

use crate::{DataOpcode, Violation, decode};

/// Bytes of the longest head: two, an eight byte length, the key.
pub(crate) const HEAD_BYTES_MAX: usize = 14;

/// The head of a frame that the peer may send in its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) kind: FrameKind,
    /// Whether the frame ends its message.
    pub(crate) is_final: bool,
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
    /// Payload bytes so far of the message that has begun and not ended.
    pub(crate) message_bytes: Option<usize>,
    /// The longest message.
    pub(crate) message_bytes_max: usize,
}

impl Head {
    /// The head at the start of `bytes`, and how many bytes it has. `None`: more are needed.
    pub(crate) fn parse(bytes: &[u8], place: Place) -> Result<Option<(Self, usize)>, Violation> {
        let Some(&first) = bytes.first() else { return Ok(None) };
        let is_final = first & 0x80 != 0;
        let kind = parse_kind(first, is_final, place)?;
        let Some(&second) = bytes.get(1) else { return Ok(None) };
        let is_control = matches!(kind, FrameKind::Control(_));
        check_second(second, is_control)?;
        let Some((payload_bytes, length_end)) = parse_length(second & 0x7F, bytes)? else {
            return Ok(None);
        };
        let payload_bytes =
            if is_control { usize::from(second & 0x7F) } else { check_size(payload_bytes, place)? };
        let Some(key) = bytes[length_end..].first_chunk() else { return Ok(None) };
        Ok(Some((Self { kind, is_final, payload_bytes, key: *key }, length_end + key.len())))
    }
}

/// The first byte: final bit, reserved bits, opcode.
fn parse_kind(first: u8, is_final: bool, place: Place) -> Result<FrameKind, Violation> {
    // RFC 6455 section 5.2: must be 0 unless an extension is negotiated, and none is.
    if first & 0x70 != 0 {
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
    match (kind, place.message_bytes) {
        // RFC 6455 section 5.5.
        (FrameKind::Control(_), _) if !is_final => Err(decode::FRAGMENTED_CONTROL),
        // RFC 6455 section 5.4.
        (FrameKind::Continuation, None) => Err(decode::NOTHING_TO_CONTINUE),
        (FrameKind::First(_), Some(_)) => Err(decode::MESSAGE_NOT_ENDED),
        _ => Ok(kind),
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
/// refused, before any payload comes.
fn check_size(payload_bytes: u64, place: Place) -> Result<usize, Violation> {
    let room = place.message_bytes_max.saturating_sub(place.message_bytes.unwrap_or(0));
    usize::try_from(payload_bytes)
        .ok()
        .filter(|payload_bytes| *payload_bytes <= room)
        .ok_or(decode::MESSAGE_TOO_BIG)
}
