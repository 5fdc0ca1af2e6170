//! A connection as plain data: all that its worker, the decoder and the handler know of it, and
//! nothing of the kernel's. A worker can be taken apart into such records and put together again,
//! and no client can tell.

use bytes::Bytes;

use crate::{
    connections::{Connection, Identity},
    core::Outgoing,
    handler::Audience,
    operation::ConnectionId,
    wheel::Tick,
};

/// All that is known of one connection.
#[derive(Debug, Clone)]
pub struct Record<A> {
    /// Which connection of its engine this is. Another engine will have given it another place.
    pub connection: ConnectionId,
    /// Which it was when it was exported.
    pub(crate) exported_as: ConnectionId,
    /// What the handler knows of it; `None` unless it is open.
    pub(crate) admission: Option<A>,
    pub(crate) state: Connection,
    pub(crate) identity: Identity,
    /// The moments on its peer's clock and in its worker's microseconds at which it was exported:
    /// all others are told from there, so that no peer is blamed for the time between.
    pub(crate) exported: Tick,
    pub(crate) exported_us: u32,
    /// What the engine has not been given yet, in order.
    pub(crate) outgoing: Vec<Outgoing>,
    /// Publications whose jobs had not come to it: frames and the messages in them.
    pub(crate) owed: Vec<(Audience, Bytes, u32)>,
    /// What its rate of messages allows, where there is one.
    pub(crate) allowance: Option<(u64, bool)>,
    /// True exactly when it may go on with what is kept of what it has sent.
    pub(crate) is_resumed: bool,
}
