//! The contract that every engine keeps, on engines of two kinds: of ordinary sizes, and with the
//! smallest.

use std::{io, net::SocketAddr};

use mesh::Member;
use sockets::peer::{self, TcpPeer};
use worker::{
    ListenerId,
    conformance::{self, Bed, BedOptions},
};

use crate::{TokioUringEngine, TokioUringOptions};

use super::rig::{options, tiny};

struct Engines {
    engines: Vec<TokioUringEngine>,
    addresses: Vec<SocketAddr>,
}

impl Engines {
    fn new(bed: &BedOptions, options: &TokioUringOptions) -> Self {
        let options = TokioUringOptions {
            connections_max: bed.connections_max,
            linger_bytes_max: bed.linger_bytes_max,
            ..options.clone()
        };
        let (mut listeners, addresses): (Vec<_>, Vec<_>) =
            (0..bed.listeners).map(|_| peer::listener().unwrap()).unzip();
        let mut engines: Vec<TokioUringEngine> = (0..bed.engines)
            .map(|_| TokioUringEngine::new(&options, std::mem::take(&mut listeners)).unwrap())
            .collect();
        let targets: Vec<_> = engines.iter().map(TokioUringEngine::wake_target).collect();
        for engine in &mut engines {
            for (member, target) in (0..).zip(&targets) {
                engine.connect(Member(member), target.clone());
            }
        }
        Self { engines, addresses }
    }
}

impl Bed for Engines {
    type Engine = TokioUringEngine;
    type Peer = TcpPeer;

    const OVERWHELMING_BYTES: usize = peer::OVERWHELMING_BYTES;

    fn engines(&mut self) -> &mut [TokioUringEngine] {
        &mut self.engines
    }

    fn connect(&mut self, listener: ListenerId) -> io::Result<TcpPeer> {
        TcpPeer::connect(self.addresses[usize::from(listener.0)])
    }
}

#[test]
fn an_engine_keeps_the_contract() {
    conformance::run_all(&|bed| Engines::new(bed, &options()));
}

#[test]
fn an_engine_with_the_smallest_sizes_keeps_the_contract() {
    conformance::run_all(&|bed| Engines::new(bed, &tiny()));
}
