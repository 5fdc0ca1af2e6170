//! Guest 0 of the mesh: the one task that owns the endpoint. It posts what handlers ask for,
//! gathers the answers, fetches a report of every worker once a second, and tells the supervisor how
//! the process is. How that ends, how connections are removed and what becomes of reports stands in
//! files of their own.

mod ending;
mod removing;
mod reports;

use std::{io, os::fd::OwnedFd, sync::Arc, time::Duration};

use hub::{Batch, Inquiry, Interested, Letter, Question, Selection};
use mesh::{Delivery, Endpoint, Full, Member};
use rustix::time::{ClockId, clock_gettime};
use tokio::{
    io::{Interest, unix::AsyncFd},
    sync::{OwnedSemaphorePermit, mpsc, oneshot},
    time::{Interval, MissedTickBehavior, interval},
};
use worker::{Publication, Report, Stage, Time, Waker};

use self::ending::{Phase, delay_over};
use super::{
    Control, Exit, Level,
    blocks::Blocks,
    client_tokens::ClientTokens,
    outstanding::{Answer, Found, Outstanding, Removed},
    settings::News,
    signals::Asked,
    supervisor::Supervisor,
};
use crate::{
    facts::WorkerEnd,
    reload::{Changes, Reload},
};

/// How often every worker is asked for a report.
const REPORT_INTERVAL: Duration = Duration::from_secs(1);

/// A worker whose last report is older hangs, as far as the supervisor's watchdog goes, unless the
/// time between two signs of life is longer: then that counts.
const REPORT_AGE_MAX: Duration = Duration::from_secs(3);

/// Places of each queue to a worker that publications and questions leave free: one for a report,
/// one for the drain.
const RESERVED_LETTERS: usize = 2;

/// Batches and questions that are not answered by all workers yet, whatever the queues would hold.
const OUTSTANDING_MAX: usize = 256;

/// Requests handled between two looks at everything else.
const REQUESTS_A_TURN_MAX: usize = 64;

/// What a handler asks for.
#[derive(Debug)]
pub(super) enum Request {
    /// Publish these in this order, all or nothing.
    Publish {
        /// What to publish.
        publications: Vec<Arc<Publication>>,
        /// Given back when every worker has taken them.
        permit: OwnedSemaphorePermit,
        /// Where the outcome goes.
        reply: oneshot::Sender<Posted<Vec<u64>>>,
    },
    /// Ask every worker.
    Ask {
        /// The question.
        inquiry: Inquiry,
        /// Where the outcome goes.
        reply: oneshot::Sender<Posted<Found>>,
    },
    /// Close these connections, and block the subject where one is named.
    Remove {
        /// Which ones.
        selection: Selection,
        /// How many seconds the subject is blocked at least, where that was asked for.
        block_seconds: Option<u64>,
        /// Where the outcome goes.
        reply: oneshot::Sender<Posted<Removed>>,
    },
}

/// What became of a request: the workers have it and the answer will come, or there was no room for
/// it and none of them has it.
pub(super) type Posted<T> = Result<oneshot::Receiver<T>, NoRoom>;

/// What had no room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NoRoom {
    /// Some worker's queue.
    Letters,
    /// The list of those who are blocked.
    Blocks {
        /// In how many seconds there is room again.
        seconds: u64,
    },
}

/// What the guest waits for.
enum Event {
    Woken,
    Asked(Option<Request>),
    Ended(Option<WorkerEnd>),
    Signalled(Option<Asked>),
    ReportsDue,
    BeatDue,
    DelayOver,
}

/// The owner of the endpoint.
pub(super) struct Guest {
    control: Arc<Control>,
    endpoint: Endpoint<Letter>,
    wakers: Vec<Arc<dyn Waker>>,
    wake_fd: AsyncFd<OwnedFd>,
    outstanding: Outstanding,
    workers: Vec<WorkerState>,
    tokens: Option<ClientTokens>,
    blocks: Blocks,
    supervisor: Supervisor,
    reload: Option<Reload>,
    news: News,
    phase: Phase,
    /// Why the process fails once the other workers have drained.
    failure: Option<String>,
}

/// What the guest keeps of a worker.
#[derive(Debug)]
struct WorkerState {
    /// True exactly when its thread has not ended.
    alive: bool,
    /// True exactly when it was posted the drain.
    told_to_drain: bool,
    /// The one report that goes to and fro, while it is here.
    report: Option<Box<Report>>,
    /// When its last report came; at first when the guest was made.
    heard_at: tokio::time::Instant,
    /// When it was last asked for its report, in seconds since 1970.
    asked_at: u64,
    /// The same for the last report that has come: all that it had refused until then is known.
    known_until: u64,
    /// Places of its queue that publications and questions leave free.
    reserved_letters: usize,
}

impl Guest {
    /// The guest, with as many workers as there are wakers.
    ///
    /// # Errors
    /// The descriptor cannot be waited for.
    pub(super) fn new(
        control: Arc<Control>,
        endpoint: Endpoint<Letter>,
        wakers: Vec<Arc<dyn Waker>>,
        wake_fd: OwnedFd,
        tokens: Option<ClientTokens>,
        supervisor: Supervisor,
        reload: Option<Reload>,
    ) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&wake_fd, true)?;
        #[expect(
            deprecated,
            reason = "its successor is unsafe for types whose descriptor may change; an `OwnedFd` \
                      names one descriptor until it is dropped"
        )]
        let wake_fd = AsyncFd::with_interest(wake_fd, Interest::READABLE)?;
        // An empty queue shows its capacity; those from the workers are made equal to it.
        let rooms: Vec<usize> = members(wakers.len()).map(|member| endpoint.room(member)).collect();
        // A worker's report may bring what it has refused beside it.
        let answers_max = rooms.iter().min().copied().unwrap_or(0).saturating_sub(2).max(1);
        let workers = rooms
            .into_iter()
            .map(|room| WorkerState {
                alive: true,
                told_to_drain: false,
                report: Some(Box::default()),
                heard_at: tokio::time::Instant::now(),
                asked_at: 0,
                known_until: 0,
                reserved_letters: RESERVED_LETTERS.min(room.saturating_sub(1)),
            })
            .collect();
        let blocks = Blocks::new(control.limits().blocked_subs_max as usize, wakers.len());
        Ok(Self {
            control,
            endpoint,
            wakers,
            wake_fd,
            outstanding: Outstanding::new(answers_max.min(OUTSTANDING_MAX)),
            workers,
            tokens,
            blocks,
            supervisor,
            reload,
            news: News::default(),
            phase: Phase::Serving,
            failure: None,
        })
    }

    /// Serves until the process is to end.
    pub(super) async fn run(
        mut self,
        mut requests: mpsc::Receiver<Request>,
        mut worker_ends: mpsc::Receiver<WorkerEnd>,
        mut signals: mpsc::Receiver<Asked>,
    ) -> Exit {
        let mut reports = interval(REPORT_INTERVAL);
        reports.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut beats = self.supervisor.beat_interval().map(interval);
        self.tell_ready();
        loop {
            self.take_letters();
            self.post_drain();
            self.post_access();
            self.post_unblocks();
            self.post_news();
            self.wake_workers();
            if !self.endpoint.park() {
                self.endpoint.unpark();
                continue;
            }
            let event = tokio::select! {
                () = woken(&self.wake_fd) => Event::Woken,
                request = requests.recv() => Event::Asked(request),
                end = worker_ends.recv() => Event::Ended(end),
                asked = signals.recv() => Event::Signalled(asked),
                _ = reports.tick() => Event::ReportsDue,
                () = beat_due(beats.as_mut()) => Event::BeatDue,
                () = delay_over(self.phase) => Event::DelayOver,
            };
            self.endpoint.unpark();
            if let Some(exit) = self.handle_event(event, &mut requests) {
                return exit;
            }
        }
    }

    fn handle_event(
        &mut self,
        event: Event,
        requests: &mut mpsc::Receiver<Request>,
    ) -> Option<Exit> {
        match event {
            Event::Woken => {}
            Event::Asked(request) => {
                let more = std::iter::from_fn(|| requests.try_recv().ok());
                for request in request.into_iter().chain(more).take(REQUESTS_A_TURN_MAX) {
                    self.handle_request(request);
                }
            }
            Event::Ended(end) => return self.handle_end(end),
            Event::Signalled(Some(Asked::Reload)) => self.reload(),
            Event::Signalled(Some(Asked::Stop)) => return self.stop(),
            // The task that listens for signals cannot end before its receiver.
            Event::Signalled(None) => {}
            Event::ReportsDue => self.exchange_reports(),
            Event::BeatDue => self.beat(),
            Event::DelayOver => self.begin_draining(),
        }
        None
    }

    // What handlers ask for.

    fn handle_request(&mut self, request: Request) {
        match request {
            Request::Publish { publications, permit, reply } => {
                let workers = self.interested(&publications);
                let posted = if self.has_room(workers) {
                    Ok(self.publish(workers, publications, permit))
                } else {
                    let refused = publications.len() as u64;
                    self.control.record().totals.publications_refused += refused;
                    Err(NoRoom::Letters)
                };
                // Who has left does not need the outcome.
                let _ = reply.send(posted);
            }
            Request::Ask { inquiry, reply } => {
                let has_room = self.has_room(self.everyone());
                let posted = if has_room { Ok(self.ask(inquiry)) } else { Err(NoRoom::Letters) };
                let _ = reply.send(posted);
            }
            Request::Remove { selection, block_seconds, reply } => {
                let has_room = self.has_room(self.everyone());
                let _ = reply.send(self.remove(selection, block_seconds, has_room));
            }
        }
    }

    /// Those that have subscribers of any of these, and perhaps others.
    fn interested(&self, publications: &[Arc<Publication>]) -> Interested {
        let mut workers = Interested::NOBODY;
        for publication in publications {
            workers |= self.control.facts.interest.of(publication.topic());
        }
        workers
    }

    fn everyone(&self) -> Interested {
        Interested::first(u16::try_from(self.workers.len()).unwrap_or(u16::MAX))
    }

    fn publish(
        &mut self,
        workers: Interested,
        publications: Vec<Arc<Publication>>,
        permit: OwnedSemaphorePermit,
    ) -> oneshot::Receiver<Vec<u64>> {
        let (reply, answered) = oneshot::channel();
        let receivers = vec![0; publications.len()];
        let (id, as_of) = (self.outstanding.next_id(), workers.as_of());
        let batch = Arc::new(Batch { id, as_of, publications });
        let awaited = self.post_to(workers, || Letter::Batch(Arc::clone(&batch)));
        self.record_encoded(&batch);
        let answer = Answer::Receivers { receivers, reply, permit: Some(permit) };
        let answer = self.outstanding.insert(awaited, answer);
        self.give(answer);
        answered
    }

    /// Times what workers time of their own clients' publications: received until handed on.
    fn record_encoded(&self, batch: &Batch) {
        let now = now();
        let mut record = self.control.record();
        for publication in &batch.publications {
            let span = now.since(publication.received_at());
            record.totals.stages.record(Stage::Encode, span);
            record.intervals.record(Stage::Encode, span);
        }
    }

    fn ask(&mut self, inquiry: Inquiry) -> oneshot::Receiver<Found> {
        let (reply, answered) = oneshot::channel();
        let question = Arc::new(Question { id: self.outstanding.next_id(), inquiry });
        let awaited = self.post_to(self.everyone(), || Letter::Ask(Arc::clone(&question)));
        let answer = Answer::Found { found: Found::new(), reply };
        let answer = self.outstanding.insert(awaited, answer);
        self.give(answer);
        answered
    }

    /// Whether a letter fits the queues of these workers, and its answer the queue back. Both stay
    /// true until something is posted, because nobody else posts here.
    fn has_room(&self, workers: Interested) -> bool {
        self.outstanding.has_room()
            && members(self.workers.len()).zip(&self.workers).all(|(member, worker)| {
                !worker.alive
                    || !workers.contains(member)
                    || self.endpoint.room(member) > worker.reserved_letters
            })
    }

    /// Posts to those of these workers whose threads run, after [`Self::has_room`]; marks which
    /// those are.
    fn post_to(&mut self, workers: Interested, letter: impl Fn() -> Letter) -> Vec<bool> {
        let now = now().0;
        let mut awaited = vec![false; self.workers.len()];
        for (member, worker) in members(awaited.len()).zip(&self.workers) {
            if worker.alive && workers.contains(member) {
                let posted = self.endpoint.post(member, letter(), now);
                assert!(posted.is_ok(), "a queue with room has it until its only producer posts");
                awaited[usize::from(member.0)] = true;
            }
        }
        awaited
    }

    // What workers answer.

    fn take_letters(&mut self) {
        // Bounded: every letter answers one of ours.
        while let Some(Delivery { from, letter, .. }) = self.endpoint.take() {
            let worker = usize::from(from.0);
            match letter {
                Letter::Receipt(receipt) => {
                    let answer = self.outstanding.handle_receipt(worker, &receipt);
                    self.give(answer);
                }
                Letter::Tell(reply) => {
                    let answer = self.outstanding.handle_reply(worker, *reply);
                    self.give(answer);
                }
                Letter::Report(report) => self.handle_report(worker, report),
                Letter::Refused(refused) => self.extend_blocks(&refused),
                // For workers only: a guest has no subscribers and is asked nothing.
                Letter::Publication { .. }
                | Letter::Batch(_)
                | Letter::Ask(_)
                | Letter::Drain(_)
                | Letter::Access(_)
                | Letter::Unblock(_)
                | Letter::Settings(_) => {}
            }
        }
    }

    fn wake_workers(&mut self) {
        while let Some(member) = self.endpoint.poll_wake() {
            self.wakers[usize::from(member.0)].wake();
        }
    }

    /// Tells the workers what to verify tokens with, if that has changed.
    fn post_access(&mut self) {
        let Self { tokens: Some(tokens), workers, endpoint, .. } = self else { return };
        tokens.tell(|worker, letter| tell(workers, endpoint, worker, letter).is_ok());
    }

    /// Tells the workers what they are to go by, if that has changed.
    fn post_news(&mut self) {
        let Self { news, workers, endpoint, .. } = self;
        news.tell(|worker, letter| tell(workers, endpoint, worker, letter));
    }

    // What the supervisor is told.

    fn tell_ready(&self) {
        let facts = &self.control.facts;
        let addresses: Vec<_> = facts.data_addresses.iter().map(ToString::to_string).collect();
        self.supervisor.tell(&format!(
            "READY=1\nSTATUS=serving up to {} connections on {}",
            facts.connections_max,
            addresses.join(", ")
        ));
    }

    /// A sign of life, unless a worker gives none.
    fn beat(&self) {
        let beat_interval = self.supervisor.beat_interval().unwrap_or_default();
        let age_max = beat_interval.max(REPORT_AGE_MAX);
        let is_fresh = |worker: &WorkerState| !worker.alive || worker.heard_at.elapsed() <= age_max;
        if self.workers.iter().all(is_fresh) {
            self.supervisor.tell("WATCHDOG=1");
        }
    }

    // What is read again.

    fn reload(&mut self) {
        let began_usec = now().0 / 1_000;
        self.supervisor.tell(&format!("RELOADING=1\nMONOTONIC_USEC={began_usec}"));
        self.reload_configuration();
        self.reload_tokens();
        self.tell_ready();
    }

    fn reload_configuration(&mut self) {
        let journal = &self.control.journal;
        match self.reload.as_mut().map(Reload::read) {
            None => {}
            Some(Err(error)) => {
                journal.line(Level::Warn, "the old configuration stays", vec![("error", error)]);
            }
            Some(Ok(Changes { changed, kept, control, workers })) => {
                self.control.adopt(control);
                self.news.replace(workers);
                let fields = vec![("changed", changed.join(" "))];
                journal.line(Level::Info, "configuration reloaded", fields);
                if !kept.is_empty() {
                    let fields = vec![("settings", kept.join(" "))];
                    journal.line(Level::Warn, "these change with a restart only", fields);
                }
            }
        }
    }

    fn reload_tokens(&mut self) {
        if let Some(tokens) = &mut self.tokens {
            tokens.reload(now(), &self.control.journal);
        }
        let journal = &self.control.journal;
        match self.control.access.reload() {
            Ok(true) => {
                let short = self.control.access.short_tokens().to_string();
                journal.line(Level::Info, "tokens reloaded", vec![("short", short)]);
            }
            Ok(false) => {}
            Err(error) => {
                journal.line(Level::Warn, "the old tokens stay", vec![("error", error)]);
            }
        }
    }
}

/// Posts a letter to a worker, if it has not ended. Gives the letter back where there is no room.
fn tell(
    workers: &[WorkerState],
    endpoint: &mut Endpoint<Letter>,
    worker: usize,
    letter: Letter,
) -> Result<(), Letter> {
    if !workers[worker].alive {
        return Ok(());
    }
    let member = Member(u16::try_from(worker).unwrap_or(u16::MAX));
    endpoint.post(member, letter, now().0).map_err(|Full(letter)| letter)
}

/// The workers of a mesh; they come before its guests.
fn members(workers: usize) -> impl Iterator<Item = Member> {
    (0..u16::try_from(workers).unwrap_or(u16::MAX)).map(Member)
}

/// The clock that the engines read, so that a publication's way is timed from its beginning here.
pub(crate) fn now() -> Time {
    let now = clock_gettime(ClockId::Monotonic);
    let whole_ns = u64::try_from(now.tv_sec).unwrap_or(0).saturating_mul(1_000_000_000);
    Time(whole_ns.saturating_add(u64::try_from(now.tv_nsec).unwrap_or(0)))
}

/// Completes when a worker has posted to the parked guest.
async fn woken(wake_fd: &AsyncFd<OwnedFd>) {
    // An error means that the runtime is gone, and the caller with it.
    let Ok(mut ready) = wake_fd.readable().await else { return };
    // Reading takes every wake there was, and a later one makes the descriptor ready anew.
    let _ = rustix::io::read(ready.get_inner(), &mut [0; 8]);
    ready.clear_ready();
}

/// Completes when the supervisor is to get a sign of life; never where it wants none.
async fn beat_due(beats: Option<&mut Interval>) {
    match beats {
        Some(beats) => drop(beats.tick().await),
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
