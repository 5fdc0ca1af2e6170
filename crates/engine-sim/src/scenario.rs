//! What a seed makes of a history before it begins: how large it is, which bounds, which network,
//! and who comes to visit. Nine in ten are small and quick; one in ten has 1,400 visitors.

use std::{num::NonZeroU32, sync::Arc, time::Duration};

use hub::{Interest, OriginRule};
use worker::{AddressLimits, Addresses, Limits, SlowConsumer, Time};

use crate::{
    chance::Chance,
    guard, inflated,
    options::{Clock, EngineOptions, Faults, NetworkOptions, Promises},
};

/// The whole of it.
#[derive(Clone, Debug)]
pub(crate) struct Scenario {
    pub(crate) seed: u64,
    /// True exactly when nothing goes wrong that a visitor does not do itself, and no bound is so
    /// small that a visitor that behaves could meet it.
    pub(crate) is_calm: bool,
    /// True exactly when it has so many visitors that a thousand are open at once, where there is
    /// room.
    pub(crate) is_large: bool,
    pub(crate) workers: u16,
    pub(crate) connections_max: u32,
    pub(crate) topics: usize,
    /// The most topics of one visitor.
    pub(crate) topics_per_visitor_max: usize,
    pub(crate) network: NetworkOptions,
    /// Bytes of the messages that visitors send.
    pub(crate) message_bytes: usize,
    pub(crate) receive_buffer_bytes: usize,
    pub(crate) limits: Limits,
    pub(crate) held_bytes_max: u64,
    /// True exactly when some visitors offer to compress.
    pub(crate) offers: bool,
    /// True exactly when the server takes such offers.
    pub(crate) compresses: bool,
    /// True exactly when some messages come in many fragments.
    pub(crate) fragments: bool,
    /// True exactly when workers that are put together again may be so on another engine.
    pub(crate) hands_over: bool,
    /// True exactly when visitors may publish.
    pub(crate) client_publish: bool,
    pub(crate) same_origin: bool,
    pub(crate) handshake_timeout: Duration,
    pub(crate) write_timeout: Duration,
    pub(crate) close_timeout: Duration,
    pub(crate) ping_interval: Option<Duration>,
    pub(crate) pong_timeout: Duration,
    pub(crate) coalesce_delay: Duration,
    pub(crate) connection_age_max: Option<Duration>,
    /// How likely a worker whose turn it is has to wait for it.
    pub(crate) late_turns: f64,
    /// When workers are taken apart and put together again: so long after the beginning, which one.
    pub(crate) moves: Vec<(Duration, usize)>,
    /// How long everyone acts.
    pub(crate) lasts: Duration,
    pub(crate) visitors: usize,
    /// How often a visitor that is no longer connected comes back at most.
    pub(crate) comebacks_max: usize,
    /// When many leave at once, and come back at once.
    pub(crate) storm: Option<Duration>,
    /// At least so many messages are published.
    pub(crate) publications_min: usize,
    pub(crate) report_period: Duration,
    pub(crate) slow_consumer: SlowConsumer,
    /// What an address may have of all workers.
    pub(crate) addresses: AddressLimits,
    /// Messages a second that a visitor may publish.
    pub(crate) publish_rate_max: Option<NonZeroU32>,
    /// True exactly when the engine breaks its contract by using slots again too early.
    pub(crate) reuses_slots: bool,
    pub(crate) drain: Duration,
    /// True exactly when some visitors get out of reach without a word.
    pub(crate) vanishes: bool,
    /// True exactly when the guest asks who is there, removes some, and has settings changed.
    pub(crate) wishes: bool,
    /// True exactly when everybody needs a token. Then the guest has such wishes too, and blocks
    /// some.
    pub(crate) guarded: bool,
}

/// With this, none of the histories that have found something before is one with tokens.
const GUARDED: u64 = 0x510E_527F_ADE6_82D1;

/// Places of a table that is too small.
const SMALL_TABLE: u32 = 3;

const SECOND: Duration = Duration::from_secs(1);

/// The longest message, in bytes.
const MESSAGE_BYTES_MAX: u32 = 4096;

/// The longest name of a message, which every one has: two numbers, and two spaces.
const MESSAGE_NAME_BYTES_MAX: usize = 42;

/// The first is the default, and the strictest to check.
const POLICIES: [SlowConsumer; 4] =
    [SlowConsumer::Close, SlowConsumer::Close, SlowConsumer::DropOldest, SlowConsumer::Latest];

impl Scenario {
    #[expect(clippy::too_many_lines, reason = "one a field")]
    pub(crate) fn new(seed: u64) -> Self {
        let chance = &mut Chance::new(seed);
        let is_large = chance.of(0.1);
        let is_calm = chance.of(0.3);
        let workers: u16 = if is_large { 3 } else { 2 };
        let message_bytes = *chance.one(match is_large {
            true => &[20, 200][..],
            false => &[20, 200, 200, MESSAGE_BYTES_MAX as usize],
        });
        // Many bytes in many pieces would take too long.
        let is_wide = is_large || message_bytes > 200;
        let pieces = if is_wide { &[64, 1_024][..] } else { &[7, 64, 1_024] };
        let hosts =
            if !is_calm && !is_large && chance.of(0.3) { *chance.one(&[1, 2, 3, 6]) } else { 0 };
        let mut limits = limits(is_calm, is_wide, chance);
        let (offers, compresses) = compression(seed, &mut limits);
        let hands_over = hands_over(seed, &mut limits);
        let guarded = guarded(seed, &mut limits);
        let lasts = milliseconds(chance, 300_000..=360_000);
        let seconds = lasts.as_secs();
        let moment = |chance: &mut Chance| Duration::from_secs(chance.long(1..=seconds));
        let moves = chance.number(0..=if is_large { 3 } else { 30 });
        Self {
            seed,
            is_calm,
            is_large,
            workers,
            connections_max: *chance.one(match (is_calm, is_large) {
                (true, _) => &[2_000][..],
                (false, true) => &[350, 500, 700, 1_000],
                (false, false) => &[16, 8, 20, 64],
            }),
            topics: if is_large { chance.number(20..=60) } else { chance.number(1..=4) },
            topics_per_visitor_max: if is_large { 2 } else { 4 },
            network: NetworkOptions { hosts, ..network(seed, is_calm, is_wide, chance, pieces) },
            message_bytes,
            receive_buffer_bytes: *chance.one(pieces),
            held_bytes_max: if is_calm { 1 << 30 } else { limits.fanout_bytes_max },
            limits,
            offers,
            compresses,
            fragments: Chance::new(seed ^ 0xFF51_AFD7_ED55_8CCD).of(0.5),
            hands_over,
            client_publish: chance.of(0.9),
            same_origin: chance.of(0.5),
            handshake_timeout: milliseconds(chance, 2_000..=5_000),
            write_timeout: milliseconds(chance, if is_calm { 5_000 } else { 500 }..=10_000),
            close_timeout: milliseconds(chance, 200..=5_000),
            ping_interval: chance
                .of(0.9)
                .then(|| milliseconds(chance, if is_large { 25_000 } else { 2_000 }..=60_000)),
            pong_timeout: milliseconds(chance, 500..=5_000),
            coalesce_delay: milliseconds(chance, 0..=30) * u32::from(chance.of(0.5)),
            connection_age_max: chance.of(0.2).then(|| milliseconds(chance, 20_000..=250_000)),
            late_turns: if is_calm { 0.0 } else { *chance.one(&[0.0, 0.0, 0.0, 0.001, 0.02]) },
            moves: (0..moves)
                .map(|_| (moment(chance), chance.number(0..=usize::from(workers) - 1)))
                .collect(),
            lasts,
            visitors: if is_large { 1_400 } else { chance.number(16..=40) },
            comebacks_max: *chance.one(if is_large { &[0, 1][..] } else { &[0, 1, 3] }),
            storm: chance.of(0.3).then(|| moment(chance)),
            publications_min: 200,
            report_period: milliseconds(chance, 1_000..=10_000),
            drain: milliseconds(chance, 0..=3_000),
            slow_consumer: *chance.one(&POLICIES),
            addresses: AddressLimits {
                connections_max: limit(hosts > 0, chance, &[3, 8]),
                handshakes_rate: limit(hosts > 0, chance, &[1, 3, 10]),
            },
            publish_rate_max: limit(true, chance, &[1, 5, 50]),
            reuses_slots: false,
            vanishes: Chance::new(seed ^ 0x2127_599B_F432_5C37).of(0.5),
            wishes: guarded || Chance::new(seed ^ 0x8803_55F2_1E6D_1965).of(0.3),
            guarded,
        }
        .with_small_table()
    }

    /// A fault: a table with so few places that most are refused, in one of ten small histories.
    fn with_small_table(mut self) -> Self {
        let is_small = Chance::new(self.seed ^ 0x9E6C_63D0_876A_9A62).of(0.1);
        if is_small && !self.is_calm && !self.is_large {
            self.connections_max = SMALL_TABLE;
        }
        self
    }

    /// The settings of the beginning; or others, where some timeouts are longer and the budget of
    /// all queues is larger.
    pub(crate) fn settings(&self, is_doubled: bool) -> hub::Settings {
        let nobodys = Arc::new(Interest::new(self.workers, 1, self.seed));
        let hub::Options { client_publish, echo, compression, origins, .. } = self.hub(&nobodys);
        let times = if is_doubled { 2 } else { 1 };
        let budget = self.limits.send_queue_total_bytes_max * u64::from(times);
        hub::Settings {
            client_publish,
            echo,
            compression,
            origins,
            worker: worker::Settings {
                handshake_timeout: self.handshake_timeout * times,
                close_timeout: self.close_timeout * times,
                addresses: None,
                trusted: Arc::default(),
                publish_rate_max: self.publish_rate_max,
                limits: Limits { send_queue_total_bytes_max: budget, ..self.limits.clone() },
            },
        }
    }

    /// The longest that a timeout may be that other settings make longer.
    pub(crate) fn longest(&self, timeout: Duration) -> Duration {
        if self.wishes { timeout * 2 } else { timeout }
    }

    /// What the workers are held to.
    pub(crate) fn promises(&self) -> Promises {
        Promises {
            ping_interval: self.ping_interval,
            pong_timeout: self.pong_timeout,
            handshake_timeout: self.handshake_timeout,
            write_timeout: self.write_timeout,
            connections_max: self.connections_max,
            head_bytes_max: self.limits.handshake_total_bytes_max,
            stall_max: self.write_timeout + self.longest(self.close_timeout),
            addresses: self.addresses,
        }
    }

    pub(crate) fn engine(&self) -> EngineOptions {
        EngineOptions {
            connections_max: self.connections_max + self.limits.surplus_connections_max,
            listeners: 1,
            receive_buffer_bytes: self.receive_buffer_bytes,
            linger_bytes_max: self.limits.linger_bytes_max as usize,
            promises: self.promises(),
            reuses_slots: self.reuses_slots,
        }
    }

    pub(crate) fn worker(&self, member: u16, addresses: &Arc<Addresses>) -> worker::Options {
        worker::Options {
            connections_max: self.connections_max,
            listeners: 1,
            handshake_timeout: self.handshake_timeout,
            write_timeout: self.write_timeout,
            close_timeout: self.close_timeout,
            ping_interval: self.ping_interval,
            pong_timeout: self.pong_timeout,
            coalesce_delay: self.coalesce_delay,
            addresses: (self.network.hosts > 0).then(|| Arc::clone(addresses)),
            proxies: worker::Proxies::default(),
            publish_rate_max: self.publish_rate_max,
            connection_age_max: self.connection_age_max,
            slow_consumer: self.slow_consumer,
            limits: self.limits.clone(),
            seed: self.seed ^ u64::from(member),
        }
    }

    pub(crate) fn hub(&self, interest: &Arc<Interest>) -> hub::Options {
        hub::Options {
            client_publish: self.client_publish,
            echo: true,
            compression: self.compresses,
            origins: if self.same_origin { OriginRule::SameHost } else { OriginRule::Any },
            access: self.guarded.then(guard::access),
            topics_per_connection_max: self.limits.topics_per_connection_max,
            topic_bytes_max: self.limits.topic_bytes_max,
            held_bytes_max: self.held_bytes_max,
            interest: Arc::clone(interest),
        }
    }

    /// A worker that is kept from its turn for a quarter of its shortest timeout, or a second, excuses
    /// its peers. One that waits is not kept, but in its next turn it cannot know, since a wait ends
    /// here where it would block elsewhere: so it is woken more often than that, and must have
    /// nothing to do then.
    pub(crate) fn nap(&self) -> Duration {
        let spans = [self.handshake_timeout, self.write_timeout, self.close_timeout];
        let pong_timeout = self.ping_interval.map(|_| self.pong_timeout);
        let shortest = spans.into_iter().chain(pong_timeout).fold(SECOND * 4, Duration::min);
        shortest / 4 * 9 / 10
    }

    /// The longest frame of a message, its number and its stream's counted.
    pub(crate) fn frame_bytes_max(&self) -> u64 {
        inflated::frame_bytes(self.message_bytes.max(MESSAGE_NAME_BYTES_MAX))
    }

    /// A moment between the beginning and the end.
    pub(crate) fn moment(&self, begin: Time, chance: &mut Chance) -> Time {
        let lasts = u64::try_from(self.lasts.as_nanos()).unwrap_or(u64::MAX);
        begin + Duration::from_nanos(chance.long(0..=lasts))
    }
}

/// Whether some visitors offer to compress, and whether the server takes it. From dice of its own:
/// without compression a seed is the history that it would be anyway.
fn compression(seed: u64, limits: &mut Limits) -> (bool, bool) {
    let chance = &mut Chance::new(seed ^ 0x1656_67B1_9E37_79F9);
    let offers = chance.of(0.5);
    let compresses = offers && chance.of(0.9);
    if compresses {
        limits.compression_bytes_min = *chance.one(&[1, 20, 128, 1_000]);
    }
    (offers, compresses)
}

/// Whether workers change engines. Then they may decode so little in a turn that many of a client's
/// frames are still to be decoded when they do. From dice of its own, for the same reason.
fn hands_over(seed: u64, limits: &mut Limits) -> bool {
    let chance = &mut Chance::new(seed ^ 0xA076_1D64_78BD_642F);
    let hands_over = chance.of(0.5);
    if hands_over {
        limits.receive_frames_max = *chance.one(&[1, 3, limits.receive_frames_max]);
    }
    hands_over
}

/// Whether everybody needs a token. Then a turn may verify so few of them that others wait. From
/// dice of its own, for the same reason.
fn guarded(seed: u64, limits: &mut Limits) -> bool {
    let chance = &mut Chance::new(seed ^ GUARDED);
    let guarded = chance.of(0.15);
    if guarded {
        limits.verifications_max = *chance.one(&[1, 2, limits.verifications_max]);
    }
    guarded
}

/// A limit that is there half of the time, if it may be.
fn limit(may_be: bool, chance: &mut Chance, limits: &[u32]) -> Option<NonZeroU32> {
    if may_be && chance.of(0.5) { NonZeroU32::new(*chance.one(limits)) } else { None }
}

fn milliseconds(chance: &mut Chance, range: std::ops::RangeInclusive<u64>) -> Duration {
    Duration::from_millis(chance.long(range))
}

fn network(
    seed: u64,
    is_calm: bool,
    is_wide: bool,
    chance: &mut Chance,
    pieces: &[usize],
) -> NetworkOptions {
    let latency_min = Duration::from_micros(chance.long(10..=1_000));
    // So wide and short that whoever reads has soon read everything.
    let buffers = match (is_calm, is_wide) {
        (true, _) => &[40_000][..],
        (false, true) => &[1_000, 5_000, 40_000],
        (false, false) => &[100, 1_000, 5_000, 40_000],
    };
    let latency_us_max = if is_calm { 3_000 } else { 50_000 };
    NetworkOptions {
        seed,
        clock: Clock::Driver,
        latency_min,
        latency_max: latency_min + Duration::from_micros(chance.long(0..=latency_us_max)),
        send_buffer_bytes: *chance.one(buffers),
        window_bytes: *chance.one(buffers),
        segment_bytes_max: *chance.one(pieces).max(&10),
        backlog: if is_calm { 4096 } else { *chance.one(&[1, 5, 4096]) },
        faults: if is_calm { Faults::NONE } else { faults(chance) },
        hosts: 0,
        deeds_max: 0,
    }
}

/// Some faults, each in its own measure.
fn faults(chance: &mut Chance) -> Faults {
    let mut measure = |often: f64| *chance.one(&[0.0, 0.0, often / 10.0, often]);
    Faults {
        split_receives: measure(0.5),
        short_sends: measure(0.5),
        refused_sends: measure(0.3),
        send_storms: measure(0.01),
        broken_links: measure(0.001),
        delayed_segments: measure(0.2),
        stalled_links: measure(0.001),
        lost_accepts: measure(0.1),
        exhausted_buffers: measure(0.2),
        late_completions: measure(0.3),
        stale_completions: measure(0.05),
    }
}

fn limits(is_calm: bool, is_wide: bool, chance: &mut Chance) -> Limits {
    let queue: u64 = if is_calm { 16 << 20 } else { *chance.one(&[5_000, 20_000, 256 << 10]) };
    let targets = if is_wide { &[5, 64][..] } else { &[1, 2, 5, 64] };
    Limits {
        surplus_connections_max: 4,
        handshake_total_bytes_max: 64 << 10,
        message_bytes_max: MESSAGE_BYTES_MAX,
        partial_total_bytes_max: if is_calm { 64 << 20 } else { *chance.one(&[6_000, 1 << 20]) },
        send_queue_bytes_max: queue,
        send_queue_total_bytes_max: if is_calm {
            1 << 30
        } else {
            *chance.one(&[10_000, 100_000, 1 << 30])
        },
        send_bytes_max: *chance.one(if is_wide {
            &[1_000, 32 << 10][..]
        } else {
            &[1, 100, 1_000]
        }),
        fanout_publications_max: *chance.one(&[1, 3, 20, 4096]),
        fanout_bytes_max: *chance.one(&[5_000, 50_000, 32 << 20]),
        fanout_targets_max: *chance.one(targets),
        coalesce_bytes_max: *chance.one(&[1, 500, 16 << 10]),
        mesh_letters_max: *chance.one(&[1, 2, 8, 32]),
        linger_bytes_max: if is_calm { 256 << 10 } else { *chance.one(&[2_000, 256 << 10]) },
        closes_logged_max: u32::MAX,
        ..Limits::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_needs_a_token_where_something_was_found_before_there_were_any() {
        let seeds = [1, 37, 170, 272, 1443, 2356, 3524, 734_217];
        assert!(seeds.iter().all(|seed| !Scenario::new(*seed).guarded));
    }
}
