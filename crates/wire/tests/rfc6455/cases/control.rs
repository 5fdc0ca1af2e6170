//! Control frames and the closing handshake (RFC 6455 sections 5.5 and 7).

use super::{
    BINARY, CLOSE, CLOSE_BODY_OF_ONE_BYTE, CLOSE_CODE, CONTINUATION, CONTROL_TOO_LONG, Case, FINAL,
    FRAGMENTED_CONTROL, Heard, INVALID_UTF8, PING, PONG, TEXT, body, broken, frame, kept, text,
    text::{BROKEN, UNFINISHED},
};

pub(super) fn add(cases: &mut Vec<Case>) {
    add_pings(cases);
    add_codes(cases);
    add_reasons(cases);
    add_after_close(cases);
}

fn close(code: u16, reason: &str) -> Heard {
    Heard::Close(Some((code, reason.to_owned())))
}

fn add_pings(cases: &mut Vec<Case>) {
    for (first, name) in [(0x08, "close"), (0x09, "ping"), (0x0A, "pong")] {
        for payload in [&b""[..], b"\x03\xE8", &[0; 125]] {
            let name = format!("5.5 a {name} of {} bytes that goes on", payload.len());
            let frames = [frame(first, payload), frame(FINAL | CONTINUATION, b"")];
            cases.push(broken(name, &frames, &[], FRAGMENTED_CONTROL, payload.len() + 11));
        }
    }
    cases.push(kept(
        "5.5.2 any bytes may stand in a ping, and come back",
        &[frame(PING, &[0xFF, 0xC0, 0x80, 0x00]), frame(PING, b""), frame(PING, &[7; 125])],
        &[
            Heard::Ping(vec![0xFF, 0xC0, 0x80, 0x00]),
            Heard::Ping(vec![]),
            Heard::Ping(vec![7; 125]),
        ],
    ));
    cases.push(kept(
        "5.5.3 pongs that nobody asked for are not answered",
        &[frame(PONG, b"x"), frame(PONG, b""), frame(PONG, &[0xFF; 125])],
        &[Heard::Pong(b"x".to_vec()), Heard::Pong(vec![]), Heard::Pong(vec![0xFF; 125])],
    ));
    let pings: Vec<Vec<u8>> =
        (0..2000_u32).map(|index| frame(PING, &index.to_be_bytes())).collect();
    let heard: Vec<Heard> =
        (0..2000_u32).map(|index| Heard::Ping(index.to_be_bytes().to_vec())).collect();
    cases.push(kept("5.5.2 two thousand pings at once", &pings, &heard));
}

/// RFC 6455 section 7.4, and what the registry has added to it: 1012 to 1014.
fn add_codes(cases: &mut Vec<Case>) {
    let allowed = [
        1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 3001, 3999,
        4000, 4001, 4999,
    ];
    let refused = [
        0, 1, 2, 125, 126, 500, 998, 999, 1004, 1005, 1006, 1015, 1016, 1017, 1099, 1100, 1999,
        2000, 2001, 2999, 5000, 5001, 9999, 10_000, 32_767, 32_768, 65_534, 65_535,
    ];
    for code in allowed {
        let name = |with| format!("7.4 code {code} {with}");
        cases.push(kept(name("alone"), &[frame(CLOSE, &body(code, b""))], &[close(code, "")]));
        let frames = [frame(CLOSE, &body(code, b"why"))];
        cases.push(kept(name("and a reason"), &frames, &[close(code, "why")]));
    }
    for code in refused {
        let name = |with| format!("7.4 code {code}, which must not be sent, {with}");
        let frames = [frame(CLOSE, &body(code, b""))];
        cases.push(broken(name("alone"), &frames, &[], CLOSE_CODE, 0));
        let frames = [frame(CLOSE, &body(code, b"why"))];
        cases.push(broken(name("and a reason"), &frames, &[], CLOSE_CODE, 0));
    }
    cases.push(kept("5.5.1 a close without a body", &[frame(CLOSE, b"")], &[Heard::Close(None)]));
    for byte in [0x00, 0x03, 0xFF] {
        cases.push(broken(
            format!("5.5.1 a close body of one byte: {byte}"),
            &[frame(PING, b""), frame(CLOSE, &[byte])],
            &[Heard::Ping(vec![])],
            CLOSE_BODY_OF_ONE_BYTE,
            0,
        ));
    }
}

fn add_reasons(cases: &mut Vec<Case>) {
    for length in [1, 2, 121, 122, 123] {
        let reason = "r".repeat(length);
        cases.push(kept(
            format!("5.5.1 a reason of {length} bytes"),
            &[frame(CLOSE, &body(1000, reason.as_bytes()))],
            &[close(1000, &reason)],
        ));
    }
    cases.push(kept(
        "5.5.1 a reason of 123 bytes that ends with a character of four",
        &[frame(CLOSE, &body(1000, ("r".repeat(119) + "😀").as_bytes()))],
        &[close(1000, &("r".repeat(119) + "😀"))],
    ));
    cases.push(broken(
        "5.5.1 a reason of 124 bytes",
        &[frame(CLOSE, &body(1000, &[b'r'; 124]))],
        &[],
        CONTROL_TOO_LONG,
        2 + 4 + 126,
    ));
    for (name, sequence, _) in BROKEN {
        let frames = [frame(CLOSE, &body(1000, &[b"why: ", sequence].concat()))];
        let name = format!("5.5.1 a reason that is not UTF-8: {name}");
        cases.push(broken(name, &frames, &[], INVALID_UTF8, 0));
    }
    for sequence in UNFINISHED {
        let frames = [frame(CLOSE, &body(1000, sequence))];
        let name = format!("5.5.1 a reason that ends within a character: {sequence:x?}");
        cases.push(broken(name, &frames, &[], INVALID_UTF8, 0));
    }
    cases.push(broken(
        "7.4 a code that must not be sent and a reason that is not UTF-8",
        &[frame(CLOSE, &body(1005, &[0xFF]))],
        &[],
        CLOSE_CODE,
        0,
    ));
    cases.push(broken(
        "5.5.1 a reason does not continue the text before it",
        &[frame(TEXT, b"\xE2\x9C"), frame(CLOSE, &body(1000, b"\x93"))],
        &[],
        INVALID_UTF8,
        0,
    ));
}

/// RFC 6455 sections 5.5.1 and 1.4: what comes after a Close is not looked at.
fn add_after_close(cases: &mut Vec<Case>) {
    let bye = || frame(CLOSE, &body(3000, "bye ✓".as_bytes()));
    let heard = [text("a"), close(3000, "bye ✓")];
    for (name, after) in [
        ("a text", frame(FINAL | TEXT, b"late")),
        ("a ping", frame(PING, b"late")),
        ("another close", frame(CLOSE, &body(1000, b""))),
        ("a frame that breaks rules", vec![0xFF; 20]),
        ("half a frame", frame(FINAL | BINARY, b"late")[..4].to_vec()),
        ("64 KiB", frame(FINAL | BINARY, &[7; 65_536])),
    ] {
        let name = format!("5.5.1 {name} after a close");
        cases.push(kept(name, &[frame(FINAL | TEXT, b"a"), bye(), after], &heard));
    }
}
