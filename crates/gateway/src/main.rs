//! The binary `ringway`: reads flags, starts one worker per core, and runs the control plane until
//! it is told to stop. It knows the engines and the kernel's limits; what connections and topics
//! are, the crates below know.

#![forbid(unsafe_code)]

mod address;
mod capacity;
mod cgroup;
mod cli;
mod config;
mod control;
mod cores;
mod decide;
mod doctor;
mod engine;
mod facts;
mod generate;
mod listener;
mod log;
mod quantity;
mod reload;
mod serve;
mod token_files;
mod workers;

use std::{ffi::OsString, io::Write, process::ExitCode};

use crate::{
    config::{Refusal, Request},
    log::Log,
    serve::Failure,
};

/// The run was wrong: an address is busy, a worker has failed.
const FAILED: u8 = 1;

/// The command line, the environment or the configuration file is wrong.
const MISUSED: u8 = 2;

fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    match config::read(&arguments) {
        Ok(Request::Serve(configuration)) => run(*configuration, arguments),
        Ok(Request::Print(text)) => {
            // Whoever reads may stop reading.
            let _ = std::io::stdout().lock().write_all(text.as_bytes());
            ExitCode::SUCCESS
        }
        Ok(Request::Doctor(request)) => diagnose(*request),
        Ok(Request::Generate(directory)) => match generate::generate(&directory) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("error: {}: {error}", directory.display());
                ExitCode::from(FAILED)
            }
        },
        Ok(Request::Check) => {
            println!("the configuration is valid");
            ExitCode::SUCCESS
        }
        Err(Refusal::Usage(error)) => {
            let _ = error.print();
            // clap's codes are those of this program: 2, and 0 for help and version.
            ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(MISUSED))
        }
        Err(Refusal::Sentence(sentence)) => {
            eprintln!("error: {sentence}");
            ExitCode::from(MISUSED)
        }
    }
}

fn diagnose(request: doctor::Request) -> ExitCode {
    let is_json = request.is_json;
    match doctor::diagnose(request) {
        Ok(report) => {
            let text = if is_json { report.json() } else { report.to_string() };
            // Whoever reads may stop reading.
            let _ = std::io::stdout().lock().write_all(text.as_bytes());
            if report.holds() { ExitCode::SUCCESS } else { ExitCode::from(FAILED) }
        }
        Err(Failure::Usage(sentence)) => {
            eprintln!("error: {sentence}");
            ExitCode::from(MISUSED)
        }
        Err(Failure::Runtime(sentence)) => {
            eprintln!("error: {sentence}");
            ExitCode::from(FAILED)
        }
    }
}

fn run(configuration: config::Configuration, arguments: Vec<OsString>) -> ExitCode {
    let serve = &configuration.serve;
    let log = Log::new(serve.log_level, serve.log);
    match serve::serve(configuration, arguments, &log) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Usage(sentence)) => {
            log.error(&sentence, &[]);
            ExitCode::from(MISUSED)
        }
        Err(Failure::Runtime(sentence)) => {
            log.error(&sentence, &[]);
            ExitCode::from(FAILED)
        }
    }
}
