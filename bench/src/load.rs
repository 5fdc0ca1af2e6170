//! `ringway-bench load`: plans a run, drives the load processes through it, and measures the
//! server from outside.

use std::collections::BTreeMap;
use std::net::TcpStream;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use crate::failure::{Failure, Outcome};
use crate::log::Log;
use crate::memory;
use crate::order::{self, Counts, Encoded, Note, Order, Plan};
use crate::payload::now_ns;
use crate::plan::{Options, plans};
use crate::proc::{self, Tree};
use crate::processes::{Incomplete, Processes};
use crate::recorder;
use crate::report::{Connecting, Memory, Percentiles, Report, TrafficFigures};
use crate::scenario::{Scenario, Traffic, Weighing};
use crate::spread::to_f64;
use crate::units;
use crate::url::Url;

/// How long a server may take until it accepts the first connection.
const SERVER_START_MAX: Duration = Duration::from_secs(10);
/// What the machine gets to settle before memory is read.
const SETTLE: Duration = Duration::from_secs(1);
/// Above this a core counts as fully used, in per cent.
const BUSY_PERCENT: f64 = 95.0;

/// A run under way.
struct Load {
    plans: Vec<Plan>,
    processes: Processes,
    server: Option<Tree>,
    log: Log,
    progress: ProgressBar,
    /// Open connections by process, for the progress bar.
    open: Vec<u32>,
    incomplete: Incomplete,
    why: Option<String>,
}

/// CPU of the server and of the load processes over a stretch of time.
struct Stretch {
    seconds: f64,
    server_cpu_seconds: Option<f64>,
    /// Of the busiest load process.
    load_percent: f64,
}

/// Runs a load and prints, writes and returns its figures.
pub(crate) fn run(options: &Options) -> Outcome<Report> {
    let report = measure(options, ProgressBar::new(0))?;
    for line in report.lines() {
        println!("{line}");
    }
    if let Some(path) = &options.json {
        let json = serde_json::to_vec_pretty(&report).map_err(Failure::run)?;
        std::fs::write(path, json)
            .map_err(|error| Failure::run(format!("{}: {error}", path.display())))?;
    }
    Ok(report)
}

/// Runs a load quietly, but for `progress`.
pub(crate) fn measure(options: &Options, progress: ProgressBar) -> Outcome<Report> {
    if cfg!(debug_assertions) && !options.allow_debug {
        return Err(Failure::usage(
            "this is a debug build, whose figures mean nothing: build with --release \
             or --profile bench-fast",
        ));
    }
    let scenario = Scenario::load(&options.scenario)?;
    let url = Url::parse(&options.url)?;
    let plans = plans(options, &scenario, &url)?;
    let load_average = proc::load_average();
    await_server(&url)?;
    progress.set_style(
        ProgressStyle::with_template("{msg:12} {wide_bar} {pos}/{len}").map_err(Failure::run)?,
    );
    let mut load = Load {
        processes: Processes::start(&plans)?,
        open: vec![0; plans.len()],
        plans,
        server: (!options.pid.is_empty()).then(|| Tree::new(options.pid.clone())),
        log: Log::new(),
        progress,
        incomplete: Incomplete::default(),
        why: None,
    };
    let (connecting, mut memory) = load.connect(scenario.memory)?;
    let mut report = Report {
        scenario: options.scenario.clone(),
        question: scenario.question.clone(),
        url: options.url.clone(),
        machine: proc::machine(),
        commit: commit(),
        load_average,
        size: load.plans[0].size,
        rate: options.rate.unwrap_or(scenario.rate),
        processes: load.processes.count(),
        connecting,
        traffic: TrafficFigures::default(),
        memory: None,
        latency: BTreeMap::new(),
        warnings: Vec::new(),
        errors: Vec::new(),
    };
    if report.connecting.open == report.connecting.wanted {
        load.traffic(options, &scenario, &mut report)?;
        if let (Some(memory), Some(server)) = (&mut memory, &load.server) {
            memory.pss_bytes_after = server.pss_bytes()?;
        }
    }
    load.progress.finish_and_clear();
    report.memory = memory;
    load.finish(options, report)
}

impl Load {
    /// Opens all connections, in two steps where memory is weighed.
    fn connect(&mut self, weighing: Weighing) -> Outcome<(Connecting, Option<Memory>)> {
        let weigh_kernel = weighing == Weighing::All;
        let weights =
            if weigh_kernel { Some(memory::weigh_halves(&mut self.processes)?) } else { None };
        let slabs_before =
            weigh_kernel.then(memory::settled_slabs).filter(|slabs| !slabs.is_empty());
        let pss_before = self.server.as_ref().map(Tree::pss_bytes).transpose()?;
        let wanted: u32 = self.plans.iter().map(Plan::clients).sum();
        let mut third = None;
        if weighing != Weighing::None && wanted >= 3 {
            let part = |plan: &Plan| plan.clients() / 3;
            let (open, ..) = self.open_until(part)?;
            thread::sleep(SETTLE);
            let pss = self.server.as_ref().map(Tree::pss_bytes).transpose()?;
            third = pss.map(|pss| (open, pss));
        }
        let already: u32 = self.open.iter().sum();
        let (open, failed, stretch) = self.open_until(Plan::clients)?;
        let opened = f64::from(open - already);
        let server_us = stretch.server_cpu_seconds.map(|seconds| seconds * 1e6 / opened.max(1.0));
        let connecting = Connecting {
            wanted,
            open: open.min(wanted - failed.min(wanted)),
            seconds: stretch.seconds,
            per_second: opened / stretch.seconds,
            server_us_per_handshake: server_us,
        };
        let Some(pss_bytes_before) = pss_before else { return Ok((connecting, None)) };
        if weighing == Weighing::User {
            thread::sleep(SETTLE);
        }
        let slabs_after = weigh_kernel.then(memory::settled_slabs);
        let pss_bytes_after =
            self.server.as_ref().map(Tree::pss_bytes).transpose()?.unwrap_or_default();
        let slope = third
            .filter(|(count, _)| *count < open)
            .map(|(count, pss)| (to_f64(pss_bytes_after) - to_f64(pss)) / f64::from(open - count));
        let slabs = match (weights, slabs_before, slabs_after) {
            (Some(weights), Some(before), Some(after)) => {
                Some(memory::server_half(&after.since(&before), &weights, open))
            }
            _ => None,
        };
        let memory =
            Memory { pss_bytes_before, pss_bytes_after, pss_bytes_per_connection: slope, slabs };
        Ok((connecting, Some(memory)))
    }

    /// Opens connections until each process has tried as many as `clients` says.
    fn open_until(&mut self, clients: impl Fn(&Plan) -> u32) -> Outcome<(u32, u32, Stretch)> {
        self.progress.set_message("connecting");
        self.progress.set_length(self.plans.iter().map(|plan| u64::from(clients(plan))).sum());
        let watch = self.watch()?;
        let mut failed_in_all = 0;
        for number in 0..self.plans.len() {
            let clients = clients(&self.plans[number]);
            self.processes.tell(number, Order::Open { clients })?;
            failed_in_all += self.await_open(order::awaited(&self.plans, number))?;
        }
        let stretch = watch.end(self)?;
        Ok((self.open.iter().sum(), failed_in_all, stretch))
    }

    /// Waits until so many processes have opened theirs; says how many could not be.
    fn await_open(&mut self, mut waiting: usize) -> Outcome<u32> {
        let mut failed_in_all = 0;
        while waiting > 0 {
            let (number, note) = self.processes.next()?;
            if let Note::Opened { open, failed, why } = note {
                self.open[number] = open;
                failed_in_all += failed;
                waiting -= 1;
                self.why = self.why.take().or(why);
            } else {
                self.take(number, note, None)?;
            }
            self.progress.set_position(self.open.iter().copied().map(u64::from).sum());
        }
        Ok(failed_in_all)
    }

    /// Warms up, then measures.
    fn traffic(
        &mut self,
        options: &Options,
        scenario: &Scenario,
        report: &mut Report,
    ) -> Outcome<()> {
        let sends = !matches!(scenario.traffic, Traffic::None | Traffic::Churn);
        if sends && !options.warmup.is_zero() {
            self.progress.set_message("warming up");
            let counts = self.send_for(options.warmup, options.grace, false)?;
            if counts.delivered == 0 || counts.has_errors() {
                report.traffic.counts = counts;
                report.errors.push("the warm-up did not arrive whole, nothing was measured".into());
                return Ok(());
            }
        }
        self.progress.set_message("measuring");
        let duration = options.duration.map_or_else(|| units::duration(&scenario.duration), Ok);
        let duration = duration.map_err(Failure::Usage)?;
        if duration.is_zero() {
            return Ok(());
        }
        let watch = self.watch()?;
        let counts = self.send_for(duration, options.grace, true)?;
        let stretch = watch.end(self)?;
        report.traffic = traffic_figures(&counts, &stretch, report.connecting.open);
        Ok(())
    }

    /// Lets the processes send for `duration` and waits for the end of what was under way.
    fn send_for(&mut self, duration: Duration, grace: Duration, record: bool) -> Outcome<Counts> {
        let duration_ns = u64::try_from(duration.as_nanos()).map_err(Failure::run)?;
        let grace_ns = u64::try_from(grace.as_nanos()).map_err(Failure::run)?;
        self.progress.set_length(duration_ns / 1_000_000);
        let started = Instant::now();
        self.incomplete.clear();
        self.processes.tell_all(Order::Run { duration_ns, grace_ns, record })?;
        let mut sum = Counts::default();
        let mut waiting = self.plans.len();
        while waiting > 0 {
            let (number, note) = self.processes.next()?;
            match note {
                Note::Done { counts, why } => {
                    sum.add(&counts);
                    self.why = self.why.take().or(why);
                    waiting -= 1;
                }
                note => self.take(number, note, Some(record))?,
            }
            let elapsed = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
            self.progress.set_position(elapsed.min(duration_ns / 1_000_000));
        }
        Ok(sum)
    }

    /// Takes a note that ends nothing. `record` is that of the run, if one is under way.
    fn take(&mut self, number: usize, note: Note, record: Option<bool>) -> Outcome<()> {
        match note {
            Note::Progress { open, .. } => self.open[number] = open,
            Note::Interval { start_ns, end_ns, histograms } => {
                for Encoded { tag, histogram } in histograms {
                    self.log.add((start_ns, end_ns), &tag, &recorder::decode(&histogram)?)?;
                }
            }
            Note::Have { sequence, latency_ns } => {
                let all = self.plans.len();
                if let Some(latency_ns) = self.incomplete.take(sequence, latency_ns, all) {
                    self.everybody_has(latency_ns, record == Some(true))?;
                }
            }
            Note::Published { published } => {
                for other in (0..self.plans.len()).filter(|other| *other != number) {
                    self.processes.tell(other, Order::Finish { published })?;
                }
            }
            Note::Opened { .. } | Note::Done { .. } | Note::Ready | Note::Failed { .. } => {}
        }
        Ok(())
    }

    /// Shared group: the subscribers of all processes have a publication.
    fn everybody_has(&mut self, latency_ns: u64, record: bool) -> Outcome<()> {
        if record {
            let now = now_ns();
            let mut histogram = recorder::histogram();
            histogram.saturating_record(latency_ns);
            self.log.add((now, now), recorder::Tag::Last.name(), &histogram)?;
        }
        match self.plans.iter().position(|plan| plan.publisher && plan.rate == 0.0) {
            Some(publisher) => self.processes.tell(publisher, Order::Publish),
            None => Ok(()),
        }
    }

    fn watch(&self) -> Outcome<Watch> {
        Ok(Watch {
            started: Instant::now(),
            server: self.server.as_ref().map(Tree::cpu_seconds).transpose()?,
            load: self.load_cpu_seconds()?,
        })
    }

    fn load_cpu_seconds(&self) -> Outcome<Vec<f64>> {
        let pids = self.processes.pids();
        pids.into_iter().map(|pid| Tree::new(vec![pid]).cpu_seconds()).collect()
    }

    /// Adds latencies, warnings and errors, and writes the log.
    fn finish(mut self, options: &Options, mut report: Report) -> Outcome<Report> {
        let totals = self.log.totals()?;
        report.latency =
            totals.iter().map(|(tag, total)| (tag.clone(), Percentiles::of(total))).collect();
        let Connecting { wanted, open, .. } = report.connecting;
        let why = self.why.take().unwrap_or_else(|| "no reason was seen".to_owned());
        if open < wanted {
            report.errors.push(format!("{} connections were not opened: {why}", wanted - open));
        }
        let counts = report.traffic.counts;
        if counts.has_errors() {
            report.errors.push(format!(
                "{} messages missing, {} repeated, {} broken, {} connections lost; the first: \
                 {why}",
                counts.missing, counts.repeated, counts.broken, counts.lost
            ));
        }
        let server_percent = report.traffic.server_cpu_percent.unwrap_or(0.0);
        if report.traffic.load_cpu_percent > BUSY_PERCENT && server_percent < BUSY_PERCENT {
            report.warnings.push(format!(
                "the load used {:.0} % of its core while the server used {server_percent:.0} %: \
                 rates and latencies are the load's, not the server's",
                report.traffic.load_cpu_percent
            ));
        }
        if cfg!(debug_assertions) {
            report.warnings.push("a debug build measured this".to_owned());
        }
        if let Some(path) = &options.out {
            self.log.write(path, &report.lines())?;
        }
        Ok(report)
    }
}

/// The start of a [`Stretch`].
struct Watch {
    started: Instant,
    server: Option<f64>,
    load: Vec<f64>,
}

impl Watch {
    fn end(self, load: &Load) -> Outcome<Stretch> {
        let seconds = self.started.elapsed().as_secs_f64();
        let server = load.server.as_ref().map(Tree::cpu_seconds).transpose()?;
        let busiest = load
            .load_cpu_seconds()?
            .iter()
            .zip(&self.load)
            .map(|(after, before)| after - before)
            .fold(0.0, f64::max);
        Ok(Stretch {
            seconds,
            server_cpu_seconds: server.zip(self.server).map(|(after, before)| after - before),
            load_percent: busiest / seconds * 100.0,
        })
    }
}

fn traffic_figures(counts: &Counts, stretch: &Stretch, connections: u32) -> TrafficFigures {
    let delivered = to_f64(counts.delivered);
    let seconds = stretch.seconds;
    let cpu = stretch.server_cpu_seconds;
    let idle = counts.published == 0 && seconds > 0.0 && connections > 0;
    TrafficFigures {
        seconds,
        counts: *counts,
        delivered_per_second: delivered / seconds,
        frame_bytes_per_delivery: to_f64(counts.frame_bytes) / delivered.max(1.0),
        server_cpu_percent: cpu.map(|cpu| cpu / seconds * 100.0),
        server_us_per_delivery: cpu
            .filter(|_| counts.delivered > 0)
            .map(|cpu| cpu * 1e6 / delivered),
        server_us_per_connection_second: cpu
            .filter(|_| idle)
            .map(|cpu| cpu * 1e6 / seconds / f64::from(connections)),
        load_cpu_percent: stretch.load_percent,
    }
}

/// Waits until the server accepts a connection.
fn await_server(url: &Url) -> Outcome<()> {
    let deadline = Instant::now() + SERVER_START_MAX;
    loop {
        match TcpStream::connect_timeout(&url.address, SERVER_START_MAX) {
            Ok(_) => return Ok(()),
            Err(error) if Instant::now() > deadline => {
                return Err(Failure::run(format!("{}: {error}", url.address)));
            }
            Err(_) => thread::sleep(Duration::from_millis(20)),
        }
    }
}

/// The commit of the working directory, for the log; what is measured is usually built from it.
pub(crate) fn commit() -> String {
    let git = Command::new("git").args(["describe", "--always", "--dirty"]).output();
    match git {
        Ok(output) if output.status.success() => {
            String::from_utf8_lossy(&output.stdout).trim().to_owned()
        }
        _ => "unknown".to_owned(),
    }
}
