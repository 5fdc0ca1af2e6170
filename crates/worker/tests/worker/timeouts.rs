//! What is due when: pings and their pongs, writes, and the age at which a connection moves on. A
//! worker that came late, or was taken apart, takes nobody's time.

use ringway_worker::{Closing, RefusalReason, SlowConsumer, Stage};

use super::{
    MS, SECOND,
    rig::{Rig, text, upgrade},
};

#[test]
fn a_ping_without_an_answer_ends_in_a_reset() {
    let mut rig = Rig::new(|options| options.ping_interval = Some(SECOND * 25));
    let client = rig.connect();
    (0..34).for_each(|_| rig.pass(SECOND));
    assert!(rig.closes(client).is_empty(), "26 s at most to the ping, and 10 s more");
    (0..4).for_each(|_| rig.pass(SECOND));
    assert_eq!(rig.closes(client), [Closing::Abort]);
    assert_eq!(rig.handler().closed, ["no_pong"]);
}

#[test]
fn a_worker_that_stood_still_blames_nobody() {
    let mut rig = Rig::new(|options| options.ping_interval = Some(SECOND * 25));
    let client = rig.connect();
    rig.pass_until_pinged(client);
    rig.stall(SECOND * 40);
    rig.settle();
    assert!(rig.closes(client).is_empty());
    rig.receive(client, &[0x8A, 0x80, 0, 0, 0, 0]);
    (0..12).for_each(|_| rig.pass(SECOND));
    assert!(rig.closes(client).is_empty());
}

#[test]
fn a_reader_that_takes_nothing_is_reset_at_the_write_timeout() {
    let (mut rig, client) = Rig::with_stalled_reader(|_| ());
    (0..9).for_each(|_| rig.pass(SECOND));
    assert!(rig.closes(client).is_empty());
    (0..2).for_each(|_| rig.pass(SECOND));
    assert_eq!(rig.closes(client), [Closing::Abort]);
    assert_eq!(rig.handler().closed, ["stalled"]);
}

#[test]
fn pings_of_a_reader_that_takes_nothing_put_its_end_off_no_further() {
    let (mut rig, client) = Rig::with_stalled_reader(|_| ());
    for _ in 0..11 {
        rig.receive(client, &[0x89, 0x80, 0, 0, 0, 0]);
        rig.pass(SECOND);
    }
    assert_eq!(rig.handler().closed, ["stalled"]);
}

#[test]
fn a_delay_longer_than_the_write_timeout_is_no_reason_to_end_anybody() {
    let (mut rig, client) = Rig::with_stalled_reader(|options| options.write_timeout = 600 * MS);
    rig.takes(client, None);
    rig.stall(900 * MS);
    rig.settle();
    assert!(rig.handler().closed.is_empty());
    assert!(rig.sent(client).ends_with(b"one"));
}

#[test]
fn a_worker_whose_turns_are_always_late_ends_at_last_who_takes_nothing() {
    let (mut rig, _) = Rig::with_stalled_reader(|options| options.write_timeout = 600 * MS);
    for _ in 0..6 {
        rig.stall(900 * MS);
        rig.settle();
    }
    assert_eq!(rig.handler().closed, ["stalled"]);
}

/// What a delay may be before it is given back follows the timeouts, and some of them change.
#[test]
fn a_delay_longer_than_a_handshake_timeout_that_was_shortened_ends_nobody() {
    let mut rig = Rig::new(|_| ());
    rig.adopt(|settings| settings.handshake_timeout = 600 * MS);
    let head = upgrade("");
    let (first, rest) = head.as_bytes().split_at(20);
    let client = rig.accept();
    rig.receive(client, first);
    rig.settle();
    rig.stall(900 * MS);
    rig.settle();
    assert!(rig.closes(client).is_empty());
    rig.receive(client, rest);
    rig.settle();
    assert_eq!(rig.report().refused, [0; RefusalReason::ALL.len()]);
    rig.receive(client, &text("here"));
    rig.settle();
    assert_eq!(rig.handler().messages, ["here"]);
    let other = rig.accept();
    rig.receive(other, first);
    rig.pass(SECOND);
    assert_eq!(rig.report().refused[RefusalReason::Timeout as usize], 1, "it counts for who comes");
}

#[test]
fn a_delay_longer_than_a_close_timeout_that_was_shortened_ends_nobody() {
    let mut rig = Rig::new(|options| options.connection_age_max = Some(SECOND * 100));
    rig.adopt(|settings| settings.close_timeout = 600 * MS);
    let client = rig.connect();
    while !rig.sent(client).ends_with(b"moving") {
        rig.pass(MS * 100);
    }
    rig.stall(900 * MS);
    rig.settle();
    assert!(rig.closes(client).is_empty(), "its Close is awaited");
    rig.pass(SECOND);
    assert!(!rig.closes(client).is_empty(), "not for longer than it is now");
}

#[test]
fn a_delay_longer_than_the_pong_timeout_is_no_reason_to_end_anybody() {
    let mut rig = Rig::new(|options| {
        options.ping_interval = Some(SECOND * 25);
        options.pong_timeout = 600 * MS;
    });
    let client = rig.connect();
    while !rig.sent(client).ends_with(b"\x89\x00") {
        rig.pass(MS * 100);
    }
    rig.stall(900 * MS);
    rig.settle();
    assert!(rig.closes(client).is_empty());
    rig.pass(SECOND);
    assert_eq!(rig.handler().closed, ["no_pong"]);
}

#[test]
fn a_connection_moves_on_within_a_tenth_of_its_greatest_age() {
    let mut rig = Rig::new(|options| options.connection_age_max = Some(SECOND * 100));
    let client = rig.connect();
    (0..89).for_each(|_| rig.pass(SECOND));
    assert!(rig.handler().closed.is_empty());
    (0..26).for_each(|_| rig.pass(SECOND));
    assert_eq!(rig.handler().closed, ["moving"]);
    assert!(rig.sent(client).ends_with(b"\x88\x08\x03\xf4moving"));
}

#[test]
fn dropping_does_not_restart_the_write_timeout_but_a_byte_that_is_taken_does() {
    for policy in [SlowConsumer::DropOldest, SlowConsumer::Latest] {
        let mut rig = Rig::new(|options| {
            options.slow_consumer = policy;
            options.limits.message_bytes_max = 100;
            options.limits.send_queue_bytes_max = 114;
        });
        let client = rig.connect();
        rig.takes(client, Some(0));
        for second in 0..9 {
            rig.publish_to(&[0], &second.to_string().repeat(100));
            rig.pass(SECOND);
        }
        rig.takes(client, Some(1));
        for second in 0..9 {
            rig.publish_to(&[0], &second.to_string().repeat(100));
            rig.pass(SECOND);
        }
        assert!(rig.closes(client).is_empty(), "it has taken a byte {policy:?}");
        rig.pass(SECOND * 2);
        assert_eq!(rig.closes(client), [Closing::Abort]);
        assert_eq!(rig.handler().closed, ["stalled"]);
    }
}

#[test]
fn a_missing_pong_is_noticed_whenever_the_ping_was_sent() {
    for offset in 0..16 {
        let mut rig = Rig::new(|options| {
            options.ping_interval = Some(SECOND * 4);
            options.pong_timeout = SECOND;
        });
        rig.pass(offset * MS);
        rig.connect();
        (0..29).for_each(|_| rig.pass(SECOND / 4));
        assert_eq!(rig.handler().closed, ["no_pong"], "{offset} ms after a tick");
    }
}

#[test]
fn a_paused_publisher_is_not_blamed_for_a_pong_that_nobody_reads() {
    let mut rig = Rig::new(|options| options.ping_interval = Some(SECOND * 25));
    let client = rig.connect();
    rig.receive(client, &text("pause"));
    (0..60).for_each(|_| rig.pass(SECOND));
    assert!(rig.sent(client).ends_with(b"\x89\x00"));
    assert!(rig.closes(client).is_empty());
    rig.resume(client);
    (0..40).for_each(|_| rig.pass(SECOND));
    assert_eq!(rig.handler().closed, ["no_pong"], "it had all the time to answer");
}

#[test]
fn a_move_to_another_worker_takes_nobodys_time() {
    let mut rig = Rig::new(|options| {
        options.connections_max = 20;
        options.ping_interval = Some(SECOND * 20);
    });
    let clients = rig.connect_all(20);
    rig.pass(SECOND * 5);
    clients.iter().for_each(|client| rig.receive(*client, &text("heard")));
    rig.settle();
    let before: Vec<_> = clients.iter().map(|client| rig.sent(*client).len()).collect();
    rig.move_to_another(SECOND * 40);
    rig.pass(SECOND * 9);
    let after: Vec<_> = clients.iter().map(|client| rig.sent(*client).len()).collect();
    assert_eq!(after, before, "heard within half an interval, so not pinged");
}

#[test]
fn who_owes_a_pong_owes_it_to_another_worker_too_and_has_all_its_time_there() {
    let mut rig = Rig::new(|options| options.ping_interval = Some(SECOND * 100));
    let client = rig.connect();
    rig.pass_until_pinged(client);
    rig.pass(SECOND * 4);
    rig.move_to_another(SECOND * 40);
    rig.pass(SECOND * 5);
    assert!(rig.closes(client).is_empty(), "9 s of 10, the 40 not counted");
    rig.pass(SECOND * 6);
    assert_eq!(rig.closes(client), [Closing::Abort]);
    assert_eq!(rig.handler().closed, ["no_pong"]);
}

#[test]
fn a_pong_that_comes_to_another_worker_is_timed_without_the_move() {
    let mut rig = Rig::new(|options| options.ping_interval = Some(SECOND * 100));
    let client = rig.connect();
    rig.pass_until_pinged(client);
    rig.pass(SECOND * 4);
    rig.move_to_another(SECOND * 40);
    rig.pass(SECOND);
    rig.receive(client, &[0x8A, 0x80, 0, 0, 0, 0]);
    rig.settle();
    let pings = rig.report().stage(Stage::Ping).clone();
    assert_eq!(pings.len(), 1);
    assert!((5_000_000_000..6_200_000_000).contains(&pings.max()), "{} ns", pings.max());
}

#[test]
fn a_connection_is_as_old_in_another_worker_as_it_was_before_the_move() {
    let mut rig = Rig::new(|options| options.connection_age_max = Some(SECOND * 100));
    let client = rig.connect();
    rig.pass(SECOND * 50);
    rig.move_to_another(SECOND * 400);
    rig.pass(SECOND * 39);
    assert_eq!(rig.sent(client), b"", "89 of at least 90 s");
    rig.pass(SECOND * 23);
    assert_eq!(rig.sent(client), b"\x88\x08\x03\xf4moving");
}
