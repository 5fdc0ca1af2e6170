//! Connections come and go for minutes beside many that stay: nothing grows, neither in the process
//! nor in the kernel nor among what `/stats` says is held.

use std::thread;
use std::time::Duration;

use clap::Args;

use super::Claims;
use super::crowd::{Crowd, Purpose};
use super::figures::{Watch, spread, to_f64};
use super::gateway::{self, Gateway, HELD};
use crate::failure::{Failure, Outcome};
use crate::memory;
use crate::proc::{self, Slabs};
use crate::units;

/// How many times everything is looked at, and how many of these the first and the last part have.
const LOOKS: u32 = 20;
const PART: usize = 5;
/// By how much the last part may be above the first: user memory, as the latency log of an hour
/// fills, and sockets in the kernel, of which some are on their way in or out at each look.
const USER_BYTES_MAX: f64 = 1_048_576.0;
const SLAB_BYTES_MAX: f64 = 2_097_152.0;
const SOCKETS_MAX: f64 = 200.0;
/// A cache that has grown by less is not named.
const NAMED_BYTES_MIN: u64 = 256 << 10;
/// How long the last to come may take to be there.
const GRACE: Duration = Duration::from_secs(20);
/// Before anything is looked at: the latency log encodes its first interval after 10 s.
const START: Duration = Duration::from_secs(12);

#[derive(Args, Clone, Debug)]
pub(super) struct Options {
    /// Command line of the gateway, read by sh.
    #[arg(long, default_value = "./ringway serve --cores 0 --workers 2")]
    server: String,
    /// CPU of the load.
    #[arg(long, default_value_t = 1)]
    core_load: usize,
    /// Connections that stay.
    #[arg(long, default_value_t = 20_000, value_parser = clap::value_parser!(u32).range(1..))]
    connections: u32,
    /// Connections of which the oldest is always the next to leave and come back.
    #[arg(long, default_value_t = 2000, value_parser = clap::value_parser!(u32).range(1..))]
    visitors: u32,
    /// Connections that leave and come a second.
    #[arg(long, default_value_t = 1000.0)]
    rate: f64,
    /// How long they come and go.
    #[arg(long, value_parser = units::duration, default_value = "10m")]
    duration: Duration,
}

/// What one look has seen.
struct Look {
    user_bytes: u64,
    slabs: Slabs,
    sockets: u64,
    held: [u64; HELD.len()],
}

pub(super) fn run(options: &Options) -> Outcome<bool> {
    if !(options.rate > 0.0 && options.rate.is_finite()) {
        return Err(Failure::usage("a rate is above 0"));
    }
    let gateway = Gateway::start(&options.server)?;
    let url = gateway.url("/ws/room")?;
    let idle = Purpose { core: Some(options.core_load), ..Purpose::idle(options.connections) };
    let visiting = Purpose {
        churns: true,
        rate: Some(options.rate),
        // Source addresses of their own.
        first: options.connections.next_multiple_of(20_000),
        connections: options.visitors,
        grace: GRACE,
        ..idle
    };
    let staying = Crowd::open_all(&url, &idle)?;
    let mut visitors = Crowd::open_all(&url, &visiting)?;
    thread::sleep(START);
    memory::settled_slabs();
    let before = look(&gateway)?;
    let watch = Watch::start(gateway.tree())?;
    visitors.begin(options.duration)?;
    let mut looks = Vec::new();
    for _ in 0..LOOKS {
        thread::sleep(options.duration / LOOKS);
        looks.push(look(&gateway)?);
    }
    let (counts, why) = visitors.finish()?;
    let busy = watch.look()?;
    let mut claims = Claims::new();
    claims.add(
        "whoever leaves comes back, and nobody else is lost",
        counts.published > 0 && counts.reopened == counts.published && !counts.has_errors(),
        &format!(
            "{} left and {} came in {:.0} s, {} lost {}; {:.1} µs of CPU for each, pings included",
            counts.published,
            counts.reopened,
            busy.seconds,
            counts.lost,
            why.unwrap_or_default(),
            busy.cpu_seconds * 1e6 / to_f64(counts.reopened.max(1))
        ),
    );
    claim_level(&looks, &mut claims);
    claim_end(options, &gateway, &before, &mut claims)?;
    drop((staying, visitors));
    let held = gateway.stats_at_rest()?;
    claims.add("when all have left nothing is held", held.is_empty(), &held.join(", "));
    Ok(claims.hold)
}

fn look(gateway: &Gateway) -> Outcome<Look> {
    let stats = gateway.stats()?;
    Ok(Look {
        user_bytes: gateway.pss_bytes()?,
        slabs: Slabs::read()?,
        sockets: proc::sockets_used()?,
        held: gateway::held(&stats)?,
    })
}

/// Claims that the last looks are not above the first.
fn claim_level(looks: &[Look], claims: &mut Claims) {
    let (first, last) = (&looks[..PART], &looks[looks.len() - PART..]);
    let mut claim = |name: &str, get: &dyn Fn(&Look) -> u64, most: f64| {
        let median = |part: &[Look]| {
            spread(&part.iter().map(|look| to_f64(get(look))).collect::<Vec<f64>>()).median
        };
        let (first, last) = (median(first), median(last));
        claims.add(
            &format!("{name} grows by at most {most}"),
            last - first <= most,
            &format!("{first} in the first quarter, {last} in the last"),
        );
    };
    claim("user memory in bytes", &|look| look.user_bytes, USER_BYTES_MAX);
    claim("slab of sockets in bytes", &|look| look.slabs.network_bytes(), SLAB_BYTES_MAX);
    claim("the kernel's sockets", &|look| look.sockets, SOCKETS_MAX);
    for (place, gauge) in HELD.iter().enumerate() {
        let most = if gauge.ends_with("_bytes") { USER_BYTES_MAX } else { SOCKETS_MAX };
        claim(gauge, &|look| look.held[place], most);
    }
    let growth = looks[looks.len() - 1].slabs.since(&looks[0].slabs);
    for (cache, bytes) in growth.iter().filter(|(_, bytes)| **bytes >= NAMED_BYTES_MIN) {
        println!(
            "slab         {cache} {} KiB more at the last look than at the first",
            bytes >> 10
        );
    }
}

/// Claims that with nobody on their way everything is as it was.
fn claim_end(
    options: &Options,
    gateway: &Gateway,
    before: &Look,
    claims: &mut Claims,
) -> Outcome<()> {
    let wanted = u64::from(options.connections) + u64::from(options.visitors);
    let stats = gateway.stats_until(|stats| stats["connections"] == wanted)?;
    claims.add(
        "afterwards everybody is there",
        stats["connections"] == wanted,
        &format!(
            "{} of {wanted}; closed {:?}",
            stats["connections"],
            gateway::by_reason(&stats, "closed")
        ),
    );
    memory::settled_slabs();
    let after = look(gateway)?;
    claims.add(
        "the kernel has no more sockets than before",
        after.sockets <= before.sockets,
        &format!("{}, {} before", after.sockets, before.sockets),
    );
    println!(
        "user memory  {} KiB before, {} KiB after; slab of sockets {} KiB before, {} KiB after",
        before.user_bytes >> 10,
        after.user_bytes >> 10,
        before.slabs.network_bytes() >> 10,
        after.slabs.network_bytes() >> 10
    );
    Ok(())
}
