//! What a worker holds: never more than it may, and nothing when nobody is there any more.

use worker::{FRAME_HEADER_BYTES_MAX, Gauges};

use crate::{guest::BATCH_PUBLICATIONS_MAX, scenario::Scenario};

/// The longest response or Close frame, in bytes: a worker queues one for who is refused or closed.
const LAST_WORDS_BYTES_MAX: u64 = 400;

/// The shortest frame of a client, in bytes (RFC 6455 section 5.2).
const FRAME_BYTES_MIN: u64 = 6;

/// Every gauge that has a bound is within it, at any moment.
pub(crate) fn check(gauges: &Gauges, scenario: &Scenario) -> Result<(), String> {
    let limits = &scenario.limits;
    let connections = u64::from(gauges.connections);
    let connections_max = u64::from(scenario.connections_max);
    let slots_max = connections_max + u64::from(limits.surplus_connections_max);
    // A letter is taken where there is room for one publication, and may be a batch.
    let publications = u64::from(gauges.fanout_publications);
    let publications_max =
        u64::from(limits.fanout_publications_max) + BATCH_PUBLICATIONS_MAX as u64 - 1;
    let bytes_max =
        limits.fanout_bytes_max + BATCH_PUBLICATIONS_MAX as u64 * scenario.frame_bytes_max();
    let topics_max = scenario.topics as u64;
    let budget = limits.send_queue_total_bytes_max;
    let budget_max = budget * if scenario.wishes { 2 } else { 1 };
    if ![budget, budget_max].contains(&gauges.send_queue_bytes_max) {
        return Err(format!(
            "its budget is {}, and was set to {budget}",
            gauges.send_queue_bytes_max
        ));
    }
    for (name, value, bound) in [
        ("connections", connections, connections_max),
        ("handshakes", u64::from(gauges.handshakes), slots_max),
        ("send_queues", u64::from(gauges.send_queues), slots_max),
        ("topics", gauges.topics, topics_max.min(gauges.subscriptions)),
        (
            "subscriptions",
            gauges.subscriptions,
            connections * topics_max.min(scenario.topics_per_visitor_max as u64),
        ),
        ("partial_bytes", gauges.partial_bytes, limits.partial_total_bytes_max),
        ("handshake_bytes", gauges.handshake_bytes, limits.handshake_total_bytes_max),
        ("fanout_jobs", u64::from(gauges.fanout_jobs), publications),
        ("fanout_publications", publications, publications_max),
        ("fanout_bytes", gauges.fanout_bytes, bytes_max),
        ("publishers_paused", u64::from(gauges.publishers_paused), connections),
    ] {
        if value > bound {
            return Err(format!("{name} is {value}, and at most {bound}"));
        }
    }
    Ok(())
}

/// The budget of all queues is held as a turn begins; it may end with as much more as it brought.
/// `kept`: bytes that were kept of what clients had sent, or came in that turn. `budget`: as it was when the turn began.
pub(crate) fn check_budget(
    gauges: &Gauges,
    kept: u64,
    budget: u64,
    scenario: &Scenario,
) -> Result<(), String> {
    let limits = &scenario.limits;
    let charge = u64::from(limits.send_queue_frame_charge_bytes);
    let queues = u64::from(gauges.send_queues);
    // To each queue what is published, as far as a turn offers it.
    let longest = u64::from(limits.coalesce_bytes_max.max(limits.message_bytes_max));
    let frame_bytes = gauges.fanout_bytes.min(longest + u64::from(FRAME_HEADER_BYTES_MAX));
    let offered = u64::from(limits.fanout_targets_max) * (frame_bytes + charge);
    let published = gauges.fanout_bytes + u64::from(gauges.fanout_publications) * charge;
    // To each frame that is decoded an answer, which may be what was compressed in it.
    let answer_bytes = if scenario.compresses { scenario.frame_bytes_max() } else { 0 };
    let answers = kept + kept.div_ceil(FRAME_BYTES_MIN) * (answer_bytes + charge);
    let last_words = queues * (LAST_WORDS_BYTES_MAX + 2 * charge);
    let bound = budget + offered.min(queues * published) + answers + last_words;
    match gauges.send_queue_bytes {
        bytes if bytes <= bound => Ok(()),
        bytes => Err(format!("send_queue_bytes is {bytes}, and at most {bound}")),
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_may_come_where_there_is_room_for_one_and_no_more() {
        let mut scenario = Scenario::new(0);
        scenario.limits.fanout_publications_max = 3;
        let check = |publications| {
            let gauges = Gauges {
                fanout_publications: publications,
                send_queue_bytes_max: scenario.limits.send_queue_total_bytes_max,
                ..Gauges::default()
            };
            check(&gauges, &scenario).is_ok()
        };
        assert_eq!([3, 7, 8].map(check), [true, true, false]);
    }

    #[test]
    fn the_budget_is_exceeded_by_what_a_turn_brings() {
        let mut scenario = Scenario::new(0);
        scenario.compresses = false;
        scenario.limits.send_queue_frame_charge_bytes = 64;
        scenario.limits.fanout_targets_max = 5;
        let check = |bytes, queues, published, kept| {
            let gauges = Gauges {
                send_queue_bytes: bytes,
                send_queues: queues,
                fanout_bytes: published,
                fanout_publications: u32::from(published > 0),
                ..Gauges::default()
            };
            check_budget(&gauges, kept, 10_000, &scenario).is_ok()
        };
        // A Close frame or a response to each of two queues.
        assert_eq!([11_056, 11_057].map(|bytes| check(bytes, 2, 0, 0)), [true, false]);
        // A publication of 100 bytes to each of them.
        assert_eq!([11_384, 11_385].map(|bytes| check(bytes, 2, 100, 0)), [true, false]);
        // A pong to each of two pings.
        assert_eq!([11_196, 11_197].map(|bytes| check(bytes, 2, 0, 12)), [true, false]);
    }
}
