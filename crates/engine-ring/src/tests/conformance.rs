//! The contract that every engine keeps, on rings of three kinds: as they are, with sends that
//! complete one by one, and with the smallest queues; each with direct descriptors where this kernel
//! lets go of them, and with ordinary ones.

use std::{io, net::SocketAddr};

use mesh::Member;
use sockets::peer::{self, TcpPeer};
use worker::{
    ListenerId,
    conformance::{self, Bed, BedOptions},
};

use crate::{RingEngine, RingOptions, engine::Start};

use super::rig::{all_descriptors, listener, loopback, options, tiny};

struct Rings {
    engines: Vec<RingEngine>,
    addresses: Vec<SocketAddr>,
}

impl Rings {
    fn new(bed: &BedOptions, options: &RingOptions, inline: bool) -> Self {
        let options = RingOptions {
            connections_max: bed.connections_max,
            linger_bytes_max: bed.linger_bytes_max,
            ..options.clone()
        };
        let start = Start { inline, extra: &[] };
        let mut listeners: Vec<_> = (0..bed.listeners).map(|_| listener(loopback())).collect();
        let addresses = listeners.iter().map(|listener| listener.local_addr().unwrap()).collect();
        let mut engines: Vec<RingEngine> = (0..bed.engines)
            .map(|_| RingEngine::start(&options, std::mem::take(&mut listeners), start).unwrap())
            .collect();
        let targets: Vec<_> = engines.iter().map(RingEngine::wake_target).collect();
        for engine in &mut engines {
            for (member, target) in (0..).zip(&targets) {
                engine.connect(Member(member), target.clone());
            }
        }
        Self { engines, addresses }
    }
}

impl Bed for Rings {
    type Engine = RingEngine;
    type Peer = TcpPeer;

    const OVERWHELMING_BYTES: usize = peer::OVERWHELMING_BYTES;

    fn engines(&mut self) -> &mut [RingEngine] {
        &mut self.engines
    }

    fn connect(&mut self, listener: ListenerId) -> io::Result<TcpPeer> {
        TcpPeer::connect(self.addresses[usize::from(listener.0)])
    }
}

fn keeps_the_contract(options: &RingOptions, inline: bool) {
    for descriptors in all_descriptors() {
        let options = RingOptions { descriptors, ..options.clone() };
        conformance::run_all(&|bed| Rings::new(bed, &options, inline));
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
