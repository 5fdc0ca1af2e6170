//! Compressed messages of clients (RFC 7692 sections 6.2 and 7.2.2).

use flate2::{Compress, Compression, FlushCompress};
use rand::{Rng, SeedableRng, rngs::StdRng};
use ringway_wire::{
    CloseCode, DataOpcode, Decoder, Event, Inflater, Input, Message, Violation, encode_message,
};

const MESSAGE_BYTES_MAX: usize = 100_000;

const FINAL: u8 = 0x80;
const COMPRESSED: u8 = 0x40;
const CONTINUATION: u8 = 0x0;
const TEXT: u8 = 0x1;
const BINARY: u8 = 0x2;

const RESERVED_BITS: Violation =
    Violation { code: CloseCode::PROTOCOL_ERROR, reason: "reserved bits must be 0" };
const INVALID_DEFLATE: Violation =
    Violation { code: CloseCode::INVALID_PAYLOAD, reason: "message must be valid DEFLATE" };
const INVALID_UTF8: Violation =
    Violation { code: CloseCode::INVALID_PAYLOAD, reason: "text must be valid UTF-8" };
const TOO_BIG: Violation =
    Violation { code: CloseCode::MESSAGE_TOO_BIG, reason: "message too big" };

/// What was heard: opcode and payload of messages, and of pings.
type Heard = Vec<(&'static str, Vec<u8>)>;

/// A masked frame.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let key = [0x37, 0xfa, 0x21, 0x3d];
    let plain = encode_message(DataOpcode::Binary, payload);
    let head = &plain[..plain.len() - payload.len()];
    let masked = payload.iter().zip(key.iter().cycle()).map(|(byte, key)| byte ^ key);
    let mut frame: Vec<u8> = head.iter().copied().chain(key).chain(masked).collect();
    frame[0] = first;
    frame[1] |= 0x80;
    frame
}

/// Decodes the pieces, between which the decoder is exchanged for its clone and the inflater for
/// another: nothing of a message may be in it while the message is not complete.
fn decode<'p>(pieces: impl IntoIterator<Item = &'p [u8]>) -> Result<Heard, Violation> {
    let mut decoder = Decoder::default();
    let mut inflaters = [Inflater::new(), Inflater::new()];
    let mut heard = Vec::new();
    for (index, piece) in pieces.into_iter().enumerate() {
        let mut bytes = piece.to_vec();
        let mut input = Input::new(&mut bytes);
        let inflater = &mut inflaters[index % 2];
        while let Some(event) = decoder.poll_deflated(&mut input, MESSAGE_BYTES_MAX, inflater)? {
            heard.push(match event {
                Event::Message(Message { opcode: DataOpcode::Text, payload }) => {
                    ("text", payload.to_vec())
                }
                Event::Message(Message { opcode: DataOpcode::Binary, payload }) => {
                    ("binary", payload.to_vec())
                }
                Event::Ping(payload) => ("ping", payload.to_vec()),
                other => panic!("{other:?}"),
            });
        }
        decoder = decoder.clone();
    }
    assert_eq!(decoder.buffered_bytes(), 0);
    Ok(heard)
}

/// Whole, byte by byte, and cut at random: it makes no difference.
fn decode_every_way(stream: &[u8]) -> Result<Heard, Violation> {
    let whole = decode([stream]);
    assert_eq!(decode(stream.chunks(1)), whole, "byte by byte");
    let mut random = StdRng::seed_from_u64(stream.len() as u64);
    for _ in 0..20 {
        let mut rest = stream;
        let mut pieces = Vec::new();
        while !rest.is_empty() {
            let (piece, behind) = rest.split_at(random.random_range(0..=rest.len()));
            pieces.push(piece);
            rest = behind;
        }
        assert_eq!(decode(pieces), whole);
    }
    whole
}

fn text(payload: &[u8]) -> Result<Heard, Violation> {
    decode_every_way(&frame(FINAL | COMPRESSED | TEXT, payload))
}

fn hello() -> Result<Heard, Violation> {
    Ok(vec![("text", b"Hello".to_vec())])
}

/// A payload as another implementation's sender makes it.
fn deflate(payload: &[u8], level: u32) -> Vec<u8> {
    let mut state = Compress::new(Compression::new(level), false);
    let mut output = Vec::with_capacity(payload.len() * 2 + 100);
    state.compress_vec(payload, &mut output, FlushCompress::Sync).unwrap();
    assert!(output.len() < output.capacity());
    output.strip_suffix(&[0, 0, 0xFF, 0xFF]).unwrap().to_vec()
}

/// Text that is compressed to about a third.
fn prose(random: &mut StdRng, words: usize) -> Vec<u8> {
    let word =
        |random: &mut StdRng| ["ring", "way ", "übung", "✓ ", "😀"][random.random_range(0..5)];
    (0..words).map(|_| word(random)).collect::<String>().into_bytes()
}

#[test]
fn a_message_of_one_block_is_that_of_rfc_7692_section_7_2_3_1() {
    let payload = [0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00];
    assert_eq!(text(&payload), hello());
    let fragments = [
        frame(COMPRESSED | TEXT, &[0xf2, 0x48, 0xcd]),
        frame(FINAL | CONTINUATION, &[0xc9, 0xc9, 0x07, 0x00]),
    ];
    assert_eq!(decode_every_way(&fragments.concat()), hello());
}

#[test]
fn no_window_is_taken_over_from_the_message_before() {
    // RFC 7692 section 7.2.3.2: the same message twice, without and with the context taken over.
    let first = [0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00];
    let [without, with] = [&first[..], &[0xf2, 0x00, 0x11, 0x00, 0x00]];
    let twice = |second: &[u8]| {
        let frames = [first.as_slice(), second].map(|it| frame(FINAL | COMPRESSED | TEXT, it));
        decode_every_way(&frames.concat())
    };
    assert_eq!(twice(without), Ok([hello().unwrap(), hello().unwrap()].concat()));
    assert_eq!(twice(with), Err(INVALID_DEFLATE));
}

#[test]
fn a_block_without_compression_is_that_of_rfc_7692_section_7_2_3_3() {
    let payload = [0x00, 0x05, 0x00, 0xfa, 0xff, 0x48, 0x65, 0x6c, 0x6c, 0x6f, 0x00];
    assert_eq!(text(&payload), hello());
}

#[test]
fn a_last_block_is_that_of_rfc_7692_section_7_2_3_4() {
    assert_eq!(text(&[0xf3, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00, 0x00]), hello());
    // Some senders leave out the octet behind it.
    assert_eq!(text(&[0xf3, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00]), hello());
}

#[test]
fn blocks_may_follow_a_last_block() {
    // RFC 7692 section 7.2.1: "The next DEFLATE block follows the padded data if any."
    let last = [0xf3, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00];
    let two = [&last[..], &[0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00]].concat();
    assert_eq!(text(&two), Ok(vec![("text", b"HelloHello".to_vec())]));
    let three = [&last[..], &last, &last, &[0x00]].concat();
    assert_eq!(text(&three), Ok(vec![("text", b"HelloHelloHello".to_vec())]));
}

#[test]
fn two_blocks_are_those_of_rfc_7692_section_7_2_3_5() {
    let payload = [0xf2, 0x48, 0x05, 0x00, 0x00, 0x00, 0xff, 0xff, 0xca, 0xc9, 0xc9, 0x07, 0x00];
    assert_eq!(text(&payload), hello());
}

#[test]
fn an_empty_message_is_that_of_rfc_7692_section_7_2_3_6() {
    let empty = Ok(vec![("text", Vec::new())]);
    assert_eq!(text(&[0x00]), empty);
    assert_eq!(text(&[]), empty, "or nothing at all");
    let fragments =
        [frame(COMPRESSED | TEXT, &[]), frame(CONTINUATION, &[0x00]), frame(FINAL, &[])];
    assert_eq!(decode_every_way(&fragments.concat()), empty);
}

#[test]
fn a_message_need_not_be_compressed() {
    let frames = [
        frame(FINAL | TEXT, b"plain"),
        frame(FINAL | COMPRESSED | BINARY, &deflate(b"not", 6)),
        frame(TEXT, b"pl"),
        frame(FINAL | CONTINUATION, b"ain"),
    ];
    let expected = [("text", "plain"), ("binary", "not"), ("text", "plain")];
    let expected = expected.map(|(kind, payload)| (kind, payload.as_bytes().to_vec()));
    assert_eq!(decode_every_way(&frames.concat()), Ok(expected.to_vec()));
}

#[test]
fn random_messages_in_random_fragments_with_pings_between_come_out_as_they_went_in() {
    for seed in 0..40 {
        let mut random = StdRng::seed_from_u64(seed);
        let mut stream = Vec::new();
        let mut expected = Vec::new();
        for _ in 0..random.random_range(1..6) {
            let payload = {
                let words = random.random_range(0..400);
                prose(&mut random, words)
            };
            let mut rest = &deflate(&payload, random.random_range(0..10))[..];
            let mut first = COMPRESSED | TEXT;
            loop {
                let size = random.random_range(0..=rest.len());
                let (piece, behind) = rest.split_at(size);
                let is_last = behind.is_empty();
                stream.extend(frame(first | if is_last { FINAL } else { 0 }, piece));
                (first, rest) = (CONTINUATION, behind);
                if is_last {
                    break;
                }
                if random.random() {
                    stream.extend(frame(FINAL | 0x9, b"between"));
                    expected.push(("ping", b"between".to_vec()));
                }
            }
            expected.push(("text", payload));
        }
        assert_eq!(decode_every_way(&stream), Ok(expected), "seed {seed}");
    }
}

#[test]
fn the_bit_stands_only_in_the_first_frame_of_a_message_and_only_where_it_was_agreed_on() {
    let begun = frame(COMPRESSED | TEXT, &[0xf2, 0x48, 0xcd]);
    let again = frame(FINAL | COMPRESSED | CONTINUATION, &[0xc9, 0xc9, 0x07, 0x00]);
    assert_eq!(decode([&[begun, again].concat()[..]]), Err(RESERVED_BITS));
    for opcode in [0x8, 0x9, 0xA] {
        assert_eq!(decode([&frame(FINAL | COMPRESSED | opcode, &[])[..]]), Err(RESERVED_BITS));
    }
    for bits in [0x10, 0x20, 0x30, 0x50, 0x60, 0x70] {
        assert_eq!(decode([&frame(FINAL | bits | TEXT, &[])[..]]), Err(RESERVED_BITS), "{bits:x}");
    }
    let mut bytes = frame(FINAL | COMPRESSED | TEXT, &[0x00]);
    let mut decoder = Decoder::default();
    let mut input = Input::new(&mut bytes);
    let outcome = decoder.poll(&mut input, MESSAGE_BYTES_MAX);
    assert_eq!(outcome, Err(RESERVED_BITS), "where it was not agreed on");
}

#[test]
fn a_text_is_checked_once_it_is_inflated() {
    for payload in [&b"\xff"[..], b"a\xc3", b"\xed\xa0\x80", b"ok\xf0\x9f\x98"] {
        assert_eq!(text(&deflate(payload, 6)), Err(INVALID_UTF8), "{payload:x?}");
        let binary = frame(FINAL | COMPRESSED | BINARY, &deflate(payload, 6));
        assert_eq!(decode_every_way(&binary), Ok(vec![("binary", payload.to_vec())]));
    }
    // Its compressed bytes need not be.
    let payload = deflate("é✓😀".as_bytes(), 6);
    assert!(std::str::from_utf8(&payload).is_err());
    assert_eq!(text(&payload), Ok(vec![("text", "é✓😀".as_bytes().to_vec())]));
}

#[test]
fn what_is_no_deflate_or_ends_before_its_end_is_refused() {
    for payload in [
        &[0x06][..],
        // A block of the type that does not exist, and a length that its complement denies.
        &[0x07, 0x00],
        &[0x00, 0x05, 0x00, 0xfa, 0xfe, 0x48],
        // "Hello", cut off.
        &[0xf2],
        &[0xf2, 0x48],
        &[0xf2, 0x48, 0xcd],
        &[0xf2, 0x48, 0xcd, 0xc9],
        &[0xf2, 0x48, 0xcd, 0xc9, 0xc9],
        &[0x00, 0x05, 0x00, 0xfa, 0xff, 0x48, 0x65],
        // A distance that reaches before the beginning.
        &[0xf2, 0x00, 0x11, 0x00, 0x00],
    ] {
        assert_eq!(text(payload), Err(INVALID_DEFLATE), "{payload:x?}");
    }
}

#[test]
fn random_bytes_never_panic_and_never_grow_beyond_the_limit() {
    let mut random = StdRng::seed_from_u64(1);
    let valid = deflate(&prose(&mut random, 300), 6);
    let mut inflated = 0;
    for round in 0..4_000 {
        let mut payload = valid.clone();
        if round % 2 == 0 {
            payload = (0..random.random_range(1..200)).map(|_| random.random()).collect();
        } else {
            for _ in 0..random.random_range(1..4) {
                let index = random.random_range(0..payload.len());
                payload[index] = random.random();
            }
        }
        match decode([&frame(FINAL | COMPRESSED | BINARY, &payload)[..]]) {
            Ok(heard) => inflated += usize::from(heard[0].1.len() <= MESSAGE_BYTES_MAX),
            Err(violation) => assert!([INVALID_DEFLATE, TOO_BIG].contains(&violation)),
        }
    }
    assert!(inflated > 0);
}

#[test]
fn a_bomb_is_closed_with_1009() {
    let bomb = deflate(&vec![0; 50_000_000], 9);
    assert!(bomb.len() < MESSAGE_BYTES_MAX, "it passes as a frame");
    assert_eq!(decode([&frame(FINAL | COMPRESSED | BINARY, &bomb)[..]]), Err(TOO_BIG));
    let longest = vec![0; MESSAGE_BYTES_MAX];
    let heard = decode_every_way(&frame(FINAL | COMPRESSED | BINARY, &deflate(&longest, 6)));
    assert_eq!(heard, Ok(vec![("binary", longest.clone())]));
    let longer = frame(FINAL | COMPRESSED | BINARY, &deflate(&[&longest[..], &[0]].concat(), 6));
    assert_eq!(decode([&longer[..]]), Err(TOO_BIG));
}

#[test]
fn a_message_that_does_not_shrink_may_come_compressed_all_the_same() {
    let mut random = StdRng::seed_from_u64(3);
    let noise: Vec<u8> = (0..MESSAGE_BYTES_MAX).map(|_| random.random()).collect();
    for level in [0, 1, 6] {
        let payload = deflate(&noise, level);
        assert!(payload.len() > MESSAGE_BYTES_MAX);
        let heard = decode([&frame(FINAL | COMPRESSED | BINARY, &payload)[..]]);
        assert_eq!(heard, Ok(vec![("binary", noise.clone())]), "level {level}");
    }
}

#[test]
fn a_compressed_message_that_cannot_fit_is_refused_before_its_payload_comes() {
    // An eighth and 64 bytes more than the message may have.
    let bytes_max = 112_564;
    let head = |bytes: usize| frame(FINAL | COMPRESSED | BINARY, &vec![0; bytes])[..14].to_vec();
    assert_eq!(decode([&head(bytes_max + 1)[..]]), Err(TOO_BIG));
    let fragments = [frame(COMPRESSED | BINARY, &[0; 65_536]), frame(CONTINUATION, &[0; 47_029])];
    assert_eq!(decode([&fragments.concat()[..]]), Err(TOO_BIG));
    // A plain one has no such room.
    let plain = [frame(BINARY, &[0; 65_536]), frame(CONTINUATION, &[0; 34_465])];
    assert_eq!(decode([&plain.concat()[..]]), Err(TOO_BIG));
}
