//! The promise of the gateway against the real binary: with two workers, publishers on both of them
//! and over HTTP, and clients that come and go, every message reaches every subscriber that is
//! there exactly once, in the order of its publisher, as text or binary as it was sent.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::{
    collections::HashMap,
    io::ErrorKind,
    net::TcpStream,
    sync::{
        Barrier,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use common::{Gateway, sum, workers};
use serde_json::Value;
use tungstenite::{Message, WebSocket};

/// Clients that are there from the first message to the last, the publishers among them.
const CLIENTS: usize = 64;

/// Of these at least so many publish, at least a quarter of them on either worker.
const PUBLISHERS_MIN: usize = 8;

/// Where SO_REUSEPORT deals unevenly, more publish.
const PUBLISHERS_MAX: usize = 40;

/// Publishers over HTTP, whose numbers follow those of the others.
const HTTP_PUBLISHERS: usize = 2;

/// Clients that come and go all the time.
const CHURNERS: usize = 6;

/// What each publisher sends.
const MESSAGES: u32 = 200;

type Client = WebSocket<TcpStream>;

/// Message `number` of a publisher: even ones are text, odd ones binary.
fn message(publisher: usize, number: u32) -> Message {
    let text = format!("{publisher}:{number}");
    if number.is_multiple_of(2) { Message::text(text) } else { Message::binary(text.into_bytes()) }
}

/// Publisher and number of a message, whose opcode is checked.
fn parse(message: &Message) -> (usize, u32) {
    let bytes = message.clone().into_data();
    let text = std::str::from_utf8(&bytes).unwrap();
    let (publisher, number) = text.split_once(':').unwrap();
    let number: u32 = number.parse().unwrap();
    assert_eq!(message.is_text(), number.is_multiple_of(2), "{text} changed its opcode");
    (publisher.parse().unwrap(), number)
}

/// What one subscriber has got: the next number of each publisher.
#[derive(Debug, Default)]
struct Seen(HashMap<usize, u32>);

impl Seen {
    /// One of somebody who was there from the beginning, or has joined: each publisher's numbers
    /// follow each other from the first one seen.
    fn take(&mut self, message: &Message) {
        let (publisher, number) = parse(message);
        let next = self.0.entry(publisher).or_insert(number);
        assert_eq!(number, *next, "publisher {publisher}: lost, doubled or out of order");
        *next += 1;
    }
}

fn connections(stats: &Value) -> Vec<u64> {
    workers(stats).iter().map(|worker| worker["connections"].as_u64().unwrap()).collect()
}

/// Opens publishers until both workers hold a quarter of the least number, which `/stats` proves.
/// Every second one does not want its own messages.
fn open_publishers(gateway: &Gateway) -> Vec<Client> {
    let mut publishers = Vec::new();
    loop {
        let own = if publishers.len().is_multiple_of(2) { "" } else { "?own=off" };
        publishers.push(gateway.open(&format!("/ws/room{own}")));
        if publishers.len() < PUBLISHERS_MIN {
            continue;
        }
        let all = publishers.len() as u64;
        let stats = gateway.stats_until(|stats| connections(stats).iter().sum::<u64>() == all);
        if connections(&stats).iter().all(|count| *count >= PUBLISHERS_MIN as u64 / 4) {
            return publishers;
        }
        assert!(publishers.len() < PUBLISHERS_MAX, "one worker gets everything: {stats:#}");
    }
}

/// Reads until everything that is for this client has come, and proves by a ping that nothing
/// comes behind it. Returns how much it was.
fn read_all(mut client: Client, publishers: usize, without: Option<usize>) -> u64 {
    let mut seen = Seen::default();
    let expected = (publishers - usize::from(without.is_some())) as u64 * u64::from(MESSAGES);
    for _ in 0..expected {
        let message = client.read().unwrap();
        assert!(message.is_text() || message.is_binary(), "{message:?}");
        seen.take(&message);
    }
    for publisher in (0..publishers).filter(|publisher| Some(*publisher) != without) {
        assert_eq!(seen.0.get(&publisher), Some(&MESSAGES), "all of publisher {publisher}");
    }
    client.send(Message::Ping("end".into())).unwrap();
    assert_eq!(client.read().unwrap(), Message::Pong("end".into()));
    client.close(None).unwrap();
    while client.read().is_ok() {}
    expected
}

/// Joins, follows for a while, leaves, and joins again until told to stop. Returns how often.
fn churn(gateway: &Gateway, stop: &AtomicBool, politely: bool) -> u64 {
    let mut visits = 0;
    while !stop.load(Ordering::Relaxed) {
        let mut client = gateway.open("/ws/room");
        client.get_ref().set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        let mut seen = Seen::default();
        for _ in 0..100 {
            match client.read() {
                Ok(message) => seen.take(&message),
                Err(tungstenite::Error::Io(error)) if error.kind() == ErrorKind::WouldBlock => {
                    break;
                }
                Err(error) => panic!("{error}"),
            }
        }
        if politely {
            client.close(None).unwrap();
        }
        visits += 1;
    }
    visits
}

/// Publishes over HTTP, again where there was no room.
fn publish_over_http(gateway: &Gateway, publisher: usize) {
    let mut http = gateway.http();
    for number in 0..MESSAGES {
        let message = message(publisher, number);
        let target = if message.is_text() { "/publish/room" } else { "/publish/room?as=binary" };
        let body = message.into_data();
        loop {
            let response = http.post(target, "", &body);
            if response.status == 200 {
                let receivers = response.json()["receivers"].as_u64().unwrap();
                assert!(receivers >= CLIENTS as u64, "{receivers}");
                break;
            }
            assert_eq!(response.status, 429, "{response:?}");
            assert!(response.header("retry-after").is_some());
        }
    }
}

#[test]
fn every_message_arrives_once_and_in_order_wherever_it_was_published() {
    // Where all of it takes long, a ping would come among the messages.
    let gateway = Gateway::start(&["--workers", "2", "--ping-interval", "0"]);
    let publishers = open_publishers(&gateway);
    let senders = publishers.len();
    let all = senders + HTTP_PUBLISHERS;
    let start = Barrier::new(senders + HTTP_PUBLISHERS);
    let stop = AtomicBool::new(false);
    let delivered = AtomicU64::new(0);
    let visits = AtomicU64::new(0);
    let subscribers: Vec<Client> = (senders..CLIENTS).map(|_| gateway.open("/ws/room")).collect();

    thread::scope(|scope| {
        for churner in 0..CHURNERS {
            let (gateway, stop, visits) = (&gateway, &stop, &visits);
            scope.spawn(move || {
                visits.fetch_add(churn(gateway, stop, churner % 2 == 0), Ordering::Relaxed);
            });
        }
        let mut readers = Vec::new();
        for client in subscribers {
            readers.push(scope.spawn(move || read_all(client, all, None)));
        }
        for (publisher, client) in publishers.into_iter().enumerate() {
            // A second handle of the socket, so that it is written and read at once.
            let writer = client.get_ref().try_clone().unwrap();
            let start = &start;
            scope.spawn(move || {
                use tungstenite::protocol::Role;
                let mut writer = WebSocket::from_raw_socket(writer, Role::Client, None);
                start.wait();
                for number in 0..MESSAGES {
                    writer.send(message(publisher, number)).unwrap();
                }
            });
            let without = (publisher % 2 == 1).then_some(publisher);
            readers.push(scope.spawn(move || read_all(client, all, without)));
        }
        for publisher in senders..all {
            let (gateway, start) = (&gateway, &start);
            scope.spawn(move || {
                start.wait();
                publish_over_http(gateway, publisher);
            });
        }
        for reader in readers {
            delivered.fetch_add(reader.join().unwrap(), Ordering::Relaxed);
        }
        stop.store(true, Ordering::Relaxed);
    });

    let delivered = delivered.into_inner();
    assert!(delivered >= 100_000, "{delivered} deliveries");
    assert!(visits.into_inner() > CHURNERS as u64, "clients came and went");
    let stats = gateway.stats_at_rest();
    assert!(sum(&stats, &["messages_delivered"]) >= delivered, "{stats:#}");
    assert_eq!(sum(&stats, &["messages_received"]), senders as u64 * u64::from(MESSAGES));
    // A churner may leave while a message is on its way to it.
    let gone = sum(&stats, &["dropped", "gone"]);
    assert_eq!(sum(&stats, &["messages_dropped"]), gone, "{stats:#}");
    for worker in workers(&stats) {
        for reason in ["slow_consumer", "protocol_error", "over_budget", "stalled"] {
            assert_eq!(worker["closed"][reason].as_u64().unwrap_or(0), 0, "{reason}");
        }
        assert_ne!(worker["messages_received"], 0, "clients of both workers have published");
    }
}
