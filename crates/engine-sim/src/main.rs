//! Runs histories, and replays one by its seed.

#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Parser;
use ringway_sim::{Broken, run};

/// Runs whole workers on a virtual network. Each seed is one history; the same seed is the same
/// history.
#[derive(Debug, Parser)]
struct Flags {
    /// Replay the history of this seed.
    #[arg(long, conflicts_with_all = ["seeds", "from"])]
    seed: Option<u64>,
    /// Run so many histories.
    #[arg(long, default_value_t = 1_000)]
    seeds: u64,
    /// The seed of the first of them.
    #[arg(long, default_value_t = 0)]
    from: u64,
}

fn main() -> ExitCode {
    let flags = Flags::parse();
    let seeds = match flags.seed {
        Some(seed) => seed..=seed,
        None => flags.from..=flags.from.saturating_add(flags.seeds.saturating_sub(1)),
    };
    let (mut failed, mut histories, mut turns, mut opened, mut delivered) = (0, 0, 0, 0, 0);
    for seed in seeds {
        histories += 1;
        match run(seed) {
            Ok(summary) => {
                turns += summary.turns;
                opened += summary.opened;
                delivered += summary.delivered;
                if flags.seed.is_some() {
                    println!("{summary:#?}");
                }
            }
            Err(broken) => {
                failed += 1;
                print(&broken, flags.seed.is_some());
            }
        }
    }
    println!(
        "{histories} histories, {failed} broken: {turns} turns, {opened} connections, {delivered} \
         messages"
    );
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// The account of one that is replayed, the seed of one among many.
fn print(broken: &Broken, with_deeds: bool) {
    if with_deeds {
        for deed in &broken.deeds {
            println!("{:>15} ns  {:>4}  {} {}", deed.time.0, deed.who, deed.what, deed.count);
        }
    }
    println!("seed {}: {}", broken.seed, broken.what);
}
