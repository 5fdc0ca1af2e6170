//! One subscriber of many stops reading: it is dropped, by the bound of its queue or by the write
//! timeout, whichever is first, and counted so; the others get every message.

use std::time::Duration;

use clap::Args;

use super::Claims;
use super::crowd::{Crowd, Purpose};
use super::gateway::{self, Gateway};
use crate::failure::Outcome;
use crate::units;

#[derive(Args, Clone, Debug)]
pub(super) struct Options {
    /// Command line of the gateway, read by sh.
    #[arg(long, default_value = "./ringway serve --workers 2")]
    server: String,
    /// Subscribers, one of which does not read.
    #[arg(long, default_value_t = 5000, value_parser = clap::value_parser!(u32).range(2..))]
    connections: u32,
    /// Publications a second.
    #[arg(long, default_value_t = 10.0)]
    rate: f64,
    /// Bytes of a publication.
    #[arg(long, value_parser = units::size, default_value = "1KiB")]
    size: usize,
    #[arg(long, value_parser = units::duration, default_value = "40s")]
    duration: Duration,
}

pub(super) fn run(options: &Options) -> Outcome<bool> {
    let mut claims = Claims::new();
    // At the default rate a queue of 70 KiB is full before the write timeout, one of 64 MiB never.
    for (queue, reason) in [("70KiB", "slow_consumer"), ("64MiB", "stalled")] {
        let server = format!("{} --send-queue-bytes-max {queue}", options.server);
        run_one(options, &server, reason, &mut claims)?;
    }
    Ok(claims.hold)
}

fn run_one(options: &Options, server: &str, reason: &str, claims: &mut Claims) -> Outcome<()> {
    let gateway = Gateway::start(server)?;
    let purpose = Purpose {
        rate: Some(options.rate),
        size: options.size,
        // One and a half of them, which is rounded down.
        stalled_percent: 100.0 * 1.5 / f64::from(options.connections),
        ..Purpose::idle(options.connections)
    };
    let mut crowd = Crowd::open_all(&gateway.url("/ws/room")?, &purpose)?;
    crowd.begin(options.duration)?;
    let (counts, why) = crowd.finish()?;
    let stats = gateway.stats_until(|stats| gateway::sum(stats, &["closed", reason]) > 0)?;
    let closed = gateway::by_reason(&stats, "closed");
    claims.add(
        &format!("who does not read is dropped as {reason}, and nobody else"),
        closed == [(reason.to_owned(), 1)],
        &format!("{closed:?}"),
    );
    let others = options.connections - 1;
    claims.add_counts(
        "the others get every message, once and in order",
        counts.has_all(others),
        (&counts, why),
        &format!("to {others} and the publisher"),
    );
    Ok(())
}
