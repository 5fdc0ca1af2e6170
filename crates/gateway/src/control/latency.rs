//! `GET /latency`, `GET /latency/intervals` and `GET /latency.hlog`: how long each stage takes, since
//! the start and over the last hour.

use std::{
    collections::{BTreeMap, VecDeque},
    convert::Infallible,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    Json,
    body::Body,
    extract::State,
    http::{Uri, header},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use hdrhistogram::Histogram;
use hyper::body::{Frame, SizeHint};
use serde::Serialize;
use worker::Stage;

use super::{Control, error::Refusal, query::parameter, totals::Stages};

/// `GET /latency`.
#[derive(Debug, Serialize)]
pub(super) struct Latency {
    unit: &'static str,
    stages: BTreeMap<&'static str, Percentiles>,
}

/// One stage, in nanoseconds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Percentiles {
    count: u64,
    p50: u64,
    p90: u64,
    p99: u64,
    p999: u64,
    max: u64,
}

/// `GET /latency/intervals`.
#[derive(Debug, Serialize)]
pub(super) struct LatencyIntervals {
    unit: &'static str,
    intervals: Vec<LatencyInterval>,
}

/// One interval.
#[derive(Debug, Clone, Serialize)]
pub(super) struct LatencyInterval {
    /// When it began, in seconds since 1970 by the wall clock of the start.
    pub(super) start: f64,
    /// How long it was.
    pub(super) seconds: f64,
    stages: BTreeMap<&'static str, Percentiles>,
}

/// A body of pieces that others hold too, so that a slow reader costs no copy.
struct Pieces(VecDeque<Bytes>);

/// `GET /latency`.
pub(super) async fn percentiles(State(control): State<Arc<Control>>) -> Json<Latency> {
    let stages = percentiles_of(&control.record().totals.stages);
    Json(Latency { unit: "ns", stages })
}

/// `GET /latency/intervals?after=`: those of the last hour that began later.
pub(super) async fn intervals(
    State(control): State<Arc<Control>>,
    target: Uri,
) -> Result<Json<LatencyIntervals>, Refusal> {
    let after = match parameter(&target, "after").map(str::parse::<f64>) {
        None => 0.0,
        Some(Ok(after)) if after.is_finite() => after,
        Some(_) => return Err(Refusal::bad_request("after must be the start of an interval")),
    };
    let record = control.record();
    let intervals = record.intervals.ended().filter(|interval| interval.start > after).cloned();
    Ok(Json(LatencyIntervals { unit: "ns", intervals: intervals.collect() }))
}

/// `GET /latency.hlog`.
pub(super) async fn interval_log(State(control): State<Arc<Control>>) -> Response {
    let log = control.record().intervals.log();
    let headers = [(header::CONTENT_TYPE, "text/plain; charset=utf-8")];
    (headers, Body::new(Pieces(log))).into_response()
}

impl LatencyInterval {
    /// What was timed in an interval.
    pub(super) fn new(start: Duration, duration: Duration, stages: &Stages) -> Self {
        let (start, seconds) = (start.as_secs_f64(), duration.as_secs_f64());
        Self { start, seconds, stages: percentiles_of(stages) }
    }
}

fn percentiles_of(stages: &Stages) -> BTreeMap<&'static str, Percentiles> {
    let percentiles = |stage: &Stage| (stage.label(), Percentiles::of(stages.stage(*stage)));
    Stage::ALL.iter().map(percentiles).collect()
}

impl Percentiles {
    fn of(histogram: &Histogram<u64>) -> Self {
        Self {
            count: histogram.len(),
            p50: histogram.value_at_quantile(0.5),
            p90: histogram.value_at_quantile(0.9),
            p99: histogram.value_at_quantile(0.99),
            p999: histogram.value_at_quantile(0.999),
            max: histogram.max(),
        }
    }
}

impl hyper::body::Body for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.0.pop_front().map(|piece| Ok(Frame::data(piece))))
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.0.iter().map(|piece| piece.len() as u64).sum())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_those_of_a_thousand_values_counted_by_hand() {
        let mut histogram = Histogram::new_with_bounds(1_000, 60_000_000_000, 2).unwrap();
        for microseconds in 1..=1_000_u64 {
            histogram.record(microseconds * 1_000).unwrap();
        }
        let percentiles = Percentiles::of(&histogram);
        let near = |value: u64, expected: u64| value.abs_diff(expected) <= expected / 100;
        assert_eq!(percentiles.count, 1_000);
        assert!(near(percentiles.p50, 500_000), "{percentiles:?}");
        assert!(near(percentiles.p90, 900_000), "{percentiles:?}");
        assert!(near(percentiles.p99, 990_000), "{percentiles:?}");
        assert!(near(percentiles.p999, 999_000), "{percentiles:?}");
        assert!(near(percentiles.max, 1_000_000), "{percentiles:?}");
    }

    #[test]
    fn a_stage_that_never_ran_is_zeros() {
        let histogram = Histogram::new_with_bounds(1_000, 60_000_000_000, 2).unwrap();
        let nothing = Percentiles { count: 0, p50: 0, p90: 0, p99: 0, p999: 0, max: 0 };
        assert_eq!(Percentiles::of(&histogram), nothing);
    }
}
