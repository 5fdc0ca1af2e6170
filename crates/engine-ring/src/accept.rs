//! Accepting. Each listener has a pool of one-shot accepts, each with its own cell for the peer's
//! address and its own slot: never more than slots are free, and only free ones, since the kernel
//! would replace an occupied one without a word. So no accepted connection is lost for want of a
//! slot; who finds none waits in the listener's queue.
//!
//! ```text
//! Idle ─▶ Accepting ─▶ Settling ─▶ Stopping ─▶ Emptying ─▶ Closing ─▶ Closed
//!             │                        ▲
//!             └────────────────────────┘
//! ```
//!
//! Settling: accepts go on and SYNs are dropped; left out where nobody is on the way, or where the
//! kernel moves who is. Stopping: what is armed is cancelled. Emptying: each accept is cancelled at
//! once, until none takes anything.
//!
//! A listener that only stopped accepting would keep its share of new clients, who would hang: it is
//! emptied and closed. The armed accepts hold it open, so they are cancelled first. The kernel resets
//! who is in the middle of the TCP handshake when it is closed, unless it moves them to another
//! process (`net.ipv4.tcp_migrate_req`): where it does not, SYNs are dropped for a moment before.
//! Their clients repeat them a second later, when another process has the address to itself.

use std::{io, net::SocketAddr, os::fd::OwnedFd, time::Duration};

use sockets::{AcceptFailure, Pace, accept_failure};
use worker::{Completion, Engine, ListenerId, Slot, Time};

use crate::{
    buffers::Addresses,
    descriptors::{Descriptors, File, Places},
    engine::RingEngine,
    queue::Entry,
    slots::Phase,
    tag::{Kind, Tag},
};

/// Where a listener is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Open, and nobody has asked to accept.
    Idle,
    /// Accepts are armed as long as slots are free.
    Accepting,
    /// Accepts go on until then, and SYNs are dropped.
    Settling { until: Time },
    /// Waits for the end of the accepts that were armed.
    Stopping,
    /// Takes what is in the queue. True exactly when the accepts that are armed now, or the last
    /// ones, took something or failed, so that there may be more.
    Emptying { more: bool },
    /// The CLOSE is submitted.
    Closing,
    /// Gone.
    Closed,
}

#[derive(Debug)]
struct Listener {
    stage: Stage,
    armed: u32,
    /// Cells of the address table that no accept uses.
    free_cells: Vec<usize>,
    /// When somebody was accepted last.
    accepted_at: Option<Time>,
    /// As entries name it.
    file: File,
    /// The listener, or if that stands in the table another name of it, for what is asked of it by
    /// descriptor.
    socket: Option<OwnedFd>,
}

/// The listeners and their accepts.
#[derive(Debug)]
pub(crate) struct Acceptor {
    listeners: Vec<Listener>,
    /// By cell: the slot that the accept armed with it fills.
    armed: Vec<Option<Slot>>,
    addresses: Addresses,
    armed_max: u32,
    pace: Pace,
}

impl Acceptor {
    /// Of listeners that stand in the table already, if there is one, with at most so many accepts
    /// armed on each.
    pub(crate) fn new(
        sockets: Vec<OwnedFd>,
        places: Places,
        armed_max: u32,
        settle: Duration,
    ) -> Self {
        // Where it is of no use it is only one descriptor more.
        let keeps_sockets = places.descriptors == Descriptors::Ordinary || !settle.is_zero();
        let cells = armed_max as usize;
        let count = sockets.len();
        let listener = |(index, socket): (usize, OwnedFd)| Listener {
            stage: Stage::Idle,
            armed: 0,
            free_cells: (index * cells..(index + 1) * cells).rev().collect(),
            accepted_at: None,
            file: places.file(places.listener(index), &socket),
            socket: Some(socket).filter(|_| keeps_sockets),
        };
        Self {
            listeners: sockets.into_iter().enumerate().map(listener).collect(),
            armed: vec![None; count * cells],
            addresses: Addresses::new(count * cells),
            armed_max,
            pace: Pace::new(settle),
        }
    }

    /// Bytes of all tables.
    pub(crate) fn bytes(&self) -> usize {
        self.addresses.bytes() + self.armed.len() * size_of::<Option<Slot>>()
    }

    /// When a rest ends, or a listener has settled.
    pub(crate) fn due(&self, now: Time) -> Time {
        let settling = self.listeners.iter().filter_map(|listener| match listener.stage {
            Stage::Settling { until } => Some(until),
            _ => None,
        });
        self.pace.due(now, settling)
    }

    /// The accepting listener with the fewest armed accepts, if it may have one more.
    fn neediest(&self) -> Option<usize> {
        let accepting = self.listeners.iter().filter(|listener| listener.is_accepting());
        let fewest = accepting.map(|listener| listener.armed).min()?;
        if fewest >= self.armed_max {
            return None;
        }
        self.listeners
            .iter()
            .position(|listener| listener.is_accepting() && listener.armed == fewest)
    }
}

impl Listener {
    fn is_accepting(&self) -> bool {
        matches!(self.stage, Stage::Accepting | Stage::Settling { .. })
    }
}

impl RingEngine {
    pub(crate) fn accept(&mut self, listener: ListenerId) {
        if let Some(listener) = self.acceptor.listeners.get_mut(usize::from(listener.0))
            && listener.stage == Stage::Idle
        {
            listener.stage = Stage::Accepting;
        }
    }

    pub(crate) fn stop_accepting(&mut self, listener: ListenerId) {
        let index = usize::from(listener.0);
        let now = self.now();
        let Acceptor { listeners, pace, .. } = &mut self.acceptor;
        let Some(listener) = listeners.get_mut(index) else { return };
        if !matches!(listener.stage, Stage::Idle | Stage::Accepting) {
            return;
        }
        let socket = listener.socket.as_ref();
        match socket.and_then(|socket| pace.settle(now, listener.accepted_at, socket)) {
            Some(until) => listener.stage = Stage::Settling { until },
            None => self.disarm(index),
        }
    }

    /// Begins to close a listener: ends the accepts that are armed.
    fn disarm(&mut self, index: usize) {
        self.acceptor.listeners[index].stage = Stage::Stopping;
        let cells = self.acceptor.armed_max as usize;
        for cell in index * cells..(index + 1) * cells {
            self.cancel_accept(cell);
        }
        self.go_on_stopping(index);
    }

    /// Arms accepts as slots and cells allow, and goes on emptying listeners that are to be closed.
    pub(crate) fn arm_accepts(&mut self, now: Time) {
        self.end_settling(now);
        if self.acceptor.pace.is_resting(now) {
            return;
        }
        self.look(now);
        while self.slots.free_count() > 0 {
            let Some(index) = self.acceptor.neediest() else { break };
            if self.arm_accept(index).is_none() {
                break;
            }
        }
        for index in 0..self.acceptor.listeners.len() {
            self.empty(index);
        }
        self.note_pause();
    }

    /// Goes on with listeners that have settled.
    fn end_settling(&mut self, now: Time) {
        for index in 0..self.acceptor.listeners.len() {
            match self.acceptor.listeners[index].stage {
                Stage::Settling { until } if now >= until => self.disarm(index),
                _ => {}
            }
        }
    }

    /// Ends one armed accept of each listener from time to time: the one that takes its place finds
    /// who waits, and each accept that succeeds is followed by another.
    fn look(&mut self, now: Time) {
        if !self.acceptor.pace.looks(now) {
            return;
        }
        let cells = self.acceptor.armed_max as usize;
        for index in 0..self.acceptor.listeners.len() {
            let mut armed = index * cells..(index + 1) * cells;
            if self.acceptor.listeners[index].is_accepting()
                && let Some(cell) = armed.find(|cell| self.acceptor.armed[*cell].is_some())
            {
                self.cancel_accept(cell);
            }
        }
    }

    /// Counts the moments at which newcomers begin to wait in the queues for want of a place.
    fn note_pause(&mut self) {
        let waits = |listener: &Listener| {
            listener.is_accepting() || matches!(listener.stage, Stage::Emptying { more: true })
        };
        let listeners = &self.acceptor.listeners;
        let paused = self.slots.free_count() == 0
            && listeners.iter().all(|listener| listener.armed == 0)
            && listeners.iter().any(waits);
        self.counts.accepts_paused += u64::from(self.acceptor.pace.pauses(paused));
    }

    fn arm_accept(&mut self, index: usize) -> Option<usize> {
        let listener = &mut self.acceptor.listeners[index];
        let cell = listener.free_cells.pop()?;
        let Some(slot) = self.slots.take_free() else {
            listener.free_cells.push(cell);
            return None;
        };
        listener.armed += 1;
        self.acceptor.armed[cell] = Some(slot);
        let file = listener.file;
        let place = (self.places.descriptors == Descriptors::Direct).then_some(slot);
        let entry = self.acceptor.addresses.accept(file, place, cell, accept_tag(cell, slot));
        self.push(&entry);
        Some(cell)
    }

    fn cancel_accept(&mut self, cell: usize) {
        if let Some(slot) = self.acceptor.armed[cell] {
            self.push(&Entry::cancel(accept_tag(cell, slot)));
        }
    }

    /// Accepts what is in the queue of a listener that is to be closed. Each accept is cancelled
    /// at once: one that had to wait has found the queue empty.
    fn empty(&mut self, index: usize) {
        let listener = &mut self.acceptor.listeners[index];
        if !matches!(listener.stage, Stage::Emptying { more: true }) || listener.armed > 0 {
            return;
        }
        let first = self.arm_accept(index);
        if first.is_none() {
            // No slot is free: who waits in the queue waits for one.
            return;
        }
        self.acceptor.listeners[index].stage = Stage::Emptying { more: false };
        let rest = std::iter::from_fn(|| self.arm_accept(index));
        let cells: Vec<usize> = first.into_iter().chain(rest).collect();
        for cell in cells {
            self.cancel_accept(cell);
        }
    }

    /// An accept has ended.
    pub(crate) fn on_accept(
        &mut self,
        now: Time,
        tag: Tag,
        outcome: Result<Option<OwnedFd>, i32>,
        on_completion: &mut impl FnMut(Time, Completion<'_>),
    ) {
        let cell = tag.mark as usize;
        let armed = self.acceptor.armed.get_mut(cell).filter(|armed| **armed == Some(tag.slot));
        let Some(armed) = armed else {
            self.counts.completions_stale += 1;
            return;
        };
        *armed = None;
        let index = cell / self.acceptor.armed_max as usize;
        let peer = self.acceptor.addresses.peer(cell);
        let listener = &mut self.acceptor.listeners[index];
        listener.armed -= 1;
        listener.free_cells.push(cell);
        let empty = matches!(outcome, Err(libc::ECANCELED | libc::EAGAIN));
        if let Stage::Emptying { more } = &mut listener.stage {
            *more |= !empty;
        }
        match outcome {
            Ok(socket) => {
                if let Some(state) = self.slots.slot_mut(tag.slot) {
                    state.socket = socket;
                }
                self.on_accepted(now, index, tag.slot, peer, on_completion);
            }
            Err(errno) => {
                self.slots.put_back(tag.slot);
                self.on_accept_failed(now, index, errno);
            }
        }
        self.go_on_stopping(index);
    }

    fn on_accepted(
        &mut self,
        now: Time,
        index: usize,
        slot: Slot,
        peer: Option<SocketAddr>,
        on_completion: &mut impl FnMut(Time, Completion<'_>),
    ) {
        let Some(peer) = peer else {
            self.fail_listener(index, "its peers have neither an IPv4 nor an IPv6 address");
            return;
        };
        let Some(state) = self.slots.slot_mut(slot) else { return };
        state.phase = Phase::Open;
        self.acceptor.listeners[index].accepted_at = Some(now);
        let connection = self.slots.connection(slot);
        let listener = ListenerId(u16::try_from(index).unwrap_or(u16::MAX));
        on_completion(now, Completion::Accepted { connection, listener, peer });
    }

    fn on_accept_failed(&mut self, now: Time, index: usize, errno: i32) {
        match accept_failure(errno) {
            AcceptFailure::Passing => {}
            AcceptFailure::Wrong => {
                self.fail_listener(index, &io::Error::from_raw_os_error(errno).to_string());
            }
            // The connection is lost, and the next ones would be.
            AcceptFailure::Exhausted => {
                self.counts.accepts_failed += 1;
                self.acceptor.pace.rest(now);
            }
        }
    }

    /// Somebody has given the engine a wrong socket.
    fn fail_listener(&mut self, index: usize, reason: &str) {
        let sentence = format!("listener {index} is no listening TCP socket: {reason}");
        self.fail(io::Error::other(sentence));
    }

    /// Takes a listener that is to be closed one stage further, once none of its accepts is armed.
    fn go_on_stopping(&mut self, index: usize) {
        let listener = &mut self.acceptor.listeners[index];
        if listener.armed > 0 {
            return;
        }
        match listener.stage {
            // `arm_accepts` does the emptying.
            Stage::Stopping => listener.stage = Stage::Emptying { more: true },
            Stage::Emptying { more: false } => {
                listener.stage = Stage::Closing;
                let tag = Tag::of_engine(Kind::ListenerClose, u32::try_from(index).unwrap_or(0));
                // The table's is the last one, so that the kernel closes it by the CLOSE.
                let socket = listener.socket.take();
                let entry = match (self.places.descriptors, socket) {
                    (Descriptors::Ordinary, Some(socket)) => Entry::close_file(socket, tag),
                    _ => Entry::close_place(self.places.listener(index), tag),
                };
                self.push(&entry);
            }
            _ => {}
        }
    }

    /// The listener is closed.
    pub(crate) fn on_listener_closed(
        &mut self,
        now: Time,
        tag: Tag,
        on_completion: &mut impl FnMut(Time, Completion<'_>),
    ) {
        let Some(listener) = self.acceptor.listeners.get_mut(tag.slot as usize) else { return };
        listener.stage = Stage::Closed;
        let listener = ListenerId(u16::try_from(tag.slot).unwrap_or(u16::MAX));
        on_completion(now, Completion::StoppedAccepting { listener });
    }
}

/// The tag of an accept: its cell in place of a generation.
fn accept_tag(cell: usize, slot: Slot) -> Tag {
    Tag { kind: Kind::Accept, mark: u32::try_from(cell).unwrap_or(0), slot }
}
