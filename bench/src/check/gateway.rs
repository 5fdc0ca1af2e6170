//! The binary under check: a child process on free ports of loopback, and what it says of itself.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use rustix::process::{Resource, Rlimit, Signal, WaitOptions, prlimit, waitpid};
use serde_json::Value;

use crate::failure::{Failure, Outcome};
use crate::log;
use crate::proc::Tree;
use crate::server::Server;
use crate::url::Url;

/// How long it may take to start, to end, to answer, and until it is as it should be.
const PATIENCE: Duration = Duration::from_secs(60);
const LOOK_INTERVAL: Duration = Duration::from_millis(200);

/// What is held for clients, by the names of `/stats`: all zero when nobody is left.
pub(super) const HELD: [&str; 12] = [
    "connections",
    "handshakes",
    "handshake_bytes",
    "partial_bytes",
    "topics",
    "subscriptions",
    "send_queues",
    "send_queue_bytes",
    "inbox_letters",
    "fanout_jobs",
    "fanout_bytes",
    "publishers_paused",
];

/// A running gateway; dropping ends it.
#[derive(Debug)]
pub(super) struct Gateway {
    server: Server,
    data: SocketAddr,
    /// Of the control plane, where it has one.
    admin: Option<SocketAddr>,
}

impl Gateway {
    /// Starts `command`, which a shell reads, with flags for its ports behind it, and waits until
    /// it has said where it listens.
    pub(super) fn start(command: &str) -> Outcome<Gateway> {
        Gateway::start_at(command, SocketAddr::from(([127, 0, 0, 1], 0)))
    }

    /// As [`Gateway::start`], with this address for its data plane.
    pub(super) fn start_at(command: &str, data: SocketAddr) -> Outcome<Gateway> {
        Gateway::launch(command, data, true)
    }

    /// As [`Gateway::start`], without a control plane, so that it says nothing of itself.
    pub(super) fn start_without_admin(command: &str) -> Outcome<Gateway> {
        Gateway::launch(command, SocketAddr::from(([127, 0, 0, 1], 0)), false)
    }

    fn launch(command: &str, data: SocketAddr, has_admin: bool) -> Outcome<Gateway> {
        let admin = if has_admin { "127.0.0.1:0" } else { "off" };
        let flags = format!("--listen {data} --admin {admin} --log json");
        let server = Server::start(&format!("exec {command} {flags}"), &[], None)?;
        let data = listening(&server, "data")?;
        let admin = has_admin.then(|| listening(&server, "admin")).transpose()?;
        let gateway = Gateway { server, data, admin };
        let plane = if has_admin { "" } else { " --admin off" };
        println!("gateway      {command}{plane}");
        Ok(gateway)
    }

    /// The process.
    pub(super) fn pid(&self) -> u32 {
        self.server.pid()
    }

    /// Where the data plane listens.
    pub(super) fn data(&self) -> SocketAddr {
        self.data
    }

    /// Where the control plane listens; an error where there is none.
    pub(super) fn admin(&self) -> Outcome<SocketAddr> {
        self.admin.ok_or_else(|| Failure::run("the gateway has no control plane"))
    }

    /// A URL of the data plane.
    pub(super) fn url(&self, target: &str) -> Outcome<Url> {
        Url::parse(&format!("ws://{}{target}", self.data))
    }

    /// Proportional set size in bytes.
    pub(super) fn pss_bytes(&self) -> Outcome<u64> {
        self.tree().pss_bytes()
    }

    /// The process and what it has started.
    pub(super) fn tree(&self) -> Tree {
        Tree::new(vec![self.pid()])
    }

    /// Ends it by SIGKILL: it closes nothing itself.
    pub(super) fn kill(mut self) -> Outcome<()> {
        self.server.signal(Signal::KILL)?;
        self.await_end(PATIENCE).map(|_| ())
    }

    /// A percentile of a stage since the start, in microseconds, as `("hop", "p99")`.
    pub(super) fn latency_us(&self, stage: &str, percentile: &str) -> Outcome<f64> {
        let (_, body) = get(self.admin()?, "/latency")?;
        let latency: Value = serde_json::from_str(&body).map_err(Failure::run)?;
        let ns = latency["stages"][stage][percentile].as_f64();
        ns.map(|ns| ns / 1e3).ok_or_else(|| Failure::run(format!("/latency has no {stage}")))
    }

    /// The whole intervals of 10 s of a stage, in nanoseconds, oldest first.
    pub(super) fn intervals(&self, stage: &str) -> Outcome<Vec<Histogram<u64>>> {
        let (_, body) = get(self.admin()?, "/latency.hlog")?;
        let all = log::parse(body.as_bytes())?;
        Ok(all.into_iter().filter(|(tag, _)| tag == stage).map(|(_, each)| each).collect())
    }

    /// Thread ids of the workers.
    pub(super) fn workers(&self) -> Outcome<Vec<u32>> {
        let mut workers = Vec::new();
        for task in std::fs::read_dir(format!("/proc/{}/task", self.pid()))? {
            let task = task?;
            let name = std::fs::read_to_string(task.path().join("comm"))?;
            if name.starts_with("ringway-") {
                workers.extend(task.file_name().to_string_lossy().parse::<u32>());
            }
        }
        workers.sort_unstable();
        if workers.is_empty() {
            return Err(Failure::run("the gateway has no thread named ringway-…"));
        }
        Ok(workers)
    }

    /// `/stats` as it is.
    pub(super) fn stats(&self) -> Outcome<Value> {
        let (_, body) = get(self.admin()?, "/stats")?;
        serde_json::from_str(&body).map_err(Failure::run)
    }

    /// A counter of `/metrics`, by its name and labels as they stand there, the space behind included.
    pub(super) fn metric(&self, sample: &str) -> Outcome<u64> {
        let (_, body) = get(self.admin()?, "/metrics")?;
        let line = body.lines().find_map(|line| line.strip_prefix(sample));
        let value = line.and_then(|value| value.trim().parse().ok());
        value.ok_or_else(|| Failure::run(format!("/metrics has no {sample}")))
    }

    /// `/stats` once `wanted` holds of it, or as it is when that takes too long.
    pub(super) fn stats_until(&self, wanted: impl Fn(&Value) -> bool) -> Outcome<Value> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let stats = self.stats()?;
            if wanted(&stats) || Instant::now() > deadline {
                return Ok(stats);
            }
            thread::sleep(LOOK_INTERVAL);
        }
    }

    /// `/stats` once nothing is held for any client, and what is held nonetheless.
    pub(super) fn stats_at_rest(&self) -> Outcome<Vec<String>> {
        let is_at_rest = |stats: &Value| held(stats).is_ok_and(|held| held == [0; HELD.len()]);
        let gauges = HELD.into_iter().zip(held(&self.stats_until(is_at_rest)?)?);
        Ok(gauges
            .filter(|(_, held)| *held > 0)
            .map(|(gauge, held)| format!("{gauge} {held}"))
            .collect())
    }

    /// Lets it have so many bytes of data and no more, as RLIMIT_DATA counts them.
    pub(super) fn limit_data(&self, bytes: u64) -> Outcome<()> {
        let pid = self.server.process_id()?;
        let limit = Rlimit { current: Some(bytes), maximum: Some(bytes) };
        prlimit(Some(pid), Resource::Data, limit).map_err(Failure::run)?;
        Ok(())
    }

    /// Stops it, and waits until all its threads stand still.
    pub(super) fn stop(&self) -> Outcome<()> {
        let pid = self.server.signal(Signal::STOP)?;
        waitpid(Some(pid), WaitOptions::UNTRACED).map_err(Failure::run)?;
        Ok(())
    }

    /// Tells it to drain.
    pub(super) fn terminate(&self) -> Outcome<()> {
        self.server.signal(Signal::TERM).map(|_| ())
    }

    /// Its exit code once it has ended by itself; an error when that takes longer than `patience`.
    pub(super) fn await_end(&mut self, patience: Duration) -> Outcome<Option<i32>> {
        self.server.await_end(patience)
    }

    /// Lets it go on.
    pub(super) fn go_on(&self) -> Outcome<()> {
        self.server.signal(Signal::CONT).map(|_| ())
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        // The server's own end is the second signal: it ends without a drain.
        if self.server.is_running() {
            let _ = self.server.signal(Signal::TERM);
        }
    }
}

/// A number of `/stats` summed over the workers, as `["closed", "reset"]`.
pub(super) fn sum(stats: &Value, path: &[&str]) -> u64 {
    let workers = stats["workers"].as_array().map(Vec::as_slice).unwrap_or_default();
    let number = |worker| path.iter().fold(worker, |value: &Value, name| &value[name]).as_u64();
    workers.iter().filter_map(number).sum()
}

/// What is held of each of [`HELD`], over all workers.
///
/// # Errors
///
/// A worker says nothing of one of them, which is not to be taken for nothing that is held.
pub(super) fn held(stats: &Value) -> Outcome<[u64; HELD.len()]> {
    let workers = stats["workers"].as_array().map(Vec::as_slice).unwrap_or_default();
    for gauge in HELD {
        if workers.is_empty() || workers.iter().any(|worker| !worker[gauge].is_u64()) {
            return Err(Failure::run(format!("/stats has no {gauge}")));
        }
    }
    Ok(HELD.map(|gauge| sum(stats, &[gauge])))
}

/// What was counted under `name`, `closed` or `refused`, by reason, over all workers.
pub(super) fn by_reason(stats: &Value, name: &str) -> Vec<(String, u64)> {
    let first = &stats["workers"][0][name];
    let reasons = first.as_object().into_iter().flat_map(|reasons| reasons.keys());
    let counted = reasons.map(|reason| (reason.clone(), sum(stats, &[name, reason])));
    counted.filter(|(_, count)| *count > 0).collect()
}

/// The status line and the body of a GET, over a connection of its own.
pub(super) fn get(address: SocketAddr, target: &str) -> Outcome<(String, String)> {
    exchange(address, "GET", target, b"")
}

/// Sends these bytes, whatever they are, to every connection, once every worker has taken them.
pub(super) fn broadcast(admin: SocketAddr, payload: &[u8]) -> Outcome<()> {
    let (head, body) = exchange(admin, "POST", "/broadcast?as=binary", payload)?;
    if head.starts_with("HTTP/1.1 200 ") {
        return Ok(());
    }
    Err(Failure::run(format!("the broadcast was answered `{body}`")))
}

/// Publishes a batch at the control plane and returns the status.
pub(super) fn publish(admin: SocketAddr, batch: &str) -> Outcome<u16> {
    let (head, _) = exchange(admin, "POST", "/publish", batch.as_bytes())?;
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    status.ok_or_else(|| Failure::run(format!("{admin} answered `{head}`")))
}

/// The head and the body of a response, over a connection of its own.
fn exchange(
    address: SocketAddr,
    method: &str,
    target: &str,
    body: &[u8],
) -> Outcome<(String, String)> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let length = body.len();
    let request = format!(
        "{method} {target} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\
         Content-Length: {length}\r\n\r\n"
    );
    stream.write_all(&[request.as_bytes(), body].concat())?;
    let mut response = String::new();
    stream.read_to_string(&mut response)?;
    let (head, body) = response
        .split_once("\r\n\r\n")
        .ok_or_else(|| Failure::run(format!("{address} answered `{response}`")))?;
    Ok((head.to_owned(), body.to_owned()))
}

/// The address at which a plane listens, from the start lines.
fn listening(server: &Server, plane: &str) -> Outcome<SocketAddr> {
    loop {
        let line = server.next_line(PATIENCE).ok_or_else(|| {
            let last = server.last_words();
            Failure::run(format!("the gateway did not start; it said last: {last}"))
        })?;
        let line: Value = serde_json::from_str(&line).unwrap_or_default();
        if line["message"] == "listening" && line["plane"] == plane {
            let address = line["address"].as_str().unwrap_or_default();
            return address.parse().map_err(|_| Failure::run(format!("`{address}` is no address")));
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_not_said_is_not_taken_for_nothing() {
        let mut stats = json!({"workers": [{}, {}]});
        for (number, gauge) in HELD.into_iter().enumerate() {
            stats["workers"][0][gauge] = number.into();
            stats["workers"][1][gauge] = 1.into();
        }
        assert_eq!(held(&stats).unwrap(), [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]);
        stats["workers"][1]["topics"] = Value::Null;
        assert!(held(&stats).unwrap_err().to_string().contains("topics"));
        held(&json!({"workers": []})).unwrap_err();
    }

    #[test]
    fn numbers_are_summed_over_the_workers_and_reasons_named() {
        let stats = json!({"workers": [
            {"connections": 2, "closed": {"reset": 1, "stalled": 0, "no_pong": 0}},
            {"connections": 3, "closed": {"reset": 4, "stalled": 1, "no_pong": 0}},
        ]});
        assert_eq!(sum(&stats, &["connections"]), 5);
        assert_eq!(sum(&stats, &["closed", "reset"]), 5);
        assert_eq!(
            by_reason(&stats, "closed"),
            [("reset".to_owned(), 5), ("stalled".to_owned(), 1)]
        );
    }
}
