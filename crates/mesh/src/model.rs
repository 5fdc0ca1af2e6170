//! Every interleaving of park, post and wake, tried by `loom`. Run by
//!
//! ```sh
//! RUSTFLAGS="--cfg loom" cargo test -p ringway-mesh --profile bench-fast \
//!     --target-dir target/loom --lib loom_
//! ```
//!
//! A wait is `loom`'s park, a wake its unpark: when a wake is lost, a thread waits for ever and
//! `loom` reports a deadlock. Wakes and parkings are counted by atomics of `std`, which are no
//! part of the model and so add no order to it.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use loom::thread::{self, JoinHandle, Thread};

use crate::{Delivery, Endpoint, Full, Member, join};

/// What all threads of one run count.
#[derive(Clone, Default)]
struct Counts {
    parkings: Arc<AtomicUsize>,
    wakes: Arc<AtomicUsize>,
}

impl Counts {
    fn wake(&self, thread: &Thread) {
        let wakes = 1 + self.wakes.fetch_add(1, Ordering::SeqCst);
        assert!(wakes <= self.parkings.load(Ordering::SeqCst), "more wakes than parkings");
        thread.unpark();
    }
}

/// Tries `run` in all interleavings with at most `preemptions` switches that no thread asked for.
fn try_all(preemptions: Option<usize>, run: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = preemptions;
    builder.check(run);
}

/// Takes `count` letters, parking whenever there is none.
fn take_all(endpoint: &mut Endpoint<u32>, count: usize, counts: &Counts) -> Vec<Delivery<u32>> {
    let mut taken = Vec::new();
    while taken.len() < count {
        if let Some(delivery) = endpoint.take() {
            taken.push(delivery);
            continue;
        }
        counts.parkings.fetch_add(1, Ordering::SeqCst);
        if endpoint.park() {
            thread::park();
            endpoint.unpark();
        } else {
            assert!(endpoint.waiting() > 0, "it must not wait, but there is no letter");
        }
    }
    assert_eq!(endpoint.take(), None);
    taken
}

/// Member 0, on a thread of its own, takes `count` letters.
fn consumer(
    mut endpoint: Endpoint<u32>,
    count: usize,
    counts: &Counts,
) -> JoinHandle<Vec<Delivery<u32>>> {
    let counts = counts.clone();
    thread::spawn(move || take_all(&mut endpoint, count, &counts))
}

/// Posts one batch to member 0 and wakes it when the rule says so.
fn post_batch(endpoint: &mut Endpoint<u32>, batch: &[u32], consumer: &Thread, counts: &Counts) {
    for letter in batch {
        endpoint.post(Member(0), *letter, 0).expect("there is room");
    }
    while let Some(member) = endpoint.poll_wake() {
        assert_eq!(member, Member(0));
        counts.wake(consumer);
    }
}

#[test]
fn loom_a_member_that_parks_while_letters_come_is_woken() {
    try_all(Some(5), || {
        let counts = Counts::default();
        let mut endpoints = join(2, |_, _| 2).into_iter();
        let consumer = consumer(endpoints.next().unwrap(), 2, &counts);
        let mut producer = endpoints.next().unwrap();
        post_batch(&mut producer, &[1], consumer.thread(), &counts);
        post_batch(&mut producer, &[2], consumer.thread(), &counts);
        let letters: Vec<_> = consumer.join().unwrap().iter().map(|taken| taken.letter).collect();
        assert_eq!(letters, [1, 2]);
    });
}

#[test]
fn loom_two_that_post_to_a_parked_member_wake_it_once() {
    try_all(Some(4), || {
        let counts = Counts::default();
        let mut endpoints = join(3, |_, to| usize::from(to == Member(0))).into_iter();
        let consumer = consumer(endpoints.next().unwrap(), 2, &counts);
        let [mut first, mut second] = [endpoints.next().unwrap(), endpoints.next().unwrap()];
        let other = {
            let (thread, counts) = (consumer.thread().clone(), counts.clone());
            thread::spawn(move || post_batch(&mut first, &[1], &thread, &counts))
        };
        post_batch(&mut second, &[2], consumer.thread(), &counts);
        let mut letters: Vec<_> =
            consumer.join().unwrap().iter().map(|taken| taken.letter).collect();
        letters.sort_unstable();
        assert_eq!(letters, [1, 2]);
        other.join().unwrap();
    });
}

#[test]
fn loom_two_members_that_answer_each_other_do_not_both_wait() {
    try_all(None, || {
        let counts = Counts::default();
        let mut endpoints = join(2, |_, _| 1).into_iter();
        let mut answering = endpoints.next().unwrap();
        let mut asking = endpoints.next().unwrap();
        let asker = thread::current();
        let answerer = {
            let counts = counts.clone();
            thread::spawn(move || {
                let question = take_all(&mut answering, 1, &counts).remove(0);
                answering.post(question.from, question.letter + 1, 0).unwrap();
                while answering.poll_wake().is_some() {
                    counts.wake(&asker);
                }
            })
        };
        post_batch(&mut asking, &[1], answerer.thread(), &counts);
        assert_eq!(take_all(&mut asking, 1, &counts)[0].letter, 2);
        answerer.join().unwrap();
    });
}

#[test]
fn loom_room_that_was_seen_is_there_and_a_slot_is_used_again() {
    try_all(None, || {
        let mut endpoints = join(2, |_, _| 1).into_iter();
        let mut consumer = endpoints.next().unwrap();
        let mut producer = endpoints.next().unwrap();
        producer.post(Member(0), 1, 0).unwrap();
        let taking = thread::spawn(move || {
            let first = consumer.take().map(|taken| taken.letter);
            (first, consumer)
        });
        let had_room = producer.room(Member(0)) == 1;
        let posted = producer.post(Member(0), 2, 0);
        assert!(posted == Ok(()) || posted == Err(Full(2)) && !had_room);
        let (first, mut consumer) = taking.join().unwrap();
        assert_eq!(first, Some(1));
        assert_eq!(consumer.take().map(|taken| taken.letter), posted.is_ok().then_some(2));
    });
}
