//! `ringway-bench rivals`: installs other servers, gives each the same jobs on one core in turn
//! with Ringway, and prints and writes one table. What a rival is, how it is installed and how it
//! is started stands in `bench/rivals/NAME/rival.toml`; nothing here knows any of them.

mod bars;
mod definition;
mod install;
mod latency;
mod results;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, ValueEnum};
use indicatif::ProgressBar;

use crate::failure::{Failure, Outcome};
use crate::load;
use crate::payload::Kind;
use crate::plan;
use crate::proc;
use crate::report::Report;
use crate::server::{self, Server};
use crate::units;
use bars::Panel;
use definition::Rival;
use results::{Column, Results};

/// Whom the others are compared with, and who is measured whatever `--only` says.
const REFERENCE: &str = "ringway";
/// Echo: connections and payload bytes.
const ECHO_CONNECTIONS: u32 = 100;
const ECHO_BYTES: usize = 512;
/// Fan-out: payload bytes.
const FANOUT_BYTES: usize = 100;

/// Installs and starts other servers in turn with Ringway, gives them the same load, and prints
/// one table.
#[derive(Args, Clone, Debug)]
pub(crate) struct Options {
    /// Measure this one and Ringway; may be repeated.
    #[arg(long, value_name = "NAME")]
    only: Vec<String>,
    /// Print who could be measured, with where each one's settings come from, and end.
    #[arg(long)]
    list: bool,
    /// Install what is missing and end.
    #[arg(long)]
    install: bool,
    /// What to measure; may be repeated.
    #[arg(long, value_enum, default_values_t = [Job::Fanout, Job::Echo, Job::Idle])]
    job: Vec<Job>,
    /// Runs of each server and job.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    pairs: u32,
    /// Subscribers of the fan-out.
    #[arg(long, default_value_t = 5000, value_parser = clap::value_parser!(u32).range(1..))]
    connections: u32,
    /// Idle connections; memory is the slope from a third of them to all.
    #[arg(long, default_value_t = 15_000, value_parser = clap::value_parser!(u32).range(3..))]
    connections_idle: u32,
    /// How long fan-out and echo are measured, and the peak before a latency.
    #[arg(long, value_parser = units::duration, default_value = "3s")]
    duration: Duration,
    /// How long latency is measured.
    #[arg(long, value_parser = units::duration, default_value = "10s")]
    duration_latency: Duration,
    /// CPU of the servers.
    #[arg(long, default_value_t = 0)]
    core_server: usize,
    /// CPU of the load processes.
    #[arg(long, default_value_t = 1)]
    core_load: usize,
    /// Port of the first server; each has its own.
    #[arg(long, default_value_t = 9100)]
    port: u16,
    /// The directory of the definitions.
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/rivals"))]
    definitions: PathBuf,
    /// Where rivals are installed [default: ringway-rivals in the user's cache directory].
    #[arg(long, value_name = "DIRECTORY")]
    cache: Option<PathBuf>,
    /// Write rivals.md and rivals.svg into this directory, and of the latency latency.md and
    /// latency.svg.
    #[arg(long, value_name = "DIRECTORY")]
    out: Option<PathBuf>,
    /// Measure with a build that has debug assertions, whose figures mean nothing.
    #[arg(long)]
    allow_debug: bool,
}

/// What a server is given to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Job {
    /// One publisher, many subscribers, closed loop: CPU per delivery.
    Fanout,
    /// 100 connections, 512 bytes, closed loop: messages per CPU second.
    Echo,
    /// Connections that do nothing: memory of each, handshakes per CPU second.
    Idle,
    /// A fan-out on schedule at half of the slower one's peak, beside Ringway at the same rate.
    /// Exit code 1 when one is earlier at p99.
    Latency,
}

/// A load for one server.
struct Task {
    job: Job,
    scenario: &'static str,
    connections: u32,
    size: usize,
    /// Publications a second; 0: closed loop.
    rate: f64,
    /// The scenario's where there is none.
    duration: Option<Duration>,
}

/// Measures all that is asked for; true when every run succeeded and nobody is earlier.
pub(crate) fn run(options: &Options) -> Outcome<bool> {
    let rivals = chosen(definition::load(&options.definitions)?, &options.only)?;
    if options.list {
        rivals.iter().flat_map(Rival::lines).for_each(|line| println!("{line}"));
        return Ok(true);
    }
    let cache = options.cache.clone().map_or_else(install::default_cache, Ok)?;
    let mut results = Results::new(&rivals);
    for (number, rival) in rivals.iter().enumerate() {
        if let Err(failure) = install::install(rival, &cache) {
            results.fail(number, &failure);
        }
    }
    let holds = options.install || measure(options, &rivals, &cache, &mut results)?;
    results.failures().iter().for_each(|failure| println!("failed       {failure}"));
    Ok(holds && results.failures().is_empty())
}

/// The rivals named by `only` and the reference, or all of them.
fn chosen(mut rivals: Vec<Rival>, only: &[String]) -> Outcome<Vec<Rival>> {
    let names: Vec<_> = rivals.iter().map(|rival| rival.name.clone()).collect();
    for name in only.iter().map(String::as_str).chain([REFERENCE]) {
        if !names.iter().any(|known| known == name) {
            return Err(Failure::usage(format!("`{name}` is none of {}", names.join(", "))));
        }
    }
    rivals.retain(|rival| only.is_empty() || rival.name == REFERENCE || only.contains(&rival.name));
    // The reference first: its figure stands at the head of every round.
    rivals.sort_by_key(|rival| rival.name != REFERENCE);
    Ok(rivals)
}

/// Runs all jobs of all rivals in turn, and prints and writes the tables. False when the latency of
/// one is less than the reference's.
fn measure(
    options: &Options,
    rivals: &[Rival],
    cache: &Path,
    results: &mut Results,
) -> Outcome<bool> {
    let before = proc::load_average();
    println!("machine      {}; load average {before}", proc::machine());
    let is_asked = options.job.contains(&Job::Latency);
    let holds = !is_asked || latency::run(options, rivals, cache, results)?;
    let jobs: Vec<Job> = options.job.iter().copied().filter(|job| *job != Job::Latency).collect();
    if jobs.is_empty() {
        return Ok(holds);
    }
    for job in &jobs {
        for round in 1..=options.pairs {
            for (number, rival) in rivals.iter().enumerate() {
                if results.has_failed(number) || rival.path(*job).is_none() {
                    continue;
                }
                match run_one(options, *job, rival, number, cache) {
                    Ok(figures) => {
                        for (column, figure) in figures {
                            println!(
                                "round {round:<6} {:<18} {figure:>10.2} {}",
                                rival.name,
                                column.name()
                            );
                            results.add(number, column, round, figure);
                        }
                    }
                    Err(failure @ Failure::Usage(_)) => return Err(failure),
                    Err(failure) => {
                        println!("round {round:<6} {:<18} failed: {failure}", rival.name);
                        results.fail(number, &failure);
                    }
                }
            }
        }
    }
    let loads = format!(
        "fan-out to {} subscribers, {FANOUT_BYTES} B, closed loop; echo on {ECHO_CONNECTIONS} \
         connections, {ECHO_BYTES} B; idle memory: slope of Pss from {} to {} connections",
        options.connections,
        options.connections_idle / 3,
        options.connections_idle,
    );
    let text = results.markdown(&facts(options, &before, &loads));
    show(options, "rivals", &text, &results.panels())?;
    Ok(holds)
}

/// What stands above a table: the machine, and which loads it was that had.
fn facts(options: &Options, load_before: &str, loads: &str) -> [String; 4] {
    let Options { pairs, core_server, core_load, .. } = options;
    [
        format!("machine: {}", proc::machine()),
        format!("load average: {load_before} before, {} after", proc::load_average()),
        format!("Ringway: {}", load::commit()),
        format!(
            "{loads}; {pairs} runs of each, in turn; server on core {core_server}, load on core \
             {core_load}"
        ),
    ]
}

/// Prints a table, and writes it and its chart into the directory that was asked for.
fn show(options: &Options, name: &str, text: &str, panels: &[Panel<'_>]) -> Outcome<()> {
    println!("\n{text}");
    let Some(directory) = &options.out else { return Ok(()) };
    let named = |error: std::io::Error| Failure::run(format!("{}: {error}", directory.display()));
    std::fs::create_dir_all(directory).map_err(named)?;
    std::fs::write(directory.join(format!("{name}.md")), text).map_err(named)?;
    bars::draw(&directory.join(format!("{name}.svg")), panels)
}

/// One run of one job on one server.
fn run_one(
    options: &Options,
    job: Job,
    rival: &Rival,
    number: usize,
    cache: &Path,
) -> Outcome<Vec<(Column, f64)>> {
    let (scenario, connections, size) = match job {
        Job::Fanout | Job::Latency => ("fanout", options.connections, FANOUT_BYTES),
        Job::Echo => ("echo", ECHO_CONNECTIONS, ECHO_BYTES),
        Job::Idle => ("open", options.connections_idle, FANOUT_BYTES),
    };
    let duration = (job != Job::Idle).then_some(options.duration);
    let task = Task { job, scenario, connections, size, rate: 0.0, duration };
    figures(job, &run_task(options, &task, rival, number, cache)?)
}

/// Starts one server and puts one load on it; an error when anything is not as it should be.
fn run_task(
    options: &Options,
    task: &Task,
    rival: &Rival,
    number: usize,
    cache: &Path,
) -> Outcome<Report> {
    let path = rival.path(task.job).ok_or_else(|| Failure::run("it has no means for this"))?;
    let port = u16::try_from(number)
        .ok()
        .and_then(|number| options.port.checked_add(number))
        .ok_or_else(|| Failure::usage("the ports end at 65535"))?;
    server::await_free((std::net::Ipv4Addr::LOCALHOST, port).into())?;
    let mut variables = install::variables(rival, cache)?;
    variables.push(("PORT", OsString::from(port.to_string())));
    let server = Server::start(&rival.serve, &variables, Some(options.core_server))?;
    let load = plan::Options {
        url: format!("ws://127.0.0.1:{port}{path}"),
        scenario: task.scenario.to_owned(),
        dialect: rival.dialect,
        compression: false,
        connections: Some(task.connections),
        rate: Some(task.rate),
        size: Some(task.size),
        payload: Kind::Filler,
        duration: task.duration,
        warmup: Duration::from_secs(1),
        grace: Duration::from_secs(10),
        out: None,
        json: None,
        pid: vec![server.pid()],
        core: Some(options.core_load),
        connections_per_process: plan::CONNECTIONS_PER_PROCESS,
        batch: 256,
        allow_debug: options.allow_debug,
    };
    let report = load::measure(&load, ProgressBar::hidden()).map_err(|failure| match failure {
        Failure::Run(why) => {
            Failure::run(format!("{why}; the server said: {}", server.last_words()))
        }
        usage @ Failure::Usage(_) => usage,
    })?;
    report.errors.first().map_or(Ok(()), |error| Err(Failure::run(error)))?;
    Ok(report)
}

/// What `job` is about, of the figures of its run.
fn figures(job: Job, report: &Report) -> Outcome<Vec<(Column, f64)>> {
    let found = |column: Column, figure: Option<f64>| match figure {
        Some(figure) if figure.is_finite() => Ok((column, figure)),
        _ => Err(Failure::run(format!("no figure for {}: too short a run", column.name()))),
    };
    let per_delivery = report.traffic.server_us_per_delivery;
    match job {
        Job::Fanout | Job::Latency => Ok(vec![found(Column::Delivery, per_delivery)?]),
        Job::Echo => Ok(vec![found(Column::Echo, per_delivery.map(|us| 1e6 / us))?]),
        Job::Idle => {
            let memory = report.memory.as_ref();
            let slope = memory.and_then(|memory| memory.pss_bytes_per_connection);
            let us = report.connecting.server_us_per_handshake;
            Ok(vec![
                found(Column::Memory, slope)?,
                found(Column::Handshakes, us.map(|us| 1e6 / us))?,
            ])
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(rivals: &[Rival]) -> Vec<&str> {
        rivals.iter().map(|rival| rival.name.as_str()).collect()
    }

    fn committed() -> Vec<Rival> {
        definition::load(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/rivals"))).unwrap()
    }

    #[test]
    fn whoever_is_asked_for_comes_behind_the_reference() {
        let rivals = chosen(committed(), &["floor-send".to_owned()]).unwrap();
        assert_eq!(names(&rivals), ["ringway", "floor-send"]);
        assert_eq!(names(&chosen(committed(), &[]).unwrap())[0], "ringway");
    }

    #[test]
    fn an_unknown_name_is_wrong_usage_and_lists_the_known_ones() {
        let Err(Failure::Usage(why)) = chosen(committed(), &["ring-way".to_owned()]) else {
            panic!("chosen")
        };
        assert!(why.contains("`ring-way`") && why.contains("floor-ring"), "{why}");
    }

    #[test]
    fn rates_are_per_cpu_second() {
        let mut report = Report::default();
        report.traffic.server_us_per_delivery = Some(8.0);
        assert_eq!(figures(Job::Fanout, &report).unwrap(), [(Column::Delivery, 8.0)]);
        assert_eq!(figures(Job::Echo, &report).unwrap(), [(Column::Echo, 125_000.0)]);
        assert!(figures(Job::Idle, &report).is_err());
    }
}
