//! What topics and subscriptions cost in memory, and tokens and blocks beside them, counted: every
//! byte that is asked of the allocator and not given back. The tables are looked at where they are
//! full and where they have just grown, so that the figures are the worst ones and not those of a
//! lucky size.

use std::sync::Arc;

use allocation_counter::measure;
use mesh::Member;
use worker::{ConnectionId, Slot};

use crate::{
    blocked::Blocked,
    connections::{Connections, Purpose},
    interest::Interest,
    passes::{Pass, Passes},
    topics::Topics,
};

/// What a topic may cost beside its name, and what a subscription may, on one worker: a topic of
/// five is one of up to five workers.
const TOPIC_BYTES_MAX: u64 = 42;
const SUBSCRIPTION_BYTES_MAX: u64 = 16;

/// Names have so many bytes.
const NAME_BYTES: u64 = 16;

/// The two tables with so many connections, each in as many topics; slots of one topic are in turn.
fn subscribe(
    interest: Arc<Interest>,
    connections: Slot,
    topics_each: u32,
    members: u32,
) -> (Topics, Connections) {
    let (mut topics, mut table) = (Topics::new(interest, Member(1)), Connections::default());
    for slot in 0..connections {
        let group = slot / members;
        let names = (0..topics_each).map(|number| format!("{number:06}/{group:09}"));
        let indexes: Vec<_> = names.map(|name| topics.subscribe(&name, slot)).collect();
        table.insert(slot, Purpose::Subscriber { topics: &indexes, own: true });
    }
    (topics, table)
}

/// Bytes that both tables hold in the end.
fn bytes(connections: Slot, topics_each: u32, members: u32) -> u64 {
    // Of two workers, each with as many connections, which is when most topics share rows.
    let interest = Arc::new(Interest::new(2, 2 * connections, 1));
    let mut kept = None;
    let info = measure(|| kept = Some(subscribe(interest, connections, topics_each, members)));
    drop(kept);
    u64::try_from(info.bytes_current).expect("what is kept was allocated")
}

/// Numbers of topics with one name behind the slash: the table by name is full, and has just grown.
const GROUPS: [u32; 6] = [448, 449, 500, 896, 897, 1_000];

#[test]
fn a_topic_takes_at_most_42_bytes_and_its_name_and_a_subscription_16() {
    for groups in GROUPS {
        for (topics_each, members) in [(1, 1), (1, 2), (1, 5), (1, 50), (2, 5), (3, 1), (8, 8)] {
            let connections = groups * members;
            let topics = u64::from(groups * topics_each);
            let subscriptions = u64::from(connections * topics_each);
            let bound =
                topics * (TOPIC_BYTES_MAX + NAME_BYTES) + subscriptions * SUBSCRIPTION_BYTES_MAX;
            let bytes = bytes(connections, topics_each, members);
            assert!(
                bytes <= bound,
                "{connections} connections, each in {topics_each} topics of {members}: \
                 {bytes} bytes instead of {bound}"
            );
        }
    }
}

/// Each worker's share of a block: a name in its set. The name itself is one for all workers.
const BLOCK_BYTES_MAX: u64 = 36;

#[test]
fn a_blocked_subject_takes_a_worker_at_most_36_bytes() {
    let names: Vec<Arc<str>> = (0..10_000).map(|number| format!("{number:016}").into()).collect();
    // In their own order, after which the nodes of the set are emptiest, and in another: 7,919 and
    // the count have no common divisor.
    for step in [1, 7_919] {
        let mut kept = None;
        let info = measure(|| {
            let mut blocked = Blocked::default();
            for number in 0..names.len() {
                blocked.insert(Arc::clone(&names[number * step % names.len()]));
            }
            kept = Some(blocked);
        });
        assert!(kept.is_some_and(|mut kept| kept.refuses(&names[9_999], None)));
        let bytes = u64::try_from(info.bytes_current).expect("what is kept was allocated");
        assert!(bytes <= BLOCK_BYTES_MAX * names.len() as u64, "step {step}: {bytes} bytes");
    }
}

/// What a token costs that says `sub`, of 16 bytes, and `exp`; the name included.
const PASS_BYTES_MAX: u64 = 100;

#[test]
fn a_connection_with_a_token_takes_at_most_100_bytes_more() {
    let mut kept = None;
    let info = measure(|| {
        let mut passes = Passes::default();
        for slot in 0..10_000 {
            let pass = Pass {
                subject: Some(format!("{slot:016}").into()),
                // In no order, as tokens end.
                ends_at: Some(u64::from(slot * 7_919 % 10_000)),
                may_publish: false,
            };
            passes.insert(ConnectionId { slot, generation: 1 }, pass);
        }
        kept = Some(passes);
    });
    assert!(kept.is_some_and(|kept| kept.get(9_999).is_some()));
    let bytes = u64::try_from(info.bytes_current).expect("what is kept was allocated");
    assert!(bytes <= PASS_BYTES_MAX * 10_000, "{bytes} bytes");
}
