//! The engine boundary on the virtual network. What is submitted is done at the next wait, in
//! order, as a ring does with its entries; a wait tells first what became of the sends, then the
//! rest in any order. The engine also watches its worker: what the boundary forbids is kept as a
//! breach of the contract.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use mesh::Member;
use worker::{
    Closing, Completion, ConnectionId, Engine, EngineCounts, ListenerId, OFFER_TARGETS_MAX,
    Operation, Slot, Time, Waker,
};

use crate::{
    network::{Network, Side, State},
    options::{Clock, EngineOptions},
    outcome::Outcome,
    table::{Connection, Phase, Sending, Table},
};

/// What a wait costs where it moves the clock by itself: time goes on, though nothing is awaited.
const ENTER: Duration = Duration::from_micros(1);

/// How long accepting rests after a connection was lost.
const ACCEPT_REST: Duration = Duration::from_millis(100);

/// How long a connection waits for a buffer to receive into.
const RECEIVE_REST: Duration = Duration::from_millis(1);

/// How many times a connection is received from in one wait.
const RECEIVES_MAX: usize = 4;

/// How many connections that are gone may still be spoken of by mistake.
const GONE_MAX: usize = 16;

/// An operation that outlives the call.
#[derive(Debug)]
enum Submitted {
    Accept(ListenerId),
    StopAccepting(ListenerId),
    Receive(ConnectionId),
    StopReceiving(ConnectionId),
    Send(ConnectionId, Bytes),
    Offer(Bytes, Vec<Slot>),
    Close(ConnectionId, Closing),
    Wake(Member),
}

/// Where a listener is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Accepting {
    /// Not asked for.
    Idle,
    /// Until told to stop.
    On,
    /// Until its queue is empty.
    Emptying,
    /// It is closed.
    Closed,
}

/// Something that is ready to be told.
#[derive(Clone, Copy, Debug)]
enum Source {
    Listener(usize),
    Slot(Slot),
    Waker,
}

/// An engine without a kernel.
#[derive(Debug)]
pub struct SimEngine {
    network: Network,
    member: usize,
    options: EngineOptions,
    table: Table,
    accepting: Vec<Accepting>,
    accepts_rest_until: Time,
    submitted: Vec<Submitted>,
    /// What became of sends: told before anything else.
    decided: Vec<Outcome>,
    /// Targets of offers that were decided, and this was not told.
    offered: u32,
    told: Vec<Outcome>,
    gone: Vec<ConnectionId>,
    waker: Arc<SimWaker>,
    waits_until: Time,
    has_told: bool,
    accepted: u64,
    closed: u64,
    counts: EngineCounts,
    breaches: Vec<String>,
}

#[derive(Debug)]
struct SimWaker(Arc<AtomicBool>);

impl Waker for SimWaker {
    fn wake(&self) {
        self.0.store(true, Ordering::Release);
    }
}

impl SimEngine {
    pub(crate) fn new(network: Network, member: usize, options: EngineOptions) -> Self {
        let woken = Arc::clone(&network.state.borrow().woken[member]);
        Self {
            network,
            member,
            options,
            table: Table::new(options.connections_max),
            accepting: vec![Accepting::Idle; usize::from(options.listeners)],
            accepts_rest_until: Time(0),
            submitted: Vec::new(),
            decided: Vec::new(),
            offered: 0,
            told: Vec::new(),
            gone: Vec::new(),
            waker: Arc::new(SimWaker(woken)),
            waits_until: Time(0),
            has_told: false,
            accepted: 0,
            closed: 0,
            counts: EngineCounts::default(),
            breaches: Vec::new(),
        }
    }

    /// True exactly when a wait would tell something now.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        let mut state = self.network.state.borrow_mut();
        !self.submitted.is_empty() || self.has_news() || !self.sources(&mut state).is_empty()
    }

    /// True exactly when something was submitted that the next wait hands over.
    #[must_use]
    pub fn has_submitted(&self) -> bool {
        !self.submitted.is_empty()
    }

    /// The deadline of the last wait, if that had nothing to tell and nothing was submitted since:
    /// then its worker is where it was when it waited.
    #[must_use]
    pub fn waits_until(&self) -> Option<Time> {
        (!self.has_told && self.submitted.is_empty()).then_some(self.waits_until)
    }

    /// Connections that were accepted, and that were told to be closed.
    #[must_use]
    pub fn accepted_and_closed(&self) -> (u64, u64) {
        (self.accepted, self.closed)
    }

    /// Connections that the engine holds.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.table.iter().count()
    }

    /// What the worker did that the boundary forbids.
    #[must_use]
    pub fn breaches(&self) -> &[String] {
        &self.breaches
    }

    fn has_news(&self) -> bool {
        !self.decided.is_empty() || self.offered > 0
    }

    fn breach(&mut self, sentence: String) {
        self.breaches.push(sentence);
    }

    /// Does what was submitted.
    fn enter(&mut self) {
        self.counts.enters += 1;
        let network = self.network.clone();
        let mut state = network.state.borrow_mut();
        if state.options.clock == Clock::Waits {
            let soon = state.now + ENTER;
            state.advance(soon);
        }
        for submitted in std::mem::take(&mut self.submitted) {
            match submitted {
                Submitted::Accept(listener) => self.accept(listener),
                Submitted::StopAccepting(listener) => self.stop_accepting(&mut state, listener),
                Submitted::Receive(id) => self.receive(id),
                Submitted::StopReceiving(id) => self.stop_receiving(&mut state, id),
                Submitted::Send(id, bytes) => self.send(&mut state, id, bytes),
                Submitted::Offer(frame, targets) => self.offer(&mut state, &frame, &targets),
                Submitted::Close(id, how) => self.close(&mut state, id, how),
                Submitted::Wake(member) => state.wake(member),
            }
        }
    }

    fn accept(&mut self, listener: ListenerId) {
        match self.accepting.get_mut(usize::from(listener.0)) {
            Some(accepting @ Accepting::Idle) => *accepting = Accepting::On,
            _ => self.breach(format!("Accept of {listener:?}, which cannot begin to accept")),
        }
    }

    fn stop_accepting(&mut self, state: &mut State, listener: ListenerId) {
        match self.accepting.get_mut(usize::from(listener.0)) {
            Some(accepting @ (Accepting::Idle | Accepting::On)) => {
                *accepting = Accepting::Emptying;
                state.note(self.member as u64, "stops accepting", usize::from(listener.0));
            }
            _ => self.breach(format!("StopAccepting of {listener:?}, which has stopped")),
        }
    }

    fn receive(&mut self, id: ConnectionId) {
        match self.table.open(id) {
            Some(connection) if !connection.ended => {
                connection.receiving = true;
                connection.trailing = false;
            }
            Some(_) => self.breach(format!("Receive of {id:?}, whose stream has ended")),
            None => self.breach(format!("Receive of {id:?}, which is not open")),
        }
    }

    fn stop_receiving(&mut self, state: &mut State, id: ConnectionId) {
        match self.table.open(id) {
            Some(connection) => {
                connection.trailing = connection.receiving && state.chance.of(0.5);
                connection.receiving = false;
            }
            None => self.breach(format!("StopReceiving of {id:?}, which is not open")),
        }
    }

    fn send(&mut self, state: &mut State, id: ConnectionId, bytes: Bytes) {
        if bytes.is_empty() {
            self.breach(format!("Send of nothing to {id:?}"));
        }
        let Some(connection) = self.table.open(id) else {
            self.breach(format!("Send to {id:?}, which is not open"));
            return;
        };
        if connection.sending == Sending::Waiting {
            self.breaches.push(format!("Send to {id:?} before Writable"));
        }
        let sent = |decided: &Outcome| matches!(decided, Outcome::Sent(of, _) if *of == id);
        if self.decided.iter().any(sent) {
            self.breaches.push(format!("a second Send to {id:?} before the first was told"));
        }
        let outcome = transmit(state, connection, &bytes);
        state.note(connection.link as u64, "sent", taken(&outcome));
        self.decided.push(Outcome::sent(id, bytes, outcome));
    }

    fn offer(&mut self, state: &mut State, frame: &Bytes, targets: &[Slot]) {
        let in_order = targets.windows(2).all(|pair| pair[0] < pair[1]);
        if targets.is_empty() || targets.len() > OFFER_TARGETS_MAX || !in_order {
            self.breach(format!("Offer to {targets:?}: too many, none, or not in slot order"));
        }
        for slot in targets {
            self.offered += 1;
            let open = self.table.at(*slot).filter(|(_, of)| of.phase == Phase::Open);
            let Some((id, connection)) = open else {
                self.breach(format!("Offer to slot {slot}, where nothing is open"));
                continue;
            };
            if connection.sending == Sending::Waiting {
                self.breaches.push(format!("Offer to {id:?} before Writable"));
            }
            let outcome = transmit(state, connection, frame);
            state.note(connection.link as u64, "offered", taken(&outcome));
            if outcome != Ok(frame.len()) {
                self.decided.push(Outcome::refused(id, frame.clone(), outcome));
            }
        }
    }

    fn close(&mut self, state: &mut State, id: ConnectionId, how: Closing) {
        let Some(connection) = self.table.get(id) else {
            self.breach(format!("Close of {id:?}, which is gone"));
            return;
        };
        let link = connection.link;
        state.note(link as u64, "close", how as usize);
        match (how, connection.phase) {
            (Closing::Finish, Phase::Open) => state.close(link, Side::Server),
            (Closing::Linger, Phase::Open) if connection.ended => state.close(link, Side::Server),
            (Closing::Linger, Phase::Open) => {
                state.finish(link, Side::Server);
                connection.phase = Phase::Lingering(0);
                self.forget_decided(id);
                return;
            }
            (Closing::Abort, Phase::Open | Phase::Lingering(_)) => state.reset(link, Side::Server),
            // What was asked for has been done, and is about to be told.
            (Closing::Abort, Phase::Ended) => return,
            (_, _) => {
                self.breach(format!("{how:?} of {id:?}, whose close was submitted"));
                return;
            }
        }
        connection.phase = Phase::Ended;
        self.forget_decided(id);
    }

    /// After a close nothing is told of what became of earlier sends.
    fn forget_decided(&mut self, id: ConnectionId) {
        self.decided.retain(|decided| decided.connection() != Some(id));
    }

    /// What is ready to be told.
    fn sources(&self, state: &mut State) -> Vec<Source> {
        let mut sources = Vec::new();
        for (listener, accepting) in self.accepting.iter().enumerate() {
            let waiting = state.has_waiting(self.member, listener);
            let rested = state.now >= self.accepts_rest_until;
            let may = waiting && rested && self.table.has_free();
            let ready = match accepting {
                Accepting::On => may,
                Accepting::Emptying => may || !waiting,
                Accepting::Idle | Accepting::Closed => false,
            };
            if ready {
                sources.push(Source::Listener(listener));
            }
        }
        let slots = self.table.iter().filter(|(_, connection)| is_ready(state, connection));
        sources.extend(slots.map(|(slot, _)| Source::Slot(slot)));
        if self.waker.0.load(Ordering::Acquire) {
            sources.push(Source::Waker);
        }
        sources
    }

    /// Gathers what this wait tells beside what became of sends.
    fn gather(&mut self) {
        let network = self.network.clone();
        let mut state = network.state.borrow_mut();
        let mut sources = self.sources(&mut state);
        state.chance.shuffle(&mut sources);
        let late = state.options.faults.late_completions;
        for source in sources {
            if state.chance.of(late) {
                continue;
            }
            match source {
                Source::Listener(listener) => self.gather_accepted(&mut state, listener),
                Source::Slot(slot) => self.gather_connection(&mut state, slot),
                Source::Waker => {
                    self.waker.0.store(false, Ordering::Release);
                    self.told.push(Outcome::Woken);
                }
            }
        }
        let stale = state.options.faults.stale_completions;
        if !self.gone.is_empty() && state.chance.of(stale) {
            let id = *state.chance.one(&self.gone);
            let stale = [Outcome::Writable(id), Outcome::Finished(id), Outcome::Closed(id)];
            self.told.push(state.chance.one(&stale).clone());
        }
    }

    fn gather_accepted(&mut self, state: &mut State, index: usize) {
        let listener = ListenerId(u16::try_from(index).unwrap_or(u16::MAX));
        while self.table.has_free() && state.now >= self.accepts_rest_until {
            let Some(link) = state.accept(self.member, index) else { break };
            if state.chance.of(state.options.faults.lost_accepts) {
                state.note(link as u64, "lost by accept", 0);
                state.reset(link, Side::Server);
                self.counts.accepts_failed += 1;
                self.accepts_rest_until = state.now + ACCEPT_REST;
                state.tick(self.accepts_rest_until);
                break;
            }
            let Some(connection) = self.table.insert(link) else { break };
            state.note(link as u64, "accepted", connection.slot as usize);
            self.accepted += 1;
            let peer = state.address(link);
            self.told.push(Outcome::Accepted(connection, listener, peer));
        }
        let empty = !state.has_waiting(self.member, index);
        if self.accepting[index] == Accepting::Emptying && empty {
            self.accepting[index] = Accepting::Closed;
            state.close_listener(self.member, index);
            self.told.push(Outcome::StoppedAccepting(listener));
        }
    }

    fn gather_connection(&mut self, state: &mut State, slot: Slot) {
        let Some((id, connection)) = self.table.at(slot) else { return };
        match connection.phase {
            Phase::Open => self.gather_open(state, id),
            Phase::Lingering(thrown_away) => {
                let bytes = state.read(connection.link, Side::Server, usize::MAX).len();
                let thrown_away = thrown_away + bytes;
                connection.phase = Phase::Lingering(thrown_away);
                let over = thrown_away >= self.options.linger_bytes_max;
                if over || has_ended(state, connection) {
                    state.close(connection.link, Side::Server);
                    connection.phase = Phase::Ended;
                }
            }
            Phase::Ended => {
                state.note(connection.link as u64, "closed", slot as usize);
                self.table.remove(slot);
                self.closed += 1;
                self.told.push(Outcome::Closed(id));
                if self.gone.len() == GONE_MAX {
                    self.gone.remove(0);
                }
                self.gone.push(id);
            }
        }
    }

    fn gather_open(&mut self, state: &mut State, id: ConnectionId) {
        let Some(connection) = self.table.open(id) else { return };
        if is_writable_again(state, connection) {
            connection.sending = Sending::Free;
            state.note(connection.link as u64, "writable", 0);
            self.told.push(Outcome::Writable(id));
        }
        let receives = if connection.trailing { 1 } else { state.chance.number(1..=RECEIVES_MAX) };
        for _ in 0..receives {
            if !is_receivable(state, connection) {
                break;
            }
            if state.chance.of(state.options.faults.exhausted_buffers) {
                self.counts.receive_buffers_exhausted += 1;
                connection.rests_until = state.now + RECEIVE_REST;
                state.tick(connection.rests_until);
                break;
            }
            let mut count = self.options.receive_buffer_bytes;
            if state.chance.of(state.options.faults.split_receives) {
                count = state.chance.number(1..=count);
            }
            let bytes = state.read(connection.link, Side::Server, count);
            if bytes.is_empty() {
                self.told.push(end(state, id, connection));
                break;
            }
            state.note(connection.link as u64, "received", bytes.len());
            self.told.push(Outcome::Bytes(id, bytes));
        }
        connection.trailing = false;
    }

    /// Tells what was gathered. Says whether there was anything.
    fn tell(&mut self, on_completion: &mut impl FnMut(Time, Completion<'_>)) -> bool {
        let now = self.network.now();
        let mut outcomes = std::mem::take(&mut self.decided);
        for outcome in &outcomes {
            // From now on the worker knows that it must wait.
            if let Some(id) = outcome.connection()
                && let Some(connection) = self.table.get(id)
                && connection.sending == Sending::Refused
            {
                connection.sending = Sending::Waiting;
            }
        }
        if self.offered > 0 {
            outcomes.push(Outcome::Offered(std::mem::take(&mut self.offered)));
        }
        outcomes.append(&mut self.told);
        let any = !outcomes.is_empty();
        for outcome in &mut outcomes {
            on_completion(now, outcome.completion());
        }
        any
    }
}

/// Offers bytes to a socket: how many it takes.
fn transmit(
    state: &mut State,
    connection: &mut Connection,
    bytes: &Bytes,
) -> Result<usize, worker::Failure> {
    if let Some(failure) = state.broken(connection.link, Side::Server) {
        connection.send_failed = true;
        return Err(failure);
    }
    if connection.sending != Sending::Free {
        return Ok(0);
    }
    let mut room = state.room(connection.link, Side::Server).min(bytes.len());
    let faults = state.options.faults;
    if state.chance.of(faults.refused_sends) {
        room = 0;
    } else if room > 1 && state.chance.of(faults.short_sends) {
        room = state.chance.number(1..=room - 1);
    }
    let count = state.write(connection.link, Side::Server, &bytes[..room]);
    if count < bytes.len() {
        connection.sending = Sending::Refused;
    }
    Ok(count)
}

fn taken(outcome: &Result<usize, worker::Failure>) -> usize {
    *outcome.as_ref().unwrap_or(&0)
}

/// The end of the stream, which is then told. A socket that has told a failure to a send has ended.
fn end(state: &mut State, id: ConnectionId, connection: &mut Connection) -> Outcome {
    connection.receiving = false;
    connection.ended = true;
    let broken = state.broken(connection.link, Side::Server);
    state.note(connection.link as u64, "ended", usize::from(broken.is_some()));
    match broken {
        Some(failure) if !connection.send_failed => Outcome::Failed(id, failure),
        _ => Outcome::Finished(id),
    }
}

/// True exactly when nothing more will arrive.
fn has_ended(state: &mut State, connection: &Connection) -> bool {
    state.broken(connection.link, Side::Server).is_some()
        || state.is_at_its_end(connection.link, Side::Server)
}

fn is_receivable(state: &mut State, connection: &Connection) -> bool {
    (connection.receiving || connection.trailing)
        && !connection.ended
        && state.now >= connection.rests_until
        && (state.arrived_bytes(connection.link, Side::Server) > 0 || has_ended(state, connection))
}

fn is_writable_again(state: &mut State, connection: &Connection) -> bool {
    connection.sending == Sending::Waiting && state.is_writable(connection.link, Side::Server)
}

fn is_ready(state: &mut State, connection: &Connection) -> bool {
    match connection.phase {
        Phase::Open => is_receivable(state, connection) || is_writable_again(state, connection),
        Phase::Lingering(_) => {
            state.arrived_bytes(connection.link, Side::Server) > 0 || has_ended(state, connection)
        }
        Phase::Ended => true,
    }
}

impl Engine for SimEngine {
    fn now(&self) -> Time {
        self.network.now()
    }

    fn submit(&mut self, operation: Operation<'_>) {
        self.submitted.push(match operation {
            Operation::Accept { listener } => Submitted::Accept(listener),
            Operation::StopAccepting { listener } => Submitted::StopAccepting(listener),
            Operation::Receive { connection } => Submitted::Receive(connection),
            Operation::StopReceiving { connection } => Submitted::StopReceiving(connection),
            Operation::Send { connection, bytes } => Submitted::Send(connection, bytes),
            Operation::Offer { frame, targets } => Submitted::Offer(frame, targets.to_vec()),
            Operation::Close { connection, how } => Submitted::Close(connection, how),
            Operation::Wake { member } => Submitted::Wake(member),
        });
    }

    fn wait(
        &mut self,
        deadline: Time,
        mut on_completion: impl FnMut(Time, Completion<'_>),
    ) -> Result<(), io::Error> {
        self.waits_until = deadline;
        self.enter();
        loop {
            self.gather();
            self.has_told = self.tell(&mut on_completion);
            let mut state = self.network.state.borrow_mut();
            if self.has_told || state.options.clock == Clock::Driver || state.now >= deadline {
                return Ok(());
            }
            let next = state.next().min(deadline);
            state.advance(next);
        }
    }

    fn waker(&self) -> Arc<dyn Waker> {
        Arc::clone(&self.waker) as Arc<dyn Waker>
    }

    fn counts(&self) -> EngineCounts {
        self.counts
    }
}
