//! A thousand subscribers that never read, a fan-out as fast as the others read, and a gateway that
//! may not have more memory than its bounds say: under each policy it lives, drops them by a reason
//! that is counted, leaves nothing of them in the kernel, and the others get everything.

use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use clap::Args;
use serde_json::Value;

use super::Claims;
use super::crowd::{Crowd, Purpose};
use super::gateway::{self, Gateway};
use super::peers;
use crate::failure::{Failure, Outcome};
use crate::proc::{self, SocketMemory};
use crate::units;

/// Receive buffer of those that never read: the smaller, the sooner the gateway has to hold it.
const RECEIVE_BUFFER_BYTES: usize = 4096;
/// Pages that the kernel keeps for sockets beyond what they hold: it reserves a MiB for each CPU.
const SPARE_PAGES: u64 = 1024;
/// How long the kernel may take to count what was freed.
const FREE_MAX: Duration = Duration::from_secs(20);
const LOOK_INTERVAL: Duration = Duration::from_millis(100);
/// Rounds of own messages a second.
const ROUND_INTERVAL: Duration = Duration::from_millis(50);
/// Reasons for which one that never reads may be dropped.
const REASONS: [&str; 3] = ["slow_consumer", "over_budget", "stalled"];

#[derive(Args, Clone, Debug)]
pub(super) struct Options {
    /// Command line of the gateway, read by sh; --slow-consumer is added.
    #[arg(long, default_value = "./ringway serve --workers 2 --send-queue-total-bytes-max 64MiB")]
    server: String,
    /// What it may have beside what it has with everybody connected and nothing published: its
    /// RLIMIT_DATA is set to that.
    #[arg(long, value_parser = units::size, default_value = "96MiB")]
    memory: usize,
    /// Subscribers that read.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..))]
    readers: u32,
    /// Subscribers that never read: every other one of the readers' topic, the rest each of a topic
    /// of its own, so that what waits for it waits for nobody else.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(2..2000))]
    stalled: u32,
    /// Bytes of a publication.
    #[arg(long, value_parser = units::size, default_value = "1KiB")]
    size: usize,
    /// How long is published; longer than the write timeout.
    #[arg(long, value_parser = units::duration, default_value = "15s")]
    duration: Duration,
}

pub(super) fn run(options: &Options) -> Outcome<bool> {
    let mut claims = Claims::new();
    for policy in ["close", "drop-oldest", "latest"] {
        run_one(options, policy, &mut claims)?;
    }
    Ok(claims.hold)
}

/// The most that was seen.
#[derive(Debug, Default)]
struct Peak {
    /// Bytes of data, as RLIMIT_DATA counts them.
    data_bytes: u64,
    /// Bytes that are the process's own and resident.
    resident_bytes: u64,
    queue_bytes: u64,
    /// Pages of memory of all TCP sockets.
    socket_pages: u64,
}

impl Peak {
    fn look(&mut self, gateway: &Gateway) -> Outcome<()> {
        let data = proc::status_bytes(gateway.pid(), "VmData:")?;
        let resident = proc::status_bytes(gateway.pid(), "RssAnon:")?;
        let queue = gateway::sum(&gateway.stats()?, &["send_queue_bytes"]);
        self.data_bytes = self.data_bytes.max(data);
        self.resident_bytes = self.resident_bytes.max(resident);
        self.queue_bytes = self.queue_bytes.max(queue);
        self.socket_pages = self.socket_pages.max(SocketMemory::read()?.pages);
        Ok(())
    }
}

fn run_one(options: &Options, policy: &str, claims: &mut Claims) -> Outcome<()> {
    let gateway = Gateway::start(&format!("{} --slow-consumer {policy}", options.server))?;
    let purpose = Purpose { rate: Some(0.0), size: options.size, ..Purpose::idle(options.readers) };
    let mut crowd = Crowd::open_all(&gateway.url("/ws/room")?, &purpose)?;
    let stalled = open_stalled(&gateway, options.stalled)?;
    let limit = proc::status_bytes(gateway.pid(), "VmData:")? + options.memory as u64;
    gateway.limit_data(limit)?;
    let before = SocketMemory::read()?;
    let peak = publish(options, &gateway, &mut crowd, claims)?;
    let of_stalled = |stats: &Value| -> u64 {
        REASONS.iter().map(|reason| gateway::sum(stats, &["closed", reason])).sum()
    };
    let stats = gateway.stats_until(|stats| of_stalled(stats) >= stalled.len() as u64)?;
    let (after, waited) = sockets_freed(&before, stalled)?;
    let closed = gateway::by_reason(&stats, "closed");
    let mib = |bytes: u64| bytes >> 20;
    claims.add(
        &format!("{policy}: it lives within {} MiB of data", mib(limit)),
        peak.data_bytes <= limit,
        &format!("at most {} MiB, {} resident", mib(peak.data_bytes), mib(peak.resident_bytes)),
    );
    let queue_max = gateway::sum(&stats, &["send_queue_bytes_max"]);
    claims.add(
        &format!("{policy}: at most {} MiB are queued", mib(queue_max)),
        peak.queue_bytes <= queue_max,
        &format!("{} KiB", peak.queue_bytes >> 10),
    );
    let total: u64 = closed.iter().map(|(_, count)| count).sum();
    let wanted = u64::from(options.stalled);
    claims.add(
        &format!("{policy}: who never reads is dropped, and nobody else"),
        of_stalled(&stats) == wanted && total == wanted,
        &format!("{closed:?}; messages {:?}", gateway::by_reason(&stats, "dropped")),
    );
    claims.add(
        &format!("{policy}: the kernel keeps no socket of them, and no memory"),
        after.orphans <= before.orphans && after.pages <= before.pages + SPARE_PAGES,
        &format!(
            "{} orphans ({} before); {} pages before, at most {}, {} after {} ms",
            after.orphans,
            before.orphans,
            before.pages,
            peak.socket_pages,
            after.pages,
            waited.as_millis()
        ),
    );
    Ok(())
}

fn open_stalled(gateway: &Gateway, count: u32) -> Outcome<Vec<TcpStream>> {
    let (room, own) = (gateway.url("/ws/room")?, gateway.url("/ws/own-{i}")?);
    let url = |number: u32| if number.is_multiple_of(2) { &room } else { &own };
    (0..count)
        .map(|number| peers::open(url(number), number, Some(RECEIVE_BUFFER_BYTES), None))
        .collect()
}

/// Publishes to everybody and to each of the stalled, and looks at the gateway meanwhile.
fn publish(
    options: &Options,
    gateway: &Gateway,
    crowd: &mut Crowd,
    claims: &mut Claims,
) -> Outcome<Peak> {
    let text = "x".repeat(options.size);
    let owners = (0..options.stalled).filter(|number| !number.is_multiple_of(2));
    let messages: Vec<Value> = owners
        .map(|number| serde_json::json!({"topic": format!("own-{number}"), "text": text}))
        .collect();
    let batch = serde_json::json!({ "messages": messages }).to_string();
    let admin = gateway.admin()?;
    let over = AtomicBool::new(false);
    let (peak, rounds) = thread::scope(|scope| {
        let rounds = scope.spawn(|| {
            let mut rounds = 0;
            while !over.load(Ordering::Relaxed) {
                // Where there is no room the answer is 429, and the next round is another.
                rounds += u32::from(gateway::publish(admin, &batch)? == 200);
                thread::sleep(ROUND_INTERVAL);
            }
            Ok::<u32, Failure>(rounds)
        });
        let peak = look(options, gateway, crowd);
        over.store(true, Ordering::Relaxed);
        let rounds = rounds.join().map_err(|_| Failure::run("the publisher panicked"));
        (peak, rounds)
    });
    let (peak, rounds) = (peak?, rounds??);
    let (counts, why) = crowd.finish()?;
    claims.add_counts(
        "the others get every message, once and in order",
        counts.has_all(options.readers) && rounds > 0,
        (&counts, why),
        &format!("{rounds} rounds of own messages"),
    );
    Ok(peak)
}

fn look(options: &Options, gateway: &Gateway, crowd: &mut Crowd) -> Outcome<Peak> {
    let mut peak = Peak::default();
    crowd.begin(options.duration)?;
    let until = Instant::now() + options.duration;
    while Instant::now() < until {
        peak.look(gateway)?;
        thread::sleep(LOOK_INTERVAL);
    }
    Ok(peak)
}

/// What the kernel holds for sockets once those of the stalled are closed, and how long that took.
/// Orphans are counted while their peers are still there: a FIN would wait for these.
fn sockets_freed(
    before: &SocketMemory,
    stalled: Vec<TcpStream>,
) -> Outcome<(SocketMemory, Duration)> {
    let orphans = SocketMemory::read()?.orphans;
    drop(stalled);
    let since = Instant::now();
    loop {
        let memory = SocketMemory { orphans, ..SocketMemory::read()? };
        if memory.pages <= before.pages + SPARE_PAGES || since.elapsed() > FREE_MAX {
            return Ok((memory, since.elapsed()));
        }
        thread::sleep(Duration::from_millis(10));
    }
}
