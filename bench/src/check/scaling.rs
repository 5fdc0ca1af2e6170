//! What further workers cost: the same closed fan-out on one worker, on several that share a core,
//! and on two with a core each, in turn; and how long a letter takes from worker to worker.

use std::time::Duration;

use clap::Args;

use super::Claims;
use super::crowd::{Crowd, Purpose};
use super::figures::{Watch, spread, to_f64};
use super::gateway::Gateway;
use crate::failure::Outcome;
use crate::units;

/// How long everything runs before it is measured.
const WARM_UP: Duration = Duration::from_secs(1);
/// Messages that the load waits for before it wakes up, as in `pairs`.
const BATCH: u32 = 256;

#[derive(Args, Clone, Debug)]
pub(super) struct Options {
    /// Command line of the gateway, read by sh; --cores and --workers are added.
    #[arg(long, default_value = "./ringway serve")]
    server: String,
    /// Workers that share the first core.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 2, 4, 6])]
    workers: Vec<u16>,
    /// The first core, and the second, which is also that of the load.
    #[arg(long, default_value_t = 0)]
    core_server: usize,
    #[arg(long, default_value_t = 1)]
    core_load: usize,
    #[arg(long, default_value_t = 5000, value_parser = clap::value_parser!(u32).range(1..))]
    connections: u32,
    /// Bytes of a publication.
    #[arg(long, value_parser = units::size, default_value = "100")]
    size: usize,
    /// How long each run is measured.
    #[arg(long, value_parser = units::duration, default_value = "5s")]
    duration: Duration,
    /// Runs of each.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
}

/// One way to run it, and what its rounds have shown.
struct Layout {
    name: String,
    flags: String,
    cpu_us: Vec<f64>,
    hop_p50_us: Vec<f64>,
    hop_p99_us: Vec<f64>,
}

impl Layout {
    fn new(name: String, flags: String) -> Layout {
        Layout { name, flags, cpu_us: Vec::new(), hop_p50_us: Vec::new(), hop_p99_us: Vec::new() }
    }
}

pub(super) fn run(options: &Options) -> Outcome<bool> {
    let Options { core_server, core_load, .. } = options;
    let mut layouts: Vec<Layout> = options
        .workers
        .iter()
        .map(|workers| {
            let name = format!("{workers} on core {core_server}");
            Layout::new(name, format!("--cores {core_server} --workers {workers}"))
        })
        .collect();
    layouts.push(Layout::new(
        format!("2 on cores {core_server} and {core_load}, the load's"),
        format!("--cores {core_server},{core_load} --workers 2"),
    ));
    let mut claims = Claims::new();
    for _ in 0..options.rounds {
        for layout in &mut layouts {
            run_one(options, layout, &mut claims)?;
        }
    }
    println!();
    println!("| workers | CPU µs per delivery | × the first | hop p50, µs | hop p99, µs |");
    println!("|---|---|---|---|---|");
    let first = spread(&layouts[0].cpu_us).median;
    for layout in &layouts {
        let cpu = spread(&layout.cpu_us);
        println!(
            "| {} | {cpu} | {:.2} | {} | {} |",
            layout.name,
            cpu.median / first,
            spread(&layout.hop_p50_us),
            spread(&layout.hop_p99_us)
        );
    }
    Ok(claims.hold)
}

fn run_one(options: &Options, layout: &mut Layout, claims: &mut Claims) -> Outcome<()> {
    let gateway = Gateway::start(&format!("{} {}", options.server, layout.flags))?;
    let purpose = Purpose {
        rate: Some(0.0),
        batch: BATCH,
        size: options.size,
        core: Some(options.core_load),
        ..Purpose::idle(options.connections)
    };
    let mut crowd = Crowd::open_all(&gateway.url("/ws/room")?, &purpose)?;
    crowd.begin(WARM_UP)?;
    crowd.finish()?;
    let watch = Watch::start(gateway.tree())?;
    crowd.begin(options.duration)?;
    let (counts, why) = crowd.finish()?;
    let busy = watch.look()?;
    let us = busy.cpu_seconds * 1e6 / to_f64(counts.delivered.max(1));
    layout.cpu_us.push(us);
    layout.hop_p50_us.push(gateway.latency_us("hop", "p50")?);
    layout.hop_p99_us.push(gateway.latency_us("hop", "p99")?);
    claims.add_counts(
        &format!("{}: everybody has every message", layout.name),
        counts.has_all(options.connections),
        (&counts, why),
        &format!("{us:.2} µs per delivery"),
    );
    Ok(())
}
