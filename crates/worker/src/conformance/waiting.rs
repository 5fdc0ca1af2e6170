//! Waiting: until when, and what ends it.

use std::{thread, time::Duration};

use mesh::Member;

use super::{
    Bed, BedOptions, Check, Event, Make,
    rig::{OPTIONS, Rig},
};
use crate::operation::{Engine, Operation, Time};

pub(super) fn checks<B: Bed>() -> Vec<Check<B>> {
    vec![
        Check {
            name: "a_quiet_wait_lasts_until_its_deadline",
            run: a_quiet_wait_lasts_until_its_deadline,
        },
        Check { name: "a_passed_deadline_is_not_waited_for", run: a_passed_deadline_is_no_wait },
        Check { name: "a_wake_before_the_wait_ends_it", run: a_wake_before_the_wait_ends_it },
        Check { name: "any_thread_ends_a_wait", run: any_thread_ends_a_wait },
        Check { name: "many_wakes_are_told", run: many_wakes_are_told },
        Check { name: "members_wake_each_other", run: members_wake_each_other },
    ]
}

fn a_quiet_wait_lasts_until_its_deadline<B: Bed>(make: Make<'_, B>) {
    let mut rig = Rig::new(make);
    let _clients = rig.clients(3);
    rig.settle();
    for milliseconds in [1, 5, 20] {
        let deadline = rig.now() + Duration::from_millis(milliseconds);
        // It may return for reasons of its own, but not in a loop of its caller.
        let mut waits = 0;
        while rig.now() < deadline {
            rig.wait(deadline);
            waits += 1;
        }
        assert!(waits <= 20, "{waits} waits");
        assert!(rig.now().since(deadline) < Duration::from_secs(5), "it overslept");
    }
    assert!(rig.events.is_empty());
    rig.assert_clean();
}

fn a_passed_deadline_is_no_wait<B: Bed>(make: Make<'_, B>) {
    let mut rig = Rig::new(make);
    rig.settle();
    let before = rig.now();
    for _ in 0..100 {
        rig.wait(Time(0));
        let now = rig.now();
        rig.wait(now);
    }
    assert!(rig.now() >= before, "time goes forward");
    assert!(rig.now().since(before) < Duration::from_secs(5), "it waited");
    assert!(rig.events.is_empty());
    rig.assert_clean();
}

fn a_wake_before_the_wait_ends_it<B: Bed>(make: Make<'_, B>) {
    let mut rig = Rig::new(make);
    rig.settle();
    rig.engine().waker().wake();
    rig.until(|event| (*event == Event::Woken).then_some(()));
    rig.assert_silent();
    rig.assert_clean();
}

#[expect(clippy::disallowed_methods, reason = "a waker belongs to any thread")]
fn any_thread_ends_a_wait<B: Bed>(make: Make<'_, B>) {
    let mut rig = Rig::new(make);
    for _ in 0..20 {
        let waker = rig.engine().waker();
        let waking = thread::spawn(move || waker.wake());
        // An engine whose clock is virtual can come to the deadline before the thread has begun.
        while !waking.is_finished() && rig.events.is_empty() {
            let deadline = rig.now() + Duration::from_secs(10);
            rig.wait(deadline);
        }
        waking.join().expect("waking does not fail");
        rig.until(|event| (*event == Event::Woken).then_some(()));
    }
    rig.assert_silent();
    rig.assert_clean();
}

fn many_wakes_are_told<B: Bed>(make: Make<'_, B>) {
    let mut rig = Rig::new(make);
    let waker = rig.engine().waker();
    for _ in 0..1000 {
        waker.wake();
    }
    rig.until(|event| (*event == Event::Woken).then_some(()));
    rig.settle();
    rig.events.clear();
    // And they are over.
    rig.assert_silent();
    rig.assert_clean();
}

fn members_wake_each_other<B: Bed>(make: Make<'_, B>) {
    let mut rig = Rig::with(make, &BedOptions { engines: 3, ..OPTIONS });
    rig.settle();
    for from in [1, 2, 1, 1, 2, 2] {
        wake(&mut rig, from, Member(0));
        rig.until(|event| (*event == Event::Woken).then_some(()));
        rig.assert_silent();
    }
    // The first wakes the others, in one batch.
    for member in [1, 2].map(Member) {
        rig.submit(Operation::Wake { member });
    }
    rig.turn();
    for member in [1, 2] {
        let mut woken = 0;
        let other = &mut rig.bed.engines()[member];
        let deadline = other.now() + Duration::from_secs(30);
        while woken == 0 && other.now() < deadline {
            other
                .wait(deadline, |_, completion| {
                    assert_eq!(Event::from(completion), Event::Woken);
                    woken += 1;
                })
                .expect("the engine goes on");
        }
        assert_eq!(woken, 1, "member {member}");
    }
    rig.assert_clean();
}

/// Has one of the other engines wake a member.
fn wake<B: Bed>(rig: &mut Rig<B>, from: usize, member: Member) {
    let engine = &mut rig.bed.engines()[from];
    engine.submit(Operation::Wake { member });
    engine
        .wait(Time(0), |_, completion| panic!("nobody woke it: {completion:?}"))
        .expect("the engine goes on");
}
