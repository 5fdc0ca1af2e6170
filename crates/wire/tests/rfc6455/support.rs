//! Decoding a stream in pieces into events that own their bytes.

use rand::{Rng, SeedableRng, rngs::StdRng};
use ringway_wire::{DataOpcode, Decoder, Event, Inflater, Input, Violation};

use crate::cases::Heard;

impl From<Event<'_>> for Heard {
    fn from(event: Event<'_>) -> Self {
        match event {
            Event::Message(message) => match message.opcode {
                DataOpcode::Text => Self::Text(
                    String::from_utf8(message.payload.to_vec()).expect("text is valid UTF-8"),
                ),
                DataOpcode::Binary => Self::Binary(message.payload.to_vec()),
            },
            Event::Ping(payload) => Self::Ping(payload.to_vec()),
            Event::Pong(payload) => Self::Pong(payload.to_vec()),
            Event::Close(close) => {
                Self::Close(close.map(|close| (close.code.0, close.reason.to_owned())))
            }
        }
    }
}

/// What a stream comes to: its events, then perhaps a violation, and the number of bytes that had
/// been received by then.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Outcome {
    pub(crate) heard: Vec<Heard>,
    pub(crate) violation: Option<Violation>,
    pub(crate) bytes_received: usize,
}

impl Outcome {
    pub(crate) fn what(&self) -> (&[Heard], Option<Violation>) {
        (&self.heard, self.violation)
    }
}

/// Decodes pieces of a stream one after another until a violation or a Close. Between pieces the
/// decoder is exchanged for its clone (at first always, then now and then, since it may be large):
/// nothing about a connection may hide elsewhere.
pub(crate) fn decode<'p>(
    pieces: impl IntoIterator<Item = &'p [u8]>,
    message_bytes_max: usize,
) -> Outcome {
    let clone = |index: usize, decoder: Decoder| {
        if index < 500 || index.is_multiple_of(97) { decoder.clone() } else { decoder }
    };
    decode_with(pieces, message_bytes_max, clone, None)
}

/// The same, `between` being done to the decoder behind each piece. With an inflater messages may
/// be compressed.
pub(crate) fn decode_with<'p>(
    pieces: impl IntoIterator<Item = &'p [u8]>,
    message_bytes_max: usize,
    between: impl Fn(usize, Decoder) -> Decoder,
    mut inflater: Option<&mut Inflater>,
) -> Outcome {
    let mut decoder = Decoder::default();
    let mut outcome = Outcome { heard: Vec::new(), violation: None, bytes_received: 0 };
    let mut buffer = Vec::new();
    for (index, piece) in pieces.into_iter().enumerate() {
        buffer.clear();
        buffer.extend_from_slice(piece);
        outcome.bytes_received += piece.len();
        let mut input = Input::new(&mut buffer);
        loop {
            let event = match &mut inflater {
                None => decoder.poll(&mut input, message_bytes_max),
                Some(inflater) => decoder.poll_deflated(&mut input, message_bytes_max, inflater),
            };
            match event {
                Ok(None) => break,
                Ok(Some(event)) => {
                    let is_close = matches!(event, Event::Close(_));
                    outcome.heard.push(event.into());
                    if is_close {
                        return outcome;
                    }
                }
                Err(violation) => {
                    outcome.violation = Some(violation);
                    return outcome;
                }
            }
        }
        assert!(input.rest().is_empty(), "no event left, so nothing may be left of the input");
        decoder = between(index, decoder);
    }
    outcome
}

/// Decodes the stream whole, byte by byte and in random pieces, and checks that it makes no
/// difference. Returns how it went byte by byte.
pub(crate) fn decode_every_way(stream: &[u8], message_bytes_max: usize, seed: u64) -> Outcome {
    let single = decode(stream.chunks(1), message_bytes_max);
    let whole = decode([stream], message_bytes_max);
    assert_eq!(whole.what(), single.what(), "whole and byte by byte");
    // A long stream has as many places to cut in one round as a short one in all.
    let rounds = if stream.len() > 10_000 { 1 } else { 8 };
    for round in 0..rounds {
        let pieces = cut(stream, &mut StdRng::seed_from_u64(seed + round));
        let sizes: Vec<usize> = pieces.iter().map(|piece| piece.len()).collect();
        let pieced = decode(pieces, message_bytes_max);
        assert_eq!(pieced.what(), single.what(), "cut into {sizes:?}");
    }
    single
}

/// Random pieces, some of them empty.
pub(crate) fn cut<'s>(stream: &'s [u8], random: &mut StdRng) -> Vec<&'s [u8]> {
    let piece_bytes_max = if random.random() { 8 } else { stream.len() };
    cut_up_to(piece_bytes_max, stream, random)
}

/// The same, none longer than this.
pub(crate) fn cut_up_to<'s>(
    piece_bytes_max: usize,
    mut stream: &'s [u8],
    random: &mut StdRng,
) -> Vec<&'s [u8]> {
    let mut pieces = Vec::new();
    while !stream.is_empty() {
        let size = random.random_range(0..=piece_bytes_max.min(stream.len()));
        let (piece, rest) = stream.split_at(size);
        pieces.push(piece);
        stream = rest;
    }
    pieces
}
