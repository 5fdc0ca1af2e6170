//! Compressed frames on sockets that do not take them, and beside everything else that is to be done.

use ringway_worker::{Slot, SlowConsumer};

use super::rig::{Rig, text};

const DEFLATE: &str = "Sec-WebSocket-Extensions: permessage-deflate\r\n";

/// A client that inflates, of a worker that is not taken apart: what is owed to a connection that
/// moves comes plain.
fn connect(rig: &mut Rig) -> Slot {
    rig.keep_whole();
    rig.connect_all_with(1, DEFLATE)[0]
}

/// A text that shrinks.
fn long(digit: u32) -> String {
    format!("{digit} and again ").repeat(20)
}

/// The compressed texts in a stream of whole frames; a Close ends it with its code.
fn texts(mut bytes: &[u8]) -> Vec<String> {
    let mut texts = Vec::new();
    while let [first, length, rest @ ..] = bytes {
        assert!(*length < 126, "short when it is compressed");
        let (payload, behind) = rest.split_at(usize::from(*length));
        bytes = behind;
        if *first == 0x88 {
            texts.push(u16::from_be_bytes([payload[0], payload[1]]).to_string());
            continue;
        }
        assert_eq!(*first, 0xC1, "compressed");
        let mut text = Vec::with_capacity(1 << 12);
        let mut state = flate2::Decompress::new(false);
        let payload = [payload, &[0x00, 0x00, 0xFF, 0xFF]].concat();
        state.decompress_vec(&payload, &mut text, flate2::FlushDecompress::Sync).unwrap();
        texts.push(String::from_utf8(text).unwrap());
    }
    texts
}

#[test]
fn compressed_frames_that_a_socket_takes_in_pieces_arrive_whole_and_in_order() {
    for takes in [0, 1, 5, 40, 41, 100] {
        let mut rig = Rig::new(|_| ());
        let client = connect(&mut rig);
        rig.takes(client, Some(takes));
        rig.report();
        for digit in 0..3 {
            rig.publish_to(&[0], &long(digit));
            rig.publish_to(&[0], &long(digit + 3));
            rig.settle();
        }
        rig.takes(client, Some(3));
        rig.settle();
        rig.takes(client, None);
        rig.settle();
        assert_eq!(texts(rig.sent(client)), [0, 3, 1, 4, 2, 5].map(long), "{takes}");
        let report = rig.report();
        assert_eq!(report.gauges.send_queue_bytes, 0);
        // Plainly it would have been 6 headers of 4 bytes and 6 texts.
        assert_eq!(report.sent_bytes + report.deflated_saved_bytes, 6 * (4 + 12 * 20), "{takes}");
    }
}

#[test]
fn what_compression_spares_is_counted_for_each_receiver() {
    let mut rig = Rig::new(|_| ());
    rig.keep_whole();
    let clients = rig.connect_all_with(3, DEFLATE);
    rig.report();
    rig.publish_to(&[0], &long(0));
    rig.settle();
    assert!(clients.iter().all(|client| texts(rig.sent(*client)) == [long(0)]));
    let report = rig.report();
    assert_eq!(report.sent_bytes + report.deflated_saved_bytes, 3 * (4 + 12 * 20));
}

#[test]
fn a_slow_consumer_is_cut_behind_the_compressed_message_that_has_begun() {
    let mut rig = Rig::new(|options| {
        options.limits.message_bytes_max = 300;
        options.limits.send_queue_bytes_max = 400;
    });
    let client = connect(&mut rig);
    rig.takes(client, Some(10));
    for digit in 0..9 {
        rig.publish_to(&[0], &long(digit));
        rig.settle();
    }
    assert_eq!(rig.handler().closed, ["slow_consumer"]);
    rig.takes(client, None);
    rig.settle();
    assert_eq!(texts(rig.sent(client)), [long(0), "1013".to_owned()]);
    assert_eq!(rig.report().gauges.connections_deflate, 0);
}

#[test]
fn policies_that_drop_messages_drop_whole_compressed_ones() {
    let run = |policy: SlowConsumer| {
        let mut rig = Rig::new(|options| {
            options.slow_consumer = policy;
            options.limits.message_bytes_max = 300;
            options.limits.send_queue_bytes_max = 314;
        });
        let client = connect(&mut rig);
        rig.takes(client, Some(10));
        for digit in 0..6 {
            rig.publish_to(&[u64::from(digit) % 2], &long(digit));
            rig.settle();
        }
        rig.takes(client, None);
        rig.settle();
        assert!(rig.handler().closed.is_empty());
        texts(rig.sent(client))
    };
    // The first has begun and stays.
    let oldest = run(SlowConsumer::DropOldest);
    assert_eq!(oldest[0], long(0));
    assert_eq!(oldest.last(), Some(&long(5)));
    assert!(oldest.len() < 6 && oldest.is_sorted(), "{oldest:?}");
    assert_eq!(run(SlowConsumer::Latest), [long(0), long(4), long(5)]);
}

#[test]
fn a_refused_compressed_frame_is_known_by_its_audience() {
    let mut rig = Rig::new(|options| options.slow_consumer = SlowConsumer::Latest);
    let client = connect(&mut rig);
    rig.takes(client, Some(0));
    // The first is refused by the socket; the second waits in its queue from the beginning.
    for digit in 0..2 {
        rig.publish_to(&[7], &long(digit));
        rig.settle();
    }
    rig.takes(client, None);
    rig.settle();
    assert_eq!(texts(rig.sent(client)), [long(1)]);
}

#[test]
fn compressing_long_messages_holds_nobody_up_for_more_than_a_few_of_them() {
    let mut rig = Rig::new(|_| ());
    let client = connect(&mut rig);
    let other = rig.connect();
    let audiences: Vec<u64> = (0..40).collect();
    rig.publish_to(&audiences, &"a message that is long ".repeat(1_000));
    rig.turn();
    let compressed = rig.report().deflated.messages;
    assert!((1..=3).contains(&compressed), "{compressed} of 23,000 bytes in a turn");
    rig.receive(other, &text("meanwhile"));
    rig.turn();
    assert_eq!(rig.handler().messages, ["meanwhile"]);
    rig.settle();
    assert!(rig.sent(client).ends_with(b"\x81\x09meanwhile"));
    assert_eq!(compressed + rig.report().deflated.messages, 40, "each once");
}
