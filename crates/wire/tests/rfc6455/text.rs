//! UTF-8 of text messages (RFC 6455 sections 5.6 and 8.1): valid however it is cut, invalid at its
//! first wrong byte.

use ringway_wire::{CloseCode, Violation};

use crate::support::{CONTINUATION, FINAL, Heard, PING, TEXT, decode, decode_every_way, frame};

const INVALID: Violation = Violation { code: CloseCode(1007), reason: "text must be valid UTF-8" };

const MESSAGE_BYTES_MAX: usize = 1000;

/// Bytes of a head with a length of one byte.
const HEAD_BYTES: usize = 6;

/// The first and last character of each length, and the neighbours of the surrogates.
const BOUNDARIES: &str =
    "\u{0}\u{7F}\u{80}\u{7FF}\u{800}\u{D7FF}\u{E000}\u{FFFD}\u{FFFF}\u{10000}\u{10FFFF}";

/// Invalid sequences, and the index of the byte that no valid text could have in its place.
const BROKEN: [(&str, &[u8], usize); 21] = [
    ("a continuation byte alone", &[0x80], 0),
    ("the last continuation byte alone", &[0xBF], 0),
    ("a continuation byte too many", &[0xC2, 0x80, 0x80], 2),
    ("overlong NUL in two bytes", &[0xC0, 0x80], 0),
    ("overlong U+007F in two bytes", &[0xC1, 0xBF], 0),
    ("overlong NUL in three bytes", &[0xE0, 0x80, 0x80], 1),
    ("overlong U+07FF in three bytes", &[0xE0, 0x9F, 0xBF], 1),
    ("overlong NUL in four bytes", &[0xF0, 0x80, 0x80, 0x80], 1),
    ("overlong U+FFFF in four bytes", &[0xF0, 0x8F, 0xBF, 0xBF], 1),
    ("the first surrogate", &[0xED, 0xA0, 0x80], 1),
    ("the last surrogate", &[0xED, 0xBF, 0xBF], 1),
    ("U+110000", &[0xF4, 0x90, 0x80, 0x80], 1),
    ("a first byte beyond U+10FFFF", &[0xF5, 0x80, 0x80, 0x80], 0),
    ("a first byte of five", &[0xF8, 0x88, 0x80, 0x80, 0x80], 0),
    ("0xFE", &[0xFE], 0),
    ("0xFF", &[0xFF], 0),
    ("one of two bytes", &[0xC2, b'.'], 1),
    ("one of three bytes", &[0xE1, b'.'], 1),
    ("two of three bytes", &[0xE1, 0x80, b'.'], 2),
    ("one of four bytes", &[0xF1, b'.'], 1),
    ("three of four bytes", &[0xF1, 0x80, 0x80, b'.'], 3),
];

/// The beginnings of characters.
const UNFINISHED: [&[u8]; 7] =
    [&[0xC2], &[0xE0], &[0xE1, 0x80], &[0xED, 0x9F], &[0xF0], &[0xF4, 0x8F], &[0xF1, 0x80, 0x80]];

/// Text before what is tested: none, some, and over the width of any vector.
fn prefixes() -> Vec<String> {
    let mut prefixes: Vec<String> = (0..5).map(|length| "a".repeat(length)).collect();
    prefixes.extend([63, 64, 65].map(|length| "b".repeat(length)));
    prefixes.extend([BOUNDARIES.to_owned(), "é✓😀".repeat(9)]);
    prefixes
}

#[test]
fn valid_text_is_heard_however_reads_cut_it() {
    for (index, prefix) in prefixes().into_iter().enumerate() {
        let text = prefix + BOUNDARIES;
        let stream = frame(FINAL | TEXT, text.as_bytes());
        let outcome = decode_every_way(&stream, MESSAGE_BYTES_MAX, 10 * index as u64);
        assert_eq!(outcome.what(), (&[Heard::Text(text)][..], None));
    }
}

#[test]
fn valid_text_is_heard_however_fragments_cut_it() {
    for (index, prefix) in prefixes().into_iter().enumerate() {
        let text = prefix + BOUNDARIES;
        for cut in 0..=text.len() {
            let (first, second) = text.as_bytes().split_at(cut);
            let frames =
                [frame(TEXT, first), frame(PING, b""), frame(FINAL | CONTINUATION, second)];
            let stream = frames.concat();
            let heard = [Heard::Ping(vec![]), Heard::Text(text.clone())];
            let whole = decode([&stream[..]], MESSAGE_BYTES_MAX);
            assert_eq!(whole.what(), (&heard[..], None), "{index} cut at {cut}");
            let single = decode(stream.chunks(1), MESSAGE_BYTES_MAX);
            assert_eq!(single.what(), (&heard[..], None), "{index} cut at {cut}");
        }
        let fragments: Vec<Vec<u8>> =
            text.as_bytes().chunks(1).map(|byte| frame(CONTINUATION, byte)).collect();
        let stream =
            [frame(TEXT, b""), fragments.concat(), frame(FINAL | CONTINUATION, b"")].concat();
        let outcome = decode_every_way(&stream, MESSAGE_BYTES_MAX, index as u64);
        assert_eq!(outcome.what(), (&[Heard::Text(text)][..], None));
    }
}

#[test]
fn invalid_text_is_found_at_its_first_wrong_byte_within_a_frame_that_is_not_complete() {
    for prefix in prefixes() {
        for (name, sequence, wrong) in BROKEN {
            for suffix in ["", "tail", &"t".repeat(30)] {
                let payload = [prefix.as_bytes(), sequence, suffix.as_bytes()].concat();
                let stream = frame(FINAL | TEXT, &payload);
                let head_bytes = stream.len() - payload.len();
                let whole = decode([&stream[..]], MESSAGE_BYTES_MAX);
                assert_eq!(whole.what(), (&[][..], Some(INVALID)), "{name} after {prefix}");
                let single = decode(stream.chunks(1), MESSAGE_BYTES_MAX);
                assert_eq!(single.what(), (&[][..], Some(INVALID)), "{name} after {prefix}");
                let expected = head_bytes + prefix.len() + wrong + 1;
                assert_eq!(single.bytes_received, expected, "{name} after {prefix}");
                for cut in 0..=stream.len() {
                    let (first, second) = stream.split_at(cut);
                    let outcome = decode([first, second], MESSAGE_BYTES_MAX);
                    assert_eq!(outcome.violation, Some(INVALID), "{name} cut at {cut}");
                    let received = if cut >= expected { cut } else { stream.len() };
                    assert_eq!(outcome.bytes_received, received, "{name} cut at {cut}");
                }
            }
        }
    }
}

#[test]
fn invalid_text_is_found_at_its_first_wrong_byte_across_fragments() {
    for prefix in ["", "é", "0123456789"] {
        for (name, sequence, wrong) in BROKEN {
            let payload = [prefix.as_bytes(), sequence].concat();
            for cut in 0..=payload.len() {
                let (first, second) = payload.split_at(cut);
                let stream = [frame(TEXT, first), frame(FINAL | CONTINUATION, second)].concat();
                let outcome = decode_every_way(&stream, MESSAGE_BYTES_MAX, cut as u64);
                assert_eq!(outcome.what(), (&[][..], Some(INVALID)), "{name} cut at {cut}");
                let wrong = prefix.len() + wrong;
                let heads = if wrong < cut { HEAD_BYTES } else { 2 * HEAD_BYTES };
                assert_eq!(outcome.bytes_received, heads + wrong + 1, "{name} cut at {cut}");
            }
        }
    }
}

#[test]
fn text_that_ends_within_a_character_is_invalid_at_its_end_and_not_before() {
    for prefix in prefixes() {
        for unfinished in UNFINISHED {
            let payload = [prefix.as_bytes(), unfinished].concat();
            let stream = frame(FINAL | TEXT, &payload);
            let outcome = decode_every_way(&stream, MESSAGE_BYTES_MAX, 5);
            assert_eq!(outcome.what(), (&[][..], Some(INVALID)), "{prefix} {unfinished:?}");
            assert_eq!(outcome.bytes_received, stream.len(), "{prefix} {unfinished:?}");

            // An empty last fragment is the end all the same; its head's last byte tells.
            let stream = [frame(TEXT, &payload), frame(FINAL | CONTINUATION, b"")].concat();
            let outcome = decode_every_way(&stream, MESSAGE_BYTES_MAX, 6);
            assert_eq!(outcome.what(), (&[][..], Some(INVALID)), "{prefix} {unfinished:?}");
            assert_eq!(outcome.bytes_received, stream.len(), "{prefix} {unfinished:?}");
        }
    }
}

#[test]
fn sequences_of_all_bytes_at_the_edges_of_utf8_are_judged_as_the_standard_library_does() {
    const EDGES: [u8; 18] = [
        0x00, 0x7F, 0x80, 0x8F, 0x90, 0x9F, 0xA0, 0xBF, 0xC1, 0xC2, 0xDF, 0xE0, 0xE1, 0xED, 0xEF,
        0xF0, 0xF4, 0xF5,
    ];
    for number in 0..EDGES.len().pow(4) {
        let sequence = [0, 1, 2, 3].map(|digit| EDGES[number / 18_usize.pow(digit) % 18]);
        let stream = frame(FINAL | TEXT, &sequence);
        let outcome = decode(stream.chunks(1), MESSAGE_BYTES_MAX);
        // Four bytes can be wrong at the end of a prefix, or at the end of all.
        let wrong = (1..=4).find(|end| {
            std::str::from_utf8(&sequence[..*end]).is_err_and(|error| error.error_len().is_some())
        });
        match (std::str::from_utf8(&sequence), wrong) {
            (Ok(text), _) => assert_eq!(outcome.heard, [Heard::Text(text.to_owned())]),
            (Err(_), wrong) => {
                assert_eq!(outcome.violation, Some(INVALID), "{sequence:x?}");
                let expected = HEAD_BYTES + wrong.unwrap_or(4);
                assert_eq!(outcome.bytes_received, expected, "{sequence:x?}");
            }
        }
    }
}
