//! What one address and one publisher may take: who wants more is told so, or waits, and the others
//! do not notice.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::{
    env,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    process::Command,
};

use common::{
    Gateway,
    raw::{frame, open, read_frame},
    sum,
};

const REQUEST: &[u8] = b"GET /ws/room HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\n\
    Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

/// Samples of `/metrics`.
const ADDRESS_CONNECTIONS: &str =
    "ringway_handshakes_refused_total{reason=\"address_connections\"}";
const ADDRESS_RATE: &str = "ringway_handshakes_refused_total{reason=\"address_rate\"}";

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
            let stream = gateway.connect_from("127.0.0.2");
            open(&stream, "/ws/room");
            stream
        })
        .collect();
    for _ in 0..4 {
        let answer = refusal(gateway.connect_from("127.0.0.2"));
        assert!(answer.starts_with("HTTP/1.1 429 "), "{answer}");
        assert!(answer.contains("Retry-After: 5\r\n"), "{answer}");
    }
    let other = gateway.connect_from("127.0.0.3");
    open(&other, "/ws/room");
    let stats = gateway.stats_until(|stats| sum(stats, &["refused", "address_connections"]) == 4);
    assert_eq!(stats["connections"], 9, "{stats:#}");
    assert_eq!(gateway.metric(ADDRESS_CONNECTIONS), 4.0);
    drop(clients);
    gateway.stats_until(|stats| stats["connections"] == 1);
    open(&gateway.connect_from("127.0.0.2"), "/ws/room");
    drop(other);
    gateway.stats_at_rest();
}

/// Set where a test runs once more, in the network that it made.
const INSIDE: &str = "RINGWAY_TEST_INSIDE";

/// Two networks of IPv6 with two addresses each, and one with twenty.
const NETWORKS: &str = "ip link set lo up
    for address in 1::1 1::2 2::1 2::2 $(seq -f 3::%g 20); do
        ip address add fd00:0:0:$address/64 dev lo nodad || exit
    done
    exec \"$@\"";

/// Runs the test of this name once more in those networks. `true` there.
fn is_inside(test: &str) -> bool {
    if env::var_os(INSIDE).is_some() {
        return true;
    }
    let status = Command::new("unshare")
        .args(["--user", "--map-root-user", "--net", "sh", "-c", NETWORKS, "sh"])
        .arg(env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(INSIDE, "1")
        .status()
        .unwrap();
    assert!(status.success(), "{status}");
    false
}

/// A gateway that clients find at [`::1`].
fn start_v6(flags: &[&str]) -> Gateway {
    let flags = [&["--workers", "2", "--listen", "[::1]:0"], flags].concat();
    let mut gateway = Gateway::start(&flags);
    let addresses = gateway.start_lines.iter().filter_map(|line| line["address"].as_str());
    gateway.data = addresses.filter_map(|it| it.parse().ok()).find(SocketAddr::is_ipv6).unwrap();
    gateway
}

#[test]
fn addresses_of_one_ipv6_network_have_one_share() {
    if !is_inside("addresses_of_one_ipv6_network_have_one_share") {
        return;
    }
    let gateway = start_v6(&["--connections-per-address-max", "4"]);
    let connect = |address: &str| gateway.connect_from(address);
    let clients: Vec<_> = ["fd00:0:0:1::1", "fd00:0:0:1::2"]
        .map(|address| {
            [(); 2].map(|()| {
                let stream = connect(address);
                open(&stream, "/ws/room");
                stream
            })
        })
        .into();
    for address in ["fd00:0:0:1::1", "fd00:0:0:1::2"] {
        let answer = refusal(connect(address));
        assert!(answer.starts_with("HTTP/1.1 429 "), "{answer}");
    }
    let others = ["fd00:0:0:2::1", "fd00:0:0:2::2", "::1"].map(|address| {
        let stream = connect(address);
        open(&stream, "/ws/room");
        stream
    });
    gateway.stats_until(|stats| sum(stats, &["refused", "address_connections"]) == 2);
    assert_eq!(gateway.metric(ADDRESS_CONNECTIONS), 2.0);
    drop((clients, others));
    gateway.stats_at_rest();
}

/// Whether an upgrade from this address is let in; what it is answered else is that it comes too soon.
fn is_let_in(gateway: &Gateway, address: &str) -> bool {
    let stream = gateway.connect_from(address);
    let mut answer = [0; 12];
    let _ = (&stream).write_all(REQUEST);
    (&stream).read_exact(&mut answer).unwrap();
    assert!([b"HTTP/1.1 101", b"HTTP/1.1 429"].contains(&&answer));
    answer == *b"HTTP/1.1 101"
}

#[test]
fn an_address_that_shakes_hands_too_often_is_told_to_wait() {
    // One a second and none saved up: of two in a row that take less, the second is one too many.
    let gateway = Gateway::start(&["--workers", "2", "--handshakes-per-address-rate", "1"]);
    assert!((0..100).any(|_| !is_let_in(&gateway, "127.0.0.2")));
    assert!(is_let_in(&gateway, "127.0.0.3"));
    gateway.stats_until(|stats| sum(stats, &["refused", "address_rate"]) == 1);
    assert_eq!(gateway.metric(ADDRESS_RATE), 1.0);
    gateway.stats_at_rest();
}

#[test]
fn addresses_of_one_ipv6_network_shake_hands_at_one_rate() {
    if !is_inside("addresses_of_one_ipv6_network_shake_hands_at_one_rate") {
        return;
    }
    let gateway = start_v6(&["--handshakes-per-address-rate", "1"]);
    // Each of them comes once.
    assert!((1..=20).any(|host| !is_let_in(&gateway, &format!("fd00:0:0:3::{host}"))));
    assert!(is_let_in(&gateway, "fd00:0:0:1::1"));
    gateway.stats_until(|stats| sum(stats, &["refused", "address_rate"]) == 1);
    assert_eq!(gateway.metric(ADDRESS_RATE), 1.0);
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
    let pauses = sum(&stats, &["publish_rate_pauses"]);
    assert!(pauses > 0, "{stats:#}");
    assert_eq!(gateway.metric("ringway_publish_rate_pauses_total"), pauses as f64);
    drop((reader, publisher));
    gateway.stats_at_rest();
}
