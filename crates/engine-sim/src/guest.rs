//! The control thread of a history: a guest of the mesh that publishes batches, asks for reports,
//! and at the end drains the workers.

mod tokens;
mod wishes;

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use hub::{Batch, Interest, Interested, Letter};
use mesh::{Endpoint, Member};
use wire::DataOpcode;
use worker::{CloseReason, ClosedConnection, DropReason, Gauges, Publication, Report, Time};

pub(crate) use self::wishes::Removal;
use self::wishes::Wishes;
use crate::{
    bounds,
    frames::{BINARY, TEXT},
    ledger::{StreamId, To},
    network::Network,
    reached::{MESH_FULL, Reached},
    scenario::Scenario,
    world::World,
};

/// Publications of one batch.
pub(crate) const BATCH_PUBLICATIONS_MAX: usize = 5;

/// What a worker has told of what it has sent.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Told {
    pub(crate) delivered: u64,
    /// Messages, whatever for.
    pub(crate) dropped: u64,
    pub(crate) sent_bytes: u64,
    pub(crate) saved_bytes: u64,
}

impl Told {
    /// Adds a report; `None` if it withdraws more than there was.
    fn add(&mut self, report: &Report) -> Option<()> {
        let delivered = self.delivered + report.messages_delivered;
        self.delivered = delivered.checked_sub(report.messages_withdrawn)?;
        let sent_bytes = self.sent_bytes + report.sent_bytes;
        self.sent_bytes = sent_bytes.checked_sub(report.sent_bytes_withdrawn)?;
        self.dropped += report.messages_dropped.iter().sum::<u64>();
        self.saved_bytes += report.deflated_saved_bytes;
        Some(())
    }
}

/// The guest.
#[derive(Debug)]
pub(crate) struct Guest {
    endpoint: Endpoint<Letter>,
    interest: Arc<Interest>,
    network: Network,
    woken: Arc<AtomicBool>,
    workers: u16,
    /// One stream a topic, and one to everyone.
    streams: Vec<(Option<usize>, StreamId)>,
    /// True exactly when it publishes.
    publishes: bool,
    next_batch: Time,
    next_report: Time,
    /// By batch: whose receipt is still to come, and of how many publications.
    receipts: BTreeMap<u64, (Vec<Member>, usize)>,
    batches: u64,
    /// All that it has published: who has it still.
    published: Vec<Weak<Publication>>,
    /// By worker: whether a report is outstanding.
    asked: Vec<bool>,
    /// Reports that nobody has.
    #[expect(clippy::vec_box, reason = "letters carry them boxed")]
    spare: Vec<Box<Report>>,
    /// Closes that were reported and not yet looked at, with the worker, and whether messages were
    /// dropped for such a reason.
    pub(crate) closes: Vec<(usize, ClosedConnection, bool)>,
    /// By worker: what the last report said.
    pub(crate) gauges: Vec<Gauges>,
    /// What all reports say together.
    pub(crate) opened: u64,
    pub(crate) closed: u64,
    /// Connections that their peers are said to have closed.
    pub(crate) peers_closed: u64,
    /// Connections that were closed as removed.
    removed: u64,
    /// True exactly when it has wishes beside publishing, and what came of them.
    has_wishes: bool,
    wishes: Wishes,
    /// By worker.
    pub(crate) told: Vec<Told>,
    /// Messages that were dropped from queues of connections that live on.
    pub(crate) dropped: u64,
    pub(crate) reached: Reached,
}

impl Guest {
    pub(crate) fn new(
        endpoint: Endpoint<Letter>,
        interest: Arc<Interest>,
        world: &mut World,
    ) -> Self {
        let World { network, scenario, ledger, .. } = world;
        let audiences = (0..scenario.topics).map(Some).chain([None]);
        let streams = audiences
            .map(|topic| (topic, ledger.stream(topic.map_or(To::Everyone, To::Topic), None)));
        let workers = usize::from(scenario.workers);
        let now = network.now();
        Self {
            endpoint,
            interest,
            woken: network.guest(),
            network: network.clone(),
            workers: scenario.workers,
            streams: streams.collect(),
            publishes: true,
            next_batch: now,
            next_report: now,
            receipts: BTreeMap::new(),
            batches: 0,
            published: Vec::new(),
            asked: vec![false; workers],
            spare: Vec::new(),
            closes: Vec::new(),
            gauges: vec![Gauges::default(); workers],
            opened: 0,
            closed: 0,
            peers_closed: 0,
            removed: 0,
            has_wishes: scenario.wishes,
            wishes: Wishes::default(),
            told: vec![Told::default(); workers],
            dropped: 0,
            reached: Reached::default(),
        }
    }

    pub(crate) fn next(&self) -> Time {
        let published = if self.publishes { self.next_batch } else { Time::NEVER };
        self.next_report.min(published).min(self.next_wish())
    }

    pub(crate) fn is_ready(&self) -> bool {
        self.woken.load(Ordering::Acquire)
    }

    /// No more batches.
    pub(crate) fn calm_down(&mut self) {
        self.publishes = false;
        self.has_wishes = false;
    }

    /// No more reports.
    pub(crate) fn fall_silent(&mut self) {
        self.next_report = Time::NEVER;
    }

    pub(crate) fn act(&mut self, world: &mut World) -> Result<(), String> {
        let now = self.network.now();
        self.woken.store(false, Ordering::Release);
        self.endpoint.unpark();
        while let Some(delivery) = self.endpoint.take() {
            self.handle(world, delivery.from, delivery.letter)?;
        }
        if now >= self.next_report {
            self.next_report = now + world.scenario.report_period;
            self.ask();
        }
        if self.publishes && now >= self.next_batch {
            let longest = if world.chance.of(0.6) { 500 } else { 20_000 };
            self.next_batch = now + Duration::from_millis(world.chance.long(1..=longest));
            self.publish(world, now);
        }
        self.wish(world, now);
        self.wake();
        if !self.endpoint.park() {
            self.woken.store(true, Ordering::Release);
        }
        Ok(())
    }

    /// Has everyone whom letters were posted to woken, as a thread does that is no ring.
    fn wake(&mut self) {
        while let Some(member) = self.endpoint.poll_wake() {
            self.network.wake(member);
        }
    }

    fn members(&self) -> impl Iterator<Item = Member> + use<> {
        (0..self.workers).map(Member)
    }

    fn has_room(&self) -> bool {
        self.members().all(|member| self.endpoint.room(member) > 0)
    }

    fn post(&mut self, to: Member, letter: Letter) {
        let now = self.network.now().0;
        self.endpoint.post(to, letter, now).expect("the room was looked at");
    }

    fn ask(&mut self) {
        for member in self.members() {
            let is_asked = self.asked[usize::from(member.0)];
            if !is_asked && self.endpoint.room(member) > 0 {
                let worker = usize::from(member.0);
                self.asked[worker] = true;
                let empty = self.spare.pop().unwrap_or_default();
                self.post(member, Letter::Report(empty));
            }
        }
    }

    /// A batch goes to every worker or to none.
    fn publish(&mut self, world: &mut World, now: Time) {
        let World { scenario, ledger, chance, .. } = world;
        // Where receipts find no room, workers hold them: the guest bounds how many there are.
        if !self.has_room() {
            self.reached.count(MESH_FULL);
            return;
        }
        if self.receipts.len() >= scenario.limits.mesh_letters_max as usize {
            return;
        }
        let publications = (0..chance.number(1..=BATCH_PUBLICATIONS_MAX)).map(|_| {
            let (topic, stream) = *chance.one(&self.streams);
            let (opcode, kind) =
                *chance.one(&[(TEXT, DataOpcode::Text), (BINARY, DataOpcode::Binary)]);
            let bytes = chance.number(0..=scenario.message_bytes);
            let payload = ledger.publish(stream, now, opcode, bytes);
            let topic = topic.map(|topic| format!("t{topic}").into_bytes().into());
            Arc::new(Publication::new(topic, kind, &payload, None, now))
        });
        let publications: Vec<_> = publications.collect();
        self.published.extend(publications.iter().map(Arc::downgrade));
        let mut workers = Interested::NOBODY;
        for publication in &publications {
            workers |= self.interest.of(publication.topic());
        }
        let batch = Arc::new(Batch { id: self.batches, as_of: workers.as_of(), publications });
        let workers: Vec<Member> = workers.members().collect();
        for member in &workers {
            self.post(*member, Letter::Batch(Arc::clone(&batch)));
        }
        self.batches += 1;
        if !workers.is_empty() {
            self.receipts.insert(batch.id, (workers, batch.publications.len()));
        }
        for (_, stream) in &self.streams {
            ledger.take(*stream);
        }
    }

    /// Drains every worker. True if all could be told.
    pub(crate) fn drain(&mut self, over: Duration) -> bool {
        let has_room = self.has_room();
        if has_room {
            for member in self.members() {
                self.post(member, Letter::drain(over));
            }
            self.wake();
        }
        has_room
    }

    fn handle(&mut self, world: &mut World, from: Member, letter: Letter) -> Result<(), String> {
        match letter {
            Letter::Receipt(receipt) => {
                let (members, publications) = self.receipts.get_mut(&receipt.id).ok_or(format!(
                    "{from:?} acknowledges batch {}, which nobody has",
                    receipt.id
                ))?;
                let before = members.len();
                members.retain(|member| *member != from);
                if members.len() + 1 != before || receipt.receivers.len() != *publications {
                    return Err(format!("{from:?} acknowledges batch {} wrongly", receipt.id));
                }
                if members.is_empty() {
                    self.receipts.remove(&receipt.id);
                }
                Ok(())
            }
            Letter::Report(report) => {
                let outcome = self.add(&world.scenario, usize::from(from.0), &report);
                self.spare.push(report);
                outcome
            }
            Letter::Refused(refused) => tokens::check_refused(from, &refused, world),
            Letter::Tell(reply) => self.handle_reply(from, *reply, world),
            letter => Err(format!("{from:?} sends the guest {letter:?}")),
        }
    }

    fn add(&mut self, scenario: &Scenario, worker: usize, report: &Report) -> Result<(), String> {
        self.asked[worker] = false;
        self.opened += report.opened;
        self.removed += report.closed[CloseReason::Removed as usize];
        self.peers_closed += report.closed[CloseReason::PeerClosed as usize];
        self.closed += report.closed.iter().sum::<u64>();
        let told = self.told[worker].add(report);
        told.ok_or_else(|| format!("worker {worker} withdraws what it has never counted"))?;
        self.dropped += [DropReason::Oldest, DropReason::Replaced]
            .map(|reason| report.messages_dropped[reason as usize])
            .iter()
            .sum::<u64>();
        self.reached.add_report(report);
        self.gauges[worker] = report.gauges;
        let dropped = |reason| {
            let reason = match reason {
                CloseReason::SlowConsumer => DropReason::SlowConsumer,
                _ => DropReason::OverBudget,
            };
            report.messages_dropped[reason as usize] > 0
        };
        let closes = report.closes.iter();
        self.closes.extend(closes.map(|it| (worker, it.clone(), dropped(it.reason))));
        bounds::check(&report.gauges, scenario).map_err(|what| format!("worker {worker}: {what}"))
    }

    /// When everything has come to rest: every batch was acknowledged by all.
    pub(crate) fn check_receipts(&self) -> Result<(), String> {
        self.check_wishes()?;
        match self.receipts.first_key_value() {
            None => Ok(()),
            Some((id, (members, _))) => Err(format!("{members:?} never acknowledged batch {id}")),
        }
    }

    /// When nobody is there any more: nothing is held for anybody, and everyone was counted once.
    pub(crate) fn check_gauges(&self, world: &World) -> Result<(), String> {
        self.check_granted(world)?;
        for (worker, gauges) in self.gauges.iter().enumerate() {
            bounds::check_returned(gauges).map_err(|what| format!("worker {worker}: {what}"))?;
        }
        let kept = self.published.iter().filter(|it| it.strong_count() > 0).count();
        if kept > 0 {
            return Err(format!("{kept} publications are kept, though nobody is there"));
        }
        if self.opened != self.closed {
            return Err(format!("{} were opened, and {} closed", self.opened, self.closed));
        }
        Ok(())
    }
}
