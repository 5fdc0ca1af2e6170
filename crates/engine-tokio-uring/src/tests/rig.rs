//! Sizes for tests, and the rig with this engine.

use std::{net::TcpListener, time::Duration};

use sockets::rig::Rigged;

pub(super) use sockets::rig::{Event, PATIENCE};

use crate::{TokioUringEngine, TokioUringOptions};

pub(crate) type Rig = sockets::rig::Rig<TokioUringEngine>;

impl Rigged for TokioUringEngine {
    type Options = TokioUringOptions;

    fn rigged(options: &TokioUringOptions, listeners: Vec<TcpListener>) -> Self {
        Self::new(options, listeners).unwrap()
    }
}

/// Sizes that no test comes near to.
pub(crate) fn options() -> TokioUringOptions {
    TokioUringOptions {
        connections_max: 4096,
        submission_entries: 256,
        completion_entries: 2048,
        receive_bytes: 16 << 10,
        accepts_armed_max: 32,
        settle: Duration::ZERO,
        linger_bytes_max: 256 * 1024,
    }
}

/// The smallest sizes.
pub(super) fn tiny() -> TokioUringOptions {
    TokioUringOptions {
        connections_max: 8,
        submission_entries: 8,
        completion_entries: 16,
        receive_bytes: 64,
        accepts_armed_max: 1,
        ..options()
    }
}
