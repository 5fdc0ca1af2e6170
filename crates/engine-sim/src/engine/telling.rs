//! What a wait tells: first what became of sends, then whatever else is ready, in any order and
//! some of it late, and now and then something of a connection that is gone. Beside that it looks
//! whether the worker keeps its promises.

use std::{sync::atomic::Ordering, time::Duration};

use bytes::Bytes;
use worker::{Completion, ConnectionId, ListenerId, Slot, Time};

use super::{Accepting, SimEngine, WATCHED_PER_WAIT};
use crate::{
    link::Side,
    network::State,
    outcome::Outcome,
    reached::{
        ACCEPT_REST_OVER, ENOBUFS, FAILED_ACCEPT, LATE_COMPLETION, LINGER_END, SPLIT_RECEIVE,
        STALE_COMPLETION,
    },
    table::{Connection, Phase, Sending},
};

/// How long accepting rests after a connection was lost.
const ACCEPT_REST: Duration = Duration::from_millis(100);

/// How long a connection waits for a buffer to receive into.
const RECEIVE_REST: Duration = Duration::from_millis(1);

/// How many times a connection is received from in one wait.
const RECEIVES_MAX: usize = 4;

/// How many connections that are gone may still be spoken of by mistake.
const GONE_MAX: usize = 16;

/// Something that is ready to be told.
#[derive(Clone, Copy, Debug)]
pub(super) enum Source {
    Listener(usize),
    Slot(Slot),
    Waker,
}

impl SimEngine {
    /// True exactly when something is ready to be told.
    pub(super) fn has_source(&mut self, state: &mut State) -> bool {
        self.looks.extend(state.take_server_news(self.member));
        if self.is_woken() || self.ready_listeners(state).next().is_some() {
            return true;
        }
        let Self { table, looks, .. } = self;
        let mut found = false;
        looks.retain(|slot| {
            // Behind the first that is ready nobody is looked at.
            found || {
                let Some((_, connection)) = table.at(*slot) else { return false };
                found = is_ready(state, connection);
                found || connection.rests(state.now)
            }
        });
        found
    }

    /// What is ready to be told, into `sources`.
    fn find_sources(&mut self, state: &mut State, sources: &mut Vec<Source>) {
        self.looks.extend(state.take_server_news(self.member));
        sources.extend(self.ready_listeners(state).map(Source::Listener));
        let woken = self.is_woken().then_some(Source::Waker);
        let Self { table, looks, .. } = self;
        looks.sort_unstable();
        looks.dedup();
        looks.retain(|slot| {
            let Some((_, connection)) = table.at(*slot) else { return false };
            let is_ready = is_ready(state, connection);
            if is_ready {
                sources.push(Source::Slot(*slot));
            }
            is_ready || connection.rests(state.now)
        });
        sources.extend(woken);
    }

    fn is_woken(&self) -> bool {
        self.waker.0.load(Ordering::Acquire)
    }

    fn ready_listeners(&self, state: &State) -> impl Iterator<Item = usize> {
        let may = state.now >= self.accepts_rest_until && self.table.has_free();
        let accepting = self.accepting.iter().enumerate();
        accepting.filter_map(move |(listener, accepting)| {
            let waiting = state.has_waiting(self.member, listener);
            let is_ready = match accepting {
                Accepting::On => waiting && may,
                Accepting::Emptying => !waiting || may,
                Accepting::Idle | Accepting::Closed => false,
            };
            is_ready.then_some(listener)
        })
    }

    /// Gathers what this wait tells beside what became of sends.
    pub(super) fn gather(&mut self) {
        let network = self.network.clone();
        let mut state = network.state.borrow_mut();
        let mut sources = std::mem::take(&mut self.sources);
        self.find_sources(&mut state, &mut sources);
        state.chance.shuffle(&mut sources);
        let late = state.options.faults.late_completions;
        for source in sources.drain(..) {
            if state.chance.of(late) {
                state.reached.count(LATE_COMPLETION);
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
        self.sources = sources;
        let stale = state.options.faults.stale_completions;
        if !self.gone.is_empty() && state.chance.of(stale) {
            let id = *state.chance.one(&self.gone);
            state.reached.count(STALE_COMPLETION);
            let frame = Bytes::from_static(b"\x81\x05stale");
            let stale = [
                Outcome::Writable(id),
                Outcome::Finished(id),
                Outcome::Closed(id),
                Outcome::Bytes(id, vec![0xFF, 0xFF]),
                Outcome::sent(id, frame.clone(), Ok(1)),
                Outcome::refused(id, frame, Ok(2)),
            ];
            let stale = state.chance.one(&stale).clone();
            // Nobody has sent that: it will be told, and is no more than was sent.
            self.sends += u64::from(matches!(stale, Outcome::Sent(..)));
            self.told.push(stale);
        }
    }

    fn gather_accepted(&mut self, state: &mut State, index: usize) {
        let listener = ListenerId(u16::try_from(index).unwrap_or(u16::MAX));
        if state.now >= self.accepts_rest_until && self.accepts_rest_until > Time(0) {
            self.accepts_rest_until = Time(0);
            state.reached.count(ACCEPT_REST_OVER);
        }
        while self.table.has_free() && state.now >= self.accepts_rest_until {
            let Some(link) = state.accept(self.member, index) else { break };
            if state.chance.of(state.options.faults.lost_accepts) {
                state.note(link as u64, "lost by accept", 0);
                state.reset(link, Side::Server);
                state.reached.count(FAILED_ACCEPT);
                self.counts.accepts_failed += 1;
                self.accepts_rest_until = state.now + ACCEPT_REST;
                state.tick(self.accepts_rest_until);
                break;
            }
            let slots = self.table.slots_used();
            let peer = state.address(link);
            let arrival = state.hosts.enter(peer, state.now);
            let Some(connection) = self.table.insert(link, arrival, state.now) else { break };
            if connection.slot >= slots {
                self.grown = state.now;
            }
            state.place(link, Some(connection.slot));
            state.note(link as u64, "accepted", connection.slot as usize);
            self.accepted += 1;
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
                let bytes = &mut Vec::new();
                let count = state.read(connection.link, Side::Server, usize::MAX, bytes);
                let thrown_away = thrown_away + count;
                connection.phase = Phase::Lingering(thrown_away);
                let over = thrown_away >= self.options.linger_bytes_max;
                if over || has_ended(state, connection) {
                    state.reached.count(LINGER_END);
                    state.close(connection.link, Side::Server);
                    connection.phase = Phase::Ended;
                }
            }
            Phase::Ended => {
                state.note(connection.link as u64, "closed", slot as usize);
                state.place(connection.link, None);
                state.hosts.leave(&connection.arrival);
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
        self.check_debt(id.slot, state.now);
        let Some(connection) = self.table.open(id) else { return };
        if is_writable_again(state, connection) {
            connection.sending = Sending::Free;
            connection.watch.handle_writable(state.now);
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
                state.reached.count(ENOBUFS);
                connection.rests_until = state.now + RECEIVE_REST;
                state.tick(connection.rests_until);
                break;
            }
            let mut count = self.options.receive_buffer_bytes;
            if state.chance.of(state.options.faults.split_receives) {
                count = state.chance.number(1..=count);
                state.reached.count(SPLIT_RECEIVE);
            }
            let mut bytes = Vec::new();
            state.read(connection.link, Side::Server, count, &mut bytes);
            if bytes.is_empty() {
                self.told.push(end(state, id, connection));
                break;
            }
            state.note(connection.link as u64, "received", bytes.len());
            connection.watch.handle_heard(state.now);
            connection.told += bytes.len() as u64;
            self.told.push(Outcome::Bytes(id, bytes));
        }
        connection.trailing = false;
    }

    /// Tells what was gathered. Says whether there was anything.
    pub(super) fn tell(&mut self, on_completion: &mut impl FnMut(Time, Completion<'_>)) -> bool {
        let now = self.network.now();
        let mut outcomes = std::mem::take(&mut self.decided);
        self.untold.clear();
        for outcome in &outcomes {
            // From now on the worker knows that it must wait.
            if let Some(id) = outcome.connection()
                && let Some(connection) = self.table.get(id)
                && connection.sending == Sending::Refused
            {
                connection.sending = Sending::Waiting;
                self.refusing.push(id.slot);
                self.looks.push(id.slot);
            }
        }
        if self.offered > 0 {
            outcomes.push(Outcome::Offered(std::mem::take(&mut self.offered)));
        }
        outcomes.append(&mut self.told);
        if self.options.reuses_slots {
            outcomes.sort_by_key(|outcome| matches!(outcome, Outcome::Closed(_)));
        }
        let any = !outcomes.is_empty();
        self.has_eased = outcomes.iter().any(Outcome::eases);
        self.told_bytes = 0;
        for outcome in &mut outcomes {
            if let Outcome::Bytes(_, bytes) = outcome {
                self.told_bytes += bytes.len() as u64;
            }
            self.sends_decided += match outcome {
                Outcome::Sent(..) => 1,
                Outcome::Offered(targets) => u64::from(*targets),
                _ => 0,
            };
            on_completion(now, outcome.completion());
        }
        outcomes.clear();
        self.decided = outcomes;
        any
    }

    /// Looks at some connections: what their worker owes them it has given.
    pub(super) fn look_after(&mut self) {
        let now = self.network.now();
        let slots = self.table.slots_used();
        for _ in 0..WATCHED_PER_WAIT.min(slots as usize) {
            self.watch_next = if self.watch_next < slots { self.watch_next } else { 0 };
            self.check_debt(self.watch_next, now);
            self.watch_next += 1;
        }
    }
}

/// The end of the stream, which is then told. A socket that has told a failure to a send has ended.
fn end(state: &mut State, id: ConnectionId, connection: &mut Connection) -> Outcome {
    connection.receiving = false;
    connection.ended = true;
    let broken = state.broken(connection.link, Side::Server);
    state.note(connection.link as u64, "ended", usize::from(broken.is_some()));
    match broken {
        Some(failure) if !connection.send_failed => {
            connection.watch.failure = Some(failure);
            Outcome::Failed(id, failure)
        }
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
    connection.sending == Sending::Waiting
        && state.now >= connection.rests_from_sending_until
        && state.is_writable(connection.link, Side::Server)
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
