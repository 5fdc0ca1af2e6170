//! Whatever clients and worker do to each other, every slot comes back.

use sockets::churn;

use crate::TokioUringOptions;

use super::rig::{Rig, options, tiny};

fn churn(options: &TokioUringOptions) {
    for seed in [3, 1_000_003, 0x9e37_79b9_7f4a_7c15, 0xdead_beef, 7 << 40, u64::MAX] {
        let mut rig = Rig::new(options);
        churn::churn(&mut rig.engine, rig.address, seed);
        // Each accept that waits keeps one.
        let free = rig.engine.slots.free_count();
        assert_eq!(free + options.accepts_armed_max, options.connections_max);
        rig.assert_clean();
    }
}

#[test]
fn whatever_happens_every_slot_comes_back() {
    churn(&options());
}

#[test]
fn whatever_happens_with_the_smallest_sizes_every_slot_comes_back() {
    churn(&tiny());
}
