//! Between engines, from plain threads, and to guests.

use std::{
    sync::{Arc, mpsc},
    thread,
};

use mesh::Member;
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use sockets::EventWaker;
use worker::{Engine, Operation};

use super::rig::{Event, Rig, options};

fn woken(event: &Event) -> Option<()> {
    (*event == Event::Woken).then_some(())
}

/// The eventfd is not read, so that each write must be an edge of its own.
#[test]
fn every_wake_ends_a_wait_though_nobody_reads_the_eventfd() {
    let mut rig = Rig::new(&options());
    let waker = rig.engine.waker();
    for _ in 0..1000 {
        waker.wake();
        rig.turn();
        assert_eq!(rig.events.pop_front(), Some(Event::Woken));
        rig.turn();
        assert_eq!(rig.events.len(), 0, "each wake is told once");
    }
}

#[test]
fn two_engines_on_two_threads_wake_each_other() {
    const ROUNDS: usize = 200;
    let (to_other, from_first) = mpsc::channel::<EventWaker>();
    let (to_first, from_other) = mpsc::channel::<EventWaker>();
    let other = thread::spawn(move || {
        let mut rig = Rig::new(&options());
        to_first.send(rig.engine.wake_target()).unwrap();
        rig.engine.connect(Member(0), from_first.recv().unwrap());
        for _ in 0..ROUNDS {
            rig.until(woken);
            rig.engine.submit(Operation::Wake { member: Member(0) });
        }
    });
    let mut rig = Rig::new(&options());
    to_other.send(rig.engine.wake_target()).unwrap();
    rig.engine.connect(Member(1), from_other.recv().unwrap());
    for _ in 0..ROUNDS {
        rig.engine.submit(Operation::Wake { member: Member(1) });
        rig.until(woken);
    }
    other.join().unwrap();
}

#[test]
fn a_guest_is_woken_by_its_eventfd_and_a_stranger_not_at_all() {
    let event = Arc::new(eventfd(0, EventfdFlags::NONBLOCK).unwrap());
    let mut rig = Rig::new(&options());
    rig.engine.connect(Member(3), EventWaker::from(Arc::clone(&event)));
    for member in [1, 3, 9] {
        rig.engine.submit(Operation::Wake { member: Member(member) });
    }
    let timeout = Timespec { tv_sec: 5, tv_nsec: 0 };
    assert_eq!(poll(&mut [PollFd::new(&event, PollFlags::IN)], Some(&timeout)), Ok(1));
    let mut count = [0; 8];
    rustix::io::read(&event, &mut count).unwrap();
    assert_eq!(u64::from_ne_bytes(count), 1);
}
