//! The connection table: a record of at most 40 bytes that reads and refusals touch, and apart
//! from it the address that they do not. Both grow with the highest slot ever used, so a table
//! sized for a million costs nothing until they come.
//!
//! ```text
//!  Accepted ─▶ (Announced ─▶) Handshaking (─▶ Waiting) ──101──▶ Open ──Close to be sent──▶ Closing ──▶ Terminating ──Closed──▶ Free
//!                    │                           │                                        ▲
//!                    ├──refused: response to be sent──▶ Closing                           │
//!                    └──gone, cut─────────────────┴───────────────────────────────────────┘
//! ```

use std::{
    mem,
    net::{IpAddr, Ipv6Addr, SocketAddr},
};

use bitflags::bitflags;
use bytes::BytesMut;
use wire::{Decoder, Window};

use crate::{
    breakage,
    operation::{ConnectionId, Slot},
    send_queue::SendQueue,
    slots::SlotSet,
    wheel::Tick,
};

/// What waits on a connection's account. Seldom there, so that one pointer in the record must do.
#[derive(Debug, Clone, Default)]
struct Backlog {
    /// A request head that is not decided, or what a connection has sent that is to be decoded later.
    held: BytesMut,
    queue: SendQueue,
}

/// Where a connection is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// The slot is nobody's.
    Free,
    /// Its PROXY header is not complete: who its client is, is not known.
    Announced,
    /// Its request head is not complete.
    Handshaking,
    /// Its request head is complete and kept: its token is verified in one of the next turns.
    Waiting,
    /// The handler knows it.
    Open,
    /// Its last bytes are queued or sent; the peer's end is awaited.
    Closing,
    /// The engine was told to close it.
    Terminating,
}

/// What a closing connection does once its last bytes have left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Farewell {
    /// The peer has already said Close: finish.
    Finish,
    /// Wait for the peer's Close, reading frames.
    AwaitClose,
    /// The peer's bytes mean nothing any more: linger.
    Linger,
}

bitflags! {
    /// What is true of a connection at a moment.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub(crate) struct Flags: u8 {
        /// `deadline` means something.
        const DEADLINE = 1;
        /// The wheel has an entry for `look`.
        const IN_WHEEL = 1 << 1;
        /// A ping was sent and no byte was heard since.
        const AWAITING_PONG = 1 << 2;
        /// A `Send` was submitted and not completed.
        const SENDING = 1 << 3;
        /// The socket refused bytes and has not become writable since.
        const UNWRITABLE = 1 << 4;
        /// It is not received from: its handler has paused it, or it has sent too much ahead.
        const PAUSED = 1 << 5;
        /// Nothing more comes of it: its FIN came, or a failure. What it had sent may still be kept.
        const FINISHED = 1 << 6;
        /// Messages were cut from its queue: none that has not begun may follow.
        const TRUNCATED = 1 << 7;
    }
}

/// A connection as reads and refusals see it.
#[derive(Debug, Clone)]
pub(crate) struct Connection {
    pub(crate) generation: u32,
    /// When a byte was last heard.
    pub(crate) heard: Tick,
    /// When what is timed began: the handshake, or the ping that `Flags::AWAITING_PONG` is about. In
    /// microseconds of the worker's time, as far as they fit.
    pub(crate) timed_us: u32,
    /// The end of what the state waits for, if `Flags::DEADLINE`.
    pub(crate) deadline: Tick,
    /// When the wheel will look here next, if `Flags::IN_WHEEL`.
    pub(crate) look: Tick,
    pub(crate) state: State,
    pub(crate) farewell: Farewell,
    pub(crate) flags: Flags,
    /// `Some` exactly when permessage-deflate is agreed on: how far back we may look.
    pub(crate) window: Option<Window>,
    pub(crate) decoder: Decoder,
    backlog: Option<Box<Backlog>>,
}

const _: () = assert!(size_of::<Connection>() <= 40, "there may be a million");

/// What is known of a connection and seldom looked at.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Identity {
    address: Ipv6Addr,
    port: u16,
    pub(crate) accepted: Tick,
    /// Bytes read and thrown away since the connection began to close.
    pub(crate) discarded: u32,
    /// True exactly when it is on its address's account.
    pub(crate) counted: bool,
}

const _: () = assert!(size_of::<Identity>() <= 28, "there may be a million");

/// All connections of a worker.
#[derive(Debug)]
pub(crate) struct Connections {
    records: Vec<Connection>,
    identities: Vec<Identity>,
    /// Open connections that must not be offered anything: something is queued, in flight, or was refused.
    busy: SlotSet,
    /// Connections with a send queue.
    queued: SlotSet,
    /// Open connections that inflate, by [`Window::index`]: apart from the records, which a
    /// fan-out does not touch.
    inflating: [SlotSet; Window::COUNT],
    inflating_len: u32,
    len: u32,
    open: u32,
}

impl Connection {
    fn free() -> Self {
        Self {
            generation: 0,
            heard: Tick(0),
            timed_us: 0,
            deadline: Tick(0),
            look: Tick(0),
            state: State::Free,
            farewell: Farewell::Finish,
            flags: Flags::empty(),
            window: None,
            decoder: Decoder::default(),
            backlog: None,
        }
    }

    /// Whether a completion for this generation is about it.
    fn is(&self, generation: u32) -> bool {
        self.generation == generation || breakage::ignores_generations()
    }

    /// Whether these flags are raised.
    pub(crate) fn has(&self, flags: Flags) -> bool {
        self.flags.contains(flags)
    }

    /// Raises a flag; `true` exactly when it was not raised.
    pub(crate) fn raise(&mut self, flag: Flags) -> bool {
        let raised = self.flags | flag;
        !mem::replace(&mut self.flags, raised).contains(flag)
    }

    /// Lowers a flag; `true` exactly when it was raised.
    pub(crate) fn lower(&mut self, flag: Flags) -> bool {
        let lowered = self.flags - flag;
        mem::replace(&mut self.flags, lowered).contains(flag)
    }

    /// Whether something must leave before an offer could.
    pub(crate) fn is_busy(&self) -> bool {
        self.flags.intersects(Flags::SENDING | Flags::UNWRITABLE) || self.queue().is_some()
    }

    /// What its socket has not taken, if there is anything.
    pub(crate) fn queue(&self) -> Option<&SendQueue> {
        self.backlog.as_ref().map(|backlog| &backlog.queue).filter(|queue| !queue.is_empty())
    }

    /// Changes the queue, making and unmaking it.
    pub(crate) fn with_queue<R>(&mut self, change: impl FnOnce(&mut SendQueue) -> R) -> R {
        let result = change(&mut self.backlog.get_or_insert_default().queue);
        self.drop_empty_backlog();
        result
    }

    /// Bytes kept for later: of a request head that is not decided, or to be decoded later.
    pub(crate) fn held_bytes(&self) -> usize {
        self.backlog.as_ref().map_or(0, |backlog| backlog.held.len())
    }

    /// Keeps bytes for later, behind those that are kept already.
    pub(crate) fn hold(&mut self, bytes: &[u8]) {
        self.backlog.get_or_insert_default().held.extend_from_slice(bytes);
        self.drop_empty_backlog();
    }

    /// Keeps the rest of what was taken: nothing else is kept. Who is paused may stay so for long,
    /// and keeps no more memory than is counted; else all of it is soon decoded.
    pub(crate) fn put_held(&mut self, held: BytesMut) {
        let held = if self.has(Flags::PAUSED) { BytesMut::from(&held[..]) } else { held };
        self.backlog.get_or_insert_default().held = held;
        self.drop_empty_backlog();
    }

    /// Gives up what was kept, if there is anything.
    pub(crate) fn take_held(&mut self) -> Option<BytesMut> {
        let held = mem::take(&mut self.backlog.as_mut()?.held);
        self.drop_empty_backlog();
        (!held.is_empty()).then_some(held)
    }

    fn drop_empty_backlog(&mut self) {
        self.backlog.take_if(|backlog| backlog.held.is_empty() && backlog.queue.is_empty());
    }
}

impl Identity {
    pub(crate) fn new(peer: SocketAddr, accepted: Tick) -> Self {
        let address = match peer.ip() {
            IpAddr::V4(address) => address.to_ipv6_mapped(),
            IpAddr::V6(address) => address,
        };
        Self { address, port: peer.port(), accepted, discarded: 0, counted: false }
    }

    /// Its client is another than the address it was accepted from.
    pub(crate) fn set_peer(&mut self, peer: SocketAddr) {
        let Self { address, port, .. } = Self::new(peer, self.accepted);
        (self.address, self.port) = (address, port);
    }

    pub(crate) fn peer(&self) -> SocketAddr {
        SocketAddr::new(self.address.to_canonical(), self.port)
    }
}

impl Connections {
    pub(crate) fn new(slots_max: usize) -> Self {
        Self {
            records: Vec::with_capacity(slots_max),
            identities: Vec::with_capacity(slots_max),
            busy: SlotSet::new(),
            queued: SlotSet::new(),
            inflating: Default::default(),
            inflating_len: 0,
            len: 0,
            open: 0,
        }
    }

    /// An empty table that has grown as far as this one.
    pub(crate) fn succeed(&self) -> Self {
        let mut table = Self::new(self.records.capacity());
        table.records.resize(self.records.len(), Connection::free());
        table.identities.clone_from(&self.identities);
        table
    }

    /// Every connection, in slot order.
    pub(crate) fn ids(&self) -> impl Iterator<Item = ConnectionId> {
        (0..)
            .zip(&self.records)
            .filter(|(_, record)| record.state != State::Free)
            .map(|(slot, record)| ConnectionId { slot, generation: record.generation })
    }

    /// The only way in: a connection begins in its slot.
    ///
    /// # Panics
    /// The slot is in use: the engine has broken its promise.
    pub(crate) fn insert(
        &mut self,
        connection: ConnectionId,
        identity: Identity,
        now: Tick,
    ) -> &mut Connection {
        let index = connection.slot as usize;
        while self.records.len() <= index {
            self.records.push(Connection::free());
            self.identities.push(identity);
        }
        let record = &mut self.records[index];
        assert_eq!(record.state, State::Free, "slot {} was not closed", connection.slot);
        *record = Connection {
            generation: connection.generation,
            heard: now,
            state: State::Handshaking,
            ..Connection::free()
        };
        self.identities[index] = identity;
        self.len += 1;
        record
    }

    /// The only way out: the kernel holds nothing of the connection any more.
    pub(crate) fn remove(&mut self, connection: ConnectionId) {
        debug_assert!(self.get(connection).is_some(), "closed once");
        self.records[connection.slot as usize] =
            Connection { generation: connection.generation, ..Connection::free() };
        self.busy.remove(connection.slot);
        self.queued.remove(connection.slot);
        self.len -= 1;
    }

    /// The connection, unless it is gone.
    pub(crate) fn get(&self, connection: ConnectionId) -> Option<&Connection> {
        self.records
            .get(connection.slot as usize)
            .filter(|it| it.is(connection.generation) && it.state != State::Free)
    }

    /// The connection, unless it is gone.
    pub(crate) fn get_mut(&mut self, connection: ConnectionId) -> Option<&mut Connection> {
        self.records
            .get_mut(connection.slot as usize)
            .filter(|it| it.is(connection.generation) && it.state != State::Free)
    }

    /// Who is in the slot, unless it is free.
    pub(crate) fn id_at(&self, slot: Slot) -> Option<ConnectionId> {
        let record = self.records.get(slot as usize)?;
        (record.state != State::Free)
            .then_some(ConnectionId { slot, generation: record.generation })
    }

    pub(crate) fn identity(&self, slot: Slot) -> &Identity {
        &self.identities[slot as usize]
    }

    pub(crate) fn identity_mut(&mut self, slot: Slot) -> &mut Identity {
        &mut self.identities[slot as usize]
    }

    /// Slots ever used: what the heartbeat walks.
    pub(crate) fn slots_used(&self) -> usize {
        self.records.len()
    }

    /// The record in a slot that was used before, free or not.
    pub(crate) fn record(&self, slot: usize) -> &Connection {
        &self.records[slot]
    }

    /// The record in a slot that was used before, free or not.
    pub(crate) fn record_mut(&mut self, slot: usize) -> &mut Connection {
        &mut self.records[slot]
    }

    /// Keeps `busy` and `queued` true after a change to what is on its way to the connection.
    pub(crate) fn update_sending(&mut self, slot: Slot) {
        let record = &self.records[slot as usize];
        let is_busy = record.is_busy() && !breakage::offers_to_busy();
        let has_queue = record.queue().is_some();
        if is_busy {
            self.busy.insert(slot);
        } else {
            self.busy.remove(slot);
        }
        if has_queue {
            self.queued.insert(slot);
        } else {
            self.queued.remove(slot);
        }
    }

    /// How much memory is reserved for the table. It is touched only as far as slots are used.
    pub(crate) fn fixed_bytes(&self) -> usize {
        self.records.capacity() * size_of::<Connection>()
            + self.identities.capacity() * size_of::<Identity>()
    }

    /// The connection in this slot has become open.
    pub(crate) fn count_open(&mut self, slot: Slot) {
        self.open += 1;
        if let Some(window) = self.records[slot as usize].window {
            self.inflating[window.index()].insert(slot);
            self.inflating_len += 1;
        }
    }

    /// The connection in this slot is no longer open.
    pub(crate) fn count_no_longer_open(&mut self, slot: Slot) {
        self.open -= 1;
        if let Some(window) = self.records[slot as usize].window {
            self.inflating[window.index()].remove(slot);
            self.inflating_len -= 1;
        }
    }

    /// How many open connections inflate.
    pub(crate) fn inflating_len(&self) -> u32 {
        self.inflating_len
    }

    /// Who inflates, by the windows that there are: usually nobody, or all with one.
    pub(crate) fn inflating(&self) -> impl Iterator<Item = (Window, &SlotSet)> {
        Window::all().zip(&self.inflating).filter(|(_, set)| !set.is_empty())
    }

    /// Connections in any state.
    pub(crate) fn len(&self) -> u32 {
        self.len
    }

    pub(crate) fn open(&self) -> u32 {
        self.open
    }

    pub(crate) fn busy(&self) -> &SlotSet {
        &self.busy
    }

    pub(crate) fn queued(&self) -> &SlotSet {
        &self.queued
    }
}

#[cfg(test)]
mod tests {
    use bytes::Buf;

    use super::*;

    #[test]
    fn an_address_survives_being_stored() {
        for text in ["127.0.0.1:80", "[2001:db8::7]:65535", "[::1]:1"] {
            let peer: SocketAddr = text.parse().unwrap();
            assert_eq!(Identity::new(peer, Tick(0)).peer(), peer);
        }
    }

    #[test]
    fn who_is_paused_keeps_no_more_memory_than_what_is_left_takes() {
        let mut record = Connection { flags: Flags::PAUSED, ..Connection::free() };
        let mut held = BytesMut::zeroed(1000);
        held.advance(990);
        record.put_held(held);
        let mut held = record.take_held().unwrap();
        assert_eq!(held.len(), 10);
        assert!(!held.try_reclaim(500), "the room of what has been decoded is given back");
    }

    #[test]
    fn a_slot_that_was_used_again_does_not_answer_to_its_old_name() {
        let mut connections = Connections::new(4);
        let identity = Identity::new("127.0.0.1:80".parse().unwrap(), Tick(0));
        let old = ConnectionId { slot: 2, generation: 0 };
        let new = ConnectionId { slot: 2, generation: 1 };
        connections.insert(old, identity, Tick(0));
        connections.remove(old);
        connections.insert(new, identity, Tick(0));
        assert!(connections.get(old).is_none());
        assert_eq!(connections.id_at(2), Some(new));
        assert_eq!(connections.id_at(1), None);
        assert_eq!(connections.len(), 1);
    }
}
