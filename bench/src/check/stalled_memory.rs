//! A thousand subscribers that never read, a fan-out as fast as the others read, and a gateway that
//! may not have more memory than its bounds say: under each policy it lives, drops them by a reason
//! that is counted, leaves nothing of them in the kernel, and the others get everything.
//!
//! What the kernel holds is looked at while the stalled clients still have their ends, so that it is
//! the gateway that has let go. The client's half of each then still holds what it has received and
//! not read, at most its receive buffer; how much that was is seen when they leave.

use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use clap::Args;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde_json::Value;
use socket2::SockRef;

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
/// How long the kernel may take to count what was freed, from the last reset.
const FREE_MAX: Duration = Duration::from_secs(1);
const LOOK_INTERVAL: Duration = Duration::from_millis(100);
/// How much later than the publications of the others the last of the stalled may be reset: what is
/// for it alone fills its socket later.
const RESET_MAX: Duration = Duration::from_secs(20);
const PAGE_BYTES: u64 = 4096;
/// How long the readers have the gateway to themselves before: what their messages under way take.
const WARM_UP: Duration = Duration::from_secs(3);
/// Rounds of own messages a second.
const ROUND_INTERVAL: Duration = Duration::from_millis(50);
/// Reasons for which one that never reads may be dropped.
const REASONS: [&str; 3] = ["slow_consumer", "over_budget", "stalled"];

#[derive(Args, Clone, Debug)]
pub(super) struct Options {
    /// Command line of the gateway, read by sh; --slow-consumer is added. Without pings, which those
    /// that never read do not answer either: who is slowed down may miss a pong first.
    #[arg(
        long,
        default_value = "./ringway serve --workers 2 --send-queue-total-bytes-max 64MiB \
                         --ping-interval 0"
    )]
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
    let policies = ["close", "drop-oldest", "latest"];
    let rows = policies.map(|policy| run_one(options, policy, &mut claims));
    println!();
    println!(
        "| policy | may queue, MiB | queued at most, MiB | resident at most, MiB | pages before | \
         at most | all reset, and their clients there | their clients gone | orphans |"
    );
    println!("|---|---|---|---|---|---|---|---|---|");
    for row in rows {
        println!("{}", row?);
    }
    Ok(claims.hold)
}

/// The most that was seen, and when what the kernel held was back.
#[derive(Debug, Default)]
struct Peak {
    /// Bytes of data, as RLIMIT_DATA counts them.
    data_bytes: u64,
    /// Bytes that are the process's own and resident.
    resident_bytes: u64,
    queue_bytes: u64,
    /// Pages of memory of all TCP sockets.
    socket_pages: u64,
    /// When the last of the stalled was seen to be reset.
    reset: Option<Instant>,
    /// How long after that the sockets' memory was seen to be what it is without them.
    freed: Option<Duration>,
}

impl Peak {
    fn look(&mut self, gateway: &Gateway) -> Outcome<()> {
        let data = proc::status_bytes(gateway.pid(), "VmData:")?;
        let resident = proc::status_bytes(gateway.pid(), "RssAnon:")?;
        let queue = gateway::sum(&gateway.stats()?, &["send_queue_bytes"]);
        self.data_bytes = self.data_bytes.max(data);
        self.resident_bytes = self.resident_bytes.max(resident);
        self.queue_bytes = self.queue_bytes.max(queue);
        Ok(())
    }

    /// Looks at what the kernel holds. `pages_max` is what it may hold once all of the stalled are
    /// reset, while the others are served.
    fn look_at_sockets(&mut self, stalled: &[TcpStream], pages_max: u64) -> Outcome<()> {
        let pages = SocketMemory::read()?.pages;
        self.socket_pages = self.socket_pages.max(pages);
        match self.reset {
            None if are_reset(stalled)? => self.reset = Some(Instant::now()),
            Some(reset) if self.freed.is_none() && pages <= pages_max => {
                self.freed = Some(reset.elapsed());
            }
            _ => {}
        }
        Ok(())
    }
}

/// What the kernel holds for sockets, in pages.
#[derive(Debug)]
struct Pages {
    /// With everybody connected and nothing published.
    before: u64,
    /// With the readers served, and nobody else there.
    busy: u64,
    /// What the halves of the stalled clients may hold: their receive buffers.
    halves: u64,
}

/// Runs it under one policy, and returns the row of the table.
fn run_one(options: &Options, policy: &str, claims: &mut Claims) -> Outcome<String> {
    let gateway = Gateway::start(&format!("{} --slow-consumer {policy}", options.server))?;
    let purpose = Purpose { rate: Some(0.0), size: options.size, ..Purpose::idle(options.readers) };
    let mut crowd = Crowd::open_all(&gateway.url("/ws/room")?, &purpose)?;
    let busy = serve_alone(&mut crowd)?;
    let readers = proc::sockets_at(gateway.data().port())?;
    let stalled = open_stalled(&gateway, options.stalled)?;
    let limit = proc::status_bytes(gateway.pid(), "VmData:")? + options.memory as u64;
    gateway.limit_data(limit)?;
    let before = SocketMemory::read()?;
    let halves = halves(&stalled)?;
    let pages = Pages { before: before.pages, busy, halves };
    let peak = publish(options, &gateway, &mut crowd, (&stalled, &pages), claims)?;
    let of_stalled = |stats: &Value| -> u64 {
        REASONS.iter().map(|reason| gateway::sum(stats, &["closed", reason])).sum()
    };
    let stats = gateway.stats_until(|stats| of_stalled(stats) >= stalled.len() as u64)?;
    // Their clients are still there.
    let sockets = proc::sockets_at(gateway.data().port())?;
    let held = SocketMemory::read()?;
    drop(stalled);
    let after = SocketMemory::read()?;
    claim_bounds(policy, (limit, &peak, &stats), claims);
    let closed = gateway::by_reason(&stats, "closed");
    let total: u64 = closed.iter().map(|(_, count)| count).sum();
    let wanted = u64::from(options.stalled);
    claims.add(
        &format!("{policy}: who never reads is dropped, and nobody else"),
        of_stalled(&stats) == wanted && total == wanted,
        &format!("{closed:?}; messages {:?}", gateway::by_reason(&stats, "dropped")),
    );
    claims.add(
        &format!("{policy}: with their clients there, the gateway has no socket of them any more"),
        sockets == readers && held.orphans <= before.orphans,
        &format!("{sockets} sockets, {readers} of readers; {} orphans", held.orphans),
    );
    let back = peak.freed.map_or_else(|| "never".to_owned(), |freed| format!("{freed:.1?}"));
    claims.add(
        &format!("{policy}: within {FREE_MAX:?} of the last reset the sockets' memory is back"),
        peak.freed.is_some_and(|freed| freed <= FREE_MAX),
        &format!(
            "after {back}: at most the {busy} pages of the readers and {halves} of clients' halves"
        ),
    );
    let of_clients = held.pages.saturating_sub(after.pages);
    claims.add(
        &format!("{policy}: at rest the kernel keeps the clients' halves alone"),
        held.pages <= before.pages + halves + SPARE_PAGES
            && after.pages <= before.pages + SPARE_PAGES,
        &format!(
            "{} pages before, {} then, {of_clients} of them the clients' halves",
            before.pages, held.pages
        ),
    );
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    Ok(format!(
        "| `{policy}` | {:.0} | {:.1} | {:.0} | {} | {} | {} | {} | {} |",
        mib(gateway::sum(&stats, &["send_queue_bytes_max"])),
        mib(peak.queue_bytes),
        mib(peak.resident_bytes),
        before.pages,
        peak.socket_pages,
        held.pages,
        after.pages,
        held.orphans
    ))
}

fn claim_bounds(policy: &str, (limit, peak, stats): (u64, &Peak, &Value), claims: &mut Claims) {
    let mib = |bytes: u64| bytes >> 20;
    claims.add(
        &format!("{policy}: it lives within {} MiB of data", mib(limit)),
        peak.data_bytes <= limit,
        &format!("at most {} MiB, {} resident", mib(peak.data_bytes), mib(peak.resident_bytes)),
    );
    let queue_max = gateway::sum(stats, &["send_queue_bytes_max"]);
    claims.add(
        &format!("{policy}: at most {} MiB are queued", mib(queue_max)),
        peak.queue_bytes <= queue_max,
        &format!("{} KiB", peak.queue_bytes >> 10),
    );
}

/// The most pages that the kernel holds while the readers alone are served.
fn serve_alone(crowd: &mut Crowd) -> Outcome<u64> {
    let mut pages = 0;
    crowd.begin(WARM_UP)?;
    let until = Instant::now() + WARM_UP;
    while Instant::now() < until {
        pages = pages.max(SocketMemory::read()?.pages);
        thread::sleep(LOOK_INTERVAL);
    }
    crowd.finish()?;
    Ok(pages)
}

/// Pages that these may hold of what they have not read. The kernel takes a segment while there is
/// any room, so that each may be over its buffer by one, which here is a page.
fn halves(stalled: &[TcpStream]) -> Outcome<u64> {
    let pages = |stream: &TcpStream| {
        let bytes = SockRef::from(stream).recv_buffer_size()? as u64;
        Ok(bytes.div_ceil(PAGE_BYTES) + 1)
    };
    stalled.iter().map(pages).sum()
}

/// Whether every one of them is reset.
fn are_reset(stalled: &[TcpStream]) -> Outcome<bool> {
    let mut fds: Vec<_> =
        stalled.iter().map(|stream| PollFd::new(stream, PollFlags::empty())).collect();
    poll(&mut fds, Some(&Timespec::default())).map_err(Failure::run)?;
    Ok(fds.iter().all(|fd| fd.revents().contains(PollFlags::ERR)))
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
    sockets: (&[TcpStream], &Pages),
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
        let peak = look(options, gateway, crowd, sockets);
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

fn look(
    options: &Options,
    gateway: &Gateway,
    crowd: &mut Crowd,
    (stalled, pages): (&[TcpStream], &Pages),
) -> Outcome<Peak> {
    let mut peak = Peak::default();
    crowd.begin(options.duration)?;
    let until = Instant::now() + options.duration;
    let patience = until + RESET_MAX;
    while Instant::now() < until || (peak.freed.is_none() && Instant::now() < patience) {
        peak.look(gateway)?;
        peak.look_at_sockets(stalled, pages.busy.max(pages.before) + pages.halves)?;
        thread::sleep(LOOK_INTERVAL);
    }
    Ok(peak)
}
