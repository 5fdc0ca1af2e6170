//! `GET /stats`: how the process and each of its workers stand, for people and scripts. Every gauge
//! that has a bound stands beside it, under the same name with `_max` behind.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc, time::Instant};

use axum::{Json, extract::State};
use serde::Serialize;
use wire::Converted;
use worker::EngineCounts;

use super::{Control, Record, totals::WorkerTotals};
use crate::facts::{Facts, WorkerFacts};

/// The process.
#[derive(Debug, Serialize)]
pub(super) struct Stats {
    version: &'static str,
    uptime_seconds: u64,
    engine: &'static str,
    engine_reason: String,
    descriptors: String,
    kernel: String,
    draining: bool,
    data_addresses: Vec<SocketAddr>,
    proxy_addresses: Vec<SocketAddr>,
    connections: u64,
    connections_max: u64,
    blocked_subs: u64,
    blocked_subs_max: u32,
    removals_refused: u64,
    listings_refused: u64,
    control_refused: BTreeMap<&'static str, u64>,
    workers: Vec<WorkerStats>,
}

/// One worker. Counters count from its start.
#[derive(Debug, Serialize)]
struct WorkerStats {
    worker: u16,
    core: usize,
    pinned: bool,
    report_age_seconds: f64,
    connections: u32,
    connections_max: u32,
    connections_deflate: u32,
    handshakes: u32,
    handshakes_max: u32,
    topics: u64,
    subscriptions: u64,
    send_queues: u32,
    send_queue_bytes: u64,
    send_queue_bytes_max: u64,
    partial_bytes: u64,
    partial_bytes_max: u64,
    handshake_bytes: u64,
    handshake_bytes_max: u64,
    inbox_letters: u32,
    inbox_letters_max: u32,
    fanout_jobs: u32,
    fanout_publications: u32,
    fanout_publications_max: u32,
    fanout_bytes: u64,
    fanout_bytes_max: u64,
    publishers_paused: u32,
    fixed_bytes: u64,
    opened: u64,
    messages_received: u64,
    messages_delivered: u64,
    messages_dropped: u64,
    received_bytes: u64,
    sent_bytes: u64,
    deflated: ConvertedStats,
    deflated_saved_bytes: u64,
    inflated: ConvertedStats,
    publications_refused: u64,
    publish_rate_pauses: u64,
    share_deferrals: u64,
    verification_deferrals: u64,
    closed: BTreeMap<&'static str, u64>,
    refused: BTreeMap<&'static str, u64>,
    dropped: BTreeMap<&'static str, u64>,
    engine: EngineStats,
}

/// What has become scarce for a worker's engine, and what that cost.
#[derive(Debug, Serialize)]
struct EngineStats {
    enters: u64,
    enters_retried: u64,
    submissions_full: u64,
    completions_overflowed: u64,
    completions_stale: u64,
    receive_buffers_exhausted: u64,
    batches_split: u64,
    accepts_failed: u64,
    accepts_paused: u64,
    multishots: u64,
    multishots_max: u32,
    zero_copy_sends: u64,
    zero_copy_copied: u64,
    zero_copy_exhausted: u64,
    zero_copy_routes_off: u64,
}

/// Messages compressed or inflated.
#[derive(Debug, Serialize)]
struct ConvertedStats {
    messages: u64,
    before_bytes: u64,
    after_bytes: u64,
}

/// `GET /stats`.
pub(super) async fn stats(State(control): State<Arc<Control>>) -> Json<Stats> {
    Json(Stats::new(&control.facts, &control.record(), Instant::now()))
}

impl From<Converted> for ConvertedStats {
    fn from(converted: Converted) -> Self {
        let Converted { messages, before_bytes, after_bytes } = converted;
        Self { messages, before_bytes, after_bytes }
    }
}

impl EngineStats {
    fn new(facts: &WorkerFacts, counts: EngineCounts) -> Self {
        Self {
            enters: counts.enters,
            enters_retried: counts.enters_retried,
            submissions_full: counts.submissions_full,
            completions_overflowed: counts.completions_overflowed,
            completions_stale: counts.completions_stale,
            receive_buffers_exhausted: counts.receive_buffers_exhausted,
            batches_split: counts.batches_split,
            accepts_failed: counts.accepts_failed,
            accepts_paused: counts.accepts_paused,
            multishots: counts.multishots,
            multishots_max: facts.multishots_max,
            zero_copy_sends: counts.zero_copy_sends,
            zero_copy_copied: counts.zero_copy_copied,
            zero_copy_exhausted: counts.zero_copy_exhausted,
            zero_copy_routes_off: counts.zero_copy_routes_off,
        }
    }
}

impl Stats {
    fn new(facts: &Facts, record: &Record, now: Instant) -> Self {
        let workers = facts.workers.iter().zip(&record.totals.workers).enumerate();
        Self {
            version: facts.version,
            uptime_seconds: now.saturating_duration_since(facts.started_at).as_secs(),
            engine: facts.engine,
            engine_reason: facts.engine_reason.clone(),
            descriptors: facts.descriptors.clone(),
            kernel: facts.kernel.clone(),
            draining: record.draining,
            data_addresses: facts.data_addresses.clone(),
            proxy_addresses: facts.proxy_addresses.clone(),
            connections: record.totals.connections(),
            connections_max: facts.connections_max,
            blocked_subs: record.blocked_subs,
            blocked_subs_max: record.settings.limits.blocked_subs_max,
            removals_refused: record.removals_refused,
            listings_refused: record.listings_refused,
            control_refused: record.refusals.by_reason().collect(),
            workers: workers
                .map(|(index, (facts, totals))| {
                    let age = record.totals.report_age_seconds(index, now);
                    WorkerStats::new(facts, totals, age)
                })
                .collect(),
        }
    }
}

impl WorkerStats {
    fn new(facts: &WorkerFacts, totals: &WorkerTotals, report_age_seconds: f64) -> Self {
        let gauges = &totals.gauges;
        Self {
            worker: facts.worker,
            core: facts.core,
            pinned: facts.pinned,
            report_age_seconds,
            connections: gauges.connections,
            connections_max: facts.connections_max,
            connections_deflate: gauges.connections_deflate,
            handshakes: gauges.handshakes,
            handshakes_max: facts.handshakes_max,
            topics: gauges.topics,
            subscriptions: gauges.subscriptions,
            send_queues: gauges.send_queues,
            send_queue_bytes: gauges.send_queue_bytes,
            send_queue_bytes_max: gauges.send_queue_bytes_max,
            partial_bytes: gauges.partial_bytes,
            partial_bytes_max: gauges.partial_bytes_max,
            handshake_bytes: gauges.handshake_bytes,
            handshake_bytes_max: gauges.handshake_bytes_max,
            inbox_letters: gauges.inbox_letters,
            inbox_letters_max: gauges.inbox_letters_max,
            fanout_jobs: gauges.fanout_jobs,
            fanout_publications: gauges.fanout_publications,
            fanout_publications_max: gauges.fanout_publications_max,
            fanout_bytes: gauges.fanout_bytes,
            fanout_bytes_max: gauges.fanout_bytes_max,
            publishers_paused: gauges.publishers_paused,
            fixed_bytes: facts.fixed_bytes + gauges.fixed_bytes,
            opened: totals.opened,
            messages_received: totals.messages_received,
            messages_delivered: totals.messages_delivered,
            messages_dropped: totals.messages_dropped.iter().sum(),
            received_bytes: totals.received_bytes,
            sent_bytes: totals.sent_bytes,
            deflated: totals.deflated.into(),
            deflated_saved_bytes: totals.deflated_saved_bytes,
            inflated: totals.inflated.into(),
            publications_refused: totals.publications_refused,
            publish_rate_pauses: totals.rate_pauses,
            share_deferrals: totals.share_deferrals,
            verification_deferrals: totals.verification_deferrals,
            closed: totals.closed_by_label(),
            refused: totals.refused_by_label(),
            dropped: totals.dropped_by_label(),
            engine: EngineStats::new(facts, totals.engine),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use axum::http::StatusCode;
    use serde_json::{Value, json};
    use worker::{CloseReason, DropReason, RefusalReason, Report};

    use super::*;
    use crate::control::{
        intervals::Intervals,
        refusals::Refusals,
        testing::{facts, settings},
        totals::Totals,
    };

    fn stats() -> Value {
        let facts = facts(2);
        let now = facts.started_at + Duration::from_secs(75);
        let mut record = Record {
            draining: true,
            blocked_subs: 4,
            removals_refused: 1,
            listings_refused: 2,
            refusals: Refusals::default(),
            settings: settings(),
            totals: Totals::new(2, facts.started_at),
            intervals: Intervals::new(UNIX_EPOCH, now),
        };
        record.refusals.count(StatusCode::UNAUTHORIZED);
        let mut report = Report::new();
        report.gauges.connections = 3;
        report.gauges.topics = 2;
        report.gauges.subscriptions = 9;
        report.gauges.send_queue_bytes = 100;
        report.gauges.fixed_bytes = 24;
        report.gauges.send_queue_bytes_max = 5_000;
        report.closed[CloseReason::SlowConsumer as usize] = 4;
        report.refused[RefusalReason::Origin as usize] = 1;
        report.messages_dropped[DropReason::SlowConsumer as usize] = 5;
        report.messages_dropped[DropReason::Gone as usize] = 2;
        report.gauges.connections_deflate = 2;
        report.deflated = Converted { messages: 5, before_bytes: 1_000, after_bytes: 300 };
        report.deflated_saved_bytes = 70_000;
        report.engine.submissions_full = 6;
        report.engine.zero_copy_sends = 21;
        report.engine.zero_copy_copied = 22;
        report.engine.zero_copy_exhausted = 23;
        report.engine.zero_copy_routes_off = 24;
        record.totals.add(1, &report, now);
        serde_json::to_value(Stats::new(&facts, &record, now)).unwrap()
    }

    #[test]
    fn the_process_and_its_workers_have_the_documented_fields() {
        let stats = stats();
        assert_eq!(stats["version"], "1.2.3");
        assert_eq!(stats["uptime_seconds"], 75);
        assert_eq!(stats["engine"], "ring");
        assert_eq!(stats["draining"], true);
        assert_eq!(stats["connections"], 3);
        assert_eq!(stats["connections_max"], 200);
        assert_eq!(stats["data_addresses"], json!(["127.0.0.1:9000", "127.0.0.1:9002"]));
        assert_eq!(stats["proxy_addresses"], json!(["127.0.0.1:9002"]));
        assert_eq!(stats["blocked_subs"], 4);
        assert_eq!(stats["blocked_subs_max"], 100_000);
        assert_eq!(
            (&stats["removals_refused"], &stats["listings_refused"]),
            (&1.into(), &2.into())
        );
        assert_eq!(stats["control_refused"]["token"], 1);
        assert_eq!(stats["control_refused"]["not_allowed"], 0);
        let worker = &stats["workers"][1];
        assert_eq!(worker["worker"], 1);
        assert_eq!(worker["core"], 1);
        assert_eq!(worker["connections"], 3);
        assert_eq!(worker["connections_max"], 105);
        assert_eq!(worker["connections_deflate"], 2);
        let deflated = json!({"messages": 5, "before_bytes": 1_000, "after_bytes": 300});
        assert_eq!(worker["deflated"], deflated);
        assert_eq!(worker["deflated_saved_bytes"], 70_000);
        assert_eq!(worker["inflated"]["messages"], 0);
        assert_eq!(worker["topics"], 2);
        assert_eq!(worker["subscriptions"], 9);
        assert_eq!(worker["send_queue_bytes"], 100);
        assert_eq!(worker["fixed_bytes"], (1 << 20) + 24, "its engine's and its own");
        assert_eq!(worker["send_queue_bytes_max"], 5_000);
        assert_eq!(worker["inbox_letters"], 0);
        assert_eq!(worker["fanout_jobs"], 0);
        assert_eq!(worker["closed"]["slow_consumer"], 4);
        assert_eq!(worker["closed"]["reset"], 0);
        assert_eq!(worker["refused"]["origin"], 1);
        assert_eq!(worker["dropped"]["slow_consumer"], 5);
        assert_eq!(worker["messages_dropped"], 7);
        assert_eq!(worker["engine"]["submissions_full"], 6);
        assert_eq!(worker["engine"]["zero_copy_sends"], 21);
        assert_eq!(worker["engine"]["zero_copy_copied"], 22);
        assert_eq!(worker["engine"]["zero_copy_exhausted"], 23);
        assert_eq!(worker["engine"]["zero_copy_routes_off"], 24);
        assert_eq!(worker["engine"]["accepts_failed"], 0);
        assert_eq!(stats["workers"][0]["closed"]["slow_consumer"], 0);
    }

    #[test]
    fn every_gauge_that_the_contract_bounds_has_its_bound_beside_it() {
        let stats = stats();
        let worker = stats["workers"][0].as_object().unwrap();
        for (bound, value) in worker.iter().filter(|(name, _)| name.ends_with("_max")) {
            assert!(worker.contains_key(bound.strip_suffix("_max").unwrap()), "{bound}: {value}");
        }
        let gauges =
            ["connections", "handshakes", "send_queue_bytes", "partial_bytes", "inbox_letters"];
        for gauge in gauges {
            assert!(worker.contains_key(&format!("{gauge}_max")), "{gauge}");
        }
        assert_eq!(worker["handshakes_max"], 169);
        assert_eq!(worker["engine"]["multishots_max"], 10);
    }

    #[test]
    fn a_worker_that_has_not_reported_shows_zeros_and_its_share() {
        let worker = &stats()["workers"][0];
        assert_eq!(worker["connections"], json!(0));
        assert_eq!(worker["connections_max"], json!(105));
        assert_eq!(worker["report_age_seconds"], json!(75.0));
    }
}
