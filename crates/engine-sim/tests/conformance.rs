//! The virtual engine keeps the contract, whatever the seed.

#![forbid(unsafe_code)]

use std::{io, net::SocketAddr, time::Duration};

use ringway_sim::{
    Client, ClientRead, Clock, EngineOptions, Faults, Network, NetworkOptions, Promises, SimEngine,
};
use worker::{
    AddressLimits, ListenerId,
    conformance::{self, Bed, BedOptions, Peer, PeerRead},
};

struct SimBed {
    network: Network,
    engines: Vec<SimEngine>,
}

impl SimBed {
    fn new(options: &BedOptions, seed: u64, faults: Faults) -> Self {
        let network = Network::new(NetworkOptions {
            seed,
            clock: Clock::Waits,
            latency_min: Duration::from_micros(10),
            latency_max: Duration::from_millis(5),
            send_buffer_bytes: 40_000,
            window_bytes: 30_000,
            segment_bytes_max: 16_000,
            backlog: 4096,
            hosts: 0,
            faults,
            deeds_max: 0,
        });
        let engines = (0..options.engines)
            .map(|member| {
                network.engine(EngineOptions {
                    connections_max: options.connections_max,
                    listeners: if member == 0 { options.listeners } else { 0 },
                    receive_buffer_bytes: 1024,
                    linger_bytes_max: options.linger_bytes_max as usize,
                    promises: Promises {
                        ping_interval: None,
                        pong_timeout: Duration::ZERO,
                        handshake_timeout: Duration::ZERO,
                        write_timeout: Duration::ZERO,
                        stall_max: Duration::MAX,
                        connections_max: 0,
                        head_bytes_max: 0,
                        addresses: AddressLimits { connections_max: None, handshakes_rate: None },
                    },
                    reuses_slots: false,
                })
            })
            .collect();
        Self { network, engines }
    }
}

impl Bed for SimBed {
    type Engine = SimEngine;
    type Peer = SimPeer;

    const OVERWHELMING_BYTES: usize = 300_000;

    fn engines(&mut self) -> &mut [SimEngine] {
        &mut self.engines
    }

    fn connect(&mut self, listener: ListenerId) -> io::Result<SimPeer> {
        Ok(SimPeer(self.network.connect(0, usize::from(listener.0))))
    }
}

struct SimPeer(Client);

impl Peer for SimPeer {
    fn address(&self) -> SocketAddr {
        self.0.address()
    }

    fn write(&mut self, bytes: &[u8]) -> usize {
        self.0.write(bytes)
    }

    fn read(&mut self, received: &mut Vec<u8>) -> PeerRead {
        match self.0.read(10_000, received) {
            ClientRead::Bytes(_) => PeerRead::Bytes,
            ClientRead::Nothing => PeerRead::Nothing,
            ClientRead::Finished => PeerRead::Finished,
            ClientRead::Broken(_) => PeerRead::Reset,
        }
    }

    fn finish(&mut self) {
        self.0.finish();
    }

    fn reset(&mut self) {
        self.0.reset();
    }
}

#[test]
fn the_virtual_engine_keeps_the_contract() {
    for seed in 0..5 {
        conformance::run_all::<SimBed>(&|options| SimBed::new(options, seed, Faults::NONE));
    }
}

/// What an engine may do within the contract, though real ones seldom do.
#[test]
fn the_virtual_engine_keeps_the_contract_at_its_most_awkward() {
    let faults = Faults {
        split_receives: 0.3,
        exhausted_buffers: 0.1,
        late_completions: 0.3,
        ..Faults::NONE
    };
    for seed in 0..5 {
        conformance::run_all::<SimBed>(&|options| SimBed::new(options, seed, faults));
    }
}
