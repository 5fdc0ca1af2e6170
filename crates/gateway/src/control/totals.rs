//! Reports added up: counters and histograms since the start, and how each worker stood last.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use hdrhistogram::Histogram;
use wire::Converted;
use worker::{CloseReason, DropReason, EngineCounts, Gauges, RefusalReason, Report, Stage};

/// One histogram a [`Stage`], in nanoseconds, with counts that do not overflow in any lifetime.
#[derive(Debug, Clone)]
pub(super) struct Stages([Histogram<u64>; Stage::ALL.len()]);

/// What all workers have counted.
#[derive(Debug)]
pub(super) struct Totals {
    /// By number.
    pub(super) workers: Vec<WorkerTotals>,
    /// All workers together, since the start.
    pub(super) stages: Stages,
    /// Publications over HTTP that some worker's queue had no room for.
    pub(super) publications_refused: u64,
    started_at: Instant,
}

/// What one worker has counted since its start, and how it stood when it last reported.
#[derive(Debug, Clone, Default)]
pub(super) struct WorkerTotals {
    /// Connections that became open.
    pub(super) opened: u64,
    /// By [`CloseReason`].
    pub(super) closed: [u64; CloseReason::ALL.len()],
    /// By [`RefusalReason`].
    pub(super) refused: [u64; RefusalReason::ALL.len()],
    /// Messages that clients sent.
    pub(super) messages_received: u64,
    /// Messages offered to subscribers or queued for them, less those dropped.
    pub(super) messages_delivered: u64,
    /// Messages counted as delivered that were dropped afterwards and not yet taken off again.
    messages_withdrawn: u64,
    /// Messages that were queued and never left, by [`DropReason`].
    pub(super) messages_dropped: [u64; DropReason::ALL.len()],
    /// Bytes received.
    pub(super) received_bytes: u64,
    /// Bytes handed to the kernel.
    pub(super) sent_bytes: u64,
    /// Bytes counted as sent that the kernel did not take, and not yet taken off again.
    sent_bytes_withdrawn: u64,
    /// Messages compressed here, each once however many got it.
    pub(super) deflated: Converted,
    /// Bytes of frames that compression spared, over all receivers.
    pub(super) deflated_saved_bytes: u64,
    /// Compressed messages of clients.
    pub(super) inflated: Converted,
    /// Publications of clients that some queue had no room for.
    pub(super) publications_refused: u64,
    /// Times a client was not read from because it had sent faster than it may.
    pub(super) rate_pauses: u64,
    /// Times the rest of what a client had sent had to wait for the next turn.
    pub(super) share_deferrals: u64,
    /// Requests whose tokens had to wait for a later turn to be verified.
    pub(super) verification_deferrals: u64,
    /// How it stood.
    pub(super) gauges: Gauges,
    /// What its engine had counted since its start.
    pub(super) engine: EngineCounts,
    /// When its last report came; `None` before the first.
    pub(super) reported_at: Option<Instant>,
}

impl Stages {
    /// Empty ones, with the bounds of the workers' own.
    pub(super) fn new() -> Self {
        // The counts are wider than a worker's, nothing else differs: every value of a worker
        // falls into a bucket of the same width here.
        Self(std::array::from_fn(|_| {
            Histogram::new_with_bounds(1_000, 60_000_000_000, 2)
                .expect("the bounds are a factor of two apart and the digits at most five")
        }))
    }

    /// Adds what a worker has timed.
    pub(super) fn add(&mut self, report: &Report) {
        for (total, stage) in self.0.iter_mut().zip(Stage::ALL) {
            for value in report.stage(stage).iter_recorded() {
                let count = u64::from(value.count_at_value());
                total.saturating_record_n(value.value_iterated_to(), count);
            }
        }
    }

    /// Counts one passage through a stage on the control thread.
    pub(super) fn record(&mut self, stage: Stage, span: Duration) {
        let ns = u64::try_from(span.as_nanos()).unwrap_or(u64::MAX);
        self.0[stage as usize].saturating_record(ns);
    }

    /// Empties them without giving their memory back.
    pub(super) fn reset(&mut self) {
        self.0.iter_mut().for_each(Histogram::reset);
    }

    /// The histogram of a stage.
    pub(super) fn stage(&self, stage: Stage) -> &Histogram<u64> {
        &self.0[stage as usize]
    }
}

impl Totals {
    /// Nothing counted yet.
    pub(super) fn new(workers: usize, now: Instant) -> Self {
        Self {
            workers: vec![WorkerTotals::default(); workers],
            stages: Stages::new(),
            publications_refused: 0,
            started_at: now,
        }
    }

    /// Adds what a worker has counted since its last report.
    pub(super) fn add(&mut self, worker: usize, report: &Report, now: Instant) {
        self.workers[worker].add(report, now);
        self.stages.add(report);
    }

    /// A worker has ended: it holds nothing any more.
    pub(super) fn handle_end(&mut self, worker: usize) {
        self.workers[worker].gauges = Gauges::default();
    }

    /// Open connections when the workers last reported.
    pub(super) fn connections(&self) -> u64 {
        self.workers.iter().map(|worker| u64::from(worker.gauges.connections)).sum()
    }

    /// Whether every worker has reported at least once, and so has come to its turns.
    pub(super) fn all_have_reported(&self) -> bool {
        self.workers.iter().all(|worker| worker.reported_at.is_some())
    }

    /// One of a worker's counters, summed over the workers.
    pub(super) fn sum(&self, counter: impl Fn(&WorkerTotals) -> u64) -> u64 {
        self.workers.iter().map(counter).sum()
    }

    /// Seconds since a worker's last report, or since the start where none has come.
    pub(super) fn report_age_seconds(&self, worker: usize, now: Instant) -> f64 {
        let reported_at = self.workers[worker].reported_at.unwrap_or(self.started_at);
        now.saturating_duration_since(reported_at).as_secs_f64()
    }
}

impl WorkerTotals {
    fn add(&mut self, report: &Report, now: Instant) {
        self.opened += report.opened;
        for (total, count) in self.closed.iter_mut().zip(report.closed) {
            *total += count;
        }
        for (total, count) in self.refused.iter_mut().zip(report.refused) {
            *total += count;
        }
        self.messages_received += report.messages_received;
        self.messages_withdrawn += report.messages_withdrawn;
        self.messages_delivered += left(report.messages_delivered, &mut self.messages_withdrawn);
        for (total, count) in self.messages_dropped.iter_mut().zip(report.messages_dropped) {
            *total += count;
        }
        self.received_bytes += report.received_bytes;
        self.sent_bytes_withdrawn += report.sent_bytes_withdrawn;
        self.sent_bytes += left(report.sent_bytes, &mut self.sent_bytes_withdrawn);
        self.deflated += report.deflated;
        self.deflated_saved_bytes += report.deflated_saved_bytes;
        self.inflated += report.inflated;
        self.publications_refused += report.publications_refused;
        self.rate_pauses += report.rate_pauses;
        self.share_deferrals += report.share_deferrals;
        self.verification_deferrals += report.verification_deferrals;
        self.gauges = report.gauges;
        self.engine = report.engine;
        self.reported_at = Some(now);
    }

    /// Closes by the reason's label.
    pub(super) fn closed_by_label(&self) -> BTreeMap<&'static str, u64> {
        CloseReason::ALL
            .iter()
            .map(|reason| (reason.label(), self.closed[*reason as usize]))
            .collect()
    }

    /// Dropped messages by the reason's label.
    pub(super) fn dropped_by_label(&self) -> BTreeMap<&'static str, u64> {
        DropReason::ALL
            .iter()
            .map(|reason| (reason.label(), self.messages_dropped[*reason as usize]))
            .collect()
    }

    /// Refused handshakes by the reason's label.
    pub(super) fn refused_by_label(&self) -> BTreeMap<&'static str, u64> {
        RefusalReason::ALL
            .iter()
            .map(|reason| (reason.label(), self.refused[*reason as usize]))
            .collect()
    }
}

/// What is left of `counted` when what was withdrawn is taken off it: a counter never falls, so that
/// can only be taken off what is still to be counted.
fn left(counted: u64, withdrawn: &mut u64) -> u64 {
    let uncounted = counted.min(*withdrawn);
    *withdrawn -= uncounted;
    counted - uncounted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_add_up_and_gauges_are_the_last() {
        let now = Instant::now();
        let mut totals = Totals::new(2, now);
        let mut report = Report::new();
        report.opened = 3;
        report.closed[CloseReason::NoPong as usize] = 2;
        report.gauges.connections = 7;
        report.deflated = Converted { messages: 1, before_bytes: 100, after_bytes: 40 };
        totals.add(1, &report, now);
        report.gauges.connections = 5;
        totals.add(1, &report, now);
        assert_eq!(totals.workers[1].opened, 6);
        assert_eq!(totals.workers[1].closed_by_label()["no_pong"], 4);
        assert_eq!(totals.workers[1].closed_by_label()["reset"], 0);
        let twice = Converted { messages: 2, before_bytes: 200, after_bytes: 80 };
        assert_eq!(totals.workers[1].deflated, twice);
        assert_eq!(totals.workers[0].opened, 0);
        assert_eq!(totals.connections(), 5);
        assert_eq!(totals.sum(|worker| worker.opened), 6);
    }

    #[test]
    fn what_is_withdrawn_is_taken_off_what_comes_and_no_counter_falls() {
        let now = Instant::now();
        let mut totals = Totals::new(1, now);
        let mut counts = |sent, withdrawn| {
            let mut report = Report::new();
            (report.messages_delivered, report.messages_withdrawn) = (sent, withdrawn);
            (report.sent_bytes, report.sent_bytes_withdrawn) = (10 * sent, 10 * withdrawn);
            totals.add(0, &report, now);
            (totals.workers[0].messages_delivered, totals.workers[0].sent_bytes)
        };
        assert_eq!(counts(5, 0), (5, 50));
        assert_eq!(counts(1, 3), (5, 50));
        assert_eq!(counts(4, 0), (7, 70));
    }

    #[test]
    fn the_age_of_a_report_counts_from_the_start_until_the_first_has_come() {
        let start = Instant::now();
        let mut totals = Totals::new(2, start);
        totals.add(0, &Report::new(), start + Duration::from_secs(2));
        assert!(!totals.all_have_reported());
        let now = start + Duration::from_secs(5);
        assert!((totals.report_age_seconds(0, now) - 3.0).abs() < 1e-9);
        assert!((totals.report_age_seconds(1, now) - 5.0).abs() < 1e-9);
        totals.add(1, &Report::new(), now);
        assert!(totals.all_have_reported());
    }

    #[test]
    fn histograms_of_all_workers_merge_without_loss() {
        let now = Instant::now();
        let mut totals = Totals::new(2, now);
        let mut report = Report::new();
        report.record_many(Stage::Hop, Duration::from_micros(10), 5);
        totals.add(0, &report, now);
        report.reset();
        report.record_many(Stage::Hop, Duration::from_millis(3), 4_000_000_000);
        totals.add(1, &report, now);
        totals.add(1, &report, now);
        let hop = totals.stages.stage(Stage::Hop);
        assert_eq!(hop.len(), 8_000_000_005, "more than a worker's 32 bits can count");
        assert!(hop.equivalent(hop.max(), 3_000_000));
        assert!(hop.equivalent(hop.min(), 10_000));
        assert_eq!(totals.stages.stage(Stage::Ping).len(), 0);
    }
}
