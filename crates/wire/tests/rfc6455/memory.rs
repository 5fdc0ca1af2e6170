//! What the decoder copies and what it keeps.

use ringway_wire::{Decoder, Event, Input};

use crate::cases::{BINARY, CLOSE, CONTINUATION, FINAL, Heard, KEY, PING, TEXT, frame};

const MESSAGE_BYTES_MAX: usize = 8 << 20;

/// What the decoder may hold beside payload bytes.
const FIXED_BYTES_MAX: usize = 128;

fn feed(decoder: &mut Decoder, bytes: &[u8]) -> Vec<Heard> {
    let mut buffer = bytes.to_vec();
    let mut input = Input::new(&mut buffer);
    let mut heard = Vec::new();
    while let Some(event) = decoder.poll(&mut input, MESSAGE_BYTES_MAX).expect("valid") {
        heard.push(event.into());
    }
    heard
}

#[test]
fn a_decoder_is_one_word_and_an_idle_one_owns_no_heap() {
    assert_eq!(size_of::<Decoder>(), 8);
    let mut decoder = Decoder::default();
    assert_eq!(decoder.buffered_bytes(), 0);
    let stream = [
        frame(TEXT, b"a"),
        frame(PING, b"b"),
        frame(FINAL | CONTINUATION, b"c"),
        frame(FINAL | BINARY, &[1; 300]),
        frame(PING, b"d"),
    ]
    .concat();
    for cut in 0..=stream.len() {
        let mut heard = feed(&mut decoder, &stream[..cut]);
        heard.extend(feed(&mut decoder, &stream[cut..]));
        assert_eq!(heard.len(), 4, "cut at {cut}");
        assert_eq!(decoder.buffered_bytes(), 0, "cut at {cut}");
    }
}

#[test]
fn frames_whole_in_one_input_are_lent_from_it() {
    let mut decoder = Decoder::default();
    let mut buffer = [
        frame(FINAL | TEXT, b"text"),
        frame(BINARY, b"begun"),
        frame(PING, b"ping between fragments"),
        frame(FINAL | CONTINUATION, b""),
        frame(FINAL | BINARY, b"binary"),
    ]
    .concat();
    let lent = buffer.as_ptr_range();
    let mut input = Input::new(&mut buffer);
    let mut from_input = Vec::new();
    while let Some(event) = decoder.poll(&mut input, MESSAGE_BYTES_MAX).unwrap() {
        let (Event::Message(ringway_wire::Message { payload, .. })
        | Event::Ping(payload)
        | Event::Pong(payload)) = event
        else {
            panic!("no close was sent");
        };
        from_input.push(lent.contains(&payload.as_ptr()));
    }
    assert_eq!(from_input, [true, true, false, true], "all but the fragmented message");
}

#[test]
fn a_payload_whole_in_one_input_is_lent_from_it_even_when_its_head_came_before() {
    let mut decoder = Decoder::default();
    let stream = frame(FINAL | TEXT, b"payload");
    assert_eq!(feed(&mut decoder, &stream[..5]), []);
    let mut buffer = stream[5..].to_vec();
    let lent = buffer.as_ptr_range();
    let mut input = Input::new(&mut buffer);
    let event = decoder.poll(&mut input, MESSAGE_BYTES_MAX).unwrap();
    let Some(Event::Message(message)) = event else { panic!("the message is complete") };
    assert_eq!(message.payload, b"payload");
    assert!(lent.contains(&message.payload.as_ptr()));
    assert_eq!(decoder.poll(&mut input, MESSAGE_BYTES_MAX), Ok(None));
    assert_eq!(decoder.buffered_bytes(), 0);
}

#[test]
fn memory_follows_the_bytes_that_arrived_and_not_the_length_that_was_announced() {
    let mut decoder = Decoder::default();
    let payload = vec![0; 4 << 20];
    let stream = frame(FINAL | BINARY, &payload);
    let mut arrived = 0;
    for piece in stream.chunks(1000) {
        feed(&mut decoder, piece);
        arrived += piece.len();
        // What has arrived is held until the message is whole.
        let held = if arrived < stream.len() { arrived - 14 } else { 0 };
        assert!(decoder.buffered_bytes() >= held, "after {arrived}");
        assert!(decoder.buffered_bytes() <= 2 * arrived + FIXED_BYTES_MAX, "after {arrived}");
        assert!(decoder.buffered_bytes() <= payload.len() + FIXED_BYTES_MAX, "after {arrived}");
    }
    assert_eq!(decoder.buffered_bytes(), 0);
}

#[test]
fn four_mebibytes_in_small_fragments_are_moved_a_few_times_only() {
    for (fragment_bytes, fragments) in [(64, 65_536), (1, 100_000)] {
        let mut decoder = Decoder::default();
        let fragment = vec![b'f'; fragment_bytes];
        feed(&mut decoder, &frame(TEXT, b""));
        let continuation = frame(CONTINUATION, &fragment);
        let mut moves = 0;
        for index in 1..=fragments {
            let held = decoder.buffered_bytes();
            assert_eq!(feed(&mut decoder, &continuation), []);
            moves += usize::from(decoder.buffered_bytes() != held);
            let bound = 2 * index * fragment_bytes + FIXED_BYTES_MAX;
            assert!(decoder.buffered_bytes() <= bound, "after {index} fragments");
        }
        assert!(moves <= 32, "moved {moves} times");
        let heard = feed(&mut decoder, &frame(FINAL | CONTINUATION, b""));
        assert_eq!(heard, [Heard::Text("f".repeat(fragment_bytes * fragments))]);
        assert_eq!(decoder.buffered_bytes(), 0);
    }
}

#[test]
fn pings_cut_in_two_between_fragments_do_not_move_the_message_each_time() {
    let mut decoder = Decoder::default();
    feed(&mut decoder, &frame(BINARY, &[0; 4096]));
    let ping = frame(PING, &[1; 125]);
    let continuation = frame(CONTINUATION, &[2]);
    let mut moves = 0;
    for _ in 0..2000 {
        let held = decoder.buffered_bytes();
        feed(&mut decoder, &ping[..20]);
        assert_eq!(feed(&mut decoder, &ping[20..]), [Heard::Ping(vec![1; 125])]);
        feed(&mut decoder, &continuation);
        moves += usize::from(decoder.buffered_bytes() != held);
    }
    assert!(moves <= 4, "moved {moves} times");
}

#[test]
fn empty_fragments_without_end_cost_nothing() {
    let mut decoder = Decoder::default();
    feed(&mut decoder, &frame(BINARY, b""));
    let continuation = frame(CONTINUATION, b"");
    for _ in 0..10_000 {
        feed(&mut decoder, &continuation);
    }
    assert!(decoder.buffered_bytes() <= FIXED_BYTES_MAX);
}

#[test]
fn a_clone_goes_on_by_itself_from_the_middle_of_a_frame() {
    let mut decoder = Decoder::default();
    let stream = frame(FINAL | TEXT, b"half and half");
    feed(&mut decoder, &stream[..10]);
    let mut clone = decoder.clone();
    let whole = [Heard::Text("half and half".to_owned())];
    assert_eq!(feed(&mut clone, &stream[10..]), whole);
    assert_eq!(feed(&mut decoder, &stream[10..]), whole);
}

#[test]
fn the_input_tells_what_is_not_decoded_yet() {
    let mut decoder = Decoder::default();
    let second = frame(FINAL | BINARY, b"second");
    let mut buffer = [frame(FINAL | BINARY, b"first"), second.clone()].concat();
    let mut input = Input::new(&mut buffer);
    assert_eq!(input.rest().len(), 6 + 5 + 6 + 6);
    decoder.poll(&mut input, MESSAGE_BYTES_MAX).unwrap();
    assert_eq!(input.rest(), second, "it still carries its mask");
    assert_eq!(input.rest()[2..6], KEY);
    decoder.poll(&mut input, MESSAGE_BYTES_MAX).unwrap();
    assert_eq!(input.rest(), []);
}

#[test]
fn a_close_ends_the_input() {
    let mut decoder = Decoder::default();
    let mut buffer = [frame(CLOSE, b""), frame(FINAL | BINARY, b"too late")].concat();
    let mut input = Input::new(&mut buffer);
    assert_eq!(decoder.poll(&mut input, MESSAGE_BYTES_MAX), Ok(Some(Event::Close(None))));
    assert_eq!(input.rest(), []);
    assert_eq!(decoder.poll(&mut input, MESSAGE_BYTES_MAX), Ok(None));
}
