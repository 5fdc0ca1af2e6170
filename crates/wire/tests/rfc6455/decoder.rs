//! The decoder against the table in `cases`, and what is too much for a table: every close code,
//! messages of many MiB, very many messages in one read.

use rand::{SeedableRng, rngs::StdRng};
use ringway_wire::{CloseCode, Decoder, Event, Inflater, Input};

use crate::{
    cases::{
        self, BINARY, Broken, CLOSE, CONTINUATION, FINAL, Heard, MESSAGE_BYTES_MAX, PING,
        RESERVED_BITS, TEXT, body, frame, frame_with_key,
    },
    support::{cut, cut_up_to, decode, decode_every_way, decode_with},
};

#[test]
fn every_stream_of_the_table_is_heard_or_refused_by_its_byte_however_it_is_cut() {
    let cases = cases::all();
    assert!(cases.len() > 2000, "{} cases", cases.len());
    for (index, case) in cases.iter().enumerate() {
        let name = &case.name;
        let outcome = decode_every_way(&case.stream, MESSAGE_BYTES_MAX, 100 * index as u64);
        assert_eq!(outcome.heard, case.heard, "{name}");
        let broken = outcome.violation.map(|violation| Broken {
            rule: (violation.code.0, violation.reason),
            bytes: outcome.bytes_received,
        });
        assert_eq!(broken, case.broken, "{name}");
        if let Some(Broken { rule: (_, reason), .. }) = broken {
            assert!(reason.len() <= 123, "{name}: the reason fits a Close frame");
        }
    }
}

#[test]
fn a_broken_rule_is_found_in_the_read_that_has_its_byte_wherever_a_read_before_it_ends() {
    for case in cases::all() {
        let Some(Broken { rule, bytes }) = case.broken else { continue };
        // Long streams break their rule behind a long message: the cuts before it say nothing.
        for end in bytes.saturating_sub(200)..bytes {
            let (first, second) = case.stream.split_at(end);
            let outcome = decode([first, &second[..bytes - end]], MESSAGE_BYTES_MAX);
            let found = outcome.violation.map(|violation| (violation.code.0, violation.reason));
            assert_eq!(found, Some(rule), "{} cut at {end}", case.name);
            assert_eq!(outcome.bytes_received, bytes, "{} cut at {end}", case.name);
        }
    }
}

#[test]
fn every_stream_of_the_table_is_heard_alike_where_compression_is_agreed_on_but_not_used() {
    for (index, case) in cases::all().iter().enumerate() {
        // RFC 7692 section 6: there one of the reserved bits has a meaning.
        if case.broken.is_some_and(|broken| broken.rule == RESERVED_BITS) {
            continue;
        }
        let mut inflater = Inflater::new();
        let pieces = cut(&case.stream, &mut StdRng::seed_from_u64(index as u64));
        for pieces in [vec![&case.stream[..]], pieces] {
            let clone = |_, decoder: Decoder| decoder.clone();
            let outcome = decode_with(pieces, MESSAGE_BYTES_MAX, clone, Some(&mut inflater));
            assert_eq!(outcome.heard, case.heard, "{}", case.name);
            let rule = outcome.violation.map(|violation| (violation.code.0, violation.reason));
            assert_eq!(rule, case.broken.map(|broken| broken.rule), "{}", case.name);
        }
    }
}

#[test]
fn every_code_of_two_bytes_is_allowed_or_refused_rfc_6455_section_7_4() {
    for code in 0..=u16::MAX {
        let outcome = decode([&frame(CLOSE, &body(code, b"why"))[..]], 0);
        match code {
            1000..=1003 | 1007..=1014 | 3000..=4999 => {
                let close = Heard::Close(Some((code, "why".to_owned())));
                assert_eq!(outcome.what(), (&[close][..], None), "{code}");
            }
            _ => {
                assert_eq!(outcome.heard, [], "{code}");
                let violation = outcome.violation.expect("it must not be sent");
                assert_eq!(violation.code, CloseCode(1002), "{code}");
                assert_eq!(violation.reason, "close code must not be sent", "{code}");
            }
        }
    }
}

#[test]
fn messages_of_one_to_sixteen_mebibytes_are_heard_where_the_limit_allows_them() {
    for mebibytes in [1, 16] {
        let limit = mebibytes << 20;
        let payload: Vec<u8> = (0..=250).cycle().take(limit).collect();
        let key = [0xA1, 0xB2, 0xC3, 0xD4];
        let whole = frame_with_key(FINAL | BINARY, key, &payload);
        let (first, second) = payload.split_at(limit / 3);
        let fragments = [
            frame_with_key(BINARY, key, first),
            frame(PING, b"between"),
            frame_with_key(FINAL | CONTINUATION, key, second),
        ]
        .concat();
        let binary = Heard::Binary(payload);
        let outcome = decode([&whole[..]], limit);
        assert_eq!(outcome.what(), (&[binary.clone()][..], None), "{mebibytes} MiB in one read");
        let outcome = decode(fragments.chunks(4096), limit);
        let heard = [Heard::Ping(b"between".to_vec()), binary];
        assert_eq!(outcome.what(), (&heard[..], None), "{mebibytes} MiB in reads of 4 KiB");
        let pieces = cut_up_to(65_536, &fragments, &mut StdRng::seed_from_u64(limit as u64));
        let outcome = decode_with(pieces, limit, |_, decoder| decoder, None);
        assert_eq!(outcome.what(), (&heard[..], None), "{mebibytes} MiB in random reads");
        for stream in [whole, fragments] {
            let refused = decode([&stream[..]], limit - 1);
            let code = refused.violation.expect("it is over the limit").code;
            assert_eq!(code, CloseCode(1009), "{mebibytes} MiB");
        }
    }
}

#[test]
fn a_text_of_a_mebibyte_is_heard_and_fails_at_its_last_character_if_that_is_cut() {
    let text = "é✓😀t".repeat(100_000);
    let valid = frame(FINAL | TEXT, text.as_bytes());
    let broken = frame(FINAL | TEXT, &[text.as_bytes(), b"\xE2\x9C."].concat());
    let heard = [Heard::Text(text)];
    for read_bytes in [1021, 65_536, 2 << 20] {
        let outcome = decode(valid.chunks(read_bytes), 2 << 20);
        assert_eq!(outcome.what(), (&heard[..], None), "reads of {read_bytes}");
        let outcome = decode(broken.chunks(read_bytes), 2 << 20);
        let code = outcome.violation.expect("it ends within a character").code;
        assert_eq!(code, CloseCode(1007), "reads of {read_bytes}");
    }
}

#[test]
fn a_hundred_thousand_messages_in_one_read_are_heard_one_by_one_without_a_copy() {
    let message = frame(FINAL | TEXT, b"small");
    let mut read = message.repeat(100_000);
    let lent = read.as_ptr_range();
    let mut decoder = Decoder::default();
    let mut input = Input::new(&mut read);
    let mut count = 0;
    while let Some(event) = decoder.poll(&mut input, MESSAGE_BYTES_MAX).expect("valid") {
        let Event::Message(message) = event else { panic!("{event:?}") };
        assert_eq!(message.payload, b"small");
        assert!(lent.contains(&message.payload.as_ptr()));
        count += 1;
    }
    assert_eq!(count, 100_000);
    assert_eq!(decoder.buffered_bytes(), 0);
}

#[test]
fn an_input_that_is_limited_to_frames_leaves_what_follows_them() {
    let mut decoder = Decoder::default();
    let fragment = |first: u8, payload: &[u8]| [&[first, 0x81, 0, 0, 0, 0], payload].concat();
    let mut bytes = [fragment(0x01, b"a"), fragment(0x00, b"b"), fragment(0x80, b"c")].concat();
    let mut input = Input::limited(&mut bytes, 2);
    assert_eq!(decoder.poll(&mut input, 10), Ok(None));
    assert_eq!((input.rest(), input.frames_left()), (&fragment(0x80, b"c")[..], 0));
    let mut rest = input.rest().to_vec();
    // Half a head is no frame yet.
    let mut input = Input::limited(&mut rest[..3], 1);
    assert_eq!(decoder.poll(&mut input, 10), Ok(None));
    assert_eq!((input.rest(), input.frames_left()), (&b""[..], 1));
    let mut input = Input::limited(&mut rest[3..], 1);
    let Ok(Some(Event::Message(message))) = decoder.poll(&mut input, 10) else {
        panic!("no message")
    };
    assert_eq!(message.payload, b"abc");
    let mut two = [fragment(0x81, b"d"), fragment(0x81, b"e")].concat();
    let mut input = Input::limited(&mut two, 3);
    assert!(matches!(decoder.poll(&mut input, 10), Ok(Some(Event::Message(_)))));
    input.count_more(5);
    assert_eq!(decoder.poll(&mut input, 10), Ok(None));
    input.lift_limit();
    assert!(matches!(decoder.poll(&mut input, 10), Ok(Some(Event::Message(_)))));
}
