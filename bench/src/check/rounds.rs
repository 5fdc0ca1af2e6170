//! Connections come and go, by Close and by reset in turn. After each round the gateway holds
//! nothing for anybody and the kernel has as many sockets as before; its memory stops growing with
//! the second round.

use std::thread;
use std::time::{Duration, Instant};

use clap::Args;

use super::Claims;
use super::crowd::{Crowd, Purpose};
use super::gateway::Gateway;
use crate::failure::Outcome;
use crate::proc;

/// By how much memory may be above that of the second round.
const GROWTH_BYTES_MAX: u64 = 2 << 20;
/// How long the kernel may take to free sockets.
const FREE_MAX: Duration = Duration::from_secs(30);
const LOOK_INTERVAL: Duration = Duration::from_millis(200);

#[derive(Args, Clone, Debug)]
pub(super) struct Options {
    /// Command line of the gateway, read by sh.
    #[arg(long, default_value = "./ringway serve --workers 2")]
    server: String,
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(2..))]
    rounds: u32,
    /// Connections of a round.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..))]
    connections: u32,
}

pub(super) fn run(options: &Options) -> Outcome<bool> {
    let gateway = Gateway::start(&options.server)?;
    let sockets_before = proc::sockets_used()?;
    let mut claims = Claims::new();
    let mut second = u64::MAX;
    for round in 1..=options.rounds {
        let purpose = Purpose::idle(options.connections);
        let crowd = Crowd::open_all(&gateway.url("/ws/room")?, &purpose)?;
        let politely = round % 2 == 0;
        if politely {
            crowd.leave()?;
        } else {
            drop(crowd);
        }
        let held = gateway.stats_at_rest()?;
        let sockets = sockets_until(sockets_before)?;
        let pss = gateway.pss_bytes()?;
        if round == 2 {
            second = pss;
        }
        let name = format!("round {round}, {}", if politely { "by Close" } else { "by reset" });
        claims.add(&format!("{name}: nothing is held"), held.is_empty(), &held.join(", "));
        claims.add(
            &format!("{name}: the kernel's sockets"),
            sockets <= sockets_before,
            &format!("{sockets}, {sockets_before} before"),
        );
        claims.add(
            &format!("{name}: at most 2 MiB above the second"),
            pss <= second.saturating_add(GROWTH_BYTES_MAX),
            &format!("{} KiB", pss >> 10),
        );
    }
    Ok(claims.hold)
}

/// The sockets in use, once they are at most `wanted`, or after a while.
fn sockets_until(wanted: u64) -> Outcome<u64> {
    let deadline = Instant::now() + FREE_MAX;
    loop {
        let sockets = proc::sockets_used()?;
        if sockets <= wanted || Instant::now() > deadline {
            return Ok(sockets);
        }
        thread::sleep(LOOK_INTERVAL);
    }
}
