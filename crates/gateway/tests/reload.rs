//! SIGHUP and the configuration of the real binary: what may change changes for everybody who comes,
//! what may not is named, and a file that is wrong changes nothing.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::{
    io::{ErrorKind, Read, Write},
    net::TcpStream,
    time::Instant,
};

use common::{
    Gateway, PATIENCE,
    raw::{exchange, frame, open, read_close, read_frame, upgrade},
    sum,
};
use rustix::process::Signal;
use serde_json::Value;

/// Writes the file, has it read, and returns the line that says what came of it. From then on
/// every worker goes by it: a question is taken behind what they are told.
fn reload(gateway: &mut Gateway, file: &str, message: &str) -> Value {
    gateway.configure(file);
    gateway.signal(Signal::HUP);
    let line = gateway.line(|line| line["message"] == message);
    assert_eq!(gateway.http().get("/topics/nobody").status, 200);
    line
}

/// The status with which each of a few connections is answered, so that every worker is asked.
fn asked(gateway: &Gateway, target: &str, headers: &str, expected: u16) {
    for _ in 0..20 {
        let request = upgrade(target, headers);
        let response = exchange(&gateway.connect(), request.as_bytes());
        assert_eq!(response.status, expected, "{target} {headers}");
    }
}

#[test]
fn what_may_change_changes_for_all_who_come() {
    let before = "message-bytes-max = 1000\nlog-level = \"info\"\n";
    let mut gateway = Gateway::start_with(before, &["--workers", "2"]);
    asked(&gateway, "/echo", "", 404);
    let old = gateway.connect();
    open(&old, "/ws/room");
    let after = "message-bytes-max = 100\necho = true\ndrain = \"0\"\n\
                 allow-origin = [\"https://a.example\"]\n[limits]\ntopic_bytes_max = 8\n";
    let line = reload(&mut gateway, after, "configuration reloaded");
    let changed = "allow-origin drain echo message-bytes-max topic_bytes_max";
    assert_eq!(line["changed"], changed);
    asked(&gateway, "/echo", "", 101);
    asked(&gateway, "/ws/room", "Origin: https://a.example\r\n", 101);
    asked(&gateway, "/ws/room", "Origin: https://b.example\r\n", 403);
    asked(&gateway, "/ws/nine-byte", "", 400);
    // Who is connected stays, and what it sends goes by what applies now.
    (&old).write_all(&frame(0x82, &[7; 100])).unwrap();
    assert_eq!(read_frame(&old), Some((0x82, vec![7; 100])));
    (&old).write_all(&frame(0x82, &[7; 101])).unwrap();
    assert_eq!(read_close(&old).0, 1009);
    drop(old);
    // The control plane goes by it too.
    let mut http = gateway.http();
    assert_eq!(http.post("/publish/room", "", &[b'x'; 101]).status, 413);
    assert_eq!(http.post("/publish/nine-byte", "", b"x").status, 400);
    assert!(metric(&gateway, "ringway_limit{name=\"message_bytes_max\"} 100"));
    gateway.signal(Signal::TERM);
    let line = gateway.line(|line| line["message"] == "draining");
    assert_eq!(line["over_ms"], "0");
    assert_eq!(gateway.wait().code(), Some(0));
}

#[test]
fn what_a_handshake_and_a_close_may_take_changes() {
    let before = "handshake-timeout = \"10m\"\nclose-timeout = \"10m\"\ndrain-delay = \"10m\"\n";
    let mut gateway = Gateway::start_with(before, &["--workers", "2", "--drain", "0"]);
    let old = gateway.connect();
    open(&old, "/ws/room");
    let after = "handshake-timeout = \"10m\"\nclose-timeout = \"10m\"\n\
                 handshake-bytes-max = 500\n";
    let line = reload(&mut gateway, after, "configuration reloaded");
    assert_eq!(line["changed"], "drain-delay handshake-bytes-max");
    asked(&gateway, "/ws/room", &format!("Cookie: {}\r\n", "a".repeat(500)), 431);
    let line = reload(&mut gateway, &after.replacen("10m", "200ms", 1), "configuration reloaded");
    assert_eq!(line["changed"], "handshake-timeout");
    // Long before ten minutes, which the tests do not wait.
    assert_eq!(exchange(&gateway.connect(), b"GET /ws/room HT").status, 408);
    reload(&mut gateway, "close-timeout = \"200ms\"\n", "configuration reloaded");
    assert_eq!(gateway.http().delete("/connections?topic=room").status, 200);
    assert_eq!(read_frame(&old).unwrap().0, 0x88);
    let end = (&old).read(&mut [0]).map_err(|error| error.kind());
    assert!(matches!(end, Ok(0) | Err(ErrorKind::ConnectionReset)), "{end:?}");
    gateway.signal(Signal::TERM);
    gateway.line(|line| line["message"] == "drained");
    assert_eq!(gateway.wait().code(), Some(0));
}

#[test]
fn what_clients_may_do_and_who_they_are_changes() {
    let file = "client-publish = \"on\"\n";
    let mut gateway = Gateway::start_with(file, &["--workers", "2"]);
    let old = gateway.connect();
    open(&old, "/ws/room");
    let after = "client-publish = \"off\"\ncompression = \"on\"\ntrusted-proxy = \"127.0.0.1\"\n\
                 [limits]\ntopics_per_connection_max = 2\nlisting_entries_max = 1\n\
                 batch_messages_max = 1\n";
    reload(&mut gateway, after, "configuration reloaded");
    (&old).write_all(&frame(0x81, b"to all")).unwrap();
    assert_eq!(read_close(&old), (1008, "publishing is off".to_owned()));
    asked(&gateway, "/ws?topic=a&topic=b&topic=c", "", 400);
    let headers = "X-Forwarded-For: 203.0.113.9\r\n\
                   Sec-WebSocket-Extensions: permessage-deflate\r\n";
    let clients = (0..20).map(|_| {
        let stream = gateway.connect();
        let request = upgrade("/ws?topic=a&topic=b", headers);
        let response = exchange(&stream, request.as_bytes());
        assert!(response.header("sec-websocket-extensions").is_some(), "{response:?}");
        stream
    });
    let clients: Vec<_> = clients.collect();
    let mut http = gateway.http();
    let listed = http.get("/topics").json();
    assert_eq!(listed["topics"].as_array().unwrap().len(), 1, "{listed}");
    let body = br#"{"messages": [{"topic": "a", "text": ""}, {"topic": "a", "text": ""}]}"#;
    assert_eq!(http.post("/publish", "", body).status, 400);
    let closed = http.delete("/connections?address=203.0.113.9").json();
    assert_eq!(closed["closed"], clients.len());
}

#[test]
fn what_may_be_queued_changes() {
    let before = "send-queue-bytes-max = \"1GiB\"\nsend-queue-total-bytes-max = \"1GiB\"\n\
                  message-bytes-max = \"1KiB\"\n";
    let flags = [
        "--close-timeout",
        "500ms",
        "--write-timeout",
        "10m",
        "--ping-interval",
        "0",
        "--workers",
        "1",
    ];
    let mut gateway = Gateway::start_with(before, &flags);
    for (bound, bytes, reason) in [
        ("send-queue-bytes-max", "8KiB", "slow_consumer"),
        ("send-queue-total-bytes-max", "64KiB", "over_budget"),
    ] {
        let stalled = gateway.stalled();
        let line = format!("{bound} = \"1GiB\"\n");
        let file = before.replace(&line, &format!("{bound} = \"{bytes}\"\n"));
        reload(&mut gateway, &file, "configuration reloaded");
        let mut http = gateway.http();
        // More than the sockets and the new bound take, and less than the old one.
        for _ in 0..1_000 {
            assert_eq!(http.post("/publish/room", "", &[b'x'; 1000]).status, 200);
        }
        gateway.stats_until(|stats| sum(stats, &["closed", reason]) == 1);
        drop(stalled);
    }
}

#[test]
fn what_needs_a_restart_is_named_and_stays() {
    let mut gateway = Gateway::start_with("workers = 2\n", &[]);
    let file = "workers = 3\nwrite-timeout = \"3s\"\nclose-timeout = \"3s\"\n\
                token-issuer = \"me\"\ntoken-key-file = \"/does/not/exist\"\n\
                [limits]\nlisten_backlog = 9\n";
    gateway.configure(file);
    gateway.signal(Signal::HUP);
    let line = gateway.line(|line| line["message"] == "configuration reloaded");
    assert_eq!(line["changed"], "close-timeout");
    let line = gateway.line(|line| line["message"] == "these change with a restart only");
    let settings = "listen_backlog token-issuer token-key-file workers write-timeout";
    assert_eq!((&line["level"], &line["settings"]), (&"warn".into(), &settings.into()));
    asked(&gateway, "/ws/room", "", 101);
    // Said again, for as long as it is so.
    gateway.signal(Signal::HUP);
    let line = gateway.line(|line| line["message"] == "configuration reloaded");
    assert_eq!(line["changed"], "");
    let line = gateway.line(|line| line["message"] == "these change with a restart only");
    assert_eq!(line["settings"], settings);
}

/// The status with which an upgrade from an address of this machine is answered.
fn asked_from(gateway: &Gateway, address: &str) -> (TcpStream, u16) {
    let stream = gateway.connect_from(address);
    let response = exchange(&stream, upgrade("/ws/room", "").as_bytes());
    (stream, response.status)
}

#[test]
fn what_an_address_may_take_changes_for_those_too_who_are_here() {
    let none = "workers = 2\n";
    let mut gateway = Gateway::start_with(none, &[]);
    let mut here: Vec<_> = (0..3).map(|_| asked_from(&gateway, "127.0.0.2")).collect();
    let mut has = |gateway: &Gateway, most: usize| {
        here.push(asked_from(gateway, "127.0.0.2"));
        while here.last().unwrap().1 == 101 {
            here.push(asked_from(gateway, "127.0.0.2"));
        }
        assert_eq!(here.pop().unwrap().1, 429);
        assert_eq!(here.len(), most);
        // Who is refused counts until the kernel has let go of it.
        gateway.stats_until(|_| true);
        assert_eq!(asked_from(gateway, "127.0.0.3").1, 101);
    };
    let line = reload(
        &mut gateway,
        &format!("{none}connections-per-address-max = 4\n"),
        "configuration reloaded",
    );
    assert_eq!(line["changed"], "connections-per-address-max");
    has(&gateway, 4);
    let most = format!("{none}connections-per-address-max = 7\n");
    reload(&mut gateway, &most, "configuration reloaded");
    has(&gateway, 7);
    reload(&mut gateway, none, "configuration reloaded");
    let others: Vec<_> = (0..8).map(|_| asked_from(&gateway, "127.0.0.2")).collect();
    assert!(others.iter().all(|(_, status)| *status == 101));
    // Each of all of them leaves its address's account once.
    here.clear();
    drop(others);
    gateway.stats_at_rest();
    let one = format!("{none}connections-per-address-max = 1\n");
    reload(&mut gateway, &one, "configuration reloaded");
    let (_client, status) = asked_from(&gateway, "127.0.0.2");
    assert_eq!((status, asked_from(&gateway, "127.0.0.2").1), (101, 429));
}

#[test]
fn how_often_an_address_may_shake_hands_changes() {
    let none = "workers = 2\n";
    let mut gateway = Gateway::start_with(none, &[]);
    let one = format!("{none}handshakes-per-address-rate = 1\n");
    let line = reload(&mut gateway, &one, "configuration reloaded");
    assert_eq!(line["changed"], "handshakes-per-address-rate");
    // Of two in a row that take less than a second the second is one too many.
    assert!((0..100).any(|_| asked_from(&gateway, "127.0.0.2").1 == 429));
    reload(&mut gateway, none, "configuration reloaded");
    assert!((0..100).all(|_| asked_from(&gateway, "127.0.0.2").1 == 101));
    gateway.stats_until(|stats| sum(stats, &["refused", "address_rate"]) == 1);
}

#[test]
fn how_fast_clients_may_publish_changes_for_those_who_are_here() {
    // At one a second they would take longer than the test waits.
    const MESSAGES: usize = 200;
    let none = "workers = 2\n";
    let mut gateway = Gateway::start_with(none, &[]);
    let (reader, publisher) = (gateway.connect(), gateway.connect());
    open(&reader, "/ws/room");
    open(&publisher, "/ws/room?own=off");
    let slow = format!("{none}client-publish-rate-max = 1\n");
    let fast = format!("{none}client-publish-rate-max = 1000\n");
    for after in [&fast[..], none] {
        let line = reload(&mut gateway, &slow, "configuration reloaded");
        assert_eq!(line["changed"], "client-publish-rate-max");
        let pauses = |stats: &Value| sum(stats, &["publish_rate_pauses"]);
        let before = pauses(&gateway.stats_until(|_| true));
        (&publisher).write_all(&frame(0x81, b"x").repeat(MESSAGES)).unwrap();
        gateway.stats_until(|stats| pauses(stats) > before);
        reload(&mut gateway, after, "configuration reloaded");
        for _ in 0..MESSAGES {
            assert_eq!(read_frame(&reader), Some((0x81, b"x".to_vec())));
        }
    }
}

#[test]
fn a_bad_file_changes_nothing() {
    let before = "echo = true\n[limits]\nfanout_bytes_max = 70000\n";
    let mut gateway = Gateway::start_with(before, &["--workers", "2"]);
    for (file, words) in [
        ("echo = false\ndrian = \"1s\"\n", "did you mean \"drain\"?"),
        ("echo = false\nmessage-bytes-max = \"1TB\"\n", "a size is a whole number"),
        ("echo = false\nclose-timeout = \"0\"\n", "--close-timeout must be longer than 0"),
        // It would do for a start, but not with the fan-out that there is.
        ("message-bytes-max = \"100KiB\"\n", "fanout_bytes_max is 70000, and must be at least"),
    ] {
        // By this level nothing would be said.
        let file = format!("log-level = \"error\"\n{file}");
        let line = reload(&mut gateway, &file, "the old configuration stays");
        assert_eq!(line["level"], "warn");
        let error = line["error"].as_str().unwrap();
        assert!(error.contains(words) && !error.contains('\n'), "{error}");
        asked(&gateway, "/echo", "", 101);
    }
    let line = reload(&mut gateway, before, "configuration reloaded");
    assert_eq!(line["changed"], "");
}

#[test]
fn the_level_of_the_log_changes_at_once() {
    let mut gateway = Gateway::start_with("log-level = \"info\"\n", &[]);
    gateway.configure("log-level = \"error\"\n[limits]\ntopic_bytes_max = 8\n");
    gateway.signal(Signal::HUP);
    let until = Instant::now() + PATIENCE;
    while !metric(&gateway, "ringway_limit{name=\"topic_bytes_max\"} 8") {
        assert!(Instant::now() < until, "the control plane goes by the old bound");
    }
    gateway.configure("log-level = \"info\"\ndrain = \"0\"\n");
    gateway.signal(Signal::HUP);
    let line = gateway.line(|line| line["message"] == "configuration reloaded");
    assert_eq!(line["changed"], "drain log-level topic_bytes_max", "nothing was said before");
}

#[test]
fn without_a_token_file_none_is_said_to_be_read_again() {
    let mut gateway = Gateway::start_with("echo = true\n", &["--drain", "0"]);
    reload(&mut gateway, "echo = false\n", "configuration reloaded");
    gateway.signal(Signal::TERM);
    // The reload had been said in whole before this signal was taken.
    let said = gateway
        .line(|line| ["tokens reloaded", "draining"].iter().any(|it| line["message"] == *it));
    assert_eq!(said["message"], "draining");
}

/// Whether this is a line of `/metrics`.
fn metric(gateway: &Gateway, line: &str) -> bool {
    gateway.http().get("/metrics").text().lines().any(|it| it == line)
}
