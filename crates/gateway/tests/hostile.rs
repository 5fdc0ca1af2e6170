//! Clients that want to hurt are bounded, counted by reason, and the others are served meanwhile. At
//! full size: `ringway-bench check hostile`.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::{
    io::{BufReader, ErrorKind, Read, Write},
    net::TcpStream,
    thread,
};

use common::{
    Gateway,
    http::Response,
    raw::{exchange, frame, open, read_close, read_frame, upgrade},
    sum,
};

/// Says something and hears it: whoever is served can do that.
fn assert_is_served(stream: &TcpStream, words: &str) {
    (&*stream).write_all(&frame(0x81, words.as_bytes())).unwrap();
    assert_eq!(read_frame(stream), Some((0x81, words.as_bytes().to_vec())));
}

fn served(gateway: &Gateway) -> TcpStream {
    let stream = gateway.connect();
    open(&stream, "/ws/served");
    stream
}

#[test]
fn clients_that_say_nothing_are_answered_408_and_counted_and_the_others_are_served() {
    const SILENT: u32 = 200;
    // The other has as much time to shake hands.
    let gateway = Gateway::start(&["--workers", "2", "--handshake-timeout", "5s"]);
    let other = served(&gateway);
    let silent: Vec<_> = (0..SILENT).map(|_| gateway.connect()).collect();
    for stream in &silent {
        assert_is_served(&other, "meanwhile");
        let response = Response::read(&mut BufReader::with_capacity(1, stream));
        assert_eq!(response.status, 408);
    }
    let stats =
        gateway.stats_until(|stats| sum(stats, &["refused", "timeout"]) == u64::from(SILENT));
    assert_eq!(stats["connections"], 1, "{stats:#}");
    let counted = gateway.metric("ringway_handshakes_refused_total{reason=\"timeout\"}");
    assert_eq!(counted, f64::from(SILENT));
    drop((silent, other));
    gateway.stats_at_rest();
}

#[test]
fn who_finds_no_room_is_answered_503_and_counted_and_the_others_are_served() {
    const BEYOND: u32 = 50;
    let gateway = Gateway::start(&["--workers", "1", "--connections-max", "2"]);
    let (other, _last) = (served(&gateway), served(&gateway));
    for _ in 0..BEYOND {
        let response = exchange(&gateway.connect(), upgrade("/ws/room", "").as_bytes());
        assert_eq!(response.status, 503);
        assert_is_served(&other, "meanwhile");
    }
    gateway.stats_until(|stats| sum(stats, &["refused", "full"]) == u64::from(BEYOND));
    let counted = gateway.metric("ringway_handshakes_refused_total{reason=\"full\"}");
    assert_eq!(counted, f64::from(BEYOND));
}

#[test]
fn messages_that_never_end_share_a_pool_and_who_finds_it_full_is_told_1013() {
    let pool = "[limits]\npartial_total_bytes_max = \"256KiB\"";
    let flags = ["--workers", "1", "--message-bytes-max", "64KiB", "--ping-interval", "0"];
    let gateway = Gateway::start_with(pool, &flags);
    let other = served(&gateway);
    let beginning = &frame(0x82, &[0; 60_000])[..50_000];
    let begun: Vec<_> = (0..4)
        .map(|_| {
            let stream = gateway.connect();
            open(&stream, "/ws/room");
            (&stream).write_all(beginning).unwrap();
            stream
        })
        .collect();
    let stats = gateway.stats_until(|stats| sum(stats, &["partial_bytes"]) >= 200_000);
    assert!(sum(&stats, &["partial_bytes"]) <= 256 << 10, "{stats:#}");
    let refused: Vec<_> = (0..4)
        .map(|_| {
            let stream = gateway.connect();
            open(&stream, "/ws/room");
            (&stream).write_all(beginning).unwrap();
            assert_eq!(read_close(&stream), (1013, "overloaded".to_owned()));
            assert_is_served(&other, "meanwhile");
            stream
        })
        .collect();
    gateway.stats_until(|stats| sum(stats, &["closed", "overloaded"]) == 4);
    assert_eq!(gateway.metric("ringway_connections_closed_total{reason=\"overloaded\"}"), 4.0);
    drop((begun, refused, other));
    gateway.stats_at_rest();
}

#[test]
fn a_message_of_4_mib_in_fragments_of_64_bytes_arrives_and_the_others_are_served_meanwhile() {
    const BYTES: usize = 4 << 20;
    let flags = ["--workers", "1", "--message-bytes-max", "4MiB", "--send-queue-bytes-max", "8MiB"];
    let gateway = Gateway::start(&flags);
    let (reader, writer, other) = (gateway.connect(), gateway.connect(), served(&gateway));
    open(&reader, "/ws/room");
    open(&writer, "/ws/room?own=off");
    let fragments = BYTES / 64;
    let middle = frame(0x00, &[b'x'; 64]).repeat(fragments - 2);
    let stream = [frame(0x02, &[b'a'; 64]), middle, frame(0x80, &[b'z'; 64])].concat();
    let writing = thread::spawn(move || {
        (&writer).write_all(&stream).unwrap();
        writer
    });
    while !writing.is_finished() {
        assert_is_served(&other, "meanwhile");
    }
    let mut head = [0; 10];
    (&reader).read_exact(&mut head).unwrap();
    assert_eq!(head, *b"\x82\x7f\0\0\0\0\x00\x40\0\0");
    let mut payload = vec![0; BYTES];
    (&reader).read_exact(&mut payload).unwrap();
    assert!(payload[..64].iter().all(|byte| *byte == b'a'));
    assert!(payload[64..BYTES - 64].iter().all(|byte| *byte == b'x'));
    assert!(payload[BYTES - 64..].iter().all(|byte| *byte == b'z'));
    let stats = gateway.stats_until(|stats| sum(stats, &["partial_bytes"]) == 0);
    let deferrals = sum(&stats, &["share_deferrals"]);
    assert!(deferrals > 0, "{stats:#}");
    assert_eq!(gateway.metric("ringway_share_deferrals_total"), deferrals as f64);
    drop((reader, writing.join().unwrap(), other));
    gateway.stats_at_rest();
}

/// Writes until the gateway has had enough, while the other is served.
fn flood(stream: &TcpStream, block: &[u8], other: &TcpStream) {
    loop {
        match (&*stream).write_all(block) {
            Ok(()) => assert_is_served(other, "meanwhile"),
            Err(error) => {
                let kinds = [ErrorKind::ConnectionReset, ErrorKind::BrokenPipe];
                assert!(kinds.contains(&error.kind()), "{error}");
                return;
            }
        }
    }
}

#[test]
fn who_pings_and_never_reads_is_closed_as_a_slow_consumer() {
    let flags = ["--workers", "1", "--message-bytes-max", "1KiB", "--send-queue-bytes-max", "8KiB"];
    let gateway = Gateway::start(&[&flags[..], &["--close-timeout", "500ms"]].concat());
    let other = served(&gateway);
    let pinger = gateway.connect();
    open(&pinger, "/ws/room");
    flood(&pinger, &frame(0x89, &[b'p'; 125]).repeat(500), &other);
    gateway.stats_until(|stats| sum(stats, &["closed", "slow_consumer"]) == 1);
    assert_eq!(gateway.metric("ringway_connections_closed_total{reason=\"slow_consumer\"}"), 1.0);
    drop((pinger, other));
    gateway.stats_at_rest();
}

#[test]
fn who_pings_and_reads_has_every_pong() {
    let gateway = Gateway::start(&["--workers", "1"]);
    let (pinger, other) = (gateway.connect(), served(&gateway));
    open(&pinger, "/ws/room");
    for round in 0..20 {
        let pings: Vec<u8> = (0..200)
            .flat_map(|number| frame(0x89, format!("{round}.{number}").as_bytes()))
            .collect();
        (&pinger).write_all(&pings).unwrap();
        assert_is_served(&other, "meanwhile");
        for number in 0..200 {
            let pong = (0x8a, format!("{round}.{number}").into_bytes());
            assert_eq!(read_frame(&pinger), Some(pong));
        }
    }
    drop((pinger, other));
    gateway.stats_at_rest();
}
