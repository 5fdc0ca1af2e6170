//! Whatever clients and worker do to each other, every slot comes back.

use sockets::churn;
use worker::Engine;

use crate::RingOptions;

use super::rig::{all_descriptors, both, options, tiny};

fn churn(options: &RingOptions) {
    let options = |descriptors| RingOptions { descriptors, ..options.clone() };
    let all: Vec<RingOptions> = all_descriptors().into_iter().map(options).collect();
    for seed in [3, 1_000_003, 0x9e37_79b9_7f4a_7c15, 0xdead_beef, 7 << 40, u64::MAX] {
        let rigs = all.iter().flat_map(|options| both(options).map(|rig| (rig, options)));
        for (mut rig, options) in rigs {
            churn::churn(&mut rig.engine, rig.address, seed);
            let armed = options.connections_max.min(32);
            assert_eq!(rig.engine.slots.free_count(), options.connections_max - armed);
            assert_eq!(rig.engine.counts().multishots, 0);
            rig.assert_clean();
        }
    }
}

#[test]
fn whatever_happens_every_slot_comes_back() {
    churn(&RingOptions { multishot_messages_min: 2, shutdowns_max: 2, ..options() });
}

#[test]
fn whatever_happens_on_a_tiny_ring_every_slot_comes_back() {
    churn(&RingOptions { multishot_messages_min: 2, multishot_share: 2, ..tiny() });
}
