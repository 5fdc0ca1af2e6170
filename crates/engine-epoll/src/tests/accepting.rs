//! Accepts: who, how many, and the end of a listener.

use std::{io::Read, net::TcpStream, time::Duration};

use rustix::{
    event::{EventfdFlags, eventfd},
    io::{Errno, FdFlags, fcntl_getfd},
};
use sockets::{listeners, peer};
use worker::{Closing, Engine, ListenerId, Operation, Slot};

use crate::{EpollEngine, EpollOptions};

use super::rig::{Event, PATIENCE, Rig, options};

#[test]
fn neighbours_are_accepted_into_neighbouring_slots() {
    let mut rig = Rig::new(&options());
    let clients: Vec<TcpStream> =
        (0..10).map(|_| TcpStream::connect(rig.address).unwrap()).collect();
    for (slot, client) in (0..).zip(&clients) {
        let of_client = client.local_addr().unwrap();
        let accepted: Slot = rig.until(|event| match event {
            Event::Accepted(connection, _, peer) if *peer == of_client => Some(connection.slot),
            _ => None,
        });
        assert_eq!(accepted, slot);
    }
}

#[test]
fn an_ipv4_peer_of_an_ipv6_listener_has_an_ipv4_address() {
    listeners::knows_its_peers::<EpollEngine>(&options());
}

#[test]
fn a_storm_larger_than_the_table_waits_in_the_backlog_and_turns_nobody_round() {
    const CLIENTS: usize = 1000;
    const TABLE: u32 = 256;
    let mut rig = Rig::new(&EpollOptions { connections_max: TABLE, ..options() });
    let clients: Vec<TcpStream> =
        (0..CLIENTS).map(|_| TcpStream::connect(rig.address).unwrap()).collect();
    let accepted = |event: &Event| match event {
        Event::Accepted(connection, ..) => Some(*connection),
        _ => None,
    };
    let open: Vec<_> = (0..TABLE).map(|_| rig.until(accepted)).collect();
    let soon = rig.engine.now() + Duration::from_millis(30);
    assert_eq!(rig.calls(|rig| rig.wait(soon)), 1, "there is no 257th slot, and it waits");
    assert_eq!(rig.events.len(), 0);
    assert_eq!(rig.engine.counts().accepts_paused, 1);
    for connection in open {
        rig.close(connection, Closing::Finish);
    }
    for _ in TABLE as usize..CLIENTS {
        let connection = rig.until(accepted);
        rig.close(connection, Closing::Finish);
    }
    rig.assert_clean();
    drop(clients);
}

#[test]
fn two_listeners_share_the_slots_that_become_free() {
    let (listeners, addresses): (Vec<_>, Vec<_>) =
        (0..2).map(|_| peer::listener().unwrap()).unzip();
    let options = EpollOptions { connections_max: 1, ..options() };
    let mut engine = EpollEngine::new(&options, listeners).unwrap();
    for listener in 0..2 {
        engine.submit(Operation::Accept { listener: ListenerId(listener) });
    }
    let clients: Vec<TcpStream> =
        (0..20).map(|index| TcpStream::connect(addresses[index % 2]).unwrap()).collect();
    let mut accepted = [0; 2];
    while accepted.iter().sum::<usize>() < 10 {
        let deadline = engine.now() + PATIENCE;
        let mut newcomer = None;
        engine
            .wait(deadline, |_, completion| {
                if let worker::Completion::Accepted { connection, listener, .. } = completion {
                    accepted[usize::from(listener.0)] += 1;
                    newcomer = Some(connection);
                }
            })
            .unwrap();
        if let Some(connection) = newcomer {
            engine.submit(Operation::Close { connection, how: Closing::Finish });
        }
    }
    assert_eq!(accepted, [5, 5]);
    drop(clients);
}

#[test]
fn a_listener_that_settles_takes_who_is_on_the_way_and_nobody_new() {
    let options = EpollOptions { settle: Duration::from_secs(3600), ..options() };
    listeners::settles::<EpollEngine>(&options, |engine, later| engine.acceptor.look(later));
}

#[test]
fn a_listener_without_newcomers_is_closed_at_once() {
    let options = EpollOptions { settle: Duration::from_secs(3600), ..options() };
    listeners::closes_at_once::<EpollEngine>(&options, 1);
}

#[test]
fn what_is_no_listener_is_fatal_with_a_sentence() {
    listeners::refuses_what_is_none::<EpollEngine>(&options(), 1);
}

/// What accept4(2) answers when process or system have no descriptor left.
#[test]
fn accepting_rests_when_there_is_no_descriptor_and_nobody_is_lost() {
    let mut rig = Rig::new(&options());
    let client = TcpStream::connect(rig.address).unwrap();
    let now = rig.engine.now();
    rig.engine.on_accept_failed(now, 0, Errno::MFILE, &mut |_, it| panic!("{it:?}"));
    assert_eq!(rig.engine.counts().accepts_failed, 1);
    let rested = now + Duration::from_millis(100);
    assert_eq!(rig.engine.acceptor.due(now), rested);
    rig.turn();
    let is_early = rig.engine.now() < rested;
    assert!(rig.events.is_empty() || !is_early, "it rests");
    let of_client = client.local_addr().unwrap();
    rig.until(|event| matches!(event, Event::Accepted(_, _, it) if *it == of_client).then_some(()));
}

/// As where `fs.epoll.max_user_watches` is reached: what stands in for epoll takes no registration.
#[test]
fn a_connection_that_epoll_does_not_take_is_lost_and_accepting_rests() {
    let mut rig = Rig::new(&options());
    let mut clients = [(); 2].map(|()| TcpStream::connect(rig.address).unwrap());
    let no_epoll = eventfd(0, EventfdFlags::CLOEXEC).unwrap();
    let epoll = std::mem::replace(&mut rig.engine.epoll, no_epoll);
    let now = rig.engine.now();
    rig.engine.acceptor.on_event(0);
    rig.engine.accept_waiting(now, &mut |_, completion| panic!("{completion:?}"));
    assert_eq!(rig.engine.counts().accepts_failed, 1, "the second is not tried at once");
    assert_eq!(rig.engine.slots.free_count(), 4096);
    assert_eq!(rig.engine.acceptor.due(now), now + Duration::from_millis(100));
    assert_eq!(clients[0].read(&mut [0]).unwrap(), 0, "the first is told");
    rig.engine.epoll = epoll;
    let second = clients[1].local_addr().unwrap();
    rig.until(|event| matches!(event, Event::Accepted(_, _, it) if *it == second).then_some(()));
}

#[test]
fn a_turn_accepts_so_many_and_the_next_goes_on() {
    let mut rig = Rig::new(&EpollOptions { accepts_max: 2, ..options() });
    let clients = [(); 5].map(|()| TcpStream::connect(rig.address).unwrap());
    let soon = rig.engine.now() + PATIENCE;
    let accepted = [(); 3].map(|()| {
        rig.wait(soon);
        rig.events.drain(..).filter(|event| matches!(event, Event::Accepted(..))).count()
    });
    assert_eq!(accepted, [2, 2, 1]);
    drop(clients);
}

/// Or it would live on in whatever a process starts.
#[test]
fn what_is_accepted_is_not_inherited() {
    let mut rig = Rig::new(&options());
    let (connection, _client) = rig.client();
    let socket = rig.engine.slots.slot_mut(connection.slot).unwrap().socket.as_ref().unwrap();
    assert!(fcntl_getfd(socket).unwrap().contains(FdFlags::CLOEXEC));
}
