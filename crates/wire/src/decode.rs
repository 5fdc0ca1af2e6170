//! The decoder: received bytes in, messages and control frames out. It works in place on the
//! receive buffer: a frame that lies whole in one input is unmasked there and lent to the caller
//! without a copy. Only what is split over two inputs, or is one fragment of several, is copied.
//! It answers nothing by itself; Ping and Close are the caller's to answer.

use std::ops::Range;

use crate::{
    CloseCode, CloseFrame, DataOpcode, Inflater,
    head::{ControlOpcode, FrameKind, Head, Place},
    partial::{Partial, PartialFrame},
    unmask,
};

/// Received bytes and how far they have been decoded. Decoding unmasks them in place.
#[derive(Debug)]
pub struct Input<'a> {
    bytes: &'a mut [u8],
    position: usize,
    /// Frames that may still begin.
    frames_left: u32,
}

/// A whole data message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Message<'a> {
    /// Text is valid UTF-8.
    pub opcode: DataOpcode,
    /// Unmasked, put together from its fragments, and inflated.
    pub payload: &'a [u8],
}

/// What a peer has said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event<'a> {
    /// A whole message.
    Message(Message<'a>),
    /// A Ping, to be answered with the same payload.
    Ping(&'a [u8]),
    /// A Pong.
    Pong(&'a [u8]),
    /// A Close. Nothing after it in the input is looked at, and no other input may be given.
    Close(Option<CloseFrame<'a>>),
}

/// A rule that the peer has broken: the code to close with, and the reason for the Close frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Violation {
    /// 1002, 1007 or 1009.
    pub code: CloseCode,
    /// The rule in a few words.
    pub reason: &'static str,
}

impl Violation {
    const fn protocol(reason: &'static str) -> Self {
        Self { code: CloseCode::PROTOCOL_ERROR, reason }
    }
}

pub(crate) const RESERVED_BITS: Violation = Violation::protocol("reserved bits must be 0");
pub(crate) const RESERVED_OPCODE: Violation = Violation::protocol("reserved opcode");
pub(crate) const FRAGMENTED_CONTROL: Violation =
    Violation::protocol("control frames must not be fragmented");
pub(crate) const NOTHING_TO_CONTINUE: Violation =
    Violation::protocol("continuation frame without a message to continue");
pub(crate) const MESSAGE_NOT_ENDED: Violation =
    Violation::protocol("new message before the last fragment of another");
pub(crate) const UNMASKED: Violation = Violation::protocol("client frames must be masked");
pub(crate) const CONTROL_TOO_LONG: Violation =
    Violation::protocol("control frames carry at most 125 bytes");
pub(crate) const LENGTH_NOT_MINIMAL: Violation =
    Violation::protocol("payload length must be in its shortest form");
pub(crate) const LENGTH_TOP_BIT: Violation =
    Violation::protocol("payload length must have 63 bits");
pub(crate) const CLOSE_BODY_OF_ONE_BYTE: Violation =
    Violation::protocol("a close body must begin with a code of two bytes");
pub(crate) const CLOSE_CODE: Violation = Violation::protocol("close code must not be sent");
pub(crate) const INVALID_UTF8: Violation =
    Violation { code: CloseCode::INVALID_PAYLOAD, reason: "text must be valid UTF-8" };
pub(crate) const INVALID_DEFLATE: Violation =
    Violation { code: CloseCode::INVALID_PAYLOAD, reason: "message must be valid DEFLATE" };
pub(crate) const MESSAGE_TOO_BIG: Violation =
    Violation { code: CloseCode::MESSAGE_TOO_BIG, reason: "message too big" };

/// One connection's receiving side. Eight bytes, and no heap, while no frame or message is split
/// over two reads.
#[derive(Debug, Clone, Default)]
pub struct Decoder {
    partial: Option<Box<Partial>>,
}

/// A frame or message that is complete, and where its payload lies.
enum Finished {
    InInput(Unit, Range<usize>),
    InPartial(Unit),
}

/// What the connection has agreed on, and may send.
#[derive(Clone, Copy)]
struct Rules {
    message_bytes_max: usize,
    is_deflate_agreed: bool,
}

/// What an event is made from.
#[derive(Clone, Copy)]
enum Unit {
    Message { opcode: DataOpcode, is_compressed: bool },
    Control(ControlOpcode),
}

impl<'a> Input<'a> {
    /// Starts at the first byte.
    pub fn new(bytes: &'a mut [u8]) -> Self {
        Self { bytes, position: 0, frames_left: u32::MAX }
    }

    /// Only so many frames may begin; what follows them stays in `rest`.
    #[must_use]
    pub fn limited(bytes: &'a mut [u8], frames_max: u32) -> Self {
        Self { bytes, position: 0, frames_left: frames_max }
    }

    /// How many frames may still begin.
    #[must_use]
    pub fn frames_left(&self) -> u32 {
        self.frames_left
    }

    /// Lets any number of frames begin.
    pub fn lift_limit(&mut self) {
        self.frames_left = u32::MAX;
    }

    /// Lets so many frames fewer begin.
    pub fn count_more(&mut self, frames: u32) {
        self.frames_left = self.frames_left.saturating_sub(frames);
    }

    /// The bytes not decoded yet.
    #[must_use]
    pub fn rest(&self) -> &[u8] {
        &self.bytes[self.position..]
    }

    fn next_byte(&mut self) -> Option<u8> {
        let byte = *self.bytes.get(self.position)?;
        self.position += 1;
        Some(byte)
    }

    /// Steps over the next bytes of a frame's payload, all there are, and unmasks them.
    fn unmask_payload(&mut self, frame: PartialFrame) -> Range<usize> {
        let PartialFrame { head, taken_bytes } = frame;
        let count = (head.payload_bytes - taken_bytes).min(self.rest().len());
        let range = self.position..self.position + count;
        unmask(&mut self.bytes[range.clone()], head.key, taken_bytes);
        self.position = range.end;
        range
    }
}

impl Decoder {
    /// Decodes the next event. `None`: the input is used up, and what it left unfinished is kept; or
    /// a frame would begin, and none may any more.
    ///
    /// The event borrows from both until it is dropped, so that this is the loop:
    ///
    /// ```
    /// # use ringway_wire::{Decoder, Event, Input, Violation};
    /// # fn receive(decoder: &mut Decoder, received: &mut [u8]) -> Result<(), Violation> {
    /// let mut input = Input::new(received);
    /// while let Some(event) = decoder.poll(&mut input, 65_536)? {
    ///     match event {
    ///         Event::Message(message) => println!("{} bytes", message.payload.len()),
    ///         Event::Ping(_) | Event::Pong(_) => {}
    ///         Event::Close(_) => break,
    ///     }
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// The first rule of RFC 6455 that the peer broke. The decoder must not be used again.
    pub fn poll<'d>(
        &'d mut self,
        input: &'d mut Input<'_>,
        message_bytes_max: usize,
    ) -> Result<Option<Event<'d>>, Violation> {
        self.poll_with(input, message_bytes_max, None)
    }

    /// The same for a connection that has agreed on permessage-deflate. Compressed messages are
    /// lent from the inflater, which may be another one at the next call.
    ///
    /// # Errors
    /// The first rule of RFC 6455 or RFC 7692 that the peer broke; a message that would have more
    /// bytes than it may is not inflated further. The decoder must not be used again.
    pub fn poll_deflated<'d>(
        &'d mut self,
        input: &'d mut Input<'_>,
        message_bytes_max: usize,
        inflater: &'d mut Inflater,
    ) -> Result<Option<Event<'d>>, Violation> {
        self.poll_with(input, message_bytes_max, Some(inflater))
    }

    fn poll_with<'d>(
        &'d mut self,
        input: &'d mut Input<'_>,
        message_bytes_max: usize,
        inflater: Option<&'d mut Inflater>,
    ) -> Result<Option<Event<'d>>, Violation> {
        if self.partial.as_mut().is_some_and(|partial| partial.release()) {
            self.partial = None;
        }
        if input.rest().is_empty() {
            return Ok(None);
        }
        let rules = Rules { message_bytes_max, is_deflate_agreed: inflater.is_some() };
        let Some(finished) = self.advance(input, rules)? else { return Ok(None) };
        let (unit, payload) = match finished {
            Finished::InInput(unit, range) => (unit, &input.bytes[range]),
            Finished::InPartial(unit) => {
                let partial = self.partial.as_ref().expect("what finished in it is still in it");
                let payload = match unit {
                    Unit::Message { .. } => partial.message_payload(),
                    Unit::Control(_) => partial.control_payload(),
                };
                (unit, payload)
            }
        };
        Ok(Some(match unit {
            Unit::Message { opcode, is_compressed } => {
                let payload = match inflater {
                    Some(inflater) if is_compressed => {
                        inflate(inflater, opcode, payload, message_bytes_max)?
                    }
                    _ => payload,
                };
                Event::Message(Message { opcode, payload })
            }
            Unit::Control(ControlOpcode::Ping) => Event::Ping(payload),
            Unit::Control(ControlOpcode::Pong) => Event::Pong(payload),
            Unit::Control(ControlOpcode::Close) => {
                input.position = input.bytes.len();
                Event::Close(CloseFrame::parse(payload)?)
            }
        }))
    }

    /// Bytes of heap held for what is unfinished.
    #[must_use]
    pub fn buffered_bytes(&self) -> usize {
        self.partial.as_ref().map_or(0, |partial| partial.heap_bytes())
    }

    /// Consumes frames until one completes an event. Each round consumes at least a head, or all
    /// that is left.
    fn advance(
        &mut self,
        input: &mut Input<'_>,
        rules: Rules,
    ) -> Result<Option<Finished>, Violation> {
        loop {
            let frame = match self.partial.as_mut().and_then(|partial| partial.resume_frame()) {
                Some(frame) => frame,
                None => match self.advance_head(input, rules)? {
                    Some(head) => PartialFrame { head, taken_bytes: 0 },
                    None => return Ok(None),
                },
            };
            let range = input.unmask_payload(frame);
            if range.len() == frame.head.payload_bytes
                && let Some(unit) = whole_unit(frame.head)
            {
                if let Unit::Message { opcode: DataOpcode::Text, is_compressed: false } = unit {
                    check_utf8(&input.bytes[range.clone()])?;
                }
                return Ok(Some(Finished::InInput(unit, range)));
            }
            if let Some(unit) = self.take_payload(frame, &input.bytes[range])? {
                return Ok(Some(Finished::InPartial(unit)));
            }
            if input.rest().is_empty() {
                return Ok(None);
            }
        }
    }

    /// The next head. `None`: the input ends before or within it.
    fn advance_head(
        &mut self,
        input: &mut Input<'_>,
        rules: Rules,
    ) -> Result<Option<Head>, Violation> {
        if input.frames_left == 0 {
            return Ok(None);
        }
        let Rules { message_bytes_max, is_deflate_agreed } = rules;
        let open_message = self.partial.as_ref().and_then(|partial| partial.open_message());
        let place = Place { open_message, message_bytes_max, is_deflate_agreed };
        // What is within a head, or between fragments, takes the longer way.
        if self.partial.is_none()
            && let Some((head, head_bytes)) = Head::parse(input.rest(), place)?
        {
            input.position += head_bytes;
            input.frames_left -= 1;
            return Ok(Some(head));
        }
        while let Some(byte) = input.next_byte() {
            let partial = self.partial.get_or_insert_default();
            if let Some(head) = partial.push_head(byte, place)? {
                input.frames_left -= 1;
                return Ok(Some(head));
            }
        }
        Ok(None)
    }

    /// Copies a piece of a frame's payload. `Some`: it completed an event.
    fn take_payload(
        &mut self,
        frame: PartialFrame,
        payload: &[u8],
    ) -> Result<Option<Unit>, Violation> {
        let partial = self.partial.get_or_insert_default();
        if !partial.take_payload(frame, payload)? {
            return Ok(None);
        }
        Ok(match frame.head.kind {
            FrameKind::Control(opcode) => Some(Unit::Control(opcode)),
            _ if frame.head.is_final => partial
                .end_message()
                .map(|(opcode, is_compressed)| Unit::Message { opcode, is_compressed }),
            _ => None,
        })
    }
}

/// What a frame completes all by itself.
fn whole_unit(head: Head) -> Option<Unit> {
    match head.kind {
        FrameKind::Control(opcode) => Some(Unit::Control(opcode)),
        FrameKind::First(opcode) if head.is_final => {
            Some(Unit::Message { opcode, is_compressed: head.is_compressed })
        }
        _ => None,
    }
}

/// A compressed message. Text must be UTF-8 once it is inflated (RFC 7692 section 6.2, RFC 6455
/// section 8.1).
fn inflate<'d>(
    inflater: &'d mut Inflater,
    opcode: DataOpcode,
    payload: &[u8],
    message_bytes_max: usize,
) -> Result<&'d [u8], Violation> {
    let payload = inflater.inflate(payload, message_bytes_max)?;
    if opcode == DataOpcode::Text {
        check_utf8(payload)?;
    }
    Ok(payload)
}

fn check_utf8(payload: &[u8]) -> Result<(), Violation> {
    simdutf8::basic::from_utf8(payload).map(|_| ()).map_err(|_| INVALID_UTF8)
}
