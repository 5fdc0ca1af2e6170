//! The real binary on ports of its own, and what the tests talk to it with.

#![allow(dead_code, reason = "each test file uses its part of this")]

pub(crate) mod http;
pub(crate) mod raw;
pub(crate) mod seccomp;

use std::{
    io::{BufRead, BufReader},
    net::{SocketAddr, TcpStream},
    path::PathBuf,
    process::{Child, Command, ExitStatus, Stdio},
    sync::{
        Mutex,
        mpsc::{self, Receiver},
    },
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};
use serde_json::Value;
use socket2::{Domain, Socket, Type};
use tungstenite::WebSocket;

use self::http::Http;

/// Whatever is awaited comes within this, or the test fails.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A running gateway. Killed when dropped.
#[derive(Debug)]
pub(crate) struct Gateway {
    child: Child,
    lines: Mutex<Receiver<Value>>,
    file: Option<PathBuf>,
    /// What it said up to its addresses.
    pub(crate) start_lines: Vec<Value>,
    /// The data plane.
    pub(crate) data: SocketAddr,
    /// The control plane.
    pub(crate) admin: SocketAddr,
}

impl Gateway {
    /// Starts it with these flags beside those for its ports.
    pub(crate) fn start(flags: &[&str]) -> Self {
        Self::start_with("", flags)
    }

    /// Starts it with a configuration file of this content.
    pub(crate) fn start_with(file: &str, flags: &[&str]) -> Self {
        Self::spawn(ringway(), file, flags)
    }

    /// As [`Gateway::start_with`], by a command that ends in the binary.
    pub(crate) fn spawn(mut command: Command, file: &str, flags: &[&str]) -> Self {
        command.args(["serve", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]);
        command.args(["--log", "json"]).args(flags).stderr(Stdio::piped());
        let file = (!file.is_empty()).then(|| temporary_file(file));
        if let Some(path) = &file {
            command.arg("--config").arg(path);
        }
        let mut child = command.spawn().unwrap();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let (sender, lines) = mpsc::channel();
        let lines = Mutex::new(lines);
        thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                let line = serde_json::from_str(&line).unwrap_or(Value::String(line));
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        let nowhere = SocketAddr::from(([0, 0, 0, 0], 0));
        let mut gateway =
            Self { child, lines, file, start_lines: Vec::new(), data: nowhere, admin: nowhere };
        gateway.data = gateway.listening("data");
        gateway.admin = gateway.listening("admin");
        gateway
    }

    /// The first address of a plane.
    fn listening(&mut self, plane: &str) -> SocketAddr {
        let is_wanted = |line: &Value| line["message"] == "listening" && line["plane"] == plane;
        loop {
            if let Some(line) = self.start_lines.iter().find(|line| is_wanted(line)) {
                return line["address"].as_str().unwrap().parse().unwrap();
            }
            let line = self.lines.get_mut().unwrap().recv_timeout(PATIENCE);
            self.start_lines
                .push(line.unwrap_or_else(|error| panic!("{error}: {:#?}", self.start_lines)));
        }
    }

    /// The next line of the log, behind the start lines, of which `wanted` holds.
    pub(crate) fn line(&mut self, wanted: impl Fn(&Value) -> bool) -> Value {
        let until = Instant::now() + PATIENCE;
        loop {
            let patience = until.saturating_duration_since(Instant::now());
            let line = self.lines.get_mut().unwrap().recv_timeout(patience).unwrap();
            if wanted(&line) {
                return line;
            }
        }
    }

    /// Its process id.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Writes its configuration file anew; it must have been started with one.
    pub(crate) fn configure(&self, content: &str) {
        std::fs::write(self.file.as_ref().unwrap(), content).unwrap();
    }

    /// A client of the control plane.
    pub(crate) fn http(&self) -> Http {
        Http::new(self.admin)
    }

    /// A connection of the data plane, without a handshake.
    pub(crate) fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.data).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        stream
    }

    /// The same from an address of this machine.
    pub(crate) fn connect_from(&self, address: &str) -> TcpStream {
        let source = SocketAddr::new(address.parse().unwrap(), 0);
        let socket = Socket::new(Domain::for_address(source), Type::STREAM, None).unwrap();
        socket.bind(&source.into()).unwrap();
        socket.connect(&self.data.into()).unwrap();
        let stream = TcpStream::from(socket);
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    /// A sample of `/metrics`, by its name and labels as they stand there.
    pub(crate) fn metric(&self, sample: &str) -> f64 {
        let response = self.http().get("/metrics");
        let line = response.text().lines().find_map(|line| line.strip_prefix(sample));
        line.unwrap_or_else(|| panic!("no {sample}")).trim().parse().unwrap()
    }

    /// A subscriber of `room` whose socket takes little and that does not read.
    pub(crate) fn stalled(&self) -> TcpStream {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.set_recv_buffer_size(4096).unwrap();
        socket.connect(&self.data.into()).unwrap();
        let stream = TcpStream::from(socket);
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        raw::open(&stream, "/ws/room");
        stream
    }

    /// So many subscribers of `room`, where a process that was killed has left this address: what it
    /// still takes into the queues of its listeners is tried again.
    pub(crate) fn open_again(&self, count: usize) -> Vec<TcpStream> {
        let until = Instant::now() + PATIENCE;
        let mut served = Vec::new();
        while served.len() < count {
            assert!(Instant::now() < until, "{} served", served.len());
            served.extend(TcpStream::connect(self.data).ok().filter(raw::try_open));
        }
        served
    }

    /// A WebSocket to `target`, a path with its query.
    pub(crate) fn open(&self, target: &str) -> WebSocket<TcpStream> {
        let url = format!("ws://{}{target}", self.data);
        let (socket, _) = tungstenite::client(url, self.connect()).unwrap();
        socket
    }

    /// `/stats`, once every worker was asked for a report since the call and `wanted` holds of it.
    /// A report that arrives after the call may have been on its way before; the next one was not.
    pub(crate) fn stats_until(&self, wanted: impl Fn(&Value) -> bool) -> Value {
        let mut http = self.http();
        let called = Instant::now();
        // By worker: when the first report since the call came, in seconds from the call.
        let mut firsts: Vec<Option<f64>> = Vec::new();
        loop {
            let stats = http.get("/stats").json();
            let elapsed = called.elapsed();
            firsts.resize(workers(&stats).len(), None);
            let mut are_fresh = true;
            for (first, worker) in firsts.iter_mut().zip(workers(&stats)) {
                let age = worker["report_age_seconds"].as_f64().unwrap();
                let came = elapsed.as_secs_f64() - age;
                if came > 0.0 {
                    first.get_or_insert(came);
                }
                // The ages are read at slightly different moments; reports are a second apart.
                are_fresh &= first.is_some_and(|first| came > first + 0.5);
            }
            if are_fresh && wanted(&stats) {
                return stats;
            }
            assert!(elapsed < PATIENCE, "{stats:#}");
        }
    }

    /// `/stats`, once nothing is held for any client any more.
    pub(crate) fn stats_at_rest(&self) -> Value {
        const ZERO: [&str; 12] = [
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
        self.stats_until(|stats| {
            workers(stats).iter().all(|worker| ZERO.iter().all(|gauge| worker[gauge] == 0))
        })
    }

    /// Sends a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.child.id().cast_signed()).unwrap();
        kill_process(pid, signal).unwrap();
    }

    /// Stops it, and waits until every thread of it stands still.
    pub(crate) fn stop(&self) {
        self.signal(Signal::STOP);
        let pid = Pid::from_raw(self.child.id().cast_signed()).unwrap();
        let (_, status) = waitpid(Some(pid), WaitOptions::UNTRACED).unwrap().unwrap();
        assert!(status.stopped(), "{status:?}");
    }

    /// Waits for its end.
    pub(crate) fn wait(&mut self) -> ExitStatus {
        self.child.wait().unwrap()
    }

    /// Whether it is still there.
    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if let Some(path) = &self.file {
            let _ = std::fs::remove_file(path);
        }
    }
}

/// The workers in `/stats`.
pub(crate) fn workers(stats: &Value) -> &[Value] {
    stats["workers"].as_array().unwrap()
}

/// A number summed over the workers in `/stats`, as `["closed", "reset"]`.
pub(crate) fn sum(stats: &Value, path: &[&str]) -> u64 {
    let numbers = workers(stats).iter().map(|worker| {
        path.iter().fold(worker, |value, name| &value[name]).as_u64().unwrap_or_default()
    });
    numbers.sum()
}

/// The binary, which may lock so much memory. Root may lock any, unless that is taken from it.
pub(crate) fn ringway_within(memlock_kib: u32) -> Command {
    let mut command = Command::new("sh");
    without_variables(&mut command);
    let script = format!(
        r#"ulimit -l {memlock_kib} || exit
        if [ "$(id -u)" = 0 ]; then exec setpriv --bounding-set -ipc_lock "$0" "$@"; fi
        exec "$0" "$@""#
    );
    command.args(["-c", &script, env!("CARGO_BIN_EXE_ringway")]);
    command
}

/// The engine that tests run on which ask for none: that of the environment of the tests, as
/// `TEST_ENGINE=epoll`, else the binary's own choice. So are their descriptors, as
/// `TEST_DESCRIPTORS=ordinary`.
pub(crate) fn engine_under_test() -> Option<String> {
    std::env::var("TEST_ENGINE").ok()
}

/// The binary, without what the tests' own environment might tell it.
pub(crate) fn ringway() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ringway"));
    without_variables(&mut command);
    command
}

fn without_variables(command: &mut Command) {
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("RINGWAY_") {
            command.env_remove(name);
        }
    }
    // A flag of the test goes over them.
    if let Some(engine) = engine_under_test() {
        command.env("RINGWAY_ENGINE", engine);
    }
    if let Ok(descriptors) = std::env::var("TEST_DESCRIPTORS") {
        command.env("RINGWAY_DESCRIPTORS", descriptors);
    }
}

/// A file with this content that no other test uses.
pub(crate) fn temporary_file(content: &str) -> PathBuf {
    use std::sync::atomic::{AtomicU32, Ordering};
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let name = format!("ringway-test-{}-{count}.toml", std::process::id());
    let path = std::env::temp_dir().join(name);
    std::fs::write(&path, content).unwrap();
    path
}
