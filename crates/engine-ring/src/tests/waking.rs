//! Between rings, from plain threads, and to guests.

use std::{
    sync::{Arc, mpsc},
    thread,
};

use mesh::Member;
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use worker::{Engine, Operation};

use crate::{RingEngine, WakeTarget};

use super::rig::{Event, PATIENCE, Rig, options};

fn woken(event: &Event) -> Option<()> {
    (*event == Event::Woken).then_some(())
}

#[test]
fn any_thread_wakes_a_ring_that_waits() {
    let mut rig = Rig::new(&options());
    let waker = rig.engine.waker();
    for _ in 0..100 {
        let waker = Arc::clone(&waker);
        let thread = thread::spawn(move || waker.wake());
        rig.until(woken);
        thread.join().unwrap();
    }
    rig.turn();
    assert_eq!(rig.events.len(), 0, "each wake is told once");
}

#[test]
fn a_wake_before_the_wait_ends_it() {
    let mut rig = Rig::new(&options());
    rig.turn();
    rig.engine.waker().wake();
    let deadline = rig.engine.now() + PATIENCE;
    rig.wait(deadline);
    assert_eq!(rig.events, [Event::Woken]);
}

#[test]
fn two_rings_wake_each_other() {
    const ROUNDS: usize = 200;
    let (to_other, from_first) = mpsc::channel::<WakeTarget>();
    let (to_first, from_other) = mpsc::channel::<WakeTarget>();
    let other = thread::spawn(move || {
        let mut rig = Rig::new(&options());
        to_first.send(rig.engine.wake_target()).unwrap();
        rig.engine.connect(Member(0), from_first.recv().unwrap());
        for _ in 0..ROUNDS {
            rig.until(woken);
            rig.engine.submit(Operation::Wake { member: Member(0) });
        }
        rig.turn();
        rig.assert_clean();
    });
    let mut rig = Rig::new(&options());
    to_other.send(rig.engine.wake_target()).unwrap();
    rig.engine.connect(Member(1), from_other.recv().unwrap());
    for _ in 0..ROUNDS {
        rig.engine.submit(Operation::Wake { member: Member(1) });
        rig.until(woken);
    }
    other.join().unwrap();
    rig.assert_clean();
}

#[test]
fn a_guest_is_woken_by_its_eventfd() {
    let event = Arc::new(eventfd(0, EventfdFlags::NONBLOCK).unwrap());
    let mut rig = Rig::new(&options());
    rig.engine.connect(Member(3), WakeTarget::from(Arc::clone(&event)));
    rig.engine.submit(Operation::Wake { member: Member(3) });
    rig.turn();
    let timeout = Timespec { tv_sec: 5, tv_nsec: 0 };
    assert_eq!(poll(&mut [PollFd::new(&event, PollFlags::IN)], Some(&timeout)), Ok(1));
    let mut count = [0; 8];
    rustix::io::read(&event, &mut count).unwrap();
    assert_eq!(u64::from_ne_bytes(count), 1);
}

#[test]
fn a_member_that_is_gone_or_unknown_is_not_woken() {
    let mut rig = Rig::new(&options());
    let gone = RingEngine::new(&options(), Vec::new()).unwrap();
    rig.engine.connect(Member(1), gone.wake_target());
    drop(gone);
    for member in [1, 2] {
        rig.engine.submit(Operation::Wake { member: Member(member) });
    }
    rig.turn();
    assert_eq!(rig.events.len(), 0);
}
