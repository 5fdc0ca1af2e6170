//! Engines that are each other's mesh, and TCP clients of the first: what the conformance suite
//! needs.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    io,
    net::{SocketAddr, TcpListener},
};

use worker::{
    Engine, ListenerId,
    conformance::{Bed, BedOptions},
};

use crate::peer::{self, OVERWHELMING_BYTES, TcpPeer};

/// Engines under test.
#[derive(Debug)]
pub struct TcpBed<E> {
    engines: Vec<E>,
    addresses: Vec<SocketAddr>,
}

impl<E: Engine> TcpBed<E> {
    /// Starts the engines; the first gets the listeners. `target` says how an engine is woken, and
    /// `connect` tells
    /// another, by its number in the mesh.
    ///
    /// # Panics
    /// There is no port left.
    pub fn new<T: Clone>(
        bed: &BedOptions,
        start: impl Fn(Vec<TcpListener>) -> E,
        target: impl Fn(&E) -> T,
        connect: impl Fn(&mut E, u16, T),
    ) -> Self {
        let (mut listeners, addresses): (Vec<_>, Vec<_>) =
            (0..bed.listeners).map(|_| peer::listener().unwrap()).unzip();
        let mut engines: Vec<E> =
            (0..bed.engines).map(|_| start(std::mem::take(&mut listeners))).collect();
        let targets: Vec<T> = engines.iter().map(target).collect();
        for engine in &mut engines {
            for (member, target) in (0..).zip(&targets) {
                connect(engine, member, target.clone());
            }
        }
        Self { engines, addresses }
    }
}

impl<E: Engine> Bed for TcpBed<E> {
    type Engine = E;
    type Peer = TcpPeer;

    const OVERWHELMING_BYTES: usize = OVERWHELMING_BYTES;

    fn engines(&mut self) -> &mut [E] {
        &mut self.engines
    }

    fn connect(&mut self, listener: ListenerId) -> io::Result<TcpPeer> {
        TcpPeer::connect(self.addresses[usize::from(listener.0)])
    }
}
