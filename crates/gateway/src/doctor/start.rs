//! The engines' own start, as the proof that they can be started: workers as `ringway serve` makes
//! them, without listeners, drained as soon as they stand.

use std::{sync::Arc, time::Duration};

use hub::Letter;
use mesh::Member;
use rustix::event::{EventfdFlags, eventfd};
use tokio::sync::mpsc;

use crate::{config::Configuration, decide::Decisions, engine::Kind, serve, workers};

/// Starts all workers, so that they hold what they need at the same time, and ends them. Returns
/// what their engines say of themselves, each sentence once.
///
/// # Errors
/// One sentence about what does not start, which is what `ringway serve` would say.
pub(crate) fn try_all(
    kind: Kind,
    configuration: &Configuration,
    decisions: &Decisions,
) -> Result<Vec<String>, String> {
    let workers = usize::from(decisions.layout.workers);
    let mut endpoints = serve::join(decisions);
    let mut guest = endpoints.pop().expect("the guest is the last member");
    let wake_fd = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
        .map_err(|error| format!("cannot make an eventfd: {error}"))?;
    let (ends, mut worker_ends) = mpsc::channel(workers);
    let listeners = (0..workers).map(|_| Vec::new()).collect();
    let announcing = Arc::from([]);
    let plans = decisions.plans(&configuration.serve, None, &announcing, listeners, endpoints);
    let started = workers::start(kind, plans, Arc::new(wake_fd), &ends)?;
    // The threads hold the other ones: with the last thread the channel ends.
    drop(ends);
    for (member, worker) in (0..).zip(&started) {
        let drain = guest.post(Member(member), Letter::drain(Duration::ZERO), 0);
        drain.map_err(|_| format!("worker {member} has no room for a letter"))?;
        worker.waker.wake();
    }
    while let Some(end) = worker_ends.blocking_recv() {
        end.outcome.map_err(|sentence| format!("worker {}: {sentence}", end.worker))?;
    }
    let mut notes: Vec<String> = Vec::new();
    for note in started.into_iter().flat_map(|started| started.notes) {
        if !notes.contains(&note) {
            notes.push(note);
        }
    }
    Ok(notes)
}
