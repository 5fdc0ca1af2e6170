//! What is decided before the first thread: which cores, how many connections, who may publish, and
//! every worker's options. Pure: configuration and machine in, decisions out, with their reasons.

use std::{
    net::{SocketAddr, TcpListener},
    sync::Arc,
    time::Duration,
};

use engine_ring::Descriptors as Sockets;
use hub::{Access, Interest, Letter, OriginRule};
use ipnet::IpNet;
use mesh::Endpoint;
use worker::{AddressLimits, Addresses, Limits, Proxies};

use crate::{
    capacity::{Capacity, Descriptors, Layout, limits_of_worker},
    cli::{ServeArgs, SlowConsumer, Switch, Toggle, WORKERS_MAX},
    config::Configuration,
    cores::Cpus,
    engine::Sizes,
    serve::Failure,
    workers::Plan,
};

/// What the machine allows this process.
#[derive(Debug, Clone)]
pub(crate) struct Machine {
    /// Where it may run.
    pub(crate) cpus: Cpus,
    /// What RLIMIT_NOFILE means to the engine.
    pub(crate) descriptors: Descriptors,
    /// What the sockets of connections are.
    pub(crate) sockets: Decision<Sockets>,
    /// Whether the kernel moves who waits at a closed listener to another of its address
    /// (`net.ipv4.tcp_migrate_req`).
    pub(crate) migrates_requests: bool,
}

/// Something decided, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Decision<T> {
    pub(crate) value: T,
    pub(crate) reason: &'static str,
}

/// Everything that is decided before the first thread.
#[derive(Debug)]
pub(crate) struct Decisions {
    pub(crate) layout: Layout,
    /// Whether workers are bound to their cores.
    pub(crate) pin: Decision<bool>,
    /// What RLIMIT_NOFILE means to the engine.
    pub(crate) descriptors: Descriptors,
    /// What the sockets of connections are.
    pub(crate) sockets: Decision<Sockets>,
    pub(crate) capacity: Capacity,
    /// Whether clients may publish.
    pub(crate) client_publish: Decision<bool>,
    pub(crate) origins: Decision<OriginRule>,
    /// True exactly when every listener is on loopback.
    is_loopback: bool,
    /// How long listeners settle before they are closed.
    pub(crate) settle: Decision<Duration>,
    /// What one address may take of the process.
    addresses: Option<Arc<Addresses>>,
    /// Which workers hear of which topics.
    pub(crate) interest: Arc<Interest>,
    /// By worker.
    pub(crate) limits: Vec<Limits>,
}

impl Decisions {
    /// Decides for the addresses that the data plane listens on.
    ///
    /// # Errors
    /// Cores that the process may not use; too few descriptors.
    pub(crate) fn new(
        configuration: &Configuration,
        machine: &Machine,
        addresses: &[SocketAddr],
    ) -> Result<Self, Failure> {
        let serve = &configuration.serve;
        let mut cores = machine.cpus.choose(serve.cores.as_ref()).map_err(Failure::Usage)?;
        // One a core, but no more than there may be: the rest of the cores have none.
        let workers = serve.workers.map_or(cores.len(), usize::from);
        let workers = u16::try_from(workers).unwrap_or(WORKERS_MAX).min(WORKERS_MAX);
        cores.truncate(workers.into());
        let layout = Layout { cores, workers };
        let listeners = u16::try_from(addresses.len()).unwrap_or(u16::MAX);
        let capacity = Capacity::new(
            serve.connections_max,
            workers,
            listeners,
            machine.descriptors,
            configuration.limits.surplus_connections_max,
        )
        .map_err(Failure::Runtime)?;
        let limits = divide(configuration, &layout, capacity).map_err(Failure::Usage)?;
        let origin_rule = configuration.origin_rule().map_err(Failure::Usage)?;
        let is_loopback = addresses.iter().all(|address| address.ip().is_loopback());
        let is_local = clients_are_local(serve, is_loopback);
        Ok(Self {
            pin: pin(serve.pin, &machine.cpus),
            descriptors: machine.descriptors,
            sockets: machine.sockets,
            capacity,
            client_publish: client_publish(serve.client_publish, is_local),
            origins: origins(origin_rule, is_local),
            is_loopback,
            settle: settle(machine.migrates_requests),
            addresses: address_accounts(serve, capacity),
            interest: Arc::new(Interest::new(layout.workers, rows(capacity), rand::random())),
            limits,
            layout,
        })
    }

    /// What each worker is started with. Listeners and endpoints are by worker; `access` is what
    /// tokens are verified with, where they are needed; `announcing` is, by listener, whether
    /// connections begin with a PROXY header.
    pub(crate) fn plans(
        &self,
        serve: &ServeArgs,
        access: Option<&Arc<Access>>,
        announcing: &Arc<[bool]>,
        listeners: Vec<Vec<TcpListener>>,
        endpoints: Vec<Endpoint<Letter>>,
    ) -> Vec<Plan> {
        let parts = (0..).zip(listeners).zip(endpoints).zip(&self.limits);
        let plan = |(((worker, listeners), endpoint), limits): (_, &Limits)| {
            let listeners: Vec<TcpListener> = listeners;
            Plan {
                worker,
                pin: self.pin.value.then(|| self.layout.core(worker)),
                sizes: self.sizes(limits),
                options: self.worker_options(serve, announcing, limits, listeners.len()),
                hub: self.hub_options(serve, access, limits),
                listeners,
                endpoint,
            }
        };
        parts.map(plan).collect()
    }

    /// Decides anew what may change while the workers run, by worker. Where it listens, cores and
    /// capacity stay as they were decided.
    ///
    /// # Errors
    /// One sentence about bounds that contradict each other once they are divided.
    pub(crate) fn decide_anew(
        &mut self,
        configuration: &Configuration,
    ) -> Result<Vec<hub::Settings>, String> {
        let limits = divide(configuration, &self.layout, self.capacity)?;
        let origin_rule = configuration.origin_rule()?;
        let serve = &configuration.serve;
        let is_local = clients_are_local(serve, self.is_loopback);
        self.limits = limits;
        match &self.addresses {
            Some(addresses) => addresses.limit(address_limits(serve)),
            None => self.addresses = address_accounts(serve, self.capacity),
        }
        self.client_publish = client_publish(serve.client_publish, is_local);
        self.origins = origins(origin_rule, is_local);
        let trusted = trusted(serve);
        let settings = self.limits.iter().map(|limits| hub::Settings {
            client_publish: self.client_publish.value,
            echo: serve.echo,
            compression: serve.compression == Switch::On,
            origins: self.origins.value.clone(),
            worker: worker::Settings {
                handshake_timeout: serve.handshake_timeout.0,
                close_timeout: serve.close_timeout.0,
                addresses: self.addresses.clone(),
                trusted: Arc::clone(&trusted),
                publish_rate_max: serve.client_publish_rate_max,
                limits: limits.clone(),
            },
        });
        Ok(settings.collect())
    }

    /// What the engine of a worker with these bounds is made with.
    fn sizes(&self, limits: &Limits) -> Sizes {
        Sizes {
            connections_max: self.capacity.connections_max_of_worker
                + self.capacity.surplus_of_worker,
            sockets: self.sockets.value,
            settle: self.settle.value,
            limits: limits.clone(),
        }
    }

    fn worker_options(
        &self,
        serve: &ServeArgs,
        announcing: &Arc<[bool]>,
        limits: &Limits,
        listeners: usize,
    ) -> worker::Options {
        worker::Options {
            connections_max: self.capacity.connections_max_of_worker,
            listeners: u16::try_from(listeners).expect("capacity bounds the listeners"),
            handshake_timeout: serve.handshake_timeout.0,
            write_timeout: serve.write_timeout.0,
            close_timeout: serve.close_timeout.0,
            ping_interval: Some(serve.ping_interval.0).filter(|span| *span > Duration::ZERO),
            pong_timeout: serve.pong_timeout.0,
            coalesce_delay: serve.coalesce_delay.0,
            connection_age_max: serve.connection_age_max.map(|span| span.0),
            addresses: self.addresses.clone(),
            proxies: Proxies { announcing: Arc::clone(announcing), trusted: trusted(serve) },
            publish_rate_max: serve.client_publish_rate_max,
            slow_consumer: match serve.slow_consumer {
                SlowConsumer::Close => worker::SlowConsumer::Close,
                SlowConsumer::DropOldest => worker::SlowConsumer::DropOldest,
                SlowConsumer::Latest => worker::SlowConsumer::Latest,
            },
            limits: limits.clone(),
            seed: rand::random(),
        }
    }

    fn hub_options(
        &self,
        serve: &ServeArgs,
        access: Option<&Arc<Access>>,
        limits: &Limits,
    ) -> hub::Options {
        hub::Options {
            client_publish: self.client_publish.value,
            echo: serve.echo,
            compression: serve.compression == Switch::On,
            origins: self.origins.value.clone(),
            access: access.cloned(),
            topics_per_connection_max: limits.topics_per_connection_max,
            topic_bytes_max: limits.topic_bytes_max,
            held_bytes_max: limits.fanout_bytes_max,
            interest: Arc::clone(&self.interest),
        }
    }

    /// The rule for origins for the start line.
    pub(crate) fn origins_in_words(&self) -> (&'static str, &'static str) {
        let allowed = match &self.origins.value {
            OriginRule::Any => "any",
            OriginRule::SameHost => "the host of the request",
            OriginRule::List(_) => "those of --allow-origin",
        };
        (allowed, self.origins.reason)
    }
}

/// The bounds, by worker.
fn divide(
    configuration: &Configuration,
    layout: &Layout,
    capacity: Capacity,
) -> Result<Vec<Limits>, String> {
    let Configuration { limits, limits_asked, .. } = configuration;
    let of_worker = |worker| {
        let limits = limits_of_worker(limits, limits_asked, layout, worker, capacity);
        limits.check().map_err(|error| format!("limits of a worker: {error}"))?;
        Ok(limits)
    };
    (0..layout.workers).map(of_worker).collect()
}

fn trusted(serve: &ServeArgs) -> Arc<[IpNet]> {
    serve.trusted_proxy.iter().map(|network| network.0).collect()
}

fn pin(asked: Toggle, cpus: &Cpus) -> Decision<bool> {
    match asked {
        Toggle::On => Decision { value: true, reason: "--pin on" },
        Toggle::Off => Decision { value: false, reason: "--pin off" },
        Toggle::Auto => {
            let (value, reason) = cpus.pins();
            Decision { value, reason }
        }
    }
}

fn address_limits(serve: &ServeArgs) -> AddressLimits {
    AddressLimits {
        connections_max: serve.connections_per_address_max,
        handshakes_rate: serve.handshakes_per_address_rate,
    }
}

/// The accounts of addresses, where they have bounds.
fn address_accounts(serve: &ServeArgs, capacity: Capacity) -> Option<Arc<Addresses>> {
    let limits = address_limits(serve);
    let is_bounded = limits.connections_max.is_some() || limits.handshakes_rate.is_some();
    is_bounded.then(|| Arc::new(Addresses::new(limits, rows(capacity), rand::random())))
}

/// Connections of the process: tables that all workers share are sized by it.
fn rows(capacity: Capacity) -> u32 {
    u32::try_from(capacity.connections_max).unwrap_or(u32::MAX)
}

/// Whoever reaches a loopback address has an account on the machine, unless a proxy there speaks for
/// others: one that names its clients says that they are elsewhere.
fn clients_are_local(serve: &ServeArgs, is_loopback: bool) -> Decision<bool> {
    let reason = if !is_loopback {
        "not every listener is on loopback"
    } else if serve.listen.iter().any(|listen| listen.proxy) {
        "a listener with ,proxy has clients from elsewhere"
    } else if !serve.trusted_proxy.is_empty() {
        "--trusted-proxy has clients from elsewhere"
    } else {
        return Decision { value: true, reason: "every listener is on loopback" };
    };
    Decision { value: false, reason }
}

/// Who is elsewhere may be anyone, and must not publish unless somebody has said so.
fn client_publish(asked: Toggle, is_local: Decision<bool>) -> Decision<bool> {
    match asked {
        Toggle::On => Decision { value: true, reason: "--client-publish on" },
        Toggle::Off => Decision { value: false, reason: "--client-publish off" },
        Toggle::Auto => is_local,
    }
}

fn origins(asked: Option<OriginRule>, is_local: Decision<bool>) -> Decision<OriginRule> {
    let Decision { value: is_local, reason } = is_local;
    match asked {
        Some(rule) => Decision { value: rule, reason: "--allow-origin" },
        None if is_local => Decision { value: OriginRule::Any, reason },
        None => Decision { value: OriginRule::SameHost, reason },
    }
}

/// Long enough for the round trip of nearly every client, and shorter than the second after which a
/// client repeats its SYN (RFC 6298 section 2).
const SETTLE: Duration = Duration::from_millis(500);

/// Who is in the middle of the TCP handshake would be reset where the kernel does not move them.
fn settle(migrates_requests: bool) -> Decision<Duration> {
    if migrates_requests {
        Decision { value: Duration::ZERO, reason: "net.ipv4.tcp_migrate_req is 1" }
    } else {
        Decision { value: SETTLE, reason: "net.ipv4.tcp_migrate_req is 0" }
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use super::*;
    use crate::config::{self, Request};

    fn configuration(flags: &[&str]) -> Configuration {
        let arguments = ["ringway", "serve"].iter().chain(flags).map(OsString::from);
        match config::read(&arguments.collect::<Vec<_>>()) {
            Ok(Request::Serve(configuration)) => *configuration,
            other => panic!("{other:?}"),
        }
    }

    fn decide(flags: &[&str], addresses: &[&str]) -> Decisions {
        let cpus = Cpus { allowed: vec![0, 1, 2, 3], is_subset: false, quota: None };
        let machine = Machine {
            cpus,
            descriptors: Descriptors::OfWorker(20_000),
            sockets: Decision { value: Sockets::Direct, reason: "a test" },
            migrates_requests: false,
        };
        let addresses: Vec<SocketAddr> =
            addresses.iter().map(|address| address.parse().unwrap()).collect();
        Decisions::new(&configuration(flags), &machine, &addresses).unwrap()
    }

    #[test]
    fn there_is_one_worker_a_core_unless_a_number_is_asked_for() {
        assert_eq!(decide(&[], &["127.0.0.1:1"]).layout.workers, 4);
        let decisions = decide(&["--cores", "1,3", "--workers", "5"], &["127.0.0.1:1"]);
        assert_eq!(decisions.layout, Layout { cores: vec![1, 3], workers: 5 });
        assert_eq!(decisions.limits.len(), 5);
        assert_eq!(decide(&["--workers", "1"], &["127.0.0.1:1"]).layout.cores, [0]);
    }

    #[test]
    fn clients_publish_by_themselves_only_where_every_listener_is_local() {
        let publish = |flags: &[&str], addresses: &[&str]| decide(flags, addresses).client_publish;
        assert!(publish(&[], &["127.0.0.1:1", "[::1]:1"]).value);
        let remote = publish(&[], &["127.0.0.1:1", "0.0.0.0:1"]);
        assert_eq!((remote.value, remote.reason), (false, "not every listener is on loopback"));
        assert!(publish(&["--client-publish", "on"], &["0.0.0.0:1"]).value);
        assert!(!publish(&["--client-publish", "off"], &["127.0.0.1:1"]).value);
    }

    #[test]
    fn origins_are_free_by_themselves_only_where_every_listener_is_local() {
        let origins = |flags: &[&str], addresses: &[&str]| decide(flags, addresses).origins.value;
        assert_eq!(origins(&[], &["127.0.0.1:1"]), OriginRule::Any);
        assert_eq!(origins(&[], &["127.0.0.1:1", "[::]:1"]), OriginRule::SameHost);
        assert_eq!(origins(&["--allow-origin", "any"], &["[::]:1"]), OriginRule::Any);
        let list = origins(&["--allow-origin", "https://example.com"], &["127.0.0.1:1"]);
        assert!(matches!(list, OriginRule::List(_)));
    }

    #[test]
    fn clients_of_a_proxy_on_the_same_machine_are_not_local() {
        let by_header = ["--listen", "127.0.0.1:1", "--listen", "127.0.0.1:2,proxy"];
        let by_forward = ["--trusted-proxy", "127.0.0.0/8"];
        for (flags, reason) in [
            (&by_header[..], "a listener with ,proxy has clients from elsewhere"),
            (&by_forward, "--trusted-proxy has clients from elsewhere"),
        ] {
            let decisions = decide(flags, &["127.0.0.1:1", "127.0.0.1:2"]);
            assert_eq!(decisions.client_publish, Decision { value: false, reason });
            assert_eq!(decisions.origins, Decision { value: OriginRule::SameHost, reason });
            let told = [flags, &["--client-publish", "on", "--allow-origin", "any"]].concat();
            let decisions = decide(&told, &["127.0.0.1:1", "127.0.0.1:2"]);
            assert!(decisions.client_publish.value);
            assert_eq!(decisions.origins.value, OriginRule::Any);
        }
        // One that is trusted from a reload on counts from then on.
        let mut decisions = decide(&[], &["127.0.0.1:1"]);
        assert!(decisions.client_publish.value);
        for settings in decisions.decide_anew(&configuration(&by_forward)).unwrap() {
            assert!(!settings.client_publish);
            assert_eq!(settings.origins, OriginRule::SameHost);
        }
    }

    #[test]
    fn what_is_decided_anew_knows_where_the_listeners_are() {
        let mut decisions = decide(&["--client-publish", "on"], &["127.0.0.1:1", "[::]:1"]);
        let flags = ["--send-queue-total-bytes-max", "4MiB"];
        let anew = decisions.decide_anew(&configuration(&flags)).unwrap();
        assert_eq!(anew.len(), 4);
        for settings in &anew {
            assert!(!settings.client_publish);
            assert_eq!(settings.origins, OriginRule::SameHost);
            assert_eq!(settings.worker.limits.send_queue_total_bytes_max, 1 << 20);
        }
    }

    #[test]
    fn the_engine_table_has_the_share_and_the_surplus() {
        let decisions = decide(&["--connections-max", "1000"], &["127.0.0.1:1"]);
        let sizes = decisions.sizes(&decisions.limits[0]);
        // 1000 × 1.05 ÷ 4 = 262.5, and 64 more.
        assert_eq!(sizes.connections_max, 263 + 64);
        assert_eq!(decisions.limits[0].surplus_connections_max, 64);
    }

    #[test]
    fn listeners_settle_where_the_kernel_moves_nobody() {
        assert_eq!(settle(false).value, Duration::from_millis(500));
        assert_eq!(settle(true).value, Duration::ZERO);
    }

    #[test]
    fn workers_have_keys_of_their_own() {
        let decisions = decide(&[], &["127.0.0.1:1"]);
        let configuration = configuration(&[]);
        let seeds: std::collections::HashSet<u64> = decisions
            .limits
            .iter()
            .map(|limits| {
                let serve = &configuration.serve;
                decisions.worker_options(serve, &Arc::default(), limits, 1).seed
            })
            .collect();
        assert_eq!(seeds.len(), 4);
    }
}
