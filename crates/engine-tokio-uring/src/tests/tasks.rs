//! What waits in the kernel: while its connection ends, while the engine ends, and thousands at once.

use std::{
    io::{Read, Write},
    net::TcpStream,
    thread,
    time::Duration,
};

use socket2::SockRef;
use sockets::rig::{keeps_nobody_from_a_turn, starve};
use worker::{Closing, ConnectionId, Engine, Time};

use crate::{
    TokioUringEngine,
    slots::{Flags, Phase},
};

use super::rig::{Event, PATIENCE, Rig, options, tiny};

#[test]
fn a_slot_is_not_used_again_while_a_read_of_its_connection_waits() {
    let mut rig = Rig::new(&crate::TokioUringOptions { connections_max: 1, ..tiny() });
    for round in 0..50 {
        let (connection, mut client) = rig.client();
        assert_eq!(connection, ConnectionId { slot: 0, generation: 2 * round });
        rig.receive(connection);
        rig.turn();
        // Who comes next waits for the slot, and has written already.
        let mut next = TcpStream::connect(rig.address).unwrap();
        next.write_all(b"of the next").unwrap();
        let how = [Closing::Finish, Closing::Abort][round as usize % 2];
        rig.close(connection, how);
        assert_eq!(rig.events.len(), 0);
        rig.wait(rig.engine.now() + PATIENCE);
        assert_eq!(rig.events.pop_front(), Some(Event::Closed(connection)));
        // What the next one has written is its own.
        let next_one = rig.until(|event| match event {
            Event::Accepted(connection, ..) => Some(*connection),
            _ => None,
        });
        rig.receive(next_one);
        assert_eq!(rig.received(next_one, 11), b"of the next");
        rig.close(next_one, Closing::Finish);
        rig.expect(&Event::Closed(next_one));
        let ended = client.read(&mut [0; 8]);
        assert!(matches!(ended, Ok(0)) == (how == Closing::Finish), "{ended:?}");
    }
    rig.assert_clean();
}

#[test]
fn an_engine_ends_with_everything_in_flight() {
    let mut rig = Rig::new(&options());
    let mut clients: Vec<(ConnectionId, TcpStream)> = (0..200).map(|_| rig.client()).collect();
    for (connection, _) in &clients {
        rig.receive(*connection);
    }
    let (stalled, mut stalled_client) = rig.slow_client();
    rig.offer(&vec![b'x'; 16 << 20].into(), &[stalled.slot]);
    rig.until(|event| matches!(event, Event::Refused(..)).then_some(()));
    // Reads, accepts and a watch wait now; two more have a completion that nobody has looked at.
    rig.turn();
    for (_, client) in &mut clients[..2] {
        client.write_all(b"unread").unwrap();
    }
    drop(rig);
    for (_, mut client) in clients {
        // With something unread it is a reset.
        assert!(matches!(client.read(&mut [0; 8]), Ok(0) | Err(_)));
    }
    let mut taken = Vec::new();
    let _ = stalled_client.read_to_end(&mut taken);
    assert!(taken.len() < 16 << 20);
}

#[test]
fn a_quiet_wait_never_ends_before_its_deadline() {
    let mut rig = Rig::new(&options());
    let (connection, _client) = rig.client();
    rig.receive(connection);
    rig.turn();
    for microseconds in [1, 50, 300, 999, 1001, 2500] {
        let deadline = rig.engine.now() + Duration::from_micros(microseconds);
        rig.wait(deadline);
        assert!(rig.engine.now() >= deadline, "{microseconds}");
    }
    assert_eq!(rig.events.len(), 0);
}

#[test]
fn more_reads_than_the_queues_hold_wait_and_end() {
    const CLIENTS: usize = 2000;
    let few =
        crate::TokioUringOptions { submission_entries: 8, completion_entries: 16, ..options() };
    let mut rig = Rig::new(&few);
    let mut clients: Vec<(ConnectionId, TcpStream)> = (0..CLIENTS).map(|_| rig.client()).collect();
    for (connection, _) in &clients {
        rig.receive(*connection);
    }
    rig.turn();
    for round in 0..3_u8 {
        for (_, client) in &mut clients {
            client.write_all(&[round; 200]).unwrap();
        }
        for (connection, _) in &clients {
            assert_eq!(rig.received(*connection, 200), [round; 200]);
        }
    }
    for (connection, _) in &clients {
        rig.close(*connection, Closing::Finish);
    }
    for (connection, _) in &clients {
        rig.expect(&Event::Closed(*connection));
    }
    rig.wait(Time(0));
    rig.assert_clean();
}

#[test]
fn who_sends_on_and_on_keeps_nobody_from_a_turn() {
    // Four receives into the one buffer, which begins with the first bytes.
    keeps_nobody_from_a_turn::<TokioUringEngine>(&tiny(), 4 * (128 + 64));
}

/// As where the runtime's epoll instance takes no socket more: what it watches already it refuses.
#[test]
fn who_cannot_be_watched_for_room_is_tried_again() {
    let mut rig = Rig::new(&options());
    let (connection, _client) = rig.slow_client();
    let frame = vec![b'x'; 16 << 20].into();
    rig.offer(&frame, &[connection.slot]);
    rig.refused(connection).unwrap();
    rig.turn();
    let state = rig.engine.slots.slot_mut(connection.slot).unwrap();
    state.flags.remove(Flags::WATCHED);
    let watch = state.watch.take();
    rig.offer(&frame, &[connection.slot]);
    rig.refused(connection).unwrap();
    rig.expect(&Event::Writable(connection));
    drop(watch);
}

/// What is behind the first bytes is received without the ring: for that there is no memory, and the
/// read that brings the next ones waits for a while.
#[test]
fn who_finds_no_memory_for_bytes_rests_and_is_read_from() {
    let starved = || {
        let mut rig = Rig::new(&options());
        let (connection, mut client) = rig.client();
        rig.receive(connection);
        rig.turn();
        let socket = rig.engine.slots.slot_mut(connection.slot).unwrap().socket.clone();
        starve(&*socket.unwrap());
        client.write_all(&[b'x'; 300]).unwrap();
        assert_eq!(rig.received(connection, 128).len(), 128);
        let now = rig.engine.now();
        let due = rig.engine.resting.due();
        assert!(due < Time::NEVER);
        // Whoever asks again meanwhile waits as well.
        rig.receive(connection);
        rig.engine.start_reads(due.min(now));
        assert!(due <= now || rig.engine.starts.is_empty());
        let deadline = now + PATIENCE;
        assert_eq!(rig.received(connection, 172).len(), 172);
        assert!(rig.engine.now() >= due);
        assert!(rig.engine.now() < deadline, "nobody waits longer than the rest");
        rig.assert_clean();
    };
    // The filter is the thread's.
    thread::spawn(starved).join().unwrap();
}

/// What the close throws away is what the kernel would go on holding for a peer that does not read.
#[test]
fn an_abort_overtakes_a_close_that_waits_for_a_read() {
    let mut rig = Rig::new(&options());
    let (connection, client) = rig.client();
    rig.receive(connection);
    rig.turn();
    rig.close(connection, Closing::Finish);
    let state = rig.engine.slots.slot_mut(connection.slot).unwrap();
    assert_eq!(state.phase, Phase::Ending);
    assert!(state.has(Flags::READING));
    rig.close(connection, Closing::Abort);
    rig.expect(&Event::Closed(connection));
    // A reset behind the FIN of the close (tcp(7): EPIPE where the peer has finished).
    let error = SockRef::from(&client).take_error().unwrap();
    assert_eq!(error.and_then(|error| error.raw_os_error()), Some(32));
    rig.assert_clean();
}
