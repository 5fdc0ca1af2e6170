//! What compressed payloads stand for. A publication is received by many in the same encoding: each
//! payload is inflated once.

use std::collections::HashMap;

use crate::deflate::{self, Inflated, Outcome};

/// So many bytes of payloads and messages are kept at most.
const KEPT_BYTES_MAX: usize = 8 << 20;

/// The longest payload of a short frame (RFC 6455 section 5.2).
const SHORT_BYTES_MAX: usize = 125;

/// Payloads that were met.
#[derive(Debug, Default)]
pub(crate) struct Payloads {
    met: HashMap<Vec<u8>, Inflated>,
    kept_bytes: usize,
}

impl Payloads {
    /// What a payload stands for.
    pub(crate) fn inflate(&mut self, payload: &[u8]) -> Outcome<&Inflated> {
        if !self.met.contains_key(payload) {
            let inflated = deflate::inflate(payload)?;
            if self.kept_bytes > KEPT_BYTES_MAX {
                self.met.clear();
                self.kept_bytes = 0;
            }
            self.kept_bytes += payload.len() + inflated.message.len();
            self.met.insert(payload.to_vec(), inflated);
        }
        self.met.get(payload).ok_or("was not kept")
    }

    /// How many bytes shorter its frame is than that of its message; `None`: it stands for none.
    pub(crate) fn saving(&mut self, payload: &[u8]) -> Option<u64> {
        let message = &self.inflate(payload).ok()?.message;
        Some(frame_bytes(message.len()).saturating_sub(frame_bytes(payload.len())))
    }
}

/// Bytes of a frame that a server sends (RFC 6455 section 5.2).
pub(crate) fn frame_bytes(payload_bytes: usize) -> u64 {
    let header_bytes = if payload_bytes <= SHORT_BYTES_MAX { 2 } else { 4 };
    payload_bytes as u64 + header_bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_saves_what_its_frame_is_shorter() {
        let mut payloads = Payloads::default();
        let payload = deflate::deflate_well(&[b'a'; 200]);
        for _ in 0..2 {
            assert_eq!(payloads.saving(&payload), Some(4 + 200 - 2 - payload.len() as u64));
        }
        assert_eq!(payloads.saving(&[0xFF]), None);
        assert_eq!((frame_bytes(125), frame_bytes(126)), (127, 130));
    }
}
