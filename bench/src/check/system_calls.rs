//! What a worker asks of the kernel: under a fan-out nothing but `io_uring_enter`, as strace counts
//! it; and when idle it hardly wakes up.

use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use clap::Args;
use rustix::process::{Pid, Signal, kill_process};

use super::Claims;
use super::crowd::{Crowd, Purpose};
use super::gateway::Gateway;
use crate::failure::{Failure, Outcome};
use crate::proc;
use crate::units;

/// How long everything runs before it is looked at.
const LEAD: Duration = Duration::from_secs(2);
/// Sleeps of an idle worker, a second.
const SLEEPS_PER_SECOND_MAX: f64 = 5.0;

#[derive(Args, Clone, Debug)]
pub(super) struct Options {
    /// Command line of the gateway, read by sh.
    #[arg(long, default_value = "./ringway serve --workers 1")]
    server: String,
    /// Subscribers of the fan-out.
    #[arg(long, default_value_t = 5000, value_parser = clap::value_parser!(u32).range(1..))]
    connections: u32,
    /// Publications a second.
    #[arg(long, default_value_t = 50.0)]
    rate: f64,
    /// How long to look.
    #[arg(long, value_parser = units::duration, default_value = "10s")]
    duration: Duration,
}

pub(super) fn run(options: &Options) -> Outcome<bool> {
    let gateway = Gateway::start(&options.server)?;
    let mut claims = Claims::new();
    thread::sleep(LEAD);
    idle(options, &gateway, "without connections", &mut claims)?;
    let purpose = Purpose { rate: Some(options.rate), ..Purpose::idle(options.connections) };
    let mut crowd = Crowd::open_all(&gateway.url("/ws/room")?, &purpose)?;
    thread::sleep(LEAD);
    idle(options, &gateway, &format!("with {} connections", options.connections), &mut claims)?;
    crowd.begin(LEAD + options.duration + LEAD)?;
    thread::sleep(LEAD);
    for worker in gateway.workers()? {
        let calls = Trace::start(worker)?.end(options.duration)?;
        claims.add(
            &format!("worker thread {worker} only calls io_uring_enter"),
            matches!(&calls[..], [(name, _)] if name == "io_uring_enter"),
            &format!("{calls:?}"),
        );
    }
    let (counts, why) = crowd.finish()?;
    claims.add(
        "everything arrived meanwhile",
        counts.delivered > 0 && !counts.has_errors(),
        &format!("{} delivered {}", counts.delivered, why.unwrap_or_default()),
    );
    Ok(claims.hold)
}

/// Counts how often the workers go to sleep while nobody does anything.
fn idle(options: &Options, gateway: &Gateway, when: &str, claims: &mut Claims) -> Outcome<()> {
    let workers = gateway.workers()?;
    let sleeps = || -> Outcome<Vec<u64>> {
        workers.iter().map(|worker| proc::sleeps(gateway.pid(), *worker)).collect()
    };
    let before = sleeps()?;
    thread::sleep(options.duration);
    for ((worker, before), after) in workers.iter().zip(before).zip(sleeps()?) {
        let sleeps = f64::from(u32::try_from(after - before).unwrap_or(u32::MAX));
        let rate = sleeps / options.duration.as_secs_f64();
        claims.add(
            &format!("worker thread {worker} {when} sleeps at most 5 times a second"),
            rate <= SLEEPS_PER_SECOND_MAX,
            &format!("{rate:.1}"),
        );
    }
    Ok(())
}

/// strace, counting the calls of one thread.
struct Trace {
    process: Child,
}

impl Trace {
    fn start(thread: u32) -> Outcome<Trace> {
        let process = Command::new("strace")
            .args(["-c", "-p", &thread.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| Failure::run(format!("strace: {error}")))?;
        Ok(Trace { process })
    }

    /// The system calls of the next while, each with its count.
    fn end(self, duration: Duration) -> Outcome<Vec<(String, u64)>> {
        thread::sleep(duration);
        let pid = i32::try_from(self.process.id()).ok().and_then(Pid::from_raw);
        let pid = pid.ok_or_else(|| Failure::run("strace has no process id"))?;
        kill_process(pid, Signal::INT).map_err(Failure::run)?;
        let said = self.process.wait_with_output()?.stderr;
        let said = String::from_utf8_lossy(&said);
        let calls = calls(&said);
        if calls.is_empty() {
            return Err(Failure::run(format!("strace counted nothing; it said: {said}")));
        }
        Ok(calls)
    }
}

/// The rows of strace's summary: the name is last, the count fourth.
fn calls(summary: &str) -> Vec<(String, u64)> {
    let row = |line: &str| {
        let columns: Vec<&str> = line.split_whitespace().collect();
        let name = columns.last().filter(|name| **name != "total")?;
        columns.first()?.parse::<f64>().ok()?;
        Some(((*name).to_owned(), columns.get(3)?.parse().ok()?))
    };
    summary.lines().filter_map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_of_strace_is_read() {
        let summary = "strace: Process 7 attached\nstrace: Process 7 detached\n\
            % time     seconds  usecs/call     calls    errors syscall\n\
            ------ ----------- ----------- --------- --------- ----------------\n \
            99.60    0.063811          14      4321        12 io_uring_enter\n  \
            0.40    0.000256           8        32           futex\n\
            ------ ----------- ----------- --------- --------- ----------------\n\
            100.00    0.064067          14      4353        12 total\n";
        let expected = [("io_uring_enter".to_owned(), 4321), ("futex".to_owned(), 32)];
        assert_eq!(calls(summary), expected);
    }
}
