//! permessage-deflate against the real binary: who has agreed gets publications compressed, however
//! they were published, and who has not gets them plain.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::{io::Write, net::TcpStream};

use common::{Gateway, raw, sum};
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress};

const OFFERS: [&str; 3] = [
    "",
    "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n",
    "Sec-WebSocket-Extensions: permessage-deflate; server_max_window_bits=9\r\n",
];

/// A connection, and whether the server has agreed to compress.
fn open(gateway: &Gateway, target: &str, headers: &str) -> (TcpStream, bool) {
    let stream = gateway.connect();
    let response = raw::exchange(&stream, raw::upgrade(target, headers).as_bytes());
    assert_eq!(response.status, 101, "{response:?}");
    let extension = response.header("sec-websocket-extensions").unwrap_or_default();
    (stream, extension.starts_with("permessage-deflate; server_no_context_takeover"))
}

fn deflate(payload: &[u8]) -> Vec<u8> {
    let mut output = Vec::with_capacity(payload.len() + 100);
    let mut state = Compress::new(Compression::best(), false);
    state.compress_vec(payload, &mut output, FlushCompress::Sync).unwrap();
    output.strip_suffix(&[0x00, 0x00, 0xFF, 0xFF]).unwrap().to_vec()
}

/// The next message, and whether it came compressed.
fn read(stream: &TcpStream) -> (String, bool) {
    let (first, payload) = raw::read_frame(stream).unwrap();
    assert_eq!(first & 0xBF, 0x81, "a whole text");
    if first & 0x40 == 0 {
        return (String::from_utf8(payload).unwrap(), false);
    }
    let mut text = Vec::with_capacity(1 << 16);
    let payload = [&payload[..], &[0x00, 0x00, 0xFF, 0xFF]].concat();
    Decompress::new(false).decompress_vec(&payload, &mut text, FlushDecompress::Sync).unwrap();
    (String::from_utf8(text).unwrap(), true)
}

#[test]
fn every_subscriber_gets_what_it_agreed_on_however_it_was_published() {
    let gateway = Gateway::start(&["--workers", "2", "--compression", "on"]);
    let clients: Vec<_> = (0..30).map(|it| open(&gateway, "/ws/room", OFFERS[it % 3])).collect();
    assert!(clients.iter().enumerate().all(|(index, client)| client.1 == (index % 3 > 0)));
    let stats = gateway.stats_until(|stats| sum(stats, &["connections_deflate"]) == 20);
    assert_eq!(sum(&stats, &["connections"]), 30);
    let expect = |text: &str, is_compressed: bool| {
        for (stream, agreed) in &clients {
            assert_eq!(read(stream), (text.to_owned(), *agreed && is_compressed));
        }
    };
    let mut http = gateway.http();
    let text = "published over HTTP, ".repeat(100);
    assert_eq!(http.post("/publish/room", "", text.as_bytes()).status, 200);
    expect(&text, true);
    assert_eq!(http.post("/broadcast", "", text.as_bytes()).status, 200);
    expect(&text, true);
    let body = format!(
        r#"{{"messages": [{{"topic": "room", "text": "short"}}, {{"topic": "room", "text": "{text}"}}]}}"#
    );
    assert_eq!(http.post("/publish", "", body.as_bytes()).status, 200);
    expect("short", false);
    expect(&text, true);
    // By a client, compressed and in two fragments.
    let payload = deflate(text.as_bytes());
    let (begin, end) = payload.split_at(payload.len() / 2);
    let frames = [raw::frame(0x41, begin), raw::frame(0x89, b"between"), raw::frame(0x80, end)];
    (&clients[1].0).write_all(&frames.concat()).unwrap();
    assert_eq!(raw::read_frame(&clients[1].0), Some((0x8A, b"between".to_vec())));
    expect(&text, true);
    drop(clients);
    let stats = gateway.stats_at_rest();
    assert_eq!(sum(&stats, &["inflated", "messages"]), 1);
    assert_eq!(sum(&stats, &["inflated", "after_bytes"]), text.len() as u64);
    // Four publications for two windows; each worker may have made one in vain.
    let deflated = sum(&stats, &["deflated", "messages"]);
    assert!((8..=16).contains(&deflated), "{deflated}");
    let before = sum(&stats, &["deflated", "before_bytes"]);
    assert!(sum(&stats, &["deflated", "after_bytes"]) < before / 10);
}

#[test]
fn a_bomb_ends_its_connection_with_1009_and_no_other() {
    let gateway = Gateway::start(&["--workers", "1", "--compression", "on", "--echo"]);
    let (bomber, _) = open(&gateway, "/echo", OFFERS[1]);
    let (other, _) = open(&gateway, "/echo", OFFERS[1]);
    let bomb = deflate(&vec![0; 50_000_000]);
    (&bomber).write_all(&raw::frame(0xC2, &bomb)).unwrap();
    assert_eq!(raw::read_close(&bomber), (1009, "message too big".to_owned()));
    let text = "echoed again and again ".repeat(20);
    (&other).write_all(&raw::frame(0xC1, &deflate(text.as_bytes()))).unwrap();
    assert_eq!(read(&other), (text, true));
}

#[test]
fn nobody_compresses_unless_it_is_on() {
    let gateway = Gateway::start(&["--workers", "1", "--echo"]);
    let (stream, agreed) = open(&gateway, "/echo", OFFERS[1]);
    assert!(!agreed);
    (&stream).write_all(&raw::frame(0xC1, &[0x00])).unwrap();
    assert_eq!(raw::read_close(&stream), (1002, "reserved bits must be 0".to_owned()));
}
