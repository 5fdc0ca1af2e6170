//! The clients of a check: load processes that open connections, keep them, and let them go.

use std::time::Duration;

use hdrhistogram::Histogram;

use crate::dialect::Dialect;
use crate::failure::{Failure, Outcome};
use crate::memory::{self, HalfWeights};
use crate::order::{self, Counts, Encoded, Note, Order, Plan};
use crate::payload::Kind;
use crate::plan::CONNECTIONS_PER_PROCESS;
use crate::processes::{Incomplete, Processes};
use crate::recorder::{self, Tag, histogram};
use crate::scenario::Traffic;
use crate::url::Url;

/// How long what was sent may be under way at the end of a run.
const GRACE: Duration = Duration::from_secs(10);

/// What a crowd does beside being there.
#[derive(Clone, Copy, Debug)]
pub(super) struct Purpose {
    pub(super) connections: u32,
    /// Number of its first connection, which decides its source address.
    pub(super) first: u32,
    /// True exactly when they offer permessage-deflate.
    pub(super) compression: bool,
    /// Publications per second by one more connection to all others; 0: the next when everybody has
    /// the last. With rooms: in all, each time to another room.
    pub(super) rate: Option<f64>,
    /// Members of a room, whose number is {room} in the URL; 1: no rooms.
    pub(super) room_members: u32,
    /// True exactly when they leave and come back instead, at that rate.
    pub(super) churns: bool,
    /// Messages that a process waits for before it wakes up, in a closed loop.
    pub(super) batch: u32,
    /// How long what was sent may be under way at the end of a run.
    pub(super) grace: Duration,
    /// True exactly when connections that are lost come back, as often as it takes.
    pub(super) returns: bool,
    /// Bytes of a publication.
    pub(super) size: usize,
    /// Subscribers that never read, in per cent.
    pub(super) stalled_percent: f64,
    /// CPU to run on.
    pub(super) core: Option<usize>,
}

/// Opened connections; dropping resets them.
pub(super) struct Crowd {
    processes: Processes,
    /// What each process has.
    plans: Vec<Plan>,
    /// Connections that are open.
    pub(super) open: u32,
    /// Connections that could not be opened, and why the first of them could not.
    pub(super) failed: u32,
    pub(super) why: Option<String>,
    grace: Duration,
    /// True exactly when a fan-out over several processes waits until all of them have the last.
    is_shared_loop: bool,
    incomplete: Incomplete,
    /// From when a message was meant to leave to its arrival, since [`Crowd::measure`].
    latencies: Histogram<u64>,
    /// The same to the last subscriber of each publication.
    last: Histogram<u64>,
}

impl Purpose {
    /// To be there.
    pub(super) fn idle(connections: u32) -> Purpose {
        Purpose {
            connections,
            first: 0,
            compression: false,
            rate: None,
            room_members: 1,
            churns: false,
            batch: 1,
            grace: GRACE,
            returns: false,
            size: 16,
            stalled_percent: 0.0,
            core: None,
        }
    }

    fn plans(&self, url: &Url) -> Vec<Plan> {
        // A room lies within one process.
        let most = CONNECTIONS_PER_PROCESS - CONNECTIONS_PER_PROCESS % self.room_members;
        let count = self.connections.div_ceil(most);
        let traffic = match self.rate {
            None => Traffic::None,
            Some(_) if self.churns => Traffic::Churn,
            Some(_) if self.room_members > 1 => Traffic::Rooms,
            Some(_) => Traffic::Fanout,
        };
        let publishes = traffic == Traffic::Fanout;
        let rate = self.rate.unwrap_or(0.0);
        let plan = |number: u32| {
            let first = number * most;
            Plan {
                url: url.clone(),
                dialect: Dialect::Plain,
                compression: self.compression,
                traffic,
                first: self.first + first,
                connections: most.min(self.connections - first),
                publisher: publishes && number == 0,
                shared: publishes && count > 1,
                size: self.size,
                payload: Kind::Filler,
                rate: if publishes { rate } else { rate / f64::from(count) },
                room_members: self.room_members,
                stalled_percent: self.stalled_percent,
                batch: self.batch,
                returns: self.returns,
                core: self.core,
            }
        };
        (0..count).map(plan).collect()
    }
}

impl Crowd {
    /// Starts the processes and opens the connections.
    pub(super) fn open(url: &Url, purpose: &Purpose) -> Outcome<Crowd> {
        let mut crowd = Crowd::prepare(url, purpose)?;
        crowd.open_planned()?;
        Ok(crowd)
    }

    /// Starts the processes, which open nothing yet.
    pub(super) fn prepare(url: &Url, purpose: &Purpose) -> Outcome<Crowd> {
        let plans = purpose.plans(url);
        let processes = Processes::start(&plans)?;
        Ok(Crowd {
            processes,
            open: 0,
            failed: 0,
            why: None,
            grace: purpose.grace,
            is_shared_loop: plans.iter().any(|plan| plan.shared && plan.rate == 0.0),
            incomplete: Incomplete::default(),
            latencies: histogram(),
            last: histogram(),
            plans,
        })
    }

    /// As [`Crowd::open`], and an error when not all of them open.
    pub(super) fn open_all(url: &Url, purpose: &Purpose) -> Outcome<Crowd> {
        let mut crowd = Crowd::prepare(url, purpose)?;
        crowd.open_all_planned()?;
        Ok(crowd)
    }

    /// Weighs the client's half of a connection's kernel memory, before any is open.
    pub(super) fn weigh_halves(&mut self) -> Outcome<HalfWeights> {
        memory::weigh_halves(&mut self.processes)
    }

    /// Opens the connections, and an error when not all of them open.
    pub(super) fn open_all_planned(&mut self) -> Outcome<()> {
        self.open_planned()?;
        if self.failed == 0 {
            return Ok(());
        }
        let why = self.why.as_deref().unwrap_or("no reason was seen");
        Err(Failure::run(format!("{} connections were not opened: {why}", self.failed)))
    }

    /// Opens connections until each process has tried all of its own.
    fn open_planned(&mut self) -> Outcome<()> {
        for number in 0..self.processes.count() {
            let clients = self.plans[number].clients();
            self.processes.tell(number, Order::Open { clients })?;
            self.await_open(order::awaited(&self.plans, number))?;
        }
        Ok(())
    }

    /// Waits until so many processes have said that their connections are open or have failed.
    fn await_open(&mut self, mut waiting: usize) -> Outcome<()> {
        while waiting > 0 {
            if let (_, Note::Opened { open, failed, why }) = self.processes.next()? {
                self.open += open;
                self.failed += failed;
                self.why = self.why.take().or(why);
                waiting -= 1;
            }
        }
        Ok(())
    }

    /// Waits until those that were lost are open again.
    pub(super) fn await_return(&mut self) -> Outcome<()> {
        self.open = 0;
        self.await_open(self.processes.count())
    }

    /// Lets it do what it is there for. Answered by [`Crowd::finish`].
    pub(super) fn begin(&mut self, duration: Duration) -> Outcome<()> {
        self.order(duration, false)
    }

    /// As [`Crowd::begin`], and records latencies.
    pub(super) fn measure(&mut self, duration: Duration) -> Outcome<()> {
        self.latencies.clear();
        self.last.clear();
        self.order(duration, true)
    }

    /// What the last run that was measured has recorded.
    pub(super) fn latencies(&self) -> &Histogram<u64> {
        &self.latencies
    }

    /// The same to the last subscriber of each publication.
    pub(super) fn last(&self) -> &Histogram<u64> {
        &self.last
    }

    fn order(&mut self, duration: Duration, record: bool) -> Outcome<()> {
        let duration_ns = u64::try_from(duration.as_nanos()).map_err(Failure::run)?;
        let grace_ns = u64::try_from(self.grace.as_nanos()).map_err(Failure::run)?;
        self.incomplete.clear();
        self.processes.tell_all(Order::Run { duration_ns, grace_ns, record })
    }

    /// What happened since [`Crowd::begin`], once it is over, and the first thing that went wrong.
    pub(super) fn finish(&mut self) -> Outcome<(Counts, Option<String>)> {
        let mut sum = Counts::default();
        let mut first = None;
        let mut waiting = self.processes.count();
        while waiting > 0 {
            match self.processes.next()? {
                (_, Note::Done { counts, why }) => {
                    sum.add(&counts);
                    first = first.or(why);
                    waiting -= 1;
                }
                (number, Note::Published { published }) => {
                    for other in (0..self.processes.count()).filter(|other| *other != number) {
                        self.processes.tell(other, Order::Finish { published })?;
                    }
                }
                (_, Note::Interval { histograms, .. }) => self.take_histograms(&histograms)?,
                (_, Note::Have { sequence, latency_ns }) => self.take_have(sequence, latency_ns)?,
                _ => {}
            }
        }
        Ok((sum, first))
    }

    fn take_histograms(&mut self, histograms: &[Encoded]) -> Outcome<()> {
        for Encoded { tag, histogram } in histograms {
            let sum = match tag.as_str() {
                tag if tag == Tag::Delivery.name() => &mut self.latencies,
                tag if tag == Tag::Last.name() => &mut self.last,
                _ => continue,
            };
            sum.add(recorder::decode(histogram)?).map_err(Failure::run)?;
        }
        Ok(())
    }

    /// Shared group: once all processes have a publication, its last subscriber has it.
    fn take_have(&mut self, sequence: u32, latency_ns: u64) -> Outcome<()> {
        let all = self.processes.count();
        let Some(latency_ns) = self.incomplete.take(sequence, latency_ns, all) else {
            return Ok(());
        };
        self.last.saturating_record(latency_ns);
        // The first process has the publisher.
        if self.is_shared_loop { self.processes.tell(0, Order::Publish) } else { Ok(()) }
    }

    /// Everybody says Close, and the server ends the connections.
    pub(super) fn leave(mut self) -> Outcome<()> {
        self.processes.tell_all(Order::Leave)?;
        let mut waiting = self.processes.count();
        while waiting > 0 {
            waiting -= usize::from(matches!(self.processes.next()?, (_, Note::Ready)));
        }
        Ok(())
    }
}
