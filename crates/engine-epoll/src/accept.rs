//! Accepting. epoll tells of a listener once, when somebody has come; it is then accepted from, so
//! many a turn, until its queue is empty. Who finds no free slot waits in the queue. Where the
//! process or the kernel has no descriptor left accepting rests for a moment.
//!
//! ```text
//! Idle ─▶ Accepting ─▶ Settling ─▶ Emptying ─▶ Closed
//!             │                       ▲
//!             └───────────────────────┘
//! ```
//!
//! A listener that only stopped accepting would keep its share of new clients, who would hang: it is
//! emptied and closed. The kernel resets who is in the middle of the TCP handshake then, unless it
//! moves them to another process (`net.ipv4.tcp_migrate_req`): where it does not, a listener with
//! newcomers settles before, accepting on while SYNs are dropped.

use std::{io, net::SocketAddr, os::fd::OwnedFd, time::Duration};

use rustix::{
    event::epoll,
    io::Errno,
    net::{SocketFlags, acceptfrom_with},
};
use sockets::{AcceptFailure, Pace, accept_failure};
use worker::{Completion, ListenerId, Time};

use crate::{
    engine::EpollEngine,
    receive::WATCHED,
    slots::{Phase, Tag},
};

/// Where a listener is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Open, and nobody has asked to accept.
    Idle,
    /// Accepts as long as slots are free.
    Accepting,
    /// Accepts on until then, and SYNs are dropped.
    Settling { until: Time },
    /// Takes what is in the queue.
    Emptying,
    /// Gone.
    Closed,
}

#[derive(Debug)]
struct Listener {
    stage: Stage,
    /// There exactly until it is closed.
    socket: Option<OwnedFd>,
    /// True exactly when an edge, or a look, has come that no accept has found the end of.
    has_waiting: bool,
    /// When somebody was accepted last.
    accepted_at: Option<Time>,
}

impl Listener {
    fn is_accepting(&self) -> bool {
        matches!(self.stage, Stage::Accepting | Stage::Settling { .. } | Stage::Emptying)
    }
}

/// The listeners.
#[derive(Debug)]
pub(crate) struct Acceptor {
    listeners: Vec<Listener>,
    /// Of one listener in one turn.
    accepts_max: u32,
    pace: Pace,
    /// Which listener is the next to be the first.
    first: usize,
}

impl Acceptor {
    pub(crate) fn new(sockets: Vec<OwnedFd>, accepts_max: u32, settle: Duration) -> Self {
        let listener = |socket| Listener {
            stage: Stage::Idle,
            socket: Some(socket),
            has_waiting: false,
            accepted_at: None,
        };
        Self {
            listeners: sockets.into_iter().map(listener).collect(),
            accepts_max,
            pace: Pace::new(settle),
            first: 0,
        }
    }

    pub(crate) fn accept(&mut self, listener: ListenerId) {
        if let Some(listener) = self.listeners.get_mut(usize::from(listener.0))
            && listener.stage == Stage::Idle
        {
            listener.stage = Stage::Accepting;
        }
    }

    /// Somebody has come to a listener.
    pub(crate) fn on_event(&mut self, index: usize) {
        if let Some(listener) = self.listeners.get_mut(index) {
            listener.has_waiting = true;
        }
    }

    /// Looks into the queues from time to time, and goes on with listeners that have settled.
    pub(crate) fn look(&mut self, now: Time) {
        let looks = self.pace.looks(now);
        for listener in &mut self.listeners {
            match listener.stage {
                Stage::Settling { until } if now >= until => listener.empty(),
                _ => listener.has_waiting |= looks && listener.is_accepting(),
            }
        }
    }

    /// When a rest ends, or a listener has settled.
    pub(crate) fn due(&self, now: Time) -> Time {
        let settling = self.listeners.iter().filter_map(|listener| match listener.stage {
            Stage::Settling { until } => Some(until),
            _ => None,
        });
        self.pace.due(now, settling)
    }

    /// True exactly when there is somebody to accept, or a queue to find empty.
    pub(crate) fn has_work(&self, now: Time, free_count: u32) -> bool {
        free_count > 0
            && !self.pace.is_resting(now)
            && self.listeners.iter().any(|it| it.has_waiting && it.is_accepting())
    }
}

impl Listener {
    /// Goes over to taking what is in the queue, which may be nothing.
    fn empty(&mut self) {
        self.stage = Stage::Emptying;
        self.has_waiting = true;
    }
}

impl EpollEngine {
    pub(crate) fn stop_accepting(&mut self, listener: ListenerId) {
        let now = sockets::now();
        let Acceptor { listeners, pace, .. } = &mut self.acceptor;
        let Some(listener) = listeners.get_mut(usize::from(listener.0)) else { return };
        if !matches!(listener.stage, Stage::Idle | Stage::Accepting) {
            return;
        }
        let socket = listener.socket.as_ref();
        match socket.and_then(|socket| pace.settle(now, listener.accepted_at, socket)) {
            Some(until) => listener.stage = Stage::Settling { until },
            None => listener.empty(),
        }
    }

    /// Accepts who waits, as far as slots and a turn go. Each turn begins with another listener, so
    /// that they share the slots that become free.
    pub(crate) fn accept_waiting(
        &mut self,
        now: Time,
        on_completion: &mut impl FnMut(Time, Completion<'_>),
    ) {
        let count = self.acceptor.listeners.len();
        if self.acceptor.has_work(now, self.slots.free_count()) {
            self.acceptor.first = (self.acceptor.first + 1) % count;
            for offset in 0..count {
                let index = (self.acceptor.first + offset) % count;
                self.accept_from(now, index, on_completion);
            }
        }
        self.note_pause();
    }

    fn accept_from(
        &mut self,
        now: Time,
        index: usize,
        on_completion: &mut impl FnMut(Time, Completion<'_>),
    ) {
        for _ in 0..self.acceptor.accepts_max {
            let listener = &self.acceptor.listeners[index];
            let waits = listener.has_waiting && listener.is_accepting();
            let Some(socket) = listener.socket.as_ref().filter(|_| waits) else { return };
            if self.slots.free_count() == 0 || self.acceptor.pace.is_resting(now) {
                return;
            }
            self.counts.enters += 1;
            match acceptfrom_with(socket, SocketFlags::CLOEXEC) {
                Ok((socket, peer)) => {
                    let peer = peer.and_then(|peer| SocketAddr::try_from(peer).ok());
                    self.on_accepted(now, index, socket, peer, on_completion);
                }
                Err(errno) => self.on_accept_failed(now, index, errno, on_completion),
            }
        }
    }

    fn on_accepted(
        &mut self,
        now: Time,
        index: usize,
        socket: OwnedFd,
        peer: Option<SocketAddr>,
        on_completion: &mut impl FnMut(Time, Completion<'_>),
    ) {
        let Some(peer) = peer else {
            self.fail_listener(index, "its peers have neither an IPv4 nor an IPv6 address");
            return;
        };
        // An IPv6 listener that takes IPv4 too says ::ffff:a.b.c.d.
        let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
        self.acceptor.listeners[index].accepted_at = Some(now);
        let Some(slot) = self.slots.take_free() else { return };
        let connection = self.slots.connection(slot);
        self.counts.enters += 1;
        let tag = Tag::from(connection).pack();
        // ENOMEM, or ENOSPC: fs.epoll.max_user_watches is reached. The connection is lost.
        if epoll::add(&self.epoll, &socket, tag, WATCHED).is_err() {
            self.slots.put_back(slot);
            return self.rest(now);
        }
        let Some(state) = self.slots.slot_mut(slot) else { return };
        state.socket = Some(socket);
        state.phase = Phase::Open;
        let listener = ListenerId(u16::try_from(index).unwrap_or(u16::MAX));
        on_completion(now, Completion::Accepted { connection, listener, peer });
    }

    pub(crate) fn on_accept_failed(
        &mut self,
        now: Time,
        index: usize,
        errno: Errno,
        on_completion: &mut impl FnMut(Time, Completion<'_>),
    ) {
        match accept_failure(errno.raw_os_error()) {
            AcceptFailure::Passing if errno == Errno::AGAIN => {
                self.on_empty(now, index, on_completion);
            }
            AcceptFailure::Passing => {}
            AcceptFailure::Wrong => {
                self.fail_listener(index, &io::Error::from(errno).to_string());
            }
            // The connection is there to be accepted as soon as there is something to do it with.
            AcceptFailure::Exhausted => self.rest(now),
        }
    }

    /// The kernel had no descriptor or memory for a connection, and would not have any at once.
    fn rest(&mut self, now: Time) {
        self.counts.accepts_failed += 1;
        self.acceptor.pace.rest(now);
    }

    /// Nobody is in the queue.
    fn on_empty(
        &mut self,
        now: Time,
        index: usize,
        on_completion: &mut impl FnMut(Time, Completion<'_>),
    ) {
        let listener = &mut self.acceptor.listeners[index];
        listener.has_waiting = false;
        if listener.stage == Stage::Emptying {
            listener.stage = Stage::Closed;
            listener.socket = None;
            self.counts.enters += 1;
            let listener = ListenerId(u16::try_from(index).unwrap_or(u16::MAX));
            on_completion(now, Completion::StoppedAccepting { listener });
        }
    }

    /// Somebody has given the engine a wrong socket.
    fn fail_listener(&mut self, index: usize, reason: &str) {
        let sentence = format!("listener {index} is no listening TCP socket: {reason}");
        self.fail(io::Error::other(sentence));
    }

    /// Counts the moments at which newcomers begin to wait in the queues for want of a slot.
    fn note_pause(&mut self) {
        let waits = |listener: &Listener| listener.has_waiting && listener.is_accepting();
        let paused = self.slots.free_count() == 0 && self.acceptor.listeners.iter().any(waits);
        self.counts.accepts_paused += u64::from(self.acceptor.pace.pauses(paused));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_queue_is_looked_into_every_second_though_nobody_was_called() {
        let socket = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let mut acceptor = Acceptor::new(vec![socket.into()], 1, Duration::ZERO);
        let second = |second: u64| Time(second * 1_000_000_000);
        acceptor.look(second(1));
        assert!(!acceptor.has_work(second(1), 1), "nobody has asked to accept");
        acceptor.accept(ListenerId(0));
        acceptor.look(Time(1_999_999_999));
        assert!(!acceptor.has_work(second(2), 1));
        acceptor.look(second(2));
        assert!(acceptor.has_work(second(2), 1));
        assert!(!acceptor.has_work(second(2), 0), "there is no slot");
    }
}
