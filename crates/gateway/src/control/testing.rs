//! What the tests of the control plane share: facts, and later workers that only answer letters.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use worker::Limits;

use crate::facts::{Facts, WorkerFacts};

/// A process of so many workers with 100 connections each.
pub(super) fn facts(workers: u16) -> Arc<Facts> {
    let workers: Vec<_> = (0..workers)
        .map(|worker| WorkerFacts {
            worker,
            core: usize::from(worker),
            pinned: true,
            connections_max: 105,
            fixed_bytes: 1 << 20,
            limits: Limits::default(),
        })
        .collect();
    Arc::new(Facts {
        version: "1.2.3",
        kernel: "6.18.0".into(),
        engine: "ring",
        engine_reason: "chosen".into(),
        started_at: Instant::now(),
        data_addresses: Vec::new(),
        connections_max: 100 * workers.len() as u64,
        workers,
        limits: Limits::default(),
        drain: Duration::from_millis(2_500),
        drain_delay: Duration::ZERO,
    })
}
