//! The client's side of RFC 6455 frames, as far as a load needs it: masked messages, pongs and
//! close frames out, a server's whole frames in.

use std::io::Cursor;

use tungstenite::protocol::frame::FrameHeader;
use tungstenite::protocol::frame::coding::{Control, Data, OpCode};

/// The longest frame header (RFC 6455 section 5.2).
pub(crate) const HEADER_BYTES_MAX: usize = 14;

/// The mask of every frame sent here. A constant saves random numbers and hides nothing: only
/// browsers are protected by its being unpredictable (RFC 6455 section 10.3).
const MASK: [u8; 4] = [0x5a, 0xc3, 0x96, 0x3c];

/// A server's frame at the start of some bytes.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Frame<'bytes> {
    /// What it carries.
    pub(crate) opcode: OpCode,
    /// True exactly when its first reserved bit says that it is compressed (RFC 7692 section 6).
    pub(crate) is_compressed: bool,
    /// Its payload, which a server does not mask.
    pub(crate) payload: &'bytes [u8],
    /// Its length with its header.
    pub(crate) bytes: usize,
}

/// Takes the first frame of `bytes`; `None` until it is whole.
///
/// # Errors
///
/// What is wrong with it: a malformed or masked header, a fragment, or a payload longer than
/// `payload_bytes_max`.
pub(crate) fn take(
    bytes: &[u8],
    payload_bytes_max: usize,
) -> Result<Option<Frame<'_>>, &'static str> {
    let mut cursor = Cursor::new(bytes);
    let Some((header, length)) =
        FrameHeader::parse(&mut cursor).map_err(|_| "a malformed frame header")?
    else {
        return Ok(None);
    };
    if header.mask.is_some() {
        return Err("a masked frame from the server");
    }
    if !header.is_final || header.opcode == OpCode::Data(Data::Continue) {
        return Err("a fragmented message");
    }
    let length = usize::try_from(length)
        .ok()
        .filter(|length| *length <= payload_bytes_max)
        .ok_or("a frame longer than the messages of this run")?;
    let start = usize::try_from(cursor.position()).map_err(|_| "a malformed frame header")?;
    let payload = bytes.get(start..start + length);
    Ok(payload.map(|payload| Frame {
        opcode: header.opcode,
        is_compressed: header.rsv1,
        payload,
        bytes: start + length,
    }))
}

/// Appends a masked binary message with `payload` to `bytes`.
pub(crate) fn write_message(payload: &[u8], bytes: &mut Vec<u8>) {
    write(OpCode::Data(Data::Binary), payload, bytes);
}

/// Appends a masked pong with the ping's `payload` to `bytes`.
pub(crate) fn write_pong(payload: &[u8], bytes: &mut Vec<u8>) {
    write(OpCode::Control(Control::Pong), payload, bytes);
}

/// Appends a masked close frame with code 1000 to `bytes`.
pub(crate) fn write_close(bytes: &mut Vec<u8>) {
    write(OpCode::Control(Control::Close), &1000_u16.to_be_bytes(), bytes);
}

fn write(opcode: OpCode, payload: &[u8], bytes: &mut Vec<u8>) {
    let header = FrameHeader { opcode, mask: Some(MASK), ..FrameHeader::default() };
    header.format(payload.len() as u64, bytes).expect("a vector takes every byte");
    bytes.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_masked_with_the_key_in_its_header() {
        let mut bytes = Vec::new();
        write_message(b"abcde", &mut bytes);
        let masked = [0x61 ^ 0x5a, 0x62 ^ 0xc3, 0x63 ^ 0x96, 0x64 ^ 0x3c, 0x65 ^ 0x5a];
        assert_eq!(bytes[..6], [0x82, 0x85, 0x5a, 0xc3, 0x96, 0x3c]);
        assert_eq!(bytes[6..], masked);
    }

    /// RFC 6455 section 5.7: an unmasked "Hello".
    #[test]
    fn a_frame_is_taken_once_it_is_whole() {
        let hello = [0x81, 0x05, 0x48, 0x65, 0x6c, 0x6c, 0x6f];
        let opcode = OpCode::Data(Data::Text);
        let frame = Frame { opcode, is_compressed: false, payload: b"Hello", bytes: 7 };
        assert_eq!(take(&hello, 5), Ok(Some(frame)));
        for cut in 0..7 {
            assert_eq!(take(&hello[..cut], 5), Ok(None));
        }
        assert!(take(&hello, 4).is_err());
    }

    #[test]
    fn masked_and_fragmented_frames_are_errors() {
        assert!(take(&[0x81, 0x80, 1, 2, 3, 4], 5).is_err());
        assert!(take(&[0x01, 0x00], 5).is_err());
        assert!(take(&[0x80, 0x00], 5).is_err());
    }
}
