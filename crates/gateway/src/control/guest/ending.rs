//! The end of the process: drain after a delay, exit when the last worker has ended, or exit because
//! one has failed.

use hub::Letter;
use tokio::time::sleep_until;

use super::{Guest, members, now};
use crate::{
    control::{Exit, Level},
    facts::{Settings, WorkerEnd},
};

/// The end of the process, in stages:
///
/// ```text
/// Serving ──signal──▶ Delaying ──delay over──▶ Draining ──last worker ended──▶ (exit)
///                         └────────── a second signal: exit at once ──────────┘
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    Serving,
    Delaying { until: tokio::time::Instant },
    Draining,
}

impl Guest {
    /// A signal asks for the end.
    pub(super) fn stop(&mut self) -> Option<Exit> {
        if self.phase != Phase::Serving {
            self.control.journal.line(Level::Warn, "second signal: ending at once", Vec::new());
            return Some(Exit::Cut);
        }
        let Settings { drain, drain_delay, .. } = self.control.record().settings;
        let fields = vec![
            ("delay_ms", drain_delay.as_millis().to_string()),
            ("over_ms", drain.as_millis().to_string()),
        ];
        self.control.journal.line(Level::Info, "draining", fields);
        self.phase = Phase::Delaying { until: tokio::time::Instant::now() + drain_delay };
        self.control.record().draining = true;
        let (delay, over) = (drain_delay.as_secs_f64(), drain.as_secs_f64());
        self.supervisor.tell(&format!(
            "STOPPING=1\nSTATUS=draining: accepting for {delay} s, then closing over {over} s"
        ));
        None
    }

    /// The delay is over.
    pub(super) fn begin_draining(&mut self) {
        self.phase = Phase::Draining;
    }

    /// Posts the drain to those who have not got it yet: a full queue has room a little later.
    pub(super) fn post_drain(&mut self) {
        if self.phase != Phase::Draining {
            return;
        }
        let stamp = now().0;
        let over = self.control.record().settings.drain;
        for (member, worker) in members(self.workers.len()).zip(&mut self.workers) {
            if worker.alive && !worker.told_to_drain {
                worker.told_to_drain =
                    self.endpoint.post(member, Letter::drain(over), stamp).is_ok();
            }
        }
    }

    /// A worker's thread has ended; `None`: none is left, and one has not said so.
    pub(super) fn handle_end(&mut self, end: Option<WorkerEnd>) -> Option<Exit> {
        let Some(WorkerEnd { worker, outcome }) = end else {
            return Some(Exit::WorkerFailed("a worker's thread has ended without a word".into()));
        };
        // What it posted before its end, its last report for one, is still to be taken.
        self.take_letters();
        let index = usize::from(worker);
        self.workers[index].alive = false;
        self.control.record().totals.handle_end(index);
        let answers = self.outstanding.handle_end(index);
        self.give(answers);
        let expected = self.workers[index].told_to_drain;
        let failure = match outcome {
            Ok(()) if expected => None,
            Ok(()) => Some(format!("worker {worker} has ended without being told to")),
            Err(error) => Some(format!("worker {worker}: {error}")),
        };
        self.failure = self.failure.take().or(failure);
        let all_have_ended = self.workers.iter().all(|worker| !worker.alive);
        // A failure during the drain does not cut the connections of the other workers.
        if !(all_have_ended || self.failure.is_some() && self.phase != Phase::Draining) {
            return None;
        }
        Some(match self.failure.take() {
            Some(failure) => Exit::WorkerFailed(failure),
            None => Exit::Drained,
        })
    }
}

/// Completes when the delay before the drain is over; never where there is none.
pub(super) async fn delay_over(phase: Phase) {
    match phase {
        Phase::Delaying { until } => sleep_until(until).await,
        Phase::Serving | Phase::Draining => std::future::pending().await,
    }
}
