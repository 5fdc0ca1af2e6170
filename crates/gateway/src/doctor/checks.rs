//! The rows: for each thing what it is, what is wanted of it, why, and how to change it. Nothing is
//! changed here, and nothing asked of the kernel that does not stand in a file.

mod cpus;
mod engine;
mod memory;
mod network;

use worker::Limits;

use crate::{
    capacity::Descriptors,
    cores::Cpus,
    doctor::{
        report::{Check, Report, Severity},
        root::Root,
        wanted::Wanted,
    },
    engine::Kind,
};

/// What is looked at, and what for.
#[derive(Debug)]
pub(crate) struct Subject {
    /// What would hold them.
    pub(crate) engine: Kind,
    /// Where `/proc` and `/sys` are.
    pub(crate) root: Root,
    /// The settings for so many connections.
    pub(crate) wanted: Wanted,
    /// How many are to be held.
    pub(crate) connections: u32,
    /// How many workers hold them: those asked for, or as many as are needed.
    pub(crate) workers: u16,
    /// How many are asked for.
    pub(crate) workers_asked: Option<u16>,
    /// How many it takes, by the descriptors.
    pub(crate) workers_needed: u64,
    /// What RLIMIT_NOFILE means to the engine.
    pub(crate) descriptors: Descriptors,
    /// What they allow a worker, or where they are the process's all workers; 0: nothing.
    pub(crate) connections_allowed: u64,
    /// As in `limits.rs`.
    pub(crate) listen_backlog: u32,
    /// As in `limits.rs`.
    pub(crate) unsent_bytes_max: u32,
    /// As in `limits.rs`.
    pub(crate) send_queue_total_bytes_max: u64,
    /// By worker; empty where there can be none.
    pub(crate) limits: Vec<Limits>,
    /// Where the process may run.
    pub(crate) cpus: Cpus,
    /// Where its workers would run.
    pub(crate) cores: Vec<usize>,
    /// What the engines said of themselves, or why they do not start.
    pub(crate) started: Result<Vec<String>, String>,
}

/// What lsof(8) and ss(8) do not tell of direct descriptors.
const UNSEEN: &str = "connections are direct descriptors: lsof, ss -p and /proc/PID/fd do not show \
                      whose they are; /stats and the fdinfo of the rings do";

/// Looks at everything.
pub(crate) fn report(subject: &Subject) -> Report {
    let groups = [
        engine::checks(subject),
        memory::checks(subject),
        network::checks(subject),
        cpus::checks(subject),
    ];
    let mut notes = subject.started.clone().unwrap_or_default();
    if matches!(subject.descriptors, Descriptors::OfWorker(_)) {
        notes.push(UNSEEN.to_owned());
    }
    Report::new(subject.connections, subject.workers, groups.concat(), notes)
}

/// What a row says when a file cannot be read.
const UNTOLD: &str = "not told here";

impl Subject {
    /// A row for a setting of which at least so much is wanted.
    fn at_least(&self, severity: Severity, key: &'static str, least: u64, why: &str) -> Check {
        let value = self.root.setting(key).and_then(|values| values.first().copied());
        let value = value.map(i64::unsigned_abs);
        Check {
            name: key,
            severity,
            holds: value.map(|value| value >= least),
            value: value.map_or(UNTOLD.to_owned(), |value| value.to_string()),
            wanted: format!("at least {least}"),
            why: why.to_owned(),
            how: format!(
                "sysctl -w {key}={least}; tune apply, in /usr/share/ringway or kernel-tuning, sets \
                 what 100,000 need"
            ),
        }
    }
}

#[cfg(test)]
mod tests;
