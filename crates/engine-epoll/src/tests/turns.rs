//! What a turn costs, and what it does for whom.

use std::{
    io::{Read, Write},
    net::Shutdown,
    thread,
    time::Duration,
};

use bytes::Bytes;
use socket2::SockRef;
use sockets::rig::{keeps_nobody_from_a_turn, starve};
use worker::{Closing, Engine, ListenerId, Operation, Time};

use crate::EpollEngine;

use super::rig::{Event, PATIENCE, Rig, options, tiny};

/// From then on no queue is looked into.
fn stop_accepting(rig: &mut Rig) {
    rig.engine.submit(Operation::StopAccepting { listener: ListenerId(0) });
    rig.expect(&Event::StoppedAccepting(ListenerId(0)));
}

#[test]
fn a_message_costs_one_receive_and_its_answer_one_send() {
    let mut rig = Rig::new(&options());
    let (connection, mut client) = rig.client();
    rig.receive(connection);
    stop_accepting(&mut rig);
    for _ in 0..5 {
        client.write_all(b"ping").unwrap();
        // On loopback the bytes are there when the write returns.
        assert_eq!(rig.calls(Rig::turn), 2, "epoll_wait and recv");
        assert_eq!(rig.received(connection, 4), b"ping");
        assert_eq!(rig.calls(|rig| rig.offer(&"pong".into(), &[connection.slot])), 1, "send");
        assert_eq!(rig.calls(Rig::turn), 1, "epoll_wait");
        client.read_exact(&mut [0; 4]).unwrap();
    }
}

#[test]
fn a_frame_costs_one_send_a_target_and_is_free_at_once() {
    let mut rig = Rig::new(&options());
    let clients: Vec<_> = (0..20).map(|_| rig.client()).collect();
    let targets: Vec<_> = clients.iter().map(|(connection, _)| connection.slot).collect();
    let frame = Bytes::from(vec![b'x'; 100]);
    assert_eq!(rig.calls(|rig| rig.offer(&frame, &targets)), 20);
    assert!(frame.is_unique(), "somebody still holds the frame");
    rig.turn();
    assert_eq!(rig.events, [Event::Offered(20)]);
}

#[test]
fn a_socket_is_watched_for_room_only_while_it_owes_some() {
    let mut rig = Rig::new(&options());
    let (connection, mut client) = rig.slow_client();
    stop_accepting(&mut rig);
    let frame = Bytes::from(vec![b'x'; 16 << 20]);
    rig.offer(&frame, &[connection.slot]);
    assert_eq!(rig.calls(Rig::turn), 2, "epoll_wait and epoll_ctl");
    assert!(rig.refused(connection).unwrap().taken < frame.len());
    client.set_nonblocking(true).unwrap();
    let mut bytes = vec![0; 1 << 20];
    while !rig.events.contains(&Event::Writable(connection)) {
        let _ = client.read(&mut bytes);
        rig.turn();
    }
    // It has room, goes on getting more, and nobody is told again.
    while client.read(&mut bytes).is_ok() {}
    rig.events.clear();
    rig.send(connection, &b"whole"[..]);
    rig.sent(connection).unwrap();
    assert_eq!(rig.calls(Rig::turn), 1, "epoll_wait");
    assert_eq!(rig.events.len(), 0);
}

#[test]
fn nothing_at_all_costs_nothing() {
    let mut rig = Rig::new(&options());
    let (connection, _client) = rig.client();
    rig.receive(connection);
    stop_accepting(&mut rig);
    let soon = rig.engine.now() + Duration::from_millis(30);
    assert_eq!(rig.calls(|rig| rig.wait(soon)), 1);
    assert!(rig.engine.now() >= soon);
}

#[test]
fn who_sends_on_and_on_keeps_nobody_from_a_turn() {
    // One receive.
    keeps_nobody_from_a_turn::<EpollEngine>(&tiny(), 64);
}

/// A receive stops short at the mark, and epoll says that there is one.
#[test]
fn bytes_behind_an_urgent_one_do_not_wait_for_more() {
    let mut rig = Rig::new(&options());
    let (connection, mut client) = rig.client();
    rig.receive(connection);
    rig.turn();
    client.write_all(b"before").unwrap();
    SockRef::from(&client).send_out_of_band(b"!").unwrap();
    client.write_all(b"behind").unwrap();
    assert_eq!(rig.received(connection, 12), b"beforebehind");
    client.write_all(b"later").unwrap();
    assert_eq!(rig.received(connection, 5), b"later");
    rig.assert_clean();
}

#[test]
fn the_end_behind_the_last_bytes_is_found_in_whatever_order_it_comes() {
    let mut rig = Rig::new(&options());
    for turn_between in [false, true] {
        let (connection, mut client) = rig.client();
        rig.receive(connection);
        rig.turn();
        client.write_all(b"last").unwrap();
        if turn_between {
            rig.turn();
        }
        client.shutdown(Shutdown::Write).unwrap();
        assert_eq!(rig.received(connection, 4), b"last");
        rig.expect(&Event::Finished(connection));
    }
}

/// The kernel gives the new socket the number of the one that was closed, the engine its slot.
#[test]
fn what_was_for_a_closed_connection_does_not_reach_its_successor() {
    let mut rig = Rig::new(&crate::EpollOptions { connections_max: 1, ..options() });
    let (first, mut first_client) = rig.client();
    rig.receive(first);
    let _second_client = std::net::TcpStream::connect(rig.address).unwrap();
    first_client.write_all(b"late").unwrap();
    rig.close(first, Closing::Finish);
    rig.expect(&Event::Closed(first));
    let second = rig.until(|event| match event {
        Event::Accepted(connection, ..) => Some(*connection),
        _ => None,
    });
    assert_eq!((second.slot, second.generation), (first.slot, first.generation + 1));
    rig.receive(second);
    rig.engine.submit(Operation::StopReceiving { connection: first });
    rig.turn();
    assert_eq!(rig.events.len(), 0);
    rig.assert_clean();
}

/// The tries of a tenth of a second each, and not as many as there is time for.
#[test]
fn who_finds_no_memory_for_bytes_rests_and_the_others_do_not() {
    let starved = || {
        let mut rig = Rig::new(&options());
        let (hungry, mut hungry_client) = rig.client();
        let (fed, mut fed_client) = rig.client();
        for connection in [hungry, fed] {
            rig.receive(connection);
        }
        stop_accepting(&mut rig);
        starve(rig.engine.slots.slot_mut(hungry.slot).unwrap().socket.as_ref().unwrap());
        hungry_client.write_all(b"bytes").unwrap();
        let end = rig.engine.now() + Duration::from_millis(350);
        let calls = rig.calls(|rig| {
            while rig.engine.now() < end {
                rig.wait(end);
            }
        });
        assert!(calls < 20, "{calls} system calls");
        fed_client.write_all(b"bytes").unwrap();
        assert_eq!(rig.received(fed, 5), b"bytes");
        assert_eq!(rig.events.len(), 0);
        // It can be closed, and the slot is as good as new.
        rig.close(hungry, Closing::Abort);
        rig.expect(&Event::Closed(hungry));
        rig.assert_clean();
    };
    // The filter is the thread's.
    thread::spawn(starved).join().unwrap();
}

#[test]
fn who_has_rested_is_received_from() {
    let mut rig = Rig::new(&options());
    let (connection, mut client) = rig.client();
    rig.receive(connection);
    rig.turn();
    let now = rig.engine.now();
    rig.engine.receive_later(now, connection.slot);
    client.write_all(b"late").unwrap();
    let deadline = rig.engine.now() + PATIENCE;
    while rig.engine.resting.due() < Time::NEVER {
        rig.wait(deadline);
    }
    assert!(rig.engine.now() < deadline, "nobody waits longer than the rest");
    assert_eq!(rig.received(connection, 4), b"late");
    client.write_all(b"later").unwrap();
    assert_eq!(rig.received(connection, 5), b"later");
}
