//! `ringway serve`: finds out what the machine allows, divides it among the workers, binds every
//! address, starts the workers, says how everything was decided, and hands the main thread to the
//! control plane.

use std::{
    ffi::OsString,
    io,
    net::{SocketAddr, TcpListener},
    num::NonZeroU32,
    sync::Arc,
    time::Instant,
};

use hub::{Access, Letter};
use mesh::{Endpoint, Member};
use rustix::{
    event::{EventfdFlags, eventfd},
    process::{Resource, Rlimit, getrlimit, setrlimit},
    system::uname,
};
use serde_json::Value;
use tokio::sync::mpsc;

use crate::{
    address::HostPort,
    capacity::Descriptors,
    cli::ServeArgs,
    config::Configuration,
    control::{self, Exit, Ground, Journal, Supervisor},
    cores::Cpus,
    decide::{Decision, Decisions, Machine},
    engine::Choice,
    facts::{Facts, Settings, WorkerFacts},
    listener::{DataPlane, ListenerOptions, bind_alone},
    log::Log,
    quantity::Span,
    reload::Reload,
    token_files::{self, TokenFiles},
    workers::{self, Started},
};

/// Why the gateway does not run, or no longer. One sentence each.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Exit code 2.
    Usage(String),
    /// Exit code 1.
    Runtime(String),
}

/// The sockets of the process.
#[derive(Debug)]
struct Sockets {
    data: DataPlane,
    admin: Option<TcpListener>,
    metrics: Option<TcpListener>,
}

/// Runs until told to stop.
///
/// # Errors
/// What is in the way, or has ended it.
pub(crate) fn serve(
    configuration: Configuration,
    arguments: Vec<OsString>,
    log: &Log,
) -> Result<(), Failure> {
    let serve = &configuration.serve;
    report_panics(log.clone());
    let started_at = Instant::now();
    let supervisor = Supervisor::of_this_process().unwrap_or_else(|error| {
        log.warn("NOTIFY_SOCKET cannot be used", &[("error", text(error))]);
        Supervisor::default()
    });
    let (addresses, announcing) = resolve_all(serve)?;
    let admin = resolve_one(serve.admin.0.as_ref())?;
    let access = access(serve, admin)?;
    let token_files = TokenFiles::new(serve).map_err(Failure::Usage)?;
    let verifier = token_files.as_ref().map(TokenFiles::read).transpose();
    let verifier = verifier.map_err(Failure::Usage)?;
    let engine = Choice::new(serve.engine).map_err(Failure::Runtime)?;
    let sockets = engine.sockets(&configuration).map_err(Failure::Runtime)?;
    let machine = look(sockets)?;
    let decisions = Decisions::new(&configuration, &machine, &addresses)?;
    let sockets = Sockets::bind(&configuration, &decisions, &addresses, admin)?;

    let mut endpoints = join(&decisions);
    let guest = endpoints.pop().expect("the guest is the last member");
    let wake_fd = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
        .map_err(|error| Failure::Runtime(format!("cannot make an eventfd: {error}")))?;
    let workers_wake_fd = wake_fd
        .try_clone()
        .map_err(|error| Failure::Runtime(format!("cannot duplicate an eventfd: {error}")))?;
    let (ends, worker_ends) = mpsc::channel(usize::from(decisions.layout.workers));
    let client_access = verifier.map(|it| token_files::access(it, control::now()));
    let plans = decisions.plans(
        serve,
        client_access.as_ref(),
        &announcing,
        sockets.data.of_workers,
        endpoints,
    );
    // Before the first turn: whoever is accepted is drained.
    let ground = Ground::new().map_err(control_failed)?;
    let started = workers::start(engine.kind, plans, Arc::new(workers_wake_fd), &ends)
        .map_err(Failure::Runtime)?;
    // The threads hold the other ones: with the last thread the channel ends.
    drop(ends);

    let listeners = (sockets.data.addresses, &*announcing);
    let facts = facts(engine, &decisions, &started, listeners, started_at);
    tell(log, &facts, &decisions, &started);
    tell_tokens(log, client_access.as_deref(), access.short_tokens());
    for (plane, listener) in [("admin", &sockets.admin), ("metrics", &sockets.metrics)] {
        if let Some(Ok(address)) = listener.as_ref().map(TcpListener::local_addr) {
            log.info("listening", &[("plane", plane.into()), ("address", text(address))]);
        }
    }
    let exit = ground.serve(control::Options {
        facts: Arc::new(facts),
        settings: settings(&configuration),
        endpoint: guest,
        wakers: started.into_iter().map(|started| started.waker).collect(),
        wake_fd,
        worker_ends,
        admin: sockets.admin,
        metrics: sockets.metrics,
        access,
        client_tokens: token_files.zip(client_access),
        supervisor,
        reload: Some(Reload::new(arguments, configuration, decisions, log.clone())),
        journal: journal(log.clone()),
    });
    match exit.map_err(control_failed)? {
        Exit::Drained => {
            log.info("drained", &[]);
            Ok(())
        }
        // Asked for, and said by the control plane.
        Exit::Cut => Ok(()),
        Exit::WorkerFailed(sentence) => Err(Failure::Runtime(sentence)),
    }
}

#[expect(clippy::needless_pass_by_value, reason = "it stands behind `map_err`")]
fn control_failed(error: io::Error) -> Failure {
    Failure::Runtime(format!("the control plane failed: {error}"))
}

/// One line for a panic, as for everything else; the thread's end is handled where it is awaited.
fn report_panics(log: Log) {
    std::panic::set_hook(Box::new(move |panic| {
        let thread = std::thread::current().name().unwrap_or("unnamed").to_owned();
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        let message = panic.payload_as_str().unwrap_or("no message");
        let fields =
            [("thread", thread.into()), ("place", place.into()), ("message", message.into())];
        log.error("panicked", &fields);
    }));
}

/// The addresses of the data plane, and at which of them connections begin with a PROXY header.
fn resolve_all(serve: &ServeArgs) -> Result<(Vec<SocketAddr>, Arc<[bool]>), Failure> {
    let mut addresses = Vec::new();
    let mut announcing = Vec::new();
    for listen in &serve.listen {
        addresses.extend(resolve(&listen.address)?);
        announcing.resize(addresses.len(), listen.proxy);
    }
    Ok((addresses, announcing.into()))
}

/// The first address of a name; the control plane listens on one only.
fn resolve_one(address: Option<&HostPort>) -> Result<Option<SocketAddr>, Failure> {
    Ok(match address {
        Some(address) => resolve(address)?.first().copied(),
        None => None,
    })
}

fn resolve(address: &HostPort) -> Result<Vec<SocketAddr>, Failure> {
    let found = address.resolve();
    found.map_err(|error| Failure::Runtime(format!("cannot look up {address}: {error}")))
}

/// Who may use the control plane. Without tokens everybody who reaches it may do everything, so it
/// must not be reached from elsewhere.
fn access(serve: &ServeArgs, admin: Option<SocketAddr>) -> Result<control::Access, Failure> {
    match (admin, &serve.admin_token_file) {
        (Some(address), None) if !address.ip().is_loopback() => Err(Failure::Usage(format!(
            "--admin {address} is not a loopback address, and without --admin-token-file anyone \
             who reaches it could publish and close connections: name a token file, or listen on \
             a loopback address"
        ))),
        (_, file) => control::Access::open(file.clone()).map_err(Failure::Usage),
    }
}

/// Raises the soft limit of descriptors to the hard one, and looks at the CPUs.
pub(crate) fn look(sockets: Decision<engine_ring::Descriptors>) -> Result<Machine, Failure> {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    // Lowering nothing and raising no hard limit, this is always allowed; if it were not, the
    // soft limit is what there is.
    let _ = setrlimit(Resource::Nofile, raised);
    let cpus = Cpus::of_this_process()
        .map_err(|error| Failure::Runtime(format!("cannot read the affinity mask: {error}")))?;
    let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let descriptors = Descriptors::of(sockets.value, limit);
    Ok(Machine { cpus, descriptors, sockets, migrates_requests: migrates_requests() })
}

/// `net.ipv4.tcp_migrate_req`, which stands for IPv6 too; false where it cannot be read.
fn migrates_requests() -> bool {
    std::fs::read_to_string("/proc/sys/net/ipv4/tcp_migrate_req")
        .is_ok_and(|setting| setting.trim() != "0")
}

impl Sockets {
    fn bind(
        configuration: &Configuration,
        decisions: &Decisions,
        addresses: &[SocketAddr],
        admin: Option<SocketAddr>,
    ) -> Result<Self, Failure> {
        let serve = &configuration.serve;
        let options = ListenerOptions {
            backlog: configuration.limits.listen_backlog,
            unsent_bytes_max: configuration.limits.unsent_bytes_max,
            send_buffer_bytes: configuration.socket_send_buffer_bytes,
            write_timeout: serve.write_timeout.0,
            pong_timeout: serve.pong_timeout.0,
        };
        let metrics = resolve_one(serve.metrics.0.as_ref())?;
        let bind = || {
            Ok(Self {
                // First, because an address that two gateways must not share tells them apart.
                admin: admin.map(bind_alone).transpose()?,
                metrics: metrics.map(bind_alone).transpose()?,
                data: DataPlane::bind(addresses, decisions.layout.workers, &options)?,
            })
        };
        bind().map_err(Failure::Runtime)
    }
}

/// The mesh of all workers, by number, and behind them the control thread.
pub(crate) fn join(decisions: &Decisions) -> Vec<Endpoint<Letter>> {
    let letters_max = decisions.limits.iter().map(|limits| limits.mesh_letters_max).min();
    let letters_max = letters_max.expect("there is at least one worker") as usize;
    mesh::join(decisions.layout.workers + 1, |_: Member, _: Member| letters_max)
}

fn facts(
    engine: Choice,
    decisions: &Decisions,
    started: &[Started],
    (data_addresses, announcing): (Vec<SocketAddr>, &[bool]),
    started_at: Instant,
) -> Facts {
    let proxies = data_addresses.iter().zip(announcing).filter(|(_, is_proxy)| **is_proxy);
    let capacity = decisions.capacity;
    let places = capacity.connections_max_of_worker + capacity.surplus_of_worker;
    let shared_bytes = decisions.interest.bytes().div_ceil(started.len().max(1));
    let workers =
        (0..).zip(started).zip(&decisions.limits).map(|((worker, started), limits)| WorkerFacts {
            worker,
            core: decisions.layout.core(worker),
            pinned: decisions.pin.value,
            connections_max: capacity.connections_max_of_worker,
            fixed_bytes: (started.fixed_bytes + shared_bytes) as u64,
            handshakes_max: places,
            multishots_max: engine.kind.multishots_max(places, limits),
            limits: limits.clone(),
        });
    Facts {
        version: env!("CARGO_PKG_VERSION"),
        kernel: uname().release().to_string_lossy().into_owned(),
        engine: engine.kind.name(),
        engine_reason: engine.reason,
        descriptors: decisions.sockets.value.to_string(),
        started_at,
        proxy_addresses: proxies.map(|(address, _)| *address).collect(),
        data_addresses,
        workers: workers.collect(),
        connections_max: capacity.connections_max,
        interest: Arc::clone(&decisions.interest),
    }
}

/// What the control plane goes by.
pub(crate) fn settings(configuration: &Configuration) -> Settings {
    Settings {
        limits: configuration.limits.clone(),
        flags: flags(&configuration.serve),
        drain: configuration.serve.drain.0,
        drain_delay: configuration.serve.drain_delay.0,
    }
}

/// Bounds that are flags and no keys of `[limits]`, with their units.
fn flags(serve: &ServeArgs) -> Vec<(&'static str, f64)> {
    let seconds = |span: Span| Some(span.0.as_secs_f64());
    let number = |number: Option<NonZeroU32>| number.map(|number| f64::from(number.get()));
    let flags = [
        ("client_publish_rate_max", number(serve.client_publish_rate_max)),
        ("connections_per_address_max", number(serve.connections_per_address_max)),
        ("handshakes_per_address_rate", number(serve.handshakes_per_address_rate)),
        ("handshake_timeout_seconds", seconds(serve.handshake_timeout)),
        ("write_timeout_seconds", seconds(serve.write_timeout)),
        ("close_timeout_seconds", seconds(serve.close_timeout)),
        ("ping_interval_seconds", seconds(serve.ping_interval)),
        ("pong_timeout_seconds", seconds(serve.pong_timeout)),
        ("coalesce_delay_seconds", seconds(serve.coalesce_delay)),
        ("connection_age_max_seconds", serve.connection_age_max.and_then(seconds)),
        ("drain_seconds", seconds(serve.drain)),
        ("drain_delay_seconds", seconds(serve.drain_delay)),
    ];
    flags.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
}

/// The start lines: one fact each.
fn tell(log: &Log, facts: &Facts, decisions: &Decisions, started: &[Started]) {
    log.info("ringway", &[("version", facts.version.into())]);
    log.info("running", &[("kernel", facts.kernel.as_str().into())]);
    let reason = facts.engine_reason.as_str();
    log.info("engine", &[("name", facts.engine.into()), ("reason", reason.into())]);
    let mut told: Vec<&String> = Vec::new();
    for note in started.iter().flat_map(|started| &started.notes) {
        if !told.contains(&note) {
            log.info("engine", &[("note", note.as_str().into())]);
            told.push(note);
        }
    }
    let sockets = decisions.sockets;
    let fields = [("kind", text(sockets.value)), ("reason", sockets.reason.into())];
    log.info("descriptors", &fields);
    let cores: Vec<String> = decisions.layout.cores.iter().map(ToString::to_string).collect();
    let pin = decisions.pin;
    let fields = [
        ("count", facts.workers.len().into()),
        ("cores", cores.join(",").into()),
        ("pinned", pin.value.into()),
        ("reason", pin.reason.into()),
    ];
    log.info("workers", &fields);
    let capacity = decisions.capacity;
    let fields = [
        ("connections_max", facts.connections_max.into()),
        ("connections_max_of_worker", capacity.connections_max_of_worker.into()),
        ("descriptors", decisions.descriptors.limit().into()),
        ("reason", decisions.descriptors.in_words().into()),
    ];
    log.info("capacity", &fields);
    if capacity.is_short {
        let cure = decisions.descriptors.cure();
        log.warn("the workers cannot hold --connections-max", &[("cure", cure.into())]);
    }
    for worker in &facts.workers {
        let fields = [
            ("worker", worker.worker.into()),
            ("core", worker.core.into()),
            ("fixed_bytes", worker.fixed_bytes.into()),
            ("receive_buffers", worker.limits.receive_buffers.into()),
            ("completion_entries", worker.limits.completion_entries.into()),
            ("mesh_letters_max", worker.limits.mesh_letters_max.into()),
        ];
        log.debug("worker", &fields);
    }
    for address in &facts.data_addresses {
        log.info("listening", &[("plane", "data".into()), ("address", text(address))]);
    }
    let settle = decisions.settle;
    let ms = u64::try_from(settle.value.as_millis()).unwrap_or(u64::MAX);
    log.info("listeners settle", &[("ms", ms.into()), ("reason", settle.reason.into())]);
    let publish = decisions.client_publish;
    let state = if publish.value { "on" } else { "off" };
    log.info("clients publish", &[("state", state.into()), ("reason", publish.reason.into())]);
    let (allowed, reason) = decisions.origins_in_words();
    log.info("origins", &[("allowed", allowed.into()), ("reason", reason.into())]);
}

/// Who may connect, and whether those who may use the control plane are easily found.
fn tell_tokens(log: &Log, access: Option<&Access>, short: usize) {
    tell_short_tokens(log, short);
    let Some(access) = access else {
        return log.info("tokens", &[("state", "nobody needs one".into())]);
    };
    let keys = access.verifier.keys();
    let fields = [
        ("state", "required".into()),
        ("keys", keys.count().into()),
        ("algorithms", keys.algorithms().join(" ").into()),
        ("keys_with_kid", keys.with_id().into()),
        ("keys_passed_over", keys.passed_over().into()),
    ];
    log.info("tokens", &fields);
}

/// Tokens of the control plane that are so short.
fn tell_short_tokens(log: &Log, short: usize) {
    if short > 0 {
        let fields =
            [("short", short.into()), ("bytes_wanted", control::TOKEN_BYTES_WANTED.into())];
        log.warn("tokens of --admin-token-file can be guessed", &fields);
    }
}

fn text(value: impl ToString) -> Value {
    value.to_string().into()
}

/// The control plane's lines among ours.
fn journal(log: Log) -> Journal {
    Journal::new(move |line| {
        let fields: Vec<_> =
            line.fields.iter().map(|(name, value)| (*name, value.as_str().into())).collect();
        match line.level {
            control::Level::Warn => log.warn(line.text, &fields),
            control::Level::Info => log.info(line.text, &fields),
        }
    })
}
