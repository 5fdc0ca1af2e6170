//! A server that is measured: started on its core once its port is free, ended when dropped.

use std::ffi::OsString;
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
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
/// Lines of its standard error that are kept for whoever wants to hear how it starts.
const LINES_MAX: usize = 64;
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// Waits until `address` can be bound without SO_REUSEADDR or SO_REUSEPORT, so that every server
/// can: sockets of the last one may outlive it for a while, and a ring gives its listener back
/// late.
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
    /// All of them, for as long as somebody wants to hear them.
    lines: Receiver<String>,
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
        let (sender, lines) = sync_channel(LINES_MAX);
        if let Some(errors) = process.stderr.take() {
            let words = Arc::clone(&words);
            thread::spawn(move || keep_lines(errors, &words, &sender));
        }
        Ok(Server { process, words, lines })
    }

    /// The next of the first lines of its standard error, within `patience`.
    pub(crate) fn next_line(&self, patience: Duration) -> Option<String> {
        self.lines.recv_timeout(patience).ok()
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, signal: Signal) -> Outcome<Pid> {
        let pid = self.process_id()?;
        kill_process(pid, signal).map_err(Failure::run)?;
        Ok(pid)
    }

    /// Its process id, as system calls take it.
    pub(crate) fn process_id(&self) -> Outcome<Pid> {
        let pid = i32::try_from(self.pid()).ok().and_then(Pid::from_raw);
        pid.ok_or_else(|| Failure::run("the server has no process id"))
    }

    /// True exactly when it has not been seen to end, so that its process id is its own.
    pub(crate) fn is_running(&mut self) -> bool {
        matches!(self.process.try_wait(), Ok(None))
    }

    /// Its exit code once it has ended, `None` where a signal ended it.
    pub(crate) fn await_end(&mut self, patience: Duration) -> Outcome<Option<i32>> {
        let deadline = Instant::now() + patience;
        loop {
            match self.process.try_wait()? {
                Some(status) => return Ok(status.code()),
                None if Instant::now() > deadline => {
                    return Err(Failure::run(format!("it has not ended within {patience:?}")));
                }
                None => thread::sleep(LOOK_INTERVAL),
            }
        }
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

/// Keeps the last line of `errors`, of which a server may write any number, and hands on the first.
fn keep_lines(errors: impl Read, words: &Mutex<String>, lines: &SyncSender<String>) {
    for line in BufReader::new(errors).lines().map_while(Result::ok) {
        // Nobody may be listening, and then there is room for no more.
        let _ = lines.try_send(line.clone());
        if let Ok(mut words) = words.lock() {
            *words = line;
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if self.is_running() {
            let _ = self.signal(Signal::TERM);
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
