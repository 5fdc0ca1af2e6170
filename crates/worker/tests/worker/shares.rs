//! What one connection sends is decoded a share a turn, in order, whatever it is made of; and the
//! others do not wait for it.

use std::time::Duration;

use ringway_worker::Closing;

use super::rig::{Rig, text};

/// A frame of a client, with a mask of zeros.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(payload.len()).unwrap();
    let [high, low] = length.to_be_bytes();
    let head = match length {
        0..126 => vec![first, 0x80 | low],
        _ => vec![first, 0x80 | 126, high, low],
    };
    [&head, &[0; 4][..], payload].concat()
}

fn rig(frames_max: u32) -> Rig {
    Rig::new(|options| options.limits.receive_frames_max = frames_max)
}

#[test]
fn messages_beyond_the_share_wait_for_the_next_turn_and_nobody_waits_for_them() {
    let mut rig = rig(3);
    let clients = rig.connect_all(2);
    let flood = ["1", "2", "3", "4", "5", "6", "7"].map(text).concat();
    rig.receive(clients[0], &flood);
    rig.receive(clients[1], &text("other"));
    rig.turn();
    assert_eq!(rig.handler().messages, ["1", "2", "3", "other"]);
    rig.receive(clients[0], &text("8"));
    rig.turn();
    assert_eq!(rig.handler().messages[4..], ["4", "5", "6"]);
    rig.turn();
    assert_eq!(rig.handler().messages[7..], ["7", "8"]);
    let report = rig.report();
    assert_eq!((report.share_deferrals, report.gauges.partial_bytes), (2, 0));
}

#[test]
fn a_publisher_that_pauses_again_while_more_is_kept_waits_until_it_is_resumed() {
    let mut rig = rig(8);
    let client = rig.connect();
    rig.receive(client, &["pause", "1", "pause", "2", "3"].map(text).concat());
    rig.settle();
    assert_eq!(rig.handler().messages, ["pause"]);
    rig.resume(client);
    rig.settle();
    assert_eq!(rig.handler().messages[1..], ["1", "pause"]);
    rig.resume(client);
    rig.settle();
    assert_eq!(rig.handler().messages[3..], ["2", "3"]);
}

#[test]
fn what_arrives_in_one_turn_in_several_pieces_has_one_share() {
    let mut rig = rig(3);
    let client = rig.connect();
    for message in ["1", "2", "3", "4"] {
        rig.receive(client, &text(message));
    }
    rig.turn();
    assert_eq!(rig.handler().messages, ["1", "2", "3"]);
    rig.turn();
    assert_eq!(rig.handler().messages[3..], ["4"]);
}

#[test]
fn a_message_in_fragments_of_a_byte_takes_the_turns_of_its_frames() {
    let mut rig = rig(4);
    let client = rig.connect();
    let middle: Vec<u8> = (0..8).flat_map(|_| frame(0x00, b"x")).collect();
    let ends = (frame(0x01, b"a"), frame(0x80, b"z"));
    rig.receive(client, &[ends.0, middle, ends.1].concat());
    rig.turn();
    rig.turn();
    assert_eq!(rig.handler().messages, [""; 0], "eight frames of ten");
    rig.turn();
    assert_eq!(rig.handler().messages, ["axxxxxxxxz"]);
}

#[test]
fn pings_have_a_share_too_and_every_one_its_pong() {
    let mut rig = rig(2);
    let client = rig.connect();
    rig.receive(client, &frame(0x89, b"p").repeat(5));
    rig.turn();
    rig.turn();
    assert!(rig.sent(client).ends_with(&b"\x8a\x01p".repeat(4)));
    rig.turn();
    assert!(rig.sent(client).ends_with(&b"\x8a\x01p".repeat(5)));
}

#[test]
fn every_kib_of_a_message_counts_as_a_frame() {
    let mut rig = rig(3);
    let client = rig.connect();
    let long = "x".repeat(2048);
    rig.receive(client, &[frame(0x81, long.as_bytes()), text("behind")].concat());
    rig.turn();
    assert_eq!(rig.handler().messages, [&long[..]]);
    rig.turn();
    assert_eq!(rig.handler().messages[1..], ["behind"]);
}

#[test]
fn who_is_far_ahead_is_not_received_from_until_all_of_it_is_decoded() {
    let mut rig = rig(1);
    let client = rig.connect();
    let messages: Vec<String> = (0..40).map(|number| format!("{number:0>500}")).collect();
    for message in &messages {
        rig.receive(client, &frame(0x81, message.as_bytes()));
    }
    rig.turn();
    assert!(!rig.is_received_from(client));
    assert_eq!(rig.report().gauges.publishers_paused, 1);
    rig.settle();
    assert_eq!(rig.handler().messages, messages);
    assert!(rig.is_received_from(client));
    let gauges = rig.report().gauges;
    assert_eq!((gauges.publishers_paused, gauges.partial_bytes), (0, 0));
}

#[test]
fn a_fin_behind_what_waits_for_its_turn_comes_after_it() {
    let mut rig = rig(1);
    let client = rig.connect();
    rig.receive(client, &["1", "2", "3"].map(text).concat());
    rig.finish(client);
    rig.settle();
    assert_eq!(rig.handler().messages, ["1", "2", "3"]);
    assert_eq!(rig.handler().closed, ["peer_gone"]);
}

#[test]
fn a_close_behind_what_waits_for_its_turn_is_answered_after_it() {
    let mut rig = rig(1);
    let client = rig.connect();
    let close = frame(0x88, b"\x03\xe8");
    rig.receive(client, &[text("1"), text("2"), close].concat());
    rig.settle();
    assert_eq!(rig.handler().messages, ["1", "2"]);
    assert!(rig.sent(client).ends_with(b"\x88\x02\x03\xe8"));
    assert_eq!(rig.handler().closed, ["peer_closed"]);
}

#[test]
fn who_is_cut_while_something_of_it_waits_leaves_nothing() {
    let mut rig = rig(1);
    let client = rig.connect();
    rig.receive(client, &[text("1"), frame(0x83, b""), text("2"), text("3")].concat());
    rig.settle();
    assert_eq!(rig.handler().messages, ["1"]);
    assert_eq!(rig.handler().closed, ["protocol_error"]);
    assert_eq!(rig.report().gauges.partial_bytes, 0);
}

#[test]
fn where_what_was_kept_is_thrown_away_nobody_waits_for_the_close_in_it() {
    let mut rig = Rig::new(|options| options.connection_age_max = Some(Duration::from_secs(1)));
    let client = rig.connect();
    let close = frame(0x88, b"\x03\xe8");
    rig.receive(client, &[text("pause"), text("behind"), close].concat());
    rig.pass(Duration::from_secs(3));
    assert_eq!(rig.handler().closed, ["moving"]);
    assert_eq!(rig.closes(client), [Closing::Linger], "not cut because no Close is heard");
}

#[test]
fn where_what_had_no_room_is_thrown_away_nobody_waits_for_the_close_in_it() {
    let mut rig = Rig::new(|options| {
        options.limits.receive_frames_max = 1;
        options.limits.partial_total_bytes_max = 20;
    });
    let client = rig.connect();
    let close = frame(0x88, b"\x03\xe8");
    rig.receive(client, &[text("1"), text("more than there is room for"), close].concat());
    rig.settle();
    assert_eq!(rig.handler().closed, ["overloaded"]);
    assert_eq!(rig.closes(client), [Closing::Linger]);
}

/// Seed 272 of the simulation: what is kept to be decoded later was not counted while some of it
/// was decoded, and then put back however little room there was.
#[test]
fn what_is_kept_and_what_was_decoded_of_it_have_one_room() {
    const BYTES_MAX: u64 = 1_000;
    let mut rig = Rig::new(|options| {
        options.limits.receive_frames_max = 1;
        options.limits.message_bytes_max = 900;
        options.limits.partial_total_bytes_max = BYTES_MAX;
    });
    let client = rig.connect();
    let first = frame(0x01, b"a");
    // Behind the second of these there is room for twice as many bytes as have come.
    let others = [400, 100, 200].map(|bytes| frame(0x00, &vec![b'a'; bytes])).concat();
    rig.receive(client, &[first, others].concat());
    for _ in 0..4 {
        rig.turn();
        assert!(rig.report().gauges.partial_bytes <= BYTES_MAX);
    }
    rig.settle();
    assert_eq!(rig.handler().closed, ["overloaded"]);
    assert_eq!(rig.report().gauges.partial_bytes, 0);
}
