//! The control plane: HTTP for operators and publishers, on the main thread, and the life of the
//! process. It is guest 0 of the mesh: one task owns the endpoint, gathers a report of every worker
//! once a second, carries publications and questions to the workers, and decides when to drain and
//! to exit. It never touches a client's connection; workers do not wait for it.

mod access;
mod batch;
mod blocks;
mod body;
mod client_tokens;
mod connections;
mod error;
mod guest;
mod health;
mod intervals;
mod latency;
mod metrics;
mod outstanding;
mod page;
mod publish;
mod query;
mod refusals;
mod routes;
mod server;
mod settings;
mod signals;
mod stats;
mod supervisor;
#[cfg(test)]
mod testing;
mod topics;
mod totals;

use std::{
    fmt, io,
    net::TcpListener,
    os::fd::OwnedFd,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use hub::{Access as ClientAccess, Letter};
use mesh::Endpoint;
use tokio::{
    runtime::{self, Runtime},
    sync::{Semaphore, mpsc},
    time::sleep,
};
use worker::{Limits, Waker};

pub(crate) use self::{
    access::{Access, TOKEN_BYTES_WANTED},
    guest::now,
    supervisor::Supervisor,
};
use self::{
    client_tokens::ClientTokens,
    guest::{Guest, Request},
    intervals::Intervals,
    refusals::Refusals,
    signals::Signals,
    totals::Totals,
};
use crate::{
    facts::{Facts, Settings, WorkerEnd},
    reload::Reload,
    token_files::TokenFiles,
};

/// Requests of handlers that wait for the task that owns the endpoint; over it they get 503.
const REQUESTS_MAX: usize = 256;

/// Bytes of publications between their first byte read and the last worker's receipt, as a multiple
/// of the longest body that one request may bring.
const BODIES_IN_FLIGHT: u32 = 4;

/// Listings that are gathered at once: each may be a page of every worker.
const LISTINGS_MAX: usize = 4;

/// After the last worker has ended: time to write answers that are ready to clients that read.
const LAST_ANSWERS: Duration = Duration::from_millis(20);

/// What the control plane is started with. Every field is written at the call.
pub(crate) struct Options {
    /// The process as it was started.
    pub(crate) facts: Arc<Facts>,
    /// What it goes by until it is told otherwise.
    pub(crate) settings: Settings,
    /// Guest 0's end of the mesh: member `facts.workers.len()`.
    pub(crate) endpoint: Endpoint<Letter>,
    /// One a worker, by number.
    pub(crate) wakers: Vec<Arc<dyn Waker>>,
    /// What workers write to when they have posted a letter to the guest and it waits.
    pub(crate) wake_fd: OwnedFd,
    /// Each worker thread says here that it has ended, once.
    pub(crate) worker_ends: mpsc::Receiver<WorkerEnd>,
    /// `--admin`, bound.
    pub(crate) admin: Option<TcpListener>,
    /// `--metrics`, bound.
    pub(crate) metrics: Option<TcpListener>,
    /// Who may use `--admin`.
    pub(crate) access: Access,
    /// Where the keys of clients' tokens are read from, and what the workers were started with.
    pub(crate) client_tokens: Option<(TokenFiles, Arc<ClientAccess>)>,
    /// Who wants to know how the process is.
    pub(crate) supervisor: Supervisor,
    /// What reads the configuration again; `None`: it stays.
    pub(crate) reload: Option<Reload>,
    /// Where lines for the operator go.
    pub(crate) journal: Journal,
}

/// How the process ends.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// A signal came, and no connection is left.
    Drained,
    /// A second signal came while connections were left.
    Cut,
    /// A worker has ended by itself: one sentence that says why.
    WorkerFailed(String),
}

/// How much a line matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Level {
    /// Something works less well than it should.
    Warn,
    /// Something worth knowing has happened.
    Info,
}

/// One line for the operator: a few fixed words, then values by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Line {
    /// How much it matters.
    pub(crate) level: Level,
    /// What has happened.
    pub(crate) text: &'static str,
    /// To what, and how much of it.
    pub(crate) fields: Vec<(&'static str, String)>,
}

/// Takes lines for the operator; must not block for long.
#[derive(Clone)]
pub(crate) struct Journal(Arc<dyn Fn(&Line) + Send + Sync>);

/// What HTTP handlers share with the task that owns the endpoint.
#[derive(Debug)]
struct Control {
    facts: Arc<Facts>,
    access: Access,
    journal: Journal,
    requests: mpsc::Sender<Request>,
    /// Bytes of publications that may be on their way at once.
    body_bytes: Arc<Semaphore>,
    /// Listings that may be gathered beside those that are.
    listings: Semaphore,
    record: Mutex<Record>,
}

/// What the control plane goes by, and what is known of the workers.
#[derive(Debug)]
struct Record {
    /// True exactly when a signal has asked for the drain.
    draining: bool,
    /// Subjects of tokens that are blocked.
    blocked_subs: u64,
    /// Removals that would have blocked one more than there may be.
    removals_refused: u64,
    /// Listings that waited too long for others.
    listings_refused: u64,
    /// Requests that were refused, these among them.
    refusals: Refusals,
    settings: Settings,
    totals: Totals,
    intervals: Intervals,
}

impl Journal {
    /// Lines go to `on_line`.
    pub(crate) fn new(on_line: impl Fn(&Line) + Send + Sync + 'static) -> Self {
        Self(Arc::new(on_line))
    }

    fn line(&self, level: Level, text: &'static str, fields: Vec<(&'static str, String)>) {
        (self.0)(&Line { level, text, fields });
    }
}

impl fmt::Debug for Journal {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Journal")
    }
}

impl fmt::Debug for Options {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Options").field("facts", &self.facts).finish_non_exhaustive()
    }
}

/// What the control plane runs in, before anything is served: signals are caught already, so that
/// none is lost that comes while the workers start.
#[derive(Debug)]
pub(crate) struct Ground {
    runtime: Runtime,
    signals: Signals,
}

impl Ground {
    /// The calling thread must not block SIGTERM, SIGINT, SIGHUP.
    ///
    /// # Errors
    /// The runtime or a signal handler could not be set up.
    pub(crate) fn new() -> io::Result<Self> {
        let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
        let signals = {
            let _context = runtime.enter();
            Signals::catch()?
        };
        Ok(Self { runtime, signals })
    }

    /// Serves until the process is to end.
    ///
    /// # Errors
    /// A listener could not be set up.
    pub(crate) fn serve(self, options: Options) -> io::Result<Exit> {
        let exit = self.runtime.block_on(serve(options, self.signals));
        // Handlers that still wait, and clients that still read, must not hold the process up.
        self.runtime.shutdown_background();
        exit
    }
}

async fn serve(options: Options, signals: Signals) -> io::Result<Exit> {
    let (control, requests) =
        Control::new(options.facts, options.settings, options.access, options.journal);
    if let Some(listener) = options.admin {
        server::spawn(listener, routes::admin(&control), &control.journal)?;
    }
    if let Some(listener) = options.metrics {
        let is_loopback = listener.local_addr()?.ip().is_loopback();
        let router = routes::metrics_only(&control, is_loopback);
        server::spawn(listener, router, &control.journal)?;
    }
    let workers = options.wakers.len();
    let tokens =
        options.client_tokens.map(|(files, access)| ClientTokens::new(files, access, workers));
    let guest = Guest::new(
        control,
        options.endpoint,
        options.wakers,
        options.wake_fd,
        tokens,
        options.supervisor,
        options.reload,
    )?;
    let exit = guest.run(requests, options.worker_ends, signals.listen()).await;
    if exit == Exit::Drained {
        sleep(LAST_ANSWERS).await;
    }
    Ok(exit)
}

impl Control {
    fn new(
        facts: Arc<Facts>,
        settings: Settings,
        access: Access,
        journal: Journal,
    ) -> (Arc<Self>, mpsc::Receiver<Request>) {
        let (sender, requests) = mpsc::channel(REQUESTS_MAX);
        let body_bytes = body_bytes(&settings.limits);
        let now = Instant::now();
        let record = Record {
            draining: false,
            blocked_subs: 0,
            removals_refused: 0,
            listings_refused: 0,
            refusals: Refusals::default(),
            settings,
            totals: Totals::new(facts.workers.len(), now),
            intervals: Intervals::new(SystemTime::now(), now),
        };
        let control = Arc::new(Self {
            facts,
            access,
            journal,
            requests: sender,
            body_bytes: Arc::new(Semaphore::new(body_bytes)),
            listings: Semaphore::new(LISTINGS_MAX),
            record: Mutex::new(record),
        });
        (control, requests)
    }

    /// The bounds that apply now.
    fn limits(&self) -> Limits {
        self.record().settings.limits.clone()
    }

    /// Goes by these settings from now on. What bodies may take together grows with them, and does
    /// not shrink.
    fn adopt(&self, settings: Settings) {
        let before = std::mem::replace(&mut self.record().settings, settings);
        let grown = body_bytes(&self.limits()).saturating_sub(body_bytes(&before.limits));
        self.body_bytes.add_permits(grown);
    }

    /// The record, for a moment. All who ask run on one thread, so nobody ever waits here.
    fn record(&self) -> MutexGuard<'_, Record> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the bodies of all requests may take together.
fn body_bytes(limits: &Limits) -> usize {
    let body_bytes_max = limits.batch_bytes_max.max(limits.message_bytes_max);
    let bytes = body_bytes_max.saturating_mul(BODIES_IN_FLIGHT) as usize;
    bytes.min(Semaphore::MAX_PERMITS)
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read, Write},
        net::TcpStream,
    };

    use rustix::event::{EventfdFlags, eventfd};

    use super::*;

    #[derive(Debug)]
    struct Deaf;

    impl Waker for Deaf {
        fn wake(&self) {}
    }

    fn get(address: std::net::SocketAddr, path: &str) -> String {
        let mut client = TcpStream::connect(address).unwrap();
        write!(client, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")
            .unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).unwrap();
        answer
    }

    #[test]
    fn both_listeners_serve_until_a_worker_fails() {
        let mut endpoints = mesh::join(2, |_, _| 8);
        let endpoint = endpoints.pop().unwrap();
        let (ends, worker_ends) = mpsc::channel(1);
        let admin = TcpListener::bind("127.0.0.1:0").unwrap();
        let metrics = TcpListener::bind("127.0.0.1:0").unwrap();
        let (at_admin, at_metrics) = (admin.local_addr().unwrap(), metrics.local_addr().unwrap());
        let options = Options {
            facts: testing::facts(1),
            settings: testing::settings(),
            endpoint,
            wakers: vec![Arc::new(Deaf)],
            wake_fd: eventfd(0, EventfdFlags::CLOEXEC).unwrap(),
            worker_ends,
            admin: Some(admin),
            metrics: Some(metrics),
            access: Access::open(None).unwrap(),
            client_tokens: None,
            supervisor: Supervisor::default(),
            reload: None,
            journal: Journal::new(|_| {}),
        };
        let running = std::thread::spawn(|| Ground::new()?.serve(options));
        assert!(get(at_admin, "/healthz").starts_with("HTTP/1.1 200 OK"));
        assert!(get(at_admin, "/stats").starts_with("HTTP/1.1 200 OK"));
        assert!(get(at_metrics, "/metrics").starts_with("HTTP/1.1 200 OK"));
        assert!(get(at_metrics, "/readyz").starts_with("HTTP/1.1 503 "), "no worker has reported");
        assert!(get(at_metrics, "/stats").starts_with("HTTP/1.1 404 "), "metrics only");
        ends.blocking_send(WorkerEnd { worker: 0, outcome: Err("gone".into()) }).unwrap();
        let exit = running.join().unwrap().unwrap();
        assert_eq!(exit, Exit::WorkerFailed("worker 0: gone".into()));
    }
}
