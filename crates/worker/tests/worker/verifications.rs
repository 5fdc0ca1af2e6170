//! A turn verifies a bounded number of tokens; requests beyond wait in order for the next turns, and
//! nothing else waits for them.

use ringway_worker::{Closing, RefusalReason, Slot};

use super::{
    MS, SECOND,
    rig::{Rig, text, upgrade},
};

/// A worker that verifies so many in a turn, and clients that it has accepted.
fn rig(verifications_max: u32, clients: u32) -> (Rig, Vec<Slot>) {
    let mut rig = Rig::new(|options| options.limits.verifications_max = verifications_max);
    let slots = (0..clients).map(|_| rig.accept()).collect();
    rig.settle();
    (rig, slots)
}

/// A request with a token.
fn request() -> String {
    upgrade("Authorization: Bearer t\r\n")
}

/// A worker of one verification a turn, of whose clients the first has been answered and the others
/// wait.
fn waiting(clients: u32) -> (Rig, Vec<Slot>) {
    let (mut rig, slots) = rig(1, clients);
    slots.iter().for_each(|slot| rig.receive(*slot, request().as_bytes()));
    rig.keep_whole();
    rig.turn();
    assert_eq!(rig.handler().requests, 1);
    (rig, slots)
}

fn is_open(rig: &Rig, slot: Slot) -> bool {
    rig.sent(slot).starts_with(b"HTTP/1.1 101 ")
}

#[test]
fn a_turn_verifies_so_many_and_the_others_in_the_order_in_which_they_came() {
    let (mut rig, slots) = rig(2, 6);
    rig.keep_whole();
    for slot in &slots[..5] {
        rig.receive(*slot, request().as_bytes());
    }
    let mut opened = Vec::new();
    for turn in 0..4 {
        if turn == 1 {
            // Behind those who wait already, though there is something to be verified.
            rig.receive(slots[5], request().as_bytes());
        }
        rig.turn();
        opened.push(slots.iter().map(|slot| u8::from(is_open(&rig, *slot))).collect::<Vec<_>>());
    }
    assert_eq!(opened[0], [1, 1, 0, 0, 0, 0]);
    assert_eq!(opened[1], [1, 1, 1, 1, 0, 0]);
    assert_eq!(opened[2], [1, 1, 1, 1, 1, 1]);
    let report = rig.report();
    assert_eq!((report.verification_deferrals, report.opened), (4, 6));
    assert_eq!((report.gauges.handshakes, report.gauges.handshake_bytes), (0, 0));
}

#[test]
fn who_has_no_token_and_who_is_open_wait_for_nobodys_verification() {
    let (mut rig, slots) = rig(1, 3);
    let talker = rig.connect();
    rig.keep_whole();
    for slot in &slots {
        rig.receive(*slot, request().as_bytes());
    }
    let plain = rig.accept();
    rig.receive(plain, upgrade("").as_bytes());
    rig.receive(talker, &text("now"));
    rig.turn();
    assert!(is_open(&rig, plain));
    assert_eq!(rig.handler().messages, ["now"]);
    assert!(!is_open(&rig, slots[1]));
}

#[test]
fn a_worker_does_not_sleep_while_somebody_waits_for_a_verification() {
    let (mut rig, slots) = waiting(3);
    let mut hurried = Vec::new();
    for _ in 0..3 {
        rig.turn();
        hurried.push(rig.was_hurried());
    }
    assert_eq!(hurried, [true, true, false], "one a turn");
    assert!(slots.iter().all(|slot| is_open(&rig, *slot)));
}

#[test]
fn a_head_that_comes_in_pieces_waits_when_it_is_complete() {
    let (mut rig, slots) = rig(1, 2);
    let head = request();
    let (first, second) = head.as_bytes().split_at(40);
    rig.receive(slots[1], first);
    rig.settle();
    rig.receive(slots[0], head.as_bytes());
    rig.receive(slots[1], second);
    rig.settle();
    assert_eq!(rig.report().verification_deferrals, 1);
    assert!(is_open(&rig, slots[1]));
}

#[test]
fn the_time_that_a_worker_lets_a_head_wait_is_not_its_clients() {
    let (mut rig, slots) = waiting(9);
    for _ in 0..8 {
        // Less than would excuse everybody.
        rig.stall(900 * MS);
        rig.turn();
    }
    assert!(slots.iter().all(|slot| is_open(&rig, *slot)), "after 7.2 s of a timeout of 5 s");
    rig.pass(10 * SECOND);
    assert!(rig.handler().closed.is_empty(), "it is not counted afterwards either");
}

#[test]
fn what_comes_behind_a_head_that_waits_is_handled_behind_it() {
    let (mut rig, slots) = waiting(4);
    rig.receive(slots[3], &text("one"));
    rig.receive(slots[3], &text("two"));
    rig.turn();
    assert!(rig.handler().messages.is_empty() && !is_open(&rig, slots[3]));
    rig.settle();
    assert_eq!(rig.handler().messages, ["one", "two"]);
    assert!(is_open(&rig, slots[3]));
}

#[test]
fn more_behind_a_head_that_waits_than_a_head_may_have_is_refused() {
    let (mut rig, slots) = waiting(4);
    let room = (16 << 10) - request().len();
    rig.receive(slots[2], &vec![0; room]);
    rig.receive(slots[3], &vec![0; room + 1]);
    rig.turn();
    assert!(rig.sent(slots[3]).starts_with(b"HTTP/1.1 431 "));
    rig.settle();
    assert!(is_open(&rig, slots[2]));
    let report = rig.report();
    assert_eq!((report.gauges.handshakes, report.gauges.handshake_bytes), (0, 0));
}

#[test]
fn heads_that_wait_and_what_comes_behind_them_count_against_the_bound_of_all_heads() {
    let head = request();
    let mut rig = Rig::new(|options| {
        options.limits.verifications_max = 1;
        options.limits.handshake_total_bytes_max = 3 * head.len() as u64 + 1;
    });
    rig.keep_whole();
    let slots: Vec<_> = (0..5).map(|_| rig.accept()).collect();
    slots.iter().for_each(|slot| rig.receive(*slot, head.as_bytes()));
    rig.turn();
    assert!(rig.sent(slots[4]).starts_with(b"HTTP/1.1 503 "), "three wait: no room for a fourth");
    assert_eq!(rig.report().gauges.handshake_bytes, 2 * head.len() as u64, "of another turn");
    rig.receive(slots[3], &vec![0; head.len() + 1]);
    rig.receive(slots[3], &vec![0; head.len() + 1]);
    rig.turn();
    assert!(rig.sent(slots[3]).starts_with(b"HTTP/1.1 503 "));
    rig.settle();
    let report = rig.report();
    assert_eq!(report.gauges.handshake_bytes, 0);
}

#[test]
fn a_client_that_says_no_more_is_answered_all_the_same() {
    let (mut rig, slots) = waiting(4);
    rig.receive(slots[3], &text("last"));
    rig.finish(slots[3]);
    rig.turn();
    assert!(rig.closes(slots[3]).is_empty());
    rig.settle();
    assert!(is_open(&rig, slots[3]));
    assert_eq!(rig.handler().messages, ["last"]);
    assert_eq!(rig.handler().closed, ["peer_gone"]);
    assert_eq!(rig.closes(slots[3]), [Closing::Finish]);
}

#[test]
fn who_is_gone_before_its_verification_is_not_verified() {
    let (mut rig, slots) = waiting(3);
    // The turn begins with the one that has waited longest, and only then hears of this.
    rig.fail(slots[2]);
    rig.settle();
    assert_eq!(rig.handler().requests, 2);
    assert_eq!(rig.closes(slots[2]), [Closing::Abort]);
    let report = rig.report();
    assert_eq!(report.refused[RefusalReason::Gone as usize], 1);
    assert_eq!((report.gauges.handshakes, report.gauges.handshake_bytes), (0, 0));
}

#[test]
fn those_who_wait_go_on_waiting_in_another_worker() {
    let (mut rig, slots) = waiting(4);
    rig.receive(slots[3], &text("kept"));
    rig.finish(slots[3]);
    rig.move_to_another(6 * SECOND);
    rig.settle();
    assert!(slots.iter().all(|slot| is_open(&rig, *slot)));
    assert_eq!(rig.handler().messages, ["kept"]);
}
