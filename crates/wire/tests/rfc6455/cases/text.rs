//! UTF-8 of text messages (RFC 6455 sections 5.6 and 8.1): valid however it is cut, invalid at its
//! first wrong byte.

use super::{
    BINARY, CONTINUATION, Case, FINAL, Heard, INVALID_UTF8, PING, TEXT, broken, frame, kept, text,
};

/// The first and last character of each length, and the neighbours of the surrogates.
pub(crate) const BOUNDARIES: &str =
    "\u{0}\u{7F}\u{80}\u{7FF}\u{800}\u{D7FF}\u{E000}\u{FFFD}\u{FFFF}\u{10000}\u{10FFFF}";

/// Invalid sequences, and the index of the byte that no valid text could have in its place.
pub(crate) const BROKEN: [(&str, &[u8], usize); 21] = [
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
pub(crate) const UNFINISHED: [&[u8]; 7] =
    [&[0xC2], &[0xE0], &[0xE1, 0x80], &[0xED, 0x9F], &[0xF0], &[0xF4, 0x8F], &[0xF1, 0x80, 0x80]];

/// Bytes of a head with a length of one byte.
const HEAD_BYTES: usize = 6;

pub(super) fn add(cases: &mut Vec<Case>) {
    add_valid(cases);
    add_positions(cases);
    add_broken(cases);
    add_unfinished(cases);
    cases.push(kept(
        "5.6 binary is anything, and so is a ping",
        &[frame(FINAL | BINARY, &[0xFF, 0xC0, 0x00]), frame(PING, &[0xFF])],
        &[Heard::Binary(vec![0xFF, 0xC0, 0x00]), Heard::Ping(vec![0xFF])],
    ));
}

/// Text cut between two fragments at every byte.
fn add_valid(cases: &mut Vec<Case>) {
    for cut in 0..=BOUNDARIES.len() {
        let (first, second) = BOUNDARIES.as_bytes().split_at(cut);
        cases.push(kept(
            format!("5.6 the ends of UTF-8 cut by fragments at byte {cut}"),
            &[frame(TEXT, first), frame(PING, b""), frame(FINAL | CONTINUATION, second)],
            &[Heard::Ping(vec![]), text(BOUNDARIES)],
        ));
    }
    let fragments: Vec<Vec<u8>> =
        BOUNDARIES.as_bytes().chunks(1).map(|byte| frame(CONTINUATION, byte)).collect();
    cases.push(kept(
        "5.6 every byte in a fragment of its own",
        &[frame(TEXT, b""), fragments.concat(), frame(FINAL | CONTINUATION, b"")],
        &[text(BOUNDARIES)],
    ));
}

/// A character, and a byte that is none, in every place of a text.
fn add_positions(cases: &mut Vec<Case>) {
    for place in 0..=116 {
        let character = ["é", "✓", "😀"][place % 3];
        let valid = "t".repeat(place) + character + "t";
        cases.push(kept(
            format!("5.6 {character} at byte {place}"),
            &[frame(FINAL | TEXT, valid.as_bytes())],
            &[Heard::Text(valid)],
        ));
        let mut payload = vec![b't'; 117];
        payload[place] = 0xFF;
        let name = format!("8.1 0xFF at byte {place} of 117");
        let rest = 116 - place;
        cases.push(broken(name, &[frame(FINAL | TEXT, &payload)], &[], INVALID_UTF8, rest));
    }
}

fn add_broken(cases: &mut Vec<Case>) {
    for (name, sequence, wrong) in BROKEN {
        for prefix in ["", "é", "0123456789"] {
            let wrong = prefix.len() + wrong;
            let payload = [prefix.as_bytes(), sequence, b" and more"].concat();
            let rest = payload.len() - wrong - 1;
            let name = format!("8.1 {name} behind {prefix:?}");
            let frames = [frame(FINAL | TEXT, &payload), frame(FINAL | TEXT, b"b")];
            cases.push(broken(name.as_str(), &frames, &[], INVALID_UTF8, rest + 7));
            // Also before and behind the sequence.
            for cut in 0..=prefix.len() + sequence.len() + 1 {
                let (first, second) = payload.split_at(cut);
                let rest = rest + if wrong < cut { HEAD_BYTES } else { 0 };
                cases.push(broken(
                    format!("{name}, cut by fragments at byte {cut}"),
                    &[frame(TEXT, first), frame(FINAL | CONTINUATION, second)],
                    &[],
                    INVALID_UTF8,
                    rest,
                ));
            }
        }
    }
}

fn add_unfinished(cases: &mut Vec<Case>) {
    for sequence in UNFINISHED {
        let payload = [b"text", sequence].concat();
        let name = format!("8.1 a text that ends with {sequence:x?}");
        let frames = [frame(FINAL | TEXT, &payload)];
        cases.push(broken(name.as_str(), &frames, &[], INVALID_UTF8, 0));
        // The head of an empty last fragment tells as well, with its last byte.
        let frames = [frame(TEXT, &payload), frame(FINAL | CONTINUATION, b"")];
        let name = format!("{name}, and an empty fragment");
        cases.push(broken(name, &frames, &[], INVALID_UTF8, 0));
        let frames = [frame(TEXT, &payload), frame(FINAL | CONTINUATION, b".")];
        let name = format!("8.1 {sequence:x?} and a full stop in the next fragment");
        cases.push(broken(name, &frames, &[], INVALID_UTF8, 0));
    }
}
