//! Reports of the workers: asked for once a second, added up, and the closes in them logged.

use std::time::Instant;

use hub::Letter;
use worker::{CloseReason, Report, Time};

use super::{Guest, members, now};
use crate::control::{Level, blocks::unix_seconds, connections::Id};

impl Guest {
    pub(super) fn handle_report(&mut self, worker: usize, mut report: Box<Report>) {
        {
            let mut record = self.control.record();
            record.totals.add(worker, &report, Instant::now());
            record.intervals.add(&report);
        }
        self.log_closes(worker, &report);
        report.reset();
        self.workers[worker].report = Some(report);
        self.workers[worker].heard_at = tokio::time::Instant::now();
        self.workers[worker].known_until = self.workers[worker].asked_at;
    }

    fn log_closes(&self, worker: usize, report: &Report) {
        let journal = &self.control.journal;
        for closed in &report.closes {
            let worker = u16::try_from(worker).unwrap_or(u16::MAX);
            let mut fields = vec![
                ("id", Id { worker, connection: closed.connection }.to_string()),
                ("address", closed.peer.to_string()),
                ("topics", closed.purpose.clone()),
            ];
            if let Some((code, _)) = closed.reason.close() {
                fields.push(("code", code.0.to_string()));
            }
            fields.push(("reason", closed.reason.label().to_owned()));
            journal.line(Level::Info, "connection closed", fields);
        }
        for (reason, count) in CloseReason::ALL.iter().zip(report.closes_unlogged) {
            if count > 0 {
                let fields = vec![
                    ("worker", worker.to_string()),
                    ("reason", reason.label().to_owned()),
                    ("count", count.to_string()),
                ];
                journal.line(Level::Info, "more connections closed", fields);
            }
        }
    }

    /// Sends every worker its empty report, and ends the interval when it is over. A worker that
    /// still has its report gets no other: it is late, and `ringway_report_age_seconds` says so.
    pub(super) fn exchange_reports(&mut self) {
        let stamp = now().0;
        for (member, worker) in members(self.workers.len()).zip(&mut self.workers) {
            if !worker.alive || self.endpoint.room(member) == 0 {
                continue;
            }
            if let Some(report) = worker.report.take() {
                let posted = self.endpoint.post(member, Letter::Report(report), stamp);
                assert!(posted.is_ok(), "a queue with room takes a letter");
                worker.asked_at = unix_seconds();
            }
        }
        if let Some(tokens) = &mut self.tokens {
            tokens.check_clock(Time(stamp), &self.control.journal);
        }
        self.expire_blocks();
        self.outstanding.forget_unawaited();
        let ended = self.control.record().intervals.poll_end(Instant::now());
        if let Err(error) = ended {
            self.control.journal.line(
                Level::Warn,
                "an interval of the latency log is lost",
                vec![("error", error)],
            );
        }
    }
}
