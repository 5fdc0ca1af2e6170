//! Frames of the floor: a client's masked message in, the server's unmasked frame with the same
//! payload out. One frame is one message; fragments are not joined.

use std::io::{self, Cursor};

use tungstenite::protocol::frame::FrameHeader;
use tungstenite::protocol::frame::coding::{Control, OpCode};

/// An empty Ping, unmasked (RFC 6455 section 5.5.2).
pub(crate) const PING: [u8; 2] = [0x89, 0x00];

/// One whole frame of a client.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Received {
    /// A message; these bytes are its frame for the subscribers.
    Message(Vec<u8>),
    /// A pong or another frame that nobody is told about.
    Ignored,
    /// The client says that it is leaving.
    Close,
}

/// Takes the first frame off `bytes`: what it is and its length; `None` until it is complete.
///
/// # Errors
///
/// A header that RFC 6455 does not allow, or a frame longer than `bytes_max`.
pub(crate) fn take(bytes: &[u8], bytes_max: usize) -> io::Result<Option<(Received, usize)>> {
    let mut cursor = Cursor::new(bytes);
    let Some((header, length)) = FrameHeader::parse(&mut cursor).map_err(io::Error::other)? else {
        return Ok(None);
    };
    let start = usize::try_from(cursor.position()).map_err(io::Error::other)?;
    let length = usize::try_from(length).map_err(io::Error::other)?;
    if length > bytes_max.saturating_sub(start) {
        return Err(io::Error::other("the message is too long for the floor"));
    }
    let end = start + length;
    if bytes.len() < end {
        return Ok(None);
    }
    let received = match header.opcode {
        OpCode::Data(_) => Received::Message(encode(header, &bytes[start..end])?),
        OpCode::Control(Control::Close) => Received::Close,
        OpCode::Control(_) => Received::Ignored,
    };
    Ok(Some((received, end)))
}

/// The same frame without its mask.
fn encode(mut header: FrameHeader, payload: &[u8]) -> io::Result<Vec<u8>> {
    let key = header.mask.take().unwrap_or_default();
    let mut frame = Vec::with_capacity(payload.len() + 10);
    header.format(payload.len() as u64, &mut frame).map_err(io::Error::other)?;
    frame.extend(payload.iter().zip(key.iter().cycle()).map(|(byte, key)| byte ^ key));
    Ok(frame)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 6455 section 5.7: a masked text message "Hello", and its unmasked form.
    #[test]
    fn the_masked_hello_of_the_rfc_becomes_the_unmasked_one() {
        let masked = [0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58];
        let unmasked = vec![0x81, 0x05, 0x48, 0x65, 0x6c, 0x6c, 0x6f];
        assert_eq!(take(&masked, 64).unwrap(), Some((Received::Message(unmasked), 11)));
        assert_eq!(take(&masked[..10], 64).unwrap(), None);
        assert!(take(&masked, 10).is_err());
    }

    #[test]
    fn a_close_frame_ends_the_publisher() {
        let close = [0x88, 0x80, 1, 2, 3, 4];
        assert_eq!(take(&close, 64).unwrap(), Some((Received::Close, 6)));
    }
}
