//! Where one message of ours ends and the next begins, in frames that were joined to leave together.

use std::io::Cursor;

use tungstenite::protocol::frame::FrameHeader;

/// The first end of a frame at or behind `taken` in `frames`, which are whole server frames one
/// after the other, and how many of them end there.
///
/// # Panics
/// `frames` are not frames of ours.
#[must_use]
pub fn message_boundary(frames: &[u8], taken: usize) -> (usize, u32) {
    let mut end = 0;
    let mut whole = 0;
    while end < taken {
        let mut cursor = Cursor::new(&frames[end..]);
        let (header, payload_bytes) = FrameHeader::parse(&mut cursor)
            .expect("our own frames are well formed")
            .expect("our own frames are whole");
        let payload_bytes =
            usize::try_from(payload_bytes).expect("our own frames are held in memory");
        end += header.len(payload_bytes as u64) + payload_bytes;
        whole += 1;
    }
    (end, whole)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{DataOpcode, encode_message};

    #[test]
    fn the_boundary_is_the_end_of_the_frame_that_has_begun() {
        let long = encode_message(DataOpcode::Binary, &[0; 300]);
        let frames = [&encode_message(DataOpcode::Text, b"one")[..], &long, b"\x81\x00"].concat();
        for (taken, expected) in
            [(0, (0, 0)), (1, (5, 1)), (5, (5, 1)), (6, (309, 2)), (309, (309, 2)), (310, (311, 3))]
        {
            assert_eq!(message_boundary(&frames, taken), expected, "{taken}");
        }
    }
}
