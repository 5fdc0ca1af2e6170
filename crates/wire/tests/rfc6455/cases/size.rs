//! Messages over the limit (RFC 6455 section 10.4): refused by the head that makes them so, before
//! any payload of it comes.

use super::{
    BINARY, CONTINUATION, Case, FINAL, Heard, KEY, MESSAGE_BYTES_MAX, MESSAGE_TOO_BIG, PING, TEXT,
    broken, frame, kept,
};

pub(super) fn add(cases: &mut Vec<Case>) {
    let full = vec![0x66; MESSAGE_BYTES_MAX];
    let half = &full[..MESSAGE_BYTES_MAX / 2];
    cases.extend([
        kept(
            "10.4 fragments that come to just the limit; control frames do not count",
            &[frame(BINARY, half), frame(PING, &[7; 125]), frame(FINAL | CONTINUATION, half)],
            &[Heard::Ping(vec![7; 125]), Heard::Binary(full.clone())],
        ),
        broken(
            "10.4 one byte more in a message",
            // 100,001 is 1 86 A1.
            &[
                frame(FINAL | BINARY, b"before"),
                vec![0x82, 0xFF, 0, 0, 0, 0, 0, 1, 0x86, 0xA1],
                KEY.to_vec(),
            ],
            &[Heard::Binary(b"before".to_vec())],
            MESSAGE_TOO_BIG,
            4,
        ),
        broken(
            "10.4 one byte more in a last fragment",
            &[frame(BINARY, &full), vec![0x80, 0x81], KEY.to_vec()],
            &[],
            MESSAGE_TOO_BIG,
            4,
        ),
        broken(
            "10.4 one byte more in a fragment of many",
            &[
                frame(TEXT, half),
                frame(PING, b""),
                frame(CONTINUATION, half),
                frame(CONTINUATION, b""),
                vec![0x00, 0x81],
                KEY.to_vec(),
            ],
            &[Heard::Ping(vec![])],
            MESSAGE_TOO_BIG,
            4,
        ),
    ]);
    for length in [
        [0, 0, 0, 0, 0xFF, 0xFF, 0xFF, 0xFF],
        [0, 0, 0, 1, 0, 0, 0, 0],
        [0, 0, 0, 1, 0, 0, 0, 1],
        [0x7F, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF],
    ] {
        for (first, before) in [(0x82, vec![]), (0x01, vec![]), (0x80, frame(BINARY, b"1"))] {
            let head = [&[first, 0xFF], &length[..], &KEY].concat();
            let name = format!("10.4 a length of {length:x?} behind first byte {first:#04x}");
            cases.push(broken(name, &[before, head], &[], MESSAGE_TOO_BIG, 4));
        }
    }
}
