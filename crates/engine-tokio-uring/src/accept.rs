//! Accepting. Each listener has a few accepts waiting in the ring, each with its own free slot: never
//! more than slots are free, so that no accepted connection is lost for want of one; who finds none
//! waits in the listener's queue. Where the process or the kernel has no descriptor left accepting
//! rests for a moment.
//!
//! ```text
//! Idle ─▶ Accepting ─▶ Settling ─▶ Emptying ─▶ Closing ─▶ Closed
//!             │                       ▲
//!             └───────────────────────┘
//! ```
//!
//! A listener that only stopped accepting would keep its share of new clients, who would hang: it is
//! emptied and closed. The kernel resets who is in the middle of the TCP handshake then, unless it
//! moves them to another process (`net.ipv4.tcp_migrate_req`): where it does not, a listener with
//! newcomers settles before, accepting on while SYNs are dropped. Emptying: accepts go on until the
//! queue is empty. Closing: the listener is shut down, which ends the accepts that wait, and is
//! closed when all have ended.

use std::{
    io,
    net::{Shutdown, SocketAddr, TcpListener},
    rc::Rc,
    time::Duration,
};

use nix::errno::Errno;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use socket2::SockRef;
use sockets::{AcceptFailure, Pace, accept_failure};
use worker::{Completion, ListenerId, Slot, Time};

use crate::{
    engine::TokioUringEngine,
    slots::Phase,
    socket::Socket,
    tasks::{Listening, Start},
};

/// Where a listener is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Open, and nobody has asked to accept.
    Idle,
    /// Accepts wait as long as slots are free.
    Accepting,
    /// Accepts go on until then, and SYNs are dropped.
    Settling { until: Time },
    /// Takes what is in the queue.
    Emptying,
    /// Shut down; its accepts end.
    Closing,
    /// Gone.
    Closed,
}

#[derive(Debug)]
struct Listener {
    stage: Stage,
    /// Accepts that wait, or are about to be started.
    armed: u32,
    /// There exactly until it is closed.
    sockets: Option<Sockets>,
    /// When somebody was accepted last.
    accepted_at: Option<Time>,
}

/// A listener twice: tokio-uring lends its own by number only.
#[derive(Debug)]
struct Sockets {
    listening: Rc<Listening>,
    asked: TcpListener,
}

impl Listener {
    fn new(asked: TcpListener) -> io::Result<Self> {
        // An accept through the ring must be able to wait.
        asked.set_nonblocking(false)?;
        let listening = Rc::new(Listening::new(asked.try_clone()?));
        let sockets = Some(Sockets { listening, asked });
        Ok(Self { stage: Stage::Idle, armed: 0, sockets, accepted_at: None })
    }

    fn is_accepting(&self) -> bool {
        matches!(self.stage, Stage::Accepting | Stage::Settling { .. } | Stage::Emptying)
    }

    /// Whether somebody is in its queue.
    fn has_waiting(&self) -> bool {
        let Some(sockets) = &self.sockets else { return false };
        let mut asked = [PollFd::new(&sockets.asked, PollFlags::IN)];
        poll(&mut asked, Some(&Timespec::default())).is_ok_and(|count| count > 0)
    }

    /// Ends the accepts that wait. Who has come since the queue was empty is reset.
    fn shut_down(&mut self) {
        self.stage = Stage::Closing;
        if let Some(sockets) = &self.sockets {
            // A listener that cannot be shut down is none, and has no accepts that wait.
            let _ = SockRef::from(&sockets.asked).shutdown(Shutdown::Read);
        }
    }
}

/// The listeners.
#[derive(Debug)]
pub(crate) struct Acceptor {
    listeners: Vec<Listener>,
    /// Accepts that wait on one listener.
    armed_max: u32,
    pace: Pace,
    /// Listeners whose end the worker has not been told.
    stopped: Vec<ListenerId>,
}

impl Acceptor {
    pub(crate) fn new(
        listeners: Vec<TcpListener>,
        armed_max: u32,
        settle: Duration,
    ) -> io::Result<Self> {
        let listeners = listeners.into_iter().map(Listener::new).collect::<io::Result<_>>()?;
        Ok(Self { listeners, armed_max, pace: Pace::new(settle), stopped: Vec::new() })
    }

    pub(crate) fn accept(&mut self, listener: ListenerId) {
        if let Some(listener) = self.listeners.get_mut(usize::from(listener.0))
            && listener.stage == Stage::Idle
        {
            listener.stage = Stage::Accepting;
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

    /// True exactly when the worker has not been told of a listener's end.
    pub(crate) fn has_news(&self) -> bool {
        !self.stopped.is_empty()
    }

    /// The accepting listener with the fewest accepts, if it may have one more.
    fn neediest(&self) -> Option<usize> {
        let accepting = self.listeners.iter().enumerate().filter(|(_, it)| it.is_accepting());
        let (index, listener) = accepting.min_by_key(|(_, listener)| listener.armed)?;
        (listener.armed < self.armed_max).then_some(index)
    }

    /// Goes on with listeners that have settled, or have been emptied.
    fn go_on_stopping(&mut self, now: Time) {
        for (index, listener) in (0..).zip(&mut self.listeners) {
            if matches!(listener.stage, Stage::Settling { until } if now >= until) {
                listener.stage = Stage::Emptying;
            }
            if listener.stage == Stage::Emptying && !listener.has_waiting() {
                listener.shut_down();
            }
            if listener.stage == Stage::Closing && listener.armed == 0 {
                listener.stage = Stage::Closed;
                listener.sockets = None;
                self.stopped.push(ListenerId(index));
            }
        }
    }
}

impl TokioUringEngine {
    pub(crate) fn stop_accepting(&mut self, listener: ListenerId) {
        let now = sockets::now();
        let Acceptor { listeners, pace, .. } = &mut self.acceptor;
        let Some(listener) = listeners.get_mut(usize::from(listener.0)) else { return };
        if !matches!(listener.stage, Stage::Idle | Stage::Accepting) {
            return;
        }
        let sockets = listener.sockets.as_ref();
        listener.stage =
            match sockets.and_then(|it| pace.settle(now, listener.accepted_at, &it.asked)) {
                Some(until) => Stage::Settling { until },
                None => Stage::Emptying,
            };
    }

    /// Starts accepts as slots allow, and goes on with listeners that are to be closed.
    pub(crate) fn start_accepts(&mut self, now: Time) {
        self.acceptor.go_on_stopping(now);
        if !self.acceptor.pace.is_resting(now) {
            while self.slots.free_count() > 0 {
                let Some(index) = self.acceptor.neediest() else { break };
                self.start_accept(index);
            }
            self.look(now);
        }
        self.note_pause();
    }

    /// Starts one accept more than usual, from time to time, where somebody is in the queue: it finds
    /// them, and each accept that succeeds is followed by another.
    fn look(&mut self, now: Time) {
        if !self.acceptor.pace.looks(now) {
            return;
        }
        for index in 0..self.acceptor.listeners.len() {
            let listener = &self.acceptor.listeners[index];
            if listener.is_accepting()
                && listener.armed == self.acceptor.armed_max
                && listener.has_waiting()
            {
                self.start_accept(index);
            }
        }
    }

    /// Keeps a free slot, if there is one, for whom an accept will bring.
    fn start_accept(&mut self, index: usize) {
        let listener = &mut self.acceptor.listeners[index];
        let Some(sockets) = &listener.sockets else { return };
        let Some(slot) = self.slots.take_free() else { return };
        listener.armed += 1;
        let listener = Rc::clone(&sockets.listening);
        self.starts.push(Start::Accept { index, slot, listener });
    }

    /// Counts the moments at which newcomers begin to wait in the queues for want of a slot.
    fn note_pause(&mut self) {
        let listeners = &self.acceptor.listeners;
        let paused = self.slots.free_count() == 0
            && listeners.iter().all(|listener| listener.armed == 0)
            && listeners.iter().any(Listener::is_accepting);
        self.counts.accepts_paused += u64::from(self.acceptor.pace.pauses(paused));
    }

    /// An accept has ended.
    pub(crate) fn on_accept(
        &mut self,
        now: Time,
        index: usize,
        slot: Slot,
        outcome: io::Result<(Socket, SocketAddr)>,
        on_completion: &mut impl FnMut(Time, Completion<'_>),
    ) {
        let listener = &mut self.acceptor.listeners[index];
        listener.armed -= 1;
        match outcome {
            Ok((socket, peer)) => {
                listener.accepted_at = Some(now);
                let Some(state) = self.slots.slot_mut(slot) else { return };
                state.socket = Some(Rc::new(socket));
                state.phase = Phase::Open;
                let connection = self.slots.connection(slot);
                let listener = ListenerId(u16::try_from(index).unwrap_or(u16::MAX));
                on_completion(now, Completion::Accepted { connection, listener, peer });
            }
            Err(error) => {
                self.slots.put_back(slot);
                self.on_accept_failed(now, index, &error);
            }
        }
    }

    fn on_accept_failed(&mut self, now: Time, index: usize, error: &io::Error) {
        let stage = self.acceptor.listeners[index].stage;
        let errno = error.raw_os_error();
        match errno.map(accept_failure) {
            Some(AcceptFailure::Passing) => {}
            // How accepts end that have waited at a listener that was shut down.
            _ if errno == Some(Errno::EINVAL as i32) && stage == Stage::Closing => {}
            // Without an errno its peers have no IP address.
            Some(AcceptFailure::Wrong) | None => {
                let sentence = format!("listener {index} is no listening TCP socket: {error}");
                self.fail(io::Error::other(sentence));
            }
            // The connection is lost, and the next ones would be.
            Some(AcceptFailure::Exhausted) => {
                self.counts.accepts_failed += 1;
                self.acceptor.pace.rest(now);
            }
        }
    }

    /// Tells the worker which listeners are closed.
    pub(crate) fn deliver_stopped(
        &mut self,
        now: Time,
        on_completion: &mut impl FnMut(Time, Completion<'_>),
    ) {
        for listener in std::mem::take(&mut self.acceptor.stopped) {
            on_completion(now, Completion::StoppedAccepting { listener });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;

    use sockets::{peer, rig::Rigged};

    use crate::tests::options;

    use super::*;

    #[test]
    fn a_queue_is_looked_into_every_second_though_nobody_was_called() {
        let (listener, address) = peer::listener().unwrap();
        let mut engine = TokioUringEngine::rigged(&options(), vec![listener]);
        engine.acceptor.accept(ListenerId(0));
        // As where none of the accepts that wait has been called.
        engine.acceptor.listeners[0].armed = engine.acceptor.armed_max;
        let second = |second: u64| Time(second * 1_000_000_000);
        engine.start_accepts(second(1));
        assert_eq!(engine.starts.len(), 0, "nobody has come");
        let _client = TcpStream::connect(address).unwrap();
        engine.start_accepts(Time(1_999_999_999));
        assert_eq!(engine.starts.len(), 0);
        engine.start_accepts(second(2));
        assert_eq!(engine.starts.len(), 1);
    }
}
