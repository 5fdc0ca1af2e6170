//! What heartbeats cost beside the same heartbeats of a bare loop. Both hold their connections at
//! the same time and on the same core, so that whatever else the machine does meets both, and every
//! connection is pinged once in each interval that is measured.

use std::thread;
use std::time::Duration;

use clap::Args;

use super::crowd::{Crowd, Purpose};
use super::figures::{ratio, spread, to_f64};
use super::floor::Floor;
use super::gateway::Gateway;
use super::{Beside, Claims};
use crate::failure::Outcome;
use crate::proc::Tree;
use crate::url::Url;

/// CPU of a heartbeat over that of the bare loop, at most.
const RATIO_MAX: f64 = 1.1;
/// What is measured of an interval begins and ends somewhere within a tick: of the pings of one so
/// many may lie outside, in per cent.
const PINGS_PERCENT_MIN: u64 = 90;

#[derive(Args, Clone, Debug)]
pub(super) struct Options {
    #[command(flatten)]
    beside: Beside,
    /// Seconds in which every connection is pinged once.
    #[arg(long, default_value_t = 25, value_parser = clap::value_parser!(u32).range(1..=3600))]
    pings: u32,
    /// Intervals that are measured.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    pairs: u32,
}

/// One of both, with its connections, and what its intervals have shown.
struct Side {
    name: &'static str,
    tree: Tree,
    crowd: Crowd,
    /// CPU microseconds for each ping and its pong.
    ping_us: Vec<f64>,
    /// CPU microseconds a second and connection.
    connection_us: Vec<f64>,
    pings: Vec<u64>,
    lost: u64,
}

impl Side {
    fn open(name: &'static str, url: &Url, tree: Tree, options: &Options) -> Outcome<Side> {
        let Beside { connections, core_load, .. } = options.beside;
        let purpose = Purpose { core: Some(core_load), ..Purpose::idle(connections) };
        let crowd = Crowd::open_all(url, &purpose)?;
        let (ping_us, connection_us) = (Vec::new(), Vec::new());
        Ok(Side { name, tree, crowd, ping_us, connection_us, pings: Vec::new(), lost: 0 })
    }

    fn take(&mut self, cpu_us: f64, interval: Duration, connections: u32) -> Outcome<()> {
        let (counts, _) = self.crowd.finish()?;
        self.ping_us.push(cpu_us / to_f64(counts.pings.max(1)));
        self.connection_us.push(cpu_us / interval.as_secs_f64() / f64::from(connections));
        self.pings.push(counts.pings);
        self.lost += counts.lost;
        Ok(())
    }
}

pub(super) fn run(options: &Options) -> Outcome<bool> {
    let Options { beside, pings, pairs } = options;
    let gateway = Gateway::start(&beside.gateway(&format!("--ping-interval {pings}s")))?;
    let floor = Floor::start(&beside.floor(&format!("--pings {pings}")))?;
    let mut sides = [
        Side::open("the bare loop", &floor.url()?, floor.tree(), options)?,
        Side::open("Ringway", &gateway.url("/ws/room")?, gateway.tree(), options)?,
    ];
    let interval = Duration::from_secs((*pings).into());
    // Whoever was heard of a moment ago is not pinged in the first.
    thread::sleep(interval + interval / 2);
    for _ in 0..*pairs {
        let before = cpu_seconds(&sides)?;
        for side in &mut sides {
            side.crowd.begin(interval)?;
        }
        thread::sleep(interval);
        // Of both before either is waited for.
        let after = cpu_seconds(&sides)?;
        for (place, side) in sides.iter_mut().enumerate() {
            side.take((after[place] - before[place]) * 1e6, interval, beside.connections)?;
        }
    }
    let mut claims = Claims::new();
    claim(options, &sides, &mut claims);
    Ok(claims.hold)
}

fn cpu_seconds([bare, ringway]: &[Side; 2]) -> Outcome<[f64; 2]> {
    Ok([bare.tree.thread_seconds()?, ringway.tree.thread_seconds()?])
}

fn claim(options: &Options, sides: &[Side; 2], claims: &mut Claims) {
    println!();
    println!(
        "| {} connections, pings every {} s | CPU µs per ping | µs a second and connection |",
        options.beside.connections, options.pings
    );
    println!("|---|---|---|");
    for Side { name, ping_us, connection_us, .. } in sides {
        let connection = spread(connection_us);
        println!(
            "| {name} | {} | {:.3} ({:.3} – {:.3}) |",
            spread(ping_us),
            connection.median,
            connection.least,
            connection.most
        );
    }
    println!();
    let wanted = u64::from(options.beside.connections) * PINGS_PERCENT_MIN / 100;
    for Side { name, pings, lost, .. } in sides {
        claims.add(
            &format!("{name} pings everybody in every interval"),
            *lost == 0 && pings.iter().all(|pings| *pings >= wanted),
            &format!("{pings:?}, {lost} lost"),
        );
    }
    let [bare, ringway] = sides;
    let ratio = ratio(&ringway.ping_us, &bare.ping_us);
    claims.add(
        &format!("a ping takes at most {RATIO_MAX} times the CPU of the bare loop"),
        ratio.median <= RATIO_MAX,
        &format!("{ratio}, {} intervals", ringway.ping_us.len()),
    );
}
