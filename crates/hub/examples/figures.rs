//! The figures behind the hub's data structures: where a bitmap of subscribers beats a list, and
//! what a subscription costs in memory.
//!
//! `cargo run -p ringway-hub --profile bench-fast --example figures -- forms` (or `memory`)
//!
//! Instructions of the hub for each delivery, where one connection in SHARE subscribes: the count
//! of `valgrind --tool=callgrind --toggle-collect='*fill_all*' target/bench-fast/examples/figures
//! deliveries SHARE` divided by the number that the program prints.

#![expect(clippy::disallowed_types, reason = "it takes the time, and measures in processes")]

use std::{
    error::Error,
    hint::black_box,
    process::{Command, Stdio},
    sync::Arc,
    time::Instant,
};

use mesh::Member;
use rand::{Rng, SeedableRng, rngs::StdRng, seq::SliceRandom};
use worker::{Chunk, Slot, SlotSet};

use crate::{
    connections::{Connections, Purpose},
    interest::Interest,
    subscribers::{MemberTable, Members, Set, Subscribers},
    topics::Topics,
};

#[expect(dead_code, reason = "the hub's own module, of which a part is measured")]
#[path = "../src/connections.rs"]
mod connections;
#[expect(dead_code, unreachable_pub, reason = "the hub's own module, of which a part is measured")]
#[path = "../src/interest.rs"]
mod interest;
#[path = "../src/runs.rs"]
mod runs;
#[expect(dead_code, reason = "the hub's own module, of which a part is measured")]
#[path = "../src/subscribers.rs"]
mod subscribers;
#[expect(dead_code, reason = "the hub's own module, of which a part is measured")]
#[path = "../src/topics.rs"]
mod topics;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["forms"] => forms(),
        ["memory"] => memory()?,
        ["deliveries", share] => deliveries(share.parse()?),
        ["footprint", shape, count] => subscribe_all(shape.parse()?, count.parse()?),
        _ => return Err("usage: figures forms | memory | deliveries SHARE".into()),
    }
    Ok(())
}

/// Both forms with the same random subscribers. Times are the least of many runs.
fn forms() {
    println!("slots    members  form    fill ns/member  10% busy  insert ns  bytes");
    for slots in [20_000, 200_000] {
        let words = slots as usize / 64 + 1;
        // Members for every 16 words.
        for share in [1, 2, 4, 8, 16, 32, 128, 512] {
            let members = words * share / 16;
            let mut random = StdRng::seed_from_u64(1);
            let mut all: Vec<Slot> = (0..slots).collect();
            all.shuffle(&mut random);
            let (chosen, others) = all.split_at(members);
            let mut list = chosen.to_vec();
            list.sort_unstable();
            let mut set = SlotSet::new();
            chosen.iter().for_each(|&slot| _ = set.insert(slot));
            let bytes = [list.len() * 4, set.words() * 8];
            let forms = [Set::List(list), Set::Bitmap(set)];
            for ((mut form, name), bytes) in forms.into_iter().zip(["list", "bitmap"]).zip(bytes) {
                let idle = fill_ns(form.subscribers(), members, &SlotSet::new());
                let mut busy = SlotSet::new();
                (0..slots).filter(|_| random.random_bool(0.1)).for_each(|it| _ = busy.insert(it));
                let busy = fill_ns(form.subscribers(), members, &busy);
                let insert = insert_ns(&mut form, others);
                println!(
                    "{slots:<8} {members:<8} {name:<7} {idle:<15.2} {busy:<9.2} {insert:<10.1} {bytes}",
                );
            }
        }
    }
}

/// Nanoseconds for each member of a whole fan-out.
fn fill_ns(subscribers: Subscribers<'_>, members: usize, busy: &SlotSet) -> f64 {
    let mut chunk = Chunk::new(64);
    least_ns(50, || fill_all(subscribers, busy, &mut chunk)) / members as f64
}

/// A whole fan-out in chunks of 64.
#[inline(never)]
fn fill_all(subscribers: Subscribers<'_>, busy: &SlotSet, chunk: &mut Chunk) {
    let mut next = Some(0);
    while let Some(from) = next {
        chunk.clear_for(64);
        next = subscribers.fill(from, busy, chunk);
        black_box(&chunk.targets);
    }
}

/// 200 fan-outs to one connection in `share` of 5,000.
fn deliveries(share: Slot) {
    let (mut table, mut members) = (MemberTable::default(), Members::default());
    (0..5_000).step_by(share as usize).for_each(|slot| table.insert(&mut members, slot));
    let mut chunk = Chunk::new(64);
    (0..200).for_each(|_| fill_all(table.get(&members), &SlotSet::new(), &mut chunk));
    println!("{}", 200 * members.len);
}

/// Nanoseconds to put one more in and take it out again, halved.
fn insert_ns(set: &mut Set, others: &[Slot]) -> f64 {
    let others = &others[..200];
    // One at a time, and taken out where it is, so that the form stays.
    let run = || match set {
        Set::List(list) => {
            for &slot in others {
                let at = list.partition_point(|&other| other < slot);
                list.insert(at, slot);
                let at = list.binary_search(black_box(&slot)).unwrap_or(0);
                list.remove(at);
            }
        }
        Set::Bitmap(set) => {
            for &slot in others {
                set.insert(slot);
                set.remove(black_box(slot));
            }
        }
    };
    least_ns(20, run) / (2 * others.len()) as f64
}

fn least_ns(runs: usize, mut run: impl FnMut()) -> f64 {
    let times = (0..runs).map(|_| {
        let start = Instant::now();
        run();
        start.elapsed().as_nanos() as f64
    });
    times.fold(f64::INFINITY, f64::min)
}

/// What is subscribed to: topics of each connection, connections of each topic.
const SHAPES: [(&str, u32, u32); 4] = [
    ("one topic for everyone", 1, u32::MAX),
    ("topics of 5", 1, 5),
    ("topics of 1", 1, 1),
    ("8 topics each, of 8", 8, 8),
];

/// Resident bytes, between two sizes, so that what is fixed drops out.
fn memory() -> Result<(), Box<dyn Error>> {
    println!("shape                       bytes/connection  bytes/topic  bytes/subscription");
    for (shape, (name, ..)) in SHAPES.iter().enumerate() {
        let [few, many] = [200_000, 1_000_000].map(|connections| footprint(shape, connections));
        let [few, many] = [few?, many?];
        let per = |column: usize| (many[3] - few[3]) / (many[column] - few[column]).max(1.0);
        println!("{name:<27} {:<17.1} {:<12.1} {:.1}", per(0), per(1), per(2));
    }
    Ok(())
}

/// Connections, topics, subscriptions and their bytes, in a process of its own: the allocator
/// keeps nothing from the one before.
fn footprint(shape: usize, connections: u32) -> Result<Vec<f64>, Box<dyn Error>> {
    let output = Command::new(std::env::current_exe()?)
        .args(["footprint", &shape.to_string(), &connections.to_string()])
        .stderr(Stdio::inherit())
        .output()?;
    let numbers = String::from_utf8(output.stdout)?;
    Ok(numbers.split_whitespace().map(str::parse).collect::<Result<_, _>>()?)
}

/// Subscribes so many connections, with names of 16 bytes, and prints what that takes.
fn subscribe_all(shape: usize, count: u32) {
    let (_, topics_each, members) = SHAPES[shape];
    let before = resident_bytes();
    let interest = Arc::new(Interest::new(2, 2 * count, 1));
    let mut topics = Topics::new(interest, Member(1));
    let mut connections = Connections::default();
    for slot in 0..count {
        let group = slot / members;
        let names = (0..topics_each).map(|number| format!("{number:06}/{group:09}"));
        let indexes: Vec<_> = names.map(|name| topics.subscribe(&name, slot)).collect();
        connections.insert(slot, Purpose::Subscriber { topics: &indexes, own: true });
    }
    let bytes = resident_bytes() - before;
    println!("{count} {} {} {bytes}", topics.len(), topics.subscriptions());
    black_box((topics, connections));
}

/// What this process occupies, from the kernel.
fn resident_bytes() -> i64 {
    let rollup = std::fs::read_to_string("/proc/self/smaps_rollup").unwrap_or_default();
    let pss = rollup.lines().find_map(|line| line.strip_prefix("Pss:"));
    let kib = pss.and_then(|value| value.trim().strip_suffix(" kB")?.trim().parse::<i64>().ok());
    kib.unwrap_or(0) * 1024
}
