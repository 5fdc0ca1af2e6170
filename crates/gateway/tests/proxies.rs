//! Whose address counts behind proxies, against the real binary: in the log and in the bounds of an
//! address. Whoever is no trusted proxy can name no address but its own.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::{
    io::{ErrorKind, Read, Write},
    net::{SocketAddr, TcpStream},
};

use common::{
    Gateway, PATIENCE,
    raw::{exchange, frame, read_close, upgrade},
    sum,
};

/// The header of a proxy (version 2, IPv4 over TCP) for this client's address and port 4660.
fn header(client: [u8; 4]) -> Vec<u8> {
    let addresses = [&client[..], &[198, 51, 100, 1], &[0x12, 0x34, 1, 0xBB]].concat();
    [b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0C", &addresses[..]].concat()
}

/// A gateway with a listener more, at which connections begin with a PROXY header.
fn announcing(flags: &[&str]) -> (Gateway, SocketAddr) {
    let gateway = Gateway::start(&[&["--listen", "127.0.0.1:0,proxy"], flags].concat());
    let lines = gateway.start_lines.iter();
    let mut data = lines.filter(|line| line["message"] == "listening" && line["plane"] == "data");
    let second = data.nth(1).unwrap()["address"].as_str().unwrap().parse().unwrap();
    (gateway, second)
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// The address of a client in the log, once it was closed for what it has sent.
fn logged(gateway: &mut Gateway, stream: &TcpStream) -> String {
    (&*stream).write_all(&frame(0x81, b"publishing is off")).unwrap();
    assert_eq!(read_close(stream).0, 1008);
    let line = gateway.line(|line| line["message"] == "connection closed");
    line["address"].as_str().unwrap().to_owned()
}

fn is_reset(mut stream: &TcpStream) -> bool {
    matches!(stream.read(&mut [0; 1]), Err(error) if error.kind() == ErrorKind::ConnectionReset)
}

const SILENT: [&str; 2] = ["--client-publish", "off"];

#[test]
fn the_address_in_a_proxy_header_is_the_clients() {
    let (mut gateway, proxy) = announcing(&SILENT);
    let stream = connect(proxy);
    let request = [header([192, 0, 2, 7]), upgrade("/ws/a", "").into_bytes()].concat();
    assert_eq!(exchange(&stream, &request).status, 101);
    assert_eq!(logged(&mut gateway, &stream), "192.0.2.7:4660");

    // In pieces, and with a claim of the client's own behind it, which is nobody's word.
    let stream = connect(proxy);
    stream.set_nodelay(true).unwrap();
    for byte in header([192, 0, 2, 8]) {
        (&stream).write_all(&[byte]).unwrap();
    }
    let request = upgrade("/ws/a", "X-Forwarded-For: 203.0.113.9\r\n");
    assert_eq!(exchange(&stream, request.as_bytes()).status, 101);
    assert_eq!(logged(&mut gateway, &stream), "192.0.2.8:4660");

    // A proxy that looks whether the gateway is there speaks for itself.
    let stream = connect(proxy);
    let request = [b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0", upgrade("/ws/a", "").as_bytes()].concat();
    assert_eq!(exchange(&stream, &request).status, 101);
    let own = stream.local_addr().unwrap().to_string();
    assert_eq!(logged(&mut gateway, &stream), own);
}

#[test]
fn behind_a_proxy_on_this_machine_nobody_publishes_and_no_other_site_connects_unless_told() {
    let (gateway, proxy) = announcing(&["--workers", "1"]);
    for fact in ["clients publish", "origins"] {
        let line = gateway.start_lines.iter().find(|line| line["message"] == fact);
        assert_eq!(line.unwrap()["reason"], "a listener with ,proxy has clients from elsewhere");
    }
    let ask = |headers: &str| {
        let stream = connect(proxy);
        let request = [header([192, 0, 2, 7]), upgrade("/ws/a", headers).into_bytes()].concat();
        (exchange(&stream, &request).status, stream)
    };
    assert_eq!(ask("Origin: https://elsewhere.example\r\n").0, 403);
    assert_eq!(ask("Origin: https://test\r\n").0, 101, "the host of the request");
    let (status, stream) = ask("");
    assert_eq!(status, 101);
    (&stream).write_all(&frame(0x81, b"to everybody")).unwrap();
    assert_eq!(read_close(&stream), (1008, "publishing is off".to_owned()));
    // The listener without a proxy is one of the same gateway.
    let request = upgrade("/ws/a", "Origin: https://elsewhere.example\r\n");
    assert_eq!(exchange(&gateway.connect(), request.as_bytes()).status, 403);
}

#[test]
fn whoever_does_not_begin_with_a_proxy_header_is_reset_and_counted() {
    // As long must the others not take to say what is wrong with them.
    let (gateway, proxy) = announcing(&["--workers", "1", "--handshake-timeout", "5s"]);
    let mut too_long = header([192, 0, 2, 7])[..16].to_vec();
    too_long[14] = 4;
    let bad = [
        upgrade("/ws/a", "").into_bytes(),
        b"PROXY TCP4 192.0.2.7 198.51.100.1 4660 443\r\n".to_vec(),
        too_long,
    ];
    for bytes in &bad {
        let stream = connect(proxy);
        (&stream).write_all(bytes).unwrap();
        assert!(is_reset(&stream), "{bytes:?}");
    }
    // A header that never ends has as much time as a handshake.
    let stream = connect(proxy);
    (&stream).write_all(&header([192, 0, 2, 7])[..20]).unwrap();
    assert!(is_reset(&stream));
    let stats = gateway.stats_until(|stats| sum(stats, &["refused", "proxy_header"]) == 3);
    assert_eq!(sum(&stats, &["refused", "timeout"]), 1);
    // Where none is expected it is no request.
    let spoofed = [header([192, 0, 2, 7]), upgrade("/ws/a", "").into_bytes()].concat();
    assert_eq!(exchange(&gateway.connect(), &spoofed).status, 400);
}

#[test]
fn a_forwarded_address_counts_only_from_a_trusted_proxy() {
    let forwarded = upgrade("/ws/a", "X-Forwarded-For: 203.0.113.1, 203.0.113.9\r\n");
    let ask = |gateway: &Gateway| {
        let stream = gateway.connect();
        assert_eq!(exchange(&stream, forwarded.as_bytes()).status, 101);
        stream
    };
    let mut gateway = Gateway::start(&SILENT);
    let stream = ask(&gateway);
    let own = stream.local_addr().unwrap().to_string();
    assert_eq!(logged(&mut gateway, &stream), own);

    let mut gateway = Gateway::start(&[&SILENT[..], &["--trusted-proxy", "192.0.2.0/24"]].concat());
    let stream = ask(&gateway);
    let own = stream.local_addr().unwrap().to_string();
    assert_eq!(logged(&mut gateway, &stream), own, "another proxy is trusted");

    let mut gateway = Gateway::start(&[&SILENT[..], &["--trusted-proxy", "127.0.0.0/8"]].concat());
    let stream = ask(&gateway);
    assert_eq!(logged(&mut gateway, &stream), "203.0.113.9:0", "what it saw, not what it was told");
}

#[test]
fn the_bounds_of_an_address_are_those_of_the_client() {
    let bounds = ["--workers", "1", "--connections-per-address-max", "1"];
    let (gateway, proxy) = announcing(&[&bounds[..], &["--trusted-proxy", "127.0.0.1"]].concat());
    let by_header = |client: u8| {
        let stream = connect(proxy);
        let request = [header([192, 0, 2, client]), upgrade("/ws/a", "").into_bytes()].concat();
        (exchange(&stream, &request).status, stream)
    };
    let by_forward = |client: &str| {
        let stream = gateway.connect();
        let request = upgrade("/ws/a", &format!("X-Forwarded-For: {client}\r\n"));
        (exchange(&stream, request.as_bytes()).status, stream)
    };
    let held = [by_header(1), by_header(2), by_forward("192.0.2.3"), by_forward("192.0.2.4")];
    assert!(held.iter().all(|(status, _)| *status == 101), "{held:?}");
    assert_eq!(by_header(1).0, 429);
    assert_eq!(by_forward("192.0.2.2").0, 429, "the same client by another way");
    assert_eq!(by_forward("10.0.0.1, 192.0.2.3").0, 429, "a claim does not help");
    gateway.stats_until(|stats| sum(stats, &["refused", "address_connections"]) == 3);
    drop(held);
    gateway.stats_until(|stats| sum(stats, &["connections"]) == 0);
    assert_eq!(by_header(1).0, 101, "its account is empty again");
}
