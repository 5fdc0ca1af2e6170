//! A server that is measured: started on its core once its port is free, ended when dropped.

use std::ffi::OsString;
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use socket2::{Domain, Socket, Type};

use crate::failure::{Failure, Outcome};

/// How long a server may take to end.
const END_MAX: Duration = Duration::from_secs(30);
/// How long its port may take to become free: TIME_WAIT lasts a minute.
const FREE_MAX: Duration = Duration::from_secs(90);
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// Waits until `address` can be bound without SO_REUSEADDR or SO_REUSEPORT, so that every server
/// can: sockets of the last one may outlive it for a while, and a ring gives its listener back late.
pub(crate) fn await_free(address: SocketAddr) -> Outcome<()> {
    let deadline = Instant::now() + FREE_MAX;
    loop {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
        match socket.bind(&address.into()) {
            Ok(()) => return Ok(()),
            Err(error) if Instant::now() > deadline => {
                return Err(Failure::run(format!("{address} stays taken: {error}")));
            }
            Err(_) => thread::sleep(LOOK_INTERVAL),
        }
    }
}

/// A server under measurement; dropping ends it.
#[derive(Debug)]
pub(crate) struct Server {
    process: Child,
    /// The last line of its standard error.
    words: Arc<Mutex<String>>,
}

impl Server {
    /// Starts what the sh text `script` ends in by exec on `core`, with `variables` added to the
    /// environment. What it prints is dropped, but for the last line of its errors.
    pub(crate) fn start(
        script: &str,
        variables: &[(&str, OsString)],
        core: Option<usize>,
    ) -> Outcome<Server> {
        let ours = sched_getaffinity(None).map_err(Failure::run)?;
        if let Some(core) = core {
            // A new process has the CPUs of the thread that starts it.
            let mut cpus = CpuSet::new();
            cpus.set(core);
            sched_setaffinity(None, &cpus)
                .map_err(|error| Failure::usage(format!("core {core}: {error}")))?;
        }
        let process = Command::new("sh")
            .args(["-c", script])
            .envs(variables.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn();
        sched_setaffinity(None, &ours).map_err(Failure::run)?;
        let mut process = process?;
        let words = Arc::new(Mutex::new(String::new()));
        if let Some(errors) = process.stderr.take() {
            let words = Arc::clone(&words);
            thread::spawn(move || keep_last(errors, &words));
        }
        Ok(Server { process, words })
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.process.id()
    }

    /// The last line of its standard error.
    pub(crate) fn last_words(&self) -> String {
        self.words.lock().map_or_else(|_| String::new(), |words| words.trim().to_owned())
    }
}

/// Keeps the last line of `errors`, of which a server may write any number.
fn keep_last(errors: impl Read, words: &Mutex<String>) {
    for line in BufReader::new(errors).lines().map_while(Result::ok) {
        if let Ok(mut words) = words.lock() {
            *words = line;
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(pid) = i32::try_from(self.process.id()).ok().and_then(Pid::from_raw) {
            // It may have ended by itself; then there is nothing to do.
            let _ = kill_process(pid, Signal::TERM);
        }
        let deadline = Instant::now() + END_MAX;
        while matches!(self.process.try_wait(), Ok(None)) {
            if Instant::now() > deadline {
                let _ = self.process.kill();
            }
            thread::sleep(LOOK_INTERVAL);
        }
    }
}
