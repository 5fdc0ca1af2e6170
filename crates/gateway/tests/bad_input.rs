//! What breaks rules is refused in the way the interface says, and leaves nothing behind.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::{
    io::{ErrorKind, Read, Write},
    net::{Shutdown, TcpStream},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use common::{
    Gateway, PATIENCE,
    http::Response,
    raw::{exchange, frame, open, read_close, read_frame, upgrade},
    sum,
};
use socket2::SockRef;
use tungstenite::Message;

/// Asserts that the gateway holds nothing and still takes as many connections as it may.
fn assert_no_leak(gateway: &Gateway, connections_max: usize) {
    gateway.stats_at_rest();
    let clients: Vec<_> = (0..connections_max).map(|_| gateway.open("/ws/leak")).collect();
    let refused = exchange(&gateway.connect(), upgrade("/ws/leak", "").as_bytes());
    assert_eq!(refused.status, 503);
    assert!(refused.header("retry-after").is_some());
    drop(clients);
    gateway.stats_at_rest();
}

/// Asserts what every refusal has: its length, the end of the connection, one line of text.
fn assert_refused(response: &Response, status: u16) {
    assert_eq!(response.status, status, "{response:?}");
    assert_eq!(response.header("connection"), Some("close"), "{response:?}");
    assert!(response.header("content-length").is_some(), "{response:?}");
    assert_eq!(response.text().trim_end().lines().count(), 1, "{response:?}");
}

fn refusal(gateway: &Gateway, request: &[u8], status: u16) -> Response {
    let stream = gateway.connect();
    let response = exchange(&stream, request);
    assert_refused(&response, status);
    assert_eq!((&stream).read(&mut [0]).unwrap(), 0, "the connection ends behind it");
    response
}

#[test]
fn requests_that_are_no_upgrade_are_refused_with_what_to_do() {
    let gateway = Gateway::start(&["--workers", "1", "--connections-max", "4"]);
    for _ in 0..10 {
        let plain = refusal(&gateway, b"GET /ws/room HTTP/1.1\r\nHost: test\r\n\r\n", 426);
        assert_eq!(plain.header("upgrade"), Some("websocket"));
        let old = upgrade("/ws/room", "").replace("Version: 13", "Version: 8");
        let old = refusal(&gateway, old.as_bytes(), 426);
        assert_eq!(old.header("sec-websocket-version"), Some("13"));
        let post = upgrade("/ws/room", "").replace("GET ", "POST ");
        let post = refusal(&gateway, post.as_bytes(), 405);
        assert_eq!(post.header("allow"), Some("GET"));
        refusal(&gateway, upgrade("/elsewhere", "").as_bytes(), 404);
        let keyless = upgrade("/ws/room", "").replace("Sec-WebSocket-Key", "Sec-Other-Key");
        refusal(&gateway, keyless.as_bytes(), 400);
        refusal(&gateway, b"this is not HTTP\r\n\r\n", 400);
    }
    assert_no_leak(&gateway, 4);
}

#[test]
fn a_foreign_origin_is_refused() {
    let flags = ["--workers", "1", "--connections-max", "2", "--allow-origin", "https://a.example"];
    let gateway = Gateway::start(&flags);
    let with_origin =
        |origin: &str| upgrade("/ws/room", &format!("Origin: {origin}\r\n")).into_bytes();
    refusal(&gateway, &with_origin("https://b.example"), 403);
    refusal(&gateway, &with_origin("http://a.example"), 403);
    assert_eq!(exchange(&gateway.connect(), &with_origin("https://a.example")).status, 101);
    open(&gateway.connect(), "/ws/room");
    assert_no_leak(&gateway, 2);
}

#[test]
fn the_path_is_looked_at_before_the_origin_and_the_origin_before_the_query() {
    let flags = ["--workers", "1", "--connections-max", "2", "--allow-origin", "https://*.example"];
    let gateway = Gateway::start(&flags);
    let ask = |target: &str, origin: &str, status: u16| {
        let request = upgrade(target, &format!("Origin: {origin}\r\n"));
        refusal(&gateway, request.as_bytes(), status);
    };
    for _ in 0..10 {
        ask("/app/key?own=maybe", "https://evil.test", 404);
        ask("/ws/a//b?own=maybe", "https://evil.test", 403);
        ask("/ws/room", "https://a.b.example", 403);
        ask("/ws/room?own=maybe", "https://a.example", 400);
        ask("/ws/a//b", "https://a.example", 400);
    }
    assert_no_leak(&gateway, 2);
}

#[test]
fn a_head_that_is_too_large_is_answered_431() {
    let gateway = Gateway::start(&["--workers", "1", "--connections-max", "4"]);
    let header = format!("X-Padding: {}\r\n", "x".repeat(1000));
    let request = upgrade("/ws/room", &header.repeat(100));
    assert!(request.len() > 100_000);
    for _ in 0..10 {
        refusal(&gateway, request.as_bytes(), 431);
    }
    assert_no_leak(&gateway, 4);
}

#[test]
fn a_head_that_trickles_is_answered_408() {
    let flags = ["--workers", "1", "--connections-max", "2", "--handshake-timeout", "500ms"];
    let gateway = Gateway::start(&flags);
    // The gateway may know of the client sooner than it says that it is connected.
    let started = Instant::now();
    let stream = gateway.connect();
    stream.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
    let mut first = [0];
    for byte in upgrade("/ws/room", "").bytes() {
        (&stream).write_all(&[byte]).unwrap();
        match (&stream).read(&mut first) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            outcome => {
                assert_eq!(outcome.unwrap(), 1, "an answer");
                break;
            }
        }
    }
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut answer = std::io::BufReader::new(first.chain(&stream));
    assert_refused(&Response::read(&mut answer), 408);
    assert!(started.elapsed() >= Duration::from_millis(500));
    assert_no_leak(&gateway, 2);
}

#[test]
fn frames_that_break_the_protocol_are_closed_with_1002() {
    let gateway = Gateway::start(&["--workers", "1", "--connections-max", "4"]);
    let unmasked = b"\x81\x02hi".to_vec();
    let mut cases = vec![("unmasked", unmasked)];
    for bits in [0x40, 0x20, 0x10] {
        cases.push(("a reserved bit", frame(0x81 | bits, b"hi")));
    }
    for opcode in [3, 7, 0xb, 0xf] {
        cases.push(("a reserved opcode", frame(0x80 | opcode, b"hi")));
    }
    cases.push(("a long ping", frame(0x89, &[0; 126])));
    cases.push(("a long close", frame(0x88, &[0x03; 126])));
    cases.push(("a ping in pieces", frame(0x09, b"hi")));
    cases.push(("a continuation of nothing", frame(0x80, b"hi")));
    cases.push(("a message within a message", [frame(0x01, b"a"), frame(0x81, b"b")].concat()));
    cases.push(("a close code that is none", frame(0x88, &[0x03, 0xe7])));
    cases.push(("half a close code", frame(0x88, &[0x03])));
    for (what, bytes) in cases {
        let stream = gateway.connect();
        open(&stream, "/ws/room");
        (&stream).write_all(&bytes).unwrap();
        let (code, reason) = read_close(&stream);
        assert_eq!(code, 1002, "{what}: {reason}");
        assert!(!reason.is_empty(), "{what}: the rule that was broken is named");
    }
    assert_no_leak(&gateway, 4);
}

#[test]
fn text_that_is_not_utf_8_is_closed_with_1007() {
    let gateway = Gateway::start(&["--workers", "1", "--connections-max", "4"]);
    for (what, bytes) in [
        ("a lone continuation byte", frame(0x81, b"\x80")),
        ("a surrogate", frame(0x81, b"\xed\xa0\x80")),
        ("a letter cut off", frame(0x81, b"\xc3")),
        ("a letter cut by a frame", [frame(0x01, b"\xc3"), frame(0x80, b"\x28")].concat()),
        ("a close reason", frame(0x88, b"\x03\xe8\xff")),
    ] {
        let stream = gateway.connect();
        open(&stream, "/ws/room");
        (&stream).write_all(&bytes).unwrap();
        assert_eq!(read_close(&stream).0, 1007, "{what}");
    }
    assert_no_leak(&gateway, 4);
}

#[test]
fn a_message_may_have_message_bytes_max_and_not_one_more() {
    let flags = ["--workers", "1", "--connections-max", "4", "--message-bytes-max", "512B"];
    let gateway = Gateway::start(&flags);
    let stream = gateway.connect();
    open(&stream, "/ws/room");
    (&stream).write_all(&frame(0x82, &[7; 512])).unwrap();
    assert_eq!(read_frame(&stream), Some((0x82, vec![7; 512])));
    (&stream).write_all(&[frame(0x02, &[7; 300]), frame(0x80, &[7; 212])].concat()).unwrap();
    assert_eq!(read_frame(&stream), Some((0x82, vec![7; 512])), "in pieces as well");
    (&stream).write_all(&frame(0x82, &[7; 513])).unwrap();
    assert_eq!(read_close(&stream).0, 1009);
    let stream = gateway.connect();
    open(&stream, "/ws/room");
    (&stream).write_all(&[frame(0x02, &[7; 300]), frame(0x80, &[7; 213])].concat()).unwrap();
    assert_eq!(read_close(&stream).0, 1009, "in pieces as well");
    // Over HTTP the bound is the same.
    let mut http = gateway.http();
    assert_eq!(http.post("/publish/room", "", &[b'x'; 512]).status, 200);
    let response = http.post("/publish/room", "", &[b'x'; 513]);
    assert_eq!(response.status, 413);
    assert!(response.json()["error"].is_string());
    drop(stream);
    assert_no_leak(&gateway, 4);
}

#[test]
fn publishing_that_is_off_is_closed_with_1008() {
    let flags = ["--workers", "1", "--connections-max", "2", "--client-publish", "off"];
    let gateway = Gateway::start(&flags);
    let stream = gateway.connect();
    open(&stream, "/ws/room");
    (&stream).write_all(&frame(0x81, b"hi")).unwrap();
    assert_eq!(read_close(&stream), (1008, "publishing is off".to_owned()));
    drop(stream);
    assert_no_leak(&gateway, 2);
}

#[test]
fn topics_that_are_none_are_refused_on_both_planes() {
    let gateway = Gateway::start(&["--workers", "1", "--connections-max", "2"]);
    let long = "a".repeat(256);
    let mut http = gateway.http();
    for topic in [
        "", "%00", "a%1Fb", "a%7Fb", "%C2%80", "a//b", "a%2F%2Fb", "/a", "a/", ".", "a/../b",
        "a/./b", "%2E%2E", "$system", "a*", "*", "%3E", "%FF", "%", "%4", "%zz", &long,
    ] {
        let request = upgrade(&format!("/ws/{topic}"), "");
        refusal(&gateway, request.as_bytes(), 400);
        let request = upgrade(&format!("/ws?topic={topic}"), "");
        refusal(&gateway, request.as_bytes(), 400);
        assert_eq!(http.post(&format!("/publish/{topic}"), "", b"x").status, 400, "{topic}");
    }
    let many = |count: usize| {
        let topics: Vec<String> = (0..count).map(|topic| format!("topic=t{topic}")).collect();
        upgrade(&format!("/ws?{}", topics.join("&")), "")
    };
    refusal(&gateway, upgrade("/ws", "").as_bytes(), 400);
    refusal(&gateway, many(65).as_bytes(), 400);
    assert_eq!(exchange(&gateway.connect(), many(64).as_bytes()).status, 101);
    let longest = upgrade(&format!("/ws/{}", "a".repeat(255)), "");
    assert_eq!(exchange(&gateway.connect(), longest.as_bytes()).status, 101);
    assert_no_leak(&gateway, 2);
}

#[test]
fn half_a_frame_and_half_a_head_leave_nothing_behind() {
    let gateway = Gateway::start(&["--workers", "1", "--connections-max", "4"]);
    for _ in 0..20 {
        let stream = gateway.connect();
        open(&stream, "/ws/room");
        let frame = frame(0x82, &[7; 1000]);
        (&stream).write_all(&frame[..500]).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        while read_frame(&stream).is_some() {}
        let stream = gateway.connect();
        (&stream).write_all(b"GET /ws/room HT").unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        (&stream).read_to_end(&mut Vec::new()).unwrap();
    }
    let stats = gateway.stats_at_rest();
    assert_eq!(sum(&stats, &["closed", "peer_gone"]), 20, "{stats:#}");
    assert_eq!(sum(&stats, &["refused", "gone"]), 20, "{stats:#}");
    assert_no_leak(&gateway, 4);
}

#[test]
fn resets_in_the_middle_of_a_fan_out_cost_the_others_nothing() {
    let gateway = Gateway::start(&["--workers", "2", "--connections-max", "60"]);
    let mut publisher = gateway.open("/ws/room?own=off");
    let mut stayer = gateway.open("/ws/room");
    let leavers: Vec<TcpStream> = (0..40)
        .map(|_| {
            let stream = gateway.connect();
            open(&stream, "/ws/room");
            SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
            stream
        })
        .collect();
    let publishing = thread::spawn(move || {
        for number in 0..2000 {
            publisher.send(Message::text(number.to_string())).unwrap();
        }
        publisher
    });
    for leaver in leavers {
        // Each has got something, and resets the connection with more on its way.
        read_frame(&leaver).unwrap();
        drop(leaver);
    }
    for number in 0..2000 {
        assert_eq!(stayer.read().unwrap(), Message::text(number.to_string()));
    }
    drop((publishing.join().unwrap(), stayer));
    let stats = gateway.stats_at_rest();
    assert_eq!(sum(&stats, &["closed", "reset"]), 40, "{stats:#}");
}

#[test]
fn a_full_mesh_refuses_a_publication_as_a_whole() {
    let limits = "[limits]\nmesh_letters_max = 3\n";
    let gateway = Gateway::start_with(limits, &["--workers", "2", "--connections-max", "16"]);
    let mut subscriber = gateway.open("/ws/room");
    let refused = AtomicBool::new(false);
    let until = Instant::now() + PATIENCE;
    let accepted: Vec<u64> = thread::scope(|scope| {
        let publishers: Vec<_> = (0..16)
            .map(|publisher| {
                let (gateway, refused) = (&gateway, &refused);
                scope.spawn(move || {
                    let mut http = gateway.http();
                    let mut accepted = 0;
                    while !refused.load(Ordering::Relaxed) && Instant::now() < until {
                        let body = format!("{publisher}:{accepted}");
                        let response = http.post("/publish/room", "", body.as_bytes());
                        match response.status {
                            200 => accepted += 1,
                            429 => {
                                assert!(response.header("retry-after").is_some());
                                assert!(response.json()["error"].is_string());
                                refused.store(true, Ordering::Relaxed);
                            }
                            other => panic!("{other}: {response:?}"),
                        }
                    }
                    accepted
                })
            })
            .collect();
        publishers.into_iter().map(|publisher| publisher.join().unwrap()).collect()
    });
    assert!(refused.into_inner(), "sixteen publishers never filled three places");
    // What was accepted has arrived, and what was refused has not.
    let mut next = [0; 16];
    for _ in 0..accepted.iter().sum() {
        let message = subscriber.read().unwrap().into_text().unwrap();
        let (publisher, number) = message.split_once(':').unwrap();
        let next = &mut next[publisher.parse::<usize>().unwrap()];
        assert_eq!(number.parse(), Ok(*next), "{message}");
        *next += 1;
    }
    assert_eq!(next.as_slice(), accepted);
    subscriber.send(Message::Ping("end".into())).unwrap();
    assert_eq!(subscriber.read().unwrap(), Message::Pong("end".into()));
    drop(subscriber);
    gateway.stats_at_rest();
}
