//! Where one message of ours ends and the next begins, in frames that were joined to leave together.

use std::io::Cursor;

use tungstenite::protocol::frame::FrameHeader;

/// The first end of a frame at or behind `taken` in `frames`, which are whole server frames one
/// after the other, and how many messages end up to there. A server's message is one frame.
///
/// # Panics
/// `frames` are not frames of ours.
#[must_use]
pub fn message_boundary(frames: &[u8], taken: usize) -> (usize, u32) {
    let mut end = 0;
    let mut messages = 0;
    while end < taken {
        messages += u32::from(!is_control(frames[end]));
        end = frame_end(frames, end);
    }
    (end, messages)
}

/// How many messages end within the first `taken` bytes of `frames`, which are whole server frames
/// one after the other.
///
/// # Panics
/// `frames` are not frames of ours.
#[must_use]
pub fn messages_within(frames: &[u8], taken: usize) -> u32 {
    let mut at = 0;
    let mut messages = 0;
    while at < taken {
        let end = frame_end(frames, at);
        messages += u32::from(end <= taken && !is_control(frames[at]));
        at = end;
    }
    messages
}

/// Whether there is a control frame in `frames`, which are whole server frames one after the other.
///
/// # Panics
/// `frames` are not frames of ours.
#[must_use]
pub fn has_control_frame(frames: &[u8]) -> bool {
    let mut at = 0;
    while at < frames.len() {
        if is_control(frames[at]) {
            return true;
        }
        at = frame_end(frames, at);
    }
    false
}

/// RFC 6455 section 5.2: opcodes of control frames have the top bit of four.
fn is_control(first_byte: u8) -> bool {
    first_byte & 0x08 != 0
}

/// Where the frame ends that begins at `at`.
fn frame_end(frames: &[u8], at: usize) -> usize {
    let mut cursor = Cursor::new(&frames[at..]);
    let (header, payload_bytes) = FrameHeader::parse(&mut cursor)
        .expect("our own frames are well formed")
        .expect("our own frames are whole");
    let payload_bytes = usize::try_from(payload_bytes).expect("our own frames are held in memory");
    at + header.len(payload_bytes as u64) + payload_bytes
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

    #[test]
    fn control_frames_are_no_messages() {
        let frames = b"\x81\x03one\x8A\x02hi\x82\x00";
        for (taken, expected) in [(0, 0), (4, 0), (5, 1), (6, 1), (9, 1), (10, 1), (11, 2)] {
            assert_eq!(messages_within(frames, taken), expected, "{taken}");
        }
        assert_eq!(message_boundary(frames, 6), (9, 1));
        assert_eq!(message_boundary(frames, 11), (11, 2));
        assert!(has_control_frame(frames));
        assert!(has_control_frame(b"\x89\x00"));
        assert!(!has_control_frame(b"\x81\x03one\xC1\x00"));
        assert!(!has_control_frame(b""));
    }
}
