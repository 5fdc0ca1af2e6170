//! From how many bytes on a message is worth compressing: what it shrinks to, what that takes once
//! for all its receivers, and what it takes one of them. The messages are JSON, as servers push
//! it: short ones have few names that repeat.
//!
//! `cargo run -p ringway-wire --profile bench-fast --example deflate_curve`

#![expect(clippy::disallowed_types, reason = "it takes the time")]

use std::{hint::black_box, time::Instant};

use rand::{Rng, SeedableRng, rngs::StdRng};
use ringway_wire::{DataOpcode, Decoder, Deflater, Event, Inflater, Input, Window, encode_message};

const MESSAGE_BYTES_MAX: usize = 1 << 20;

/// Messages of one size.
const MESSAGES: usize = 64;

/// A time is the least of so many.
const ROUNDS: usize = 9;

fn main() {
    println!("payload  plain    deflated  saved   deflate µs  inflate µs");
    for bytes in [32, 48, 64, 96, 128, 192, 256, 384, 512, 1024, 2048, 4096, 16_384, 65_536] {
        row(bytes);
    }
}

fn row(bytes: usize) {
    let mut random = StdRng::seed_from_u64(1);
    let messages: Vec<Vec<u8>> = (0..MESSAGES).map(|_| message(&mut random, bytes)).collect();
    let mut deflater = Deflater::new();
    let mut encode =
        |message: &Vec<u8>| deflater.encode_message(DataOpcode::Text, message, Window::LARGEST);
    let plain: usize = messages.iter().map(|it| encode_message(DataOpcode::Text, it).len()).sum();
    let frames: Vec<_> = messages.iter().map(&mut encode).collect();
    let deflated: usize = frames
        .iter()
        .zip(&messages)
        .map(|(frame, message)| {
            let plain = || encode_message(DataOpcode::Text, message).len();
            frame.as_ref().map_or_else(plain, |frame| frame.len())
        })
        .sum();
    let deflate_us = least_us(|| messages.iter().for_each(|it| _ = black_box(encode(it))));
    let clients: Vec<Vec<u8>> = frames.iter().flatten().map(|frame| masked(frame)).collect();
    let mut inflater = Inflater::new();
    let inflate_us = least_us(|| clients.iter().for_each(|it| decode(&mut inflater, it)));
    println!(
        "{bytes:<8} {:<8} {:<9} {:<7} {deflate_us:<11.2} {inflate_us:.2}",
        plain / MESSAGES,
        deflated / MESSAGES,
        format!("{:.0} %", 100.0 - 100.0 * deflated as f64 / plain as f64),
    );
}

/// An array of price changes, cut off at exactly so many bytes.
fn message(random: &mut StdRng, bytes: usize) -> Vec<u8> {
    let mut text = String::from("[");
    while text.len() < bytes {
        let symbol: String = (0..4).map(|_| char::from(random.random_range(b'A'..=b'Z'))).collect();
        let price = random.random_range(100.0..999.0);
        let size = random.random_range(1..500);
        let time = 1_732_437_584_000_u64 + random.random_range(0..60_000);
        text += &format!(
            "{{\"symbol\":\"{symbol}\",\"price\":{price:.2},\"size\":{size},\"time\":{time}}},"
        );
    }
    text.truncate(bytes);
    text.into_bytes()
}

/// A server's frame as a client would send it, with a mask of zeros.
fn masked(frame: &[u8]) -> Vec<u8> {
    let head_bytes = match frame[1] {
        126 => 4,
        127 => 10,
        _ => 2,
    };
    let (head, payload) = frame.split_at(head_bytes);
    let mut masked = [head, &[0; 4], payload].concat();
    masked[1] |= 0x80;
    masked
}

fn decode(inflater: &mut Inflater, frame: &[u8]) {
    let mut bytes = frame.to_vec();
    let mut decoder = Decoder::default();
    let mut input = Input::new(&mut bytes);
    let event = decoder.poll_deflated(&mut input, MESSAGE_BYTES_MAX, inflater);
    assert!(matches!(black_box(event), Ok(Some(Event::Message(_)))));
}

/// Microseconds for each of the messages.
fn least_us(mut run: impl FnMut()) -> f64 {
    let times = (0..ROUNDS).map(|_| {
        let start = Instant::now();
        run();
        start.elapsed().as_nanos() as f64
    });
    times.fold(f64::INFINITY, f64::min) / MESSAGES as f64 / 1_000.0
}
