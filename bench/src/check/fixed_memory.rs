//! What the process takes of user memory before anybody connects: with a worker on each of two
//! cores, and with more and more workers on one, as very many connections need.

use std::thread;
use std::time::Duration;

use clap::Args;

use super::Claims;
use super::crowd::{Crowd, Purpose};
use super::figures::{spread, to_f64};
use super::gateway::Gateway;
use crate::failure::Outcome;

/// Before memory is read: the latency log encodes its first interval after 10 s.
const START: Duration = Duration::from_secs(12);
/// What the process gets to settle when connections have left.
const SETTLE: Duration = Duration::from_secs(3);
/// With a worker on each of two cores, at most.
const TWO_MIB_MAX: f64 = 24.0;
/// Of each further worker on a core, at most.
const FURTHER_MIB_MAX: f64 = 3.0;

#[derive(Args, Clone, Debug)]
pub(super) struct Options {
    /// Command line of the gateway, read by sh; --cores and --workers are added.
    #[arg(long, default_value = "./ringway serve")]
    server: String,
    /// Workers that share the first core, in rising order.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 2, 4, 6])]
    workers: Vec<u16>,
    /// Connections that come and go, after which memory is shown once more.
    #[arg(long, default_value_t = 2000, value_parser = clap::value_parser!(u32).range(1..))]
    visitors: u32,
    /// Runs of each.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
}

/// One way to run it, and what its rounds have shown, in MiB.
struct Layout {
    name: String,
    workers: u16,
    flags: String,
    fresh: Vec<f64>,
    visited: Vec<f64>,
}

impl Layout {
    fn new(cores: &str, workers: u16) -> Layout {
        Layout {
            name: format!("{workers} on {cores}"),
            workers,
            flags: format!("--cores {cores} --workers {workers}"),
            fresh: Vec::new(),
            visited: Vec::new(),
        }
    }
}

pub(super) fn run(options: &Options) -> Outcome<bool> {
    let mut two = Layout::new("0,1", 2);
    let mut shared: Vec<Layout> =
        options.workers.iter().map(|workers| Layout::new("0", *workers)).collect();
    for _ in 0..options.rounds {
        for layout in std::iter::once(&mut two).chain(&mut shared) {
            run_one(options, layout)?;
        }
    }
    println!();
    println!("| workers on cores | Pss, MiB | after {} have come and gone |", options.visitors);
    println!("|---|---|---|");
    for Layout { name, fresh, visited, .. } in std::iter::once(&two).chain(&shared) {
        println!("| {name} | {} | {} |", spread(fresh), spread(visited));
    }
    println!();
    let mut claims = Claims::new();
    let mib = spread(&two.fresh);
    claims.add(
        &format!("two workers take at most {TWO_MIB_MAX} MiB without connections"),
        mib.median <= TWO_MIB_MAX,
        &format!("{mib} MiB"),
    );
    for pair in shared.windows(2) {
        let [fewer, more] = pair else { continue };
        let count = f64::from(more.workers) - f64::from(fewer.workers);
        let each: Vec<f64> = more
            .fresh
            .iter()
            .zip(&fewer.fresh)
            .map(|(more, fewer)| (more - fewer) / count)
            .collect();
        let each = spread(&each);
        claims.add(
            &format!(
                "from {} workers on a core to {}, each takes at most {FURTHER_MIB_MAX} MiB",
                fewer.workers, more.workers
            ),
            each.median <= FURTHER_MIB_MAX,
            &format!("{each} MiB"),
        );
    }
    Ok(claims.hold)
}

fn run_one(options: &Options, layout: &mut Layout) -> Outcome<()> {
    let gateway = Gateway::start(&format!("{} {}", options.server, layout.flags))?;
    let mib = || -> Outcome<f64> { Ok(to_f64(gateway.pss_bytes()?) / f64::from(1 << 20)) };
    thread::sleep(START);
    layout.fresh.push(mib()?);
    let purpose = Purpose::idle(options.visitors);
    Crowd::open_all(&gateway.url("/ws/room")?, &purpose)?.leave()?;
    thread::sleep(SETTLE);
    layout.visited.push(mib()?);
    Ok(())
}
