//! `GET /metrics`: the totals in the Prometheus text format. The names are a contract; the page is
//! made from the last reports, so a scrape costs the workers nothing.

mod families;

use std::{sync::Arc, time::Instant};

use axum::{
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use prometheus::{TEXT_FORMAT, TextEncoder};
use worker::{CloseReason, DropReason, RefusalReason, Stage};

use self::families::Families;
use super::{Control, Record, error::Refusal, totals::WorkerTotals};
use crate::facts::{Facts, Settings, WorkerFacts};

/// A gauge of every worker: its name, its help, and where it stands.
type WorkerValue = (&'static str, &'static str, fn(&WorkerTotals) -> u64);

/// How workers stand. Each has a bound under the same name with `_max` behind, where it has one.
const GAUGES: [WorkerValue; 21] = [
    ("ringway_connections", "Open connections.", |worker| worker.gauges.connections.into()),
    ("ringway_connections_deflate", "Open connections that compress.", |worker| {
        worker.gauges.connections_deflate.into()
    }),
    ("ringway_handshakes", "Connections that are not open yet.", |worker| {
        worker.gauges.handshakes.into()
    }),
    ("ringway_topics", "Topics with a subscriber.", |worker| worker.gauges.topics),
    ("ringway_subscriptions", "Subscribers, summed over topics.", |worker| {
        worker.gauges.subscriptions
    }),
    ("ringway_send_queues", "Connections with a queue.", |worker| worker.gauges.send_queues.into()),
    ("ringway_send_queue_bytes", "Bytes queued for slow connections.", |worker| {
        worker.gauges.send_queue_bytes
    }),
    ("ringway_send_queue_bytes_max", "A worker's share of what may be queued.", |worker| {
        worker.gauges.send_queue_bytes_max
    }),
    (
        "ringway_partial_bytes",
        "Bytes of clients that wait: of incomplete messages, or for their turn.",
        |worker| worker.gauges.partial_bytes,
    ),
    ("ringway_partial_bytes_max", "Most bytes of incomplete messages.", |worker| {
        worker.gauges.partial_bytes_max
    }),
    ("ringway_handshake_bytes", "Bytes of incomplete heads.", |worker| {
        worker.gauges.handshake_bytes
    }),
    ("ringway_handshake_bytes_max", "Most bytes of incomplete heads.", |worker| {
        worker.gauges.handshake_bytes_max
    }),
    ("ringway_inbox_letters", "Letters that wait for a worker.", |worker| {
        worker.gauges.inbox_letters.into()
    }),
    ("ringway_inbox_letters_max", "Most letters that may wait.", |worker| {
        worker.gauges.inbox_letters_max.into()
    }),
    ("ringway_fanout_jobs", "Fan-outs that have begun.", |worker| worker.gauges.fanout_jobs.into()),
    ("ringway_fanout_publications", "Publications on their way to subscribers.", |worker| {
        worker.gauges.fanout_publications.into()
    }),
    ("ringway_fanout_publications_max", "Most publications on their way.", |worker| {
        worker.gauges.fanout_publications_max.into()
    }),
    ("ringway_fanout_bytes", "Bytes of publications on their way.", |worker| {
        worker.gauges.fanout_bytes
    }),
    ("ringway_fanout_bytes_max", "Most bytes on their way.", |worker| {
        worker.gauges.fanout_bytes_max
    }),
    ("ringway_publishers_paused", "Clients that are not read from for a while.", |worker| {
        worker.gauges.publishers_paused.into()
    }),
    ("ringway_multishot_connections", "Connections that receive by multishot.", |worker| {
        worker.engine.multishots
    }),
];

/// A bound of every worker that it was started with: its name, its help, and where it stands.
type WorkerBound = (&'static str, &'static str, fn(&WorkerFacts) -> u32);

/// Bounds of gauges that reports do not have.
const BOUNDS: [WorkerBound; 3] = [
    ("ringway_connections_max", "A worker's share of connections.", |worker| {
        worker.connections_max
    }),
    ("ringway_handshakes_max", "Most connections that are not open yet.", |worker| {
        worker.handshakes_max
    }),
    (
        "ringway_multishot_connections_max",
        "Most connections that receive by multishot.",
        |worker| worker.multishots_max,
    ),
];

/// What workers have counted; one number for the process.
const COUNTERS: [WorkerValue; 25] = [
    ("ringway_connections_opened_total", "Connections that became open.", |worker| worker.opened),
    ("ringway_messages_received_total", "Messages that clients sent.", |worker| {
        worker.messages_received
    }),
    (
        "ringway_messages_delivered_total",
        "Messages offered to subscribers or queued for them, less those dropped.",
        |worker| worker.messages_delivered,
    ),
    ("ringway_received_bytes_total", "Bytes received.", |worker| worker.received_bytes),
    ("ringway_sent_bytes_total", "Bytes handed to the kernel.", |worker| worker.sent_bytes),
    ("ringway_deflated_messages_total", "Messages compressed, once for all receivers.", |worker| {
        worker.deflated.messages
    }),
    ("ringway_deflated_before_bytes_total", "Bytes of those as they were.", |worker| {
        worker.deflated.before_bytes
    }),
    ("ringway_deflated_after_bytes_total", "Bytes of those as they became.", |worker| {
        worker.deflated.after_bytes
    }),
    ("ringway_deflated_saved_bytes_total", "Bytes spared by that, over all receivers.", |worker| {
        worker.deflated_saved_bytes
    }),
    ("ringway_inflated_messages_total", "Compressed messages of clients.", |worker| {
        worker.inflated.messages
    }),
    ("ringway_inflated_before_bytes_total", "Bytes of those as they came.", |worker| {
        worker.inflated.before_bytes
    }),
    ("ringway_inflated_after_bytes_total", "Bytes of those inflated.", |worker| {
        worker.inflated.after_bytes
    }),
    ("ringway_engine_enters_total", "Entries into the kernel.", |worker| worker.engine.enters),
    ("ringway_accepts_failed_total", "Connections lost for want of something.", |worker| {
        worker.engine.accepts_failed
    }),
    ("ringway_receive_buffers_exhausted_total", "Receives that found no buffer.", |worker| {
        worker.engine.receive_buffers_exhausted
    }),
    ("ringway_completions_overflowed_total", "Times a completion queue was full.", |worker| {
        worker.engine.completions_overflowed
    }),
    ("ringway_completions_stale_total", "Completions of nothing that is known.", |worker| {
        worker.engine.completions_stale
    }),
    (
        "ringway_batches_split_total",
        "Extra enters for a second send to one connection.",
        |worker| worker.engine.batches_split,
    ),
    ("ringway_submissions_full_total", "Extra enters for a full submission queue.", |worker| {
        worker.engine.submissions_full
    }),
    ("ringway_enters_retried_total", "Enters that the kernel had no memory for.", |worker| {
        worker.engine.enters_retried
    }),
    ("ringway_accepts_paused_total", "Times that every place of a worker was taken.", |worker| {
        worker.engine.accepts_paused
    }),
    ("ringway_zero_copy_sends_total", "Frames sent without asking for a copy.", |worker| {
        worker.engine.zero_copy_sends
    }),
    ("ringway_zero_copy_copied_total", "Those that the kernel copied all the same.", |worker| {
        worker.engine.zero_copy_copied
    }),
    ("ringway_zero_copy_exhausted_total", "Large frames that found no room for it.", |worker| {
        worker.engine.zero_copy_exhausted
    }),
    ("ringway_zero_copy_routes_off_total", "Connections it was turned off for.", |worker| {
        worker.engine.zero_copy_routes_off
    }),
];

/// `GET /metrics`.
pub(super) async fn metrics(State(control): State<Arc<Control>>) -> Response {
    match render(&control.facts, &control.record(), Instant::now()) {
        Ok(text) => ([(header::CONTENT_TYPE, TEXT_FORMAT)], text).into_response(),
        Err(error) => {
            Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response()
        }
    }
}

fn render(facts: &Facts, record: &Record, now: Instant) -> prometheus::Result<String> {
    let mut families = Families::new();
    add_process(&mut families, facts, record);
    add_workers(&mut families, facts, record, now);
    add_counters(&mut families, record);
    add_stages(&mut families, record);
    add_limits(&mut families, facts, &record.settings);
    TextEncoder::new().encode_to_string(&families.into_vec())
}

fn add_process(families: &mut Families, facts: &Facts, record: &Record) {
    let mut build =
        families.gauge("ringway_build_info", "1, with the version, the engine, and why that one.");
    let labels = [
        ("version", facts.version),
        ("engine", facts.engine),
        ("engine_reason", &facts.engine_reason),
    ];
    build.sample(&labels, 1.0);
    let mut draining = families.gauge("ringway_draining", "1 from the signal on, else 0.");
    draining.sample(&[], if record.draining { 1.0 } else { 0.0 });
    let mut blocked =
        families.gauge("ringway_blocked_subs", "Subjects of tokens that are blocked.");
    blocked.sample(&[], record.blocked_subs as f64);
    let mut blocked_max =
        families.gauge("ringway_blocked_subs_max", "Most subjects that may be blocked.");
    blocked_max.sample(&[], record.settings.limits.blocked_subs_max.into());
}

fn add_workers(families: &mut Families, facts: &Facts, record: &Record, now: Instant) {
    for (name, help, value) in GAUGES {
        let mut gauge = families.gauge(name, help);
        for (worker, totals) in record.totals.workers.iter().enumerate() {
            gauge.sample(&[("worker", &worker.to_string())], value(totals) as f64);
        }
    }
    for (name, help, bound) in BOUNDS {
        let mut gauge = families.gauge(name, help);
        for worker in &facts.workers {
            gauge.sample(&[("worker", &worker.worker.to_string())], bound(worker).into());
        }
    }
    let mut fixed = families.gauge("ringway_fixed_bytes", "Memory of a worker whatever its load.");
    for (worker, totals) in facts.workers.iter().zip(&record.totals.workers) {
        let bytes = (worker.fixed_bytes + totals.gauges.fixed_bytes) as f64;
        fixed.sample(&[("worker", &worker.worker.to_string())], bytes);
    }
    let mut ages =
        families.gauge("ringway_report_age_seconds", "Time since a worker's last report.");
    for worker in 0..record.totals.workers.len() {
        let age = record.totals.report_age_seconds(worker, now);
        ages.sample(&[("worker", &worker.to_string())], age);
    }
}

fn add_counters(families: &mut Families, record: &Record) {
    let totals = &record.totals;
    for (name, help, value) in COUNTERS {
        families.counter(name, help).sample(&[], totals.sum(value) as f64);
    }
    let mut closed =
        families.counter("ringway_connections_closed_total", "Open connections that ended.");
    for reason in CloseReason::ALL {
        let count = totals.sum(|worker| worker.closed[reason as usize]);
        closed.sample(&[("reason", reason.label())], count as f64);
    }
    let mut refused =
        families.counter("ringway_handshakes_refused_total", "Connections that never opened.");
    for reason in RefusalReason::ALL {
        let count = totals.sum(|worker| worker.refused[reason as usize]);
        refused.sample(&[("reason", reason.label())], count as f64);
    }
    let mut dropped =
        families.counter("ringway_messages_dropped_total", "Messages queued that never left.");
    for reason in DropReason::ALL {
        let count = totals.sum(|worker| worker.messages_dropped[reason as usize]);
        dropped.sample(&[("reason", reason.label())], count as f64);
    }
    let mut publications = families.counter(
        "ringway_publications_refused_total",
        "Publications that a queue had no room for: of clients, who were held back, and of HTTP.",
    );
    let of_clients = totals.sum(|worker| worker.publications_refused);
    publications.sample(&[("reason", "client_no_room")], of_clients as f64);
    publications.sample(&[("reason", "http_no_room")], totals.publications_refused as f64);
    let mut removals = families.counter(
        "ringway_removals_refused_total",
        "Removals by sub for which too many were blocked already.",
    );
    removals.sample(&[], record.removals_refused as f64);
    let mut listings = families.counter(
        "ringway_listings_refused_total",
        "Listings that waited too long for others that were being gathered.",
    );
    listings.sample(&[], record.listings_refused as f64);
    let mut pauses = families.counter(
        "ringway_publish_rate_pauses_total",
        "Times a client was not read from because it had published faster than it may.",
    );
    pauses.sample(&[], totals.sum(|worker| worker.rate_pauses) as f64);
    let mut deferrals = families.counter(
        "ringway_share_deferrals_total",
        "Times the rest of what a client had sent had to wait for the next turn.",
    );
    deferrals.sample(&[], totals.sum(|worker| worker.share_deferrals) as f64);
    let mut control = families
        .counter("ringway_control_refused_total", "Requests that the control plane has refused.");
    for (reason, count) in record.refusals.by_reason() {
        control.sample(&[("reason", reason)], count as f64);
    }
    let mut unverified = families.counter(
        "ringway_verification_deferrals_total",
        "Requests whose tokens had to wait for a later turn to be verified.",
    );
    unverified.sample(&[], totals.sum(|worker| worker.verification_deferrals) as f64);
}

fn add_stages(families: &mut Families, record: &Record) {
    let mut stages = families.histogram("ringway_stage_seconds", "How long each stage takes.");
    for stage in Stage::ALL {
        stages.histogram(&[("stage", stage.label())], record.totals.stages.stage(stage));
    }
}

/// Every bound of `[limits]` by its key, so that none can be forgotten here, and those of flags.
fn add_limits(families: &mut Families, facts: &Facts, settings: &Settings) {
    let mut limits = families.gauge("ringway_limit", "A bound, by its key in the configuration.");
    limits.sample(&[("name", "connections_max")], facts.connections_max as f64);
    for (name, value) in &settings.flags {
        limits.sample(&[("name", name)], *value);
    }
    let Ok(serde_json::Value::Object(bounds)) = serde_json::to_value(&settings.limits) else {
        unreachable!("the bounds are a structure of numbers");
    };
    for (name, value) in &bounds {
        limits.sample(&[("name", name)], value.as_f64().unwrap_or(f64::NAN));
    }
}

#[cfg(test)]
mod tests {
    use std::{
        collections::BTreeSet,
        time::{Duration, UNIX_EPOCH},
    };

    use wire::Converted;
    use worker::Report;

    use super::*;
    use crate::control::{
        intervals::Intervals,
        refusals::Refusals,
        testing::{facts, settings},
        totals::Totals,
    };

    fn page() -> String {
        let facts = facts(2);
        let mut record = Record {
            draining: false,
            blocked_subs: 3,
            removals_refused: 2,
            listings_refused: 3,
            refusals: Refusals::default(),
            settings: settings(),
            totals: Totals::new(2, facts.started_at),
            intervals: Intervals::new(UNIX_EPOCH, facts.started_at),
        };
        record.refusals.count(StatusCode::UNAUTHORIZED);
        let mut report = Report::new();
        report.opened = 12;
        report.gauges.connections = 5;
        report.gauges.fixed_bytes = 24;
        report.closed[CloseReason::SlowConsumer as usize] = 7;
        report.refused[RefusalReason::Origin as usize] = 2;
        report.messages_dropped[DropReason::OverBudget as usize] = 3;
        report.gauges.connections_deflate = 4;
        report.deflated = Converted { messages: 1, before_bytes: 100, after_bytes: 30 };
        report.deflated_saved_bytes = 7_000;
        report.inflated = Converted { messages: 2, before_bytes: 40, after_bytes: 90 };
        report.sent_bytes = 1_000_000;
        report.engine.accepts_paused = 5;
        report.record_many(Stage::Hop, Duration::from_micros(3), 2);
        report.record_many(Stage::Hop, Duration::from_millis(40), 1);
        record.totals.add(0, &report, facts.started_at);
        record.totals.add(1, &report, facts.started_at + Duration::from_secs(1));
        render(&facts, &record, facts.started_at + Duration::from_secs(3)).unwrap()
    }

    fn has(page: &str, line: &str) {
        assert!(page.lines().any(|other| other == line), "no line {line} in\n{page}");
    }

    #[test]
    fn the_documented_names_carry_the_totals() {
        let page = page();
        has(&page, r#"ringway_build_info{version="1.2.3",engine="ring",engine_reason="chosen"} 1"#);
        has(&page, r#"ringway_connections{worker="1"} 5"#);
        has(&page, r#"ringway_connections_max{worker="0"} 105"#);
        has(&page, r#"ringway_fixed_bytes{worker="0"} 1048600"#);
        has(&page, "ringway_connections_opened_total 24");
        has(&page, r#"ringway_connections_closed_total{reason="slow_consumer"} 14"#);
        has(&page, r#"ringway_connections_closed_total{reason="reset"} 0"#);
        has(&page, r#"ringway_handshakes_refused_total{reason="origin"} 4"#);
        has(&page, r#"ringway_control_refused_total{reason="token"} 1"#);
        has(&page, r#"ringway_control_refused_total{reason="not_allowed"} 0"#);
        has(&page, r#"ringway_handshakes_max{worker="1"} 169"#);
        has(&page, r#"ringway_multishot_connections_max{worker="1"} 10"#);
        has(&page, r#"ringway_limit{name="write_timeout_seconds"} 10"#);
        has(&page, "ringway_blocked_subs 3");
        has(&page, "ringway_blocked_subs_max 100000");
        has(&page, "ringway_removals_refused_total 2");
        has(&page, "ringway_listings_refused_total 3");
        has(&page, "ringway_messages_received_total 0");
        has(&page, r#"ringway_connections_deflate{worker="1"} 4"#);
        has(&page, "ringway_deflated_messages_total 2");
        has(&page, "ringway_deflated_before_bytes_total 200");
        has(&page, "ringway_deflated_after_bytes_total 60");
        has(&page, "ringway_deflated_saved_bytes_total 14000");
        has(&page, "ringway_inflated_messages_total 4");
        has(&page, "ringway_inflated_before_bytes_total 80");
        has(&page, "ringway_inflated_after_bytes_total 180");
        has(&page, "ringway_messages_delivered_total 0");
        has(&page, r#"ringway_messages_dropped_total{reason="over_budget"} 6"#);
        has(&page, r#"ringway_messages_dropped_total{reason="gone"} 0"#);
        has(&page, "ringway_received_bytes_total 0");
        has(&page, "ringway_accepts_paused_total 10");
        has(&page, "ringway_submissions_full_total 0");
        has(&page, "ringway_zero_copy_sends_total 0");
        has(&page, "ringway_sent_bytes_total 2000000");
        has(&page, r#"ringway_send_queue_bytes{worker="0"} 0"#);
        has(&page, r#"ringway_publications_refused_total{reason="http_no_room"} 0"#);
        has(&page, r#"ringway_limit{name="message_bytes_max"} 65536"#);
        has(&page, r#"ringway_limit{name="connections_max"} 200"#);
        has(&page, r#"ringway_report_age_seconds{worker="0"} 3"#);
        has(&page, r#"ringway_report_age_seconds{worker="1"} 2"#);
    }

    #[test]
    fn a_stage_is_a_histogram_from_a_microsecond_to_ten_seconds() {
        let page = page();
        has(&page, "# TYPE ringway_stage_seconds histogram");
        has(&page, r#"ringway_stage_seconds_bucket{stage="hop",le="0.000001"} 0"#);
        has(&page, r#"ringway_stage_seconds_bucket{stage="hop",le="0.0000025"} 0"#);
        has(&page, r#"ringway_stage_seconds_bucket{stage="hop",le="0.000005"} 4"#);
        has(&page, r#"ringway_stage_seconds_bucket{stage="hop",le="0.025"} 4"#);
        has(&page, r#"ringway_stage_seconds_bucket{stage="hop",le="0.05"} 6"#);
        has(&page, r#"ringway_stage_seconds_bucket{stage="hop",le="10"} 6"#);
        has(&page, r#"ringway_stage_seconds_bucket{stage="hop",le="+Inf"} 6"#);
        has(&page, r#"ringway_stage_seconds_count{stage="hop"} 6"#);
        has(&page, r#"ringway_stage_seconds_count{stage="ping"} 0"#);
    }

    /// The text format 0.0.4: each family once, `HELP` and `TYPE` before its samples, a number in
    /// each sample.
    #[test]
    fn every_line_has_one_of_the_three_shapes_and_every_sample_its_family() {
        let page = page();
        let mut families = BTreeSet::new();
        let mut family = String::new();
        let mut helped = String::new();
        for line in page.lines() {
            if let Some(rest) = line.strip_prefix("# HELP ") {
                helped = rest.split_once(' ').unwrap().0.to_owned();
            } else if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').unwrap();
                assert!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
                assert_eq!(name.ends_with("_total"), kind == "counter", "{line}");
                assert_eq!(name, helped);
                assert!(families.insert(name.to_owned()), "{name} stands twice");
                name.clone_into(&mut family);
            } else {
                let (name, value) = line.rsplit_once(' ').unwrap();
                assert!(value.parse::<f64>().unwrap().is_finite(), "{line}");
                let bare = name.split('{').next().unwrap();
                let suffix = bare.strip_prefix(family.as_str()).unwrap();
                assert!(["", "_bucket", "_sum", "_count"].contains(&suffix), "{line}");
            }
        }
        assert!(families.len() > 35, "{}", families.len());
    }
}
