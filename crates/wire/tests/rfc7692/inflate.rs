//! DEFLATE read bit by bit, as RFC 1951 describes it: a receiver that is as strict about its window
//! as those that have no more memory.

/// Bits from the lowest of each byte on (RFC 1951 section 3.1.1).
struct Bits<'a> {
    bytes: &'a [u8],
    next: usize,
}

/// Symbols by code: how many codes have each length, and the symbols in the order of their codes
/// (RFC 1951 section 3.2.2).
struct Codes {
    counts: [usize; 16],
    symbols: Vec<usize>,
}

/// Base and extra bits of lengths from symbol 257 on, and of distances (RFC 1951 section 3.2.5).
#[rustfmt::skip]
const LENGTHS: [(usize, usize); 29] = [
    (3, 0), (4, 0), (5, 0), (6, 0), (7, 0), (8, 0), (9, 0), (10, 0), (11, 1), (13, 1), (15, 1),
    (17, 1), (19, 2), (23, 2), (27, 2), (31, 2), (35, 3), (43, 3), (51, 3), (59, 3), (67, 4),
    (83, 4), (99, 4), (115, 4), (131, 5), (163, 5), (195, 5), (227, 5), (258, 0),
];

/// The order in which lengths of codes of code lengths stand (RFC 1951 section 3.2.7).
const ORDER: [usize; 19] = [16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15];

/// What blocks without a last one come to, and how far back they reach.
pub(crate) fn inflate(bytes: &[u8]) -> (Vec<u8>, usize) {
    let mut bits = Bits { bytes, next: 0 };
    let (mut output, mut reach) = (Vec::new(), 0);
    while bits.next.div_ceil(8) < bytes.len() {
        assert_eq!(bits.take(1), 0, "no last block");
        let codes = match bits.take(2) {
            0 => {
                bits.next = bits.next.next_multiple_of(8);
                let length = bits.take(16);
                assert_eq!(bits.take(16), length ^ 0xFFFF);
                output.extend((0..length).map(|_| u8::try_from(bits.take(8)).unwrap()));
                continue;
            }
            1 => fixed_codes(),
            2 => bits.take_codes(),
            kind => panic!("block of type {kind}"),
        };
        reach = reach.max(inflate_block(&mut bits, &codes, &mut output));
    }
    (output, reach)
}

fn inflate_block(bits: &mut Bits<'_>, codes: &[Codes; 2], output: &mut Vec<u8>) -> usize {
    let mut reach = 0;
    loop {
        match bits.take_symbol(&codes[0]) {
            256 => return reach,
            symbol @ 0..256 => output.push(u8::try_from(symbol).unwrap()),
            symbol => {
                let (base, extra) = LENGTHS[symbol - 257];
                let length = base + bits.take(extra);
                let symbol = bits.take_symbol(&codes[1]);
                let extra = (symbol / 2).saturating_sub(1);
                let base = if symbol < 4 { symbol } else { (2 + symbol % 2) << extra };
                let distance = 1 + base + bits.take(extra);
                for _ in 0..length {
                    output.push(output[output.len() - distance]);
                }
                reach = reach.max(distance);
            }
        }
    }
}

/// RFC 1951 section 3.2.6.
fn fixed_codes() -> [Codes; 2] {
    let lengths = [[8; 144].as_slice(), &[9; 112], &[7; 24], &[8; 8]].concat();
    [Codes::new(&lengths), Codes::new(&[5; 30])]
}

impl Bits<'_> {
    fn take(&mut self, count: usize) -> usize {
        let bit = |at: usize| usize::from(self.bytes[at / 8] >> (at % 8) & 1);
        let number = (0..count).map(|index| bit(self.next + index) << index).sum();
        self.next += count;
        number
    }

    fn take_symbol(&mut self, codes: &Codes) -> usize {
        let (mut code, mut first, mut index) = (0, 0, 0);
        for count in &codes.counts[1..] {
            code |= self.take(1);
            if code < first + count {
                return codes.symbols[index + code - first];
            }
            index += count;
            first = (first + count) << 1;
            code <<= 1;
        }
        panic!("no symbol has this code");
    }

    /// RFC 1951 section 3.2.7.
    fn take_codes(&mut self) -> [Codes; 2] {
        let [literals, distances, counts] =
            [(5, 257), (5, 1), (4, 4)].map(|(bits, least)| self.take(bits) + least);
        let mut lengths = [0; 19];
        for at in &ORDER[..counts] {
            lengths[*at] = self.take(3);
        }
        let codes = Codes::new(&lengths);
        let mut lengths: Vec<usize> = Vec::new();
        while lengths.len() < literals + distances {
            let (length, repeats) = match self.take_symbol(&codes) {
                16 => (*lengths.last().unwrap(), 3 + self.take(2)),
                17 => (0, 3 + self.take(3)),
                18 => (0, 11 + self.take(7)),
                length => (length, 1),
            };
            lengths.extend(vec![length; repeats]);
        }
        let (literals, distances) = lengths.split_at(literals);
        [Codes::new(literals), Codes::new(distances)]
    }
}

impl Codes {
    fn new(lengths: &[usize]) -> Self {
        let mut counts = [0; 16];
        lengths.iter().for_each(|length| counts[*length] += 1);
        let mut symbols: Vec<usize> =
            (0..lengths.len()).filter(|symbol| lengths[*symbol] > 0).collect();
        symbols.sort_by_key(|symbol| lengths[*symbol]);
        Self { counts, symbols }
    }
}
