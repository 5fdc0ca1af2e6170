//! The load processes of a run: starts them, gives them orders and gathers their notes.

use std::collections::HashMap;
use std::env;
use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::Duration;

use crate::failure::{Failure, Outcome};
use crate::order::{Note, Order, Plan, write_line};

/// The hidden subcommand that a load process runs.
pub(crate) const SUBCOMMAND: &str = "load-process";

/// How long a process may be silent while something is awaited: they report progress far more
/// often, and their own deadlines are shorter.
const SILENCE_MAX: Duration = Duration::from_secs(60);

struct Process {
    child: Child,
    orders: Option<ChildStdin>,
}

/// All of them; dropping ends them.
pub(crate) struct Processes {
    processes: Vec<Process>,
    notes: Receiver<(usize, Result<Note, String>)>,
}

/// Shared group: what not all processes have yet, with how many have it and the longest latency.
#[derive(Debug, Default)]
pub(crate) struct Incomplete(HashMap<u32, (usize, u64)>);

impl Incomplete {
    /// Forgets what is incomplete.
    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }

    /// Another of so many processes has a publication. The latency to its last subscriber, if that
    /// is the last process.
    pub(crate) fn take(&mut self, sequence: u32, latency_ns: u64, all: usize) -> Option<u64> {
        let (processes, longest_ns) = self.0.entry(sequence).or_default();
        *processes += 1;
        *longest_ns = latency_ns.max(*longest_ns);
        if *processes < all {
            return None;
        }
        self.0.remove(&sequence).map(|(_, longest_ns)| longest_ns)
    }
}

impl Processes {
    /// Starts one process for each plan.
    pub(crate) fn start(plans: &[Plan]) -> Outcome<Processes> {
        let (sender, notes) = channel();
        let mut processes = Processes { processes: Vec::new(), notes };
        for plan in plans {
            let program = env::current_exe()?;
            let mut child = Command::new(program)
                .arg(SUBCOMMAND)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()?;
            let (Some(mut orders), Some(notes)) = (child.stdin.take(), child.stdout.take()) else {
                return Err(Failure::run("a load process has no pipes"));
            };
            write_line(&mut orders, plan)?;
            let number = processes.processes.len();
            let sender = sender.clone();
            thread::spawn(move || forward(number, BufReader::new(notes), &sender));
            processes.processes.push(Process { child, orders: Some(orders) });
        }
        Ok(processes)
    }

    /// Their number.
    pub(crate) fn count(&self) -> usize {
        self.processes.len()
    }

    /// Their process ids.
    pub(crate) fn pids(&self) -> Vec<u32> {
        self.processes.iter().map(|process| process.child.id()).collect()
    }

    /// Gives an order to one of them.
    pub(crate) fn tell(&mut self, number: usize, order: Order) -> Outcome<()> {
        match &mut self.processes[number].orders {
            Some(orders) => write_line(orders, &order).map_err(Failure::run),
            None => Ok(()),
        }
    }

    /// Gives an order to all of them.
    pub(crate) fn tell_all(&mut self, order: Order) -> Outcome<()> {
        (0..self.count()).try_for_each(|number| self.tell(number, order))
    }

    /// The next note and whose it is.
    ///
    /// # Errors
    ///
    /// A process failed, ended, or has been silent for too long.
    pub(crate) fn next(&mut self) -> Outcome<(usize, Note)> {
        match self.notes.recv_timeout(SILENCE_MAX) {
            Ok((_, Ok(Note::Failed { why }) | Err(why))) => Err(Failure::run(why)),
            Ok((number, Ok(note))) => Ok((number, note)),
            Err(RecvTimeoutError::Timeout) => Err(Failure::run("a load process is stuck")),
            Err(RecvTimeoutError::Disconnected) => Err(Failure::run("all load processes ended")),
        }
    }
}

impl Drop for Processes {
    fn drop(&mut self) {
        for process in &mut self.processes {
            // The end of its input ends a process; killing is for one that does not look.
            process.orders = None;
            let _ = process.child.kill();
            let _ = process.child.wait();
        }
    }
}

fn forward(number: usize, notes: impl BufRead, sender: &Sender<(usize, Result<Note, String>)>) {
    for line in notes.lines() {
        let note = line
            .map_err(|error| error.to_string())
            .and_then(|line| serde_json::from_str(&line).map_err(|error| error.to_string()));
        // Nobody listens any more when the run has failed.
        if sender.send((number, note)).is_err() {
            return;
        }
    }
    let _ = sender.send((number, Err("a load process ended early".to_owned())));
}
