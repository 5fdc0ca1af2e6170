//! Compression as most servers do it: a compressor and its window for every connection, kept from
//! message to message (RFC 7692 without any parameter), so that each message is compressed once
//! for each subscriber. With the library and the level that Ringway uses.

use std::io::{self, Cursor};

use flate2::{Compress, Compression, FlushCompress};
use tungstenite::protocol::frame::FrameHeader;

/// As in `crates/wire/src/deflate.rs`.
const LEVEL: u32 = 3;
/// What a payload goes without (RFC 7692 section 7.2.1).
const FLUSH_END: [u8; 4] = [0x00, 0x00, 0xFF, 0xFF];
/// Room beyond the payload's own bytes: blocks that are stored have heads.
const ROOM_BYTES: usize = 64;

/// The compressor of one connection.
pub(crate) struct Deflater {
    state: Compress,
    payload: Vec<u8>,
}

impl Deflater {
    /// With an empty window.
    pub(crate) fn new() -> Deflater {
        Deflater { state: Compress::new(Compression::new(LEVEL), false), payload: Vec::new() }
    }

    /// Writes the frame of a message, compressed, over `output`.
    ///
    /// # Errors
    ///
    /// `frame` is not whole, or what it became does not end in a flush.
    pub(crate) fn encode(&mut self, frame: &[u8], output: &mut Vec<u8>) -> io::Result<()> {
        let mut cursor = Cursor::new(frame);
        let header = FrameHeader::parse(&mut cursor).map_err(io::Error::other)?;
        let (header, _) = header.ok_or_else(|| io::Error::other("a frame without a header"))?;
        let start = usize::try_from(cursor.position()).map_err(io::Error::other)?;
        let payload = &frame[start..];
        self.payload.clear();
        self.payload.reserve(payload.len() + payload.len() / 8 + ROOM_BYTES);
        self.state
            .compress_vec(payload, &mut self.payload, FlushCompress::Sync)
            .map_err(io::Error::other)?;
        let compressed = self
            .payload
            .strip_suffix(&FLUSH_END)
            .ok_or_else(|| io::Error::other("a flush that found no room"))?;
        output.clear();
        FrameHeader { rsv1: true, ..header }
            .format(compressed.len() as u64, output)
            .map_err(io::Error::other)?;
        output.extend_from_slice(compressed);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 7692 section 7.2.3.2: the second "Hello" refers to the first.
    #[test]
    fn the_second_hello_of_the_rfc_refers_to_the_first() {
        let hello = [0x81, 0x05, 0x48, 0x65, 0x6c, 0x6c, 0x6f];
        let mut deflater = Deflater::new();
        let mut output = Vec::new();
        deflater.encode(&hello, &mut output).unwrap();
        assert_eq!(output, [0xc1, 0x07, 0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00]);
        deflater.encode(&hello, &mut output).unwrap();
        assert_eq!(output, [0xc1, 0x05, 0xf2, 0x00, 0x11, 0x00, 0x00]);
    }
}
