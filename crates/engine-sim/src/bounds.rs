//! What a worker holds: never more than it may, and nothing when nobody is there any more.

use worker::Gauges;

use crate::scenario::Scenario;

/// Letters that a worker takes in one turn beyond what it has room for: each was looked for room
/// when it was published, and several may have been meanwhile.
const PUBLICATIONS_PER_TURN_MAX: u64 = 300;

/// Connections closed in one turn, for their age or by a drain: each is a frame.
const CLOSES_PER_TURN_MAX: u64 = 128;

/// Every gauge that has a bound is within it.
pub(crate) fn check(gauges: &Gauges, scenario: &Scenario) -> Result<(), String> {
    let limits = &scenario.limits;
    let connections_max = u64::from(scenario.connections_max);
    let slots_max = connections_max + u64::from(limits.surplus_connections_max);
    // What one turn brings may exceed the fan-out's bounds: a letter may be a batch.
    let publications_max = u64::from(limits.fanout_publications_max) + PUBLICATIONS_PER_TURN_MAX;
    let bytes_max = limits.fanout_bytes_max
        + PUBLICATIONS_PER_TURN_MAX * (u64::from(limits.message_bytes_max) + 14);
    // The budget of all queues is held when a turn begins: what one turn brings may exceed it.
    let frames_bytes = u64::from(limits.coalesce_bytes_max.max(limits.message_bytes_max)) + 14;
    let frames_max = u64::from(limits.fanout_targets_max) + CLOSES_PER_TURN_MAX;
    let queue_bytes_max = limits.send_queue_total_bytes_max
        + frames_max * (frames_bytes + u64::from(limits.send_queue_frame_charge_bytes));
    for (name, value, bound) in [
        ("connections", u64::from(gauges.connections), connections_max),
        ("handshakes", u64::from(gauges.handshakes), slots_max),
        ("send_queues", u64::from(gauges.send_queues), slots_max),
        ("send_queue_bytes", gauges.send_queue_bytes, queue_bytes_max),
        ("partial_bytes", gauges.partial_bytes, limits.partial_total_bytes_max),
        ("handshake_bytes", gauges.handshake_bytes, limits.handshake_total_bytes_max),
        ("fanout_publications", u64::from(gauges.fanout_publications), publications_max),
        ("fanout_bytes", gauges.fanout_bytes, bytes_max),
        ("publishers_paused", u64::from(gauges.publishers_paused), connections_max),
    ] {
        if value > bound {
            return Err(format!("{name} is {value}, and at most {bound}"));
        }
    }
    Ok(())
}

/// Nobody is there any more: nothing is held for anybody.
pub(crate) fn check_returned(gauges: &Gauges) -> Result<(), String> {
    let held = [
        ("connections", u64::from(gauges.connections)),
        ("handshakes", u64::from(gauges.handshakes)),
        ("topics", gauges.topics),
        ("subscriptions", gauges.subscriptions),
        ("send_queues", u64::from(gauges.send_queues)),
        ("send_queue_bytes", gauges.send_queue_bytes),
        ("partial_bytes", gauges.partial_bytes),
        ("handshake_bytes", gauges.handshake_bytes),
        ("fanout_jobs", u64::from(gauges.fanout_jobs)),
        ("fanout_publications", u64::from(gauges.fanout_publications)),
        ("fanout_bytes", gauges.fanout_bytes),
        ("publishers_paused", u64::from(gauges.publishers_paused)),
    ];
    match held.iter().find(|(_, value)| *value > 0) {
        Some((name, value)) => Err(format!("{name} is {value}, though nobody is there")),
        None => Ok(()),
    }
}
