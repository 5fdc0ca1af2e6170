//! The figures behind the hub's data structures: where a bitmap of subscribers beats a list, and
//! what a subscription costs in memory.
//!
//! `cargo run -p ringway-hub --profile bench-fast --example figures -- forms` (or `memory`)

use std::{hint::black_box, time::Instant};

use rand::{Rng, SeedableRng, rngs::StdRng, seq::SliceRandom};
use worker::{Chunk, Slot, SlotSet};

use crate::{
    connections::{Connection, Connections},
    subscribers::Subscribers,
    topics::Topics,
};

#[expect(dead_code, reason = "the hub's own module, of which a part is measured")]
#[path = "../src/connections.rs"]
mod connections;
#[expect(dead_code, reason = "the hub's own module, of which a part is measured")]
#[path = "../src/subscribers.rs"]
mod subscribers;
#[expect(dead_code, reason = "the hub's own module, of which a part is measured")]
#[path = "../src/topics.rs"]
mod topics;

fn main() {
    match std::env::args().nth(1).as_deref() {
        Some("forms") => forms(),
        Some("memory") => memory(),
        _ => {
            eprintln!("usage: figures forms | memory");
            std::process::exit(2);
        }
    }
}

/// Both forms with the same random subscribers. Times are the least of many runs.
fn forms() {
    println!("slots    members  per word  form    fill ns/member  10% busy  insert ns  bytes");
    for slots in [20_000, 200_000] {
        let words = slots as usize / 64 + 1;
        for share in [0.03, 0.06, 0.125, 0.25, 0.5, 1.0, 2.0, 8.0, 32.0] {
            let members = (words as f64 * share) as usize;
            let mut random = StdRng::seed_from_u64(1);
            let mut all: Vec<Slot> = (0..slots).collect();
            all.shuffle(&mut random);
            let (chosen, others) = all.split_at(members);
            let mut list = chosen.to_vec();
            list.sort_unstable();
            let mut set = SlotSet::new();
            chosen.iter().for_each(|&slot| _ = set.insert(slot));
            let bytes = [list.len() * 4, set.words() * 8];
            let forms = [Subscribers::List(list), Subscribers::Bitmap(set)];
            for ((mut form, name), bytes) in forms.into_iter().zip(["list", "bitmap"]).zip(bytes) {
                let idle = fill_ns(&form, &SlotSet::new());
                let mut busy = SlotSet::new();
                (0..slots).filter(|_| random.random_bool(0.1)).for_each(|it| _ = busy.insert(it));
                let busy = fill_ns(&form, &busy);
                let insert = insert_ns(&mut form, others);
                println!(
                    "{slots:<8} {members:<8} {share:<9} {name:<7} {idle:<15.2} {busy:<9.2} \
                     {insert:<10.1} {bytes}",
                );
            }
        }
    }
}

/// Nanoseconds for each member of a whole fan-out in chunks of 64.
fn fill_ns(subscribers: &Subscribers, busy: &SlotSet) -> f64 {
    let mut chunk = Chunk::new(64);
    let run = |chunk: &mut Chunk| {
        let mut next = Some(0);
        while let Some(from) = next {
            chunk.clear_for(64);
            next = subscribers.fill(from, busy, chunk);
            black_box(&chunk.targets);
        }
    };
    least_ns(50, || run(&mut chunk)) / subscribers.len() as f64
}

/// Nanoseconds to put one more in and take it out again, halved.
fn insert_ns(subscribers: &mut Subscribers, others: &[Slot]) -> f64 {
    let others = &others[..200];
    // One at a time, and taken out where it is, so that the form stays.
    let run = || match subscribers {
        Subscribers::List(list) => {
            for &slot in others {
                let at = list.partition_point(|&other| other < slot);
                list.insert(at, slot);
                let at = list.binary_search(black_box(&slot)).unwrap_or(0);
                list.remove(at);
            }
        }
        Subscribers::Bitmap(set) => {
            for &slot in others {
                set.insert(slot);
                set.remove(black_box(slot));
            }
        }
        Subscribers::Few { .. } => {}
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

/// Resident bytes by what is subscribed to, between two sizes, so that what is fixed drops out.
fn memory() {
    println!("shape                       bytes/connection  bytes/topic  bytes/subscription");
    let shapes: [(&str, u32, u32); 4] = [
        ("one topic for everyone", 1, u32::MAX),
        ("topics of 5", 1, 5),
        ("topics of 1", 1, 1),
        ("8 topics each, of 8", 8, 8),
    ];
    for (name, topics_each, members) in shapes {
        // In a process of its own, so that what the allocator keeps from one does not hide the next.
        let connections = [100_000, 300_000];
        let [few, many] = connections.map(|count| subscribe_all(count, topics_each, members));
        let per = |count: f64| (many.bytes - few.bytes) / count;
        println!(
            "{name:<27} {:<17.1} {:<12.1} {:.1}",
            per(f64::from(connections[1] - connections[0])),
            per((many.topics - few.topics).max(1.0)),
            per(many.subscriptions - few.subscriptions),
        );
    }
}

struct Footprint {
    bytes: f64,
    topics: f64,
    subscriptions: f64,
}

/// `count` connections with `topics_each` topics, each topic with `members` of them, names of 16
/// bytes.
fn subscribe_all(count: u32, topics_each: u32, members: u32) -> Footprint {
    let before = resident_bytes();
    let mut topics = Topics::new(1);
    let mut connections = Connections::default();
    for slot in 0..count {
        let group = slot / members;
        let names = (0..topics_each).map(|number| format!("{number:06}/{group:09}"));
        let indexes: Vec<_> = names.map(|name| topics.subscribe(&name, slot)).collect();
        connections.insert(slot, Connection::subscriber(1, true, &indexes));
    }
    let footprint = Footprint {
        bytes: (resident_bytes() - before) as f64,
        topics: topics.len() as f64,
        subscriptions: topics.subscriptions() as f64,
    };
    black_box((topics, connections));
    footprint
}

/// What this process occupies, from the kernel.
fn resident_bytes() -> i64 {
    let rollup = std::fs::read_to_string("/proc/self/smaps_rollup").unwrap_or_default();
    let pss = rollup.lines().find_map(|line| line.strip_prefix("Pss:"));
    let kib = pss.and_then(|value| value.trim().strip_suffix(" kB")?.trim().parse::<i64>().ok());
    kib.unwrap_or(0) * 1024
}
