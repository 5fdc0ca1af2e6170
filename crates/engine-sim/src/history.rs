//! One history: whole workers with their hubs on a real mesh and a virtual network, visitors, and
//! a guest that plays the control thread. Turns come in an order that the seed decides. The clock
//! stands still while anybody has something to do, and then goes on to what happens next; a worker
//! that waits stays parked meanwhile, as it would in the kernel, so that a wake-up that is missing
//! is missed.

use std::{panic::AssertUnwindSafe, time::Duration};

use hub::{Hub, Letter};
use mesh::{Endpoint, Member};
use worker::{Time, Worker};

use crate::{
    chance::Chance,
    engine::SimEngine,
    guest::Guest,
    ledger::Ledger,
    network::{Deed, Network},
    scenario::Scenario,
    visitor::Visitor,
};

/// Turns of a worker that had nothing to do and did not wait, before it is said to spin.
const IDLE_TURNS_MAX: u32 = 200;

/// Steps of a history, after which it is said never to end.
const STEPS_MAX: u64 = 20_000_000;

/// How long it takes until everything has come to rest: longer than every timeout.
const REST: Duration = Duration::from_secs(60);

/// A history that ended well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// Turns of workers.
    pub turns: u64,
    /// Connections that became open.
    pub opened: u64,
    /// Messages that were offered or queued.
    pub delivered: u64,
    /// How many were closed for which reason.
    pub closed_for: Vec<(&'static str, u64)>,
    /// A number that two equal histories have in common.
    pub fingerprint: u64,
}

/// A history that broke a promise.
#[derive(Clone, Debug)]
pub struct Broken {
    /// Replays it.
    pub seed: u64,
    /// Which promise.
    pub what: String,
    /// What was done and told last.
    pub deeds: Vec<Deed>,
}

/// Runs the history of a seed.
///
/// # Errors
/// A promise was broken, or something has panicked.
pub fn run(seed: u64) -> Result<Summary, Box<Broken>> {
    let mut history = History::new(Scenario::new(seed));
    let network = history.network.clone();
    let outcome = std::panic::catch_unwind(AssertUnwindSafe(|| history.run()));
    outcome
        .unwrap_or_else(|panic| Err(format!("panic: {}", message(panic.as_ref()))))
        .map_err(|what| Box::new(Broken { seed, what, deeds: network.deeds() }))
}

fn message(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message")
}

/// A worker with what it runs on.
struct Place {
    worker: Worker<Hub>,
    engine: SimEngine,
    endpoint: Endpoint<Letter>,
    /// It waits until then, unless something happens before; `None`: it has something to do.
    waits: Option<Time>,
    /// True exactly when it waits and is parked: then letters end its wait.
    is_parked: bool,
    /// It is kept from its turn until then.
    late_until: Time,
    idle_turns: u32,
    /// True exactly when its thread has ended, because it was drained.
    has_ended: bool,
}

struct History {
    scenario: Scenario,
    network: Network,
    chance: Chance,
    ledger: Ledger,
    places: Vec<Place>,
    visitors: Vec<Visitor>,
    guest: Guest,
    /// True exactly when every worker was seen to be drained.
    all_drained: bool,
    turns: u64,
    steps: u64,
}

/// Who acts.
#[derive(Clone, Copy, Debug)]
enum Actor {
    Worker(usize),
    Visitor(usize),
    Guest,
}

impl History {
    fn new(scenario: Scenario) -> Self {
        // Another seed than the network's and the scenario's, or they would throw alike.
        let mut chance = Chance::new(scenario.seed ^ 0x9E37_79B9_7F4A_7C15);
        let network = Network::new(scenario.network.clone());
        let mut ledger = Ledger::default();
        let letters_max = scenario.limits.mesh_letters_max as usize;
        let mut endpoints = mesh::join(scenario.workers + 1, |_, _| letters_max);
        let guest = endpoints.pop().expect("the guest is the last member");
        let places = endpoints
            .into_iter()
            .map(|endpoint| {
                let Member(member) = endpoint.member();
                let engine = network.engine(scenario.engine());
                let hub = Hub::new(scenario.hub(member));
                let options = scenario.worker(member);
                let worker = Worker::new(options, hub, endpoint.member(), network.now());
                let late_until = Time(0);
                Place {
                    worker,
                    engine,
                    endpoint,
                    waits: None,
                    is_parked: false,
                    late_until,
                    idle_turns: 0,
                    has_ended: false,
                }
            })
            .collect();
        let guest = Guest::new(guest, &network, &scenario, &mut ledger, &mut chance);
        let begin = network.now();
        let visitors = (0..scenario.visitors)
            .map(|number| Visitor::new(number, &scenario, &mut ledger, begin, &mut chance))
            .collect();
        Self {
            scenario,
            network,
            chance,
            ledger,
            places,
            visitors,
            guest,
            all_drained: false,
            turns: 0,
            steps: 0,
        }
    }

    fn run(&mut self) -> Result<Summary, String> {
        let begin = self.network.now();
        self.go_on(begin + self.scenario.lasts)?;
        // From now on every turn comes when it is due: what is late by turns never comes to rest.
        self.scenario.late_turns = 0.0;
        self.visitors.iter_mut().for_each(Visitor::calm_down);
        self.guest.calm_down();
        self.go_on(self.network.now() + REST)?;
        for visitor in &self.visitors {
            visitor.conclude(&mut self.ledger);
        }
        for visitor in &self.visitors {
            visitor.check(&self.ledger, self.scenario.is_calm)?;
        }
        self.guest.check_receipts()?;
        self.drain()?;
        self.summarise()
    }

    fn drain(&mut self) -> Result<(), String> {
        while !self.guest.drain(self.scenario.drain) {
            self.go_on(self.network.now() + Duration::from_millis(100))?;
        }
        let drained = |history: &Self| history.places.iter().all(|it| it.worker.is_drained());
        let longest = self.scenario.drain + self.scenario.close_timeout + Duration::from_secs(5);
        let deadline = self.network.now() + longest;
        while !drained(self) {
            if self.network.now() >= deadline {
                let left: Vec<usize> =
                    self.places.iter().map(|it| it.engine.connections()).collect();
                return Err(format!("not drained after {longest:?}: connections left {left:?}"));
            }
            self.go_on(self.network.now() + Duration::from_millis(100))?;
        }
        // The last reports, which the workers would have made before they ended, and segments.
        self.all_drained = true;
        self.places.iter_mut().for_each(|place| place.has_ended = false);
        self.go_on(self.network.now() + Duration::from_secs(3))?;
        if let Some(hangs) = self.visitors.iter().find(|visitor| visitor.hangs()) {
            return Err(format!("after the drain there is still {hangs:?}"));
        }
        self.guest.check_gauges()
    }

    fn summarise(&self) -> Result<Summary, String> {
        for (number, place) in self.places.iter().enumerate() {
            let (accepted, closed) = place.engine.accepted_and_closed();
            if accepted != closed || place.engine.connections() > 0 {
                return Err(format!("worker {number}: {accepted} accepted, {closed} closed"));
            }
        }
        let closed_for = self.guest.closed_for.iter().filter(|(_, count)| **count > 0);
        Ok(Summary {
            turns: self.turns,
            opened: self.guest.opened,
            delivered: self.guest.delivered,
            closed_for: closed_for.map(|(reason, count)| (*reason, *count)).collect(),
            fingerprint: self.network.fingerprint(),
        })
    }

    /// Has everyone act until then.
    fn go_on(&mut self, until: Time) -> Result<(), String> {
        while self.network.now() < until {
            self.steps += 1;
            if self.steps > STEPS_MAX {
                return Err("the history does not come to its end".to_owned());
            }
            let ready = self.ready();
            if ready.is_empty() {
                self.check_parked()?;
                let next = self.next().min(until);
                self.network.advance(next);
                continue;
            }
            match *self.chance.one(&ready) {
                Actor::Worker(number) => self.turn(number)?,
                Actor::Visitor(number) => self.visitors[number].act(
                    &self.network,
                    &mut self.ledger,
                    &self.scenario,
                    &mut self.chance,
                )?,
                Actor::Guest => {
                    self.guest.act(&self.scenario, &mut self.ledger, &mut self.chance)?;
                }
            }
        }
        Ok(())
    }

    /// Who has something to do now.
    fn ready(&self) -> Vec<Actor> {
        let now = self.network.now();
        let workers = self.places.iter().enumerate().filter(|(_, it)| it.is_ready(now));
        let visitors = self.visitors.iter().enumerate();
        let visitors = visitors.filter(|(_, it)| it.next() <= now || it.is_ready(now));
        let guest = (self.guest.next() <= now || self.guest.is_ready()).then_some(Actor::Guest);
        workers
            .map(|(number, _)| Actor::Worker(number))
            .chain(visitors.map(|(number, _)| Actor::Visitor(number)))
            .chain(guest)
            .collect()
    }

    /// When somebody will have something to do.
    fn next(&self) -> Time {
        let workers = self.places.iter().map(Place::next);
        let visitors = self.visitors.iter().map(Visitor::next);
        let first = workers.chain(visitors).min().unwrap_or(Time::NEVER);
        first.min(self.guest.next()).min(self.network.next())
    }

    /// Everybody waits: no letter may lie beside a worker that nobody will wake.
    fn check_parked(&self) -> Result<(), String> {
        if self.places.iter().any(|place| place.engine.has_submitted()) {
            // A worker that is late may have the wake-up among what it has not yet handed over.
            return Ok(());
        }
        for (number, place) in self.places.iter().enumerate() {
            let letters = place.endpoint.waiting();
            if place.is_parked && !place.engine.is_ready() && letters > 0 {
                return Err(format!("worker {number} is parked beside {letters} letters"));
            }
        }
        Ok(())
    }

    fn turn(&mut self, number: usize) -> Result<(), String> {
        let place = &mut self.places[number];
        let now = self.network.now();
        if place.late_until < now && self.chance.of(self.scenario.late_turns) {
            place.late_until = now + Duration::from_millis(self.chance.long(1..=1_500));
            return Ok(());
        }
        place.waits = None;
        if std::mem::take(&mut place.is_parked) {
            place.endpoint.unpark();
        }
        self.turns += 1;
        place.worker.turn(&mut place.engine, &mut place.endpoint).map_err(|it| it.to_string())?;
        if let Some(breach) = place.engine.breaches().first() {
            return Err(format!("worker {number} broke the contract: {breach}"));
        }
        place.has_ended |= place.worker.is_drained() && !self.all_drained;
        // Nothing takes no time.
        let took = Duration::from_micros(self.chance.long(1..=50));
        self.network.advance(now + took);
        let place = &mut self.places[number];
        match place.engine.waits_until() {
            Some(until) if until > now => {
                place.idle_turns = 0;
                // Where there are letters already, it has looked at them and does not want them.
                place.is_parked = place.endpoint.park();
                place.waits = Some(until);
            }
            Some(_) => {
                place.idle_turns += 1;
                if place.idle_turns > IDLE_TURNS_MAX {
                    let letters = place.endpoint.waiting();
                    return Err(format!("worker {number} spins beside {letters} letters"));
                }
            }
            None => place.idle_turns = 0,
        }
        Ok(())
    }
}

impl Place {
    fn is_ready(&self, now: Time) -> bool {
        self.late_until <= now
            && !self.has_ended
            && self.waits.is_none_or(|until| until <= now || self.engine.is_ready())
    }

    fn next(&self) -> Time {
        if self.has_ended {
            return Time::NEVER;
        }
        self.waits.unwrap_or(Time(0)).max(self.late_until)
    }
}
