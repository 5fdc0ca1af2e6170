//! Random clients against the rule: who is subscribed when a message is sent receives it, once,
//! and each publisher's messages in the order in which it sent them.

use std::collections::BTreeMap;

use rand::{Rng, SeedableRng, rngs::StdRng, seq::IndexedRandom};

use crate::rig::{Client, Rig, Setting};

const TOPICS: [&str; 5] = ["a", "b", "c", "d", "e"];
const WORKERS: u16 = 3;

struct Subscriber {
    topics: Vec<&'static str>,
    own: bool,
    /// What it must receive: by topic, because between topics there is no order.
    expected: BTreeMap<&'static str, Vec<String>>,
}

#[test]
fn everybody_receives_what_was_sent_while_it_was_subscribed() {
    for seed in 0..20 {
        run(seed);
    }
}

fn run(seed: u64) {
    let mut random = StdRng::seed_from_u64(seed);
    let mut rig = Rig::new(Setting {
        workers: WORKERS,
        letters_max: random.random_range(1..4),
        fanout_publications_max: random.random_range(1..6),
        ..Setting::PLAIN
    });
    let mut clients: BTreeMap<Client, Subscriber> = BTreeMap::new();
    let mut free: Vec<(usize, u32)> = (0..usize::from(WORKERS))
        .flat_map(|worker| (0..200).map(move |slot| (worker, slot)))
        .collect();
    let mut sent = 0;
    for _ in 0..30 {
        for _ in 0..random.random_range(0..12) {
            let (worker, slot) = free.swap_remove(random.random_range(0..free.len()));
            let (client, subscriber) = connect(&mut rig, &mut random, worker, slot);
            clients.insert(client, subscriber);
        }
        let everyone: Vec<Client> = clients.keys().copied().collect();
        for client in everyone.choose_multiple(&mut random, 4) {
            rig.leave(*client);
            clients.remove(client);
            free.push((client.worker, client.connection.slot));
        }
        rig.settle();
        let everyone: Vec<Client> = clients.keys().copied().collect();
        for publisher in everyone.choose_multiple(&mut random, 6) {
            for _ in 0..random.random_range(1..8) {
                let text = format!("{}:{} {sent}", publisher.worker, publisher.connection.slot);
                sent += 1;
                rig.send(*publisher, &text);
                expect(&mut clients, *publisher, &text);
            }
            rig.turn(random.random_range(0..usize::from(WORKERS)));
        }
        rig.settle();
        for (client, subscriber) in &mut clients {
            check(rig.received(*client), subscriber, seed);
        }
    }
    assert!(sent > 100);
}

fn connect(rig: &mut Rig, random: &mut StdRng, worker: usize, slot: u32) -> (Client, Subscriber) {
    let count = random.random_range(1..4);
    let topics: Vec<&str> = TOPICS.choose_multiple(random, count).copied().collect();
    let own = random.random_bool(0.7);
    let query: Vec<String> = topics.iter().map(|topic| format!("topic={topic}")).collect();
    let own_parameter = if own { "on" } else { "off" };
    let client = rig.connect(worker, slot, &format!("/ws?{}&own={own_parameter}", query.join("&")));
    (client, Subscriber { topics, own, expected: BTreeMap::new() })
}

fn expect(clients: &mut BTreeMap<Client, Subscriber>, publisher: Client, text: &str) {
    let topic = clients[&publisher].topics[0];
    for (client, subscriber) in clients {
        if subscriber.topics.contains(&topic) && (*client != publisher || subscriber.own) {
            subscriber.expected.entry(topic).or_default().push(text.to_owned());
        }
    }
}

fn check(received: Vec<String>, subscriber: &mut Subscriber, seed: u64) {
    let by_publisher = |texts: &[String]| {
        let mut texts: Vec<(String, u32)> = texts
            .iter()
            .map(|text| {
                let (publisher, number) = text.split_once(' ').unwrap();
                (publisher.to_owned(), number.parse().unwrap())
            })
            .collect();
        // Stable: the order of each publisher stays.
        texts.sort_by(|(first, _), (second, _)| first.cmp(second));
        texts
    };
    let expected: Vec<String> =
        std::mem::take(&mut subscriber.expected).into_values().flatten().collect();
    assert_eq!(by_publisher(&received), by_publisher(&expected), "seed {seed}");
}
