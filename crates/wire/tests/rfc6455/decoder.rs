//! The decoder against a table of every rule that RFC 6455 has for what a server receives.

use ringway_wire::{CloseCode, Violation};

use crate::support::{
    BINARY, CLOSE, CONTINUATION, FINAL, Heard, KEY, PING, PONG, TEXT, decode_every_way, frame,
    frame_with_key,
};

/// The longest message in these tables, unless a case is about it.
const MESSAGE_BYTES_MAX: usize = 100_000;

fn text(payload: &str) -> Heard {
    Heard::Text(payload.to_owned())
}

fn close(code: u16, reason: &str) -> Heard {
    Heard::Close(Some((code, reason.to_owned())))
}

/// A Close body.
fn body(code: u16, reason: &[u8]) -> Vec<u8> {
    [&code.to_be_bytes(), reason].concat()
}

/// A stream that follows the rules: its name with the section, its frames, and what is heard.
type Kept<'n> = (&'n str, Vec<Vec<u8>>, Vec<Heard>);

fn check_kept(cases: Vec<Kept<'_>>) {
    for (index, (name, frames, heard)) in cases.into_iter().enumerate() {
        let stream = frames.concat();
        let outcome = decode_every_way(&stream, MESSAGE_BYTES_MAX, 100 * index as u64);
        assert_eq!(outcome.what(), (&heard[..], None), "{name}");
    }
}

#[test]
fn the_examples_of_rfc_6455_section_5_7_are_heard() {
    check_kept(vec![
        (
            "5.7 a single-frame masked text message",
            vec![vec![0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58]],
            vec![text("Hello")],
        ),
        (
            "5.7 a masked pong",
            vec![vec![0x8a, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58]],
            vec![Heard::Pong(b"Hello".to_vec())],
        ),
        (
            "5.7 a fragmented text message, masked with a key of zeros",
            vec![
                vec![0x01, 0x83, 0, 0, 0, 0, 0x48, 0x65, 0x6c],
                vec![0x80, 0x82, 0, 0, 0, 0, 0x6c, 0x6f],
            ],
            vec![text("Hello")],
        ),
        (
            "5.7 256 bytes of binary in a single frame",
            vec![vec![0x82, 0xFE, 0x01, 0x00, 0, 0, 0, 0], vec![0xA5; 256]],
            vec![Heard::Binary(vec![0xA5; 256])],
        ),
        (
            "5.7 64 KiB of binary in a single frame",
            vec![vec![0x82, 0xFF, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0], vec![0x5A; 65_536]],
            vec![Heard::Binary(vec![0x5A; 65_536])],
        ),
    ]);
}

#[test]
fn fragments_are_put_together_and_control_frames_between_them_heard_at_once_rfc_6455_section_5_4() {
    let long = vec![0x61; 125];
    check_kept(vec![
        ("5.4 an empty message", vec![frame(FINAL | TEXT, b"")], vec![text("")]),
        (
            "5.4 a message of empty fragments",
            vec![frame(BINARY, b""), frame(CONTINUATION, b""), frame(FINAL | CONTINUATION, b"")],
            vec![Heard::Binary(vec![])],
        ),
        (
            "5.4 fragments make one message, each with its own key",
            vec![
                frame_with_key(TEXT, [1, 2, 3, 4], b"one "),
                frame_with_key(CONTINUATION, [0xFF; 4], b"mess"),
                frame_with_key(FINAL | CONTINUATION, [9, 0, 9, 0], b"age"),
            ],
            vec![text("one message")],
        ),
        (
            "5.4 control frames come between fragments and are heard at once",
            vec![
                frame(TEXT, b"a"),
                frame(PING, b"1"),
                frame(CONTINUATION, b"b"),
                frame(PONG, b""),
                frame(PING, &long),
                frame(FINAL | CONTINUATION, b"c"),
                frame(FINAL | BINARY, b"d"),
            ],
            vec![
                Heard::Ping(b"1".to_vec()),
                Heard::Pong(vec![]),
                Heard::Ping(long.clone()),
                text("abc"),
                Heard::Binary(b"d".to_vec()),
            ],
        ),
        (
            "5.4 a close between fragments is heard, and the message is not",
            vec![frame(TEXT, b"a"), frame(CLOSE, &body(1000, b"")), frame(CONTINUATION, b"b")],
            vec![close(1000, "")],
        ),
    ]);
}

#[test]
fn control_frames_are_heard_rfc_6455_section_5_5() {
    let long = vec![0x61; 125];
    check_kept(vec![
        (
            "5.5 control frames of 125 bytes",
            vec![frame(PING, &long), frame(PONG, &long), frame(CLOSE, &body(1000, &long[..123]))],
            vec![
                Heard::Ping(long.clone()),
                Heard::Pong(long.clone()),
                close(1000, &"a".repeat(123)),
            ],
        ),
        ("5.5.1 a close without a body", vec![frame(CLOSE, b"")], vec![Heard::Close(None)]),
        (
            "5.5.1 nothing after a close is looked at",
            vec![frame(CLOSE, &body(3000, "bye ✓".as_bytes())), vec![0xFF; 20]],
            vec![close(3000, "bye ✓")],
        ),
        (
            "5.5.2 an empty ping and a long one",
            vec![frame(PING, b""), frame(PING, &long)],
            vec![Heard::Ping(vec![]), Heard::Ping(long.clone())],
        ),
        (
            "5.5.3 a pong that nobody asked for",
            vec![frame(PONG, b"x")],
            vec![Heard::Pong(b"x".to_vec())],
        ),
    ]);
}

#[test]
fn data_is_heard_rfc_6455_section_5_6() {
    check_kept(vec![
        (
            "5.6 binary is anything",
            vec![frame(FINAL | BINARY, &[0xFF, 0xC0, 0x00])],
            vec![Heard::Binary(vec![0xFF, 0xC0, 0x00])],
        ),
        (
            "5.6 a character may be cut by fragments, but not by messages",
            vec![frame(TEXT, b"\xE2\x9C"), frame(PING, b""), frame(FINAL | CONTINUATION, b"\x93")],
            vec![Heard::Ping(vec![]), text("✓")],
        ),
    ]);
}

#[test]
fn payloads_of_every_form_of_length_are_heard() {
    for length in [0, 1, 125, 126, 127, 65_535, 65_536] {
        let payload: Vec<u8> = (0..length).map(|index| (index % 251) as u8).collect();
        for frames in [
            vec![frame(FINAL | BINARY, &payload)],
            vec![frame(BINARY, &payload), frame(FINAL | CONTINUATION, b"")],
            vec![frame(BINARY, b""), frame(FINAL | CONTINUATION, &payload)],
        ] {
            let outcome = decode_every_way(&frames.concat(), MESSAGE_BYTES_MAX, length as u64);
            assert_eq!(outcome.what(), (&[Heard::Binary(payload.clone())][..], None), "{length}");
        }
    }
}

#[test]
fn every_code_that_may_stand_in_a_close_frame_is_heard_and_every_other_closes_with_1002() {
    let allowed = [
        1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 3999, 4000,
        4999,
    ];
    let refused =
        [0, 1, 500, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 32_768, 65_535];
    for code in allowed {
        let outcome = decode_every_way(&frame(CLOSE, &body(code, b"why")), 0, u64::from(code));
        assert_eq!(outcome.what(), (&[close(code, "why")][..], None), "{code}");
    }
    for code in refused {
        let stream = frame(CLOSE, &body(code, b""));
        let outcome = decode_every_way(&stream, 0, u64::from(code));
        assert_eq!(outcome.heard, [], "{code}");
        assert_eq!(outcome.violation, Some(protocol("close code must not be sent")), "{code}");
    }
}

fn protocol(reason: &'static str) -> Violation {
    Violation { code: CloseCode(1002), reason }
}

/// A stream that breaks a rule: its frames, what is heard before, the violation, and how many
/// bytes from the end it is found. 0: with the last byte.
struct Broken {
    name: &'static str,
    frames: Vec<Vec<u8>>,
    heard: Vec<Heard>,
    violation: Violation,
    early_bytes: usize,
}

fn check_broken(cases: Vec<Broken>, message_bytes_max: usize) {
    for (index, case) in cases.into_iter().enumerate() {
        let name = case.name;
        let stream = case.frames.concat();
        let outcome = decode_every_way(&stream, message_bytes_max, 1000 + 100 * index as u64);
        assert_eq!(outcome.what(), (&case.heard[..], Some(case.violation)), "{name}");
        assert_eq!(outcome.bytes_received, stream.len() - case.early_bytes, "{name}");
        assert!(case.violation.reason.len() <= 123, "{name}: the reason fits a Close frame");
    }
}

#[test]
fn a_broken_head_is_found_with_the_byte_that_breaks_it() {
    const RSV: Violation = Violation { code: CloseCode(1002), reason: "reserved bits must be 0" };
    let mut cases = Vec::new();
    let mut add = |name, frames: &[&[u8]], violation, early_bytes| {
        let frames = frames.iter().map(|frame| frame.to_vec()).collect();
        cases.push(Broken { name, frames, heard: vec![], violation, early_bytes });
    };
    // Each stream goes on after the byte that breaks the rule; `early_bytes` counts that rest.
    add("5.2 RSV1 without an extension", &[&[0xC1, 0x80, 1, 2, 3, 4]], RSV, 5);
    add("5.2 RSV2", &[&[0xA1, 0x80, 1, 2, 3, 4]], RSV, 5);
    add("5.2 RSV3", &[&[0x91, 0x80, 1, 2, 3, 4]], RSV, 5);
    add("5.2 RSV1 on a control frame", &[&[0xC9, 0x80, 1, 2, 3, 4]], RSV, 5);
    add(
        "5.2 RSV1 on a continuation frame",
        &[&frame(BINARY, b"a"), &[0xC0, 0x80, 1, 2, 3, 4]],
        RSV,
        5,
    );
    for first in [0x83, 0x84, 0x85, 0x86, 0x87, 0x8B, 0x8C, 0x8D, 0x8E, 0x8F] {
        let violation = protocol("reserved opcode");
        add("5.2 a reserved opcode", &[&[first, 0x80, 1, 2, 3, 4]], violation, 5);
        add("5.2 a reserved opcode", &[&[first & 0x0F, 0x80, 1, 2, 3, 4]], violation, 5);
    }
    let violation = protocol("client frames must be masked");
    for first in [FINAL | TEXT, FINAL | BINARY, TEXT, BINARY, PING, PONG, CLOSE] {
        add("5.1 an unmasked frame", &[&[first, 0x00]], violation, 0);
        add("5.1 an unmasked frame", &[&[first, 0x02, b'h', b'i']], violation, 2);
    }
    let violation = protocol("payload length must be in its shortest form");
    add("5.2 0 in 16 bits", &[&[0x82, 0xFE, 0, 0, 1, 2, 3, 4]], violation, 4);
    add("5.2 125 in 16 bits", &[&[0x82, 0xFE, 0, 125, 1, 2, 3, 4]], violation, 4);
    add("5.2 125 in 64 bits", &[&[0x82, 0xFF, 0, 0, 0, 0, 0, 0, 0, 125, 1]], violation, 1);
    add("5.2 65535 in 64 bits", &[&[0x82, 0xFF, 0, 0, 0, 0, 0, 0, 255, 255, 1]], violation, 1);
    let violation = protocol("payload length must have 63 bits");
    add("5.2 the top bit", &[&[0x82, 0xFF, 128, 0, 0, 0, 0, 0, 0, 0, 1]], violation, 1);
    add("5.2 all bits", &[&[0x82, 0xFF, 255, 255, 255, 255, 255, 255, 255, 255]], violation, 0);
    let violation = protocol("control frames must not be fragmented");
    for first in [0x08, 0x09, 0x0A] {
        add("5.5 a fragmented control frame", &[&[first, 0x80, 1, 2, 3, 4]], violation, 5);
    }
    let violation = protocol("control frames carry at most 125 bytes");
    for first in [PING, PONG, CLOSE] {
        add("5.5 126 bytes", &[&[first, 0xFE, 0, 126, 1, 2, 3, 4]], violation, 6);
        add("5.5 65536 bytes", &[&[first, 0xFF, 0, 0, 0, 0, 0, 1, 0, 0]], violation, 8);
    }
    let violation = protocol("continuation frame without a message to continue");
    add("5.4 nothing to continue", &[&[0x80, 0x80, 1, 2, 3, 4]], violation, 5);
    add("5.4 nothing to continue", &[&[0x00, 0x80, 1, 2, 3, 4]], violation, 5);
    let violation = protocol("new message before the last fragment of another");
    add("5.4 text in text", &[&frame(TEXT, b"a"), &[0x81, 0x80, 1, 2]], violation, 3);
    add("5.4 binary in text", &[&frame(TEXT, b""), &[0x02, 0x80, 1, 2]], violation, 3);
    add(
        "5.4 text in a binary message that goes on",
        &[&frame(BINARY, b"a"), &frame(CONTINUATION, b"b"), &[0x81, 0x80, 1, 2, 3, 4]],
        violation,
        5,
    );
    check_broken(cases, MESSAGE_BYTES_MAX);
}

#[test]
fn what_came_before_a_broken_frame_is_heard() {
    let cases = vec![
        Broken {
            name: "5.4 a continuation after the end of its message",
            frames: vec![
                frame(TEXT, b"a"),
                frame(FINAL | CONTINUATION, b"b"),
                frame(FINAL | CONTINUATION, b"c"),
            ],
            heard: vec![text("ab")],
            violation: protocol("continuation frame without a message to continue"),
            early_bytes: 6,
        },
        Broken {
            name: "5.4 a ping does not end the fragmented message it interrupts",
            frames: vec![frame(BINARY, b"a"), frame(PING, b"b"), frame(FINAL | TEXT, b"c")],
            heard: vec![Heard::Ping(b"b".to_vec())],
            violation: protocol("new message before the last fragment of another"),
            early_bytes: 6,
        },
        Broken {
            name: "5.1 an unmasked frame after masked ones",
            frames: vec![frame(FINAL | BINARY, b"a"), frame(PONG, b"b"), vec![0x81, 0x00]],
            heard: vec![Heard::Binary(b"a".to_vec()), Heard::Pong(b"b".to_vec())],
            violation: protocol("client frames must be masked"),
            early_bytes: 0,
        },
        Broken {
            name: "5.5.1 a close body of one byte",
            frames: vec![frame(PING, b""), frame(CLOSE, &[3])],
            heard: vec![Heard::Ping(vec![])],
            violation: protocol("a close body must begin with a code of two bytes"),
            early_bytes: 0,
        },
        Broken {
            name: "5.5.1 a close reason that is not UTF-8",
            frames: vec![frame(FINAL | TEXT, b"a"), frame(CLOSE, &body(1000, b"\xCE\xBA\xE1"))],
            heard: vec![text("a")],
            violation: Violation { code: CloseCode(1007), reason: "text must be valid UTF-8" },
            early_bytes: 0,
        },
    ];
    check_broken(cases, MESSAGE_BYTES_MAX);
}

#[test]
fn a_message_over_the_limit_is_refused_by_its_head_rfc_6455_section_10_4() {
    let too_big = Violation { code: CloseCode(1009), reason: "message too big" };
    // The length is known, and refused, before the four bytes of the key.
    let head_only = |first| vec![first, 0x80 | 9, 1, 2, 3, 4];
    let cases = vec![
        Broken {
            name: "one frame",
            frames: vec![frame(FINAL | BINARY, &[0; 8]), head_only(FINAL | BINARY)],
            heard: vec![Heard::Binary(vec![0; 8])],
            violation: too_big,
            early_bytes: 4,
        },
        Broken {
            name: "the first of many fragments",
            frames: vec![head_only(TEXT)],
            heard: vec![],
            violation: too_big,
            early_bytes: 4,
        },
        Broken {
            name: "all fragments together",
            frames: vec![
                frame(BINARY, b"1234"),
                frame(PING, &[0; 100]),
                frame(CONTINUATION, b"5678"),
                frame(CONTINUATION, b""),
                vec![0x80, 0x80 | 1, 1, 2, 3, 4],
            ],
            heard: vec![Heard::Ping(vec![0; 100])],
            violation: too_big,
            early_bytes: 4,
        },
        Broken {
            name: "16 bits of length",
            frames: vec![vec![0x82, 0xFE, 0xFF, 0xFF, 1, 2, 3, 4]],
            heard: vec![],
            violation: too_big,
            early_bytes: 4,
        },
        Broken {
            name: "63 bits of length after a first fragment",
            frames: vec![
                frame(BINARY, b"1"),
                vec![0x80, 0xFF, 0x7F, 255, 255, 255, 255, 255, 255, 255, 1, 2, 3, 4],
            ],
            heard: vec![],
            violation: too_big,
            early_bytes: 4,
        },
    ];
    check_broken(cases, 8);
}

#[test]
fn a_message_of_just_the_limit_is_heard_and_control_frames_do_not_count() {
    let frames =
        [frame(BINARY, b"1234"), frame(PING, &[7; 125]), frame(FINAL | CONTINUATION, b"5678")];
    let outcome = decode_every_way(&frames.concat(), 8, 7);
    let heard = [Heard::Ping(vec![7; 125]), Heard::Binary(b"12345678".to_vec())];
    assert_eq!(outcome.what(), (&heard[..], None));
}

#[test]
fn a_key_is_applied_from_its_first_byte_in_every_frame() {
    // 5.3: j = i MOD 4, counted anew in each frame, wherever the frames before it ended.
    let mut frames = Vec::new();
    let mut heard = Vec::new();
    for length in 0..40 {
        let payload = vec![b'k'; length];
        frames.push(frame_with_key(FINAL | BINARY, KEY, &payload));
        heard.push(Heard::Binary(payload));
    }
    let outcome = decode_every_way(&frames.concat(), MESSAGE_BYTES_MAX, 53);
    assert_eq!(outcome.what(), (&heard[..], None));
}
