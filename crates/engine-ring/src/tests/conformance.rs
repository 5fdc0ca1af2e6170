//! The contract that every engine keeps, on rings of three kinds: as they are, with sends that
//! complete one by one, and with the smallest queues; each with direct descriptors where this kernel
//! lets go of them, and with ordinary ones.

use mesh::Member;
use sockets::bed::TcpBed;
use worker::conformance;

use crate::{RingEngine, RingOptions, engine::Start};

use super::rig::{all_descriptors, from, options, tiny};

fn keeps_the_contract(options: &RingOptions, start: Start) {
    for descriptors in all_descriptors() {
        conformance::run_all(&|bed| {
            let options = RingOptions {
                descriptors,
                connections_max: bed.connections_max,
                linger_bytes_max: bed.linger_bytes_max,
                ..options.clone()
            };
            let start = |listeners| RingEngine::start(&options, listeners, start, || ()).unwrap();
            TcpBed::new(bed, start, RingEngine::wake_target, |engine, member, target| {
                engine.connect(Member(member), target)
            })
        });
    }
}

#[test]
fn a_ring_keeps_the_contract() {
    keeps_the_contract(&options(), Start::USUAL);
}

#[test]
fn a_ring_whose_sends_complete_one_by_one_keeps_the_contract() {
    keeps_the_contract(&options(), Start { inline: false, ..Start::USUAL });
}

#[test]
fn a_ring_with_the_smallest_queues_keeps_the_contract() {
    keeps_the_contract(&tiny(), Start::USUAL);
}

/// Frames that fill pages: a socket is charged a page for a shorter one too, so it takes fewer.
const ARENA_BYTES_MIN: u32 = 1000;

/// Large frames from the arena, though loopback copies.
const ALL: Start = Start { avoids_copies: false, ..Start::USUAL };

#[test]
fn a_ring_that_sends_large_frames_from_its_arena_keeps_the_contract() {
    keeps_the_contract(&RingOptions { zero_copy: from(ARENA_BYTES_MIN), ..options() }, ALL);
}

#[test]
fn a_ring_with_an_arena_and_the_smallest_queues_keeps_the_contract() {
    keeps_the_contract(&RingOptions { zero_copy: from(ARENA_BYTES_MIN), ..tiny() }, ALL);
}

#[test]
fn a_ring_that_turns_from_its_arena_keeps_the_contract() {
    keeps_the_contract(
        &RingOptions { zero_copy: from(ARENA_BYTES_MIN), ..options() },
        Start::USUAL,
    );
}
