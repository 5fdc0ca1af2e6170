//! The loops against tungstenite clients: a publication reaches every connection whole, pings
//! arrive, and a connection that left does not disturb the others.

#![expect(clippy::unwrap_used, reason = "a failed step of a test is its failure")]

use std::io::{BufRead, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tungstenite::{Message, WebSocket};

/// Longer than any wait here should take.
const PATIENCE: Duration = Duration::from_secs(20);

struct Floor {
    process: Child,
    address: String,
}

impl Floor {
    fn start(arguments: &[&str]) -> Floor {
        let mut process = Command::new(env!("CARGO_BIN_EXE_ringway-floor"))
            .args(arguments)
            .args(["--listen", "127.0.0.1:0", "--connections-max", "100"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.trim().strip_prefix("listening on ").unwrap().to_owned();
        Floor { process, address }
    }

    fn connect(&self, query: &str) -> WebSocket<TcpStream> {
        let stream = TcpStream::connect(&self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let url = format!("ws://{}/ws/bench{query}", self.address);
        tungstenite::client(url, stream).unwrap().0
    }
}

impl Drop for Floor {
    fn drop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

fn every_connection_gets_every_message(arguments: &[&str]) {
    let floor = Floor::start(arguments);
    let mut subscribers: Vec<_> = (0..70).map(|_| floor.connect("")).collect();
    let mut publisher = floor.connect("?role=publisher");
    for payload in [vec![7; 100], vec![9; 70_000]] {
        publisher.send(Message::Binary(payload.clone().into())).unwrap();
        for connection in subscribers.iter_mut().chain([&mut publisher]) {
            assert_eq!(connection.read().unwrap().into_data(), payload);
        }
    }
}

#[test]
fn every_connection_gets_every_message_on_the_ring() {
    every_connection_gets_every_message(&["ring"]);
}

/// A frame of the arena is used again only when the kernel reads it no more.
#[test]
fn every_connection_gets_every_message_from_registered_memory() {
    every_connection_gets_every_message(&["ring", "--zero-copy"]);
    let floor = Floor::start(&["ring", "--zero-copy"]);
    let mut subscriber = floor.connect("");
    let mut publisher = floor.connect("?role=publisher");
    for number in 0..100_u8 {
        publisher.send(Message::Binary(vec![number; 60_000].into())).unwrap();
        for connection in [&mut subscriber, &mut publisher] {
            assert_eq!(connection.read().unwrap().into_data(), vec![number; 60_000]);
        }
    }
}

/// Of 70 connections each of three rings has some, unless the kernel deals very strangely.
#[test]
fn every_connection_gets_every_message_on_several_rings() {
    every_connection_gets_every_message(&["ring", "--rings", "3"]);
}

#[test]
fn every_connection_gets_every_message_by_send() {
    every_connection_gets_every_message(&["send"]);
}

/// RFC 7692 section 7.2.3.2: the second "Hello" refers to the first.
#[test]
fn a_subscriber_that_compresses_keeps_its_window() {
    let floor = Floor::start(&["deflate"]);
    let mut subscriber = TcpStream::connect(&floor.address).unwrap();
    subscriber.set_read_timeout(Some(PATIENCE)).unwrap();
    let request = "GET / HTTP/1.1\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
                   Sec-WebSocket-Extensions: permessage-deflate\r\n\r\n";
    subscriber.write_all(request.as_bytes()).unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        subscriber.read_exact(&mut byte).unwrap();
        head.extend(byte);
    }
    assert!(String::from_utf8(head).unwrap().contains("permessage-deflate"));
    let mut publisher = floor.connect("?role=publisher");
    for _ in 0..2 {
        publisher.send(Message::Text("Hello".into())).unwrap();
    }
    let mut frames = [0; 16];
    subscriber.read_exact(&mut frames).unwrap();
    let first = [0xc1, 0x07, 0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00];
    assert_eq!(frames[..9], first);
    assert_eq!(frames[9..], [0xc1, 0x05, 0xf2, 0x00, 0x11, 0x00, 0x00]);
}

/// These clients do not offer compression.
#[test]
fn whoever_does_not_compress_gets_every_message_plain() {
    every_connection_gets_every_message(&["deflate"]);
}

fn a_connection_that_left_does_not_disturb_the_others(mode: &str) {
    let floor = Floor::start(&[mode]);
    let mut stays = floor.connect("");
    let leaves = floor.connect("");
    let mut publisher = floor.connect("?role=publisher");
    drop(leaves);
    for sequence in 0..10_u8 {
        publisher.send(Message::Binary(vec![sequence; 16].into())).unwrap();
        assert_eq!(stays.read().unwrap().into_data(), vec![sequence; 16]);
        assert_eq!(publisher.read().unwrap().into_data(), vec![sequence; 16]);
    }
    floor.connect("");
}

#[test]
fn a_connection_that_left_does_not_disturb_the_others_on_the_ring() {
    a_connection_that_left_does_not_disturb_the_others("ring");
}

#[test]
fn a_connection_that_left_does_not_disturb_the_others_by_send() {
    a_connection_that_left_does_not_disturb_the_others("send");
}

fn pings_come_once_per_interval(mode: &str) {
    let floor = Floor::start(&[mode, "--pings", "1"]);
    let mut connections: Vec<_> = (0..3).map(|_| floor.connect("")).collect();
    for connection in &mut connections {
        for _ in 0..2 {
            assert_eq!(connection.read().unwrap(), Message::Ping(Vec::new().into()));
            connection.flush().unwrap();
        }
    }
}

#[test]
fn pings_come_once_per_interval_on_the_ring() {
    pings_come_once_per_interval("ring");
}

#[test]
fn pings_come_once_per_interval_by_send() {
    pings_come_once_per_interval("send");
}
