//! What bad clients cost the others: a fan-out at 80 % of what the gateway can, without them and
//! with them in turn. Nobody else misses a message, and subscribers that never read delay nobody;
//! how much later messages come beside the other kinds is shown.

use std::time::Duration;

use clap::Args;
use hdrhistogram::Histogram;
use serde_json::{Value, json};

use super::Claims;
use super::bad::{Bad, Behaviour};
use super::crowd::{Crowd, Purpose};
use super::figures::milliseconds;
use super::gateway::{self, Gateway};
use crate::confidence::{self, Ratio};
use crate::failure::{Failure, Outcome};
use crate::units;

/// How long the closed loop runs that finds the peak.
const PEAK_DURATION: Duration = Duration::from_secs(5);
/// How long everything runs before the bad ones come, and again before anything is measured.
const WARM_UP: Duration = Duration::from_secs(2);
/// Quantiles of the table.
const QUANTILES: [f64; 3] = [0.5, 0.99, 0.999];
/// The place of p99 among them.
const P99: usize = 1;
/// A topic of those that never read, and what they get there before anything is measured: their
/// sockets take no more from the start on, and their queues still have room for what follows.
const FILLING: &str = "filling";
const FILLING_MESSAGES: usize = 4;
const FILLING_BYTES: usize = 32 << 10;
/// How many times the p99 of the others may be what it is without company that never reads.
const RATIO_MAX: f64 = 1.1;
#[derive(Args, Clone, Debug)]
pub(super) struct Options {
    /// Command line of the gateway, read by sh.
    #[arg(long, default_value = "./ringway serve --workers 1 --cores 0")]
    server: String,
    /// CPU of the load, and of the bad clients behind it.
    #[arg(long, default_value_t = 1)]
    core_load: usize,
    /// Subscribers that behave.
    #[arg(long, default_value_t = 4950, value_parser = clap::value_parser!(u32).range(1..))]
    connections: u32,
    /// Clients that do not, where it is not one.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..))]
    bad: u32,
    /// Part of the peak that is published, in per cent.
    #[arg(long, default_value_t = 80.0)]
    load_percent: f64,
    /// Connections that are reset and opened again, a second.
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..))]
    reconnect_rate: u32,
    /// Bytes of a publication.
    #[arg(long, value_parser = units::size, default_value = "100")]
    size: usize,
    /// How long is measured.
    #[arg(long, value_parser = units::duration, default_value = "12s")]
    duration: Duration,
    /// Pairs of runs, without and with them.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pairs: u32,
    /// Only situations whose name contains this.
    #[arg(long, default_value = "")]
    only: String,
}

/// A kind of bad company, or several at once.
#[derive(Debug)]
struct Situation {
    name: &'static str,
    /// Each is that of as many clients as are asked for, or of one.
    behaviours: Vec<Behaviour>,
    /// True exactly when what clients publish is bounded.
    is_limited: bool,
}

/// Latencies of the others.
struct Figures {
    situation: Situation,
    /// Of each pair, undisturbed and disturbed. They are pooled: the p99 of one run is that of the
    /// few slowest of some hundred publications.
    pairs: Vec<(Histogram<u64>, Histogram<u64>)>,
}

pub(super) fn run(options: &Options) -> Outcome<bool> {
    let mut claims = Claims::new();
    let rate = peak(options)? * options.load_percent / 100.0;
    println!("rate         {rate:.1} publications a second");
    let mut table = Vec::new();
    for situation in situations(options) {
        let mut figures = Figures { situation, pairs: Vec::new() };
        for _ in 0..options.pairs {
            let alone = run_one(options, rate, &figures.situation, false, &mut claims)?;
            let with = run_one(options, rate, &figures.situation, true, &mut claims)?;
            figures.pairs.push((alone, with));
        }
        table.push(figures);
    }
    print(&table)?;
    let is_claimed = |figures: &&Figures| figures.situation.behaviours == [Behaviour::Still];
    for figures in table.iter().filter(is_claimed) {
        if figures.pairs.len() < confidence::PAIRS_MIN {
            println!("not claimed  their p99: one pair says little, take --pairs 5");
            continue;
        }
        let ratio = figures.ratios()?[P99];
        claims.add(
            &format!(
                "{}: the others' p99 is at most {RATIO_MAX} times what it is alone",
                figures.situation.name
            ),
            ratio.pooled <= RATIO_MAX,
            &format!("{ratio}, {} pairs pooled", options.pairs),
        );
    }
    Ok(claims.hold)
}

fn situations(options: &Options) -> Vec<Situation> {
    let reconnect = Behaviour::Reconnect { rate: options.reconnect_rate };
    let all = [
        ("never-read", vec![Behaviour::Still], false),
        ("a-byte-a-second", vec![Behaviour::Trickle], false),
        ("reconnect", vec![reconnect], false),
        ("flood", vec![Behaviour::Flood], false),
        ("flood-limited", vec![Behaviour::Flood], true),
        ("fragments", vec![Behaviour::Fragments], false),
        ("pings", vec![Behaviour::Pings], false),
        ("all", vec![Behaviour::Still, Behaviour::Trickle, reconnect, Behaviour::Flood], false),
    ];
    all.into_iter()
        .filter(|(name, ..)| name.contains(&options.only))
        .map(|(name, behaviours, is_limited)| Situation { name, behaviours, is_limited })
        .collect()
}

/// Publications a second when the next leaves as soon as everybody has the last.
fn peak(options: &Options) -> Outcome<f64> {
    let gateway = Gateway::start(&options.server)?;
    let mut crowd = crowd(options, &gateway, 0.0)?;
    crowd.begin(WARM_UP)?;
    crowd.finish()?;
    crowd.begin(PEAK_DURATION)?;
    let (counts, _) = crowd.finish()?;
    let published = u32::try_from(counts.published).map_err(Failure::run)?;
    Ok(f64::from(published) / PEAK_DURATION.as_secs_f64())
}

fn crowd(options: &Options, gateway: &Gateway, rate: f64) -> Outcome<Crowd> {
    let purpose = Purpose {
        rate: Some(rate),
        size: options.size,
        core: Some(options.core_load),
        ..Purpose::idle(options.connections)
    };
    Crowd::open_all(&gateway.url("/ws/room")?, &purpose)
}

/// One run, and its latencies.
fn run_one(
    options: &Options,
    rate: f64,
    situation: &Situation,
    is_disturbed: bool,
    claims: &mut Claims,
) -> Outcome<Histogram<u64>> {
    let limit = if situation.is_limited {
        // The load's own publisher stays well below.
        format!(" --client-publish-rate-max {:.0}", (rate * 4.0).ceil())
    } else {
        String::new()
    };
    let gateway = Gateway::start(&format!("{}{limit}", options.server))?;
    let mut crowd = crowd(options, &gateway, rate)?;
    crowd.begin(WARM_UP)?;
    crowd.finish()?;
    let bad = is_disturbed.then(|| start_bad(options, &gateway, situation, claims));
    let bad = bad.transpose()?.unwrap_or_default();
    // Nothing was published while they came. Behind a pause the load sleeps between two messages and
    // each has to wake it, so that the first second is slower, whoever is there.
    crowd.begin(WARM_UP)?;
    let (mut counts, why_before) = crowd.finish()?;
    crowd.measure(options.duration)?;
    let (measured, why) = crowd.finish()?;
    counts.add(&measured);
    let why = why_before.or(why);
    let done = bad.into_iter().map(Bad::end).collect::<Outcome<Vec<u64>>>()?;
    let closed = gateway::by_reason(&gateway.stats()?, "closed");
    let company = if is_disturbed { format!("they did {done:?}") } else { "alone".to_owned() };
    claims.add_counts(
        &format!("{}: nobody else misses a message", situation.name),
        counts.has_all(options.connections),
        (&counts, why),
        &format!("{company}; closed {closed:?}"),
    );
    Ok(crowd.latencies().clone())
}

/// Lets the bad ones begin. Those that never read are in the way before anything is measured.
fn start_bad(
    options: &Options,
    gateway: &Gateway,
    situation: &Situation,
    claims: &mut Claims,
) -> Outcome<Vec<Bad>> {
    let mut bad = Vec::new();
    for behaviour in &situation.behaviours {
        let is_still = *behaviour == Behaviour::Still;
        let more = if is_still { format!("?topic={FILLING}") } else { String::new() };
        let room = gateway.url(&format!("/ws/room{more}"))?;
        bad.push(Bad::start(*behaviour, options.bad, &room, Some(options.core_load))?);
        if is_still {
            fill(options, gateway, situation.name, claims)?;
        }
    }
    Ok(bad)
}

/// Fills the sockets of those that never read.
fn fill(options: &Options, gateway: &Gateway, name: &str, claims: &mut Claims) -> Outcome<()> {
    let message = json!({ "topic": FILLING, "text": "x".repeat(FILLING_BYTES) });
    let batch = json!({ "messages": vec![message; FILLING_MESSAGES] }).to_string();
    let status = gateway::publish(gateway.admin()?, &batch)?;
    let waiting = |stats: &Value| gateway::sum(stats, &["send_queues"]);
    let wanted = u64::from(options.bad);
    let waiting = waiting(&gateway.stats_until(|stats| waiting(stats) == wanted)?);
    claims.add(
        &format!("{name}: their sockets are full before anything is measured"),
        waiting == wanted,
        &format!("{waiting} of {wanted}; status {status}"),
    );
    Ok(())
}

impl Figures {
    /// How many times what it is alone the latency is with company, at each of [`QUANTILES`].
    fn ratios(&self) -> Outcome<[Ratio; QUANTILES.len()]> {
        let pairs: Vec<_> = self.pairs.iter().map(|(alone, with)| (alone, with)).collect();
        confidence::ratios(&pairs, QUANTILES)
    }
}

fn print(table: &[Figures]) -> Outcome<()> {
    println!();
    println!("| the others' latency, ms | p50 | p99 | p99.9 | × p50 | × p99 | × p99.9 |");
    println!("|---|---|---|---|---|---|---|");
    for figures in table {
        let alone = confidence::together(figures.pairs.iter().map(|(alone, _)| alone))?;
        let with = confidence::together(figures.pairs.iter().map(|(_, with)| with))?;
        let times = QUANTILES.map(|quantile| {
            let [alone, with] = [&alone, &with].map(|all| milliseconds(all, quantile));
            format!("{alone:.1} → {with:.1}")
        });
        let ratios = figures.ratios()?.map(|ratio| ratio.to_string());
        println!("| {} | {} | {} |", figures.situation.name, times.join(" | "), ratios.join(" | "));
    }
    Ok(())
}
