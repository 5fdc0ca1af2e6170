//! The kernel has too little of something: places in the queues of a ring, receive buffers, places
//! in its table, memory that may be locked. Each is counted, or said in one sentence, and nobody
//! misses a message for it.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::{
    io::{BufReader, Write},
    net::TcpStream,
    process::Command,
};

use common::{
    Gateway,
    http::Response,
    raw::{exchange, frame, open, read_frame, upgrade},
    ringway_within, sum,
};
use rustix::process::{Signal, geteuid};
use serde_json::{Value, json};

/// The smallest ring that there can be.
const TINY: &str = "[limits]\n\
    submission_entries = 8\n\
    completion_entries = 16\n\
    receive_buffers = 4\n\
    receive_buffer_bytes = 64\n\
    accepts_armed_max = 2\n";

fn clients(gateway: &Gateway, count: usize, target: &str) -> Vec<TcpStream> {
    (0..count)
        .map(|_| {
            let stream = gateway.connect();
            open(&stream, target);
            stream
        })
        .collect()
}

fn engine(stats: &Value, counter: &str) -> u64 {
    sum(stats, &["engine", counter])
}

/// A command for the binary with little memory to lock. What is counted is the user's: as anyone but
/// root, whose other processes have CAP_IPC_LOCK, what other tests lock would be in it.
fn with_little_memory(kib: u32) -> Command {
    assert!(geteuid().is_root(), "run this test as root: RLIMIT_MEMLOCK counts the user's memory");
    ringway_within(kib)
}

/// The standing process finds the messages of all clients at once: more polls that have fired than
/// its completion queue holds, more bytes than its buffers, more to send than its submission queue.
#[test]
fn a_tiny_ring_delivers_everything_and_says_what_was_scarce() {
    const CLIENTS: usize = 50;
    const ROUNDS: usize = 3;
    let flags = ["--engine", "ring", "--workers", "1", "--ping-interval", "0"];
    let gateway = Gateway::start_with(TINY, &flags);
    let clients = clients(&gateway, CLIENTS, "/ws/room");
    for round in 0..ROUNDS {
        // Of different lengths, and most of them longer than a buffer.
        let payload = |client: usize| format!("{round}:{client}:{}", "x".repeat(client * 4));
        gateway.stop();
        for (number, client) in clients.iter().enumerate() {
            (&*client).write_all(&frame(0x81, payload(number).as_bytes())).unwrap();
        }
        gateway.signal(Signal::CONT);
        let mut expected: Vec<String> = (0..CLIENTS).map(payload).collect();
        expected.sort_unstable();
        for client in &clients {
            let mut received: Vec<String> = (0..CLIENTS)
                .map(|_| String::from_utf8(read_frame(client).unwrap().1).unwrap())
                .collect();
            received.sort_unstable();
            assert_eq!(received, expected);
        }
    }
    let stats = gateway.stats_until(|stats| {
        sum(stats, &["messages_delivered"]) == (ROUNDS * CLIENTS * CLIENTS) as u64
    });
    for counter in ["submissions_full", "completions_overflowed", "receive_buffers_exhausted"] {
        assert!(engine(&stats, counter) > 0, "{counter}: {stats:#}");
    }
    assert_eq!(engine(&stats, "completions_stale"), 0, "{stats:#}");
    drop(clients);
    gateway.stats_at_rest();
}

/// The jobs of both topics offer to their one subscriber in one batch.
#[test]
fn who_is_sent_to_twice_in_a_batch_gets_both_and_each_topic_in_order() {
    const ROUNDS: u32 = 20;
    let gateway = Gateway::start(&["--engine", "ring", "--workers", "1", "--ping-interval", "0"]);
    let client = gateway.connect();
    open(&client, "/ws?topic=a&topic=b");
    let messages: Vec<Value> = (0..ROUNDS)
        .flat_map(|round| [("a", round), ("b", round)])
        .map(|(topic, round)| json!({"topic": topic, "text": format!("{topic}{round}")}))
        .collect();
    let batch = json!({ "messages": messages }).to_string();
    assert_eq!(gateway.http().post("/publish", "", batch.as_bytes()).status, 200);
    let (mut of_a, mut of_b) = (Vec::new(), Vec::new());
    for _ in 0..2 * ROUNDS {
        let text = String::from_utf8(read_frame(&client).unwrap().1).unwrap();
        let (list, number) = match text.split_at(1) {
            ("a", number) => (&mut of_a, number),
            (_, number) => (&mut of_b, number),
        };
        list.push(number.parse::<u32>().unwrap());
    }
    assert_eq!(of_a, (0..ROUNDS).collect::<Vec<_>>());
    assert_eq!(of_b, of_a);
    gateway.stats_until(|stats| engine(stats, "batches_split") > 0);
}

/// Five connections, one place to answer 503 from, the listener and the waker: a table of eight.
#[test]
fn who_finds_a_full_table_waits_in_the_queue_and_is_served_in_the_end() {
    let file = "[limits]\nsurplus_connections_max = 1\n";
    let gateway = Gateway::start_with(file, &["--workers", "1", "--connections-max", "5"]);
    let mut clients = clients(&gateway, 5, "/ws/room");
    // Says nothing, and so keeps the last place.
    let silent = gateway.connect();
    gateway.stats_until(|stats| engine(stats, "accepts_paused") > 0);
    let waiting = gateway.connect();
    (&waiting).write_all(upgrade("/ws/room", "").as_bytes()).unwrap();
    (&clients[0]).write_all(&frame(0x81, b"while full")).unwrap();
    for client in &clients {
        assert_eq!(read_frame(client), Some((0x81, b"while full".to_vec())));
    }
    drop(silent);
    let mut waiting = BufReader::new(waiting);
    let refusal = Response::read(&mut waiting);
    assert_eq!(refusal.status, 503, "{refusal:?}");
    drop(waiting);
    clients.pop();
    gateway.stats_until(|stats| stats["connections"] == 4);
    let response = exchange(&gateway.connect(), upgrade("/ws/room", "").as_bytes());
    assert_eq!(response.status, 101, "{response:?}");
    let stats = gateway.stats_until(|_| true);
    assert_eq!(engine(&stats, "accepts_failed"), 0, "{stats:#}");
    drop(clients);
    gateway.stats_at_rest();
}

#[test]
fn rings_beyond_the_locked_memory_are_refused_with_the_limit_and_its_cures() {
    let mut command = ringway_within(256);
    command.args(["serve", "--engine", "ring", "--workers", "16", "--log-level", "error"]);
    command.args(["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]);
    let output = command.output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
    for part in
        ["RLIMIT_MEMLOCK = 262144 bytes", "ulimit -l", "fewer workers", "completion_entries"]
    {
        assert!(said.contains(part), "{part}: {said}");
    }
}

/// Where not one of the default size fits, many of the smallest do: 12 KiB each.
#[test]
fn small_rings_let_many_workers_start_under_a_low_limit() {
    let flags = ["--engine", "ring", "--workers", "16", "--connections-max", "1000"];
    let gateway = Gateway::spawn(with_little_memory(256), TINY, &flags);
    let clients = clients(&gateway, 32, "/ws/room");
    (&clients[0]).write_all(&frame(0x81, b"to all workers")).unwrap();
    for client in &clients {
        assert_eq!(read_frame(client), Some((0x81, b"to all workers".to_vec())));
    }
}

/// What a killed process held is given back late: memory of its rings, of which there is enough for
/// one process and not for two, and its listeners, which take connections into queues that nobody
/// empties until then.
#[test]
fn a_restart_right_after_a_kill_serves_again() {
    let mut gateway =
        Gateway::spawn(with_little_memory(80), TINY, &["--engine", "ring", "--workers", "4"]);
    let data = gateway.data;
    for _ in 0..3 {
        let before = clients(&gateway, 20, "/ws/room");
        gateway.signal(Signal::KILL);
        gateway.wait();
        let address = data.to_string();
        let flags = ["--engine", "ring", "--workers", "4", "--listen", &address];
        gateway = Gateway::spawn(with_little_memory(80), TINY, &flags);
        gateway.data = data;
        drop(before);
        let served = gateway.open_again(20);
        (&served[0]).write_all(&frame(0x81, b"back again")).unwrap();
        for client in &served {
            assert_eq!(read_frame(client), Some((0x81, b"back again".to_vec())));
        }
    }
}
