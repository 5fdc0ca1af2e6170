//! A load process: takes orders on its standard input, drives its connections on one ring and
//! one thread, and answers on its standard output.

use std::collections::HashMap;
use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use socket2::SockAddr;

use crate::calibration::Pairs;
use crate::clients::{Clients, Found};
use crate::failure::{Failure, Outcome};
use crate::frame::HEADER_BYTES_MAX;
use crate::groups::{Complete, Groups};
use crate::input::Orders;
use crate::order::{Counts, Note, Order, Plan, write_line};
use crate::payload::{Stamp, now_ns};
use crate::recorder::{Recorder, Tag};
use crate::returning::Returning;
use crate::ring::{Event, Ring};
use crate::scenario::Traffic;

/// Bytes of a receive buffer, at least and at most.
const BUFFER_BYTES: (usize, usize) = (512, 16 << 10);
/// Interval of the log, of progress, and the longest wait.
const INTERVAL_NS: u64 = 1_000_000_000;
const PROGRESS_NS: u64 = 200_000_000;
/// The longest wait for a batch in a closed loop: a server that joins messages fills fewer buffers.
const BATCH_WAIT_NS: u64 = 5_000_000;
/// A prime far from all counts of groups: its multiples visit each of them as if at random.
const SCATTER: u64 = 2_654_435_761;
/// How long no handshake may complete before the rest is given up.
const STUCK_NS: u64 = 20_000_000_000;

/// Opening up to a number of connections.
#[derive(Clone, Copy, Debug)]
struct Opening {
    until: u32,
    last_progress_ns: u64,
}

/// A run: sending until `ends_ns`, then waiting.
#[derive(Clone, Copy, Debug)]
struct Run {
    started_ns: u64,
    ends_ns: u64,
    /// How long what was sent may still be under way then.
    grace_ns: u64,
    /// Publications that were scheduled.
    scheduled: u64,
    /// True exactly while more is to be sent by this process.
    sending: bool,
    /// Shared group: the run is over when this many are complete.
    finish: Option<u32>,
    record: bool,
}

struct Generator {
    plan: Plan,
    ring: &'static mut Ring,
    clients: Clients,
    groups: Groups,
    recorder: Recorder,
    /// The next connection to open, and those that could not be.
    next_client: u32,
    failed: u32,
    why: Option<String>,
    opening: Option<Opening>,
    run: Option<Run>,
    counts: Counts,
    interval_start_ns: u64,
    next_progress_ns: u64,
    found: Vec<Found>,
    complete: Vec<Complete>,
    /// Churn: connections whose end is awaited, with the time their successor was meant to start.
    leaving: HashMap<u32, u64>,
    /// Connections whose end is awaited, and that nobody follows.
    departing: u32,
    returning: Returning,
    pairs: Option<Pairs>,
}

/// Runs a load process until its standard input ends.
pub(crate) fn run() -> Outcome<()> {
    let outcome = serve();
    if let Err(failure) = &outcome {
        note(&Note::Failed { why: failure.to_string() })?;
    }
    outcome
}

fn serve() -> Outcome<()> {
    let mut orders = Orders::default();
    let plan: Plan = loop {
        if !orders.read()? {
            return Err(Failure::run("no plan came"));
        }
        if let Some(plan) = orders.next()? {
            break plan;
        }
    };
    if let Some(core) = plan.core {
        pin(core)?;
    }
    raise_descriptor_limit();
    let mut generator = Generator::new(plan)?;
    generator.ring.poll(io::stdin().as_fd())?;
    let mut events = Vec::new();
    loop {
        // The first orders may have come with the plan.
        while let Some(order) = orders.next()? {
            generator.obey(order)?;
        }
        let (want, timeout) = generator.patience();
        generator.ring.wait(want, timeout, &mut events)?;
        for event in events.drain(..) {
            if matches!(event, Event::Readable) {
                if !orders.read()? {
                    return Ok(());
                }
                generator.ring.poll(io::stdin().as_fd())?;
                continue;
            }
            generator.handle(event)?;
        }
        generator.poll()?;
    }
}

impl Generator {
    fn new(plan: Plan) -> Outcome<Generator> {
        let (least, most) = BUFFER_BYTES;
        let buffer_bytes = (plan.size + HEADER_BYTES_MAX).next_power_of_two().clamp(least, most);
        let clients = Clients::new(&plan);
        let groups = Groups::new(&plan, |index| !clients.is_stalled(index));
        Ok(Generator {
            ring: Ring::leaked(SockAddr::from(plan.url.address), buffer_bytes)?,
            clients,
            groups,
            recorder: Recorder::new(),
            next_client: 0,
            failed: 0,
            why: None,
            opening: None,
            run: None,
            counts: Counts::default(),
            interval_start_ns: now_ns(),
            next_progress_ns: 0,
            found: Vec::new(),
            complete: Vec::new(),
            leaving: HashMap::new(),
            departing: 0,
            returning: Returning::default(),
            pairs: None,
            plan,
        })
    }

    /// How many completions to wait for, and how long at most.
    fn patience(&self) -> (usize, Duration) {
        let now = now_ns();
        let mut until = now + PROGRESS_NS;
        let mut want = 1;
        if let Some(deadline_ns) = self.returning.deadline_ns() {
            until = until.min(deadline_ns);
        }
        if let Some(run) = &self.run {
            if run.sending && self.is_scheduling() {
                until = until.min(self.intended_ns(run));
            } else if self.plan.rate == 0.0 && self.groups.remaining() > 1 {
                let batch = self.groups.remaining().min(self.plan.batch.into());
                want = usize::try_from(batch).unwrap_or(1);
                until = now + BATCH_WAIT_NS;
            }
            if run.sending {
                until = until.min(run.ends_ns);
            }
        }
        (want, Duration::from_nanos(until.saturating_sub(now)))
    }

    fn obey(&mut self, order: Order) -> Outcome<()> {
        let now = now_ns();
        match order {
            Order::Open { clients } => {
                let until = clients.min(self.plan.clients());
                self.interval_start_ns = now;
                self.opening = Some(Opening { until, last_progress_ns: now });
            }
            Order::Run { duration_ns, grace_ns, record } => {
                self.counts = Counts::default();
                self.clients.take_received();
                self.recorder.clear();
                self.interval_start_ns = now;
                self.run = Some(Run {
                    started_ns: now,
                    ends_ns: now + duration_ns,
                    grace_ns,
                    scheduled: 0,
                    sending: true,
                    finish: None,
                    record,
                });
                self.start_sending(now)?;
            }
            Order::Publish => self.publish_again(0, now)?,
            Order::Finish { published } => {
                if let Some(run) = &mut self.run {
                    run.finish = Some(published);
                    run.sending = false;
                    run.ends_ns = run.ends_ns.min(now);
                }
            }
            Order::Leave => {
                for index in 0..self.next_client {
                    self.departing += u32::from(self.clients.leave(index, self.ring)?);
                }
                if self.departing == 0 {
                    note(&Note::Ready)?;
                }
            }
            Order::Pairs { count } => {
                self.pairs = Some(Pairs::open(count)?);
                note(&Note::Ready)?;
            }
            Order::ArmPairs => {
                if let Some(pairs) = &self.pairs {
                    pairs.arm(self.ring)?;
                }
                note(&Note::Ready)?;
            }
            Order::ClosePairs => {
                self.pairs = None;
                note(&Note::Ready)?;
            }
        }
        Ok(())
    }

    /// Sends the first publication of every group in a closed loop.
    fn start_sending(&mut self, now: u64) -> Outcome<()> {
        if self.plan.rate > 0.0 {
            return Ok(());
        }
        for group in 0..self.groups.count() {
            self.publish(group, now)?;
        }
        Ok(())
    }

    fn handle(&mut self, event: Event) -> Outcome<()> {
        let mut found = std::mem::take(&mut self.found);
        self.clients.handle(event, self.ring, &mut found)?;
        for found in found.drain(..) {
            self.handle_found(found)?;
        }
        self.found = found;
        Ok(())
    }

    fn handle_found(&mut self, found: Found) -> Outcome<()> {
        match found {
            Found::Opened { latency_ns } => {
                let tag = if self.run.is_some() { Tag::Reopen } else { Tag::Handshake };
                self.recorder.record(tag, latency_ns);
                self.counts.reopened += u64::from(self.run.is_some());
                if let Some(opening) = &mut self.opening {
                    opening.last_progress_ns = now_ns();
                }
            }
            Found::Refused { index, .. } if self.plan.returns => {
                self.returning.refuse(index, now_ns());
            }
            Found::Refused { why, .. } => {
                self.counts.lost += u64::from(self.run.is_some());
                self.failed += 1;
                self.why.get_or_insert(why);
            }
            Found::Message { index, sequence, intended_ns, missed } => {
                return self.handle_message(index, (sequence, intended_ns), missed);
            }
            Found::Repeated => self.counts.repeated += 1,
            Found::Broken { why } => self.handle_broken(why),
            Found::Ping => self.counts.pings += 1,
            Found::Lost { index, expected, why } => {
                self.counts.lost += 1;
                if self.plan.returns {
                    self.returning.lose(index);
                } else {
                    self.why.get_or_insert(why);
                }
                self.counts.missing += self.groups.lose(index, expected, &mut self.complete);
                self.handle_complete()?;
            }
            Found::Left { index } => {
                if let Some(since_ns) = self.leaving.remove(&index) {
                    self.clients.start(index, since_ns, self.ring)?;
                } else if self.departing > 0 {
                    self.departing -= 1;
                    if self.departing == 0 {
                        note(&Note::Ready)?;
                    }
                }
            }
        }
        Ok(())
    }

    fn handle_broken(&mut self, why: &str) {
        self.counts.broken += 1;
        self.why.get_or_insert_with(|| why.to_owned());
    }

    fn handle_message(
        &mut self,
        index: u32,
        (sequence, intended_ns): (u32, u64),
        missed: u32,
    ) -> Outcome<()> {
        let publication = (sequence, intended_ns);
        if !self.groups.receive(index, publication, missed, &mut self.complete) {
            self.handle_broken("a message that was not sent");
            return Ok(());
        }
        self.counts.delivered += 1;
        self.counts.missing += u64::from(missed);
        self.recorder.record(Tag::Delivery, now_ns().saturating_sub(intended_ns));
        self.handle_complete()
    }

    /// Deals with the publications that every member has now.
    fn handle_complete(&mut self) -> Outcome<()> {
        let mut complete = std::mem::take(&mut self.complete);
        for complete in complete.drain(..) {
            let now = now_ns();
            let latency_ns = now.saturating_sub(complete.intended_ns);
            if self.plan.shared {
                note(&Note::Have { sequence: complete.sequence, latency_ns })?;
                continue;
            }
            self.recorder.record(Tag::Last, latency_ns);
            if self.plan.rate == 0.0 {
                self.publish_again(complete.group, now)?;
            }
        }
        self.complete = complete;
        Ok(())
    }

    /// Closed loop: publishes the next of `group`, unless the run has ended.
    fn publish_again(&mut self, group: u32, now: u64) -> Outcome<()> {
        match &self.run {
            Some(run) if run.sending && now < run.ends_ns => self.publish(group, now),
            _ => Ok(()),
        }
    }

    fn publish(&mut self, group: u32, intended_ns: u64) -> Outcome<()> {
        let Some(publisher) = self.groups.publisher(group) else { return Ok(()) };
        let sequence = self.groups.publish(group, intended_ns).into();
        self.counts.published += 1;
        self.clients.send_message(publisher, Stamp { sequence, intended_ns }, self.ring)?;
        Ok(())
    }

    /// True exactly when this process sends on schedule.
    fn is_scheduling(&self) -> bool {
        let publishes = !self.plan.shared || self.plan.publisher;
        self.plan.rate > 0.0 && self.plan.traffic != Traffic::None && publishes
    }

    /// When the next publication of an open loop is meant to leave.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_precision_loss,
        clippy::cast_sign_loss,
        reason = "nanoseconds of a run are far below 2^53 and positive"
    )]
    fn intended_ns(&self, run: &Run) -> u64 {
        run.started_ns + (run.scheduled as f64 * 1e9 / self.plan.rate) as u64
    }

    /// Does all that is due by now.
    fn poll(&mut self) -> Outcome<()> {
        self.poll_opening()?;
        self.poll_returning()?;
        self.poll_schedule()?;
        self.poll_over()?;
        let now = now_ns();
        if self.run.is_some_and(|run| run.record) && now >= self.interval_start_ns + INTERVAL_NS {
            self.note_interval(now)?;
        }
        if now >= self.next_progress_ns && (self.run.is_some() || self.opening.is_some()) {
            self.next_progress_ns = now + PROGRESS_NS;
            let delivered = self.counts.delivered + self.counts.reopened;
            note(&Note::Progress { open: self.clients.open(), delivered })?;
        }
        Ok(())
    }

    fn poll_opening(&mut self) -> Outcome<()> {
        let Some(opening) = self.opening else { return Ok(()) };
        let now = now_ns();
        while self.next_client < opening.until && self.clients.can_start() {
            self.clients.start(self.next_client, now, self.ring)?;
            self.next_client += 1;
        }
        let stuck = now > opening.last_progress_ns + STUCK_NS;
        if stuck {
            self.why.get_or_insert_with(|| "the server stopped answering".to_owned());
            self.failed += opening.until - self.next_client + self.clients.opening();
        }
        let nobody_waits = self.clients.opening() == 0 && self.returning.deadline_ns().is_none();
        if stuck || (self.next_client == opening.until && nobody_waits) {
            self.opening = None;
            self.note_interval(now)?;
            let (open, failed, why) = (self.clients.open(), self.failed, self.why.take());
            note(&Note::Opened { open, failed, why })?;
        }
        Ok(())
    }

    /// Opens those that come back, and says when all were lost and are open.
    fn poll_returning(&mut self) -> Outcome<()> {
        let now = now_ns();
        while self.clients.can_start() {
            let Some(index) = self.returning.poll(now) else { break };
            self.clients.start(index, now, self.ring)?;
        }
        let open = self.clients.open();
        if self.returning.take_end(open, self.next_client) {
            note(&Note::Opened { open, failed: 0, why: None })?;
        }
        Ok(())
    }

    /// Sends what is due of an open loop, and notices that a run's time is up.
    fn poll_schedule(&mut self) -> Outcome<()> {
        let Some(mut run) = self.run else { return Ok(()) };
        if !run.sending {
            return Ok(());
        }
        let now = now_ns();
        // Another process publishes to a shared group, and says when it is over.
        if self.plan.shared && !self.plan.publisher {
            return Ok(());
        }
        if self.is_scheduling() {
            loop {
                let intended_ns = self.intended_ns(&run);
                if intended_ns >= run.ends_ns || intended_ns > now {
                    break;
                }
                self.send_scheduled(run.scheduled, intended_ns)?;
                run.scheduled += 1;
            }
        }
        let idle = self.plan.rate == 0.0 && self.plan.shared && self.groups.remaining() > 0;
        run.sending = now < run.ends_ns || idle;
        if !run.sending && self.plan.shared {
            run.finish = Some(self.groups.next(0));
            note(&Note::Published { published: self.groups.next(0) })?;
        }
        self.run = Some(run);
        Ok(())
    }

    fn send_scheduled(&mut self, number: u64, intended_ns: u64) -> Outcome<()> {
        if self.plan.traffic == Traffic::Churn {
            let index = number % u64::from(self.plan.connections.max(1));
            let index = u32::try_from(index).unwrap_or(0);
            if self.clients.leave(index, self.ring)? {
                self.counts.published += 1;
                self.leaving.insert(index, intended_ns);
            }
            return Ok(());
        }
        let groups = u64::from(self.groups.count().max(1));
        // Neighbours in time should be none in the tables of a server, whose caches would help.
        let step = if self.plan.traffic == Traffic::Rooms { SCATTER } else { 1 };
        let group = u32::try_from(number * step % groups).unwrap_or(0);
        self.publish(group, intended_ns)
    }

    /// Ends a run whose last message has arrived, or whose grace is over.
    fn poll_over(&mut self) -> Outcome<()> {
        let Some(run) = self.run.filter(|run| !run.sending) else { return Ok(()) };
        let now = now_ns();
        let is_complete = match run.finish {
            Some(finish) => self.groups.first(0) >= finish,
            None => self.groups.remaining() == 0,
        };
        let is_quiet = self.leaving.is_empty() && self.clients.opening() == 0;
        if !(is_complete && is_quiet) && now < run.ends_ns + run.grace_ns {
            return Ok(());
        }
        self.counts.missing += self.groups.give_up();
        if !self.leaving.is_empty() {
            self.why.get_or_insert_with(|| "a Close was not answered by closing".to_owned());
            self.counts.lost += self.leaving.drain().count() as u64;
        }
        self.run = None;
        (self.counts.frame_bytes, self.counts.compressed) = self.clients.take_received();
        if run.record {
            self.note_interval(now)?;
        }
        note(&Note::Done { counts: self.counts, why: self.why.take() })
    }

    fn note_interval(&mut self, now: u64) -> Outcome<()> {
        let histograms = self.recorder.take()?;
        let start_ns = std::mem::replace(&mut self.interval_start_ns, now);
        if histograms.is_empty() {
            return Ok(());
        }
        note(&Note::Interval { start_ns, end_ns: now, histograms })
    }
}

fn note(note: &Note) -> Outcome<()> {
    write_line(io::stdout().lock(), note).map_err(Failure::run)
}

fn pin(core: usize) -> Outcome<()> {
    let mut cpus = rustix::thread::CpuSet::new();
    cpus.set(core);
    rustix::thread::sched_setaffinity(None, &cpus)
        .map_err(|error| Failure::run(format!("core {core}: {error}")))
}

/// Lifts the soft limit of descriptors to the hard one, which the command has planned with.
fn raise_descriptor_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    // Where this fails, opening connections fails and says why.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
}
