//! The engine boundary on the virtual network. What is submitted is done at the next wait, in
//! order, as a ring does with its entries; a wait tells first what became of the sends, then the
//! rest in any order. The engine also watches its worker: what the boundary forbids is kept as a
//! breach of the contract.

mod handover;
mod judging;
mod sending;
mod telling;

use std::{
    collections::BTreeMap,
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use mesh::Member;
use worker::{
    Closing, Completion, ConnectionId, Engine, EngineCounts, ListenerId, Operation, Slot, Time,
    Waker,
};

use self::telling::Source;
use crate::{
    link::{LinkId, Side},
    network::{Network, State},
    options::{Clock, EngineOptions},
    outcome::Outcome,
    reached::{CLOSE_TIMER, EAGAIN_STORM, LINGER_TIMER, PAUSED_PUBLISHER, PING_TIMER},
    sent::SentCounts,
    table::{Phase, Sending, Table},
    watch::Watch,
};

/// What a wait costs where it moves the clock by itself: time goes on, though nothing is awaited.
const ENTER: Duration = Duration::from_micros(1);

/// How long a storm lasts at most in which sockets take nothing.
const STORM_US_MAX: u64 = 20_000;

/// Connections looked at in each wait, for what their worker owes them.
const WATCHED_PER_WAIT: usize = 8;

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
    /// Messages that a socket did not take, whose worker is still to be told.
    untold: Vec<(ConnectionId, u64)>,
    counted: SentCounts,
    /// Places where something may be ready to be told, in any order, some twice.
    looks: Vec<Slot>,
    /// Places where a socket refuses bytes, in any order, some twice, and others where it no longer
    /// does.
    refusing: Vec<Slot>,
    /// What is ready to be told: kept for its memory.
    sources: Vec<Source>,
    gone: Vec<ConnectionId>,
    /// What was seen of those whose close was submitted, by their peers.
    ended: BTreeMap<SocketAddr, Watch>,
    /// The next place to be watched, when the table last grew, and when its worker last had an
    /// excuse.
    watch_next: Slot,
    grown: Time,
    excused: Time,
    /// True exactly when what its worker submits next is not in the order in which it was decided.
    is_reordered: bool,
    /// While that is done: what may have been occupied when it was decided.
    occupied_max: Option<(u32, u64)>,
    storm_until: Time,
    waker: Arc<SimWaker>,
    waits_until: Time,
    has_told: bool,
    accepted: u64,
    closed: u64,
    sends: u64,
    sends_decided: u64,
    counts: EngineCounts,
    /// Connections that were reset.
    aborts: u64,
    /// True exactly when the last wait told something that can make queues shorter.
    has_eased: bool,
    /// Bytes that the last wait told.
    told_bytes: u64,
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
            untold: Vec::new(),
            counted: SentCounts::default(),
            looks: Vec::new(),
            refusing: Vec::new(),
            sources: Vec::new(),
            gone: Vec::new(),
            ended: BTreeMap::new(),
            watch_next: 0,
            grown: Time(0),
            excused: Time(0),
            is_reordered: false,
            occupied_max: None,
            storm_until: Time(0),
            waker: Arc::new(SimWaker(woken)),
            waits_until: Time(0),
            has_told: false,
            accepted: 0,
            closed: 0,
            sends: 0,
            sends_decided: 0,
            counts: EngineCounts::default(),
            aborts: 0,
            has_eased: false,
            told_bytes: 0,
            breaches: Vec::new(),
        }
    }

    /// True exactly when a wait would tell something now.
    #[must_use]
    pub fn is_ready(&mut self) -> bool {
        if !self.submitted.is_empty() || self.has_news() {
            return true;
        }
        let network = self.network.clone();
        let mut state = network.state.borrow_mut();
        self.has_source(&mut state)
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

    /// Everything that began has ended: connections were closed, and of each send, which a target
    /// of an offer is one of, the worker was told what became, or no longer needs to be.
    pub(crate) fn check_ended(&self) -> Result<(), String> {
        let Self { accepted, closed, sends, sends_decided, .. } = self;
        if accepted != closed || self.connections() > 0 {
            return Err(format!("{accepted} accepted, {closed} closed"));
        }
        if sends != sends_decided || self.has_submitted() {
            return Err(format!("{sends} sends were submitted, and {sends_decided} decided"));
        }
        Ok(())
    }

    /// What became of all that was sent.
    pub(crate) fn sent_counts(&self) -> SentCounts {
        self.counted
    }

    /// Connections that the engine holds.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.table.len()
    }

    /// How many connections were reset so far.
    pub(crate) fn aborts(&self) -> u64 {
        self.aborts
    }

    /// True exactly when the last wait told something that can make queues shorter.
    pub(crate) fn has_eased(&self) -> bool {
        self.has_eased
    }

    /// Bytes that the last wait told.
    pub(crate) fn told_bytes(&self) -> u64 {
        self.told_bytes
    }

    /// What the worker did that the boundary forbids.
    #[must_use]
    pub fn breaches(&self) -> &[String] {
        &self.breaches
    }

    /// Connections whose socket refuses bytes, and how many it has taken.
    pub(crate) fn refusing(&mut self) -> impl Iterator<Item = (ConnectionId, LinkId, u64)> {
        let Self { table, refusing, .. } = self;
        refusing.sort_unstable();
        refusing.dedup();
        let mut refuses = |slot: Slot| {
            let (id, connection) = table.at(slot)?;
            let refuses = connection.phase == Phase::Open && connection.sending == Sending::Waiting;
            refuses.then_some((id, connection.link, connection.taken))
        };
        refusing.retain(|slot| refuses(*slot).is_some());
        refusing.iter().filter_map(move |slot| refuses(*slot))
    }

    /// What was seen of a connection that is there, or was.
    pub(crate) fn watch(&mut self, peer: SocketAddr) -> Option<Watch> {
        let ended = self.ended.get(&peer).copied();
        let state = self.network.state.borrow();
        ended.or_else(|| {
            let mut all = self.table.connections();
            let its = all.find(|connection| state.address(connection.link) == peer);
            its.map(|connection| connection.watch)
        })
    }

    /// Open connections in the middle of a compressed message.
    pub(crate) fn within_compressed(&self) -> usize {
        let state = self.network.state.borrow();
        let open = self.table.connections().filter(|it| it.phase == Phase::Open);
        open.filter(|it| state.is_within_compressed(it.link, it.told)).count()
    }

    /// Its worker was kept from its turn: what it owes is due anew.
    pub(crate) fn excuse(&mut self) {
        self.excused = self.network.now();
    }

    /// Its worker was put together again, connection by connection: in that order goes what it had
    /// still to submit.
    pub(crate) fn reorder(&mut self) {
        self.is_reordered = true;
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
        let storms = state.options.faults.send_storms;
        if state.chance.of(storms) {
            state.reached.count(EAGAIN_STORM);
            self.storm_until =
                state.now + Duration::from_micros(state.chance.long(1..=STORM_US_MAX));
        }
        let mut all_submitted = std::mem::take(&mut self.submitted);
        if !all_submitted.is_empty() {
            let is_reordered = std::mem::take(&mut self.is_reordered);
            self.occupied_max = is_reordered.then(|| self.occupied_within(&all_submitted));
        }
        for submitted in all_submitted.drain(..) {
            match submitted {
                Submitted::Accept(listener) => self.accept(listener),
                Submitted::StopAccepting(listener) => self.stop_accepting(&mut state, listener),
                Submitted::Receive(id) => self.receive(&state, id),
                Submitted::StopReceiving(id) => self.stop_receiving(&mut state, id),
                Submitted::Send(id, bytes) => self.send(&mut state, id, bytes),
                Submitted::Offer(frame, targets) => self.offer(&mut state, &frame, &targets),
                Submitted::Close(id, how) => self.close(&mut state, id, how),
                Submitted::Wake(member) => state.wake(member),
            }
        }
        self.submitted = all_submitted;
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

    fn receive(&mut self, state: &State, id: ConnectionId) {
        match self.table.open(id) {
            Some(connection) if !connection.ended => {
                connection.receiving = true;
                connection.trailing = false;
                connection.watch.handle_receiving(state.now, true);
                self.looks.push(id.slot);
            }
            Some(_) => self.breach(format!("Receive of {id:?}, whose stream has ended")),
            None => self.breach(format!("Receive of {id:?}, which is not open")),
        }
    }

    fn stop_receiving(&mut self, state: &mut State, id: ConnectionId) {
        match self.table.open(id) {
            Some(connection) => {
                state.reached.count(PAUSED_PUBLISHER);
                connection.trailing = connection.receiving && state.chance.of(0.5);
                connection.receiving = false;
                connection.watch.handle_receiving(state.now, false);
                self.looks.push(id.slot);
            }
            None => self.breach(format!("StopReceiving of {id:?}, which is not open")),
        }
    }

    fn close(&mut self, state: &mut State, id: ConnectionId, how: Closing) {
        let Some(connection) = self.table.get(id) else {
            self.breach(format!("Close of {id:?}, which is gone"));
            return;
        };
        let link = connection.link;
        state.note(link as u64, "close", how as usize);
        if !connection.watch.has_ended()
            && let Some(wrong) = judging::judge_close(&self.options.promises, connection, how)
        {
            self.breaches.push(format!("{id:?} {wrong}: {:?}", connection.watch));
        }
        let is_overdue = connection.watch.is_closing() || connection.phase != Phase::Open;
        if how == Closing::Abort && is_overdue && connection.phase != Phase::Ended {
            state.reached.count(match connection.phase {
                Phase::Lingering(_) => LINGER_TIMER,
                _ => CLOSE_TIMER,
            });
        }
        connection.watch.handle_close(state.now, connection.receiving);
        self.ended.insert(state.address(link), connection.watch);
        self.looks.push(id.slot);
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

    /// What its worker owes a connection is due before anything changes that.
    fn check_debt(&mut self, slot: Slot, now: Time) {
        let since = self.grown.max(self.excused);
        if let Some((id, connection)) = self.table.at(slot)
            && connection.phase == Phase::Open
            && let Some(debt) = connection.watch.debt(&self.options.promises, since, now)
        {
            self.breaches.push(format!("{id:?} {debt}"));
        }
    }
}

impl Engine for SimEngine {
    fn now(&self) -> Time {
        self.network.now()
    }

    fn submit(&mut self, operation: Operation<'_>) {
        if let Operation::Offer { frame, targets } = &operation
            && *frame == wire::PING
        {
            let now = self.network.now();
            for slot in *targets {
                self.check_debt(*slot, now);
                if let Some((_, connection)) = self.table.at(*slot) {
                    let link = connection.link as u64;
                    connection.watch.handle_ping(now);
                    self.network.note(link, "pinged", *slot as usize);
                    self.network.reach(PING_TIMER);
                }
            }
        }
        self.aborts += u64::from(matches!(operation, Operation::Close { how: Closing::Abort, .. }));
        self.sends += match &operation {
            Operation::Send { .. } => 1,
            Operation::Offer { targets, .. } => targets.len() as u64,
            _ => 0,
        };
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
        self.look_after();
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::Scenario;

    #[test]
    fn a_send_of_which_nobody_was_told_what_became_has_not_ended() {
        let scenario = Scenario::new(0);
        let network = Network::new(scenario.network.clone());
        let mut engine = network.engine(scenario.engine());
        assert_eq!(engine.check_ended(), Ok(()));
        let connection = ConnectionId { slot: 0, generation: 0 };
        engine.submit(Operation::Send { connection, bytes: Bytes::from_static(b"to nobody") });
        // A breach, so that nothing becomes of it.
        engine.wait(Time(0), |_, _| {}).unwrap();
        let missing = "1 sends were submitted, and 0 decided";
        assert_eq!(engine.check_ended(), Err(missing.to_owned()));
    }
}
