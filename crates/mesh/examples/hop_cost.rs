//! What a letter costs: one post and one take on one thread, between two threads, and with the
//! member parked and woken for every letter. Run by
//! `cargo run -p ringway-mesh --profile bench-fast --example hop_cost`.
//! Each figure is the median of rounds, with the least and the greatest.
#![forbid(unsafe_code)]
#![expect(clippy::disallowed_methods, reason = "the figure is of threads")]
#![expect(clippy::disallowed_types, reason = "it takes the time")]

use std::{
    hint::black_box,
    thread,
    time::{Duration, Instant},
};

use ringway_mesh::{Endpoint, Member, join};

const ROUNDS: usize = 7;
const LETTERS: u64 = 1_000_000;
const WAKES: u64 = 20_000;
const QUEUE_LETTERS: usize = 32;

/// As large as a letter of the gateway.
type Letter = [u64; 2];

fn main() {
    for members in [2, 58] {
        report(&format!("one thread, {members} members"), LETTERS, || on_one_thread(members));
    }
    report("two threads, both running", LETTERS, between_running_threads);
    report("two threads, there and back, each parked", WAKES, between_parking_threads);
}

/// Prints the time per letter of a run that moves `letters` letters.
fn report(what: &str, letters: u64, run: impl Fn() -> Duration) {
    let mut rounds: Vec<f64> =
        (0..ROUNDS).map(|_| run().as_secs_f64() * 1e9 / letters as f64).collect();
    rounds.sort_by(f64::total_cmp);
    let [least, median, greatest] = [0, ROUNDS / 2, ROUNDS - 1].map(|index| rounds[index]);
    println!("{what}: {median:.1} ns per letter ({least:.1} to {greatest:.1})");
}

/// The first two of `members` members.
fn two_of(members: u16) -> (Endpoint<Letter>, Endpoint<Letter>) {
    let mut endpoints = join(members, |_, _| QUEUE_LETTERS).into_iter();
    match (endpoints.next(), endpoints.next()) {
        (Some(first), Some(second)) => (first, second),
        _ => unreachable!("there are at least two members"),
    }
}

fn on_one_thread(members: u16) -> Duration {
    let (mut producer, mut consumer) = two_of(members);
    let to = consumer.member();
    let begun = Instant::now();
    for number in 0..LETTERS {
        producer.post(to, [number; 2], number).expect("the queue is empty");
        black_box(producer.poll_wake());
        black_box(consumer.take());
    }
    begun.elapsed()
}

fn between_running_threads() -> Duration {
    let (mut producer, mut consumer) = two_of(2);
    let to = consumer.member();
    let begun = Instant::now();
    thread::scope(|scope| {
        scope.spawn(move || {
            for number in 0..LETTERS {
                while producer.room(to) == 0 {
                    thread::yield_now();
                }
                producer.post(to, [number; 2], number).expect("room was seen");
                black_box(producer.poll_wake());
            }
        });
        let mut taken = 0;
        while taken < LETTERS {
            match consumer.take() {
                Some(delivery) => {
                    black_box(delivery);
                    taken += 1;
                }
                None => thread::yield_now(),
            }
        }
    });
    begun.elapsed()
}

fn between_parking_threads() -> Duration {
    let (mut asking, mut answering) = two_of(2);
    let (asked, asker) = (answering.member(), thread::current());
    let begun = Instant::now();
    thread::scope(|scope| {
        let answerer = scope.spawn(move || {
            for _ in 0..WAKES / 2 {
                let question = wait(&mut answering);
                post(&mut answering, Member(0), question, &asker);
            }
        });
        for number in 0..WAKES / 2 {
            post(&mut asking, asked, [number; 2], answerer.thread());
            black_box(wait(&mut asking));
        }
    });
    begun.elapsed()
}

/// Posts a letter and wakes the thread of its member when the rule says so.
fn post(endpoint: &mut Endpoint<Letter>, to: Member, letter: Letter, thread: &thread::Thread) {
    endpoint.post(to, letter, 0).expect("one letter at a time");
    while endpoint.poll_wake().is_some() {
        thread.unpark();
    }
}

/// Parks until there is a letter.
fn wait(endpoint: &mut Endpoint<Letter>) -> Letter {
    loop {
        if let Some(delivery) = endpoint.take() {
            return delivery.letter;
        }
        if endpoint.park() {
            thread::park();
            endpoint.unpark();
        }
    }
}
