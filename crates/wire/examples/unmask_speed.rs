//! How fast payloads are unmasked, in GB/s: ours, that of fastwebsockets, and a loop over bytes.
//! The three take turns, so that what the machine does besides falls on all alike; the median of
//! the turns is shown with the smallest and the largest.
//!
//! ```text
//! cargo run --profile bench-fast -p ringway-wire --example unmask_speed
//! ```

#![forbid(unsafe_code)]
#![expect(clippy::disallowed_types, reason = "it takes the time")]

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

const TURNS: usize = 41;
const TURN_BYTES: usize = 64 << 20;
const KEY: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

type Unmask = fn(&mut [u8], [u8; 4]);

const CANDIDATES: [(&str, Unmask); 3] = [
    ("ringway", |payload, key| ringway_wire::unmask(payload, key, 0)),
    ("fastwebsockets", fastwebsockets::unmask),
    ("byte loop", unmask_bytes),
];

fn main() {
    println!(
        "{:>10}  {:>6}  {:<14}  {:>6}  {:>6}  {:>6}",
        "bytes", "offset", "GB/s", "median", "min", "max"
    );
    // A client's payload begins 6, 8 or 14 bytes after a frame does: at any alignment.
    for (payload_bytes, offset) in
        [(125, 0), (125, 6), (4096, 0), (4096, 8), (65_536, 0), (65_536, 14)]
    {
        let mut buffer = vec![0x5A; payload_bytes + offset];
        let mut speeds = CANDIDATES.map(|_| Vec::with_capacity(TURNS));
        for _ in 0..TURNS {
            for ((_, unmask), speeds) in CANDIDATES.iter().zip(&mut speeds) {
                speeds.push(gigabytes_per_second(*unmask, &mut buffer[offset..]));
            }
        }
        for ((name, _), speeds) in CANDIDATES.iter().zip(&mut speeds) {
            speeds.sort_by(f64::total_cmp);
            println!(
                "{payload_bytes:>10}  {offset:>6}  {name:<14}  {:>6.2}  {:>6.2}  {:>6.2}",
                speeds[TURNS / 2],
                speeds[0],
                speeds[TURNS - 1]
            );
        }
    }
}

fn gigabytes_per_second(unmask: Unmask, payload: &mut [u8]) -> f64 {
    let rounds = TURN_BYTES / payload.len();
    let started = Instant::now();
    for _ in 0..rounds {
        unmask(black_box(&mut *payload), black_box(KEY));
    }
    let elapsed: Duration = started.elapsed();
    (rounds * payload.len()) as f64 / elapsed.as_secs_f64() / 1e9
}

fn unmask_bytes(payload: &mut [u8], key: [u8; 4]) {
    for (byte, key) in payload.iter_mut().zip(key.iter().cycle()) {
        *byte ^= key;
    }
}
