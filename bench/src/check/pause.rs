//! SIGSTOP, and SIGCONT after longer than any peer may be silent: nobody who answers is closed.

use std::thread;
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
    #[arg(long, default_value_t = 5000, value_parser = clap::value_parser!(u32).range(1..))]
    connections: u32,
    /// How long it runs before the stop: a ping interval, so that pings are under way.
    #[arg(long, value_parser = units::duration, default_value = "30s")]
    before: Duration,
    /// How long it stands still.
    #[arg(long, value_parser = units::duration, default_value = "40s")]
    stop: Duration,
    /// How long it runs on: an interval and a timeout, in which whoever is blamed is cut.
    #[arg(long, value_parser = units::duration, default_value = "60s")]
    after: Duration,
}

pub(super) fn run(options: &Options) -> Outcome<bool> {
    let gateway = Gateway::start(&options.server)?;
    let purpose = Purpose::idle(options.connections);
    let mut crowd = Crowd::open_all(&gateway.url("/ws/room")?, &purpose)?;
    crowd.begin(options.before + options.stop + options.after)?;
    thread::sleep(options.before);
    gateway.stop()?;
    thread::sleep(options.stop);
    gateway.go_on()?;
    let (counts, why) = crowd.finish()?;
    let stats = gateway.stats()?;
    let closed = gateway::by_reason(&stats, "closed");
    let mut claims = Claims::new();
    claims.add(
        "nobody who answers is closed",
        counts.lost == 0 && closed.is_empty(),
        &format!("{} lost {}; closed {closed:?}", counts.lost, why.unwrap_or_default()),
    );
    claims.add(
        "everybody was pinged",
        counts.pings >= u64::from(options.connections),
        &format!("{} pings answered", counts.pings),
    );
    Ok(claims.hold)
}
