//! What an idle connection costs in kernel memory beyond the socket itself: the growth of the slab
//! caches while connections are opened to the gateway, and while as many are opened to a bare loop
//! that has nothing armed on them, in turn. The clients' half is the same in both.

use std::collections::{BTreeMap, BTreeSet};

use clap::Args;

use super::crowd::{Crowd, Purpose};
use super::figures::spread;
use super::floor::Floor;
use super::gateway::Gateway;
use super::{Beside, Claims};
use crate::failure::{Failure, Outcome};
use crate::memory::{self, HalfWeights};
use crate::report::SlabFigures;
use crate::url::Url;

/// A cache in which both are nearer than so many bytes per connection is not named.
const NAMED_BYTES_MIN: f64 = 4.0;

#[derive(Args, Clone, Debug)]
pub(super) struct Options {
    #[command(flatten)]
    beside: Beside,
    /// Runs of each.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    pairs: u32,
    /// Bytes per connection that the gateway may have beyond a bare socket.
    #[arg(long, default_value_t = 310.0)]
    bytes_max: f64,
}

/// The server's half of each run, in bytes per connection.
#[derive(Default)]
struct Side {
    all: Vec<f64>,
    /// By cache, where it is worth a name.
    caches: Vec<BTreeMap<String, f64>>,
}

impl Side {
    fn add(&mut self, figures: SlabFigures) {
        self.all.push(figures.server_bytes_per_connection);
        self.caches.push(figures.server_caches.into_iter().collect());
    }

    fn cache(&self, name: &str) -> f64 {
        let of = |caches: &BTreeMap<String, f64>| caches.get(name).copied().unwrap_or(0.0);
        spread(&self.caches.iter().map(of).collect::<Vec<f64>>()).median
    }
}

pub(super) fn run(options: &Options) -> Outcome<bool> {
    let Options { beside, pairs, bytes_max } = options;
    let (mut bare, mut ringway) = (Side::default(), Side::default());
    let mut weights = None;
    for _ in 0..*pairs {
        let floor = Floor::start(&beside.floor(""))?;
        bare.add(weigh(beside, &floor.url()?, &mut weights)?);
        drop(floor);
        let gateway = Gateway::start(&beside.gateway(""))?;
        ringway.add(weigh(beside, &gateway.url("/ws/room")?, &mut weights)?);
    }
    let differences: Vec<f64> =
        ringway.all.iter().zip(&bare.all).map(|(ours, bare)| ours - bare).collect();
    println!();
    println!("| slab, the server's half, B per connection | bare | Ringway | more |");
    println!("|---|---|---|---|");
    let names: BTreeSet<&String> =
        bare.caches.iter().chain(&ringway.caches).flat_map(BTreeMap::keys).collect();
    let mut larger = 0.0;
    for name in names {
        let (bare, ringway) = (bare.cache(name), ringway.cache(name));
        larger += (ringway - bare).max(0.0);
        if (ringway - bare).abs() >= NAMED_BYTES_MIN {
            println!("| {name} | {bare:.0} | {ringway:.0} | {:.0} |", ringway - bare);
        }
    }
    let (all_bare, all_ringway) = (spread(&bare.all), spread(&ringway.all));
    let difference = spread(&differences);
    println!("| all | {all_bare} | {all_ringway} | {difference} |");
    println!();
    let mut claims = Claims::new();
    claims.add(
        &format!("at most {bytes_max} B of kernel memory per connection beyond a bare socket"),
        difference.median <= *bytes_max,
        &format!("{difference} B, {pairs} pairs"),
    );
    // A bare socket has no more of any cache: where it seems to, something else has taken that, and
    // it would hide what Ringway has more elsewhere.
    claims.add(
        &format!("nor more than {bytes_max} B in the caches of which it has more"),
        larger <= *bytes_max,
        &format!("{larger:.0} B"),
    );
    Ok(claims.hold)
}

/// Opens the connections to one of both and weighs what its half takes. The clients' half is
/// weighed once: whatever is wrong with it is wrong with both.
fn weigh(beside: &Beside, url: &Url, weights: &mut Option<HalfWeights>) -> Outcome<SlabFigures> {
    let purpose = Purpose { core: Some(beside.core_load), ..Purpose::idle(beside.connections) };
    let mut crowd = Crowd::prepare(url, &purpose)?;
    let weights = match weights {
        Some(weights) => weights,
        None => weights.insert(crowd.weigh_halves()?),
    };
    let before = memory::settled_slabs();
    if before.is_empty() {
        return Err(Failure::run("/proc/slabinfo cannot be read: this needs root"));
    }
    crowd.open_all_planned()?;
    let growth = memory::settled_slabs().since(&before);
    Ok(memory::server_half(&growth, weights, crowd.open))
}
