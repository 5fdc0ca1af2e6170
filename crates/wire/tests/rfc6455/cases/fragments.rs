//! The order of frames (RFC 6455 section 5.4): every sequence up to a length, legal or not.

use super::{
    BINARY, CLOSE, CONTINUATION, Case, FINAL, Heard, MESSAGE_NOT_ENDED, NOTHING_TO_CONTINUE, PING,
    PONG, TEXT, body, broken, frame, kept, text,
};

/// Frames in the longest sequence.
const SEQUENCE_FRAMES_MAX: usize = 4;

pub(super) fn add(cases: &mut Vec<Case>) {
    add_sequences(cases, &Sequence::default());
    add_fragments(cases);
}

/// Frames that follow the rules, and what they come to.
#[derive(Clone, Default)]
struct Sequence {
    name: String,
    frames: Vec<Vec<u8>>,
    heard: Vec<Heard>,
    /// The opcode of the message that has begun, and its payload so far.
    open: Option<(u8, String)>,
}

/// Every sequence that begins with this one. One that breaks a rule is not gone on with.
fn add_sequences(cases: &mut Vec<Case>, before: &Sequence) {
    if before.frames.len() == SEQUENCE_FRAMES_MAX {
        return;
    }
    // Each frame has a payload of its own, so that none can be taken for another.
    let letter = ["a", "b", "c", "d"][before.frames.len()];
    for (first, kind) in [
        (TEXT, "text…"),
        (FINAL | TEXT, "text"),
        (BINARY, "binary…"),
        (FINAL | BINARY, "binary"),
        (CONTINUATION, "continuation…"),
        (FINAL | CONTINUATION, "continuation"),
        (PING, "ping"),
        (PONG, "pong"),
    ] {
        let mut next = before.clone();
        next.name = format!("{} {kind}", before.name);
        next.frames.push(frame(first, letter.as_bytes()));
        let name = format!("5.4 in order:{}", next.name);
        let rule = match (first, next.open.take()) {
            (PING, open) => {
                next.heard.push(Heard::Ping(letter.into()));
                next.open = open;
                None
            }
            (PONG, open) => {
                next.heard.push(Heard::Pong(letter.into()));
                next.open = open;
                None
            }
            (CONTINUATION | 0x80, None) => Some(NOTHING_TO_CONTINUE),
            (CONTINUATION, Some((opcode, payload))) => {
                next.open = Some((opcode, payload + letter));
                None
            }
            (0x80, Some((opcode, payload))) => {
                next.heard.push(message(opcode, payload + letter));
                None
            }
            (_, Some(_)) => Some(MESSAGE_NOT_ENDED),
            (first, None) if first & FINAL == 0 => {
                next.open = Some((first, letter.to_owned()));
                None
            }
            (first, None) => {
                next.heard.push(message(first & 0x0F, letter.to_owned()));
                None
            }
        };
        match rule {
            // All of the last frame comes behind its first byte.
            Some(rule) => cases.push(broken(name, &next.frames, &next.heard, rule, 6)),
            None => {
                cases.push(kept(name, &next.frames, &next.heard));
                add_sequences(cases, &next);
            }
        }
    }
}

fn message(opcode: u8, payload: String) -> Heard {
    if opcode == TEXT { Heard::Text(payload) } else { Heard::Binary(payload.into_bytes()) }
}

fn add_fragments(cases: &mut Vec<Case>) {
    let long = vec![0x61; 125];
    cases.extend([
        kept("5.4 an empty message", &[frame(FINAL | TEXT, b"")], &[text("")]),
        kept(
            "5.4 a message of empty fragments",
            &[frame(BINARY, b""), frame(CONTINUATION, b""), frame(FINAL | CONTINUATION, b"")],
            &[Heard::Binary(vec![])],
        ),
        kept(
            "5.4 long control frames between fragments are heard at once",
            &[
                frame(TEXT, b"a"),
                frame(PING, &long),
                frame(CONTINUATION, b"b"),
                frame(PONG, b""),
                frame(PING, &long[..124]),
                frame(FINAL | CONTINUATION, b"c"),
                frame(FINAL | BINARY, b"d"),
            ],
            &[
                Heard::Ping(long.clone()),
                Heard::Pong(vec![]),
                Heard::Ping(long[..124].to_vec()),
                text("abc"),
                Heard::Binary(b"d".to_vec()),
            ],
        ),
        kept(
            "5.4 a close between fragments is heard, and the message is not",
            &[frame(TEXT, b"a"), frame(CLOSE, &body(1000, b"")), frame(CONTINUATION, b"b")],
            &[Heard::Close(Some((1000, String::new())))],
        ),
    ]);
    let fragments: Vec<Vec<u8>> = (0..1000).map(|_| frame(CONTINUATION, b"f")).collect();
    cases.push(kept(
        "5.4 a thousand fragments",
        &[frame(BINARY, b""), fragments.concat(), frame(FINAL | CONTINUATION, b"")],
        &[Heard::Binary(vec![b'f'; 1000])],
    ));
    let messages: Vec<Vec<u8>> =
        (0..5000_u32).map(|index| frame(FINAL | TEXT, index.to_string().as_bytes())).collect();
    let heard: Vec<Heard> = (0..5000_u32).map(|index| text(&index.to_string())).collect();
    cases.push(kept("5.4 five thousand messages at once", &messages, &heard));
}
