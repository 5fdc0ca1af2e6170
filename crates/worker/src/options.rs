//! What one worker is told at its start, and what of that it may be told anew. Every field is
//! written at the call.

use std::{num::NonZeroU32, sync::Arc, time::Duration};

use ipnet::IpNet;

use crate::{addresses::Addresses, limits::Limits, proxies::Proxies};

/// What becomes of a subscriber that does not keep up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SlowConsumer {
    /// Closed with 1013 once its queue is full.
    Close,
    /// Its oldest messages are dropped so that its queue is not full.
    DropOldest,
    /// Only the newest message of each audience waits for it; the oldest of these are dropped.
    Latest,
}

/// One worker's options. Bounds of the process are already divided.
#[derive(Debug, Clone)]
pub struct Options {
    /// Connections that may be open. The engine's table has `limits.surplus_connections_max` more.
    pub connections_max: u32,
    /// How many listeners the engine was given.
    pub listeners: u16,
    /// A request head must be complete within this.
    pub handshake_timeout: Duration,
    /// The oldest queued byte may wait this long.
    pub write_timeout: Duration,
    /// From our Close handed to the kernel to cutting the connection.
    pub close_timeout: Duration,
    /// Each connection is pinged once in this time unless it was heard; `None`: no pings.
    pub ping_interval: Option<Duration>,
    /// Any byte must come within this of a ping, at most [`crate::PONG_TIMEOUT_MAX`].
    pub pong_timeout: Duration,
    /// A topic's publications may wait this long to leave together.
    pub coalesce_delay: Duration,
    /// Connections are closed as `moving` after this, a tenth more or less.
    pub connection_age_max: Option<Duration>,
    /// What one address may take of the process; shared by all its workers.
    pub addresses: Option<Arc<Addresses>>,
    /// Through whom clients come whose address is not the one that is seen.
    pub proxies: Proxies,
    /// Messages a second that a client may send.
    pub publish_rate_max: Option<NonZeroU32>,
    /// What becomes of a subscriber that does not keep up.
    pub slow_consumer: SlowConsumer,
    /// The bounds.
    pub limits: Limits,
    /// Where everything that must differ between runs comes from.
    pub seed: u64,
}

/// Those of the options that may change while the worker runs. They count for what comes: deadlines
/// that are set stay, and what is queued or was let in is not judged again.
#[derive(Debug, Clone)]
pub struct Settings {
    /// A request head must be complete within this.
    pub handshake_timeout: Duration,
    /// From our Close handed to the kernel to cutting the connection.
    pub close_timeout: Duration,
    /// What one address may take of the process. Once there it stays: who is counted leaves it.
    pub addresses: Option<Arc<Addresses>>,
    /// Where trusted proxies are.
    pub trusted: Arc<[IpNet]>,
    /// Messages a second that a client may send.
    pub publish_rate_max: Option<NonZeroU32>,
    /// The bounds, of which those in [`Limits::CHANGEABLE`] count.
    pub limits: Limits,
}

impl Options {
    /// From now on these.
    pub(crate) fn adopt(&mut self, settings: Settings) {
        let Settings {
            handshake_timeout,
            close_timeout,
            addresses,
            trusted,
            publish_rate_max,
            limits,
        } = settings;
        self.handshake_timeout = handshake_timeout;
        self.close_timeout = close_timeout;
        self.addresses = self.addresses.take().or(addresses);
        self.proxies.trusted = trusted;
        self.publish_rate_max = publish_rate_max;
        self.limits.adopt(&limits);
    }
}
