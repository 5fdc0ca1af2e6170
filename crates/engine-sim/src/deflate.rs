//! permessage-deflate as a client speaks it (RFC 7692 section 7.2), apart from `wire`. What inflates
//! is written again, short and slow, for one thing: it is exact about windows. That of flate2 takes
//! what looks back beyond the window that it was made for, which the last test here holds.

use flate2::{Compress, Compression, FlushCompress};

use crate::chance::Chance;

/// What a payload goes without (RFC 7692 section 7.2.1).
const FLUSH_END: [u8; 4] = [0x00, 0x00, 0xFF, 0xFF];

/// No message has as many bytes.
const MESSAGE_BYTES_MAX: usize = 1 << 16;

/// Beside the bytes of a message: the heads of its blocks, and their ends.
const ROOM_BYTES: usize = 200;

/// The bits of the window that needs not be agreed on.
pub(crate) const WINDOW_BITS_MAX: u8 = 15;

/// The longest code, in bits.
const CODE_BITS_MAX: usize = 15;

/// In which order the lengths of the codes for lengths come (RFC 1951 section 3.2.7).
const LENGTHS_ORDER: [usize; 19] =
    [16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15];

/// The symbol that ends a block; those above are lengths of matches.
const BLOCK_END: usize = 256;

pub(crate) type Outcome<T> = Result<T, &'static str>;

const CUT_OFF: &str = "is cut off";

/// A payload that stands for a message: from one encoder or another, in one block or in several,
/// and with or without a last one (RFC 7692 section 7.2.3).
pub(crate) fn deflate(message: &[u8], chance: &mut Chance) -> Vec<u8> {
    let level = Compression::new(*chance.one(&[0, 1, 6, 9]));
    let bits = *chance.one(&[9, 10, 12, WINDOW_BITS_MAX]);
    let mut state = Compress::new_with_window_bits(level, false, bits);
    let mut output = Vec::with_capacity(message.len() + ROOM_BYTES);
    let mut compress = |piece: &[u8], flush| {
        state.compress_vec(piece, &mut output, flush).expect("there is room for all of it");
    };
    let mut rest = message;
    if chance.of(0.3) {
        let (front, back) = message.split_at(chance.number(0..=message.len()));
        compress(front, *chance.one(&[FlushCompress::Sync, FlushCompress::Full]));
        rest = back;
    }
    if chance.of(0.2) {
        compress(rest, FlushCompress::Finish);
        // An empty block that is not the last (RFC 7692 section 7.2.3.4).
        output.push(0);
    } else {
        compress(rest, FlushCompress::Sync);
        output.truncate(output.len() - FLUSH_END.len());
    }
    output
}

/// The shortest payload that stands for a message.
pub(crate) fn deflate_well(message: &[u8]) -> Vec<u8> {
    let mut state = Compress::new(Compression::best(), false);
    let mut output = Vec::with_capacity(message.len() + ROOM_BYTES);
    let status = state.compress_vec(message, &mut output, FlushCompress::Sync);
    status.expect("there is room for all of it");
    output.truncate(output.len() - FLUSH_END.len());
    output
}

/// The message in a payload.
pub(crate) fn inflate(payload: &[u8]) -> Outcome<Inflated> {
    let input = [payload, &FLUSH_END].concat();
    let mut bits = Bits { bytes: &input, position: 0 };
    let mut inflated = Inflated { message: Vec::new(), reach_bytes: 0 };
    // Every block takes three bits at least.
    loop {
        if bits.take(1)? == 1 {
            return Err("ends its stream");
        }
        match bits.take(2)? {
            0 => {
                bits.copy_stored(&mut inflated)?;
                if bits.position == input.len() * 8 {
                    return Ok(inflated);
                }
            }
            1 => {
                let lengths: Vec<u8> = (0..288).map(fixed_length).collect();
                bits.copy_block(&Code::new(&lengths)?, &Code::new(&[5; 30])?, &mut inflated)?;
            }
            2 => {
                let (literals, distances) = bits.take_codes()?;
                bits.copy_block(&literals, &distances, &mut inflated)?;
            }
            _ => return Err("has a block of no kind"),
        }
    }
}

/// What a symbol's code has in a block with fixed codes (RFC 1951 section 3.2.6).
fn fixed_length(symbol: usize) -> u8 {
    match symbol {
        0..=143 => 8,
        144..=255 => 9,
        256..=279 => 7,
        _ => 8,
    }
}

/// What was inflated.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Inflated {
    pub(crate) message: Vec<u8>,
    /// How far back its encoder has looked.
    reach_bytes: usize,
}

impl Inflated {
    /// The message, if it was made for a window of so many bits.
    pub(crate) fn within(&self, window_bits: u8) -> Outcome<&[u8]> {
        match self.reach_bytes <= 1 << window_bits {
            true => Ok(&self.message),
            false => Err("looks back beyond the window"),
        }
    }

    fn push(&mut self, byte: u8) -> Outcome<()> {
        if self.message.len() == MESSAGE_BYTES_MAX {
            return Err("is longer than any that was sent");
        }
        self.message.push(byte);
        Ok(())
    }

    fn repeat(&mut self, distance: usize, length: usize) -> Outcome<()> {
        self.reach_bytes = self.reach_bytes.max(distance);
        for _ in 0..length {
            let at = self.message.len().checked_sub(distance).ok_or("looks back to nothing")?;
            self.push(self.message[at])?;
        }
        Ok(())
    }
}

/// The input, bit by bit from the lowest of every byte.
struct Bits<'a> {
    bytes: &'a [u8],
    /// In bits.
    position: usize,
}

impl Bits<'_> {
    fn take(&mut self, count: usize) -> Outcome<usize> {
        (0..count).try_fold(0, |number, bit| {
            let byte = self.bytes.get(self.position / 8).ok_or(CUT_OFF)?;
            let value = usize::from(byte >> (self.position % 8) & 1);
            self.position += 1;
            Ok(number | value << bit)
        })
    }

    /// RFC 1951 section 3.2.4.
    fn copy_stored(&mut self, inflated: &mut Inflated) -> Outcome<()> {
        self.position = self.position.next_multiple_of(8);
        let (length, complement) = (self.take(16)?, self.take(16)?);
        if length ^ complement != 0xFFFF {
            return Err("has a stored block whose length is wrong");
        }
        for byte in self.bytes.get(self.position / 8..).unwrap_or_default().iter().take(length) {
            inflated.push(*byte)?;
        }
        self.position += length * 8;
        if self.position > self.bytes.len() * 8 { Err(CUT_OFF) } else { Ok(()) }
    }

    /// RFC 1951 section 3.2.5.
    fn copy_block(
        &mut self,
        literals: &Code,
        distances: &Code,
        inflated: &mut Inflated,
    ) -> Outcome<()> {
        loop {
            let symbol = self.take_symbol(literals)?;
            if let Ok(literal) = u8::try_from(symbol) {
                inflated.push(literal)?;
                continue;
            }
            let length = match symbol - BLOCK_END {
                0 => return Ok(()),
                29 => 258,
                number @ 1..=28 => self.take_graded(number - 1, 4)? + 3,
                _ => return Err("has a length of no kind"),
            };
            let distance = match self.take_symbol(distances)? {
                number @ 0..=29 => self.take_graded(number, 2)? + 1,
                _ => return Err("has a distance of no kind"),
            };
            inflated.repeat(distance, length)?;
        }
    }

    /// A number whose symbol stands for a range: at first one each, and then so many ranges of each
    /// size, which doubles (the tables of RFC 1951 section 3.2.5).
    fn take_graded(&mut self, symbol: usize, ranges: usize) -> Outcome<usize> {
        if symbol < ranges * 2 {
            return Ok(symbol);
        }
        let extra_bits = symbol / ranges - 1;
        Ok(((ranges + symbol % ranges) << extra_bits) + self.take(extra_bits)?)
    }

    /// The codes of a block that brings its own (RFC 1951 section 3.2.7).
    fn take_codes(&mut self) -> Outcome<(Code, Code)> {
        let literals = self.take(5)? + 257;
        let distances = self.take(5)? + 1;
        let mut order = [0; LENGTHS_ORDER.len()];
        for place in &LENGTHS_ORDER[..self.take(4)? + 4] {
            order[*place] = self.take_length(3)?;
        }
        let code = Code::new(&order)?;
        let mut lengths: Vec<u8> = Vec::new();
        while lengths.len() < literals + distances {
            let (length, times) = match self.take_symbol(&code)? {
                16 => (*lengths.last().ok_or("repeats no length")?, self.take(2)? + 3),
                17 => (0, self.take(3)? + 3),
                18 => (0, self.take(7)? + 11),
                length => (u8::try_from(length).map_err(|_| "has a long code")?, 1),
            };
            lengths.extend(std::iter::repeat_n(length, times));
        }
        if lengths.len() > literals + distances {
            return Err("has more lengths than codes");
        }
        Ok((Code::new(&lengths[..literals])?, Code::new(&lengths[literals..])?))
    }

    fn take_length(&mut self, bits: usize) -> Outcome<u8> {
        u8::try_from(self.take(bits)?).map_err(|_| "has a long code")
    }

    /// The next symbol. Its code comes from the highest bit on.
    fn take_symbol(&mut self, code: &Code) -> Outcome<usize> {
        let (mut word, mut first, mut index) = (0, 0, 0);
        for count in &code.counts[1..] {
            word |= self.take(1)?;
            if word - first < *count {
                return Ok(code.symbols[index + word - first]);
            }
            index += count;
            first = (first + count) * 2;
            word *= 2;
        }
        Err("has a code of no symbol")
    }
}

/// A Huffman code, of which the lengths say everything (RFC 1951 section 3.2.2).
struct Code {
    /// By length: how many symbols have it. None has 0.
    counts: [usize; CODE_BITS_MAX + 1],
    /// In the order of their codes.
    symbols: Vec<usize>,
}

impl Code {
    fn new(lengths: &[u8]) -> Outcome<Self> {
        let mut counts = [0; CODE_BITS_MAX + 1];
        lengths.iter().for_each(|length| counts[usize::from(*length)] += 1);
        counts[0] = 0;
        let mut left = 1_usize;
        for count in &counts[1..] {
            left = (left * 2).checked_sub(*count).ok_or("has too many codes")?;
        }
        let mut symbols: Vec<usize> =
            (0..lengths.len()).filter(|symbol| lengths[*symbol] > 0).collect();
        // Stable: within a length the symbols stay in their order.
        symbols.sort_by_key(|symbol| lengths[*symbol]);
        Ok(Self { counts, symbols })
    }
}

#[cfg(test)]
mod tests {
    use flate2::{Decompress, FlushDecompress};

    use super::*;
    use crate::payload;

    /// The message in a payload that was made for a window of so many bits.
    fn inflate(payload: &[u8], window_bits: u8) -> Outcome<Vec<u8>> {
        super::inflate(payload)?.within(window_bits).map(<[u8]>::to_vec)
    }

    /// A payload that an encoder with a window of so many bits makes.
    fn encode(message: &[u8], level: u32, bits: u8) -> Vec<u8> {
        let mut state = Compress::new_with_window_bits(Compression::new(level), false, bits);
        let mut output = Vec::with_capacity(message.len() + 8_192);
        state.compress_vec(message, &mut output, FlushCompress::Sync).unwrap();
        output.strip_suffix(&FLUSH_END).unwrap().to_vec()
    }

    /// RFC 7692 sections 7.2.3.1 and 7.2.3.3.
    #[test]
    fn the_examples_of_the_rfc_are_inflated() {
        let hello = [0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00];
        assert_eq!(inflate(&hello, 15), Ok(b"Hello".to_vec()));
        let stored = [0x00, 0x05, 0x00, 0xfa, 0xff, 0x48, 0x65, 0x6c, 0x6c, 0x6f, 0x00];
        assert_eq!(inflate(&stored, 15), Ok(b"Hello".to_vec()));
        inflate(&hello[..6], 15).unwrap_err();
        inflate(&stored[..10], 15).unwrap_err();
        inflate(&[0xFF], 15).unwrap_err();
        inflate(&[0xf3, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00, 0x00], 15).unwrap_err();
    }

    #[test]
    fn what_another_encoder_makes_is_inflated_with_codes_of_every_kind() {
        let sorts: [Vec<u8>; 4] = [
            (0..60_000_u32)
                .flat_map(|it| (it % 300).to_string().into_bytes())
                .take(60_000)
                .collect(),
            (0..2_000_u32).map(|it| it.wrapping_mul(0x9E37_79B9).to_be_bytes()[0]).collect(),
            vec![b'a'; 40_000],
            Vec::new(),
        ];
        for message in sorts {
            for level in [0, 1, 6, 9] {
                let payload = encode(&message, level, 15);
                assert!(inflate(&payload, 15).as_ref() == Ok(&message), "{level}");
            }
        }
    }

    #[test]
    fn what_is_sent_stands_for_its_message_and_some_of_it_ends_the_stream() {
        let mut chance = Chance::new(0);
        let mut ended = 0;
        for number in 0..200 {
            let message = payload::make(0, number, number * 20);
            match inflate(&deflate(&message, &mut chance), 15) {
                Err(what) => {
                    assert_eq!(what, "ends its stream");
                    ended += 1;
                }
                inflated => assert_eq!(inflated.as_ref(), Ok(&message), "{number}"),
            }
        }
        assert!((20..60).contains(&ended), "{ended}");
        assert_eq!(inflate(&deflate_well(&[0; 4_096]), 15), Ok(vec![0; 4_096]));
    }

    /// In one piece and byte by byte. Where this fails, flate2 would do instead of all this.
    #[test]
    fn flate2_lets_pass_what_is_beyond_the_window_that_it_was_made_for() {
        let message = payload::make(0, 4, 4_096);
        let stream = [encode(&message, 9, 15), FLUSH_END.to_vec()].concat();
        assert_eq!(inflate(&stream[..stream.len() - 4], 9), Err("looks back beyond the window"));
        for piece_bytes in [message.len(), 1] {
            let mut state = Decompress::new_with_window_bits(false, 9);
            let mut inflated = Vec::new();
            while inflated.len() < message.len() {
                let mut piece = Vec::with_capacity(piece_bytes);
                let taken = usize::try_from(state.total_in()).unwrap();
                state.decompress_vec(&stream[taken..], &mut piece, FlushDecompress::Sync).unwrap();
                inflated.extend(piece);
            }
            assert!(inflated == message, "{piece_bytes}");
        }
    }

    #[test]
    fn what_is_beyond_a_window_is_an_error() {
        for (number, reaching_bits) in [(2, 10), (3, 11), (4, 12)] {
            let message = payload::make(0, number, 4_096);
            for bits in 9..=15 {
                assert_eq!(inflate(&encode(&message, 9, bits), bits).as_ref(), Ok(&message));
                let inflated = inflate(&encode(&message, 9, 15), bits);
                assert_eq!(inflated.is_ok(), bits >= reaching_bits, "{number}: {bits}");
            }
        }
    }
}
