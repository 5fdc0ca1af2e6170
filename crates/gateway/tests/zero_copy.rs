//! Large frames without a copy: what arrives is what was published, who reads slowly included, and
//! the control plane says that loopback copies and that the connections have gone back to copies.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::{io::Read, net::TcpStream};

use common::{
    Gateway,
    raw::{open, read_frame},
    ringway_within, sum,
};
use rustix::process::Signal;
use serde_json::Value;

/// Subscribers that read everything at once.
const READERS: u64 = 4;

/// More than the sockets of somebody who does not read take.
const MESSAGES: u32 = 80;

/// A message that differs from every other one in each of its bytes' neighbourhoods.
fn message(number: u32) -> Vec<u8> {
    let length = 8 * 1024 + number * 613 % 40_000;
    (0..length).map(|at| (number * 31 + at / 5).to_le_bytes()[0]).collect()
}

#[test]
fn large_messages_arrive_as_they_were_and_a_route_that_copies_is_off() {
    let queue = ["--send-queue-bytes-max", "8MiB", "--write-timeout", "10m"];
    let flags = ["--engine", "ring", "--workers", "1", "--zero-copy-bytes-min", "4KiB"];
    let gateway = Gateway::start(&[&flags[..], &queue].concat());
    let said = |note: &str| {
        gateway
            .start_lines
            .iter()
            .any(|line| line["note"].as_str().is_some_and(|text| text.starts_with(note)))
    };
    assert!(said("large frames are sent without a copy"), "{:#?}", gateway.start_lines);
    let readers: Vec<TcpStream> = (0..READERS).map(|_| gateway.connect()).collect();
    // It reads when all has been published: most of it waits in its queue.
    let slow = gateway.connect();
    for stream in readers.iter().chain([&slow]) {
        open(stream, "/ws/room");
    }
    let mut http = gateway.http();
    for number in 0..MESSAGES {
        let response = http.post("/publish/room?as=binary", "", &message(number));
        assert_eq!(response.status, 200, "{response:?}");
        for reader in &readers {
            assert!(read_frame(reader) == Some((0x82, message(number))), "message {number}");
        }
    }
    for number in 0..MESSAGES {
        assert!(read_frame(&slow) == Some((0x82, message(number))), "message {number}");
    }
    let count = |stats: &_, name| sum(stats, &["engine", name]);
    let stats = gateway.stats_until(|stats| count(stats, "zero_copy_routes_off") == READERS + 1);
    let sends = count(&stats, "zero_copy_sends");
    let copied = count(&stats, "zero_copy_copied");
    assert!(sends > READERS && sends < u64::from(MESSAGES), "{sends} of {MESSAGES} messages");
    assert!(copied > READERS && copied <= sends, "{copied} of {sends}");
    assert_eq!(count(&stats, "zero_copy_exhausted"), 0);
    assert_eq!(count(&stats, "completions_stale"), 0);
}

/// The kernel ends no ring before the last of its notifications, and that of a stalled client comes when
/// its socket has timed out: were sockets in the ring's table, they would all stay open until then, and a
/// dead listener would take every second newcomer.
#[test]
fn a_kill_with_large_frames_underway_closes_every_socket() {
    let flags = ["--engine", "ring", "--workers", "1", "--zero-copy-bytes-min", "4KiB"];
    let flags = [&flags[..], &["--write-timeout", "10m"]].concat();
    let mut gateway = Gateway::start(&flags);
    let said = |line: &&Value| line["message"] == "descriptors";
    assert_eq!(gateway.start_lines.iter().find(said).unwrap()["kind"], "ordinary");
    let stalled = gateway.stalled();
    let idle = gateway.connect();
    open(&idle, "/ws/other");
    gateway.http().post("/publish/room?as=binary", "", &vec![b'x'; 60_000]);
    gateway.stats_until(|stats| {
        sum(stats, &["engine", "zero_copy_sends"]) == 1 && sum(stats, &["send_queues"]) == 1
    });
    let data = gateway.data;
    gateway.signal(Signal::KILL);
    gateway.wait();
    assert_eq!((&idle).read(&mut [0]).unwrap(), 0, "the end of the stream");
    let address = data.to_string();
    let mut again = Gateway::start(&[&flags[..], &["--listen", &address]].concat());
    again.data = data;
    again.open_again(20);
    drop(stalled);
}

/// What a ring needs has been locked before any arena is: where one of these would leave too little for
/// sixteen rings, all workers start, and say that they have none.
#[test]
fn memory_that_may_not_be_locked_is_named_and_the_gateway_starts() {
    let one = ["--engine", "ring", "--workers", "1", "--zero-copy-bytes-min", "4KiB"];
    without_arena(Gateway::spawn(ringway_within(4096), "", &one), "4194304");
    let many = ["--engine", "ring", "--workers", "16", "--zero-copy-bytes-min", "4KiB"];
    let small = "[limits]\n\
        submission_entries = 8\n\
        completion_entries = 16\n\
        receive_buffers = 4\n\
        receive_buffer_bytes = 64\n\
        zero_copy_arena_bytes = \"2MiB\"\n";
    without_arena(Gateway::spawn(ringway_within(2048 + 100), small, &many), "2199552");
}

fn without_arena(gateway: Gateway, limit: &str) {
    let said = |text: &str| {
        let notes = gateway.start_lines.iter().filter_map(|line| line["note"].as_str());
        notes.filter(|note| note.contains(text)).count()
    };
    assert_eq!(said(&format!("RLIMIT_MEMLOCK = {limit} bytes")), 1, "{:#?}", gateway.start_lines);
    assert_eq!(said("large frames are copied as all others"), 1);
    let reader = gateway.connect();
    open(&reader, "/ws/room");
    gateway.http().post("/publish/room?as=binary", "", &message(1));
    assert!(read_frame(&reader) == Some((0x82, message(1))));
}

#[test]
fn an_engine_without_it_says_so() {
    let gateway = Gateway::start(&["--engine", "epoll", "--zero-copy-bytes-min", "4KiB"]);
    let note =
        "large frames are copied as all others: of the engines only ring sends without a copy";
    assert!(gateway.start_lines.iter().any(|line| line["note"] == note));
}
