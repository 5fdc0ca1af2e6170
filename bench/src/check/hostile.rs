//! Attacks at full size: each is bounded, what it is refused is counted by reason, and subscribers
//! that were there before get every message meanwhile. Small forms are tests of the gateway.

use std::io::Write;
use std::net::{Ipv4Addr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use clap::Args;
use hdrhistogram::Histogram;

use super::Claims;
use super::crowd::{Crowd, Purpose};
use super::gateway::{self, Gateway};
use super::peers;
use crate::failure::Outcome;
use crate::units;

/// Where the attacks come from; the others are at 127.0.0.1.
const SOURCE: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);
/// Bytes of the messages that never end: below `--message-bytes-max`.
const ENDLESS_BYTES: u16 = 60_000;
/// How long everything runs before an attack.
const WARM_UP: Duration = Duration::from_secs(2);

#[derive(Args, Clone, Debug)]
pub(super) struct Options {
    /// Command line of the gateway, read by sh; the bounds of each attack are added.
    #[arg(long, default_value = "./ringway serve --workers 2")]
    server: String,
    /// Subscribers that behave.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..))]
    connections: u32,
    /// Publications a second.
    #[arg(long, default_value_t = 20.0)]
    rate: f64,
    /// Connections of an attack.
    #[arg(
        long,
        default_value_t = 10_000,
        value_parser = clap::value_parser!(u32).range(100..19_000)
    )]
    attackers: u32,
    /// How long is published, from the beginning of an attack; longer than the handshake timeout.
    #[arg(long, value_parser = units::duration, default_value = "10s")]
    duration: Duration,
}

/// One way to hurt.
#[derive(Clone, Copy, Debug)]
enum Attack {
    /// Connect and say nothing.
    Silence,
    /// Connect and send a byte of the head every now and then.
    TrickledHeads,
    /// Begin a message and never end it.
    EndlessMessages,
    /// Open more connections than the process may have.
    Capacity,
    /// Open more connections than an address may have.
    AddressConnections,
    /// Shake hands more often than an address may.
    AddressRate,
}

impl Attack {
    const ALL: [Attack; 6] = [
        Attack::Silence,
        Attack::TrickledHeads,
        Attack::EndlessMessages,
        Attack::Capacity,
        Attack::AddressConnections,
        Attack::AddressRate,
    ];

    fn name(self) -> &'static str {
        match self {
            Attack::Silence => "silence",
            Attack::TrickledHeads => "trickled heads",
            Attack::EndlessMessages => "endless messages",
            Attack::Capacity => "beyond capacity",
            Attack::AddressConnections => "connections of an address",
            Attack::AddressRate => "handshakes of an address",
        }
    }

    /// What bounds it, beside the defaults.
    fn flags(self, options: &Options) -> String {
        match self {
            Attack::Silence | Attack::TrickledHeads | Attack::EndlessMessages => String::new(),
            Attack::Capacity => {
                format!("--connections-max {}", options.connections + options.attackers / 10)
            }
            // The others have theirs from 127.0.0.1, as many as an address may have.
            Attack::AddressConnections => {
                format!("--connections-per-address-max {}", options.connections + 1)
            }
            Attack::AddressRate => {
                format!("--handshakes-per-address-rate {}", options.connections + 1)
            }
        }
    }

    /// The same in `/metrics`.
    fn sample(self) -> String {
        let [kind, reason] = self.counter();
        let name = match kind {
            "closed" => "ringway_connections_closed_total",
            _ => "ringway_handshakes_refused_total",
        };
        format!("{name}{{reason=\"{reason}\"}} ")
    }

    /// Where those are counted that it is refused, in `/stats`.
    fn counter(self) -> [&'static str; 2] {
        match self {
            Attack::Silence | Attack::TrickledHeads => ["refused", "timeout"],
            Attack::EndlessMessages => ["closed", "overloaded"],
            Attack::Capacity => ["refused", "full"],
            Attack::AddressConnections => ["refused", "address_connections"],
            Attack::AddressRate => ["refused", "address_rate"],
        }
    }
}

/// What became of an attack.
struct Seen {
    streams: Vec<TcpStream>,
    /// Connections that must have been counted as refused, where that is known.
    refused: Option<u64>,
}

pub(super) fn run(options: &Options) -> Outcome<bool> {
    peers::raise_descriptor_limit();
    let mut claims = Claims::new();
    for attack in Attack::ALL {
        run_one(options, attack, &mut claims)?;
    }
    Ok(claims.hold)
}

fn run_one(options: &Options, attack: Attack, claims: &mut Claims) -> Outcome<()> {
    let name = attack.name();
    let gateway = Gateway::start(&format!("{} {}", options.server, attack.flags(options)))?;
    let purpose = Purpose { rate: Some(options.rate), ..Purpose::idle(options.connections) };
    let mut crowd = Crowd::open_all(&gateway.url("/ws/room")?, &purpose)?;
    crowd.measure(WARM_UP)?;
    crowd.finish()?;
    let before = median(crowd.latencies());
    crowd.measure(options.duration)?;
    let seen = go(options, attack, &gateway)?;
    let (counts, why) = crowd.finish()?;
    let after = median(crowd.latencies());
    claims.add_counts(
        &format!("{name}: the others get every message, once and in order"),
        counts.has_all(options.connections),
        (&counts, why),
        &format!("median {before} before, {after} meanwhile"),
    );
    let refused = seen.refused.unwrap_or(1);
    let stats = gateway.stats_until(|stats| gateway::sum(stats, &attack.counter()) >= refused)?;
    let counted = gateway::sum(&stats, &attack.counter());
    claims.add(
        &format!("{name}: who is refused is counted as {}", attack.counter().join(".")),
        seen.refused.map_or(counted > 0, |refused| counted == refused),
        &format!("{counted} of {}", options.attackers),
    );
    let shown = gateway.metric(&attack.sample())?;
    claims.add(&format!("{name}: and in /metrics"), shown >= counted, &shown.to_string());
    for gauge in ["partial_bytes", "handshake_bytes", "connections"] {
        let worker_holds = |worker: &serde_json::Value| {
            worker[gauge].as_u64() <= worker[&format!("{gauge}_max")].as_u64()
        };
        let workers = stats["workers"].as_array().map(Vec::as_slice).unwrap_or_default();
        let most = gateway::sum(&stats, &[gauge]);
        let is_bounded = !workers.is_empty() && workers.iter().all(worker_holds);
        claims.add(&format!("{name}: {gauge} within its bound"), is_bounded, &most.to_string());
    }
    drop((seen.streams, crowd));
    let held = gateway.stats_at_rest()?;
    claims.add(&format!("{name}: nothing is held in the end"), held.is_empty(), &held.join(", "));
    Ok(())
}

fn go(options: &Options, attack: Attack, gateway: &Gateway) -> Outcome<Seen> {
    let url = gateway.url("/ws/bad?own=off")?;
    let all = 0..options.attackers;
    match attack {
        Attack::Silence | Attack::TrickledHeads => {
            let request = peers::request(&url, 0);
            let streams = all
                .map(|_| peers::connect(&url, None, Some(SOURCE)))
                .collect::<Outcome<Vec<_>>>()?;
            if matches!(attack, Attack::TrickledHeads) {
                trickle(&streams, &request, options.duration);
            }
            Ok(Seen { streams, refused: Some(options.attackers.into()) })
        }
        Attack::EndlessMessages => {
            let [high, low] = ENDLESS_BYTES.to_be_bytes();
            let mut beginning = vec![0x82, 0x80 | 126, high, low, 0, 0, 0, 0];
            beginning.resize(usize::from(ENDLESS_BYTES), 0);
            let mut streams = Vec::new();
            for number in all {
                let mut stream = peers::open(&url, number, None, Some(SOURCE))?;
                // Who is thrown out meanwhile cannot send all of it.
                let _ = stream.write_all(&beginning);
                streams.push(stream);
            }
            Ok(Seen { streams, refused: None })
        }
        Attack::Capacity | Attack::AddressConnections | Attack::AddressRate => {
            let streams: Vec<TcpStream> = all
                .filter_map(|number| peers::open(&url, number, None, Some(SOURCE)).ok())
                .collect();
            let refused = u64::from(options.attackers) - streams.len() as u64;
            Ok(Seen { streams, refused: Some(refused) })
        }
    }
}

/// Sends a byte of the head on each, again and again.
fn trickle(streams: &[TcpStream], request: &[u8], over: Duration) {
    let until = Instant::now() + over;
    for byte in request.iter().cycle() {
        for mut stream in streams {
            // Who has been answered is not read from any more.
            let _ = stream.write_all(&[*byte]);
        }
        if Instant::now() > until {
            return;
        }
        thread::sleep(Duration::from_millis(500));
    }
}

fn median(latencies: &Histogram<u64>) -> String {
    format!("{} us", latencies.value_at_quantile(0.5) / 1000)
}
