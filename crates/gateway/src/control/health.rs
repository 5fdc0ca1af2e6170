//! `GET /healthz` and `GET /readyz`: whether the process lives, and whether clients should be sent
//! to it.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;

use super::{Control, Record, error::Refusal};

/// `GET /healthz`: whoever can answer lives.
pub(super) async fn healthz() -> &'static str {
    "ok\n"
}

/// `GET /readyz`: 503 while starting, draining or at capacity, with `Retry-After` as on the data
/// plane.
pub(super) async fn readyz(State(control): State<Arc<Control>>) -> Result<&'static str, Refusal> {
    match unreadiness(&control.record(), control.facts.connections_max) {
        None => Ok("ok\n"),
        Some(why) => Err(Refusal::retry(StatusCode::SERVICE_UNAVAILABLE, why)),
    }
}

/// Why no client should be sent here now.
fn unreadiness(record: &Record, connections_max: u64) -> Option<&'static str> {
    if record.draining {
        return Some("draining");
    }
    if !record.totals.all_have_reported() {
        return Some("starting");
    }
    (record.totals.connections() >= connections_max).then_some("at capacity")
}

#[cfg(test)]
mod tests {
    use std::time::{Instant, UNIX_EPOCH};

    use worker::Report;

    use super::*;
    use crate::control::{intervals::Intervals, totals::Totals};

    #[test]
    fn ready_from_every_workers_first_report_to_the_signal_while_there_is_room() {
        let now = Instant::now();
        let mut record = Record {
            blocked_subs: 0,
            removals_refused: 0,
            listings_refused: 0,
            refusals: crate::control::refusals::Refusals::default(),
            draining: false,
            settings: crate::control::testing::settings(),
            totals: Totals::new(2, now),
            intervals: Intervals::new(UNIX_EPOCH, now),
        };
        let mut report = Report::new();
        report.gauges.connections = 5;
        record.totals.add(0, &report, now);
        assert_eq!(unreadiness(&record, 10), Some("starting"));
        report.gauges.connections = 4;
        record.totals.add(1, &report, now);
        assert_eq!(unreadiness(&record, 10), None);
        report.gauges.connections = 5;
        record.totals.add(1, &report, now);
        assert_eq!(unreadiness(&record, 10), Some("at capacity"));
        record.draining = true;
        assert_eq!(unreadiness(&record, 10), Some("draining"));
    }
}
