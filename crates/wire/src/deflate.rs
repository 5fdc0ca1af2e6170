//! permessage-deflate (RFC 7692 section 7.2): messages out of compressed payloads and into them.
//! No window outlives its message, so neither side keeps anything for a connection: one
//! [`Inflater`] and one [`Deflater`] serve all connections of a thread.

use std::{num::NonZeroU8, ops::AddAssign};

use bytes::Bytes;
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

use crate::{DataOpcode, Violation, decode, encode};

/// How far back a sender may look: 2 to the power of 9 to 15 bytes.
///
/// RFC 7692 section 7.1.2.1 also has 2 to the power of 8, which no encoder of the zlib family can
/// keep to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Window(NonZeroU8);

/// Messages that were compressed, or put back together, and their payloads' bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Converted {
    /// Messages.
    pub messages: u64,
    /// Bytes as they were.
    pub before_bytes: u64,
    /// Bytes as they became.
    pub after_bytes: u64,
}

/// Puts compressed messages back together, within a bound that holds while it runs.
#[derive(Debug)]
pub struct Inflater {
    state: Decompress,
    output: Vec<u8>,
    converted: Converted,
}

/// Compresses messages for receivers with any [`Window`].
#[derive(Debug, Default)]
pub struct Deflater {
    /// By [`Window::index`], made when first needed: some 300 KiB for the largest.
    states: [Option<Compress>; Window::COUNT],
    output: Vec<u8>,
    converted: Converted,
}

/// What a flush ends with, and a payload goes without (RFC 7692 section 7.2.1).
const FLUSH_END: [u8; 4] = [0x00, 0x00, 0xFF, 0xFF];

/// What is inflated behind a payload: the end of its flush, and an empty last block. Only where
/// the payload ended as it must does that end the stream, to the byte.
const PAYLOAD_END: [u8; 6] = [0x00, 0x00, 0xFF, 0xFF, 0x03, 0x00];

/// Level of the zlib family. In `examples/deflate_curve.rs` 1 KiB of JSON shrinks to 438, 356,
/// 348 and 347 bytes at levels 1, 2, 3 and 6, and 16 KiB take 39, 69, 94 and 194 µs.
const LEVEL: u32 = 3;

/// A buffer that has become larger for a message is given back behind it.
const KEPT_BYTES_MAX: usize = 64 << 10;

/// Bytes made room for at first; room doubles up to the bound.
const OUTPUT_BYTES_MIN: usize = 1024;

impl Window {
    /// What needs not be negotiated (RFC 7692 section 7.1.2.1).
    pub const LARGEST: Self = Self(NonZeroU8::new(15).expect("15 is not 0"));

    /// How many there are.
    pub const COUNT: usize = 7;

    const SMALLEST_BITS: u8 = 9;

    /// The window of so many bits, 9 to 15.
    #[must_use]
    pub fn of_bits(bits: u8) -> Option<Self> {
        let window = NonZeroU8::new(bits).map(Self)?;
        (Self::SMALLEST_BITS..=Self::LARGEST.bits()).contains(&bits).then_some(window)
    }

    /// All of them, by [`Self::index`].
    pub fn all() -> impl Iterator<Item = Self> {
        (Self::SMALLEST_BITS..=Self::LARGEST.bits()).filter_map(Self::of_bits)
    }

    /// Base-2 logarithm of its bytes.
    #[must_use]
    pub const fn bits(self) -> u8 {
        self.0.get()
    }

    /// Its place in a table of all windows.
    #[must_use]
    pub const fn index(self) -> usize {
        (self.bits() - Self::SMALLEST_BITS) as usize
    }

    /// The window to compress so many bytes with for a receiver with this one. Where all of them
    /// lie within it nothing is further back, so what was made with the largest fits too, and all
    /// such receivers share it.
    #[must_use]
    pub const fn for_payload(self, payload_bytes: usize) -> Self {
        if payload_bytes <= 1 << self.bits() { Self::LARGEST } else { self }
    }
}

/// The most bytes that a compressed message may come in, if it may have so many: codes of 9 bits
/// for every byte are the worst that an encoder with fixed codes makes of it (RFC 1951 section
/// 3.2.6), and its blocks have heads.
pub(crate) const fn compressed_bytes_max(message_bytes_max: usize) -> usize {
    message_bytes_max.saturating_add(message_bytes_max / 8).saturating_add(64)
}

impl AddAssign for Converted {
    fn add_assign(&mut self, other: Self) {
        self.messages += other.messages;
        self.before_bytes += other.before_bytes;
        self.after_bytes += other.after_bytes;
    }
}

impl Converted {
    fn count(&mut self, before_bytes: usize, after_bytes: usize) {
        *self += Self {
            messages: 1,
            before_bytes: before_bytes as u64,
            after_bytes: after_bytes as u64,
        };
    }
}

impl Inflater {
    /// Some 40 KiB for the largest window, whatever the peers use.
    #[must_use]
    pub fn new() -> Self {
        let converted = Converted::default();
        Self { state: Decompress::new(false), output: Vec::new(), converted }
    }

    /// What has been put back together since this was last asked.
    pub fn take_converted(&mut self) -> Converted {
        std::mem::take(&mut self.converted)
    }

    /// The message in a payload of at most [`compressed_bytes_max`], if it has at most
    /// `message_bytes_max`; one byte more is all that is ever made of a longer one.
    pub(crate) fn inflate(
        &mut self,
        payload: &[u8],
        message_bytes_max: usize,
    ) -> Result<&[u8], Violation> {
        self.output.clear();
        self.output.shrink_to(KEPT_BYTES_MAX);
        // Nothing at all is what some senders make of an empty message.
        if payload.is_empty() {
            return Ok(&self.output);
        }
        self.state.reset(false);
        // The stream may have ended without the flush behind it, at the cost of one byte.
        if !self.advance(payload, message_bytes_max)?
            && !self.advance(&PAYLOAD_END, message_bytes_max)?
        {
            return Err(decode::INVALID_DEFLATE);
        }
        self.converted.count(payload.len(), self.output.len());
        Ok(&self.output)
    }

    /// Inflates all of `input`. `true`: a last block has ended with it. What follows a last block
    /// is the beginning of another stream (RFC 7692 section 7.2.1).
    fn advance(&mut self, input: &[u8], message_bytes_max: usize) -> Result<bool, Violation> {
        let mut rest = input;
        let mut has_ended = false;
        // Each round takes input, or fills the room there is, which is bounded.
        while !rest.is_empty() || (self.is_full() && !has_ended) {
            if has_ended {
                self.state.reset(false);
            }
            if self.is_full() {
                let bytes = (self.output.len() * 2).max(OUTPUT_BYTES_MIN);
                let bytes = bytes.min(message_bytes_max.saturating_add(1));
                self.output.reserve_exact(bytes - self.output.len());
            }
            let taken = self.state.total_in();
            let status = self
                .state
                .decompress_vec(rest, &mut self.output, FlushDecompress::None)
                .map_err(|_| decode::INVALID_DEFLATE)?;
            let taken = usize::try_from(self.state.total_in() - taken).unwrap_or(rest.len());
            rest = &rest[taken..];
            has_ended = status == Status::StreamEnd;
            if self.output.len() > message_bytes_max {
                return Err(decode::MESSAGE_TOO_BIG);
            }
        }
        Ok(has_ended)
    }

    fn is_full(&self) -> bool {
        self.output.len() == self.output.capacity()
    }
}

impl Default for Inflater {
    fn default() -> Self {
        Self::new()
    }
}

impl Deflater {
    /// Without any state yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// What has been compressed since this was last asked. What did not shrink counts as it was.
    pub fn take_converted(&mut self) -> Converted {
        std::mem::take(&mut self.converted)
    }

    /// A whole message in one compressed frame, for receivers with this window. `None`: it would
    /// be no shorter than the plain one.
    pub fn encode_message(
        &mut self,
        opcode: DataOpcode,
        payload: &[u8],
        window: Window,
    ) -> Option<Bytes> {
        let compressed = self.deflate(payload, window);
        let after_bytes = compressed.map_or(payload.len(), <[u8]>::len);
        let frame = compressed.map(|compressed| encode::encode_compressed(opcode, compressed));
        self.converted.count(payload.len(), after_bytes);
        frame
    }

    /// The payload compressed, if that makes it shorter.
    fn deflate(&mut self, payload: &[u8], window: Window) -> Option<&[u8]> {
        let window = window.for_payload(payload.len());
        let state = self.states[window.index()].get_or_insert_with(|| {
            Compress::new_with_window_bits(Compression::new(LEVEL), false, window.bits())
        });
        state.reset();
        self.output.clear();
        self.output.shrink_to(KEPT_BYTES_MAX);
        self.output.reserve_exact(payload.len() + FLUSH_END.len());
        let status = state.compress_vec(payload, &mut self.output, FlushCompress::Sync);
        if !matches!(status, Ok(Status::Ok)) {
            return None;
        }
        // A flush is complete exactly when it leaves room (zlib.h, deflate). What leaves none ends
        // otherwise, or is without its end no shorter than the payload.
        let compressed = self.output.strip_suffix(&FLUSH_END)?;
        (compressed.len() < payload.len()).then_some(compressed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// So many zeros as a compressed payload.
    fn zeros(count: usize) -> Vec<u8> {
        let mut state = Compress::new(Compression::best(), false);
        let mut payload = Vec::with_capacity(count / 500 + 100);
        let status = state.compress_vec(&vec![0; count], &mut payload, FlushCompress::Sync);
        assert!(matches!(status, Ok(Status::Ok)) && payload.len() < payload.capacity());
        payload.truncate(payload.len() - FLUSH_END.len());
        payload
    }

    #[test]
    fn what_is_as_long_compressed_as_it_was_goes_plain() {
        // One repeated letter more shortens the one by less than the other, so some are level.
        let payloads = (0..64).flat_map(|distinct: u8| {
            (0..8).map(move |repeated| {
                let distinct = (0..distinct).map(|number| number.wrapping_mul(37));
                distinct.chain(vec![b'a'; repeated]).collect::<Vec<u8>>()
            })
        });
        let mut deflater = Deflater::new();
        let level = payloads.filter(|payload| {
            let mut state = Compress::new(Compression::new(LEVEL), false);
            let mut output = Vec::with_capacity(payload.len() + 100);
            state.compress_vec(payload, &mut output, FlushCompress::Sync).unwrap();
            output.len() - FLUSH_END.len() == payload.len()
        });
        let level: Vec<_> = level.collect();
        assert!(!level.is_empty());
        // A buffer that a longer message has left has room for more than would be shorter.
        deflater.encode_message(DataOpcode::Binary, &[0; 1000], Window::LARGEST).unwrap();
        for payload in level {
            let frame = deflater.encode_message(DataOpcode::Binary, &payload, Window::LARGEST);
            assert_eq!(frame, None, "{payload:?}");
        }
    }

    #[test]
    fn of_a_message_that_is_too_big_one_byte_more_than_it_may_have_is_made() {
        let bomb = zeros(64 << 20);
        assert!(bomb.len() < 80_000);
        let mut inflater = Inflater::new();
        for message_bytes_max in [0, 1, 1023, 1024, 1025, 65_536, 1 << 20] {
            let outcome = inflater.inflate(&bomb, message_bytes_max);
            assert_eq!(outcome, Err(decode::MESSAGE_TOO_BIG), "{message_bytes_max}");
            assert!(inflater.output.len() <= message_bytes_max.max(OUTPUT_BYTES_MIN) + 1);
            assert!(inflater.output.capacity() <= message_bytes_max.max(KEPT_BYTES_MAX) + 1);
        }
        assert_eq!(inflater.inflate(&zeros(7), 7), Ok(&[0; 7][..]), "and the next is inflated");
        assert_eq!(inflater.inflate(&zeros(8), 7), Err(decode::MESSAGE_TOO_BIG));
        let longest = vec![0; 1 << 20];
        assert_eq!(inflater.inflate(&zeros(1 << 20), 1 << 20), Ok(&longest[..]));
        assert_eq!(inflater.inflate(&zeros((1 << 20) + 1), 1 << 20), Err(decode::MESSAGE_TOO_BIG));
    }

    #[test]
    fn room_doubles_from_1024_bytes_up_to_one_byte_more_than_a_message_may_have() {
        for (bytes, message_bytes_max, expected) in [
            (1, 1 << 20, 1024),
            (1024, 1 << 20, 2048),
            (1025, 1 << 20, 2048),
            (9000, 1 << 20, 16_384),
            (9000, 10_000, 10_001),
            (5, 5, 6),
        ] {
            let mut inflater = Inflater::new();
            assert_eq!(inflater.inflate(&zeros(bytes), message_bytes_max), Ok(&vec![0; bytes][..]));
            assert_eq!(inflater.output.capacity(), expected, "{bytes} of {message_bytes_max}");
        }
    }

    #[test]
    fn a_last_block_may_fill_the_room_there_is_to_the_byte() {
        for bytes in [1024, 2048, 1 << 20] {
            let mut state = Compress::new(Compression::best(), false);
            let mut payload = Vec::with_capacity(4096);
            let status = state.compress_vec(&vec![0; bytes], &mut payload, FlushCompress::Finish);
            assert!(matches!(status, Ok(Status::StreamEnd)));
            let mut inflater = Inflater::new();
            assert_eq!(inflater.inflate(&payload, 1 << 21), Ok(&vec![0; bytes][..]));
            assert!(inflater.is_full(), "{bytes}");
        }
    }

    #[test]
    fn what_a_long_message_took_is_given_back_at_the_next() {
        let mut inflater = Inflater::new();
        assert!(inflater.inflate(&zeros(1 << 20), 1 << 20).is_ok());
        assert!(inflater.output.capacity() >= 1 << 20);
        assert_eq!(inflater.inflate(&zeros(5), 1 << 20), Ok(&[0; 5][..]));
        assert!(inflater.output.capacity() <= KEPT_BYTES_MAX);
        let mut deflater = Deflater::new();
        let long = vec![7; 1 << 20];
        assert!(deflater.encode_message(DataOpcode::Binary, &long, Window::LARGEST).is_some());
        assert_eq!(deflater.output.capacity(), (1 << 20) + 4, "no more than repays");
        deflater.encode_message(DataOpcode::Binary, b"short", Window::LARGEST);
        assert!(deflater.output.capacity() <= KEPT_BYTES_MAX);
    }

    #[test]
    fn what_was_converted_is_counted_until_it_is_asked_for() {
        let counts =
            |messages, before_bytes, after_bytes| Converted { messages, before_bytes, after_bytes };
        let mut inflater = Inflater::new();
        assert!(inflater.inflate(&[0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00], 5).is_ok());
        assert!(inflater.inflate(&[0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00], 4).is_err());
        assert_eq!(inflater.take_converted(), counts(1, 7, 5));
        assert_eq!(inflater.take_converted(), counts(0, 0, 0));
        let mut deflater = Deflater::new();
        let frame = deflater.encode_message(DataOpcode::Text, &[b'x'; 100], Window::LARGEST);
        deflater.encode_message(DataOpcode::Text, b"noise", Window::LARGEST);
        let compressed = frame.unwrap().len() as u64 - 2;
        assert_eq!(deflater.take_converted(), counts(2, 105, compressed + 5));
    }

    #[test]
    fn windows_have_9_to_15_bits_and_a_place_each() {
        let windows: Vec<Window> = (0..=255).filter_map(Window::of_bits).collect();
        assert_eq!(Window::all().collect::<Vec<_>>(), windows);
        assert_eq!(
            windows.iter().map(|it| it.bits()).collect::<Vec<_>>(),
            [9, 10, 11, 12, 13, 14, 15]
        );
        assert_eq!(windows.iter().map(|it| it.index()).collect::<Vec<_>>(), [0, 1, 2, 3, 4, 5, 6]);
        assert_eq!(windows.last(), Some(&Window::LARGEST));
        assert_eq!(size_of::<Option<Window>>(), 1);
    }

    #[test]
    fn a_payload_within_the_window_is_compressed_as_for_everybody() {
        let window = |bits| Window::of_bits(bits).unwrap();
        assert_eq!(window(9).for_payload(512), Window::LARGEST);
        assert_eq!(window(9).for_payload(513), window(9));
        assert_eq!(window(14).for_payload(16_384), Window::LARGEST);
        assert_eq!(window(14).for_payload(16_385), window(14));
        assert_eq!(Window::LARGEST.for_payload(1 << 20), Window::LARGEST);
        let mut deflater = Deflater::new();
        let [short, long] = [100, 600].map(|bytes| b"abcde".repeat(bytes / 5));
        let mut encode = |payload: &[u8], bits| {
            deflater.encode_message(DataOpcode::Binary, payload, window(bits)).unwrap()
        };
        assert_eq!(encode(&short, 9), encode(&short, 15));
        encode(&long, 9);
        assert_eq!(deflater.states.iter().filter(|state| state.is_some()).count(), 2);
    }
}
