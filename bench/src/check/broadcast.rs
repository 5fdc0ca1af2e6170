//! One message a second to very many connections in one process, beside a bare loop that has as
//! many rings: how long it takes until the last of them has it, what a delivery costs, and how long
//! the worker's turns are meanwhile. Both ping everybody every 25 s.

use std::time::Duration;

use clap::Args;
use hdrhistogram::Histogram;

use super::crowd::{Crowd, Purpose};
use super::figures::{self, milliseconds, ratio, spread, to_f64};
use super::floor::Floor;
use super::gateway::Gateway;
use super::{Beside, Claims};
use crate::failure::{Failure, Outcome};
use crate::proc::Tree;
use crate::recorder::histogram;
use crate::units;
use crate::url::Url;

/// CPU of a delivery, and the median until everybody has a message, over those of the bare loop.
const RATIO_MAX: f64 = 1.05;
/// The same of the 99th and the 99.9th percentile until everybody has a message.
const P99_RATIO_MAX: f64 = 1.1;
const P999_RATIO_MAX: f64 = 1.5;
/// A turn offers a frame to so many connections before everything else has its turn: a chunk. The
/// engine sends it as it is entered for the next turn, and into that it counts.
const CHUNK_TARGETS: f64 = 64.0;
/// Chunks that the 99.9th percentile of the turns may take.
const CHUNKS_MAX: f64 = 2.0;
/// How long a message may be under way at the end.
const GRACE: Duration = Duration::from_secs(30);

#[derive(Args, Clone, Debug)]
pub(super) struct Options {
    #[command(flatten)]
    beside: Beside,
    /// Publications a second.
    #[arg(long, default_value_t = 1.0)]
    rate: f64,
    /// Bytes of a publication.
    #[arg(long, value_parser = units::size, default_value = "100")]
    size: usize,
    /// How long each run is measured; turns show from 20 s on.
    #[arg(long, value_parser = units::duration, default_value = "60s")]
    duration: Duration,
    /// Runs of each, in turn.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    pairs: u32,
}

/// One of both, and what its runs have shown.
struct Side {
    name: &'static str,
    /// CPU of a delivery, in microseconds.
    cpu_us: Vec<f64>,
    /// To each subscriber, run by run.
    delivery: Vec<Histogram<u64>>,
    /// To the last subscriber of each publication, run by run.
    last: Vec<Histogram<u64>>,
}

impl Side {
    fn new(name: &'static str) -> Side {
        Side { name, cpu_us: Vec::new(), delivery: Vec::new(), last: Vec::new() }
    }

    fn row(&self) -> String {
        let milliseconds = |all: &[Histogram<u64>], quantile| {
            let each: Vec<f64> = all.iter().map(|one| milliseconds(one, quantile)).collect();
            format!("{:.1}", spread(&each).median)
        };
        let cells = |all: &[Histogram<u64>]| {
            [0.5, 0.99, 0.999].map(|quantile| milliseconds(all, quantile)).join(" | ")
        };
        let (delivery, last) = (cells(&self.delivery), cells(&self.last));
        format!("| {} | {} | {delivery} | {last} |", self.name, spread(&self.cpu_us))
    }
}

pub(super) fn run(options: &Options) -> Outcome<bool> {
    let Options { beside, pairs, .. } = options;
    let (mut bare, mut ringway) = (Side::new("the bare loop"), Side::new("Ringway"));
    let mut turns = histogram();
    let mut claims = Claims::new();
    for _ in 0..*pairs {
        let floor = Floor::start(&beside.floor("--pings 25"))?;
        let mut crowd = open(options, &floor.url()?)?;
        publish(options, &mut bare, &mut crowd, &floor.tree(), &mut claims)?;
        drop((crowd, floor));
        let gateway = Gateway::start(&beside.gateway("--ping-interval 25s"))?;
        let mut crowd = open(options, &gateway.url("/ws/room")?)?;
        // The interval under way is of both.
        let before = gateway.intervals("turn")?.len() + 1;
        publish(options, &mut ringway, &mut crowd, &gateway.tree(), &mut claims)?;
        for interval in gateway.intervals("turn")?.into_iter().skip(before) {
            turns.add(interval).map_err(Failure::run)?;
        }
    }
    println!();
    println!(
        "| ms, {} connections | CPU µs per delivery | delivery p50 | p99 | p99.9 | last p50 | p99 \
         | p99.9 |",
        beside.connections
    );
    println!("|---|---|---|---|---|---|---|---|");
    println!("{}\n{}\n", bare.row(), ringway.row());
    claim(&bare, &ringway, &mut claims);
    claim_turns(&ringway, &turns, &mut claims);
    Ok(claims.hold)
}

fn open(options: &Options, url: &Url) -> Outcome<Crowd> {
    let purpose = Purpose {
        rate: Some(options.rate),
        size: options.size,
        core: Some(options.beside.core_load),
        grace: GRACE,
        ..Purpose::idle(options.beside.connections)
    };
    Crowd::open_all(url, &purpose)
}

/// Publishes on schedule to everybody of one of both.
fn publish(
    options: &Options,
    side: &mut Side,
    crowd: &mut Crowd,
    tree: &Tree,
    claims: &mut Claims,
) -> Outcome<()> {
    let before = tree.thread_seconds()?;
    crowd.measure(options.duration)?;
    let (counts, why) = crowd.finish()?;
    let us = (tree.thread_seconds()? - before) * 1e6 / to_f64(counts.delivered.max(1));
    side.cpu_us.push(us);
    side.delivery.push(crowd.latencies().clone());
    side.last.push(crowd.last().clone());
    claims.add_counts(
        &format!("{}: everybody has every message once, and nobody is lost", side.name),
        counts.has_all(options.beside.connections),
        (&counts, why),
        &format!(
            "{us:.2} µs of CPU per delivery, pings included; last, ms p50 | p99 | p99.9: {}",
            figures::percentiles(crowd.last())
        ),
    );
    Ok(())
}

fn claim(bare: &Side, ringway: &Side, claims: &mut Claims) {
    let last = |quantile| {
        let at = |side: &Side| -> Vec<f64> {
            side.last.iter().map(|one| milliseconds(one, quantile)).collect()
        };
        ratio(&at(ringway), &at(bare))
    };
    let published: u64 = ringway.last.iter().map(Histogram::len).sum();
    let seen = format!("{} pairs, {published} publications", ringway.last.len());
    for (what, ratio, most) in [
        ("CPU of a delivery", ratio(&ringway.cpu_us, &bare.cpu_us), RATIO_MAX),
        ("time until everybody has a message", last(0.5), RATIO_MAX),
        ("the same at p99", last(0.99), P99_RATIO_MAX),
        ("the same at p99.9", last(0.999), P999_RATIO_MAX),
    ] {
        claims.add(
            &format!("{what}: at most {most} times the bare loop's"),
            ratio.median <= most,
            &format!("{ratio}, {seen}"),
        );
    }
}

/// Claims how long other things wait for a fan-out: as long as a turn lasts, which has one chunk of
/// it, and as much again for all else that is in the turn. It is what passes on the clock: on a core
/// that several workers share, they wait for each other too.
fn claim_turns(ringway: &Side, turns: &Histogram<u64>, claims: &mut Claims) {
    if turns.is_empty() {
        println!("not claimed  turns: no whole interval of 10 s was within, publish for longer");
        return;
    }
    let chunk_ms = spread(&ringway.cpu_us).median * CHUNK_TARGETS / 1e3;
    let lag_ms = milliseconds(turns, 0.999);
    claims.add(
        &format!(
            "the p99.9 of a turn (loop lag) is at most {CHUNKS_MAX} chunks of {chunk_ms:.2} ms"
        ),
        lag_ms <= CHUNKS_MAX * chunk_ms,
        &format!(
            "{lag_ms:.2} ms; p50 | p99 | p99.9 {}, the longest of {} {:.1}",
            figures::percentiles(turns),
            turns.len(),
            milliseconds(turns, 1.0)
        ),
    );
}
