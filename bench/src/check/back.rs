//! `kill -9` and an immediate restart: every client comes back, and the new process pays for
//! little more than their handshakes.

use std::thread;
use std::time::{Duration, Instant};

use clap::Args;

use super::crowd::{Crowd, Purpose};
use super::figures::{Watch, to_f64};
use super::gateway::{self, Gateway};
use super::{Claims, OneCore};
use crate::failure::Outcome;

/// What everything gets to settle between two steps.
const SETTLE: Duration = Duration::from_secs(3);
/// CPU of the return over that of as many first handshakes, at most.
const RATIO_MAX: f64 = 1.2;

#[derive(Args, Clone, Debug)]
pub(super) struct Options {
    #[command(flatten)]
    many: OneCore,
}

pub(super) fn run(options: &Options) -> Outcome<bool> {
    let gateway = Gateway::start(&options.many.server)?;
    let address = gateway.data();
    let purpose = Purpose {
        returns: true,
        core: Some(options.many.core_load),
        ..Purpose::idle(options.many.connections)
    };
    let mut crowd = Crowd::prepare(&gateway.url("/ws/room")?, &purpose)?;
    thread::sleep(SETTLE);
    let watch = Watch::start(gateway.tree())?;
    crowd.open_all_planned()?;
    let first = watch.look()?;
    thread::sleep(SETTLE);
    let killed = Instant::now();
    gateway.kill()?;
    let ended = killed.elapsed();
    let gateway = Gateway::start_at(&options.many.server, address)?;
    let listening = killed.elapsed();
    let start_cpu_seconds = gateway.tree().cpu_seconds()?;
    // All that the new process does is taken for the return, its start included.
    crowd.await_return()?;
    let back = killed.elapsed();
    let cpu_seconds = gateway.tree().cpu_seconds()?;
    let wanted = u64::from(options.many.connections);
    let stats = gateway.stats_until(|stats| stats["connections"] == wanted)?;
    println!("| {wanted} connections | seconds | server CPU s | µs per handshake |");
    println!("|---|---|---|---|");
    let row = |name: &str, seconds: f64, cpu_seconds: f64| {
        let each = cpu_seconds * 1e6 / to_f64(wanted);
        println!("| {name} | {seconds:.2} | {cpu_seconds:.2} | {each:.1} |");
    };
    row("first opened", first.seconds, first.cpu_seconds);
    row("back, from the kill on", back.as_secs_f64(), cpu_seconds);
    println!(
        "restart      the old process was gone after {:.2} s, the new one listened after {:.2} s \
         and had used {start_cpu_seconds:.2} s of CPU by then",
        ended.as_secs_f64(),
        listening.as_secs_f64()
    );
    let mut claims = Claims::new();
    claims.add(
        "everybody is back",
        crowd.open == options.many.connections && stats["connections"] == wanted,
        &format!("{} of {wanted}; closed {:?}", crowd.open, gateway::by_reason(&stats, "closed")),
    );
    let ratio = cpu_seconds / first.cpu_seconds;
    claims.add(
        &format!("coming back costs at most {RATIO_MAX} of the first handshakes"),
        ratio <= RATIO_MAX,
        &format!("{ratio:.2}"),
    );
    Ok(claims.hold)
}
