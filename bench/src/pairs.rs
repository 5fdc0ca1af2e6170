//! `ringway-bench pairs`: runs the same load on several servers in turn, A B A B …, because on a
//! shared machine only ratios between neighbours in time mean anything.

use std::time::Duration;

use clap::Args;
use indicatif::ProgressBar;

use crate::dialect::Dialect;
use crate::failure::{Failure, Outcome};
use crate::load;
use crate::payload::Kind;
use crate::plan;
use crate::proc;
use crate::server::{self, Server};
use crate::spread::{self, Spread};
use crate::units;
use crate::url::Url;

/// Measures servers against each other in interleaved runs: CPU per delivery.
#[derive(Args, Clone, Debug)]
pub(crate) struct Options {
    /// Command line of a server, run by sh; at least one, the first is what others are compared
    /// with.
    #[arg(long = "server", value_name = "COMMAND", required = true)]
    servers: Vec<String>,
    /// URL of each server, in the same order, or one for all.
    #[arg(long = "url", default_value = "ws://127.0.0.1:9100/ws/bench")]
    urls: Vec<String>,
    /// Scenario of every run.
    #[arg(long, default_value = "fanout")]
    scenario: String,
    /// Connections of every run [default: the scenario's].
    #[arg(long)]
    connections: Option<u32>,
    /// Payload bytes of a message [default: the scenario's].
    #[arg(long, value_parser = units::size)]
    size: Option<usize>,
    /// What payloads consist of.
    #[arg(long, value_enum, default_value_t)]
    payload: Kind,
    /// Offer permessage-deflate to every server.
    #[arg(long)]
    compression: bool,
    /// How long each run is measured [default: the scenario's].
    #[arg(long, value_parser = units::duration)]
    duration: Option<Duration>,
    /// Runs of each server.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    pairs: u32,
    /// CPU of the servers.
    #[arg(long)]
    core_server: Option<usize>,
    /// CPU of the load processes.
    #[arg(long)]
    core_load: Option<usize>,
    /// Messages that a load process waits for before it wakes up.
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..))]
    batch: u32,
    /// Measure with a build that has debug assertions, whose figures mean nothing.
    #[arg(long)]
    allow_debug: bool,
}

/// What one run has shown.
#[derive(Clone, Copy, Debug)]
struct Figure {
    /// CPU of the server for a delivery, in microseconds.
    us: f64,
    /// Of its frame, as it came.
    bytes: f64,
}

/// Runs the servers in turn and prints the table.
pub(crate) fn run(options: &Options) -> Outcome<()> {
    if options.urls.len() != 1 && options.urls.len() != options.servers.len() {
        return Err(Failure::usage("give one --url, or one for each --server"));
    }
    println!("machine      {}; load average {}", proc::machine(), proc::load_average());
    let mut figures = vec![Vec::new(); options.servers.len()];
    for round in 1..=options.pairs {
        for (number, command) in options.servers.iter().enumerate() {
            let url = options.urls.get(number).unwrap_or(&options.urls[0]);
            let figure = run_one(options, command, url)
                .map_err(|failure| Failure::run(format!("`{command}`: {failure}")))?;
            let Figure { us, bytes } = figure;
            println!("round {round:<6} {}: {us:.2} µs, {bytes:.0} B per delivery", name(number));
            figures[number].push(figure);
        }
    }
    println!("after        load average {}", proc::load_average());
    table(&options.servers, &figures).iter().for_each(|line| println!("{line}"));
    Ok(())
}

/// One run on one server.
fn run_one(options: &Options, command: &str, url: &str) -> Outcome<Figure> {
    let address = Url::parse(url)?.address;
    server::await_free(address)?;
    let server = Server::start(&format!("exec {command}"), &[], options.core_server)?;
    let load = plan::Options {
        url: url.to_owned(),
        scenario: options.scenario.clone(),
        dialect: Dialect::Plain,
        compression: options.compression,
        connections: options.connections,
        rate: Some(0.0),
        size: options.size,
        payload: options.payload,
        duration: options.duration,
        warmup: Duration::from_secs(1),
        grace: Duration::from_secs(10),
        out: None,
        json: None,
        pid: vec![server.pid()],
        core: options.core_load,
        connections_per_process: plan::CONNECTIONS_PER_PROCESS,
        batch: options.batch,
        allow_debug: options.allow_debug,
    };
    let report = load::measure(&load, ProgressBar::hidden()).map_err(|failure| {
        Failure::run(format!("{failure}; the server said: {}", server.last_words()))
    })?;
    if let Some(error) = report.errors.first() {
        return Err(Failure::run(error));
    }
    let us = report
        .traffic
        .server_us_per_delivery
        .ok_or_else(|| Failure::usage(format!("`{}` delivers nothing", options.scenario)))?;
    Ok(Figure { us, bytes: report.traffic.frame_bytes_per_delivery })
}

/// Median, least and most of each server, its median over the first's, and the bytes of a frame.
fn table(servers: &[String], figures: &[Vec<Figure>]) -> Vec<String> {
    let mut lines = vec![format!(
        "{:<4} {:>8} {:>8} {:>8} {:>7} {:>7}  {}",
        "", "median", "min", "max", "ratio", "bytes", "server (CPU µs and bytes per delivery)"
    )];
    let of = |figures: &[Figure], get: fn(&Figure) -> f64| figures.iter().map(get).collect();
    let us = |figures: &[Figure]| -> Vec<f64> { of(figures, |figure| figure.us) };
    let first = figures.first().map_or(f64::NAN, |figures| spread::median(&us(figures)));
    for (number, (server, figures)) in servers.iter().zip(figures).enumerate() {
        let bytes: Vec<f64> = of(figures, |figure| figure.bytes);
        let Some(Spread { median, least, most }) = Spread::of(&us(figures)) else { continue };
        lines.push(format!(
            "{:<4} {median:>8.2} {least:>8.2} {most:>8.2} {:>7.2} {:>7.0}  {server}",
            name(number),
            median / first,
            spread::median(&bytes)
        ));
    }
    lines
}

/// A, B, … and numbers behind Z.
fn name(number: usize) -> String {
    match u8::try_from(number) {
        Ok(number) if number < 26 => char::from(b'A' + number).to_string(),
        _ => number.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_has_medians_and_their_ratio() {
        let servers = ["one".to_owned(), "two".to_owned()];
        let figures = |us: &[f64]| us.iter().map(|us| Figure { us: *us, bytes: 102.4 }).collect();
        let lines = table(&servers, &[figures(&[5.0, 9.0, 4.0]), figures(&[6.0, 8.0, 7.0, 7.0])]);
        assert_eq!(
            lines[1].split_whitespace().collect::<Vec<_>>(),
            ["A", "5.00", "4.00", "9.00", "1.00", "102", "one"]
        );
        assert_eq!(
            lines[2].split_whitespace().collect::<Vec<_>>(),
            ["B", "7.00", "6.00", "8.00", "1.40", "102", "two"]
        );
    }
}
