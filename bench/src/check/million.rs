//! A million connections in one process: all are open, all are pinged and answer, and one broadcast
//! reaches all. Both ends live in a network namespace of their own, whose table of connections is
//! larger than a machine of this size has: else every packet walks a chain of eight sockets.

use std::env;
use std::process::Command;
use std::thread;
use std::time::Duration;

use clap::Args;

use super::Claims;
use super::crowd::{Crowd, Purpose};
use super::figures::{self, Watch, milliseconds, to_f64};
use super::gateway::{self, Gateway};
use crate::failure::{Failure, Outcome};
use crate::memory;
use crate::order::Counts;
use crate::payload::{Kind, Payload, Stamp, now_ns};
use crate::plan::CONNECTIONS_PER_PROCESS;
use crate::proc::SocketMemory;
use crate::recorder::histogram;
use crate::units;

/// The size of the table is read when a namespace is made, from the one that makes it: so one is
/// made to hold the setting, and the machine's own stays as it is. A namespace has listener queues
/// of its own too.
const NAMESPACE: &str = "sysctl -qw net.ipv4.tcp_child_ehash_entries=4194304 && \
    exec unshare -n sh -c '\
    ip link set lo up && sysctl -qw net.core.somaxconn=65535 net.ipv4.tcp_max_syn_backlog=65535 && \
    exec \"$0\" \"$@\"' \"$0\" \"$@\"";
/// What the process gets to settle before its memory is read.
const SETTLE: Duration = Duration::from_secs(3);
const START: Duration = Duration::from_secs(12);

#[derive(Args, Clone, Debug)]
pub(super) struct Options {
    /// Command line of the gateway, read by sh.
    #[arg(
        long,
        default_value = "./ringway serve --workers 58 --ping-interval 54s --handshake-timeout 30s"
    )]
    server: String,
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u32).range(1000..))]
    connections: u32,
    /// Load processes that open connections at once, of up to 19,000 each.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..))]
    opening: u32,
    /// How long everybody is pinged: more than the interval of the command line.
    #[arg(long, value_parser = units::duration, default_value = "65s")]
    heartbeat: Duration,
    /// How long the broadcast may take; more than a few seconds.
    #[arg(long, value_parser = units::duration, default_value = "60s")]
    broadcast: Duration,
    /// Most user memory of the process in all.
    #[arg(long, value_parser = units::size, default_value = "350MiB")]
    memory_max: usize,
    /// This is the namespace.
    #[arg(long, hide = true)]
    inside: bool,
}

pub(super) fn run(options: &Options) -> Outcome<bool> {
    if !options.inside {
        return enter();
    }
    let gateway = Gateway::start(&options.server)?;
    let mut claims = Claims::new();
    let mut crowds = open(options, &gateway, &mut claims)?;
    beat(options, &gateway, &mut crowds, &mut claims)?;
    broadcast(options, &gateway, &mut crowds, &mut claims)?;
    let stats = gateway.stats()?;
    let closed = gateway::by_reason(&stats, "closed");
    claims.add(
        "nobody was closed",
        closed.is_empty() && stats["connections"] == options.connections,
        &format!("{} open, closed {closed:?}", stats["connections"]),
    );
    Ok(claims.hold)
}

/// Runs this command again in a namespace of its own.
fn enter() -> Outcome<bool> {
    let status = Command::new("unshare")
        .args(["-n", "sh", "-c", NAMESPACE])
        .arg(env::current_exe()?)
        .args(env::args_os().skip(1))
        .arg("--inside")
        .status()
        .map_err(|error| Failure::run(format!("unshare: {error}")))?;
    Ok(status.success())
}

/// Opens the connections, some processes at a time, and says what they take.
fn open(options: &Options, gateway: &Gateway, claims: &mut Claims) -> Outcome<Vec<Crowd>> {
    let url = gateway.url("/ws/room")?;
    thread::sleep(START);
    let pss_before = gateway.pss_bytes()?;
    let slabs_before = memory::settled_slabs();
    let watch = Watch::start(gateway.tree())?;
    let most = options.opening * CONNECTIONS_PER_PROCESS;
    let mut crowds = Vec::new();
    let mut first = 0;
    while first < options.connections {
        let connections = most.min(options.connections - first);
        crowds.push(Crowd::open_all(&url, &Purpose { first, ..Purpose::idle(connections) })?);
        first += connections;
        println!("connections  {first} after {:.0} s", watch.look()?.seconds);
    }
    let opening = watch.look()?;
    let wanted = u64::from(options.connections);
    let stats = gateway.stats_until(|stats| stats["connections"] == wanted)?;
    claims.add(
        &format!("{wanted} connections in one process"),
        stats["connections"] == wanted,
        &format!(
            "{} on {} workers in {:.0} s; server CPU {:.1} µs per handshake",
            stats["connections"],
            gateway.workers()?.len(),
            opening.seconds,
            opening.cpu_seconds * 1e6 / to_f64(wanted)
        ),
    );
    thread::sleep(SETTLE);
    let pss = gateway.pss_bytes()?;
    claims.add(
        &format!("user memory in all at most {} MiB", options.memory_max >> 20),
        pss <= options.memory_max as u64,
        &format!(
            "{} MiB, {} MiB without connections, {:.0} B per connection",
            pss >> 20,
            pss_before >> 20,
            to_f64(pss.saturating_sub(pss_before)) / to_f64(wanted)
        ),
    );
    let slabs: u64 = memory::settled_slabs().since(&slabs_before).values().sum();
    println!(
        "kernel       slab {} MiB more, {:.0} B per connection for both ends; {} pages in socket \
         buffers",
        slabs >> 20,
        to_f64(slabs) / to_f64(wanted),
        SocketMemory::read()?.pages
    );
    Ok(crowds)
}

/// Lets everybody be pinged.
fn beat(
    options: &Options,
    gateway: &Gateway,
    crowds: &mut [Crowd],
    claims: &mut Claims,
) -> Outcome<()> {
    let watch = Watch::start(gateway.tree())?;
    crowds.iter_mut().try_for_each(|crowd| crowd.begin(options.heartbeat))?;
    let (counts, why) = finish(crowds)?;
    let beats = watch.look()?;
    let each = beats.cpu_seconds * 1e6 / beats.seconds / f64::from(options.connections);
    claims.add(
        "everybody was pinged and answered",
        counts.pings >= u64::from(options.connections) && counts.lost == 0,
        &format!(
            "{} pings in {:.0} s, {} lost {}; CPU {:.1} % of a core, {each:.3} µs a second and \
             connection",
            counts.pings,
            beats.seconds,
            counts.lost,
            why.unwrap_or_default(),
            beats.percent()
        ),
    );
    Ok(())
}

/// One message to everybody, through the control plane.
fn broadcast(
    options: &Options,
    gateway: &Gateway,
    crowds: &mut [Crowd],
    claims: &mut Claims,
) -> Outcome<()> {
    crowds.iter_mut().try_for_each(|crowd| crowd.measure(options.broadcast))?;
    // What comes before a process counts would be missing.
    thread::sleep(SETTLE);
    let watch = Watch::start(gateway.tree())?;
    let mut payload = Vec::new();
    let stamp = Stamp { sequence: 0, intended_ns: now_ns() };
    Payload::new(Kind::Filler, Purpose::idle(0).size).write(stamp, &mut payload);
    gateway::broadcast(gateway.admin()?, &payload)?;
    let (counts, why) = finish(crowds)?;
    let cpu_seconds = watch.look()?.cpu_seconds;
    let mut latencies = histogram();
    for crowd in crowds.iter() {
        latencies.add(crowd.latencies()).map_err(Failure::run)?;
    }
    claims.add(
        "one broadcast reaches everybody once",
        counts.delivered == u64::from(options.connections) && !counts.has_errors(),
        &format!(
            "{} delivered, {} lost {}; ms p50 | p99 | p99.9: {}, the last {:.0}; {:.1} s of CPU, \
             heartbeats included",
            counts.delivered,
            counts.lost,
            why.unwrap_or_default(),
            figures::percentiles(&latencies),
            milliseconds(&latencies, 1.0),
            cpu_seconds
        ),
    );
    Ok(())
}

/// What all of them counted.
fn finish(crowds: &mut [Crowd]) -> Outcome<(Counts, Option<String>)> {
    let mut sum = Counts::default();
    let mut first = None;
    for crowd in crowds {
        let (counts, why) = crowd.finish()?;
        sum.add(&counts);
        first = first.or(why);
    }
    Ok((sum, first))
}
