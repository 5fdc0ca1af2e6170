//! A worker against an engine that is a list: what it submits can be looked at, what completes is
//! put in, and time passes only when told.

#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod announced;
mod budget;
mod compression;
mod rig;
mod settings;
mod shares;
mod timeouts;
mod verifications;

use std::{num::NonZeroU32, sync::Arc, time::Duration};

use rig::{Rig, text};
use ringway_worker::{
    AddressLimits, Addresses, Closing, DropReason, RefusalReason, Slot, SlowConsumer, Stage,
};

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

#[test]
fn bytes_that_a_socket_refused_are_not_counted_until_it_takes_them() {
    let mut rig = Rig::new(|_| ());
    let client = rig.connect();
    rig.settle();
    rig.report();
    rig.takes(client, Some(3));
    rig.publish_to(&[0], "refused");
    rig.settle();
    assert_eq!(rig.report().sent_bytes, 3);
    rig.takes(client, None);
    rig.settle();
    assert_eq!(rig.report().sent_bytes, 9 - 3);
}

#[test]
fn a_publication_behind_one_whose_only_subscriber_is_busy_waits_for_nothing() {
    let (mut rig, client) = Rig::with_stalled_reader(|_| ());
    rig.receive(client, &[text("two"), text("three")].concat());
    rig.settle();
    assert_eq!(rig.report().gauges.fanout_publications, 0, "all of it is queued");
    assert_eq!(rig.offered(), 1, "nothing is offered to who is busy");
    rig.takes(client, None);
    rig.settle();
    assert_eq!(rig.sent(client), b"\x81\x03one\x81\x03two\x81\x05three");
}

#[test]
fn a_slow_consumer_gets_what_it_has_begun_then_1013_and_nothing_between() {
    let mut rig = Rig::new(|options| {
        options.limits.message_bytes_max = 100;
        options.limits.send_queue_bytes_max = 114 + 64;
    });
    let client = rig.connect();
    let long = "x".repeat(100);
    rig.takes(client, Some(10));
    rig.receive(client, &text(&long));
    rig.settle();
    for _ in 0..4 {
        rig.receive(client, &text(&long));
        rig.settle();
    }
    rig.takes(client, None);
    rig.settle();
    let expected = [&b"\x81\x64"[..], long.as_bytes(), b"\x88\x0f\x03\xf5slow consumer"].concat();
    assert_eq!(rig.sent(client), expected);
    assert_eq!(rig.handler().closed, ["slow_consumer"]);
    assert!(rig.closes(client).is_empty(), "the peer's Close is awaited");
    rig.receive(client, &[0x88, 0x80, 0, 0, 0, 0]);
    rig.settle();
    assert_eq!(rig.closes(client), [Closing::Finish]);
}

#[test]
fn the_smallest_send_queue_takes_one_message_of_the_greatest_size() {
    let mut rig = Rig::new(|options| {
        options.limits.message_bytes_max = 100;
        options.limits.send_queue_bytes_max = 114;
        options.limits.check().unwrap();
    });
    let client = rig.connect();
    let long = "x".repeat(100);
    rig.takes(client, Some(0));
    rig.receive(client, &text(&long));
    rig.settle();
    assert!(rig.handler().closed.is_empty(), "it is queued");
    rig.takes(client, None);
    rig.settle();
    assert_eq!(rig.sent(client), [b"\x81\x64", long.as_bytes()].concat());
}

#[test]
fn nothing_follows_a_message_that_was_cut_from_a_slow_consumers_queue() {
    let mut rig = Rig::new(|options| {
        options.limits.message_bytes_max = 100;
        options.limits.send_queue_bytes_max = 114;
    });
    let client = rig.connect();
    rig.takes(client, Some(0));
    // Three audiences: all frames are offered before the first is refused. The first is queued, the
    // second is too much.
    rig.publish_to(&[0, 1, 2], &"x".repeat(100));
    rig.settle();
    rig.takes(client, None);
    rig.settle();
    assert_eq!(rig.sent(client), b"\x88\x0f\x03\xf5slow consumer");
    let report = rig.report();
    assert_eq!(report.messages_dropped, dropped(DropReason::SlowConsumer, 3));
    assert_eq!(report.gauges.send_queue_bytes, 0);
}

/// So many for this reason, and none for the others.
fn dropped(reason: DropReason, messages: u64) -> [u64; DropReason::ALL.len()] {
    DropReason::ALL.map(|other| if other == reason { messages } else { 0 })
}

#[test]
fn messages_that_never_left_are_counted_by_what_ended_their_connection() {
    type End = fn(&mut Rig, Slot);
    let ends: [(DropReason, End); 4] = [
        (DropReason::Gone, |rig, client| rig.finish(client)),
        (DropReason::Stalled, |rig, _| (0..11).for_each(|_| rig.pass(SECOND))),
        // It was pinged before, and the ping is a second older than what is queued.
        (DropReason::NoPong, |rig, _| (0..10).for_each(|_| rig.pass(SECOND))),
        (DropReason::OverBudget, |rig, _| rig.publish_to(&[0], &"x".repeat(200))),
    ];
    for (reason, end) in ends {
        let mut rig = Rig::new(|options| {
            options.ping_interval = (reason == DropReason::NoPong).then_some(SECOND * 25);
            options.limits.send_queue_total_bytes_max = 400;
        });
        let client = rig.connect();
        if reason == DropReason::NoPong {
            rig.pass_until_pinged(client);
        }
        rig.pass(SECOND);
        rig.takes(client, Some(0));
        rig.publish_to(&[0], "one");
        rig.settle();
        rig.publish_to(&[0], "two");
        rig.settle();
        end(&mut rig, client);
        rig.settle();
        let messages = if reason == DropReason::OverBudget { 3 } else { 2 };
        let report = rig.report();
        assert_eq!(report.messages_dropped, dropped(reason, messages), "{reason:?}");
        assert_eq!((report.messages_delivered, report.gauges.send_queue_bytes), (0, 0));
    }
}

#[test]
fn what_is_offered_to_a_broken_socket_counts_as_dropped_and_no_byte_of_it_as_sent() {
    let mut rig = Rig::new(|_| ());
    let clients = rig.connect_all(2);
    rig.report();
    rig.reset(clients[0]);
    rig.publish_to(&[0, 1], "news");
    rig.settle();
    assert_eq!(rig.handler().closed, ["reset"]);
    let report = rig.report();
    assert_eq!(report.messages_dropped, dropped(DropReason::Gone, 2));
    assert_eq!((report.messages_delivered, report.sent_bytes), (2, 12));
}

#[test]
fn what_a_paused_publisher_sent_before_its_fin_is_handled() {
    let mut rig = Rig::new(|_| ());
    let client = rig.connect();
    rig.receive(client, &[text("pause"), text("behind")].concat());
    rig.finish(client);
    rig.settle();
    assert_eq!(rig.handler().messages, ["pause"]);
    rig.resume(client);
    rig.settle();
    assert_eq!(rig.handler().messages, ["pause", "behind"]);
    assert_eq!(rig.handler().closed, ["peer_gone"]);
    assert_eq!(rig.report().gauges.partial_bytes, 0);
}

#[test]
fn a_pong_is_timed_in_microseconds() {
    let mut rig = Rig::new(|options| options.ping_interval = Some(SECOND * 25));
    let client = rig.connect();
    rig.pass_until_pinged(client);
    rig.pass(3 * MS);
    rig.receive(client, &[0x8A, 0x80, 0, 0, 0, 0]);
    rig.settle();
    let pings = rig.report().stage(Stage::Ping).clone();
    assert_eq!(pings.len(), 1);
    assert!((2_900_000..3_100_000).contains(&pings.max()), "{} ns", pings.max());
}

#[test]
fn what_an_enter_takes_is_part_of_a_turn_and_waiting_is_not() {
    let mut rig = Rig::new(|_| ());
    rig.keep_whole();
    rig.connect();
    rig.settle();
    rig.stall(300 * MS);
    rig.turn();
    rig.publish_to(&[0], "news");
    while rig.offered() == 0 {
        rig.turn();
    }
    // The offer leaves as the engine is entered.
    rig.stall(3 * MS);
    rig.settle();
    let turns = rig.report().stage(Stage::Turn).clone();
    assert!((2_900_000..3_100_000).contains(&turns.max()), "{} ns", turns.max());
}

#[test]
fn the_fixed_memory_of_a_worker_follows_its_table_and_not_its_connections() {
    let mut fixed_bytes = [10, 1_010].map(|connections_max| {
        let mut rig = Rig::new(|options| options.connections_max = connections_max);
        let before = rig.report().gauges.fixed_bytes;
        rig.connect();
        assert_eq!(rig.report().gauges.fixed_bytes, before);
        before
    });
    // The table's 64 surplus places, the wheel's 512 buckets, six histograms of 10 KiB.
    assert!((70_000..100_000).contains(&fixed_bytes[0]), "{}", fixed_bytes[0]);
    fixed_bytes[1] -= fixed_bytes[0];
    assert_eq!(fixed_bytes[1] % 1_000, 0, "so much a place");
    assert!((40_000..=92_000).contains(&fixed_bytes[1]), "{}", fixed_bytes[1]);
}

#[test]
fn a_report_carries_what_the_engine_has_counted_since_its_start() {
    let mut rig = Rig::new(|_| ());
    rig.keep_whole();
    assert_eq!(rig.report().engine.enters, 1);
    rig.turn();
    assert_eq!(rig.report().engine.enters, 3);
}

#[test]
fn a_turn_offers_a_frame_to_as_many_as_its_bound_says() {
    let mut rig = Rig::new(|options| {
        options.connections_max = 300;
        options.limits.fanout_targets_max = 200;
        options.limits.check().unwrap();
    });
    rig.keep_whole();
    let clients = rig.connect_all(300);
    rig.receive(clients[0], &text("to all"));
    let offered = [(); 3].map(|()| {
        rig.turn();
        rig.offered()
    });
    assert_eq!(offered, [200, 300, 300], "four offers in the first turn, two in the second");
    clients.iter().for_each(|&client| assert_eq!(rig.sent(client), b"\x81\x06to all"));
}

#[test]
fn what_comes_byte_by_byte_is_put_together() {
    let mut rig = Rig::new(|_| ());
    let client = rig.connect();
    let fragments = [&[0x01, 0x82, 0, 0, 0, 0][..], b"he", &[0x80, 0x83, 0, 0, 0, 0], b"llo"];
    let ping = [0x89, 0x82, 0, 0, 0, 0, b'h', b'i'];
    let bytes = [&fragments[..2].concat()[..], &ping, &fragments[2..].concat()].concat();
    for byte in bytes {
        rig.receive(client, &[byte]);
        rig.turn();
    }
    rig.settle();
    assert_eq!(rig.sent(client), b"\x8A\x02hi\x81\x05hello");
    let report = rig.report();
    assert_eq!((report.gauges.partial_bytes, report.messages_received), (0, 1));
}

#[test]
fn everyone_gets_every_publication_once_in_order_whoever_is_slow() {
    let mut rig = Rig::new(|options| options.connections_max = 200);
    let clients: Vec<_> = (0..200).map(|_| rig.connect()).collect();
    rig.takes(clients[150], Some(3));
    let mut expected = Vec::new();
    for number in 10..20 {
        rig.publish_to(&[0], &number.to_string());
        rig.turn();
        expected.extend([b"\x81\x02", number.to_string().as_bytes()].concat());
    }
    rig.settle();
    assert_eq!(rig.sent(clients[150]), b"\x81\x021");
    assert!(rig.report().gauges.send_queue_bytes > 0);
    rig.takes(clients[150], None);
    rig.settle();
    for client in clients {
        assert_eq!(rig.sent(client), expected);
    }
    let report = rig.report();
    assert_eq!((report.gauges.send_queue_bytes, report.gauges.fanout_publications), (0, 0));
}

#[test]
fn the_oldest_messages_make_room_for_new_ones() {
    let mut rig = Rig::new(|options| {
        options.slow_consumer = SlowConsumer::DropOldest;
        options.limits.message_bytes_max = 100;
        // What is left of one that has begun, and two whole ones; a charge of 64 is free.
        options.limits.send_queue_bytes_max = 92 + 64 + 2 * (102 + 64) - 64;
    });
    let client = rig.connect();
    rig.takes(client, Some(10));
    let long = |digit: u32| digit.to_string().repeat(100);
    for digit in 0..6 {
        rig.publish_to(&[0], &long(digit));
        rig.settle();
    }
    rig.takes(client, None);
    rig.settle();
    let frame = |digit| [&b"\x81\x64"[..], long(digit).as_bytes()].concat();
    assert_eq!(rig.sent(client), [frame(0), frame(4), frame(5)].concat());
    let report = rig.report();
    assert_eq!(report.messages_dropped[DropReason::Oldest as usize], 3);
    assert_eq!(report.messages_delivered, 3);
    assert_eq!(report.gauges.send_queue_bytes, 0);
    assert!(rig.handler().closed.is_empty());
}

#[test]
fn messages_joined_with_a_pong_are_not_dropped_and_close_who_has_too_many() {
    for with_ping in [false, true] {
        let mut rig = Rig::new(|options| {
            options.slow_consumer = SlowConsumer::DropOldest;
            options.coalesce_delay = 30 * MS;
            options.limits.message_bytes_max = 100;
            options.limits.send_queue_bytes_max = 114;
        });
        rig.keep_whole();
        let client = rig.connect();
        let long = |digit: u32| digit.to_string().repeat(100);
        for digit in 0..3 {
            rig.publish_to(&[0], &long(digit));
        }
        rig.turn();
        // What it is owed it is given as one reply.
        rig.move_to_another(Duration::ZERO);
        rig.takes(client, Some(0));
        if with_ping {
            rig.receive(client, b"\x89\x80\0\0\0\0");
        }
        rig.settle();
        let closed: &[&str] = if with_ping { &["slow_consumer"] } else { &[] };
        assert_eq!(rig.handler().closed, closed, "at once");
        rig.publish_to(&[0], "behind");
        rig.pass(30 * MS);
        rig.takes(client, None);
        rig.settle();
        let frame = |digit| [&b"\x81\x64"[..], long(digit).as_bytes()].concat();
        let expected = match with_ping {
            true => {
                let close = b"\x8A\x00\x88\x0f\x03\xf5slow consumer".to_vec();
                [frame(0), frame(1), frame(2), close].concat()
            }
            false => b"\x81\x06behind".to_vec(),
        };
        assert_eq!(String::from_utf8_lossy(rig.sent(client)), String::from_utf8_lossy(&expected));
        assert_eq!(rig.report().gauges.send_queue_bytes, 0);
    }
}

#[test]
fn only_the_latest_message_of_each_audience_waits() {
    let mut rig = Rig::new(|options| options.slow_consumer = SlowConsumer::Latest);
    let client = rig.connect();
    rig.takes(client, Some(0));
    for (audience, text) in [(0, "a1"), (1, "b1"), (0, "a2"), (1, "b2"), (0, "a3")] {
        rig.publish_to(&[audience], text);
        rig.settle();
    }
    rig.takes(client, None);
    rig.settle();
    assert_eq!(rig.sent(client), b"\x81\x02b2\x81\x02a3");
    let report = rig.report();
    assert_eq!(report.messages_dropped[DropReason::Replaced as usize], 3);
    assert_eq!(report.messages_delivered, 2);
}

#[test]
fn a_letter_that_a_full_fan_out_cannot_take_does_not_keep_the_worker_awake() {
    let mut rig = Rig::new(|options| {
        options.coalesce_delay = 30 * MS;
        options.limits.fanout_publications_max = 1;
    });
    rig.keep_whole();
    let client = rig.connect();
    rig.publish_to(&[0], "one");
    rig.settle();
    rig.publish_to(&[0], "two");
    rig.settle();
    assert_eq!(rig.sent(client), b"");
    rig.pass(30 * MS);
    assert_eq!(rig.sent(client), b"\x81\x03one");
    rig.pass(30 * MS);
    assert_eq!(rig.sent(client), b"\x81\x03one\x81\x03two");
}

#[test]
fn a_client_over_its_rate_waits_and_loses_nothing() {
    let mut rig = Rig::new(|options| options.publish_rate_max = NonZeroU32::new(2));
    let client = rig.connect();
    rig.receive(client, &["1", "2", "3", "4", "5"].map(text).concat());
    rig.settle();
    assert_eq!(rig.handler().messages, ["1", "2"], "a second's worth at once");
    assert_eq!(rig.report().gauges.publishers_paused, 1);
    rig.pass(MS * 501);
    assert_eq!(rig.handler().messages, ["1", "2", "3"]);
    rig.pass(SECOND);
    assert_eq!(rig.handler().messages, ["1", "2", "3", "4", "5"]);
    rig.pass(SECOND);
    let report = rig.report();
    assert_eq!((report.gauges.publishers_paused, report.gauges.partial_bytes), (0, 0));
}

/// Its handler's pause hid that it was over its rate.
#[test]
fn a_client_over_its_rate_waits_though_its_handler_lets_it_go_on() {
    let mut rig = Rig::new(|options| options.publish_rate_max = NonZeroU32::new(1));
    let client = rig.connect();
    rig.receive(client, &["pause", "2", "3"].map(text).concat());
    rig.settle();
    rig.resume(client);
    rig.settle();
    assert_eq!(rig.handler().messages, ["pause"]);
    rig.pass(SECOND);
    assert_eq!(rig.handler().messages, ["pause", "2"]);
    rig.pass(SECOND);
    assert_eq!(rig.handler().messages, ["pause", "2", "3"]);
}

#[test]
fn an_address_that_has_all_it_may_is_told_so_until_one_of_its_connections_is_gone() {
    let limits = AddressLimits { connections_max: NonZeroU32::new(1), handshakes_rate: None };
    let mut rig = Rig::new(|options| {
        options.addresses = Some(Arc::new(Addresses::new(limits, 10, 7)));
    });
    let client = rig.connect();
    let other = rig.accept();
    rig.settle();
    assert!(rig.sent(other).starts_with(b"HTTP/1.1 429 "));
    assert_eq!(rig.closes(other), [Closing::Linger]);
    let third = rig.accept();
    rig.settle();
    assert_eq!((rig.sent(third), rig.closes(third)), (&b""[..], &[Closing::Abort][..]));
    rig.finish(client);
    rig.closed(other);
    rig.settle();
    rig.connect();
    let report = rig.report();
    assert_eq!(report.refused[RefusalReason::AddressConnections as usize], 2);
    assert_eq!(report.gauges.connections, 1);
}

#[test]
fn incomplete_messages_of_closing_connections_stay_within_their_pool_too() {
    let mut rig = Rig::new(|options| {
        options.limits.message_bytes_max = 100;
        options.limits.partial_total_bytes_max = 250;
    });
    let begun = [&[0x01, 0xE4, 0, 0, 0, 0][..], &[b'x'; 90]].concat();
    let clients = [rig.connect(), rig.connect()];
    clients.into_iter().for_each(|client| rig.receive(client, &begun));
    rig.settle();
    assert_eq!(rig.handler().closed, ["overloaded"]);
    assert!((90..=250).contains(&rig.report().gauges.partial_bytes), "one is left");
    assert_eq!(rig.closes(clients[1]), [Closing::Linger], "its frames can be read no more");
}

#[test]
fn who_was_cut_by_one_job_is_offered_nothing_by_the_next_of_the_turn() {
    let mut rig = Rig::new(|options| {
        options.limits.message_bytes_max = 100;
        options.limits.send_queue_total_bytes_max = 250;
    });
    let client = rig.connect();
    rig.takes(client, Some(0));
    rig.publish_to(&[0], "refused");
    rig.settle();
    rig.publish_to(&[0, 1], &"x".repeat(100));
    rig.settle();
    assert_eq!(rig.handler().closed, ["over_budget"]);
    assert_eq!(rig.closes(client), [Closing::Abort]);
}

#[test]
fn what_a_publisher_gets_instead_of_its_own_leaves_before_its_socket_can_refuse_more() {
    let mut rig = Rig::new(|options| options.coalesce_delay = 10 * MS);
    rig.keep_whole();
    let client = rig.connect();
    rig.takes(client, Some(3));
    rig.publish_from(client, &[1], "mine");
    rig.publish_to(&[0, 1], "yours");
    rig.settle();
    rig.pass(20 * MS);
    rig.takes(client, None);
    rig.settle();
    assert_eq!(rig.sent(client), b"\x81\x05yours\x81\x05yours");
}

#[test]
fn a_paused_publisher_that_is_closed_is_read_from_again() {
    let mut rig = Rig::new(|options| options.limits.partial_total_bytes_max = 200);
    rig.keep_whole();
    let client = rig.connect();
    rig.receive(client, &text("pause"));
    rig.settle();
    assert!(!rig.is_received_from(client));
    rig.receive(client, &[0; 300]);
    rig.settle();
    assert_eq!(rig.handler().closed, ["overloaded"]);
    assert!(rig.is_received_from(client), "its end is awaited");
}

/// Seed 734217 of the simulation: it was told to receive once more where the stream had ended.
#[test]
fn a_paused_publisher_that_ends_as_it_is_closed_is_not_read_from_again() {
    for end in [Rig::finish, Rig::fail] {
        let mut rig = Rig::new(|options| options.limits.partial_total_bytes_max = 200);
        rig.keep_whole();
        let client = rig.connect();
        rig.receive(client, &text("pause"));
        rig.settle();
        rig.receive(client, &[0; 300]);
        end(&mut rig, client);
        rig.settle();
        assert_eq!(rig.handler().closed, ["overloaded"]);
        assert!(!rig.is_received_from(client));
        assert_eq!(rig.closes(client).len(), 1);
    }
}

#[test]
fn a_handshakes_answer_counts_against_the_budget_of_all_queues() {
    let mut rig = Rig::new(|options| {
        options.limits.message_bytes_max = 100;
        options.limits.send_queue_bytes_max = 200;
        // Room for what one refuses, and not for an answer of 129 bytes with its charge beside it.
        options.limits.send_queue_total_bytes_max = 300;
    });
    let client = rig.connect();
    rig.takes(client, Some(0));
    rig.publish_to(&[0], &"x".repeat(100));
    rig.settle();
    assert_eq!(rig.report().gauges.send_queue_bytes, 102 + 64);
    rig.pass(SECOND);
    rig.connect();
    assert_eq!(rig.handler().closed, ["over_budget"]);
    assert_eq!(rig.closes(client), [Closing::Abort]);
    assert_eq!(rig.report().gauges.send_queue_bytes, 0);
}

#[test]
fn messages_in_a_send_that_fails_are_dropped_and_counted() {
    let mut rig = Rig::new(|options| options.limits.send_bytes_max = 10);
    let client = rig.connect();
    rig.takes(client, Some(0));
    for payload in ["one", "two", "three"] {
        rig.publish_to(&[0], payload);
        rig.settle();
    }
    assert_eq!(rig.report().messages_delivered, 3);
    rig.reset(client);
    rig.settle();
    assert_eq!(rig.handler().closed, ["reset"]);
    let report = rig.report();
    assert_eq!(report.messages_dropped[DropReason::Gone as usize], 3, "two sent, one behind them");
    assert_eq!(report.gauges.send_queue_bytes, 0);
}

#[test]
fn only_who_is_open_is_shown_with_what_is_queued() {
    let (mut rig, client) = Rig::with_stalled_reader(|_| ());
    let sight = rig.sight(client).unwrap();
    assert_eq!(sight.connection.slot, client);
    assert_eq!(sight.send_queue_bytes, 5 + 64);
    let other = rig.accept();
    rig.settle();
    assert_eq!(rig.sight(other), None, "it has not asked for anything yet");
    assert_eq!(rig.sight(other + 1), None);
}
