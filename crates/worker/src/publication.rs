//! A message on its way to many: encoded once, shared by every subscriber of every worker. What is
//! compressed is compressed once for each size of window, by the first worker that needs it.

use std::sync::OnceLock;

use bytes::Bytes;
use mesh::Member;
use wire::{DataOpcode, Window};

use crate::{
    breakage,
    compression::Compression,
    operation::{ConnectionId, Time},
};

/// One published message with its frame. Crosses the mesh as `Arc<Publication>`.
#[derive(Debug)]
pub struct Publication {
    topic: Option<Box<[u8]>>,
    frame: Bytes,
    payload_offset: u8,
    opcode: DataOpcode,
    excluded: Option<(Member, ConnectionId)>,
    received_at: Time,
    /// Absent until somebody compresses: most publications have only plain subscribers.
    deflated: OnceLock<Box<Deflated>>,
}

/// The compressed frames, by [`Window::index`]. `None`: it would not have been shorter.
type Deflated = [OnceLock<Option<Bytes>>; Window::COUNT];

impl Publication {
    /// Encodes the one frame that fits every subscriber. `topic` is its name in UTF-8, or `None` for
    /// a broadcast to everyone; `excluded` is a publisher that does not want its own messages.
    #[must_use]
    pub fn new(
        topic: Option<Box<[u8]>>,
        opcode: DataOpcode,
        payload: &[u8],
        excluded: Option<(Member, ConnectionId)>,
        received_at: Time,
    ) -> Self {
        let frame = wire::encode_message(opcode, payload);
        let payload_offset =
            u8::try_from(frame.len() - payload.len()).expect("a frame header has at most 14 bytes");
        Self {
            topic,
            frame,
            payload_offset,
            opcode,
            excluded,
            received_at,
            deflated: OnceLock::new(),
        }
    }

    /// The name of the topic, in UTF-8; `None` for a broadcast to everyone.
    #[must_use]
    pub fn topic(&self) -> Option<&[u8]> {
        self.topic.as_deref()
    }

    /// The encoded frame: header and payload, unmasked (RFC 6455 section 5.1).
    #[must_use]
    pub fn frame(&self) -> &Bytes {
        &self.frame
    }

    /// The frame for a receiver that has agreed on compression with this window, if any. Who needs
    /// one that is missing makes it; where two workers do so at once, one has in vain, and neither
    /// has waited.
    pub(crate) fn frame_for(
        &self,
        window: Option<Window>,
        compression: &mut Compression,
    ) -> &Bytes {
        let payload = self.payload();
        let Some(window) = window.filter(|_| compression.is_worth(payload.len())) else {
            return &self.frame;
        };
        let window = match breakage::ignores_windows() {
            true => Window::LARGEST,
            false => window.for_payload(payload.len()),
        };
        let place = &self.deflated.get_or_init(Box::default)[window.index()];
        let deflated = place.get().or_else(|| {
            // Lost to another worker, ours is as good and is dropped.
            let _ = place.set(compression.encode(self.opcode, payload, window));
            place.get()
        });
        deflated.and_then(Option::as_ref).unwrap_or(&self.frame)
    }

    /// What the publisher sent.
    #[must_use]
    pub fn payload(&self) -> &[u8] {
        &self.frame[usize::from(self.payload_offset)..]
    }

    /// Text or binary, as the publisher sent it.
    #[must_use]
    pub fn opcode(&self) -> DataOpcode {
        self.opcode
    }

    /// The connection of `member` that must not get this publication, if any.
    #[must_use]
    pub fn excluded(&self, member: Member) -> Option<ConnectionId> {
        self.excluded.filter(|(at, _)| *at == member).map(|(_, connection)| connection)
    }

    /// When its first worker received it.
    #[must_use]
    pub fn received_at(&self) -> Time {
        self.received_at
    }
}
