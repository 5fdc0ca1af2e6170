//! Sizes for tests, and the rig with this engine.

use std::{net::TcpListener, time::Duration};

use sockets::rig::Rigged;

pub(super) use sockets::rig::{Event, PATIENCE, reset};

use crate::{EpollEngine, EpollOptions};

pub(super) type Rig = sockets::rig::Rig<EpollEngine>;

impl Rigged for EpollEngine {
    type Options = EpollOptions;

    fn rigged(options: &EpollOptions, listeners: Vec<TcpListener>) -> Self {
        Self::new(options, listeners).unwrap()
    }
}

/// Sizes that no test comes near to.
pub(super) fn options() -> EpollOptions {
    EpollOptions {
        connections_max: 4096,
        receive_bytes: 16 << 10,
        accepts_max: 32,
        settle: Duration::ZERO,
        linger_bytes_max: 256 * 1024,
    }
}

/// The smallest sizes.
pub(super) fn tiny() -> EpollOptions {
    EpollOptions { connections_max: 8, receive_bytes: 64, accepts_max: 1, ..options() }
}
