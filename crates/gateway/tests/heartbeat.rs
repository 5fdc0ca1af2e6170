//! Heartbeats of the real binary: who answers stays, whatever happens to the process meanwhile;
//! who does not is cut.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::{
    io::{ErrorKind, Read, Write},
    net::TcpStream,
    sync::mpsc::{self, Receiver, Sender},
    thread,
    time::Duration,
};

use common::{
    Gateway, PATIENCE,
    raw::{frame, open, read_frame},
    sum,
};
use rustix::process::Signal;

const CLIENTS: usize = 24;

/// How long the process stands still: longer than an interval and a timeout together.
const STOP: Duration = Duration::from_secs(8);

fn connect(gateway: &Gateway, target: &str) -> TcpStream {
    let stream = gateway.connect();
    open(&stream, target);
    stream
}

/// Answers pings and tells of each, until the text `end`.
fn answer(client: usize, mut stream: &TcpStream, pings: &Sender<usize>) {
    loop {
        match read_frame(stream).expect("one that answers is not cut") {
            (0x89, payload) => {
                stream.write_all(&frame(0x8a, &payload)).unwrap();
                pings.send(client).unwrap();
            }
            (0x81, text) if text == b"end" => return,
            other => panic!("{other:?}"),
        }
    }
}

/// Waits until each client has answered so many more pings.
fn await_pings(pings: &Receiver<usize>, times: u32) {
    let mut counts = [0; CLIENTS];
    while counts.iter().any(|count| *count < times) {
        counts[pings.recv_timeout(PATIENCE).unwrap()] += 1;
    }
}

#[test]
fn a_process_that_stood_still_closes_nobody_who_answers() {
    // Who answers is a thread of this test, which may have to wait for its turn.
    let flags = ["--workers", "2", "--ping-interval", "2s", "--pong-timeout", "5s"];
    let gateway = Gateway::start(&flags);
    let clients: Vec<TcpStream> = (0..CLIENTS).map(|_| connect(&gateway, "/ws/room")).collect();
    let (sender, pings) = mpsc::channel();
    thread::scope(|scope| {
        for (number, client) in clients.iter().enumerate() {
            let sender = sender.clone();
            scope.spawn(move || answer(number, client, &sender));
        }
        // One more has been pinged when the process stops, and answers only when it goes on.
        let mut late = connect(&gateway, "/ws/late");
        assert_eq!(read_frame(&late), Some((0x89, Vec::new())));
        gateway.stop();
        late.set_read_timeout(Some(STOP)).unwrap();
        let error = late.read(&mut [0]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::WouldBlock, "it stands still");
        gateway.signal(Signal::CONT);
        late.set_read_timeout(Some(PATIENCE)).unwrap();
        assert_eq!(gateway.http().post("/publish/late", "", b"on").status, 200);
        assert_eq!(read_frame(&late), Some((0x81, b"on".to_vec())), "its worker goes on");
        late.write_all(&frame(0x8a, b"")).unwrap();
        assert_eq!(read_frame(&late), Some((0x89, Vec::new())), "its next ping");
        drop(late);
        // One ping may have been on its way; another comes a whole interval later, when whoever
        // is blamed for the pause has been cut.
        await_pings(&pings, 2);
        let stats = gateway.stats_until(|stats| stats["connections"] == CLIENTS);
        assert_eq!(sum(&stats, &["closed", "no_pong"]), 0, "{stats:#}");
        assert_eq!(gateway.http().post("/publish/room", "", b"end").status, 200);
    });
    drop(clients);
    gateway.stats_at_rest();
}

#[test]
fn who_does_not_answer_a_ping_is_reset() {
    let flags = ["--workers", "1", "--ping-interval", "500ms", "--pong-timeout", "200ms"];
    let gateway = Gateway::start(&flags);
    let mut silent = connect(&gateway, "/ws/room");
    let mut bytes = Vec::new();
    let error = silent.read_to_end(&mut bytes).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    assert_eq!(bytes, [0x89, 0], "one ping");
    let stats = gateway.stats_at_rest();
    assert_eq!(sum(&stats, &["closed", "no_pong"]), 1, "{stats:#}");
}
