//! One history: whole workers with their hubs on a real mesh and a virtual network, visitors, and
//! a guest that plays the control thread. Turns come in an order that the seed decides. The clock
//! stands still while anybody has something to do, and then goes on to what happens next; a worker
//! that waits stays parked meanwhile, as it would in the kernel, so that a wake-up that is missing
//! is missed.

mod crowd;
mod place;
mod verdict;

use std::{panic::AssertUnwindSafe, sync::Arc, time::Duration};

use hub::Interest;
use worker::{Addresses, Time};

use crate::{
    chance::Chance,
    deeds::Deed,
    guard::Guard,
    guest::Guest,
    history::{crowd::Crowd, place::Place, verdict::Verdict},
    ledger::Ledger,
    network::Network,
    queues::Queues,
    reached::{MANY_OPEN, Reached},
    scenario::Scenario,
    world::World,
};

/// Steps of a history, after which it is said never to end.
const STEPS_MAX: u64 = 20_000_000;

/// How long it takes until everything has come to rest: longer than every timeout.
const REST: Duration = Duration::from_secs(100);

/// How much earlier than the drain somebody comes who has not heard of it.
const LATECOMERS_FIRST: Duration = Duration::from_millis(100);

/// Rows of the table of who wants to hear of what: so few that topics share them.
const INTEREST_ROWS: u32 = 4;

/// So many connections that are open at once are many.
const MANY: usize = 1_000;

/// How likely a worker acts where a visitor could: there are few of them, and many visitors.
const WORKER_FIRST: f64 = 0.3;

/// A history that ended well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// How long it took, on its own clock.
    pub lasted: Duration,
    /// Turns of workers.
    pub turns: u64,
    /// Connections that became open.
    pub opened: u64,
    /// The most that were open at once, as visitors know it.
    pub open_max: usize,
    /// Messages that were published.
    pub published: usize,
    /// Messages that were offered or queued.
    pub delivered: u64,
    /// What was reached.
    pub reached: Reached,
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
    /// What the seed had made of it.
    pub scenario: String,
    /// What was done and told last.
    pub deeds: Vec<Deed>,
}

/// Runs the history of a seed, and remembers so many of its last deeds.
///
/// # Errors
/// A promise was broken, or something has panicked.
pub fn run(seed: u64, deeds_max: usize) -> Result<Summary, Box<Broken>> {
    run_scenario(Scenario::new(seed), deeds_max)
}

pub(crate) fn run_scenario(
    mut scenario: Scenario,
    deeds_max: usize,
) -> Result<Summary, Box<Broken>> {
    let seed = scenario.seed;
    scenario.network.deeds_max = deeds_max;
    let mut history = History::new(scenario);
    let network = history.world.network.clone();
    let scenario = format!("{:?}", history.world.scenario);
    let outcome = std::panic::catch_unwind(AssertUnwindSafe(|| history.run()));
    outcome
        .unwrap_or_else(|panic| Err(format!("panic: {}", message(panic.as_ref()))))
        .map_err(|what| Box::new(Broken { seed, what, scenario, deeds: network.deeds() }))
}

fn message(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message")
}

struct History {
    world: World,
    places: Vec<Place>,
    crowd: Crowd,
    guest: Guest,
    /// What addresses have of all workers.
    addresses: Arc<Addresses>,
    verdict: Verdict,
    /// Who could act beside visitors: kept for its memory.
    others: Vec<Actor>,
    /// True exactly when every worker was seen to be drained.
    all_drained: bool,
    turns: u64,
    steps: u64,
}

/// Who acts.
#[derive(Clone, Copy, Debug)]
enum Actor {
    Worker(usize),
    Visitor,
    Guest,
}

impl History {
    fn new(scenario: Scenario) -> Self {
        let network = Network::new(scenario.network.clone());
        // Another seed than the network's and the scenario's, or they would throw alike.
        let chance = Chance::new(scenario.seed ^ 0x9E37_79B9_7F4A_7C15);
        let compression = Chance::new(scenario.seed ^ 0xC2B2_AE3D_27D4_EB4F);
        let fragments = Chance::new(scenario.seed ^ 0x2545_F491_4F6C_DD1D);
        let handovers = Chance::new(scenario.seed ^ 0x9FB2_1C65_1E98_DF25);
        let wishes = Chance::new(scenario.seed ^ 0x517C_C1B7_2722_0A95);
        let vanishing = Chance::new(scenario.seed ^ 0xD6E8_FEB8_6659_FD93);
        let guard = scenario.guarded.then(|| Guard::new(scenario.seed ^ 0x6A09_E667_F3BC_C908));
        let letters_max = scenario.limits.mesh_letters_max as usize;
        let mut endpoints = mesh::join(scenario.workers + 1, |_, _| letters_max);
        let guest = endpoints.pop().expect("the guest is the last member");
        let addresses =
            Arc::new(Addresses::new(scenario.addresses, scenario.connections_max, scenario.seed));
        let places = endpoints.into_iter();
        let interest = Arc::new(Interest::new(scenario.workers, INTEREST_ROWS, scenario.seed));
        let place = |it| Place::new(it, &network, &scenario, &addresses, &interest);
        let places = places.map(place).collect();
        let ledger = Ledger::new(scenario.slow_consumer, scenario.publish_rate_max);
        let queues = Queues::new(&scenario.limits);
        let mut world = World {
            scenario,
            network,
            chance,
            compression,
            fragments,
            handovers,
            wishes,
            vanishing,
            guard,
            removals: Vec::new(),
            handed_over: Time(0),
            ledger,
            queues,
            goodbyes: 0,
            visits: Vec::new(),
            visits_begun: 0,
            open: 0,
            open_max: 0,
        };
        let guest = Guest::new(guest, interest, &mut world);
        let crowd = Crowd::new(&mut world);
        let verdict = Verdict::default();
        Self {
            world,
            places,
            crowd,
            guest,
            addresses,
            verdict,
            others: Vec::new(),
            all_drained: false,
            turns: 0,
            steps: 0,
        }
    }

    fn run(&mut self) -> Result<Summary, String> {
        let begin = self.now();
        self.go_on(begin + self.world.scenario.lasts)?;
        while self.world.ledger.publications() < self.world.scenario.publications_min {
            self.go_on(self.now() + Duration::from_secs(1))?;
        }
        // From now on every turn comes when it is due: what is late by turns never comes to rest.
        self.world.scenario.late_turns = 0.0;
        self.world.network.come_to_rest();
        self.crowd.calm_down();
        self.guest.calm_down();
        self.go_on(self.now() + REST)?;
        self.crowd.check(&mut self.world)?;
        self.guest.check_receipts()?;
        self.drain()?;
        self.verdict.check(&self.world)?;
        self.summarise(begin)
    }

    fn now(&self) -> Time {
        self.world.network.now()
    }

    fn drain(&mut self) -> Result<(), String> {
        let over = self.world.scenario.drain;
        self.crowd.send_latecomers(&mut self.world);
        self.go_on(self.now() + LATECOMERS_FIRST)?;
        while !self.guest.drain(over) {
            self.go_on(self.now() + Duration::from_millis(100))?;
        }
        self.verdict.is_draining = true;
        let drained = |history: &Self| history.places.iter().all(Place::is_drained);
        let longest = over
            + self.world.scenario.longest(self.world.scenario.close_timeout)
            + self.world.scenario.longest(self.world.scenario.handshake_timeout)
            + Duration::from_secs(5);
        let deadline = self.now() + longest;
        while !drained(self) {
            if self.now() >= deadline {
                let left: Vec<usize> = self.places.iter().map(Place::connections).collect();
                return Err(format!("not drained after {longest:?}: connections left {left:?}"));
            }
            self.go_on(self.now() + Duration::from_millis(100))?;
        }
        // The last reports, which the workers would have made before they ended, and segments.
        self.all_drained = true;
        self.places.iter_mut().for_each(Place::revive);
        self.go_on(self.now() + self.world.scenario.report_period * 2 + Duration::from_secs(3))?;
        // No report is on its way when all is looked at.
        self.guest.fall_silent();
        self.go_on(self.now() + Duration::from_secs(1))?;
        self.crowd.check_gone()?;
        self.guest.check_gauges(&self.world)
    }

    fn summarise(&self, begin: Time) -> Result<Summary, String> {
        for (number, place) in self.places.iter().enumerate() {
            place.check_ended().map_err(|what| format!("worker {number}: {what}"))?;
        }
        self.check_messages()?;
        let peers_closed = self.guest.peers_closed;
        if peers_closed > self.world.goodbyes {
            let goodbyes = self.world.goodbyes;
            return Err(format!("{peers_closed} are said to have closed, and {goodbyes} have"));
        }
        let counted = self.addresses.connections();
        if counted > 0 {
            return Err(format!("{counted} connections are on accounts, though nobody is there"));
        }
        if self.world.open > 0 {
            return Err(format!("{} visitors were told 101 and no end", self.world.open));
        }
        let mut reached = self.world.network.reached();
        reached.merge(&self.guest.reached);
        if self.world.open_max >= MANY {
            reached.count(MANY_OPEN);
        }
        Ok(Summary {
            lasted: self.now().since(begin),
            turns: self.turns,
            opened: self.guest.opened,
            open_max: self.world.open_max,
            published: self.world.ledger.publications(),
            delivered: self.delivered(),
            reached,
            fingerprint: self.world.network.fingerprint(),
        })
    }

    /// Every message was counted as what it became: exactly as many delivered as sockets took, but
    /// for those of which no worker can know, and no fewer dropped than are missing. So was every
    /// byte.
    fn check_messages(&self) -> Result<(), String> {
        // None that is compressed saves more.
        let saving_max = self.world.scenario.frame_bytes_max();
        for (number, (place, told)) in self.places.iter().zip(&self.guest.told).enumerate() {
            let checked = place.sent_counts().check(told, saving_max);
            checked.map_err(|what| format!("worker {number} {what}"))?;
        }
        let delivered = self.delivered();
        let received = self.world.ledger.received();
        if received > delivered {
            return Err(format!("{received} messages received, and {delivered} delivered"));
        }
        let (lost, dropped) = (self.world.ledger.lost(), self.guest.dropped);
        if lost > dropped {
            return Err(format!("{lost} messages are missing, and {dropped} dropped"));
        }
        Ok(())
    }

    fn delivered(&self) -> u64 {
        self.guest.told.iter().map(|told| told.delivered).sum()
    }

    /// Has everyone act until then.
    fn go_on(&mut self, until: Time) -> Result<(), String> {
        while self.now() < until {
            self.steps += 1;
            if self.steps > STEPS_MAX {
                return Err("the history does not come to its end".to_owned());
            }
            self.crowd.look_around(&self.world.network);
            match self.choose() {
                Some(Actor::Worker(number)) => self.turn(number)?,
                Some(Actor::Visitor) => self.crowd.act(&mut self.world)?,
                Some(Actor::Guest) => {
                    self.guest.act(&mut self.world)?;
                    for (worker, closed, dropped) in self.guest.closes.drain(..) {
                        let place = &mut self.places[worker];
                        let watch = place.watch(closed.peer);
                        self.verdict.add((worker, &closed, dropped), watch, &self.world)?;
                    }
                }
                None => {
                    self.check_parked()?;
                    let next = self.next().min(until);
                    self.world.network.advance(next);
                }
            }
        }
        Ok(())
    }

    /// Somebody who has something to do now.
    fn choose(&mut self) -> Option<Actor> {
        let now = self.now();
        self.others.clear();
        let others = &mut self.others;
        for (number, place) in self.places.iter_mut().enumerate() {
            if place.is_ready(now) {
                others.push(Actor::Worker(number));
            }
        }
        if self.guest.next() <= now || self.guest.is_ready() {
            others.push(Actor::Guest);
        }
        if !self.crowd.is_ready() {
            return (!others.is_empty()).then(|| *self.world.chance.one(others));
        }
        if others.is_empty() || !self.world.chance.of(WORKER_FIRST) {
            return Some(Actor::Visitor);
        }
        Some(*self.world.chance.one(others))
    }

    /// When somebody will have something to do.
    fn next(&self) -> Time {
        let workers = self.places.iter().map(Place::next).min().unwrap_or(Time::NEVER);
        let others = self.crowd.next().min(self.guest.next());
        workers.min(others).min(self.world.network.next())
    }

    /// Everybody waits: no letter may lie beside a worker that nobody will wake.
    fn check_parked(&mut self) -> Result<(), String> {
        if self.places.iter().any(Place::has_submitted) {
            // A worker that is late may have the wake-up among what it has not yet handed over.
            return Ok(());
        }
        for (number, place) in self.places.iter_mut().enumerate() {
            place.check_parked().map_err(|what| format!("worker {number} {what}"))?;
        }
        Ok(())
    }

    fn turn(&mut self, number: usize) -> Result<(), String> {
        let place = &mut self.places[number];
        if place.must_wait(&mut self.world) {
            return Ok(());
        }
        self.turns += 1;
        place
            .turn(&mut self.world, self.all_drained)
            .map_err(|what| format!("worker {number} {what}"))
    }
}
