//! The contract that every engine keeps, on engines of two kinds: of ordinary sizes, and with the
//! smallest.

use mesh::Member;
use sockets::{bed::TcpBed, rig::Rigged};
use worker::conformance;

use crate::{TokioUringEngine, TokioUringOptions};

use super::rig::{options, tiny};

fn keeps_the_contract(options: &TokioUringOptions) {
    conformance::run_all(&|bed| {
        let options = TokioUringOptions {
            connections_max: bed.connections_max,
            linger_bytes_max: bed.linger_bytes_max,
            ..options.clone()
        };
        let start = |listeners| TokioUringEngine::rigged(&options, listeners);
        TcpBed::new(bed, start, TokioUringEngine::wake_target, |engine, member, target| {
            engine.connect(Member(member), target)
        })
    });
}

#[test]
fn an_engine_keeps_the_contract() {
    keeps_the_contract(&options());
}

#[test]
fn an_engine_with_the_smallest_sizes_keeps_the_contract() {
    keeps_the_contract(&tiny());
}
