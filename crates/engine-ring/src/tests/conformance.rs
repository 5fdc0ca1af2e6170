//! The contract that every engine keeps, on rings of three kinds: as they are, with sends that
//! complete one by one, and with the smallest queues.

use std::{
    io::{ErrorKind, Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    time::Duration,
};

use mesh::Member;
use socket2::{Domain, SockRef, Socket, Type};
use worker::{
    ListenerId,
    conformance::{self, Bed, BedOptions, Peer, PeerRead},
};

use crate::{RingEngine, RingOptions, engine::Start};

use super::rig::{listener, loopback, options, tiny};

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
    type Peer = Client;

    const OVERWHELMING_BYTES: usize = 16 << 20;

    fn engines(&mut self) -> &mut [RingEngine] {
        &mut self.engines
    }

    fn connect(&mut self, listener: ListenerId) -> std::io::Result<Client> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        // What a peer does not read is soon too much.
        socket.set_recv_buffer_size(1 << 16)?;
        socket.connect(&self.addresses[usize::from(listener.0)].into())?;
        socket.set_nonblocking(true)?;
        Ok(Client(socket.into()))
    }
}

struct Client(TcpStream);

impl Peer for Client {
    fn address(&self) -> SocketAddr {
        self.0.local_addr().unwrap()
    }

    fn write(&mut self, bytes: &[u8]) -> usize {
        self.0.write(bytes).unwrap_or(0)
    }

    fn read(&mut self, received: &mut Vec<u8>) -> PeerRead {
        let mut bytes = [0; 1 << 16];
        match self.0.read(&mut bytes) {
            Ok(0) => PeerRead::Finished,
            Ok(count) => {
                received.extend_from_slice(&bytes[..count]);
                PeerRead::Bytes
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => PeerRead::Nothing,
            Err(_) => PeerRead::Reset,
        }
    }

    fn finish(&mut self) {
        // The engine may have reset it already.
        let _ = self.0.shutdown(Shutdown::Write);
    }

    fn reset(&mut self) {
        SockRef::from(&self.0).set_linger(Some(Duration::ZERO)).unwrap();
        let unconnected = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        self.0 = unconnected.into();
    }
}

#[test]
fn a_ring_keeps_the_contract() {
    conformance::run_all(&|bed| Rings::new(bed, &options(), true));
}

#[test]
fn a_ring_whose_sends_complete_one_by_one_keeps_the_contract() {
    conformance::run_all(&|bed| Rings::new(bed, &options(), false));
}

#[test]
fn a_ring_with_the_smallest_queues_keeps_the_contract() {
    conformance::run_all(&|bed| Rings::new(bed, &tiny(), true));
}
