//! What one address and one publisher may take: who wants more is told so, or waits, and the others
//! do not notice.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
};

use common::{
    Gateway, PATIENCE,
    raw::{frame, open, read_frame},
    sum,
};
use socket2::{Domain, Socket, Type};

const REQUEST: &[u8] = b"GET /ws/room HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\n\
    Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

/// A connection from an address of this machine.
fn connect_from(gateway: &Gateway, address: &str) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    let source: SocketAddr = format!("{address}:0").parse().unwrap();
    socket.bind(&source.into()).unwrap();
    socket.connect(&gateway.data.into()).unwrap();
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// The answer to an upgrade that is refused.
fn refusal(mut stream: TcpStream) -> String {
    // The answer may come before the request, and then the peer is no longer read from.
    let _ = stream.write_all(REQUEST);
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn an_address_has_its_share_of_connections_whichever_worker_takes_them() {
    let gateway = Gateway::start(&["--workers", "2", "--connections-per-address-max", "8"]);
    let clients: Vec<_> = (0..8)
        .map(|_| {
            let stream = connect_from(&gateway, "127.0.0.2");
            open(&stream, "/ws/room");
            stream
        })
        .collect();
    for _ in 0..4 {
        let answer = refusal(connect_from(&gateway, "127.0.0.2"));
        assert!(answer.starts_with("HTTP/1.1 429 "), "{answer}");
        assert!(answer.contains("Retry-After: 5\r\n"), "{answer}");
    }
    let other = connect_from(&gateway, "127.0.0.3");
    open(&other, "/ws/room");
    let stats = gateway.stats_until(|stats| sum(stats, &["refused", "address_connections"]) == 4);
    assert_eq!(stats["connections"], 9, "{stats:#}");
    drop(clients);
    gateway.stats_until(|stats| stats["connections"] == 1);
    open(&connect_from(&gateway, "127.0.0.2"), "/ws/room");
    drop(other);
    gateway.stats_at_rest();
}

#[test]
fn an_address_that_shakes_hands_too_often_is_told_to_wait() {
    // One a second and none saved up: of two in a row that take less, the second is one too many.
    let gateway = Gateway::start(&["--workers", "2", "--handshakes-per-address-rate", "1"]);
    let refused = (0..100).find_map(|_| {
        let stream = connect_from(&gateway, "127.0.0.2");
        let mut answer = [0; 12];
        let _ = (&stream).write_all(REQUEST);
        (&stream).read_exact(&mut answer).unwrap();
        (answer != *b"HTTP/1.1 101").then_some(answer)
    });
    assert_eq!(refused.as_ref().map(|it| &it[..]), Some(&b"HTTP/1.1 429"[..]));
    open(&connect_from(&gateway, "127.0.0.3"), "/ws/room");
    gateway.stats_until(|stats| sum(stats, &["refused", "address_rate"]) == 1);
    gateway.stats_at_rest();
}

#[test]
fn who_publishes_too_fast_is_slowed_down_and_loses_nothing() {
    let gateway = Gateway::start(&["--workers", "2", "--client-publish-rate-max", "50"]);
    let reader = gateway.connect();
    open(&reader, "/ws/room?own=off");
    let publisher = gateway.connect();
    open(&publisher, "/ws/room");
    let messages: Vec<String> = (0..100).map(|number| format!("{number:03}")).collect();
    let frames = messages.iter().map(|message| frame(0x81, message.as_bytes()));
    (&publisher).write_all(&frames.collect::<Vec<_>>().concat()).unwrap();
    for message in &messages {
        assert_eq!(read_frame(&reader), Some((0x81, message.clone().into_bytes())));
    }
    let stats = gateway.stats_until(|stats| sum(stats, &["messages_received"]) == 100);
    assert!(sum(&stats, &["publish_rate_pauses"]) > 0, "{stats:#}");
    drop((reader, publisher));
    gateway.stats_at_rest();
}
