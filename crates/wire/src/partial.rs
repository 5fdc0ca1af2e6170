//! What a read has left unfinished: a head, a frame, a message in fragments. The only bytes that
//! are ever copied are those in here. All of it is plain data, so that a connection can be
//! exported in the middle of a frame.

use crate::{
    DataOpcode, Violation, decode,
    head::{FrameKind, HEAD_BYTES_MAX, Head, OpenMessage, Place},
};

/// Exists only while something is unfinished, or finished and not yet taken by the caller.
#[derive(Debug, Clone, Default)]
pub(crate) struct Partial {
    /// Payloads: of the message, then of the control frame that came between its fragments.
    payload: Vec<u8>,
    /// Where the message ends in `payload`.
    message_bytes: usize,
    /// The message that has begun and not ended.
    message: Option<PartialMessage>,
    /// The frame whose head is complete and whose payload is not.
    frame: Option<PartialFrame>,
    /// The beginning of a head.
    head: [u8; HEAD_BYTES_MAX],
    head_bytes: u8,
}

#[derive(Debug, Clone, Copy)]
struct PartialMessage {
    opcode: DataOpcode,
    is_compressed: bool,
    /// Bytes at the front of a plain text that are whole, valid characters. What follows is the
    /// beginning of one.
    checked_bytes: usize,
}

/// A frame and how much of its payload has been taken.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PartialFrame {
    pub(crate) head: Head,
    pub(crate) taken_bytes: usize,
}

impl Partial {
    /// Gives up what the last event showed. `true`: nothing is left.
    pub(crate) fn release(&mut self) -> bool {
        if self.frame.is_some() {
            return false;
        }
        if self.message.is_some() {
            self.payload.truncate(self.message_bytes);
            return false;
        }
        self.head_bytes == 0
    }

    /// The message that has begun and not ended.
    pub(crate) fn open_message(&self) -> Option<OpenMessage> {
        let PartialMessage { is_compressed, .. } = self.message?;
        Some(OpenMessage { bytes: self.message_bytes, is_compressed })
    }

    /// The frame to go on with. It is kept again only if it is still not complete.
    pub(crate) fn resume_frame(&mut self) -> Option<PartialFrame> {
        self.frame.take()
    }

    /// Adds one byte to the head. `Some`: it was the last.
    pub(crate) fn push_head(&mut self, byte: u8, place: Place) -> Result<Option<Head>, Violation> {
        let end = usize::from(self.head_bytes);
        self.head[end] = byte;
        self.head_bytes += 1;
        let Some((head, _)) = Head::parse(&self.head[..=end], place)? else { return Ok(None) };
        self.head_bytes = 0;
        Ok(Some(head))
    }

    /// Takes the next piece of a frame's payload, unmasked. `true`: the frame is complete.
    pub(crate) fn take_payload(
        &mut self,
        frame: PartialFrame,
        bytes: &[u8],
    ) -> Result<bool, Violation> {
        let PartialFrame { head, taken_bytes } = frame;
        let remaining = head.payload_bytes - taken_bytes;
        if bytes.is_empty() && remaining > 0 {
            // Nothing of it is in here yet: it may still turn out to lie whole in one input.
            self.frame = Some(frame);
            return Ok(false);
        }
        let is_control = matches!(head.kind, FrameKind::Control(_));
        self.reserve(bytes.len(), remaining, head.is_final && !is_control);
        self.payload.extend_from_slice(bytes);
        let is_complete = bytes.len() == remaining;
        self.frame =
            (!is_complete).then_some(PartialFrame { head, taken_bytes: taken_bytes + bytes.len() });
        if is_control {
            return Ok(is_complete);
        }

        if let FrameKind::First(opcode) = head.kind {
            let is_compressed = head.is_compressed;
            self.message.get_or_insert(PartialMessage { opcode, is_compressed, checked_bytes: 0 });
        }
        self.message_bytes += bytes.len();
        self.check_text(is_complete && head.is_final)?;
        Ok(is_complete)
    }

    /// Ends the message and says what it was, and whether it is compressed.
    pub(crate) fn end_message(&mut self) -> Option<(DataOpcode, bool)> {
        self.message.take().map(|message| (message.opcode, message.is_compressed))
    }

    /// The message's payload.
    pub(crate) fn message_payload(&self) -> &[u8] {
        &self.payload[..self.message_bytes]
    }

    /// The control frame's payload.
    pub(crate) fn control_payload(&self) -> &[u8] {
        &self.payload[self.message_bytes..]
    }

    /// Bytes of heap, this one included.
    pub(crate) fn heap_bytes(&self) -> usize {
        size_of::<Self>() + self.payload.capacity()
    }

    /// Makes room for `incoming` bytes. Memory follows what has arrived, not what a head
    /// announces: it doubles, but not beyond the end of the message where that is known. (It
    /// doubles for control frames too: exact steps would copy a long message for every Ping.)
    fn reserve(&mut self, incoming: usize, remaining: usize, is_end_known: bool) {
        let length = self.payload.len();
        if incoming <= self.payload.capacity() - length {
            return;
        }
        let mut capacity = (self.payload.capacity() * 2).max(length + incoming);
        if is_end_known {
            capacity = capacity.min(length + remaining);
        }
        self.payload.reserve_exact(capacity - length);
    }

    /// Text must be UTF-8 (RFC 6455 section 8.1), and fails at its first wrong byte. Only the new
    /// bytes are looked at, and at most three before them that have begun a character. What a
    /// compressed text says is not known yet.
    fn check_text(&mut self, is_end: bool) -> Result<(), Violation> {
        let Some(PartialMessage { opcode: DataOpcode::Text, is_compressed: false, checked_bytes }) =
            &mut self.message
        else {
            return Ok(());
        };
        let unchecked = &self.payload[*checked_bytes..self.message_bytes];
        match simdutf8::compat::from_utf8(unchecked) {
            Ok(text) => *checked_bytes += text.len(),
            Err(error) if is_end || error.error_len().is_some() => {
                return Err(decode::INVALID_UTF8);
            }
            Err(error) => *checked_bytes += error.valid_up_to(),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_checked_once_however_small_its_pieces_are() {
        let text = "é✓😀a".repeat(100);
        for piece_bytes in [1, 5, 7, 64] {
            let mut partial = Partial::default();
            let mut kind = FrameKind::First(DataOpcode::Text);
            for piece in text.as_bytes().chunks(piece_bytes) {
                let head = Head {
                    kind,
                    is_final: false,
                    is_compressed: false,
                    payload_bytes: piece.len(),
                    key: [0; 4],
                };
                let frame = PartialFrame { head, taken_bytes: 0 };
                assert_eq!(partial.take_payload(frame, piece), Ok(true));
                let message = partial.message.expect("the message has begun");
                assert!(text.is_char_boundary(message.checked_bytes));
                assert!(partial.message_bytes - message.checked_bytes <= 3);
                kind = FrameKind::Continuation;
            }
            assert_eq!(partial.message_bytes, text.len());
        }
    }
}
