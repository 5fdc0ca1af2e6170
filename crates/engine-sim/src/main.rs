//! Runs histories on every core, and replays one by its seed.

#![forbid(unsafe_code)]
#![expect(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "histories know nothing of them; they only run on threads and are timed"
)]

use std::{
    process::ExitCode,
    sync::atomic::{AtomicU64, Ordering},
    thread,
    time::Instant,
};

use clap::Parser;
use ringway_sim::{Broken, Reached, Summary, run};

/// Runs whole workers on a virtual network. Each seed is one history; the same seed is the same
/// history.
#[derive(Debug, Parser)]
struct Flags {
    /// Replay the history of this seed.
    #[arg(long, conflicts_with_all = ["seeds", "from"])]
    seed: Option<u64>,
    /// With `--seed`: show so many of the last deeds where the history is broken.
    #[arg(long, default_value_t = 400)]
    deeds: usize,
    /// Run so many histories on all cores, and show what they have reached: a failure where one is
    /// broken, or where something was never reached.
    #[arg(long, default_value_t = 1_000)]
    seeds: u64,
    /// The seed of the first of them.
    #[arg(long, default_value_t = 0)]
    from: u64,
}

fn main() -> ExitCode {
    let flags = Flags::parse();
    let is_good = match flags.seed {
        Some(seed) => replay(seed, flags.deeds),
        None => run_all(flags.from, flags.seeds),
    };
    if is_good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Runs one history, and shows its end or what led to its being broken.
fn replay(seed: u64, deeds_max: usize) -> bool {
    match run(seed, deeds_max) {
        Ok(summary) => {
            println!("{summary:#?}");
            true
        }
        Err(broken) => {
            for deed in &broken.deeds {
                println!("{:>15} ns  {:>4}  {} {}", deed.time.0, deed.who, deed.what, deed.count);
            }
            println!("{}\nseed {seed}: {}", broken.scenario, broken.what);
            false
        }
    }
}

/// What all histories have in common.
#[derive(Debug, Default)]
struct Totals {
    histories: u64,
    broken: u64,
    turns: u64,
    opened: u64,
    delivered: u64,
    reached: Reached,
}

impl Totals {
    fn add(&mut self, outcome: Result<Summary, Box<Broken>>) {
        self.histories += 1;
        match outcome {
            Ok(summary) => {
                self.turns += summary.turns;
                self.opened += summary.opened;
                self.delivered += summary.delivered;
                self.reached.merge(&summary.reached);
            }
            Err(broken) => {
                self.broken += 1;
                println!(
                    "seed {}: {} (cargo run --profile sim -p ringway-sim -- --seed {})",
                    broken.seed, broken.what, broken.seed
                );
            }
        }
    }

    fn merge(&mut self, other: &Self) {
        self.histories += other.histories;
        self.broken += other.broken;
        self.turns += other.turns;
        self.opened += other.opened;
        self.delivered += other.delivered;
        self.reached.merge(&other.reached);
    }
}

/// Runs histories, each on the thread that is free for it.
fn run_all(from: u64, seeds: u64) -> bool {
    let begin = Instant::now();
    let next = AtomicU64::new(0);
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let mut totals = Totals::default();
    thread::scope(|scope| {
        let run_some = || {
            let mut totals = Totals::default();
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= seeds {
                    return totals;
                }
                totals.add(run(from.saturating_add(number), 0));
            }
        };
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(run_some)).collect();
        for thread in threads {
            totals.merge(&thread.join().expect("histories catch their panics"));
        }
    });
    print!("reached\n{}", totals.reached);
    println!(
        "{} histories in {:.1} s, {} broken: {} turns, {} connections, {} messages",
        totals.histories,
        begin.elapsed().as_secs_f64(),
        totals.broken,
        totals.turns,
        totals.opened,
        totals.delivered,
    );
    totals.broken == 0 && totals.reached.missing().is_empty()
}
