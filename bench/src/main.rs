//! `ringway-bench`: puts a load on a WebSocket server and measures it from outside (`load`),
//! compares the latencies of two runs (`compare`), and measures servers against each other in turn,
//! those on a command line (`pairs`) or those of `bench/rivals` (`rivals`). All that knows nothing
//! of Ringway but its URL and its process; `check` shows of the real binary what takes too many
//! connections or too long for a test.

#![deny(unsafe_op_in_unsafe_fn)]

mod calibration;
mod chart;
mod check;
mod clients;
mod compare;
mod confidence;
mod dialect;
mod document;
mod failure;
mod frame;
mod generator;
mod groups;
mod inflate;
mod input;
mod load;
mod log;
mod memory;
mod order;
mod pairs;
mod payload;
mod plan;
mod proc;
mod processes;
mod random;
mod recorder;
mod report;
mod returning;
#[expect(unsafe_code, reason = "ring entries point at memory; this module alone makes them")]
mod ring;
mod rivals;
mod scenario;
mod server;
mod socket;
mod spread;
mod units;
mod url;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use failure::{Failure, Outcome};

/// Load generator and comparison for Ringway and its rivals.
#[derive(Debug, Parser)]
#[command(name = "ringway-bench", version)]
struct Options {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Put a load on a WebSocket server and measure both.
    Load(Box<plan::Options>),
    /// Compare the latencies of interval logs, one run or several. Exit code 1: the second are
    /// above the tolerance; 2: nothing can be compared.
    Compare(compare::Options),
    /// Measure servers against each other in interleaved runs: CPU per delivery.
    Pairs(pairs::Options),
    /// Install and start other servers in turn with Ringway, and print one table. Exit code 1:
    /// one of them failed.
    Rivals(rivals::Options),
    /// Show that Ringway keeps a promise. Exit code 1: it does not.
    Check(check::Options),
    /// One process of a load; started by it.
    #[command(name = processes::SUBCOMMAND, hide = true)]
    LoadProcess,
}

fn main() -> ExitCode {
    let options = Options::parse();
    match run(&options.command) {
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            eprintln!("ringway-bench: {failure}");
            ExitCode::from(match failure {
                Failure::Run(_) => 1,
                Failure::Usage(_) => 2,
            })
        }
    }
}

/// Runs a command and returns its exit code.
fn run(command: &Command) -> Outcome<u8> {
    match command {
        Command::Load(options) => {
            let report = load::run(options)?;
            Ok(u8::from(!report.errors.is_empty()))
        }
        Command::Compare(options) => compare::run(options).map(|is_within| u8::from(!is_within)),
        Command::Pairs(options) => pairs::run(options).map(|()| 0),
        Command::Rivals(options) => rivals::run(options).map(|is_whole| u8::from(!is_whole)),
        Command::Check(options) => check::run(options).map(|holds| u8::from(!holds)),
        Command::LoadProcess => generator::run().map(|()| 0),
    }
}
