//! Over the bound of all queues together the worst debtor goes first: bytes × age.

use std::time::Duration;

use ringway_worker::{Closing, Slot};

use super::rig::Rig;

/// What a message takes in a queue: its payload, its head and its charge.
const MESSAGE: u64 = 100 + 2 + 64;

/// Two clients that take nothing: the first owes so many messages since the beginning, the second
/// so many since `pause` before now.
fn debtors(first: usize, second: usize, lead: Duration, pause: Duration) -> (Rig, [Slot; 2]) {
    let mut rig = Rig::new(|options| options.limits.message_bytes_max = 100);
    let clients = [rig.connect(), rig.connect()];
    let text = "x".repeat(100);
    clients.iter().for_each(|client| rig.takes(*client, Some(0)));
    for (creditor, messages, span) in [(1, first, lead), (0, second, pause)] {
        for _ in 0..messages {
            // To everybody but the one who has said it.
            rig.publish_from(clients[creditor], &[0], &text);
            rig.settle();
        }
        rig.pass(span);
    }
    let owed = (first + second) as u64 * MESSAGE;
    assert_eq!(rig.report().gauges.send_queue_bytes, owed);
    (rig, clients)
}

/// So many messages may be owed in all from now on.
fn lower(rig: &mut Rig, messages: u64) {
    rig.adopt(|settings| settings.limits.send_queue_total_bytes_max = messages * MESSAGE);
}

#[test]
fn of_two_who_have_owed_equally_long_the_one_who_owes_more_bytes_goes() {
    for (first, second, worst) in [(3, 2, 0), (2, 3, 1)] {
        let (mut rig, clients) = debtors(first, second, Duration::ZERO, Duration::from_secs(1));
        lower(&mut rig, 4);
        assert_eq!(rig.handler().closed, ["over_budget"]);
        assert_eq!(rig.closes(clients[worst]), [Closing::Abort]);
        assert_eq!(rig.report().gauges.send_queue_bytes, 2 * MESSAGE);
    }
}

#[test]
fn few_bytes_for_long_weigh_as_much_as_many_for_a_short_time() {
    let seconds = Duration::from_secs;
    // One message for 4 s beside three for 1 s, and for 2 s: 4 to 3, and 4 to 6.
    for (lead, pause, worst) in [(3, 1, 0), (2, 2, 1)] {
        let (mut rig, clients) = debtors(1, 3, seconds(lead), seconds(pause));
        lower(&mut rig, 3);
        assert_eq!(rig.handler().closed, ["over_budget"]);
        assert_eq!(rig.closes(clients[worst]), [Closing::Abort]);
    }
}

#[test]
fn a_bound_that_is_lowered_holds_in_the_next_turn_and_takes_no_more_than_it_must() {
    let (mut rig, clients) = debtors(3, 2, Duration::ZERO, Duration::from_secs(1));
    lower(&mut rig, 5);
    assert!(rig.handler().closed.is_empty());
    lower(&mut rig, 1);
    assert_eq!(rig.handler().closed, ["over_budget", "over_budget"]);
    assert_eq!([rig.closes(clients[0]), rig.closes(clients[1])], [[Closing::Abort]; 2]);
    assert_eq!(rig.report().gauges.send_queue_bytes, 0);
}
