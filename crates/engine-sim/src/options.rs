//! What a virtual network and its engines are told at their start. Every field is written at the
//! call.

use std::time::Duration;

use worker::AddressLimits;

/// Who moves the clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Clock {
    /// A wait that finds nothing goes on to what happens next: for one engine by itself.
    Waits,
    /// The driver of several workers, by [`Network::advance`](crate::Network::advance). A wait that
    /// finds nothing returns, and the driver does not turn that worker before something happens.
    Driver,
}

/// A network.
#[derive(Debug, Clone)]
pub struct NetworkOptions {
    /// Decides everything that is left open.
    pub seed: u64,
    /// Who moves the clock.
    pub clock: Clock,
    /// The shortest time from one end of a link to the other.
    pub latency_min: Duration,
    /// The longest. Each link has a latency of its own.
    pub latency_max: Duration,
    /// What a socket takes beyond what is on its way.
    pub send_buffer_bytes: usize,
    /// What is on its way to a socket or waits there to be read.
    pub window_bytes: usize,
    /// Bytes that arrive at one moment.
    pub segment_bytes_max: usize,
    /// Clients that wait to be accepted on a listener.
    pub backlog: usize,
    /// So many addresses, or networks of 64 bits, clients come from in turn; 0: each its own.
    pub hosts: usize,
    /// What goes wrong.
    pub faults: Faults,
    /// So many of the last deeds are remembered.
    pub deeds_max: usize,
}

/// How likely it is that something goes wrong, each time it could.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Faults {
    /// Bytes that arrive together are received in two pieces, cut anywhere.
    pub split_receives: f64,
    /// A send takes less than there is room for.
    pub short_sends: f64,
    /// A send takes nothing (EAGAIN, ENOBUFS) though there is room.
    pub refused_sends: f64,
    /// A connection breaks on the way: whenever a segment arrives.
    pub broken_links: f64,
    /// An accepted connection is lost (ENFILE), and accepting rests.
    pub lost_accepts: f64,
    /// There is no buffer to receive into (ENOBUFS).
    pub exhausted_buffers: f64,
    /// Something that is ready is told only by a later wait.
    pub late_completions: f64,
    /// A segment takes longer than others.
    pub delayed_segments: f64,
    /// A link lets nothing through for seconds: whenever a segment leaves.
    pub stalled_links: f64,
    /// For some milliseconds hardly any send takes anything: at every entry.
    pub send_storms: f64,
    /// Beyond the contract: something is told of a connection that is gone.
    pub stale_completions: f64,
}

impl Faults {
    /// A network as it should be.
    pub const NONE: Self = Self {
        split_receives: 0.0,
        short_sends: 0.0,
        refused_sends: 0.0,
        broken_links: 0.0,
        lost_accepts: 0.0,
        exhausted_buffers: 0.0,
        late_completions: 0.0,
        delayed_segments: 0.0,
        stalled_links: 0.0,
        send_storms: 0.0,
        stale_completions: 0.0,
    };
}

/// An engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EngineOptions {
    /// Places in the connection table.
    pub connections_max: u32,
    /// Listeners, numbered from 0.
    pub listeners: u16,
    /// Bytes received at once.
    pub receive_buffer_bytes: usize,
    /// What a lingering connection reads and throws away at most.
    pub linger_bytes_max: usize,
    /// What its worker is held to.
    pub promises: Promises,
    /// Against the contract, to be noticed: a slot may be used again before its `Closed` is told.
    pub reuses_slots: bool,
}

/// What a worker owes every connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Promises {
    /// Who is silent is pinged once in this time; `None`: nobody is.
    pub ping_interval: Option<Duration>,
    /// Who does not answer a ping within this is cut.
    pub pong_timeout: Duration,
    /// Whose request is not complete within this is refused, and nobody before.
    pub handshake_timeout: Duration,
    /// Whose socket takes nothing is cut as stalled after this, and not before.
    pub write_timeout: Duration,
    /// So many may be open, and so many bytes of heads be held, before anybody is refused for it.
    pub connections_max: u32,
    /// Bytes of incomplete request heads.
    pub head_bytes_max: u64,
    /// Whose socket takes nothing for so long, a Close frame's time included, is cut.
    pub stall_max: Duration,
    /// What an address may have, no more and no less.
    pub addresses: AddressLimits,
}
