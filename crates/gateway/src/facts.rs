//! What is settled once the workers run, for whoever tells of it: the start lines and the control
//! plane; and what of that a reload may change.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use hub::Interest;
use worker::Limits;

/// The process as it was started. Nothing of it changes afterwards.
#[derive(Debug, Clone)]
pub(crate) struct Facts {
    /// `CARGO_PKG_VERSION`.
    pub(crate) version: &'static str,
    /// What `uname -r` says.
    pub(crate) kernel: String,
    /// The engine's name as the flag writes it.
    pub(crate) engine: &'static str,
    /// Why this engine, in a few words.
    pub(crate) engine_reason: String,
    /// What the sockets of connections are.
    pub(crate) descriptors: String,
    /// When the process began to serve.
    pub(crate) started_at: Instant,
    /// The data plane's listeners, with the ports that they were given.
    pub(crate) data_addresses: Vec<SocketAddr>,
    /// Those of them where connections begin with a PROXY header.
    pub(crate) proxy_addresses: Vec<SocketAddr>,
    /// One entry a worker, by number; worker `n` is `Member(n)` of the mesh.
    pub(crate) workers: Vec<WorkerFacts>,
    /// What `--connections-max` asked for or the descriptors allow, for the whole process.
    pub(crate) connections_max: u64,
    /// Which workers hear of which topics.
    pub(crate) interest: Arc<Interest>,
}

/// What the control plane goes by until the next reload.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    /// The bounds as configured: those of the process and of a core not divided yet.
    pub(crate) limits: Limits,
    /// Bounds that are flags and nothing else, by their names with the unit behind; those that are
    /// not set are not in it.
    pub(crate) flags: Vec<(&'static str, f64)>,
    /// How long a drain takes.
    pub(crate) drain: Duration,
    /// From the signal to its beginning.
    pub(crate) drain_delay: Duration,
}

/// One worker as it was started.
#[derive(Debug, Clone)]
pub(crate) struct WorkerFacts {
    /// Its number, from 0.
    pub(crate) worker: u16,
    /// The CPU it belongs to, whether pinned or not.
    pub(crate) core: usize,
    /// Whether its thread runs on that CPU only.
    pub(crate) pinned: bool,
    /// Its share of the connections.
    pub(crate) connections_max: u32,
    /// Memory that its engine has reserved whatever its load, and its share of what all share.
    pub(crate) fixed_bytes: u64,
    /// Its places, those which only answer 503 included: each may be a handshake's.
    pub(crate) handshakes_max: u32,
    /// How many of its connections may receive by multishot.
    pub(crate) multishots_max: u32,
    /// The bounds that it was given, already divided.
    pub(crate) limits: Limits,
}

/// A worker's thread has ended.
#[derive(Debug)]
pub(crate) struct WorkerEnd {
    /// Which.
    pub(crate) worker: u16,
    /// Drained, or one sentence about what went wrong.
    pub(crate) outcome: Result<(), String>,
}
