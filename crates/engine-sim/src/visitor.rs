//! The remote programs of a history: they come, subscribe, publish, read quickly, slowly or not at
//! all, answer pings or do not, leave politely, rudely or never, and come back. What they receive
//! they check.

mod entry;
mod hearing;
mod offer;
mod plan;
mod saying;

use std::time::Duration;

use worker::Time;

use crate::{
    client::Client,
    frames::{self, CLOSE},
    ledger::{StreamId, Subscription, To},
    link::LinkId,
    reached::BAD_EXTENSIONS,
    visitor::{
        entry::Entry,
        offer::Offer,
        plan::{Asking, Leave, Mistake, Plan, Reading, Violation},
    },
    world::{End, Visit, World},
};

/// What latency and the rounding of deadlines add to how long a visitor may wait for an end.
const WAIT_GRACE: Duration = Duration::from_secs(2);

/// Where a visitor is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Not there yet.
    Absent,
    /// The request is on its way.
    Knocking,
    /// The server has said 101.
    Open,
    /// Close was sent or received, whoever began.
    Closing,
    /// The connection has ended.
    Over,
}

/// A visitor.
#[derive(Debug)]
pub(crate) struct Visitor {
    number: usize,
    plan: Plan,
    /// True exactly when it has read and answered as it should all along.
    is_good: bool,
    offer: Offer,
    /// Its token, where one is needed, since it has asked.
    entry: Option<Entry>,
    /// Where the server compresses for it: the bits of the window.
    window_bits: Option<u8>,
    phase: Phase,
    /// Since when it has been in that phase.
    since: Time,
    socket: Option<Client>,
    /// Written, and not yet taken by the socket.
    unsent: Vec<u8>,
    /// Bytes that the socket took.
    written: u64,
    /// True exactly when it has sent FIN: nothing follows.
    has_finished: bool,
    /// The second piece of the request, and when it leaves.
    withheld: Option<(Time, Vec<u8>)>,
    /// Read, and not yet understood.
    unparsed: Vec<u8>,
    /// Bytes that were understood since the connection began.
    heard_bytes: u64,
    next_message: Time,
    next_read: Time,
    /// Pings sent, and the number of the last that was answered.
    pinged: u32,
    ponged: u32,
    stream: StreamId,
    subscription: Subscription,
    was_open: bool,
    /// What the server told: a refusal or a Close frame.
    end: Option<End>,
    /// True exactly when it has sent Close before the server did, and every message before that.
    has_said_goodbye: bool,
    /// True exactly when it has ended the connection itself, or given the server reason to.
    has_left: bool,
    /// What its request or its violation must be answered with.
    answer: Option<u16>,
    /// The row that is reached with that answer.
    row: Option<&'static str>,
}

impl Visitor {
    /// Somebody whose first visit begins at some moment from `begin` on.
    pub(crate) fn new(number: usize, world: &mut World, begin: Time) -> Self {
        let plan = Plan::new(world, begin);
        let World { scenario, chance, compression, ledger, visits_begun, .. } = world;
        let visit = *visits_begun;
        *visits_begun += 1;
        let echo = chance.of(0.1);
        let mut topics: Vec<usize> = (0..scenario.topics).collect();
        chance.shuffle(&mut topics);
        let topics_max = scenario.topics.min(scenario.topics_per_visitor_max);
        topics.truncate(if echo { 0 } else { chance.number(1..=topics_max) });
        let to = topics.first().map_or(To::Echo, |topic| To::Topic(*topic));
        Self {
            number,
            next_message: plan.arrives,
            next_read: plan.arrives,
            is_good: plan.is_good(),
            plan,
            offer: Offer::new(scenario, compression),
            entry: None,
            window_bits: None,
            phase: Phase::Absent,
            since: begin,
            socket: None,
            unsent: Vec::new(),
            written: 0,
            has_finished: false,
            withheld: None,
            unparsed: Vec::new(),
            heard_bytes: 0,
            pinged: 0,
            ponged: 0,
            stream: ledger.stream(to, Some(visit)),
            subscription: Subscription::new(visit, topics, echo, echo || chance.of(0.6)),
            was_open: false,
            end: None,
            has_said_goodbye: false,
            has_left: false,
            answer: None,
            row: None,
        }
    }

    /// Somebody who comes when it is over, and asks well.
    pub(crate) fn latecomer(number: usize, world: &mut World, now: Time) -> Self {
        let mut visitor = Self::new(number, world, now);
        visitor.calm_down();
        visitor.phase = Phase::Absent;
        visitor.plan.arrives = now;
        let span = Duration::from_millis(world.chance.long(0..=1_000));
        visitor.plan.asking = Asking::Haltingly(span);
        visitor
    }

    /// From now on it does only what keeps a connection open, and reads whatever comes.
    pub(crate) fn calm_down(&mut self) {
        self.plan.reading = Reading::Quickly;
        self.plan.answers_pings = true;
        self.plan.answers_close = true;
        self.plan.messages = 0;
        self.plan.comebacks = 0;
        self.plan.leaves = None;
        if self.phase == Phase::Absent {
            self.phase = Phase::Over;
        }
    }

    /// The link of its visit, if it has one.
    pub(crate) fn link(&self) -> Option<LinkId> {
        self.socket.as_ref().map(Client::link)
    }

    /// When it has something to do by itself.
    pub(crate) fn next(&self) -> Time {
        let mut next = match self.phase {
            Phase::Absent => return self.plan.arrives,
            Phase::Over => return Time::NEVER,
            Phase::Knocking | Phase::Open | Phase::Closing => Time::NEVER,
        };
        if let Some((when, _)) = &self.withheld {
            next = next.min(*when);
        }
        if let Some((when, _)) = self.plan.leaves {
            next = next.min(when);
        }
        if self.phase == Phase::Open && self.plan.messages + self.plan.pings > 0 {
            next = next.min(self.next_message);
        }
        match self.plan.reading {
            Reading::Slowly(_) if self.is_readable() => next.min(self.next_read),
            Reading::Pausing(_, end) if self.is_readable() => next.min(end),
            _ => next,
        }
    }

    /// Whether the network has something for it to do.
    pub(crate) fn is_ready(&self, now: Time) -> bool {
        let can_write = !self.unsent.is_empty();
        can_write && self.socket.as_ref().is_some_and(Client::is_writable)
            || self.reads(now) && self.is_readable()
    }

    fn is_readable(&self) -> bool {
        self.phase != Phase::Over && self.socket.as_ref().is_some_and(Client::is_readable)
    }

    fn reads(&self, now: Time) -> bool {
        match self.plan.reading {
            Reading::Quickly => true,
            Reading::Slowly(_) => now >= self.next_read,
            Reading::Pausing(begin, end) => now < begin || now >= end,
        }
    }

    /// Does what it has to do now.
    pub(crate) fn act(&mut self, world: &mut World) -> Result<(), String> {
        let now = world.network.now();
        if self.phase == Phase::Absent && now >= self.plan.arrives {
            self.arrive(world);
        }
        if let Some((_, rest)) = self.withheld.take_if(|(when, _)| *when <= now) {
            self.unsent.extend(rest);
        }
        if self.reads(now) {
            self.read(world)?;
        }
        let has_something = self.plan.messages + self.plan.pings > 0;
        if self.phase == Phase::Open && has_something && now >= self.next_message {
            self.say(world);
        }
        if let Some((_, leave)) = self.plan.leaves.take_if(|(when, _)| *when <= now) {
            self.leave(leave, world);
        }
        self.write(world);
        // The echo of its Close comes behind everything that it had sent before.
        if self.has_said_goodbye && self.end == Some(End::Closed(Some(1000))) {
            world.ledger.take(self.stream);
        }
        if self.phase == Phase::Over && self.plan.comebacks > 0 {
            let comebacks = self.plan.comebacks - 1;
            let arrives = world.network.now() + self.plan.back_off;
            *self = Self::new(self.number, world, now);
            (self.plan.arrives, self.plan.comebacks) = (arrives, comebacks);
        }
        Ok(())
    }

    fn arrive(&mut self, world: &mut World) {
        let names: Vec<String> =
            self.subscription.topics.iter().map(|topic| format!("topic=t{topic}")).collect();
        let own = if self.subscription.own { "" } else { "&own=off" };
        let mut target = if self.subscription.echo {
            "/echo".to_owned()
        } else {
            format!("/ws?{}{own}", names.join("&"))
        };
        let origin = self.show_token(&mut target, world);
        if !origin.is_empty() {
            // Whoever is dismissed gets no answer to it.
            self.offer = Offer::NONE;
        }
        let lines = format!("{origin}{}", self.offer.lines());
        let mut request = frames::request_with("GET", &target, "13", &lines);
        match self.plan.asking {
            Asking::Well => {}
            Asking::Haltingly(span) => {
                let rest = request.split_off(world.chance.number(1..=request.len() - 1));
                self.withheld = Some((world.network.now() + span, rest));
            }
            Asking::Endlessly => {
                request.truncate(world.chance.number(0..=request.len() - 1));
                self.answer = Some(408);
            }
            Asking::Badly(mut mistake) => {
                if world.scenario.offers && world.compression.of(0.3) {
                    mistake = Mistake::Extensions;
                    self.row = Some(BAD_EXTENSIONS);
                }
                request = mistake.request(&target, &world.scenario);
                self.offer = Offer::NONE;
                self.answer = mistake.status(&world.scenario);
            }
        }
        self.unsent.extend(request);
        let socket = world.network.connect_any(0);
        if let (Some(guard), Some(entry)) = (&mut world.guard, &self.entry) {
            guard.passes.insert(socket.address(), entry.token.pass());
        }
        self.socket = Some(socket);
        self.enter(Phase::Knocking, world);
    }

    /// Hands what it has written to its socket. Who cannot write any more notices it.
    fn write(&mut self, world: &mut World) {
        if self.has_finished {
            self.unsent.clear();
        }
        let Some(socket) = &mut self.socket else { return };
        let taken = socket.write(&self.unsent);
        self.unsent.drain(..taken);
        self.written += taken as u64;
        if !self.unsent.is_empty() && socket.is_broken() {
            self.handle_cut(world);
        }
    }

    fn leave(&mut self, leave: Leave, world: &mut World) {
        if matches!(self.phase, Phase::Over | Phase::Absent) {
            return;
        }
        match leave {
            Leave::Close if self.phase == Phase::Open => {
                self.send(CLOSE, true, &1000_u16.to_be_bytes(), world);
                self.enter(Phase::Closing, world);
                self.has_said_goodbye = true;
                world.goodbyes += 1;
                self.answer = self.answer.or(Some(1000));
            }
            Leave::Rudely(mut violation) if self.phase == Phase::Open => {
                if world.scenario.offers && world.compression.of(0.5) {
                    violation = match self.window_bits {
                        Some(_) => *world.compression.one(&Violation::COMPRESSED),
                        None => Violation::NotAgreed,
                    };
                }
                self.row = violation.row().filter(|_| self.answer.is_none());
                self.unsent.extend(violation.bytes(&world.scenario));
                self.answer = self.answer.or(Some(violation.code()));
                (self.plan.messages, self.plan.pings) = (0, 0);
            }
            Leave::Finish => {
                self.write(world);
                self.socket.iter_mut().for_each(Client::finish);
                self.has_finished = true;
                (self.plan.messages, self.plan.pings) = (0, 0);
            }
            Leave::Reset => {
                self.has_left = true;
                self.drop_socket(world, Client::reset);
            }
            Leave::Vanish if world.scenario.vanishes && world.vanishing.of(0.5) => {
                self.has_left = true;
                self.drop_socket(world, Client::vanish);
            }
            Leave::Close | Leave::Rudely(_) | Leave::Vanish => {
                // Before it is open there is nobody to be polite to.
                self.has_left = true;
                self.drop_socket(world, Client::close);
            }
        }
        self.has_left = true;
    }

    /// The connection was ended by somebody else.
    fn handle_cut(&mut self, world: &mut World) {
        world.network.note(self.number as u64, "visitor is cut off", 0);
        self.drop_socket(world, Client::close);
    }

    fn drop_socket(&mut self, world: &mut World, how: fn(&mut Client)) {
        let Some(mut socket) = self.socket.take() else { return };
        how(&mut socket);
        world.queues.forget(socket.link());
        self.phase = Phase::Over;
        self.unsent.clear();
        world.open -= usize::from(self.was_open);
        world.visits.push(Visit {
            visitor: self.number,
            address: socket.address(),
            was_open: self.was_open,
            end: self.end.unwrap_or(End::Cut),
            has_left: self.has_left,
            answer: self.answer,
            was_good: self.is_good,
            is_dismissed: self
                .entry
                .as_ref()
                .is_some_and(|it| it.is_unsure || it.dismissal.is_some()),
        });
    }

    fn enter(&mut self, phase: Phase, world: &World) {
        (self.phase, self.since) = (phase, world.network.now());
    }

    /// When everything has come to rest: it has received what it must have, and has waited for
    /// nobody longer than it may. Connections end of old age even then.
    pub(crate) fn check(&self, world: &mut World) -> Result<(), String> {
        let Self { number, phase, end, plan, .. } = self;
        let scenario = &world.scenario;
        let wait_max = scenario.handshake_timeout.max(scenario.close_timeout);
        let wait_max = scenario.longest(wait_max) + WAIT_GRACE;
        match phase {
            Phase::Knocking | Phase::Closing
                if world.network.now().since(self.since) <= wait_max => {}
            Phase::Knocking | Phase::Closing => {
                return Err(format!(
                    "visitor {number} hangs: it is {phase:?} with {end:?}; {plan:?}"
                ));
            }
            Phase::Open => {
                if let Some(why) = self.overstays(world.network.now()) {
                    let entry = &self.entry;
                    return Err(format!("visitor {number} is still there: {why}; {entry:?}"));
                }
                if let Some(ip) = self.socket.as_ref().map(|socket| socket.address().ip()) {
                    let entry = self.entry.as_ref();
                    let subject = entry.and_then(|it| it.token.subject.as_deref());
                    let mut removals = world.removals.iter();
                    if let Some(it) =
                        removals.find(|it| it.must_include(&self.subscription, ip, subject))
                    {
                        return Err(format!("visitor {number} is still there, despite {it:?}"));
                    }
                }
                return world.ledger.check(&self.subscription);
            }
            Phase::Absent | Phase::Over => {}
        }
        Ok(())
    }

    /// Everything it has published has been taken, as far as it can know.
    pub(crate) fn conclude(&self, world: &mut World) {
        if self.phase == Phase::Open && self.unsent.is_empty() && !self.has_left {
            world.ledger.take(self.stream);
        }
    }

    /// True exactly when it has begun to connect and has not been told an end.
    pub(crate) fn hangs(&self) -> bool {
        matches!(self.phase, Phase::Knocking | Phase::Open | Phase::Closing)
    }
}
