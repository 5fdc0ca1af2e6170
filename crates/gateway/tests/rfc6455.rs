//! The real binary is held to RFC 6455 at `/echo`: the table that the decoder is held to as well,
//! and what only a socket can show. Whatever is answered is read to the end of the connection.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../../wire/tests/rfc6455/cases/mod.rs"]
mod cases;
mod common;

use std::{
    io::{ErrorKind, Read, Write},
    net::TcpStream,
    thread,
};

use cases::{
    BINARY, Broken, CLOSE, CONTINUATION, Case, FINAL, Heard, MESSAGE_BYTES_MAX, PING, TEXT, body,
    frame, frame_with_key,
};
use common::{Gateway, raw::open};
use rand::{Rng, SeedableRng, rngs::StdRng};

/// Threads that go through the table.
const CLIENTS: usize = 4;

/// A frame of the server: opcode and payload.
type Frame = (u8, Vec<u8>);

const PONG: u8 = 0xA;

/// How a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Finished,
    Reset,
}

/// What was answered on a connection.
#[derive(Debug)]
struct Answers {
    data: Vec<Frame>,
    control: Vec<Frame>,
    end: End,
}

/// Serves `/echo`, with queues that no client here fills, however slowly it reads.
fn echoing(flags: &[&str]) -> Gateway {
    let limit = MESSAGE_BYTES_MAX.to_string();
    let ours = ["--workers", "1", "--echo", "--message-bytes-max", &limit];
    let ours = [&ours[..], &["--send-queue-bytes-max", "48MiB"]].concat();
    Gateway::start(&[&ours[..], flags].concat())
}

/// Upgrades, writes the pieces and reads at the same time, to the end.
fn converse(gateway: &Gateway, pieces: &[&[u8]]) -> Answers {
    let stream = gateway.connect();
    open(&stream, "/echo");
    thread::scope(|scope| {
        scope.spawn(|| write(&stream, pieces));
        read_answers(&stream)
    })
}

/// Writes as far as the server is there to hear it.
fn write(mut stream: &TcpStream, pieces: &[&[u8]]) {
    for piece in pieces {
        match stream.write_all(piece) {
            Err(error) if is_gone(error.kind()) => return,
            outcome => outcome.unwrap(),
        }
    }
}

fn is_gone(error: ErrorKind) -> bool {
    matches!(error, ErrorKind::ConnectionReset | ErrorKind::BrokenPipe)
}

fn read_answers(mut stream: &TcpStream) -> Answers {
    let mut bytes = Vec::new();
    let end = match stream.read_to_end(&mut bytes) {
        Err(error) if is_gone(error.kind()) => End::Reset,
        outcome => outcome.map(|_| End::Finished).unwrap(),
    };
    let mut answers = Answers { data: Vec::new(), control: Vec::new(), end };
    let mut rest = &bytes[..];
    while let Some((frame, after)) = parse(rest) {
        assert_ne!(answers.control.last().map(|it| it.0), Some(8), "5.5.1: a Close is the last");
        let kind = if frame.0 < 8 { &mut answers.data } else { &mut answers.control };
        kind.push(frame);
        rest = after;
    }
    assert!(rest.is_empty(), "whole frames only: {rest:?}");
    answers
}

/// The first frame and what follows it. Servers' frames are whole messages here.
fn parse(bytes: &[u8]) -> Option<(Frame, &[u8])> {
    let (&[first, second], rest) = bytes.split_first_chunk()?;
    assert_eq!(first & 0xF0, 0x80, "5.2: final, and no reserved bit");
    assert_eq!(second & 0x80, 0, "5.1: a server must not mask");
    let (length, rest) = match second {
        0..126 => (u64::from(second), rest),
        126 => {
            let (length, rest) = rest.split_first_chunk()?;
            (u64::from(u16::from_be_bytes(*length)), rest)
        }
        _ => {
            let (length, rest) = rest.split_first_chunk()?;
            (u64::from_be_bytes(*length), rest)
        }
    };
    let shortest = match length {
        0..126 => second < 126,
        126..65_536 => second == 126,
        _ => second == 127,
    };
    assert!(shortest, "5.2: the shortest form of {length}");
    let (payload, rest) = rest.split_at_checked(usize::try_from(length).unwrap())?;
    Some(((first & 0x0F, payload.to_vec()), rest))
}

/// What the table demands on the wire. Control frames may pass data that has not begun to leave.
fn check(case: &Case, answers: &Answers, how: &str) {
    let (mut data, mut control) = (Vec::new(), Vec::new());
    for heard in &case.heard {
        match heard {
            Heard::Text(text) => data.push((1, text.clone().into_bytes())),
            Heard::Binary(payload) => data.push((2, payload.clone())),
            Heard::Ping(payload) => control.push((PONG, payload.clone())),
            Heard::Pong(_) => {}
            // 5.5.1: the answer echoes the code.
            Heard::Close(close) => control.push((
                8,
                close.as_ref().map_or(Vec::new(), |(code, _)| code.to_be_bytes().to_vec()),
            )),
        }
    }
    let is_closed = matches!(case.heard.last(), Some(Heard::Close(_)));
    match case.broken {
        Some(Broken { rule: (code, reason), .. }) => {
            control.push((8, body(code, reason.as_bytes())));
        }
        None if is_closed => {}
        None => control.push((8, body(1000, b""))),
    }
    assert_eq!(answers.control, control, "{}, {how}", case.name);
    assert!(answers.data == data, "{}, {how}: {} messages", case.name, answers.data.len());
    // Who sends behind its own Close is not listened to.
    if !is_closed {
        assert_eq!(answers.end, End::Finished, "{}, {how}", case.name);
    }
}

/// The stream, and where it leaves the connection open, a Close.
fn whole(case: &Case) -> Vec<u8> {
    let mut stream = case.stream.clone();
    if case.broken.is_none() && !matches!(case.heard.last(), Some(Heard::Close(_))) {
        stream.extend(frame(CLOSE, &body(1000, b"")));
    }
    stream
}

/// Up to 40 pieces.
fn cut<'s>(stream: &'s [u8], random: &mut StdRng) -> Vec<&'s [u8]> {
    let count = random.random_range(0..40.min(stream.len() + 1));
    let mut places: Vec<usize> = (0..count).map(|_| random.random_range(0..stream.len())).collect();
    places.extend([0, stream.len()]);
    places.sort_unstable();
    places.windows(2).map(|ends| &stream[ends[0]..ends[1]]).filter(|it| !it.is_empty()).collect()
}

/// Goes through the table with several clients.
fn for_each_case(act: impl Fn(usize, &Case) + Sync) {
    let cases = cases::all();
    thread::scope(|scope| {
        for client in 0..CLIENTS {
            let (cases, act) = (&cases, &act);
            scope.spawn(move || {
                for index in (client..cases.len()).step_by(CLIENTS) {
                    act(index, &cases[index]);
                }
            });
        }
    });
}

#[test]
fn every_stream_of_the_table_is_answered_when_it_is_written_at_once() {
    // Reads so long that most streams are one.
    let flags = ["--receive-buffers", "16", "--receive-buffer-bytes", "64KiB"];
    let gateway = echoing(&flags);
    for_each_case(|_, case| check(case, &converse(&gateway, &[&whole(case)]), "at once"));
    gateway.stats_at_rest();
}

#[test]
fn every_stream_of_the_table_is_answered_when_it_is_cut_at_random_places() {
    let gateway = echoing(&[]);
    for_each_case(|index, case| {
        let stream = whole(case);
        let pieces = cut(&stream, &mut StdRng::seed_from_u64(index as u64));
        let lengths: Vec<usize> = pieces.iter().map(|piece| piece.len()).collect();
        check(case, &converse(&gateway, &pieces), &format!("cut into {lengths:?}"));
    });
    gateway.stats_at_rest();
}

#[test]
fn every_broken_rule_is_answered_by_the_byte_that_breaks_it_and_waits_for_no_other() {
    let gateway = echoing(&[]);
    for_each_case(|_, case| {
        if let Some(Broken { bytes, .. }) = case.broken {
            check(case, &converse(&gateway, &[&case.stream[..bytes]]), "up to its byte");
        }
    });
    gateway.stats_at_rest();
}

#[test]
fn a_stream_of_single_bytes_is_heard_like_any_other() {
    let gateway = echoing(&[]);
    let stream = [
        frame(FINAL | TEXT, "é✓😀".as_bytes()),
        frame(BINARY, &[7; 130]),
        frame(PING, b"between"),
        frame(FINAL | CONTINUATION, &[8; 130]),
        frame(CLOSE, &body(4000, "bye ✓".as_bytes())),
    ]
    .concat();
    let bytes: Vec<&[u8]> = stream.chunks(1).collect();
    let answers = converse(&gateway, &bytes);
    let binary = [[7; 130], [8; 130]].concat();
    assert_eq!(answers.data, [(1, "é✓😀".into()), (2, binary)]);
    assert_eq!(answers.control, [(PONG, b"between".to_vec()), (8, vec![0x0F, 0xA0])]);
    assert_eq!(answers.end, End::Finished);
    gateway.stats_at_rest();
}

#[test]
fn a_close_frame_reaches_a_client_that_goes_on_sending_a_mebibyte() {
    let gateway = echoing(&["--client-publish", "off"]);
    let mebibyte = vec![0; 1 << 20];
    let message = frame(FINAL | TEXT, b"hi");
    for (target, code, broken) in [
        ("/echo", 1002, frame(0x83, b"")),
        ("/echo", 1002, b"\x81\x02hi".to_vec()),
        ("/echo", 1007, frame(FINAL | TEXT, b"\xFF")),
        ("/echo", 1009, vec![0x82, 0xFF, 0, 0, 0, 0, 0, 0x10, 0, 0]),
        ("/ws/room", 1008, message.clone()),
        // What it goes on with are frames, which nobody hears any more.
        ("/ws/room", 1008, message.repeat(100_000)),
    ] {
        // A client that reads while it writes, and one that reads only afterwards.
        for is_deaf in [false, true] {
            let stream = gateway.connect();
            open(&stream, target);
            let pieces = [&broken[..], &mebibyte];
            let answers = if is_deaf {
                write(&stream, &pieces);
                read_answers(&stream)
            } else {
                thread::scope(|scope| {
                    scope.spawn(|| write(&stream, &pieces));
                    read_answers(&stream)
                })
            };
            let [(8, close)] = &answers.control[..] else { panic!("{code} {is_deaf} {answers:?}") };
            assert_eq!(close[..2], u16::to_be_bytes(code), "{is_deaf}");
        }
    }
    gateway.stats_at_rest();
}

/// RFC 6455 section 1.4: who has received a Close discards whatever comes behind it, and browsers
/// take it for a fault.
#[test]
fn a_ping_behind_our_close_is_not_answered_and_the_clients_close_ends_the_connection() {
    let gateway = echoing(&["--client-publish", "off", "--close-timeout", "1m"]);
    let stream = [
        frame(PING, b"before"),
        frame(FINAL | TEXT, b"refused"),
        frame(PING, b"behind"),
        frame(FINAL | TEXT, b"not heard"),
        frame(PING, b""),
        frame(CLOSE, &body(1008, b"")),
    ]
    .concat();
    let expected = [(PONG, b"before".to_vec()), (8, body(1008, b"publishing is off"))];
    for pieces in [vec![&stream[..]], stream.chunks(1).collect()] {
        let connection = gateway.connect();
        open(&connection, "/ws/room");
        write(&connection, &pieces);
        let answers = read_answers(&connection);
        assert_eq!(answers.control, expected);
        assert_eq!(answers.data, []);
        assert_eq!(answers.end, End::Finished);
    }
    gateway.stats_at_rest();
}

#[test]
fn messages_of_one_to_sixteen_mebibytes_come_back_where_the_limit_allows_them() {
    let flags = [
        "--workers",
        "1",
        "--echo",
        "--message-bytes-max",
        "16MiB",
        "--send-queue-bytes-max",
        "64MiB",
    ];
    let gateway = Gateway::start(&flags);
    let key = [0xA1, 0xB2, 0xC3, 0xD4];
    for mebibytes in [1, 3, 16] {
        let payload: Vec<u8> = (0..=250).cycle().take(mebibytes << 20).collect();
        let (first, second) = payload.split_at(payload.len() / 3);
        let stream = [
            frame_with_key(FINAL | BINARY, key, &payload),
            frame_with_key(BINARY, key, first),
            frame_with_key(FINAL | CONTINUATION, key, second),
            frame(CLOSE, b""),
        ]
        .concat();
        let answers = converse(&gateway, &[&stream]);
        assert_eq!(answers.data.len(), 2, "{mebibytes} MiB");
        assert!(answers.data.iter().all(|data| *data == (2, payload.clone())), "{mebibytes} MiB");
        assert_eq!(answers.control, [(8, vec![])], "{mebibytes} MiB");
    }
    // One byte more is refused by its head.
    let head = [0x82, 0xFF, 0, 0, 0, 0, 1, 0, 0, 1];
    let answers = converse(&gateway, &[&head]);
    assert_eq!(answers.control, [(8, body(1009, b"message too big"))]);
    gateway.stats_at_rest();
}

#[test]
fn a_hundred_thousand_small_messages_come_back_in_order() {
    let gateway = echoing(&["--receive-buffers", "16", "--receive-buffer-bytes", "64KiB"]);
    let mut stream: Vec<u8> =
        (0..100_000_u32).flat_map(|number| frame(FINAL | BINARY, &number.to_be_bytes())).collect();
    stream.extend(frame(CLOSE, b""));
    let answers = converse(&gateway, &[&stream]);
    let expected = (0..100_000_u32).map(|number| (2, number.to_be_bytes().to_vec()));
    assert!(answers.data.into_iter().eq(expected));
    assert_eq!(answers.control, [(8, vec![])]);
    gateway.stats_at_rest();
}
