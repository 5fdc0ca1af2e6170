//! Heads: every first byte, every second byte, every form of length, masks (RFC 6455 sections 5.1
//! to 5.3 and 5.7).

use super::{
    BINARY, CONTINUATION, CONTROL_TOO_LONG, Case, FINAL, FRAGMENTED_CONTROL, Heard, KEY,
    LENGTH_NOT_MINIMAL, LENGTH_TOP_BIT, MESSAGE_NOT_ENDED, NOTHING_TO_CONTINUE, PING, PONG,
    RESERVED_BITS, RESERVED_OPCODE, Rule, TEXT, UNMASKED, broken, frame, frame_with_key, kept,
    text,
};

pub(super) fn add(cases: &mut Vec<Case>) {
    add_examples(cases);
    add_first_bytes(cases);
    add_second_bytes(cases);
    add_lengths(cases);
    add_lengths_in_a_wrong_form(cases);
    add_masks(cases);
}

fn add_examples(cases: &mut Vec<Case>) {
    cases.extend([
        kept(
            "5.7 a single-frame masked text message",
            &[vec![0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58]],
            &[text("Hello")],
        ),
        kept(
            "5.7 a masked pong",
            &[vec![0x8a, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58]],
            &[Heard::Pong(b"Hello".to_vec())],
        ),
        kept(
            "5.7 a fragmented text message, masked with a key of zeros",
            &[
                vec![0x01, 0x83, 0, 0, 0, 0, 0x48, 0x65, 0x6c],
                vec![0x80, 0x82, 0, 0, 0, 0, 0x6c, 0x6f],
            ],
            &[text("Hello")],
        ),
        kept(
            "5.7 256 bytes of binary in a single frame",
            &[vec![0x82, 0xFE, 0x01, 0x00, 0, 0, 0, 0], vec![0xA5; 256]],
            &[Heard::Binary(vec![0xA5; 256])],
        ),
        kept(
            "5.7 64 KiB of binary in a single frame",
            &[vec![0x82, 0xFF, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0], vec![0x5A; 65_536]],
            &[Heard::Binary(vec![0x5A; 65_536])],
        ),
    ]);
}

/// What becomes of an empty frame.
#[derive(Clone, Copy)]
enum Fate {
    Text,
    Binary,
    Ping,
    Pong,
    Close,
    /// The message that was begun with `a`.
    Whole,
    Silence,
    Broken(Rule),
}

/// By opcode without reserved bits: alone and final, alone and not final, behind the first fragment
/// of a text and final, there and not final.
const FIRST_BYTES: [[Fate; 4]; 16] = {
    use Fate::{Binary, Broken, Close, Ping, Pong, Silence, Text, Whole};
    const NOTHING: Fate = Broken(NOTHING_TO_CONTINUE);
    const WITHIN: Fate = Broken(MESSAGE_NOT_ENDED);
    const PIECE: Fate = Broken(FRAGMENTED_CONTROL);
    const RESERVED: [Fate; 4] = [Broken(RESERVED_OPCODE); 4];
    [
        [NOTHING, NOTHING, Whole, Silence],
        [Text, Silence, WITHIN, WITHIN],
        [Binary, Silence, WITHIN, WITHIN],
        RESERVED,
        RESERVED,
        RESERVED,
        RESERVED,
        RESERVED,
        [Close, PIECE, Close, PIECE],
        [Ping, PIECE, Ping, PIECE],
        [Pong, PIECE, Pong, PIECE],
        RESERVED,
        RESERVED,
        RESERVED,
        RESERVED,
        RESERVED,
    ]
};

/// All 256 first bytes, alone and within a message.
fn add_first_bytes(cases: &mut Vec<Case>) {
    for first in 0..=u8::MAX {
        for (column, before, place) in
            [(0, vec![], "alone"), (2, frame(TEXT, b"a"), "within a message")]
        {
            let column = column + usize::from(first & FINAL == 0);
            let fate = match first & 0x70 {
                0 => FIRST_BYTES[usize::from(first & 0x0F)][column],
                _ => Fate::Broken(RESERVED_BITS),
            };
            let name = format!("5.2 first byte {first:#04x} {place}");
            let frames = [before, vec![first, 0x80, 1, 2, 3, 4]];
            cases.push(match fate {
                Fate::Text => kept(name, &frames, &[text("")]),
                Fate::Binary => kept(name, &frames, &[Heard::Binary(vec![])]),
                Fate::Ping => kept(name, &frames, &[Heard::Ping(vec![])]),
                Fate::Pong => kept(name, &frames, &[Heard::Pong(vec![])]),
                Fate::Close => kept(name, &frames, &[Heard::Close(None)]),
                Fate::Whole => kept(name, &frames, &[text("a")]),
                Fate::Silence => kept(name, &frames, &[]),
                Fate::Broken(rule) => broken(name, &frames, &[], rule, 5),
            });
        }
    }
}

/// All 256 second bytes, of a data frame and of a control frame.
fn add_second_bytes(cases: &mut Vec<Case>) {
    for short in 0..=127 {
        for first in [FINAL | BINARY, PING] {
            // 127 would need a longer payload than 126; neither's is reached.
            let rest = vec![0; usize::from(short)];
            cases.push(broken(
                format!("5.1 unmasked, first byte {first:#04x}, length field {short}"),
                &[vec![first, short], rest.clone()],
                &[],
                UNMASKED,
                rest.len(),
            ));
        }
    }
    for length in 0..=125 {
        let payload: Vec<u8> = (0..length).collect();
        let length = usize::from(length);
        cases.push(kept(
            format!("5.2 {length} bytes in 7 bits"),
            &[frame(FINAL | BINARY, &payload), frame(PING, &payload), frame(PONG, &payload)],
            &[
                Heard::Binary(payload.clone()),
                Heard::Ping(payload.clone()),
                Heard::Pong(payload.clone()),
            ],
        ));
    }
    for first in [PING, PONG, super::CLOSE] {
        for (head, rest) in [
            (vec![first, 0xFE, 0, 126, 1, 2, 3, 4], 6),
            (vec![first, 0xFE, 0, 5, 1, 2, 3, 4], 6),
            (vec![first, 0xFF, 0, 0, 0, 0, 0, 1, 0, 0, 1, 2, 3, 4], 12),
        ] {
            let name = format!("5.5 a control frame with a long length: {head:x?}");
            cases.push(broken(name, &[head], &[], CONTROL_TOO_LONG, rest));
        }
    }
}

/// Payloads around every boundary between two forms of length, in each place of a message.
fn add_lengths(cases: &mut Vec<Case>) {
    let all: Vec<u8> = (0..=250).cycle().take(100_000).collect();
    for length in [124, 125, 126, 127, 128, 65_534, 65_535, 65_536, 65_537, 99_999, 100_000] {
        let payload = &all[..length];
        let binary = [Heard::Binary(payload.to_vec())];
        cases.push(kept(format!("5.2 {length} bytes"), &[frame(FINAL | BINARY, payload)], &binary));
        cases.push(kept(
            format!("5.2 {length} bytes in a first fragment"),
            &[frame(BINARY, payload), frame(FINAL | CONTINUATION, b"")],
            &binary,
        ));
        cases.push(kept(
            format!("5.2 {length} bytes in a last fragment"),
            &[frame(BINARY, b""), frame(FINAL | CONTINUATION, payload)],
            &binary,
        ));
        cases.push(kept(
            format!("5.2 {length} bytes of text"),
            &[frame(FINAL | TEXT, &vec![b't'; length])],
            &[text(&"t".repeat(length))],
        ));
    }
}

fn add_lengths_in_a_wrong_form(cases: &mut Vec<Case>) {
    for (length, rest) in [([0, 0], 0), ([0, 1], 1), ([0, 124], 124), ([0, 125], 125)] {
        let head = [&[0x82, 0xFE], &length[..], &KEY].concat();
        let name = format!("5.2 {} in 16 bits", length[1]);
        cases.push(broken(name, &[head, vec![0; rest]], &[], LENGTH_NOT_MINIMAL, 4 + rest));
    }
    for (last, name) in [
        ([0, 0], "0"),
        ([0, 125], "125"),
        ([0, 126], "126"),
        ([0xFF, 0xFE], "65534"),
        ([0xFF, 0xFF], "65535"),
    ] {
        let head = [&[0x82, 0xFF, 0, 0, 0, 0, 0, 0], &last[..], &KEY].concat();
        let name = format!("5.2 {name} in 64 bits");
        cases.push(broken(name, &[head], &[], LENGTH_NOT_MINIMAL, 4));
    }
    for length in [
        [0x80, 0, 0, 0, 0, 0, 0, 0],
        [0x80, 0, 0, 0, 0, 0, 0, 1],
        [0x80, 0, 0, 0, 0, 1, 0, 0],
        [0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF],
    ] {
        let head = [&[0x82, 0xFF], &length[..], &KEY].concat();
        let name = format!("5.2 the top bit of a length: {length:x?}");
        cases.push(broken(name, &[head], &[], LENGTH_TOP_BIT, 4));
    }
}

/// RFC 6455 section 5.3: byte i goes with byte i MOD 4 of the key, counted anew in each frame.
fn add_masks(cases: &mut Vec<Case>) {
    let payload: Vec<u8> = (0..=250).cycle().take(300).collect();
    for key in [[0; 4], [0xFF; 4], [1, 2, 4, 8], [0x80, 0, 0, 0], [0, 0, 0, 1], KEY] {
        let mut frames = Vec::new();
        let mut heard = Vec::new();
        for length in [0, 1, 2, 3, 4, 5, 7, 8, 15, 16, 17, 31, 33, 63, 65, 127, 129, 255, 300] {
            frames.push(frame_with_key(FINAL | BINARY, key, &payload[..length]));
            heard.push(Heard::Binary(payload[..length].to_vec()));
        }
        cases.push(kept(format!("5.3 the key {key:x?} for every length"), &frames, &heard));
    }
    cases.push(kept(
        "5.3 each fragment has a key of its own",
        &[
            frame_with_key(TEXT, [1, 2, 3, 4], b"one "),
            frame_with_key(PING, [9, 9, 9, 9], b"ping"),
            frame_with_key(CONTINUATION, [0xFF; 4], b"mes"),
            frame_with_key(FINAL | CONTINUATION, [9, 0, 9, 0], b"sage"),
        ],
        &[Heard::Ping(b"ping".to_vec()), text("one message")],
    ));
}
