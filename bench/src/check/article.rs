//! The table of the article that Ringway starts from: very many connections on one core, what they
//! cost in memory and while they only beat, and how late a message to all of them comes.

use std::thread;
use std::time::Duration;

use clap::Args;

use super::crowd::{Crowd, Purpose};
use super::figures::{self, Watch, milliseconds, to_f64};
use super::gateway::Gateway;
use super::{Claims, OneCore};
use crate::failure::{Failure, Outcome};
use crate::memory;
use crate::recorder::histogram;
use crate::units;

/// What the process gets to settle before its memory is read: two reports.
const SETTLE: Duration = Duration::from_secs(3);
/// Before the first connection: the latency log ends its first interval after 10 s.
const START: Duration = Duration::from_secs(12);
/// User memory of a connection, in bytes; the article has 4,100. The kernel's half comes on top, in
/// both, and is shown.
const BYTES_MAX: f64 = 256.0;
/// Of a core, for the heartbeats: the article's figure.
const HEARTBEAT_PERCENT_MAX: f64 = 12.0;

#[derive(Args, Clone, Debug)]
pub(super) struct Options {
    #[command(flatten)]
    many: OneCore,
    /// Ping intervals, each measured on a gateway of its own.
    #[arg(long = "ping-interval", value_parser = units::duration, default_values = ["25s", "54s"])]
    ping_intervals: Vec<Duration>,
    /// How many intervals of heartbeats are measured.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..))]
    intervals: u32,
    /// Publications a second to all of them.
    #[arg(long, default_value_t = 1.0)]
    rate: f64,
    /// Bytes of a publication.
    #[arg(long, value_parser = units::size, default_value = "100")]
    size: usize,
    /// How long is published.
    #[arg(long, value_parser = units::duration, default_value = "30s")]
    duration: Duration,
}

pub(super) fn run(options: &Options) -> Outcome<bool> {
    let mut claims = Claims::new();
    for ping_interval in &options.ping_intervals {
        run_one(options, *ping_interval, &mut claims)?;
    }
    Ok(claims.hold)
}

fn run_one(options: &Options, ping_interval: Duration, claims: &mut Claims) -> Outcome<()> {
    let pings = format!("--ping-interval {}ms", ping_interval.as_millis());
    let gateway = Gateway::start(&format!("{} {pings}", options.many.server))?;
    let purpose = Purpose {
        rate: Some(options.rate),
        size: options.size,
        core: Some(options.many.core_load),
        grace: Duration::from_secs(30),
        ..Purpose::idle(options.many.connections)
    };
    let mut crowd = Crowd::prepare(&gateway.url("/ws/room")?, &purpose)?;
    weigh(options, &gateway, &mut crowd, claims)?;
    let watch = Watch::start(gateway.tree())?;
    thread::sleep(ping_interval * options.intervals);
    let beats = watch.look()?;
    let percent = beats.percent();
    let each = beats.cpu_seconds * 1e6 / beats.seconds / f64::from(options.many.connections);
    claims.add(
        &format!("heartbeats every {ping_interval:?} take less than 12 % of a core"),
        percent < HEARTBEAT_PERCENT_MAX,
        &format!("{percent:.2} %, {each:.3} µs a second and connection"),
    );
    deliver(options, &gateway, &mut crowd, claims)
}

/// Opens the connections and says what they take of user and kernel memory.
fn weigh(
    options: &Options,
    gateway: &Gateway,
    crowd: &mut Crowd,
    claims: &mut Claims,
) -> Outcome<()> {
    thread::sleep(START);
    let weights = crowd.weigh_halves()?;
    let slabs_before = memory::settled_slabs();
    let pss_before = gateway.pss_bytes()?;
    let watch = Watch::start(gateway.tree())?;
    crowd.open_all_planned()?;
    let opening = watch.look()?;
    let count = f64::from(options.many.connections);
    println!(
        "handshakes   {} in {:.1} s; server CPU {:.1} µs each",
        options.many.connections,
        opening.seconds,
        opening.cpu_seconds * 1e6 / count
    );
    thread::sleep(SETTLE);
    let pss_after = gateway.pss_bytes()?;
    let user = to_f64(pss_after.saturating_sub(pss_before)) / count;
    let slabs = memory::settled_slabs();
    let kernel = if slabs.is_empty() {
        "the kernel's cannot be read without root".to_owned()
    } else {
        let slabs = memory::server_half(&slabs.since(&slabs_before), &weights, crowd.open);
        let kernel = slabs.server_bytes_per_connection;
        format!("{kernel:.0} B of slab on the server's side, {:.0} B together", user + kernel)
    };
    claims.add(
        &format!("at most {BYTES_MAX} B of user memory per connection"),
        user <= BYTES_MAX,
        &format!(
            "{user:.0} B; {kernel}; process {} KiB in all, {} KiB before",
            pss_after >> 10,
            pss_before >> 10
        ),
    );
    Ok(())
}

/// Publishes to all of them on schedule.
fn deliver(
    options: &Options,
    gateway: &Gateway,
    crowd: &mut Crowd,
    claims: &mut Claims,
) -> Outcome<()> {
    // The interval under way is of both.
    let turns_before = gateway.intervals("turn")?.len() + 1;
    let watch = Watch::start(gateway.tree())?;
    crowd.measure(options.duration)?;
    let (counts, why) = crowd.finish()?;
    let busy = watch.look()?;
    let us = busy.cpu_seconds * 1e6 / to_f64(counts.delivered.max(1));
    claims.add_counts(
        "every connection has every message once, and nobody is lost",
        counts.has_all(options.many.connections),
        (&counts, why),
        &format!("{us:.2} µs of CPU per delivery, heartbeats included"),
    );
    let mut turns = histogram();
    for interval in gateway.intervals("turn")?.into_iter().skip(turns_before) {
        turns.add(interval).map_err(Failure::run)?;
    }
    println!();
    println!("| ms | p50 | p99 | p99.9 |");
    println!("|---|---|---|---|");
    println!("| delivery | {} |", figures::percentiles(crowd.latencies()));
    println!("| last | {} |", figures::percentiles(crowd.last()));
    if turns.is_empty() {
        println!("turns        no whole interval of 10 s was within: publish for longer");
    } else {
        println!("| turn of a worker (loop lag) | {} |", figures::percentiles(&turns));
        println!("turns        {} seen, longest {:.1} ms", turns.len(), milliseconds(&turns, 1.0));
    }
    println!();
    Ok(())
}
