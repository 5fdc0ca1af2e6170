//! The clients of a check: load processes that open connections, keep them, and let them go.

use std::time::Duration;

use hdrhistogram::Histogram;

use crate::dialect::Dialect;
use crate::failure::{Failure, Outcome};
use crate::order::{Counts, Encoded, Note, Order, Plan};
use crate::payload::Kind;
use crate::plan::CONNECTIONS_PER_PROCESS;
use crate::processes::Processes;
use crate::recorder::{self, Tag, histogram};
use crate::scenario::Traffic;
use crate::url::Url;

/// What a crowd does beside being there.
#[derive(Clone, Copy, Debug)]
pub(super) struct Purpose {
    pub(super) connections: u32,
    /// Number of its first connection, which decides its source address.
    pub(super) first: u32,
    /// True exactly when they offer permessage-deflate.
    pub(super) compression: bool,
    /// Publications per second by one more connection to all others; 0: the next when everybody has
    /// the last.
    pub(super) rate: Option<f64>,
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
    /// Connections that are open.
    pub(super) open: u32,
    /// Connections that could not be opened, and why the first of them could not.
    pub(super) failed: u32,
    pub(super) why: Option<String>,
    /// From when a message was meant to leave to its arrival, since [`Crowd::measure`].
    latencies: Histogram<u64>,
}

impl Purpose {
    /// To be there.
    pub(super) fn idle(connections: u32) -> Purpose {
        Purpose {
            connections,
            first: 0,
            compression: false,
            rate: None,
            size: 16,
            stalled_percent: 0.0,
            core: None,
        }
    }

    fn plans(&self, url: &Url) -> Vec<Plan> {
        let publishes = self.rate.is_some();
        let count = self.connections.div_ceil(CONNECTIONS_PER_PROCESS);
        let plan = |number: u32| {
            let first = number * CONNECTIONS_PER_PROCESS;
            Plan {
                url: url.clone(),
                dialect: Dialect::Plain,
                compression: self.compression,
                traffic: if publishes { Traffic::Fanout } else { Traffic::None },
                first: self.first + first,
                connections: CONNECTIONS_PER_PROCESS.min(self.connections - first),
                publisher: publishes && number == 0,
                shared: publishes && count > 1,
                size: self.size,
                payload: Kind::Filler,
                rate: self.rate.unwrap_or(0.0),
                room_members: 1,
                stalled_percent: self.stalled_percent,
                batch: 1,
                core: self.core,
            }
        };
        (0..count).map(plan).collect()
    }
}

impl Crowd {
    /// Starts the processes and opens the connections.
    pub(super) fn open(url: &Url, purpose: &Purpose) -> Outcome<Crowd> {
        let plans = purpose.plans(url);
        let processes = Processes::start(&plans)?;
        let mut crowd = Crowd { processes, open: 0, failed: 0, why: None, latencies: histogram() };
        let clients: Vec<u32> = plans.iter().map(Plan::clients).collect();
        crowd.open_more(&clients)?;
        Ok(crowd)
    }

    /// As [`Crowd::open`], and an error when not all of them open.
    pub(super) fn open_all(url: &Url, purpose: &Purpose) -> Outcome<Crowd> {
        let crowd = Crowd::open(url, purpose)?;
        if crowd.failed == 0 {
            return Ok(crowd);
        }
        let why = crowd.why.as_deref().unwrap_or("no reason was seen");
        Err(Failure::run(format!("{} connections were not opened: {why}", crowd.failed)))
    }

    /// Opens connections until each process has tried so many.
    fn open_more(&mut self, clients: &[u32]) -> Outcome<()> {
        for (number, clients) in clients.iter().enumerate() {
            self.processes.tell(number, Order::Open { clients: *clients })?;
        }
        let mut waiting = clients.len();
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

    /// Lets it do what it is there for. Answered by [`Crowd::finish`].
    pub(super) fn begin(&mut self, duration: Duration) -> Outcome<()> {
        self.order(duration, false)
    }

    /// As [`Crowd::begin`], and records latencies.
    pub(super) fn measure(&mut self, duration: Duration) -> Outcome<()> {
        self.latencies.clear();
        self.order(duration, true)
    }

    /// What the last run that was measured has recorded.
    pub(super) fn latencies(&self) -> &Histogram<u64> {
        &self.latencies
    }

    fn order(&mut self, duration: Duration, record: bool) -> Outcome<()> {
        let duration_ns = u64::try_from(duration.as_nanos()).map_err(Failure::run)?;
        self.processes.tell_all(Order::Run { duration_ns, grace_ns: 10_000_000_000, record })
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
                (_, Note::Interval { histograms, .. }) => {
                    for Encoded { histogram, .. } in
                        histograms.iter().filter(|encoded| encoded.tag == Tag::Delivery.name())
                    {
                        let decoded = recorder::decode(histogram)?;
                        self.latencies.add(decoded).map_err(Failure::run)?;
                    }
                }
                _ => {}
            }
        }
        Ok((sum, first))
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
