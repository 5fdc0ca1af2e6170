//! Deliveries that a second of CPU pays for, from one publication a second to ten thousand: a topic
//! that is busy is served by fewer, longer sends. What the gateway takes anyway is taken off.

use std::thread;
use std::time::Duration;

use clap::Args;

use super::Claims;
use super::crowd::{Crowd, Purpose};
use super::figures::{Watch, milliseconds, ratio, spread, to_f64};
use super::gateway::{self, Gateway};
use crate::failure::{Failure, Outcome};
use crate::units;

/// CPU time is counted in hundredths of a second: fewer publications would not show.
const PUBLICATIONS_MIN: f64 = 30.0;
/// How long the connections are left alone before the idle CPU is measured.
const SETTLE: Duration = Duration::from_secs(1);
/// What is published faster than it can be delivered still arrives.
const GRACE: Duration = Duration::from_secs(60);
/// The rate that is also measured with a delay.
const DELAYED_RATE: f64 = 1000.0;
const NO_DELAY: &str = "0";
/// The rate whose deliveries the others are compared with.
const SLOW_RATE: f64 = 10.0;
/// The rate that is so high that publications are joined without a delay.
const FAST_RATE: f64 = 10_000.0;
/// How many times as many deliveries a second of CPU must give where publications are joined.
const RATIO_MIN: f64 = 4.0;

#[derive(Args, Clone, Debug)]
pub(super) struct Options {
    /// Command line of the gateway, read by sh; --coalesce-delay is added. Its queues have room for
    /// a load that is slower than the gateway, which would be cut otherwise.
    #[arg(
        long,
        default_value = "./ringway serve --workers 1 --cores 0 --send-queue-bytes-max 4MiB \
                         --send-queue-total-bytes-max 2GiB"
    )]
    server: String,
    /// CPU of the load.
    #[arg(long, default_value_t = 1)]
    core_load: usize,
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..))]
    connections: u32,
    /// Publications a second.
    #[arg(long, value_delimiter = ',', default_values_t = [1.0, 10.0, 100.0, 1000.0, 10_000.0])]
    rates: Vec<f64>,
    /// The delay that the rate of 1,000 is also measured with.
    #[arg(long, default_value = "5ms")]
    coalesce_delay: String,
    /// Bytes of a publication.
    #[arg(long, value_parser = units::size, default_value = "100")]
    size: usize,
    /// How long each run is measured; longer where this would be few publications.
    #[arg(long, value_parser = units::duration, default_value = "5s")]
    duration: Duration,
    /// How long the idle CPU is measured.
    #[arg(long, value_parser = units::duration, default_value = "5s")]
    idle: Duration,
    /// Runs of each.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
}

/// One rate, and what its rounds have shown.
struct Row {
    rate: f64,
    delay: String,
    /// Deliveries for each second of CPU, in thousands.
    per_cpu_second: Vec<f64>,
    cpu_percent: Vec<f64>,
    p50_ms: Vec<f64>,
    p99_ms: Vec<f64>,
}

impl Row {
    fn new(rate: f64, delay: &str) -> Row {
        Row {
            rate,
            delay: delay.to_owned(),
            per_cpu_second: Vec::new(),
            cpu_percent: Vec::new(),
            p50_ms: Vec::new(),
            p99_ms: Vec::new(),
        }
    }

    fn name(&self) -> String {
        format!("{}/s, delay {}", self.rate, self.delay)
    }
}

pub(super) fn run(options: &Options) -> Outcome<bool> {
    if options.rates.iter().any(|rate| !(*rate > 0.0 && rate.is_finite())) {
        return Err(Failure::usage("a rate is above 0"));
    }
    let mut rows = Vec::new();
    for rate in &options.rates {
        rows.push(Row::new(*rate, NO_DELAY));
        if same(*rate, DELAYED_RATE) {
            rows.push(Row::new(*rate, &options.coalesce_delay));
        }
    }
    let mut claims = Claims::new();
    for _ in 0..options.rounds {
        for row in &mut rows {
            run_one(options, row, &mut claims)?;
        }
    }
    print(&rows);
    compare(&rows, &mut claims);
    Ok(claims.hold)
}

/// Claims what the rates give at which publications are joined: by their number, or by a delay.
fn compare(rows: &[Row], claims: &mut Claims) {
    let Some(slow) = rows.iter().find(|row| same(row.rate, SLOW_RATE)) else {
        println!("not claimed  what joining gives: {SLOW_RATE} a second is not among the rates");
        return;
    };
    let is_joined = |row: &&Row| {
        same(row.rate, FAST_RATE) || (same(row.rate, DELAYED_RATE) && row.delay != NO_DELAY)
    };
    for row in rows.iter().filter(is_joined) {
        let ratio = ratio(&row.per_cpu_second, &slow.per_cpu_second);
        claims.add(
            &format!(
                "{} gets at least {RATIO_MIN} times the deliveries of {} for the same CPU",
                row.name(),
                slow.name()
            ),
            ratio.median >= RATIO_MIN,
            &ratio.to_string(),
        );
    }
}

fn run_one(options: &Options, row: &mut Row, claims: &mut Claims) -> Outcome<()> {
    let gateway = Gateway::start(&format!("{} --coalesce-delay {}", options.server, row.delay))?;
    let purpose = Purpose {
        rate: Some(row.rate),
        size: options.size,
        core: Some(options.core_load),
        grace: GRACE,
        ..Purpose::idle(options.connections)
    };
    let mut crowd = Crowd::open_all(&gateway.url("/ws/room")?, &purpose)?;
    thread::sleep(SETTLE);
    let watch = Watch::start(gateway.tree())?;
    thread::sleep(options.idle);
    let idle = watch.look()?;
    let duration = options.duration.max(Duration::from_secs_f64(PUBLICATIONS_MIN / row.rate));
    let watch = Watch::start(gateway.tree())?;
    crowd.measure(duration)?;
    let (counts, why) = crowd.finish()?;
    let busy = watch.look()?;
    let cpu_seconds = busy.cpu_seconds - idle.cpu_seconds * busy.seconds / idle.seconds;
    row.per_cpu_second.push(to_f64(counts.delivered) / cpu_seconds.max(0.01) / 1000.0);
    row.cpu_percent.push(busy.percent());
    row.p50_ms.push(milliseconds(crowd.latencies(), 0.5));
    row.p99_ms.push(milliseconds(crowd.latencies(), 0.99));
    let closed = gateway::by_reason(&gateway.stats()?, "closed");
    claims.add_counts(
        &format!("{}: everybody has every message", row.name()),
        counts.has_all(options.connections),
        (&counts, why),
        &format!("in {:.1} s; closed {closed:?}", busy.seconds),
    );
    Ok(())
}

fn print(rows: &[Row]) {
    println!();
    println!("| publications | thousand deliveries a CPU second | CPU, % | p50, ms | p99, ms |");
    println!("|---|---|---|---|---|");
    for row in rows {
        println!(
            "| {} | {} | {:.0} | {} | {} |",
            row.name(),
            spread(&row.per_cpu_second),
            spread(&row.cpu_percent).median,
            spread(&row.p50_ms),
            spread(&row.p99_ms)
        );
    }
}

/// Rates are given in decimals.
fn same(left: f64, right: f64) -> bool {
    (left - right).abs() < 1e-9
}
