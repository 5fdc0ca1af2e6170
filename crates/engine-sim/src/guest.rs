//! The control thread of a history: a guest of the mesh that publishes batches, asks for reports,
//! and at the end drains the workers.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use hub::{Batch, Letter};
use mesh::{Endpoint, Member};
use wire::DataOpcode;
use worker::{CloseReason, Gauges, Publication, Report, Time};

use crate::{
    chance::Chance,
    frames::{BINARY, TEXT},
    ledger::{Ledger, StreamId, To},
    network::Network,
    scenario::Scenario,
};

/// How often reports are asked for.
const REPORT_PERIOD: Duration = Duration::from_secs(1);

/// The guest.
#[derive(Debug)]
pub(crate) struct Guest {
    endpoint: Endpoint<Letter>,
    network: Network,
    woken: Arc<AtomicBool>,
    workers: u16,
    /// One stream a topic, and one to everyone.
    streams: Vec<(Option<usize>, StreamId)>,
    batches_left: usize,
    next_batch: Time,
    next_report: Time,
    /// By batch: whose receipt is still to come, and of how many publications.
    receipts: BTreeMap<u64, (Vec<Member>, usize)>,
    batches: u64,
    /// By worker: whether a report is outstanding.
    asked: Vec<bool>,
    /// By worker: what the last report said.
    pub(crate) gauges: Vec<Gauges>,
    /// What all reports say together.
    pub(crate) opened: u64,
    pub(crate) closed: u64,
    pub(crate) delivered: u64,
    pub(crate) closed_for: BTreeMap<&'static str, u64>,
}

impl Guest {
    pub(crate) fn new(
        endpoint: Endpoint<Letter>,
        network: &Network,
        scenario: &Scenario,
        ledger: &mut Ledger,
        chance: &mut Chance,
    ) -> Self {
        let audiences = (0..scenario.topics).map(Some).chain([None]);
        let streams = audiences
            .map(|topic| (topic, ledger.stream(topic.map_or(To::Everyone, To::Topic), None)));
        let workers = usize::from(scenario.workers);
        let now = network.now();
        Self {
            endpoint,
            woken: network.guest(),
            network: network.clone(),
            workers: scenario.workers,
            streams: streams.collect(),
            batches_left: *chance.one(&[0, 3, 30]),
            next_batch: now,
            next_report: now,
            receipts: BTreeMap::new(),
            batches: 0,
            asked: vec![false; workers],
            gauges: vec![Gauges::default(); workers],
            opened: 0,
            closed: 0,
            delivered: 0,
            closed_for: BTreeMap::new(),
        }
    }

    pub(crate) fn next(&self) -> Time {
        if self.batches_left > 0 { self.next_report.min(self.next_batch) } else { self.next_report }
    }

    pub(crate) fn is_ready(&self) -> bool {
        self.woken.load(Ordering::Acquire)
    }

    /// No more batches.
    pub(crate) fn calm_down(&mut self) {
        self.batches_left = 0;
    }

    pub(crate) fn act(
        &mut self,
        scenario: &Scenario,
        ledger: &mut Ledger,
        chance: &mut Chance,
    ) -> Result<(), String> {
        let now = self.network.now();
        self.woken.store(false, Ordering::Release);
        self.endpoint.unpark();
        while let Some(delivery) = self.endpoint.take() {
            self.handle(scenario, delivery.from, delivery.letter)?;
        }
        if now >= self.next_report {
            self.next_report = now + REPORT_PERIOD;
            self.ask();
        }
        if self.batches_left > 0 && now >= self.next_batch {
            let pause = Duration::from_millis(chance.long(0..=500));
            self.next_batch = now + pause + Duration::from_millis(1);
            self.publish(scenario, ledger, now, chance);
        }
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
            let asked = &mut self.asked[usize::from(member.0)];
            if !*asked && self.endpoint.room(member) > 0 {
                *asked = true;
                self.post(member, Letter::Report(Box::new(Report::new())));
            }
        }
    }

    /// A batch goes to every worker or to none.
    fn publish(
        &mut self,
        scenario: &Scenario,
        ledger: &mut Ledger,
        now: Time,
        chance: &mut Chance,
    ) {
        // Where receipts find no room, workers hold them: the guest bounds how many there are.
        if !self.has_room() || self.receipts.len() >= scenario.limits.mesh_letters_max as usize {
            return;
        }
        let publications = (0..chance.number(1..=5)).map(|_| {
            let (topic, stream) = *chance.one(&self.streams);
            let (opcode, kind) =
                *chance.one(&[(TEXT, DataOpcode::Text), (BINARY, DataOpcode::Binary)]);
            let bytes = chance.number(0..=scenario.message_bytes);
            let payload = ledger.publish(stream, now, opcode, bytes);
            let topic = topic.map(|topic| format!("t{topic}").into());
            Arc::new(Publication::new(topic, kind, &payload, None, now))
        });
        let batch = Arc::new(Batch { id: self.batches, publications: publications.collect() });
        let outstanding = (self.members().collect(), batch.publications.len());
        self.receipts.insert(batch.id, outstanding);
        self.batches += 1;
        self.batches_left -= 1;
        for member in self.members() {
            self.post(member, Letter::Batch(Arc::clone(&batch)));
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

    fn handle(&mut self, scenario: &Scenario, from: Member, letter: Letter) -> Result<(), String> {
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
            Letter::Report(report) => self.add(scenario, usize::from(from.0), &report),
            letter => Err(format!("{from:?} sends the guest {letter:?}")),
        }
    }

    fn add(&mut self, scenario: &Scenario, worker: usize, report: &Report) -> Result<(), String> {
        self.asked[worker] = false;
        self.opened += report.opened;
        self.closed += report.closed.iter().sum::<u64>();
        self.delivered += report.messages_delivered;
        for reason in CloseReason::ALL {
            *self.closed_for.entry(reason.label()).or_default() += report.closed[reason as usize];
        }
        let gauges = report.gauges;
        self.gauges[worker] = gauges;
        let limits = &scenario.limits;
        let connections = u64::from(gauges.connections);
        // What one turn brings may exceed the fan-out's bounds, and a frame that a socket has begun
        // to take belongs in no bound but that of the message.
        for (name, value, bound) in [
            ("connections", connections, u64::from(scenario.connections_max)),
            ("send_queue_bytes", gauges.send_queue_bytes, limits.send_queue_total_bytes_max),
            ("partial_bytes", gauges.partial_bytes, limits.partial_total_bytes_max),
            ("handshake_bytes", gauges.handshake_bytes, limits.handshake_total_bytes_max),
        ] {
            if value > bound {
                return Err(format!("worker {worker}: {name} is {value}, and at most {bound}"));
            }
        }
        Ok(())
    }

    /// When everything has come to rest: every batch was acknowledged by all.
    pub(crate) fn check_receipts(&self) -> Result<(), String> {
        match self.receipts.first_key_value() {
            None => Ok(()),
            Some((id, (members, _))) => Err(format!("{members:?} never acknowledged batch {id}")),
        }
    }

    /// When nobody is there any more: nothing is held for anybody, and everyone was counted once.
    pub(crate) fn check_gauges(&self) -> Result<(), String> {
        for (worker, gauges) in self.gauges.iter().enumerate() {
            let held = [
                ("connections", u64::from(gauges.connections)),
                ("handshakes", u64::from(gauges.handshakes)),
                ("topics", gauges.topics),
                ("subscriptions", gauges.subscriptions),
                ("send_queues", u64::from(gauges.send_queues)),
                ("send_queue_bytes", gauges.send_queue_bytes),
                ("partial_bytes", gauges.partial_bytes),
                ("handshake_bytes", gauges.handshake_bytes),
                ("fanout_jobs", u64::from(gauges.fanout_jobs)),
                ("fanout_publications", u64::from(gauges.fanout_publications)),
                ("fanout_bytes", gauges.fanout_bytes),
                ("publishers_paused", u64::from(gauges.publishers_paused)),
            ];
            if let Some((name, value)) = held.iter().find(|(_, value)| *value > 0) {
                return Err(format!("worker {worker}: {name} is {value}, though nobody is there"));
            }
        }
        if self.opened != self.closed {
            return Err(format!("{} were opened, and {} closed", self.opened, self.closed));
        }
        Ok(())
    }
}
