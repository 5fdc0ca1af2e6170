//! What a seed makes of a history before it begins: how many workers, which bounds, which network,
//! and who comes to visit.

use std::time::Duration;

use hub::OriginRule;
use worker::{Limits, SlowConsumer};

use crate::{
    chance::Chance,
    options::{Clock, EngineOptions, Faults, NetworkOptions},
};

/// The whole of it.
#[derive(Clone, Debug)]
pub(crate) struct Scenario {
    pub(crate) seed: u64,
    /// True exactly when nothing goes wrong that a visitor does not do itself, and no bound is so
    /// small that a visitor that behaves could meet it.
    pub(crate) is_calm: bool,
    pub(crate) workers: u16,
    pub(crate) connections_max: u32,
    pub(crate) topics: usize,
    pub(crate) network: NetworkOptions,
    /// Bytes of the messages that visitors send.
    pub(crate) message_bytes: usize,
    pub(crate) receive_buffer_bytes: usize,
    pub(crate) limits: Limits,
    pub(crate) held_bytes_max: u64,
    pub(crate) write_timeout: Duration,
    pub(crate) close_timeout: Duration,
    pub(crate) ping_interval: Option<Duration>,
    pub(crate) pong_timeout: Duration,
    pub(crate) coalesce_delay: Duration,
    /// How likely a worker whose turn it is has to wait for it.
    pub(crate) late_turns: f64,
    /// How long everyone acts.
    pub(crate) lasts: Duration,
    pub(crate) visitors: usize,
    pub(crate) drain: Duration,
}

/// The longest message, in bytes.
const MESSAGE_BYTES_MAX: u32 = 4096;

impl Scenario {
    pub(crate) fn new(seed: u64) -> Self {
        let chance = &mut Chance::new(seed);
        let is_calm = chance.of(0.4);
        let milliseconds = |chance: &mut Chance, range| Duration::from_millis(chance.long(range));
        let workers = *chance.one(&[1, 2, 2, 3, 4]);
        let message_bytes = *chance.one(&[20, 200, MESSAGE_BYTES_MAX as usize]);
        // Many bytes in many pieces would take too long.
        let pieces = if message_bytes <= 200 { &[1, 7, 64, 1_024][..] } else { &[64, 1_024] };
        let limits = limits(is_calm, chance);
        Self {
            seed,
            is_calm,
            workers,
            connections_max: *chance.one(if is_calm { &[64][..] } else { &[3, 8, 20, 64] }),
            topics: chance.number(1..=4),
            network: network(seed, is_calm, chance, pieces),
            message_bytes,
            receive_buffer_bytes: *chance.one(pieces),
            held_bytes_max: if is_calm { 1 << 30 } else { limits.fanout_bytes_max },
            limits,
            write_timeout: milliseconds(chance, if is_calm { 3_000 } else { 500 }..=10_000),
            close_timeout: milliseconds(chance, 200..=5_000),
            ping_interval: chance.of(0.8).then(|| milliseconds(chance, 500..=20_000)),
            pong_timeout: milliseconds(chance, 500..=5_000),
            coalesce_delay: milliseconds(chance, 0..=30) * u32::from(chance.of(0.5)),
            late_turns: if is_calm { 0.0 } else { *chance.one(&[0.0, 0.0, 0.05, 0.3]) },
            lasts: milliseconds(chance, 1_000..=15_000),
            visitors: chance.number(2..=40),
            drain: milliseconds(chance, 0..=3_000),
        }
    }

    pub(crate) fn engine(&self) -> EngineOptions {
        EngineOptions {
            connections_max: self.connections_max + self.limits.surplus_connections_max,
            listeners: 1,
            receive_buffer_bytes: self.receive_buffer_bytes,
            linger_bytes_max: self.limits.linger_bytes_max as usize,
        }
    }

    pub(crate) fn worker(&self, member: u16) -> worker::Options {
        worker::Options {
            connections_max: self.connections_max,
            listeners: 1,
            handshake_timeout: Duration::from_secs(5),
            write_timeout: self.write_timeout,
            close_timeout: self.close_timeout,
            ping_interval: self.ping_interval,
            pong_timeout: self.pong_timeout,
            coalesce_delay: self.coalesce_delay,
            connection_age_max: None,
            addresses: None,
            publish_rate_max: None,
            slow_consumer: SlowConsumer::Close,
            limits: self.limits.clone(),
            seed: self.seed ^ u64::from(member),
        }
    }

    pub(crate) fn hub(&self, member: u16) -> hub::Options {
        hub::Options {
            workers: self.workers,
            client_publish: true,
            echo: true,
            compression: false,
            origins: OriginRule::Any,
            topics_per_connection_max: self.limits.topics_per_connection_max,
            topic_bytes_max: self.limits.topic_bytes_max,
            held_bytes_max: self.held_bytes_max,
            seed: self.seed ^ u64::from(member),
        }
    }
}

fn network(seed: u64, is_calm: bool, chance: &mut Chance, pieces: &[usize]) -> NetworkOptions {
    let latency_min = Duration::from_micros(chance.long(10..=1_000));
    // So wide and short that whoever reads has soon read everything.
    let buffers = if is_calm { &[40_000][..] } else { &[100, 1_000, 5_000, 40_000] };
    let latency_us_max = if is_calm { 3_000 } else { 50_000 };
    NetworkOptions {
        seed,
        clock: Clock::Driver,
        latency_min,
        latency_max: latency_min + Duration::from_micros(chance.long(0..=latency_us_max)),
        send_buffer_bytes: *chance.one(&[100, 1_000, 5_000, 40_000]),
        window_bytes: *chance.one(buffers),
        segment_bytes_max: *chance.one(pieces).max(&10),
        backlog: if is_calm { 4096 } else { *chance.one(&[1, 5, 4096]) },
        faults: if is_calm { Faults::NONE } else { faults(chance) },
    }
}

/// Some faults, each in its own measure.
fn faults(chance: &mut Chance) -> Faults {
    let mut measure = |often: f64| *chance.one(&[0.0, 0.0, often / 10.0, often]);
    Faults {
        split_receives: measure(0.5),
        short_sends: measure(0.5),
        refused_sends: measure(0.3),
        broken_links: measure(0.001),
        lost_accepts: measure(0.1),
        exhausted_buffers: measure(0.2),
        late_completions: measure(0.3),
        stale_completions: measure(0.05),
    }
}

fn limits(is_calm: bool, chance: &mut Chance) -> Limits {
    let queue: u64 = if is_calm { 16 << 20 } else { *chance.one(&[5_000, 20_000, 256 << 10]) };
    Limits {
        surplus_connections_max: 4,
        message_bytes_max: MESSAGE_BYTES_MAX,
        partial_total_bytes_max: if is_calm { 64 << 20 } else { *chance.one(&[6_000, 1 << 20]) },
        handshake_total_bytes_max: 64 << 10,
        send_queue_bytes_max: queue,
        send_queue_total_bytes_max: if is_calm {
            1 << 30
        } else {
            *chance.one(&[10_000, 100_000, 1 << 30])
        },
        send_bytes_max: *chance.one(&[1, 1_000, 32 << 10]),
        fanout_publications_max: *chance.one(&[1, 3, 20, 4096]),
        fanout_bytes_max: *chance.one(&[5_000, 50_000, 32 << 20]),
        fanout_targets_max: *chance.one(&[1, 2, 5, 64]),
        coalesce_bytes_max: *chance.one(&[1, 500, 16 << 10]),
        mesh_letters_max: *chance.one(&[1, 2, 8, 32]),
        linger_bytes_max: if is_calm { 256 << 10 } else { *chance.one(&[2_000, 256 << 10]) },
        ..Limits::default()
    }
}
