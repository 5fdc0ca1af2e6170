//! A worker's part in permessage-deflate: what is compressed, and what serves all its connections
//! to do so. A connection owns nothing but the size of the window that it was promised.

use bytes::Bytes;
use wire::{Converted, DataOpcode, Deflater, Inflater, Window};

/// One worker's deflater and inflater, made when first needed.
#[derive(Debug)]
pub(crate) struct Compression {
    deflater: Deflater,
    inflater: Option<Box<Inflater>>,
    /// Shorter payloads go plain.
    bytes_min: usize,
    /// Payload bytes compressed since this was last asked.
    work_bytes: usize,
}

impl Compression {
    pub(crate) fn new(bytes_min: usize) -> Self {
        Self { deflater: Deflater::new(), inflater: None, bytes_min, work_bytes: 0 }
    }

    /// Whether a payload of so many bytes is worth it.
    pub(crate) fn is_worth(&self, payload_bytes: usize) -> bool {
        payload_bytes >= self.bytes_min
    }

    /// A whole message for a receiver with this window; `None`: the plain frame is no longer.
    pub(crate) fn encode(
        &mut self,
        opcode: DataOpcode,
        payload: &[u8],
        window: Window,
    ) -> Option<Bytes> {
        self.work_bytes += payload.len();
        self.deflater.encode_message(opcode, payload, window)
    }

    /// Takes the inflater out for as long as a connection's bytes are decoded.
    pub(crate) fn take_inflater(&mut self) -> Box<Inflater> {
        self.inflater.take().unwrap_or_default()
    }

    /// Puts it back.
    pub(crate) fn put_inflater(&mut self, inflater: Box<Inflater>) {
        self.inflater = Some(inflater);
    }

    /// Payload bytes compressed since this was last asked.
    pub(crate) fn take_work_bytes(&mut self) -> usize {
        std::mem::take(&mut self.work_bytes)
    }

    /// What was compressed and what was inflated since this was last asked.
    pub(crate) fn take_converted(&mut self) -> (Converted, Converted) {
        let inflated = self.inflater.as_mut().map(|inflater| inflater.take_converted());
        (self.deflater.take_converted(), inflated.unwrap_or_default())
    }
}
