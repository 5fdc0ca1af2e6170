//! A worker with what it runs on, and how its turns come.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use hub::{Hub, Interest, Letter};
use mesh::{Endpoint, Member};
use worker::{Addresses, Gauges, Time, Worker};

use crate::{
    bounds,
    engine::SimEngine,
    network::Network,
    reached::{
        COALESCE_TIMER, HANDED_OVER, LATE_TURN, MESH_FULL, MOVED_WITHIN_COMPRESSED, MOVED_WORKER,
        RATE_TIMER,
    },
    scenario::Scenario,
    sent::SentCounts,
    watch::Watch,
    world::World,
};

/// Turns of a worker that had nothing to do and did not wait, before it is said to spin.
const IDLE_TURNS_MAX: u32 = 200;

/// How long a moment with something that has come in part is awaited at most.
const PARTIAL_WAIT: Duration = Duration::from_secs(30);

/// By how much deadlines are rounded up, so that several are met by one turn.
const ROUNDING: Duration = Duration::from_millis(50);

pub(super) struct Place {
    worker: Worker<Hub>,
    engine: SimEngine,
    endpoint: Endpoint<Letter>,
    workers: u16,
    /// It waits until then, unless something happens before; `None`: it has something to do.
    waits: Option<Time>,
    /// How long it waits at most before it is woken for nothing, and when it is at the latest.
    nap: Duration,
    naps_until: Time,
    /// True exactly when it waits and is parked: then letters end its wait.
    is_parked: bool,
    /// It is kept from its turn until then.
    late_until: Time,
    /// True exactly when it was kept from the turn that is next, which others may keep it from for
    /// a little longer.
    is_late: bool,
    /// When it is taken apart and put together again, the next last.
    moves: Vec<Time>,
    /// When that was last done.
    moved: Time,
    idle_turns: u32,
    /// True exactly when its thread has ended, because it was drained.
    has_ended: bool,
    /// True exactly when some other worker had no room for a letter after the last turn.
    is_full: bool,
}

impl Place {
    pub(super) fn new(
        endpoint: Endpoint<Letter>,
        network: &Network,
        scenario: &Scenario,
        addresses: &Arc<Addresses>,
        interest: &Arc<Interest>,
    ) -> Self {
        let Member(member) = endpoint.member();
        let begin = network.now();
        let its = scenario.moves.iter().filter(|(_, worker)| *worker == usize::from(member));
        let mut moves: Vec<_> = its.map(|(after, _)| begin + *after).collect();
        moves.sort_unstable_by(|a, b| b.cmp(a));
        Self {
            worker: Worker::new(
                scenario.worker(member, addresses),
                Hub::new(scenario.hub(interest), endpoint.member()),
                endpoint.member(),
                begin,
            ),
            engine: network.engine(scenario.engine()),
            endpoint,
            workers: scenario.workers,
            waits: None,
            nap: scenario.nap(),
            naps_until: Time(0),
            is_parked: false,
            late_until: Time(0),
            is_late: false,
            moves,
            moved: Time(0),
            idle_turns: 0,
            has_ended: false,
            is_full: false,
        }
    }

    pub(super) fn is_ready(&mut self, now: Time) -> bool {
        self.late_until <= now
            && !self.has_ended
            && (self.waits.is_none_or(|until| until.min(self.naps_until) <= now)
                || self.engine.is_ready())
    }

    pub(super) fn next(&self) -> Time {
        if self.has_ended {
            return Time::NEVER;
        }
        self.waits.map_or(Time(0), |until| until.min(self.naps_until)).max(self.late_until)
    }

    /// True exactly when it has something for the engine that was not yet handed over.
    pub(super) fn has_submitted(&self) -> bool {
        self.engine.has_submitted()
    }

    pub(super) fn is_drained(&self) -> bool {
        self.worker.is_drained()
    }

    /// Connections that its engine holds.
    pub(super) fn connections(&self) -> usize {
        self.engine.connections()
    }

    /// What became of all that it has sent.
    pub(super) fn sent_counts(&self) -> SentCounts {
        self.engine.sent_counts()
    }

    /// What its engine has seen of a connection.
    pub(super) fn watch(&mut self, peer: SocketAddr) -> Option<Watch> {
        self.engine.watch(peer)
    }

    /// Its thread has not ended after all.
    pub(super) fn revive(&mut self) {
        self.has_ended = false;
    }

    /// No letter lies beside it while nobody will wake it.
    pub(super) fn check_parked(&mut self) -> Result<(), String> {
        let letters = self.endpoint.waiting();
        if self.is_parked && letters > 0 && !self.engine.is_ready() {
            return Err(format!("is parked beside {letters} letters"));
        }
        Ok(())
    }

    /// Everything that began has ended.
    pub(super) fn check_ended(&self) -> Result<(), String> {
        self.engine.check_ended()?;
        let held = self.worker.handler().held_bytes();
        if held > 0 {
            return Err(format!("{held} bytes of publications are held back"));
        }
        match self.endpoint.waiting() {
            0 => Ok(()),
            letters => Err(format!("{letters} letters were never taken")),
        }
    }

    /// Whether its turn comes late. Then it is made to wait for it.
    pub(super) fn must_wait(&mut self, world: &mut World) -> bool {
        let now = world.network.now();
        if self.is_late || !world.chance.of(world.scenario.late_turns) {
            return false;
        }
        self.is_late = true;
        world.network.reach(LATE_TURN);
        self.late_until = now + Duration::from_millis(world.chance.long(1..=1_500));
        true
    }

    pub(super) fn turn(&mut self, world: &mut World, all_drained: bool) -> Result<(), String> {
        let now = world.network.now();
        if std::mem::take(&mut self.is_late) {
            self.engine.excuse();
        }
        let is_due = self.waits.is_some_and(|until| until <= now);
        let held = self.worker.handler().held_bytes();
        let mut has_reason = self.waits.take().is_none_or(|until| until <= now + ROUNDING)
            || self.endpoint.waiting() > 0
            || self.engine.is_ready();
        if std::mem::take(&mut self.is_parked) {
            self.endpoint.unpark();
        }
        let is_moved = self.is_moved(now, world);
        let (before, aborts) = (self.worker.gauges(), self.engine.aborts());
        if is_moved {
            self.moves.pop();
            self.moved = now;
            has_reason = true;
            world.network.reach(MOVED_WORKER);
            self.move_connections(world)?;
        }
        self.worker.turn(&mut self.engine, &mut self.endpoint).map_err(|it| it.to_string())?;
        if let Some(breach) = self.engine.breaches().first() {
            return Err(format!("broke the contract: {breach}"));
        }
        // Ages are looked at a while after the last look, whatever the turn was for.
        has_reason |= world.scenario.connection_age_max.is_some();
        if !has_reason && self.engine.has_submitted() {
            return Err("would have slept past something that was due".to_owned());
        }
        self.check_gauges(world)?;
        if !is_moved {
            self.check_turn(&before, aborts, world)?;
        }
        self.note_timers(&before, is_due && held == 0, world);
        self.has_ended |= self.worker.is_drained() && !all_drained;
        // Nothing takes no time.
        let took = Duration::from_micros(world.chance.long(1..=50));
        world.network.advance(now + took);
        self.wait(now)?;
        self.look_at_queues(now, world);
        Ok(())
    }

    /// Where it has given everybody everything that it was given, what waits for sockets is known.
    fn look_at_queues(&mut self, now: Time, world: &mut World) {
        let Self { worker, engine, is_parked, moved, .. } = self;
        let mut refusing = engine.refusing().peekable();
        let is_idle = || *is_parked && worker.gauges().fanout_publications == 0;
        if refusing.peek().is_some() && is_idle() {
            for (id, link, taken) in refusing {
                let is_open = worker.sight(id.slot).is_some_and(|sight| sight.connection == id);
                world.queues.look(link, is_open, now, taken, *moved);
            }
        }
    }

    /// Whether it is taken apart now. Where it may be put together on another engine, a moment is
    /// awaited at which somebody has sent something in part, or more than was decoded.
    fn is_moved(&self, now: Time, world: &World) -> bool {
        self.moves.last().is_some_and(|when| {
            let waits = world.scenario.hands_over && now < *when + PARTIAL_WAIT;
            *when <= now && !(waits && self.worker.gauges().partial_bytes == 0)
        })
    }

    /// Takes the worker apart, and puts another together of what came out, on the same engine or on
    /// another one.
    fn move_connections(&mut self, world: &mut World) -> Result<(), String> {
        let Self { worker, engine, endpoint, .. } = self;
        worker.settle(engine, endpoint).map_err(|it| it.to_string())?;
        let records: Vec<_> = worker.connections().map(|it| worker.export(it)).collect();
        worker.forget(|hub| hub.forget(endpoint.member()));
        if engine.within_compressed() > 0 {
            world.network.reach(MOVED_WITHIN_COMPRESSED);
        }
        let hands_over = world.scenario.hands_over && world.handovers.of(0.5);
        let places = hands_over.then(|| engine.hand_over(&mut world.handovers));
        if hands_over {
            world.network.reach(HANDED_OVER);
            world.handed_over = world.network.now();
        }
        for record in records {
            let mut record = record.ok_or("does not know one of its connections")?;
            if let Some(places) = &places {
                let place = places.get(&record.connection);
                record.connection = *place.ok_or("knows a connection that its engine does not")?;
            }
            worker.import(endpoint, record);
        }
        engine.reorder();
        Ok(())
    }

    fn check_gauges(&mut self, world: &World) -> Result<(), String> {
        let gauges = self.worker.gauges();
        let this = self.endpoint.member();
        let mut others = (0..self.workers).map(Member).filter(|member| *member != this);
        let is_full = others.any(|member| self.endpoint.room(member) == 0);
        if is_full && !self.is_full {
            world.network.reach(MESH_FULL);
        }
        self.is_full = is_full;
        let (held, held_max) = (self.worker.handler().held_bytes(), world.scenario.held_bytes_max);
        if held > held_max {
            return Err(format!("holds {held} bytes of publications back, and at most {held_max}"));
        }
        bounds::check(&gauges, &world.scenario)
    }

    /// What all queues hold together is no more than their budget and what the turn has brought.
    /// Where it was more before, and nothing has come that makes it less, somebody was cut.
    fn check_turn(&self, before: &Gauges, aborts: u64, world: &World) -> Result<(), String> {
        let gauges = self.worker.gauges();
        let kept = before.partial_bytes + self.engine.told_bytes();
        let budget = before.send_queue_bytes_max;
        bounds::check_budget(&gauges, kept, budget, &world.scenario)?;
        let bytes_max = before.send_queue_bytes_max;
        let was_over = before.send_queue_bytes > bytes_max && !self.engine.has_eased();
        match was_over && self.engine.aborts() == aborts {
            true => Err(format!(
                "had {} bytes queued, of which {bytes_max} may be, and has cut nobody",
                before.send_queue_bytes
            )),
            false => Ok(()),
        }
    }

    /// What is published and waits without a job waits for its delay. Who is paused waits for its
    /// rate where nothing is held; `is_due`: then its worker has waited until it had to go on.
    fn note_timers(&self, before: &Gauges, is_due: bool, world: &World) {
        let gauges = self.worker.gauges();
        if before.fanout_jobs == 0 && before.fanout_publications > 0 && gauges.fanout_jobs > 0 {
            world.network.reach(COALESCE_TIMER);
        }
        let is_resumed = gauges.publishers_paused < before.publishers_paused;
        if is_due && is_resumed && !self.engine.has_eased() {
            world.network.reach(RATE_TIMER);
        }
    }

    /// Goes to sleep if the last wait found nothing.
    fn wait(&mut self, now: Time) -> Result<(), String> {
        match self.engine.waits_until() {
            Some(until) if until > now => {
                self.idle_turns = 0;
                // Where there are letters already, it has looked at them and does not want them.
                self.is_parked = self.endpoint.park();
                self.waits = Some(until);
                self.naps_until = now + self.nap;
            }
            Some(_) => {
                self.idle_turns += 1;
                if self.idle_turns > IDLE_TURNS_MAX {
                    return Err(format!("spins beside {} letters", self.endpoint.waiting()));
                }
            }
            None => self.idle_turns = 0,
        }
        Ok(())
    }
}
