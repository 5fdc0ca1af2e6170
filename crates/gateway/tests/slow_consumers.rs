//! A subscriber that stops reading is dropped by a bound and counted by its reason, whichever bound
//! it was; what it gets until then is whole and in order, and the others lose nothing.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::{
    io::{ErrorKind, Read, Write},
    net::TcpStream,
    time::{Duration, Instant},
};

use common::{
    Gateway, PATIENCE,
    http::Http,
    raw::{frame, open, read_frame},
    sum,
};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    time::Nsecs,
};
use serde_json::Value;

/// Subscribers that read everything.
const READERS: usize = 8;

/// Publications between two rounds of reading: less than any bound of a queue here.
const BLOCK: u32 = 16;

/// Bytes of a message.
const MESSAGE_BYTES: usize = 1000;

/// Blocks that are more than the sockets and a queue of 32 KiB of a stalled subscriber take.
const BLOCKS: u32 = 60;

/// A topic with its subscribers, who have read all that was published.
struct Room<'a> {
    gateway: &'a Gateway,
    http: Http,
    readers: Vec<TcpStream>,
    published: u32,
}

/// A message: its number and a filler, so that none is taken for another or for a part of one.
fn message(number: u32) -> Vec<u8> {
    let filler = (b'a'..=b'z').cycle().skip(number as usize % 26);
    format!("{number:08}").bytes().chain(filler).take(MESSAGE_BYTES).collect()
}

impl<'a> Room<'a> {
    fn new(gateway: &'a Gateway) -> Self {
        let readers = (0..READERS).map(|_| {
            let stream = gateway.connect();
            open(&stream, "/ws/room");
            stream
        });
        Self { gateway, http: gateway.http(), readers: readers.collect(), published: 0 }
    }

    /// Publishes a block, and every reader reads it: nobody who reads can fall behind.
    fn publish_block(&mut self) {
        let block = self.published..self.published + BLOCK;
        for number in block.clone() {
            let response = self.http.post("/publish/room?as=binary", "", &message(number));
            assert_eq!(response.status, 200, "{response:?}");
        }
        for reader in &self.readers {
            for number in block.clone() {
                assert_eq!(read_frame(reader), Some((0x82, message(number))));
            }
        }
        self.published = block.end;
    }

    /// What the workers say once `closed` connections have ended for this reason: it is the only
    /// reason, and the readers are still there.
    fn stats_with_closed(&self, reason: &str, closed: u64) -> Value {
        let stats = self.gateway.stats_until(|stats| {
            sum(stats, &["closed", reason]) == closed && sum(stats, &["send_queues"]) == 0
        });
        assert_eq!(stats["connections"], READERS, "{stats:#}");
        assert_eq!(sum(&stats, &["subscriptions"]), READERS as u64, "{stats:#}");
        let by_reason = common::workers(&stats).iter().map(|it| it["closed"].as_object().unwrap());
        let all: u64 = by_reason.flat_map(|it| it.values()).map(|it| it.as_u64().unwrap()).sum();
        assert_eq!(all, closed, "{stats:#}");
        assert_eq!(sum(&stats, &["send_queue_bytes"]), 0, "{stats:#}");
        let counted = format!("ringway_connections_closed_total{{reason=\"{reason}\"}}");
        assert_eq!(self.gateway.metric(&counted), closed as f64);
        stats
    }

    /// The end of a test: after one more block everyone leaves.
    fn end(mut self) {
        self.publish_block();
        self.readers.clear();
        self.gateway.stats_at_rest();
    }
}

/// Waits at most `patience` until the connection is reset. Says whether it is.
fn is_reset(stream: &TcpStream, patience: Duration) -> bool {
    let patience = Timespec {
        tv_sec: patience.as_secs().try_into().unwrap(),
        tv_nsec: Nsecs::from(patience.subsec_nanos()),
    };
    let mut fds = [PollFd::new(stream, PollFlags::empty())];
    poll(&mut fds, Some(&patience)).unwrap() > 0 && fds[0].revents().contains(PollFlags::ERR)
}

/// Reads what a stalled subscriber has in its socket, which ends with a reset: whole messages from
/// the first on, and perhaps the beginning of one. Returns how many were whole.
fn read_to_reset(mut stream: &TcpStream) -> u32 {
    let mut bytes = Vec::new();
    let error = stream.read_to_end(&mut bytes).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    let mut whole = 0;
    // A server's frame has no mask, and these have a length of 16 bits.
    for chunk in bytes.chunks(4 + MESSAGE_BYTES) {
        let expected = [&[0x82, 126, 0x03, 0xe8], &message(whole)[..]].concat();
        assert_eq!(chunk, &expected[..chunk.len()]);
        whole += u32::from(chunk.len() == expected.len());
    }
    whole
}

#[test]
fn who_reads_again_in_time_finds_every_message_up_to_the_break_and_then_1013() {
    let gateway = Gateway::start(
        &[
            ["--workers", "2", "--message-bytes-max", "1KiB"],
            ["--send-queue-bytes-max", "32KiB", "--write-timeout", "10m"],
            ["--close-timeout", "10m", "--ping-interval", "0"],
        ]
        .concat(),
    );
    let mut room = Room::new(&gateway);
    let stalled = gateway.stalled();
    (0..BLOCKS).for_each(|_| room.publish_block());
    let mut whole = 0;
    let close = loop {
        match read_frame(&stalled).unwrap() {
            (0x88, close) => break close,
            frame => assert_eq!(frame, (0x82, message(whole))),
        }
        whole += 1;
    };
    assert_eq!(close, b"\x03\xf5slow consumer", "1013");
    assert!(whole > 0 && whole < room.published, "{whole} of {}", room.published);
    (&stalled).write_all(&frame(0x88, b"\x03\xf5")).unwrap();
    assert_eq!(read_frame(&stalled), None, "its answer ends the connection");
    let stats = room.stats_with_closed("slow_consumer", 1);
    let delivered = READERS as u64 * u64::from(room.published) + u64::from(whole);
    assert_eq!(sum(&stats, &["messages_delivered"]), delivered, "{stats:#}");
    // A queue of 32 KiB holds 30 messages with their charge; one more was too many.
    assert!((1..=31).contains(&sum(&stats, &["messages_dropped"])), "{stats:#}");
    room.end();
}

#[test]
fn who_does_not_read_again_in_time_is_reset() {
    let gateway = Gateway::start(
        &[
            ["--workers", "2", "--message-bytes-max", "1KiB"],
            ["--send-queue-bytes-max", "32KiB", "--write-timeout", "10m"],
            ["--close-timeout", "500ms", "--ping-interval", "0"],
        ]
        .concat(),
    );
    let mut room = Room::new(&gateway);
    let stalled = gateway.stalled();
    (0..BLOCKS).for_each(|_| room.publish_block());
    assert!(is_reset(&stalled, PATIENCE));
    assert!(read_to_reset(&stalled) < room.published);
    // The reason is the first that held: the queue was full.
    room.stats_with_closed("slow_consumer", 1);
    room.end();
}

#[test]
fn who_takes_nothing_for_the_write_timeout_is_reset_as_stalled() {
    let gateway = Gateway::start(
        &[
            ["--workers", "2", "--message-bytes-max", "1KiB"],
            ["--send-queue-bytes-max", "1GiB", "--send-queue-total-bytes-max", "1GiB"],
            ["--write-timeout", "500ms", "--ping-interval", "0"],
        ]
        .concat(),
    );
    let mut room = Room::new(&gateway);
    let stalled = gateway.stalled();
    while !is_reset(&stalled, Duration::ZERO) {
        room.publish_block();
    }
    assert!(read_to_reset(&stalled) < room.published);
    let stats = room.stats_with_closed("stalled", 1);
    assert!(sum(&stats, &["messages_dropped"]) > 0, "{stats:#}");
    room.end();
}

/// Who takes a byte of each block that is published is reset in the end, for this reason.
fn assert_trickling_is_reset(gateway: &Gateway, reason: &str) {
    let mut room = Room::new(gateway);
    let trickling = gateway.stalled();
    let until = Instant::now() + PATIENCE;
    while !is_reset(&trickling, Duration::ZERO) {
        assert!(Instant::now() < until, "it is never reset");
        room.publish_block();
        // It may be reset meanwhile.
        let _ = (&trickling).read(&mut [0]);
    }
    room.stats_with_closed(reason, 1);
    room.end();
}

/// What it takes is too little for its socket to take more: it is timed as if it took nothing.
#[test]
fn who_takes_a_byte_now_and_then_is_reset_as_stalled() {
    let gateway = Gateway::start(
        &[
            ["--workers", "2", "--message-bytes-max", "1KiB"],
            ["--send-queue-bytes-max", "1GiB", "--send-queue-total-bytes-max", "1GiB"],
            ["--write-timeout", "500ms", "--ping-interval", "0"],
        ]
        .concat(),
    );
    assert_trickling_is_reset(&gateway, "stalled");
}

#[test]
fn who_takes_a_byte_now_and_then_and_owes_too_much_is_a_slow_consumer() {
    let gateway = Gateway::start(
        &[
            ["--workers", "2", "--message-bytes-max", "1KiB"],
            ["--send-queue-bytes-max", "32KiB", "--write-timeout", "10m"],
            ["--close-timeout", "500ms", "--ping-interval", "0"],
        ]
        .concat(),
    );
    assert_trickling_is_reset(&gateway, "slow_consumer");
}

#[test]
fn over_the_budget_of_the_process_who_owes_most_is_reset() {
    let gateway = Gateway::start(
        &[
            ["--workers", "1", "--message-bytes-max", "1KiB"],
            ["--send-queue-bytes-max", "1GiB", "--send-queue-total-bytes-max", "64KiB"],
            ["--write-timeout", "10m", "--ping-interval", "0"],
        ]
        .concat(),
    );
    let mut room = Room::new(&gateway);
    let first = gateway.stalled();
    (0..BLOCKS).for_each(|_| room.publish_block());
    assert!(is_reset(&first, PATIENCE));
    room.stats_with_closed("over_budget", 1);
    room.end();
}

#[test]
fn who_may_lose_its_oldest_messages_finds_the_others_whole_and_in_order() {
    lossy("drop-oldest", "oldest");
}

#[test]
fn who_wants_the_latest_finds_it_behind_what_its_socket_had_taken() {
    lossy("latest", "replaced");
}

/// A stalled subscriber of a gateway with this policy: what it misses is what was dropped for this
/// reason, and it stays.
fn lossy(policy: &str, reason: &str) {
    let gateway = Gateway::start(
        &[
            ["--workers", "2", "--message-bytes-max", "1KiB"],
            ["--send-queue-bytes-max", "32KiB", "--slow-consumer", policy],
            ["--write-timeout", "10m", "--ping-interval", "0"],
        ]
        .concat(),
    );
    let mut room = Room::new(&gateway);
    let stalled = gateway.stalled();
    (0..BLOCKS).for_each(|_| room.publish_block());
    let missing = read_to_the_last(&stalled, &room);
    assert!(missing > 0);
    let stats = room.gateway.stats_until(|stats| sum(stats, &["send_queues"]) == 0);
    assert_eq!(sum(&stats, &["dropped", reason]), missing, "{stats:#}");
    let delivered = (READERS as u64 + 1) * u64::from(room.published) - missing;
    assert_eq!(sum(&stats, &["messages_delivered"]), delivered, "{stats:#}");
    drop(stalled);
    room.end();
}

/// Reads messages, in order and whole, until the last that was published. Returns how many are
/// missing before it.
fn read_to_the_last(stalled: &TcpStream, room: &Room<'_>) -> u64 {
    let mut next = 0;
    let mut missing = 0;
    while next < room.published {
        let (opcode, payload) = read_frame(stalled).unwrap();
        let number: u32 = std::str::from_utf8(&payload[..8]).unwrap().parse().unwrap();
        assert!(number >= next, "{number} after {next}");
        assert_eq!((opcode, &payload), (0x82, &message(number)));
        missing += u64::from(number - next);
        next = number + 1;
    }
    missing
}
