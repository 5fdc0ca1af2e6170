//! The contract that every engine keeps, on rings of three kinds: as they are, with sends that
//! complete one by one, and with the smallest queues; each with direct descriptors where this kernel
//! lets go of them, and with ordinary ones.

use mesh::Member;
use sockets::bed::TcpBed;
use worker::conformance;

use crate::{RingEngine, RingOptions, engine::Start};

use super::rig::{all_descriptors, options, tiny};

fn keeps_the_contract(options: &RingOptions, inline: bool) {
    for descriptors in all_descriptors() {
        conformance::run_all(&|bed| {
            let options = RingOptions {
                descriptors,
                connections_max: bed.connections_max,
                linger_bytes_max: bed.linger_bytes_max,
                ..options.clone()
            };
            let start = |listeners| {
                RingEngine::start(&options, listeners, Start { inline, extra: &[] }).unwrap()
            };
            TcpBed::new(bed, start, RingEngine::wake_target, |engine, member, target| {
                engine.connect(Member(member), target)
            })
        });
    }
}

#[test]
fn a_ring_keeps_the_contract() {
    keeps_the_contract(&options(), true);
}

#[test]
fn a_ring_whose_sends_complete_one_by_one_keeps_the_contract() {
    keeps_the_contract(&options(), false);
}

#[test]
fn a_ring_with_the_smallest_queues_keeps_the_contract() {
    keeps_the_contract(&tiny(), true);
}
