//! UTF-8 of text messages (RFC 6455 sections 5.6 and 8.1): valid however it is cut, invalid at its
//! first wrong byte. The table in `cases` has each of these once; here they stand behind every
//! kind of text and are cut at every byte.

use ringway_wire::{CloseCode, Violation};

use crate::{
    cases::{
        CONTINUATION, FINAL, Heard, PING, TEXT, frame,
        text::{BOUNDARIES, BROKEN, UNFINISHED},
    },
    support::{decode, decode_every_way},
};

const INVALID: Violation = Violation { code: CloseCode(1007), reason: "text must be valid UTF-8" };

const MESSAGE_BYTES_MAX: usize = 1000;

/// Bytes of a head with a length of one byte.
const HEAD_BYTES: usize = 6;

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
