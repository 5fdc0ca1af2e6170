//! Breaks the worker or its engine in one line after the other, and shows after how many histories
//! each break was noticed.

#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Parser;
use ringway_sim::canaries::{CANARIES, Canary};

/// Breaks one line after the other, and fails where the simulation does not notice it.
#[derive(Debug, Parser)]
struct Flags {
    /// Only this break.
    #[arg(long = "break", value_name = "NAME", value_parser = CANARIES.map(|canary| canary.name))]
    only: Option<String>,
    /// Each must be noticed within so many histories.
    #[arg(long, default_value_t = 200)]
    seeds: u64,
}

fn main() -> ExitCode {
    let flags = Flags::parse();
    // Panics are a way of noticing, and are told below.
    std::panic::set_hook(Box::new(|_| {}));
    let mut missed = 0;
    let is_meant = |canary: &&Canary| flags.only.as_ref().is_none_or(|name| name == canary.name);
    for canary in CANARIES.iter().filter(is_meant) {
        let caught = (0..flags.seeds).find_map(|seed| canary.run(seed, 0).err());
        match caught {
            Some(broken) => {
                let seeds = broken.seed + 1;
                let what = broken.what.lines().next().unwrap_or_default();
                println!("{:<22} {:<42} {seeds:>4}  {what}", canary.name, canary.says);
            }
            None => {
                missed += 1;
                println!("{:<22} {:<42}    -  not noticed", canary.name, canary.says);
            }
        }
    }
    if missed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
