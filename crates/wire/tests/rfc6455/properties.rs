//! What holds of any bytes at all. The fuzz targets try it on bytes of their own making; here it is
//! tried on what they have found worth keeping.

use std::{
    collections::VecDeque,
    io::{self, Read, Write},
};

use http::HeaderValue;
use ringway_wire::{
    DataOpcode, Deflater, Extensions, Inflater, Request, Upgrade, Window, encode_message,
    encode_upgrade, parse_request,
};
use tungstenite::{
    Error, Message, WebSocket,
    handshake::server::create_response,
    protocol::{Role, WebSocketConfig},
};

use crate::{
    cases::{CLOSE_CODE, Heard, INVALID_UTF8, LENGTH_NOT_MINIMAL, Rule, frame, frame_with_key},
    support::{Outcome, decode_with},
};

/// The rules that tungstenite does not know: it reads lengths in any form, and answers a bad close
/// code as if another had been sent.
const STRICTER: [Rule; 2] = [LENGTH_NOT_MINIMAL, CLOSE_CODE];

/// A code that was registered after RFC 6455. tungstenite does not know it, and takes it for a
/// fault.
const BAD_GATEWAY: u16 = 1014;

/// Frames of any kind cut anywhere: the same is heard however they are cut, and what is wrong is
/// found no earlier than its byte and no later than the read that has it.
///
/// The first byte chooses the longest message, the second the pieces; the rest is the stream.
pub(crate) fn decoder_hears_the_same_however_reads_are_cut(bytes: &[u8]) {
    let [limit, pieces, stream @ ..] = bytes else { return };
    let limit = [0, 1, 125, 126, 1000, 65_535, 65_536, 1 << 20][usize::from(limit % 8)];
    let whole = decode([stream], limit);
    let single = decode(stream.chunks(1), limit);
    assert_eq!(whole.what(), single.what(), "whole and byte by byte");
    let cut = decode(cut(stream, *pieces), limit);
    assert_eq!(cut.what(), single.what(), "cut by {pieces}");
    if single.violation.is_some() {
        let before = decode([&stream[..single.bytes_received - 1]], limit);
        assert_eq!(before.what(), (&single.heard[..], None), "one byte less breaks no rule");
    }
}

/// A request head: whether its bytes are one is decided by a certain byte and never differently
/// behind it, and what is an upgrade to us is one to tungstenite, with the same answer.
pub(crate) fn handshake_is_decided_by_a_certain_byte_and_as_tungstenite_does(bytes: &[u8]) {
    let parsed = parse_request(bytes);
    let step = 1 + bytes.len() / 64;
    for end in (0..bytes.len()).step_by(step) {
        match (parse_request(&bytes[..end]), &parsed) {
            (Ok(None), _) => {}
            (Ok(Some((_, earlier))), Ok(Some((_, head_bytes)))) => {
                assert_eq!(earlier, *head_bytes, "the same head at {end}");
                assert!(earlier <= end, "a head of bytes that were not there at {end}");
            }
            (Err(earlier), Err(bad)) => assert_eq!(earlier, *bad, "the same fault at {end}"),
            (earlier, _) => panic!("{earlier:?} at {end}, then {parsed:?}"),
        }
    }
    let Ok(Some((mut request, head_bytes))) = parsed else { return };
    assert!(matches!(parse_request(&bytes[..head_bytes - 1]), Ok(None)), "its last byte ends it");
    let Ok(upgrade) = encode_upgrade(&request, None, Extensions { deflate: false }) else {
        return;
    };
    check_deflate_is_only_added(&request, &upgrade);
    // tungstenite does not know that both are lists.
    request.headers_mut().insert("Connection", HeaderValue::from_static("Upgrade"));
    request.headers_mut().insert("Upgrade", HeaderValue::from_static("websocket"));
    let theirs = create_response(&request).expect("tungstenite takes it for an upgrade too");
    let accept = theirs.headers()["Sec-WebSocket-Accept"].to_str().expect("it is ASCII");
    let expected = format!(
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Accept: {accept}\r\n\r\n"
    );
    assert_eq!(upgrade.response, expected);
}

/// permessage-deflate changes nothing of an answer but adds its own line.
fn check_deflate_is_only_added(request: &Request, plain: &Upgrade) {
    let upgrade = encode_upgrade(request, None, Extensions { deflate: true })
        .expect("what is offered makes no handshake fail");
    let response = std::str::from_utf8(&upgrade.response).expect("it is ASCII");
    let is_added = |line: &&str| line.starts_with("Sec-WebSocket-Extensions: permessage-deflate;");
    let lines = response.split_inclusive("\r\n");
    assert_eq!(lines.clone().filter(is_added).count(), usize::from(upgrade.deflate.is_some()));
    let others: String = lines.filter(|line| !is_added(line)).collect();
    assert_eq!(plain.response, others);
}

/// A compressed message of any bytes: it is inflated to the same however it is cut, and never to
/// more than it may have; and what our own deflater makes of the bytes comes back as they were.
///
/// The first byte chooses the longest message, the second the pieces and the window.
pub(crate) fn payloads_are_inflated_within_their_bound_and_come_back(bytes: &[u8]) {
    let [limit, pieces, payload @ ..] = bytes else { return };
    let limit = [0, 1, 125, 1023, 1024, 65_535, 65_536, 1 << 20][usize::from(limit % 8)];
    let mut inflater = Inflater::new();
    let mut inflate = |pieces: Vec<&[u8]>, limit| {
        decode_with(pieces, limit, |_, decoder| decoder, Some(&mut inflater))
    };
    let (first, last) = payload.split_at(payload.len() / 2);
    for stream in [
        frame(0xC2, payload),
        frame(0xC1, payload),
        [frame(0x41, first), frame(0x89, b"ping"), frame(0x80, last)].concat(),
    ] {
        let whole = inflate(vec![&stream], limit);
        let cut = inflate(cut(&stream, *pieces), limit);
        assert_eq!(whole.what(), cut.what(), "whole and cut by {pieces}");
        for heard in &whole.heard {
            match heard {
                Heard::Text(text) => assert!(text.len() <= limit),
                Heard::Binary(payload) => assert!(payload.len() <= limit),
                other => assert_eq!(*other, Heard::Ping(b"ping".to_vec())),
            }
        }
    }
    let window = Window::of_bits(9 + pieces % 7).expect("9 to 15 are windows");
    let compressed = Deflater::new().encode_message(DataOpcode::Binary, payload, window);
    if let Some(compressed) = compressed {
        assert!(compressed.len() < encode_message(DataOpcode::Binary, payload).len());
        assert_eq!(compressed[0], 0xC2, "final, compressed, binary");
        let head_bytes = [2, 4, 10][usize::from(compressed[1].saturating_sub(125))];
        let heard = inflate(vec![&frame(0xC2, &compressed[head_bytes..])], payload.len());
        assert_eq!(heard.what(), (&[Heard::Binary(payload.to_vec())][..], None));
    }
}

/// Frames where permessage-deflate is agreed on: the same is heard however they are cut; and a
/// stream whose messages are compressed is heard as the same one without compression.
///
/// The first byte chooses the pieces, the second the window; the rest is the stream, at first as it
/// is and then as a recipe.
pub(crate) fn compressed_streams_are_heard_the_same_however_reads_are_cut(bytes: &[u8]) {
    let [pieces, window, recipe @ ..] = bytes else { return };
    let limit = 1 << 20;
    decode_deflated_every_way(recipe, 1000, *pieces);
    let frames = frames(recipe);
    let compressed = compress(&frames, *window);
    let compressed = decode_deflated_every_way(&compressed, limit, *pieces);
    let plain = frames.iter().flat_map(|frame| {
        // RFC 7692 section 6: the bit belongs to the first frame of a message.
        let is_first = !matches!(frame.first & 0x0F, 0x0 | 0x8..=0xA);
        frame_with_key(frame.first & if is_first { 0xBF } else { 0xFF }, frame.key, &frame.payload)
    });
    let plain = decode([&plain.collect::<Vec<u8>>()[..]], limit);
    if rule(&plain) == Some(INVALID_UTF8) {
        // What a compressed text says is not known before its end.
        let (before, behind) = compressed.heard.split_at(plain.heard.len());
        assert_eq!(before, plain.heard);
        let is_message = |heard: &Heard| matches!(heard, Heard::Text(_) | Heard::Binary(_));
        assert!(!behind.iter().any(is_message), "{behind:?}");
    } else {
        assert_eq!(compressed.what(), plain.what());
    }
}

/// Whole, byte by byte and cut: the same must be heard.
fn decode_deflated_every_way(stream: &[u8], message_bytes_max: usize, seed: u8) -> Outcome {
    let mut inflater = Inflater::new();
    let mut decode = |pieces: Vec<&[u8]>| {
        decode_with(pieces, message_bytes_max, |_, decoder| decoder, Some(&mut inflater))
    };
    let whole = decode(vec![stream]);
    let cut = decode(cut(stream, seed));
    assert_eq!(whole.what(), cut.what(), "whole and cut by {seed}");
    if stream.len() < 4096 {
        let single = decode(stream.chunks(1).collect());
        assert_eq!(whole.what(), single.what(), "whole and byte by byte");
    }
    whole
}

/// The frames, those of a message whose first has the bit with compressed payloads: each fragment
/// is a block without compression (RFC 1951 section 3.2.4), unless our deflater makes less of a
/// whole message.
fn compress(frames: &[Frame], window: u8) -> Vec<u8> {
    let window = Window::of_bits(9 + window % 7).expect("9 to 15 are windows");
    let mut deflater = Deflater::new();
    let mut stream = Vec::new();
    let mut is_compressed = false;
    for Frame { first, key, payload } in frames {
        let is_final = first & 0x80 != 0;
        match first & 0x0F {
            // Control frames are never compressed.
            0x8.. => {
                stream.extend(frame_with_key(*first, *key, payload));
                continue;
            }
            0x0 => {}
            _ => is_compressed = first & 0x40 != 0,
        }
        if !is_compressed {
            stream.extend(frame_with_key(*first, *key, payload));
            continue;
        }
        let whole = (first & 0x8F == 0x82)
            .then(|| deflater.encode_message(DataOpcode::Binary, payload, window))
            .flatten();
        let payload = match whole {
            Some(frame) => frame[[2, 4, 10][usize::from(frame[1].saturating_sub(125))]..].to_vec(),
            None => {
                let mut blocks = Vec::new();
                for block in payload.chunks(0xFFFF) {
                    let length = u16::try_from(block.len()).expect("at most 65,535");
                    blocks.push(0x00);
                    blocks.extend(length.to_le_bytes());
                    blocks.extend((!length).to_le_bytes());
                    blocks.extend(block);
                }
                // RFC 7692 section 7.2.1: the end of the flush goes without its last four bytes.
                blocks.extend(is_final.then_some(0x00));
                blocks
            }
        };
        stream.extend(frame_with_key(*first, *key, &payload));
    }
    stream
}

/// Well-formed frames in any order and with any payload: what is accepted, tungstenite hears
/// alike; what is refused, it refuses too, or has not noticed yet, or does not know the rule.
pub(crate) fn streams_are_heard_as_tungstenite_hears_them(bytes: &[u8]) {
    let [pieces, recipe @ ..] = bytes else { return };
    let stream: Vec<u8> = frames(recipe)
        .iter()
        .flat_map(|frame| frame_with_key(frame.first, frame.key, &frame.payload))
        .collect();
    let limit = 1 << 20;
    let mut ours = decode(cut(&stream, *pieces), limit);
    if let Some(Heard::Close(close @ Some((BAD_GATEWAY, _)))) = ours.heard.last_mut() {
        *close = Some((1002, "Protocol violation".to_owned()));
    }
    let (theirs, error) = hear(&cut(&stream, pieces.wrapping_add(1)), limit);
    match rule(&ours) {
        None => {
            assert!(error.is_none(), "tungstenite refuses it: {error:?}");
            assert_eq!(ours.heard, theirs);
        }
        Some(rule) => {
            let heard = ours.heard.len();
            assert_eq!(Some(&ours.heard[..]), theirs.get(..heard), "before {rule:?}");
            let is_known = !STRICTER.contains(&rule);
            assert!(!is_known || theirs.len() == heard, "{rule:?}, but it hears {theirs:?}");
        }
    }
}

/// Without what would make millions of tries slow.
fn decode<'p>(pieces: impl IntoIterator<Item = &'p [u8]>, message_bytes_max: usize) -> Outcome {
    decode_with(pieces, message_bytes_max, |_, decoder| decoder, None)
}

fn rule(outcome: &Outcome) -> Option<Rule> {
    outcome.violation.map(|violation| (violation.code.0, violation.reason))
}

/// Pieces of a stream: sizes from a sequence that `seed` begins. Those of short streams are short.
fn cut(mut stream: &[u8], seed: u8) -> Vec<&[u8]> {
    let bytes_max = 9.max(stream.len() / 64);
    let mut state = u32::from(seed);
    let mut pieces = Vec::new();
    while !stream.is_empty() {
        // The generator of Numerical Recipes; its upper bits are the better ones.
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let bytes = (state >> 16) as usize % (bytes_max + 1);
        let (piece, rest) = stream.split_at(bytes.min(stream.len()));
        pieces.push(piece);
        stream = rest;
    }
    pieces
}

/// A frame of a stream that is made.
struct Frame {
    first: u8,
    key: [u8; 4],
    payload: Vec<u8>,
}

/// Frames from a recipe: for each its first byte, a key byte, a length byte, and payload. Some
/// length bytes stand for the lengths about which forms change, filled with the payload's first
/// byte.
fn frames(mut recipe: &[u8]) -> Vec<Frame> {
    let mut frames = Vec::new();
    let mut is_long = false;
    for _ in 0..12 {
        let [first, key, length, rest @ ..] = recipe else { break };
        let count = match length {
            0..=200 => usize::from(*length),
            // One such frame is enough: it costs as much as a thousand others.
            231 if !is_long => 65_534 + usize::from(key % 4),
            _ => 125 + usize::from(length % 4),
        };
        let (payload, after) = rest.split_at(rest.len().min(if count > 200 { 1 } else { count }));
        let mut payload = payload.to_vec();
        if count > 125 {
            payload.resize(count, payload.first().copied().unwrap_or_default());
        }
        let key = [*key, key.wrapping_mul(3), !key, key.rotate_left(3)];
        is_long |= count > 65_000;
        frames.push(Frame { first: *first, key, payload });
        recipe = after;
    }
    frames
}

/// A stream in memory: it gives one piece a read and swallows what is written.
pub(crate) struct Pieces<'p>(pub(crate) VecDeque<&'p [u8]>);

impl Read for Pieces<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Some(piece) = self.0.front_mut() else { return Err(io::ErrorKind::WouldBlock.into()) };
        let count = piece.read(buffer)?;
        if piece.is_empty() {
            self.0.pop_front();
        }
        Ok(count)
    }
}

impl Write for Pieces<'_> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        Ok(buffer.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What tungstenite's server hears, and the error with which it finds the stream broken.
pub(crate) fn hear(pieces: &[&[u8]], message_bytes_max: usize) -> (Vec<Heard>, Option<Error>) {
    let pieces = pieces.iter().copied().filter(|piece| !piece.is_empty()).collect();
    let config =
        WebSocketConfig::default().read_buffer_size(1024).max_message_size(Some(message_bytes_max));
    let mut socket = WebSocket::from_raw_socket(Pieces(pieces), Role::Server, Some(config));
    let mut heard = Vec::new();
    loop {
        heard.push(match socket.read() {
            Ok(Message::Text(text)) => Heard::Text(text.as_str().to_owned()),
            Ok(Message::Binary(payload)) => Heard::Binary(payload.to_vec()),
            Ok(Message::Ping(payload)) => Heard::Ping(payload.to_vec()),
            Ok(Message::Pong(payload)) => Heard::Pong(payload.to_vec()),
            Ok(Message::Close(close)) => {
                let close =
                    close.map(|close| (close.code.into(), close.reason.as_str().to_owned()));
                heard.push(Heard::Close(close));
                return (heard, None);
            }
            Ok(Message::Frame(_)) => panic!("a raw frame is never read"),
            Err(Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => {
                return (heard, None);
            }
            Err(error) => return (heard, Some(error)),
        });
    }
}
