//! Polls, receives, multishots and buffers.

use std::{
    io::{Read, Write},
    net::Shutdown,
    time::Duration,
};

use worker::{Engine, Failure, Operation, Time};

use crate::slots::{Armed, Flags};

use super::rig::{Event, PATIENCE, Rig, both, options, tiny};

#[test]
fn bytes_arrive_again_and_again_and_then_the_end() {
    let mut rig = Rig::new(&options());
    let (connection, mut client) = rig.client();
    rig.receive(connection);
    for round in 0..5_u8 {
        client.write_all(&[round; 3]).unwrap();
        assert_eq!(rig.received(connection, 3), [round; 3]);
    }
    client.shutdown(Shutdown::Write).unwrap();
    rig.expect(&Event::Finished(connection));
    rig.receive(connection);
    rig.turn();
    assert_eq!(rig.events.len(), 0, "there is no more after the end");
    rig.assert_clean();
}

#[test]
fn more_than_a_buffer_arrives_in_order() {
    let mut rig = Rig::new(&options());
    let (connection, mut client) = rig.client();
    let bytes: Vec<u8> = (0..40_000_u32).map(|index| index.to_le_bytes()[0]).collect();
    client.write_all(&bytes).unwrap();
    rig.receive(connection);
    assert!(rig.received(connection, bytes.len()) == bytes);
    rig.assert_clean();
}

#[test]
fn a_reset_is_a_failure() {
    let mut rig = Rig::new(&options());
    let (connection, client) = rig.client();
    rig.receive(connection);
    rig.turn();
    socket2::SockRef::from(&client).set_linger(Some(Duration::ZERO)).unwrap();
    drop(client);
    rig.expect(&Event::Failed(connection, Failure::Reset));
}

#[test]
fn nothing_is_received_between_stop_and_receive() {
    let mut rig = Rig::new(&options());
    let (connection, mut client) = rig.client();
    rig.receive(connection);
    rig.turn();
    rig.engine.submit(Operation::StopReceiving { connection });
    rig.turn();
    client.write_all(b"late").unwrap();
    let soon = rig.engine.now() + Duration::from_millis(20);
    rig.wait(soon);
    assert_eq!(rig.events.len(), 0);
    rig.receive(connection);
    assert_eq!(rig.received(connection, 4), b"late");
}

/// The poll's cancellation and its successor pass each other in one wait.
#[test]
fn stop_and_receive_in_one_turn_go_on_receiving() {
    let mut rig = Rig::new(&options());
    let (connection, mut client) = rig.client();
    rig.receive(connection);
    rig.turn();
    rig.engine.submit(Operation::StopReceiving { connection });
    rig.receive(connection);
    rig.turn();
    client.write_all(b"here").unwrap();
    assert_eq!(rig.received(connection, 4), b"here");
    rig.assert_clean();
}

#[test]
fn a_busy_connection_receives_by_multishot_until_it_is_quiet() {
    let mut rig = Rig::new(&options());
    let (connection, mut client) = rig.client();
    rig.receive(connection);
    // Twice as many as promote, since a second of the clock may end in between.
    for round in 0..16_u8 {
        client.write_all(&[round]).unwrap();
        assert_eq!(rig.received(connection, 1), [round]);
    }
    rig.turn();
    assert_eq!(rig.engine.counts().multishots, 1);
    client.write_all(b"by multishot").unwrap();
    assert_eq!(rig.received(connection, 12), b"by multishot");
    let quiet = rig.engine.now() + Duration::from_millis(3100);
    rig.wait(quiet);
    assert_eq!(rig.engine.counts().multishots, 0, "it was quiet for three seconds");
    client.write_all(b"by poll").unwrap();
    assert_eq!(rig.received(connection, 7), b"by poll");
    rig.assert_clean();
}

#[test]
fn only_their_share_of_connections_receives_by_multishot() {
    let mut rig = Rig::new(&crate::RingOptions { connections_max: 32, ..options() });
    let mut clients: Vec<_> = (0..5).map(|_| rig.client()).collect();
    for (connection, client) in &mut clients {
        rig.receive(*connection);
        for _ in 0..16 {
            client.write_all(b"x").unwrap();
            rig.received(*connection, 1);
        }
    }
    rig.turn();
    assert_eq!(rig.engine.counts().multishots, 2, "a sixteenth of 32");
}

#[test]
fn a_multishot_is_stopped_and_goes_on() {
    let mut rig = Rig::new(&options());
    let (connection, mut client) = rig.client();
    rig.receive(connection);
    for _ in 0..16 {
        client.write_all(b"x").unwrap();
        rig.received(connection, 1);
    }
    rig.turn();
    assert_eq!(rig.engine.counts().multishots, 1);
    rig.engine.submit(Operation::StopReceiving { connection });
    rig.turn();
    assert_eq!(rig.engine.counts().multishots, 0);
    client.write_all(b"later").unwrap();
    rig.turn();
    assert_eq!(rig.events.len(), 0);
    rig.receive(connection);
    assert_eq!(rig.received(connection, 5), b"later");
    rig.assert_clean();
}

/// Eight connections, four buffers, eight entries: everything runs out all the time.
#[test]
fn a_tiny_ring_serves_everybody() {
    for mut rig in both(&tiny()) {
        let mut clients: Vec<_> = (0..8).map(|_| rig.client()).collect();
        for (connection, _) in &clients {
            rig.receive(*connection);
        }
        for round in 0..50_u8 {
            for (_, client) in &mut clients {
                client.write_all(&[round; 300]).unwrap();
            }
            for (connection, client) in &mut clients {
                let received = rig.received(*connection, 300);
                rig.send(*connection, received);
                assert_eq!(rig.sent(*connection).unwrap().taken, 300);
                let mut echo = [0; 300];
                client.read_exact(&mut echo).unwrap();
                assert_eq!(echo, [round; 300]);
            }
        }
        rig.assert_clean();
        assert!(rig.engine.counts().receive_buffers_exhausted > 0, "the test is too easy");
    }
}

#[test]
fn a_wait_ends_at_its_deadline_and_not_before() {
    let mut rig = Rig::new(&options());
    rig.turn();
    let deadline = rig.engine.now() + Duration::from_millis(30);
    rig.wait(deadline);
    let late = rig.engine.now().since(deadline);
    assert!(rig.engine.now() >= deadline && late < PATIENCE);
    rig.wait(Time(0));
    assert_eq!(rig.events.len(), 0);
}

/// More completions than the queue holds wait in the kernel, and none is lost.
#[test]
fn a_full_completion_queue_loses_nothing() {
    let options = crate::RingOptions { connections_max: 128, ..tiny() };
    let mut rig = Rig::new(&options);
    let mut clients: Vec<_> = (0..100).map(|_| rig.client()).collect();
    for (connection, _) in &clients {
        rig.receive(*connection);
    }
    rig.turn();
    for (round, (_, client)) in clients.iter_mut().enumerate() {
        client.write_all(&[u8::try_from(round).unwrap(); 100]).unwrap();
    }
    for (round, (connection, _)) in clients.iter().enumerate() {
        assert_eq!(rig.received(*connection, 100), [u8::try_from(round).unwrap(); 100]);
    }
    for (connection, _) in &clients {
        rig.close(*connection, worker::Closing::Abort);
    }
    for (connection, _) in &clients {
        rig.expect(&Event::Closed(*connection));
    }
    rig.assert_clean();
    assert!(rig.engine.counts().completions_overflowed > 0, "the test is too easy");
}

#[test]
fn who_finds_no_memory_for_bytes_rests_and_is_received_from() {
    let mut rig = Rig::new(&options());
    let (connection, mut client) = rig.client();
    client.write_all(b"late").unwrap();
    rig.turn();
    // As after a receive that was wanted, and said that there is more.
    let state = rig.engine.slots.slot_mut(connection.slot).unwrap();
    state.flags.insert(Flags::WANTED | Flags::MORE);
    let now = rig.engine.now();
    rig.engine.on_nothing_received(now, connection.slot, libc::ENOMEM, &mut |_, _| {});
    let due = rig.engine.receptions.resting.due();
    assert!(due > now && due < Time::NEVER);
    // Whoever asks again meanwhile waits as well.
    rig.receive(connection);
    rig.engine.arm_receives(now);
    assert_eq!(rig.engine.slots.slot_mut(connection.slot).unwrap().armed, Armed::Nothing);
    let deadline = now + PATIENCE;
    rig.wait(deadline);
    assert!(rig.engine.now() >= due);
    assert!(rig.engine.now() < deadline, "nobody waits longer than the rest");
    assert_eq!(rig.received(connection, 4), b"late");
    assert_eq!(rig.engine.receptions.resting.due(), Time::NEVER);
    rig.assert_clean();
}
