//! What an idle connection costs in user memory: over all connections of a process, what was fixed
//! and became resident with the first of them included, and as the slope behind the first third.
//! Claimed of the data plane; what the control plane adds is shown.

use std::thread;
use std::time::Duration;

use clap::Args;

use super::Claims;
use super::crowd::{Crowd, Purpose};
use super::gateway::Gateway;
use crate::failure::Outcome;

/// What the process gets to settle before its memory is read: two reports.
const SETTLE: Duration = Duration::from_secs(3);

/// What it gets before the first connection: the first interval of the latency log ends after 10 s,
/// and encoding it takes 600 KiB once, which would count as that of connections.
const START: Duration = Duration::from_secs(12);

#[derive(Args, Clone, Debug)]
pub(super) struct Options {
    /// Command line of the gateway, read by sh; --admin is added.
    #[arg(long, default_value = "./ringway serve --workers 1 --connections-max 19000")]
    server: String,
    /// What connections ask for; {i} is their number.
    #[arg(long, default_value = "/ws/room")]
    target: String,
    #[arg(long, default_value_t = 15_000, value_parser = clap::value_parser!(u32).range(3..))]
    connections: u32,
    /// Offer permessage-deflate, which `--server` should then take.
    #[arg(long)]
    compression: bool,
    /// Bytes that neither figure may be above.
    #[arg(long, default_value_t = 128)]
    bytes_max: u64,
}

/// Bytes per connection, and of the process without any.
struct Weight {
    over_all: u64,
    slope: u64,
    fixed: u64,
}

pub(super) fn run(options: &Options) -> Outcome<bool> {
    let plain = weigh(options, Gateway::start_without_admin(&options.server)?)?;
    let mut claims = Claims::new();
    let mut add = |name: &str, bytes: u64| {
        let claim = format!("at most {} B per connection {name}", options.bytes_max);
        claims.add(&claim, bytes <= options.bytes_max, &format!("{bytes} B"));
    };
    add("over all", plain.over_all);
    add("as the slope behind the first third", plain.slope);
    let controlled = weigh(options, Gateway::start(&options.server)?)?;
    println!(
        "with --admin {} B per connection over all, {} B as the slope; {} KiB without connections \
         instead of {}",
        controlled.over_all,
        controlled.slope,
        controlled.fixed >> 10,
        plain.fixed >> 10
    );
    Ok(claims.hold)
}

fn weigh(options: &Options, gateway: Gateway) -> Outcome<Weight> {
    let url = gateway.url(&options.target)?;
    let third = options.connections / 3;
    let rest = options.connections - third;
    thread::sleep(START);
    let pss = || -> Outcome<u64> {
        thread::sleep(SETTLE);
        gateway.pss_bytes()
    };
    let fixed = pss()?;
    let purpose =
        |connections| Purpose { compression: options.compression, ..Purpose::idle(connections) };
    let first = Crowd::open_all(&url, &purpose(third))?;
    let after_third = pss()?;
    let last = Crowd::open_all(&url, &Purpose { first: third, ..purpose(rest) })?;
    let after_all = pss()?;
    drop((first, last));
    let kib = |bytes: u64| bytes >> 10;
    println!(
        "Pss          {} KiB with none, {} KiB with {third}, {} KiB with {}",
        kib(fixed),
        kib(after_third),
        kib(after_all),
        options.connections
    );
    Ok(Weight {
        over_all: after_all.saturating_sub(fixed).div_ceil(options.connections.into()),
        slope: after_all.saturating_sub(after_third).div_ceil(rest.into()),
        fixed,
    })
}
