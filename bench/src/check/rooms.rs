//! Many small topics against one big one of the same connections: what a delivery costs when a
//! publication has few subscribers, and what a subscription and a topic take of user memory.

use std::thread;
use std::time::Duration;

use clap::Args;

use super::crowd::{Crowd, Purpose};
use super::figures::{Watch, spread, to_f64};
use super::gateway::{self, Gateway};
use super::{Claims, OneCore};
use crate::failure::Outcome;
use crate::units;

/// What the process gets to settle before its memory is read: two reports.
const SETTLE: Duration = Duration::from_secs(3);
/// Before the first connection: the latency log ends its first interval after 10 s.
const START: Duration = Duration::from_secs(12);
/// What connections ask for: rooms, one topic, and that one and another.
const ROOMS: &str = "/ws/room-{room}";
const ONE: &str = "/ws/room";
const TWO: &str = "/ws?topic=room&topic=other";

#[derive(Args, Clone, Debug)]
pub(super) struct Options {
    #[command(flatten)]
    many: OneCore,
    /// Members of a room.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(2..=1000))]
    members: u32,
    /// Deliveries a second, of all rooms together and of the big topic.
    #[arg(long, default_value_t = 20_000.0)]
    deliveries: f64,
    /// Bytes of a publication.
    #[arg(long, value_parser = units::size, default_value = "100")]
    size: usize,
    /// How long is published, and how long the idle CPU is measured before.
    #[arg(long, value_parser = units::duration, default_value = "20s")]
    duration: Duration,
    /// Runs of each.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
}

/// One way to be subscribed, and what its rounds have shown.
#[derive(Default)]
struct Figures {
    /// Growth of Pss with the connections, in bytes.
    bytes: Vec<f64>,
    /// CPU for a delivery, idle CPU taken off, in microseconds.
    cpu_us: Vec<f64>,
    topics: u64,
    subscriptions: u64,
}

pub(super) fn run(options: &Options) -> Outcome<bool> {
    let mut claims = Claims::new();
    let (mut one, mut rooms, mut two) =
        (Figures::default(), Figures::default(), Figures::default());
    let publisher = |members: u32| Purpose {
        rate: Some(options.deliveries / f64::from(members)),
        size: options.size,
        core: Some(options.many.core_load),
        ..Purpose::idle(options.many.connections)
    };
    let big = publisher(options.many.connections);
    let small = Purpose { room_members: options.members, ..publisher(options.members) };
    let idle =
        Purpose { core: Some(options.many.core_load), ..Purpose::idle(options.many.connections) };
    for _ in 0..options.rounds {
        run_one(options, ONE, &big, &mut one, &mut claims)?;
        run_one(options, ROOMS, &small, &mut rooms, &mut claims)?;
        run_one(options, TWO, &idle, &mut two, &mut claims)?;
    }
    print(options, &one, &rooms, &two);
    Ok(claims.hold)
}

fn run_one(
    options: &Options,
    target: &str,
    purpose: &Purpose,
    figures: &mut Figures,
    claims: &mut Claims,
) -> Outcome<()> {
    let gateway = Gateway::start(&options.many.server)?;
    let mut crowd = Crowd::prepare(&gateway.url(target)?, purpose)?;
    thread::sleep(START);
    let before = gateway.pss_bytes()?;
    crowd.open_all_planned()?;
    thread::sleep(SETTLE);
    figures.bytes.push(to_f64(gateway.pss_bytes()?.saturating_sub(before)));
    let stats = gateway.stats()?;
    figures.topics = gateway::sum(&stats, &["topics"]);
    figures.subscriptions = gateway::sum(&stats, &["subscriptions"]);
    if purpose.rate.is_none() {
        return Ok(());
    }
    let watch = Watch::start(gateway.tree())?;
    thread::sleep(options.duration);
    let idle = watch.look()?;
    let watch = Watch::start(gateway.tree())?;
    crowd.measure(options.duration)?;
    let (counts, why) = crowd.finish()?;
    let busy = watch.look()?;
    let cpu_seconds = busy.cpu_seconds - idle.cpu_seconds * busy.seconds / idle.seconds;
    let us = cpu_seconds * 1e6 / to_f64(counts.delivered.max(1));
    figures.cpu_us.push(us);
    claims.add_counts(
        &format!("{target}: everybody has every message of theirs"),
        counts.delivered > 0 && !counts.has_errors(),
        (&counts, why),
        &format!("{us:.2} µs of CPU per delivery"),
    );
    Ok(())
}

fn print(options: &Options, one: &Figures, rooms: &Figures, two: &Figures) {
    let connections = f64::from(options.many.connections);
    let bytes = |figures: &Figures| spread(&figures.bytes).median;
    let big = spread(&one.cpu_us);
    let small = spread(&rooms.cpu_us);
    println!();
    println!("| topics | CPU µs per delivery | × | user memory per connection, B |");
    println!("|---|---|---|---|");
    println!(
        "| one of {} | {big} | 1 | {:.0} |",
        options.many.connections,
        bytes(one) / connections
    );
    println!(
        "| of {} each | {small} | {:.2} | {:.0} |",
        options.members,
        small.median / big.median,
        bytes(rooms) / connections
    );
    println!("| two of all | – | – | {:.0} |", bytes(two) / connections);
    let more = |figures: &Figures, count: u64| (bytes(figures) - bytes(one)) / to_f64(count.max(1));
    // A topic is one of each worker that has a subscriber of it.
    let topics = u64::from(options.many.connections.div_ceil(options.members));
    println!(
        "memory       {:.0} B per further subscription; {:.0} B per topic of {} ({:.0} B for each \
         of the {} that the workers count)",
        more(two, two.subscriptions.saturating_sub(one.subscriptions)),
        more(rooms, topics),
        options.members,
        more(rooms, rooms.topics),
        rooms.topics
    );
}
