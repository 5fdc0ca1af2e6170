//! Topics whose subscribers have agreed on different things: each gets what it can read, and what
//! is compressed is compressed once.

use std::sync::Arc;

use ringway_hub::{Batch, Epoch, Letter};
use wire::DataOpcode;
use worker::{Publication, Time};

use crate::rig::{Client, Rig, Setting};

const DEFLATE: &str = "Sec-WebSocket-Extensions: permessage-deflate\r\n";
const DEFLATE_9: &str =
    "Sec-WebSocket-Extensions: permessage-deflate; server_max_window_bits=9\r\n";

fn rig(bytes_min: u32) -> Rig {
    Rig::new(Setting { compression_bytes_min: Some(bytes_min), ..Setting::PLAIN })
}

/// What the client has received, and whether all of it came compressed. A connection that moves
/// may be sent plainly what it was owed.
fn received(rig: &mut Rig, client: Client) -> (Vec<String>, bool) {
    let texts = rig.received(client);
    let plain = |text: &String| text.strip_prefix("deflated ").unwrap_or(text).to_owned();
    let are_deflated = texts.iter().all(|text| text.starts_with("deflated "));
    (texts.iter().map(plain).collect(), are_deflated)
}

/// Checks what a client has received, and that it came compressed, or plain.
fn check(rig: &mut Rig, client: Client, texts: &[&str], deflated: bool) {
    let (received, are_deflated) = received(rig, client);
    assert_eq!(received, texts);
    assert!(are_deflated == deflated || is_moving() && !are_deflated, "{client:?}");
}

fn is_moving() -> bool {
    env!("CARGO_CRATE_NAME") == "moved"
}

/// Messages compressed by both workers since this was last asked.
fn deflated(rig: &mut Rig) -> u64 {
    (0..2).map(|worker| rig.report(worker).deflated.messages).sum()
}

fn publish(rig: &mut Rig, messages: &[(Option<&str>, &str)]) {
    let publications = messages.iter().map(|(topic, text)| {
        let topic = topic.map(|topic| topic.as_bytes().into());
        Arc::new(Publication::new(topic, DataOpcode::Text, text.as_bytes(), None, Time(0)))
    });
    let batch = Arc::new(Batch { id: 1, as_of: Epoch::LAST, publications: publications.collect() });
    (0..2).for_each(|worker| rig.tell(worker, Letter::Batch(Arc::clone(&batch))));
    rig.settle();
    rig.told();
}

/// Subscribers of three kinds on both workers, more than a chunk on each: `(client, whether it
/// inflates)`.
fn mixed(rig: &mut Rig, target: &str) -> Vec<(Client, bool)> {
    let mut clients = Vec::new();
    for worker in 0..2 {
        for slot in 0..100 {
            let headers = ["", DEFLATE, DEFLATE_9][slot as usize % 3];
            let client = rig.connect_with(worker, slot, target, headers);
            clients.push((client, !headers.is_empty()));
        }
    }
    clients
}

#[test]
fn a_publication_is_compressed_once_for_all_who_inflate_and_plain_for_the_others() {
    let mut rig = rig(20);
    let clients = mixed(&mut rig, "/ws/a");
    let text = "a message that is compressed because it repeats: repeats, repeats, repeats";
    rig.settle();
    (0..2).for_each(|worker| drop(rig.report(worker)));
    rig.send(clients[0].0, text);
    rig.settle();
    for (client, deflated) in &clients {
        check(&mut rig, *client, &[text], *deflated);
    }
    let reports = [0, 1].map(|worker| rig.report(worker));
    // It lies within the smaller window too.
    assert_eq!(reports.iter().map(|it| it.deflated.messages).sum::<u64>(), 1);
    let bytes = reports.iter().map(|it| it.sent_bytes + it.deflated_saved_bytes);
    assert_eq!(bytes.sum::<u64>(), 200 * (2 + 74), "what is sent and what is spared is the plain");
}

#[test]
fn a_publication_that_exceeds_a_window_is_compressed_once_for_that_too() {
    let mut rig = rig(20);
    let clients = mixed(&mut rig, "/ws/a");
    let text = "0123456789 abcdefghij ".repeat(30);
    publish(&mut rig, &[(Some("a"), &text)]);
    for (client, deflated) in &clients {
        check(&mut rig, *client, &[&text], *deflated);
    }
    assert_eq!(deflated(&mut rig), 2);
}

#[test]
fn batches_and_broadcasts_come_compressed_and_in_order() {
    let mut rig = rig(20);
    let clients = mixed(&mut rig, "/ws/a");
    let texts = ["one", "two", "three"].map(|text| text.repeat(20));
    let [one, two, three] = texts.each_ref().map(String::as_str);
    publish(&mut rig, &[(Some("a"), one), (None, two), (Some("a"), three)]);
    for (client, deflated) in &clients {
        let (mut received, are_deflated) = received(&mut rig, *client);
        assert!(are_deflated == *deflated || is_moving());
        // Between a topic and everyone there is no order.
        let to_all = received.iter().position(|text| text == two).unwrap();
        received.remove(to_all);
        assert_eq!(received, [one, three]);
    }
}

#[test]
fn what_waits_is_joined_in_every_encoding() {
    let mut rig = rig(20);
    let clients = mixed(&mut rig, "/ws/a");
    // The first begins a job; the others wait for it, some too short to be compressed.
    let texts: Vec<String> = (0..8).map(|number| format!("{number}").repeat(number * 12)).collect();
    let texts: Vec<&str> = texts.iter().skip(1).map(String::as_str).collect();
    texts.iter().for_each(|text| rig.send(clients[0].0, text));
    rig.settle();
    for (client, deflated) in &clients {
        let marked = rig.received(*client);
        let (plain, compressed) = marked.split_at(1);
        assert_eq!(plain, [texts[0]], "12 bytes");
        for (text, expected) in compressed.iter().zip(&texts[1..]) {
            match text.strip_prefix("deflated ") {
                Some(text) => assert!(*deflated && text == *expected),
                None => assert!((!deflated || is_moving()) && text == expected),
            }
        }
        assert_eq!(marked.len(), texts.len());
    }
    assert!(is_moving() || deflated(&mut rig) == 6, "each of the longer ones once");
}

#[test]
fn a_publisher_without_its_own_gets_those_of_others_compressed() {
    let mut rig = rig(20);
    let others = mixed(&mut rig, "/ws/a");
    let me = rig.connect_with(0, 200, "/ws/a?own=off", DEFLATE);
    let plain = rig.connect_with(0, 201, "/ws/a?own=off", "");
    let [mine, yours, its] = ["mine", "yours", "its"].map(|text| text.repeat(20));
    for _ in 0..2 {
        rig.send(others[0].0, &yours);
        rig.send(me, &mine);
        rig.send(plain, &its);
    }
    rig.settle();
    check(&mut rig, me, &[&yours, &its, &yours, &its], true);
    check(&mut rig, plain, &[&yours, &mine, &yours, &mine], false);
    let (client, deflated) = others[5];
    let everything = [&*yours, &mine, &its, &yours, &mine, &its];
    check(&mut rig, client, &everything, deflated);
}

#[test]
fn what_is_short_or_does_not_shrink_goes_plain() {
    let mut rig = rig(20);
    let client = rig.connect_with(0, 0, "/ws/a", DEFLATE);
    for text in ["short short short s", "#q8z!Lw2^Rk9)Xv4&Nb7(Tm1_Yf5", ""] {
        rig.send(client, text);
        rig.settle();
        check(&mut rig, client, &[text], false);
    }
    let report = rig.report(0);
    assert_eq!((report.deflated.messages, report.gauges.connections_deflate), (1, 1));
    assert_eq!(report.deflated.before_bytes, report.deflated.after_bytes);
}

#[test]
fn an_echo_is_compressed_and_what_was_compressed_is_inflated() {
    let mut rig = rig(5);
    let client = rig.connect_with(0, 0, "/echo", DEFLATE);
    let plain = rig.connect(0, 1, "/echo");
    // "Hello" as in RFC 7692 section 7.2.3.1, whole and in two fragments.
    let frames: [&[u8]; 2] = [
        &[0xC1, 0x87, 0, 0, 0, 0, 0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00],
        &[0x41, 0x83, 0, 0, 0, 0, 0xf2, 0x48, 0xcd, 0x80, 0x84, 0, 0, 0, 0, 0xc9, 0xc9, 0x07, 0x00],
    ];
    for frame in frames {
        rig.send_bytes(client, frame);
        rig.settle();
        check(&mut rig, client, &["Hello"], false);
    }
    let text = "Hello".repeat(10);
    rig.send(client, &text);
    rig.send(plain, &text);
    rig.settle();
    let (received, are_deflated) = received(&mut rig, client);
    assert_eq!((received, are_deflated), (vec![text.clone()], true));
    check(&mut rig, plain, &[&text], false);
    let inflated = rig.report(0).inflated;
    assert_eq!((inflated.messages, inflated.before_bytes, inflated.after_bytes), (2, 14, 10));
}

#[test]
fn a_compressed_message_is_published_to_everybody() {
    let mut rig = rig(5);
    let clients = mixed(&mut rig, "/ws/a");
    rig.send_bytes(
        clients[1].0,
        &[0xC1, 0x87, 0, 0, 0, 0, 0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00],
    );
    rig.settle();
    for (client, _) in &clients {
        check(&mut rig, *client, &["Hello"], false);
    }
}

#[test]
fn who_has_not_agreed_may_not_compress() {
    let mut rig = rig(20);
    let client = rig.connect(0, 0, "/ws/a");
    rig.send_bytes(client, &[0xC1, 0x81, 0, 0, 0, 0, 0x00]);
    rig.settle();
    assert_eq!(rig.received(client), ["close 1002 reserved bits must be 0"]);
    let mut rig = Rig::new(Setting::PLAIN);
    let client = rig.connect_with(0, 0, "/ws/a", DEFLATE);
    rig.send_bytes(client, &[0xC1, 0x81, 0, 0, 0, 0, 0x00]);
    rig.settle();
    assert_eq!(rig.received(client), ["close 1002 reserved bits must be 0"]);
}

#[test]
fn a_bomb_is_closed_with_1009_and_others_go_on() {
    let mut rig = rig(20);
    let client = rig.connect_with(0, 0, "/ws/a", DEFLATE);
    let other = rig.connect_with(0, 1, "/ws/a", DEFLATE);
    let mut bomb = Vec::with_capacity(1 << 16);
    let mut state = flate2::Compress::new(flate2::Compression::best(), false);
    state.compress_vec(&vec![0; 50_000_000], &mut bomb, flate2::FlushCompress::Sync).unwrap();
    let length = u16::try_from(bomb.len()).unwrap().to_be_bytes();
    rig.send_bytes(client, &[&[0xC2, 0xFE, length[0], length[1], 0, 0, 0, 0], &bomb[..]].concat());
    rig.settle();
    assert_eq!(rig.received(client), ["close 1009 message too big"]);
    let text = "still here, still here, still here";
    rig.send(other, text);
    rig.settle();
    check(&mut rig, other, &[text], true);
    assert_eq!(rig.report(0).gauges.connections_deflate, 1);
}
