//! Server frames: final, unmasked, encoded once (RFC 6455 section 5.2). Nothing is fragmented:
//! a message is one frame, so that the same bytes fit every connection at any moment.

use bytes::Bytes;
use tungstenite::protocol::frame::{
    FrameHeader,
    coding::{Control, Data, OpCode},
};

use crate::CloseFrame;

/// What a data message carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DataOpcode {
    /// UTF-8.
    Text,
    /// Anything.
    Binary,
}

/// An empty Ping: constant, so that one frame serves every connection.
pub const PING: Bytes = Bytes::from_static(&[0x89, 0x00]);

/// Payload bytes of the longest control frame (RFC 6455 section 5.5).
const CONTROL_BYTES_MAX: usize = 125;

/// A whole message in one frame.
#[must_use]
pub fn encode_message(opcode: DataOpcode, payload: &[u8]) -> Bytes {
    encode_data(&data_header(opcode), payload)
}

/// Bytes of the frame that [`encode_message`] makes of a payload of so many.
#[must_use]
pub fn message_frame_bytes(payload_bytes: usize) -> usize {
    data_header(DataOpcode::Text).len(payload_bytes as u64) + payload_bytes
}

/// The same of a compressed payload: the first reserved bit says so (RFC 7692 section 6).
pub(crate) fn encode_compressed(opcode: DataOpcode, payload: &[u8]) -> Bytes {
    encode_data(&FrameHeader { rsv1: true, ..data_header(opcode) }, payload)
}

fn encode_data(header: &FrameHeader, payload: &[u8]) -> Bytes {
    // The exact size: `Bytes` takes a full vector over as it is, without a second allocation.
    let mut frame = Vec::with_capacity(header.len(payload.len() as u64) + payload.len());
    append(header, payload.len(), &mut frame);
    frame.extend_from_slice(payload);
    Bytes::from(frame)
}

/// A Pong that answers a Ping with this payload, at most 125 bytes, appended to `output`.
///
/// # Panics
/// The payload is longer.
pub fn encode_pong(payload: &[u8], output: &mut Vec<u8>) {
    assert!(payload.len() <= CONTROL_BYTES_MAX, "a Ping's payload has at most 125 bytes");
    append(&header(OpCode::Control(Control::Pong)), payload.len(), output);
    output.extend_from_slice(payload);
}

/// A Close frame, with or without a body, appended to `output`.
///
/// # Panics
/// The code may not stand on the wire, or the reason is longer than 123 bytes.
pub fn encode_close(close: Option<CloseFrame<'_>>, output: &mut Vec<u8>) {
    let header = header(OpCode::Control(Control::Close));
    let Some(CloseFrame { code, reason }) = close else {
        append(&header, 0, output);
        return;
    };
    assert!(code.is_allowed(), "close code {} may not stand on the wire", code.0);
    assert!(reason.len() <= CloseFrame::REASON_BYTES_MAX, "a close reason has at most 123 bytes");
    append(&header, 2 + reason.len(), output);
    output.extend_from_slice(&code.0.to_be_bytes());
    output.extend_from_slice(reason.as_bytes());
}

fn data_header(opcode: DataOpcode) -> FrameHeader {
    header(OpCode::Data(match opcode {
        DataOpcode::Text => Data::Text,
        DataOpcode::Binary => Data::Binary,
    }))
}

fn header(opcode: OpCode) -> FrameHeader {
    FrameHeader { opcode, ..FrameHeader::default() }
}

fn append(header: &FrameHeader, payload_bytes: usize, output: &mut Vec<u8>) {
    header.format(payload_bytes as u64, output).expect("writing to a vector cannot fail");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::CloseCode;

    #[test]
    fn a_text_message_is_the_frame_of_rfc_6455_section_5_7() {
        let frame = encode_message(DataOpcode::Text, b"Hello");
        assert_eq!(frame[..], [0x81, 0x05, 0x48, 0x65, 0x6c, 0x6c, 0x6f]);
    }

    #[test]
    fn lengths_take_the_shortest_form() {
        // (payload bytes, header), RFC 6455 sections 5.2 and 5.7.
        let cases: [(usize, &[u8]); 8] = [
            (0, &[0x82, 0]),
            (1, &[0x82, 1]),
            (125, &[0x82, 125]),
            (126, &[0x82, 126, 0, 126]),
            (127, &[0x82, 126, 0, 127]),
            (256, &[0x82, 0x7E, 0x01, 0x00]),
            (65_535, &[0x82, 126, 0xFF, 0xFF]),
            (65_536, &[0x82, 0x7F, 0, 0, 0, 0, 0, 1, 0, 0]),
        ];
        for (payload_bytes, header) in cases {
            let payload = vec![0xA5; payload_bytes];
            let frame = encode_message(DataOpcode::Binary, &payload);
            assert_eq!(frame[..header.len()], *header, "{payload_bytes}");
            assert_eq!(frame[header.len()..], payload[..], "{payload_bytes}");
            assert_eq!(frame.len(), message_frame_bytes(payload_bytes));
        }
    }

    #[test]
    fn a_pong_carries_the_payload_of_the_ping_and_is_appended() {
        let mut output = vec![7];
        encode_pong(b"Hello", &mut output);
        assert_eq!(output, [7, 0x8A, 0x05, 0x48, 0x65, 0x6c, 0x6c, 0x6f]);
        output.clear();
        encode_pong(&[9; 125], &mut output);
        assert_eq!(output[..2], [0x8A, 125]);
        assert_eq!(output.len(), 127);
    }

    #[test]
    fn a_close_frame_begins_with_its_code_in_network_order() {
        let mut output = Vec::new();
        encode_close(None, &mut output);
        assert_eq!(output, [0x88, 0]);
        output.clear();
        encode_close(
            Some(CloseFrame { code: CloseCode::SERVICE_RESTART, reason: "moving" }),
            &mut output,
        );
        assert_eq!(output, [&[0x88, 8, 0x03, 0xF4], &b"moving"[..]].concat());
    }

    #[test]
    #[should_panic(expected = "may not stand on the wire")]
    fn a_close_frame_is_never_made_with_a_code_for_local_use() {
        encode_close(Some(CloseFrame { code: CloseCode(1006), reason: "" }), &mut Vec::new());
    }

    #[test]
    #[should_panic(expected = "at most 123 bytes")]
    fn a_close_frame_is_never_longer_than_a_control_frame_may_be() {
        let reason = "r".repeat(124);
        encode_close(
            Some(CloseFrame { code: CloseCode::NORMAL, reason: &reason }),
            &mut Vec::new(),
        );
    }

    #[test]
    fn the_constant_ping_is_final_unmasked_and_empty() {
        assert_eq!(PING[..], [0x89, 0x00]);
    }
}
