//! Accepting: who, where, how many, and the end of a listener.

use std::collections::HashSet;

use super::{
    Bed, BedOptions, Check, Event, Make, Peer, PeerRead,
    rig::{LISTENER, OPTIONS, Rig},
};
use crate::operation::{Closing, ConnectionId, ListenerId, Operation};

pub(super) fn checks<B: Bed>() -> Vec<Check<B>> {
    vec![
        Check { name: "a_client_waits_until_accept", run: a_client_waits_until_accept },
        Check {
            name: "every_client_is_accepted_once_with_its_address",
            run: every_client_is_accepted_once_with_its_address,
        },
        Check { name: "a_connection_knows_its_listener", run: a_connection_knows_its_listener },
        Check {
            name: "a_full_table_makes_clients_wait_until_one_is_closed",
            run: a_full_table_makes_clients_wait_until_one_is_closed,
        },
        Check {
            name: "a_used_slot_comes_back_with_another_generation",
            run: a_used_slot_comes_back_with_another_generation,
        },
        Check {
            name: "stop_accepting_loses_nobody_and_completes_once",
            run: stop_accepting_loses_nobody_and_completes_once,
        },
        Check {
            name: "stop_accepting_waits_for_free_slots",
            run: stop_accepting_waits_for_free_slots,
        },
        Check {
            name: "a_listener_that_never_accepted_can_stop",
            run: a_listener_that_never_accepted_can_stop,
        },
        Check {
            name: "the_other_listener_goes_on_when_one_stops",
            run: the_other_listener_goes_on_when_one_stops,
        },
    ]
}

fn accepted_any(event: &Event) -> Option<ConnectionId> {
    match event {
        Event::Accepted(connection, ..) => Some(*connection),
        _ => None,
    }
}

fn a_client_waits_until_accept<B: Bed>(make: Make<'_, B>) {
    let mut rig = Rig::idle(make, &OPTIONS);
    let peer = rig.connect();
    rig.assert_silent();
    rig.submit(Operation::Accept { listener: LISTENER });
    rig.accepted(&peer);
    rig.assert_silent();
    rig.assert_clean();
}

fn every_client_is_accepted_once_with_its_address<B: Bed>(make: Make<'_, B>) {
    let mut rig = Rig::new(make);
    let clients = rig.clients(60);
    let slots: HashSet<_> = clients.iter().map(|(connection, _)| connection.slot).collect();
    assert_eq!(slots.len(), 60, "open connections have slots of their own");
    assert!(slots.iter().all(|slot| *slot < OPTIONS.connections_max));
    rig.assert_silent();
    rig.assert_clean();
}

fn a_connection_knows_its_listener<B: Bed>(make: Make<'_, B>) {
    let mut rig = Rig::with(make, &BedOptions { listeners: 3, ..OPTIONS });
    for listener in [ListenerId(1), ListenerId(2)] {
        rig.submit(Operation::Accept { listener });
    }
    for listener in [2, 0, 1, 1, 0, 2].map(ListenerId) {
        let peer = rig.bed.connect(listener).expect("the listener is open");
        let from = rig.until(|event| match event {
            Event::Accepted(_, from, of) if *of == peer.address() => Some(*from),
            _ => None,
        });
        assert_eq!(from, listener);
    }
    rig.assert_clean();
}

fn a_full_table_makes_clients_wait_until_one_is_closed<B: Bed>(make: Make<'_, B>) {
    const TABLE: u32 = 8;
    let mut rig = Rig::with(make, &BedOptions { connections_max: TABLE, ..OPTIONS });
    let mut peers: Vec<B::Peer> = (0..3 * TABLE).map(|_| rig.connect()).collect();
    let mut open: Vec<ConnectionId> = (0..TABLE).map(|_| rig.until(accepted_any)).collect();
    rig.assert_silent();
    let mut accepted = TABLE;
    while accepted < 3 * TABLE {
        let connection = open.remove(0);
        rig.close(connection, Closing::Finish);
        rig.expect(&Event::Closed(connection));
        open.push(rig.until(accepted_any));
        rig.assert_silent();
        accepted += 1;
    }
    let slots: HashSet<_> = open.iter().map(|connection| connection.slot).collect();
    assert_eq!(slots, (0..TABLE).collect(), "every slot is in use");
    // Those that waited are served like any other.
    rig.offer(&b"hello".as_slice().into(), &(0..TABLE).collect::<Vec<_>>());
    rig.offered(TABLE);
    let mut greeted = 0;
    for peer in &mut peers {
        let mut received = Vec::new();
        rig.repeat(|_| match peer.read(&mut received) {
            PeerRead::Bytes => (received.len() >= 5).then_some(()),
            PeerRead::Nothing => None,
            PeerRead::Finished | PeerRead::Reset => Some(()),
        });
        greeted += u32::from(received == b"hello");
    }
    assert_eq!(greeted, TABLE);
    rig.assert_clean();
}

fn a_used_slot_comes_back_with_another_generation<B: Bed>(make: Make<'_, B>) {
    let mut rig = Rig::with(make, &BedOptions { connections_max: 1, ..OPTIONS });
    let mut used = Vec::new();
    for _ in 0..20 {
        let (connection, mut peer) = rig.client();
        assert!(!used.contains(&connection), "it was used before");
        used.push(connection);
        rig.receive(connection);
        rig.send(connection, &b"x"[..]);
        assert_eq!(rig.sent(connection).map(|taken| taken.taken), Ok(1));
        rig.close(connection, Closing::Finish);
        rig.expect(&Event::Closed(connection));
        rig.read_to_end(&mut peer);
    }
    // What is meant for one that is gone does not reach its successor.
    let (connection, mut peer) = rig.client();
    for gone in used {
        rig.receive(gone);
        rig.send(gone, &b"x"[..]);
        rig.close(gone, Closing::Abort);
    }
    rig.write(&mut peer, b"unread");
    rig.assert_silent();
    rig.receive(connection);
    assert_eq!(rig.received(connection, 6), b"unread");
    rig.assert_clean();
}

fn stop_accepting_loses_nobody_and_completes_once<B: Bed>(make: Make<'_, B>) {
    const CLIENTS: usize = 100;
    let mut rig = Rig::new(make);
    let peers: Vec<B::Peer> = (0..CLIENTS).map(|_| rig.connect()).collect();
    // However far they have got: what has arrived at the listener is accepted.
    rig.settle();
    rig.submit(Operation::StopAccepting { listener: LISTENER });
    let mut accepted = 0;
    loop {
        match rig.next() {
            Event::Accepted(..) => accepted += 1,
            event => {
                assert_eq!(event, Event::StoppedAccepting(LISTENER));
                break;
            }
        }
    }
    assert_eq!(accepted, CLIENTS);
    assert_refused(&mut rig);
    rig.assert_clean();
    drop(peers);
}

/// Nobody hangs at a listener that is closed.
fn assert_refused<B: Bed>(rig: &mut Rig<B>) {
    if let Ok(mut late) = rig.bed.connect(LISTENER) {
        assert_eq!(rig.read_to_end(&mut late), (Vec::new(), PeerRead::Reset));
    }
    rig.assert_silent();
}

fn stop_accepting_waits_for_free_slots<B: Bed>(make: Make<'_, B>) {
    const TABLE: u32 = 4;
    let mut rig = Rig::with(make, &BedOptions { connections_max: TABLE, ..OPTIONS });
    let peers: Vec<B::Peer> = (0..5 * TABLE).map(|_| rig.connect()).collect();
    rig.settle();
    rig.submit(Operation::StopAccepting { listener: LISTENER });
    let mut accepted = 0;
    loop {
        match rig.next() {
            Event::Accepted(connection, ..) => {
                accepted += 1;
                rig.close(connection, Closing::Finish);
            }
            Event::Closed(_) => {}
            event => {
                assert_eq!(event, Event::StoppedAccepting(LISTENER));
                break;
            }
        }
    }
    assert_eq!(accepted, 5 * TABLE);
    rig.assert_clean();
    drop(peers);
}

fn a_listener_that_never_accepted_can_stop<B: Bed>(make: Make<'_, B>) {
    let mut rig = Rig::idle(make, &OPTIONS);
    rig.submit(Operation::StopAccepting { listener: LISTENER });
    assert_eq!(rig.next(), Event::StoppedAccepting(LISTENER));
    assert_refused(&mut rig);
    rig.assert_clean();
}

fn the_other_listener_goes_on_when_one_stops<B: Bed>(make: Make<'_, B>) {
    let mut rig = Rig::with(make, &BedOptions { listeners: 2, ..OPTIONS });
    rig.submit(Operation::Accept { listener: ListenerId(1) });
    let (open, mut peer) = rig.client();
    rig.submit(Operation::StopAccepting { listener: LISTENER });
    assert_eq!(rig.next(), Event::StoppedAccepting(LISTENER));
    // Open connections of the closed listener are none of its business.
    rig.send(open, &b"still here"[..]);
    assert_eq!(rig.sent(open).map(|taken| taken.taken), Ok(10));
    assert_eq!(rig.read(&mut peer, 10), b"still here");
    let other = rig.bed.connect(ListenerId(1)).expect("the listener is open");
    rig.accepted(&other);
    rig.submit(Operation::StopAccepting { listener: ListenerId(1) });
    rig.expect(&Event::StoppedAccepting(ListenerId(1)));
    rig.assert_silent();
    rig.assert_clean();
}
