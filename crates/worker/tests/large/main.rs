//! Who waits behind a fan-out to 100,000 connections, and for how long. Over the engine of the
//! other tests: time passes only when told, so a wait is counted in targets offered meanwhile.

#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

#[expect(dead_code, reason = "the rig of the other tests, of which a part is used here")]
#[path = "../worker/rig.rs"]
mod rig;

use std::time::Duration;

use rig::{Rig, text};

const SECOND: Duration = Duration::from_secs(1);

/// The subscribers of a large fan-out.
const MANY: u32 = 100_000;

#[test]
fn a_message_during_a_large_fan_out_is_handled_before_the_third_chunk_behind_it() {
    let mut rig = Rig::new(|options| options.connections_max = MANY);
    let clients = rig.connect_all(MANY);
    let (first, last) = (clients[0], clients[clients.len() - 1]);
    rig.receive(first, &text("to all"));
    while rig.offered() < clients.len() / 2 {
        rig.turn();
    }
    let offered = rig.offered();
    rig.receive(last, &text("meanwhile"));
    while rig.handler().messages.len() < 2 {
        rig.turn();
    }
    assert!(rig.offered() - offered <= 2 * 64, "at most two chunks went before it");
    rig.settle();
    assert_eq!(rig.sent(last), b"\x81\x06to all\x81\x09meanwhile");
}

#[test]
fn a_ping_that_is_due_during_a_large_fan_out_leaves_before_its_end() {
    let mut rig = Rig::new(|options| {
        options.connections_max = MANY;
        options.ping_interval = Some(SECOND * 25);
    });
    let clients = rig.connect_all(MANY);
    // The cursor has passed half of them, who had been heard too lately to be pinged.
    (0..12).for_each(|_| rig.pass(SECOND));
    assert_eq!(rig.offered(), 0);
    rig.receive(clients[0], &text("to all"));
    while rig.offered() < clients.len() / 2 {
        rig.turn();
    }
    rig.stall(SECOND);
    // The next 4,000 are due now, 64 a turn.
    (0..64).for_each(|_| rig.turn());
    let have = |rig: &Rig, frame: &[u8]| {
        let has = |sent: &[u8]| sent.windows(frame.len()).any(|bytes| bytes == frame);
        clients.iter().filter(|&&slot| has(rig.sent(slot))).count()
    };
    assert_eq!(have(&rig, b"\x89\x00"), 4_000);
    assert!(have(&rig, b"\x81\x06to all") < clients.len(), "the job goes on");
    rig.settle();
    assert_eq!(have(&rig, b"\x81\x06to all"), clients.len());
}

#[test]
fn connections_that_are_too_old_all_at_once_are_closed_a_few_a_turn() {
    let mut rig = Rig::new(|options| {
        options.connections_max = MANY;
        options.connection_age_max = Some(SECOND / 2);
    });
    let clients = rig.connect_all(MANY);
    assert!(rig.handler().closed.is_empty());
    rig.stall(SECOND);
    let mut closed = 0;
    while closed < clients.len() / 10 {
        rig.turn();
        let before = std::mem::replace(&mut closed, rig.handler().closed.len());
        assert_eq!(closed - before, 64);
    }
    (0..16).for_each(|_| rig.pass(SECOND / 32));
    assert_eq!(rig.handler().closed.len(), clients.len());
    assert!(rig.handler().closed.iter().all(|reason| *reason == "moving"));
}

#[test]
fn a_table_in_which_nobody_is_too_old_is_looked_at_a_part_a_turn() {
    let mut rig = Rig::new(|options| {
        options.connections_max = MANY;
        options.connection_age_max = Some(SECOND * 100);
    });
    rig.connect_all(MANY);
    rig.stall(SECOND);
    // An eighth of the table, 4,096 slots a turn, and the turn that waits.
    assert_eq!(rig.settle(), 5);
}
