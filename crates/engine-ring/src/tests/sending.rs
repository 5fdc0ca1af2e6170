//! Inline or fail, and one send per connection between two enters.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::thread;

use bytes::Bytes;
use worker::{Closing, Engine, Failure, Operation, Slot};

use super::rig::{Event, Rig, both, options, tiny};

const MIB: usize = 1 << 20;

fn bytes_of(byte: u8, count: usize) -> Bytes {
    Bytes::from(vec![byte; count])
}

/// Reads so many bytes on a thread of its own.
fn reader(mut client: TcpStream, count: usize) -> thread::JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut bytes = vec![0; count];
        client.read_exact(&mut bytes).unwrap();
        bytes
    })
}

fn reset(client: TcpStream) {
    socket2::SockRef::from(&client).set_linger(Some(std::time::Duration::ZERO)).unwrap();
}

#[test]
fn a_whole_offer_completes_nothing_and_its_frame_is_free() {
    for mut rig in both(&options()) {
        let mut clients: Vec<_> = (0..3).map(|_| rig.client()).collect();
        let targets: Vec<Slot> = clients.iter().map(|(connection, _)| connection.slot).collect();
        let frame = bytes_of(b'x', 100);
        rig.offer(&frame, &targets);
        rig.turn();
        assert_eq!(rig.events, [Event::Offered(3)]);
        assert!(frame.is_unique(), "somebody still holds the frame");
        for (_, client) in &mut clients {
            let mut received = [0; 100];
            client.read_exact(&mut received).unwrap();
            assert_eq!(received, [b'x'; 100]);
        }
        rig.assert_clean();
    }
}

#[test]
fn a_partial_offer_is_refused_with_what_was_taken_and_the_rest_follows() {
    for mut rig in both(&options()) {
        let (connection, client) = rig.slow_client();
        let frame: Bytes = (0..16 * MIB).map(|index| u8::try_from(index % 251).unwrap()).collect();
        rig.offer(&frame, &[connection.slot]);
        let taken = rig.refused(connection).unwrap();
        assert_eq!(taken.bytes, frame);
        assert!(taken.taken > 0 && taken.taken < frame.len());
        assert_eq!(rig.events.pop_front(), Some(Event::Offered(1)));
        let reader = reader(client, frame.len());
        rig.drain(connection, frame.slice(taken.taken..));
        assert!(reader.join().unwrap() == frame, "the stream is not what was sent");
        rig.assert_clean();
    }
}

#[test]
fn a_full_socket_refuses_all_and_is_writable_once_when_read() {
    for mut rig in both(&options()) {
        let (connection, client) = rig.slow_client();
        // More than the socket takes, so that each is refused, if only its end.
        let (filling, last) = (bytes_of(b'a', 16 * MIB), bytes_of(b'b', MIB));
        let mut taken_in_all = 0;
        // What is on its way moves on into the peer's buffer and makes room again, for a while.
        let mut taken = MIB;
        while taken > 0 {
            rig.events.clear();
            rig.offer(&filling, &[connection.slot]);
            taken = rig.refused(connection).unwrap().taken;
            taken_in_all += taken;
        }
        let reader = reader(client, taken_in_all + MIB);
        rig.drain(connection, last);
        let received = reader.join().unwrap();
        assert!(received[..taken_in_all].iter().all(|byte| *byte == b'a'));
        assert!(received[taken_in_all..].iter().all(|byte| *byte == b'b'));
        rig.turn();
        assert!(!rig.events.contains(&Event::Writable(connection)), "each refusal has one");
    }
}

#[test]
fn a_send_of_everything_says_so() {
    for mut rig in both(&options()) {
        let (connection, mut client) = rig.client();
        rig.send(connection, Bytes::from_static(b"hello"));
        let taken = rig.sent(connection).unwrap();
        assert_eq!((taken.taken, &taken.bytes[..]), (5, &b"hello"[..]));
        let mut received = [0; 5];
        client.read_exact(&mut received).unwrap();
        assert_eq!(&received, b"hello");
    }
}

#[test]
fn a_gone_peer_is_a_failure() {
    for mut rig in both(&options()) {
        let (connection, client) = rig.client();
        reset(client);
        rig.offer(&bytes_of(b'x', 10), &[connection.slot]);
        assert_eq!(rig.refused(connection), Err(Failure::Reset));
        rig.send(connection, bytes_of(b'x', 10));
        assert_eq!(rig.sent(connection), Err(Failure::Reset));
        rig.turn();
        assert!(!rig.events.contains(&Event::Writable(connection)));
    }
}

#[test]
fn the_second_of_two_whole_sends_in_a_turn_enters_first() {
    for mut rig in both(&options()) {
        let (connection, mut client) = rig.client();
        rig.offer(&bytes_of(b'a', 10), &[connection.slot]);
        rig.send(connection, bytes_of(b'b', 10));
        rig.offer(&bytes_of(b'c', 10), &[connection.slot]);
        assert_eq!(rig.sent(connection).unwrap().taken, 10);
        assert_eq!(rig.events, [Event::Offered(2)]);
        assert_eq!(rig.engine.counts().batches_split, 2);
        let mut received = [0; 30];
        client.read_exact(&mut received).unwrap();
        assert_eq!(&received, b"aaaaaaaaaabbbbbbbbbbcccccccccc");
    }
}

#[test]
fn two_sends_to_one_connection_in_one_turn_never_interleave() {
    for mut rig in both(&options()) {
        let (connection, client) = rig.slow_client();
        let (first, second) = (bytes_of(b'a', 4 * MIB), bytes_of(b'b', 4 * MIB));
        rig.offer(&first, &[connection.slot]);
        rig.send(connection, second.clone());
        rig.offer(&bytes_of(b'c', 5), &[connection.slot]);
        rig.turn();
        let events: Vec<Event> = rig.events.drain(..).take(4).collect();
        let [Event::Refused(_, Ok(cut)), Event::Sent(_, Ok(whole)), third, Event::Offered(2)] =
            &events[..]
        else {
            panic!("{events:?}")
        };
        assert!(cut.taken > 0 && cut.taken < 4 * MIB && cut.bytes == first);
        assert!(whole.taken == 0 && whole.bytes == second);
        assert!(matches!(third, Event::Refused(_, Ok(taken)) if taken.taken == 0));
        let mut rest = first[cut.taken..].to_vec();
        rest.extend_from_slice(&second);
        rest.extend_from_slice(b"ccccc");
        let reader = reader(client, 8 * MIB + 5);
        rig.drain(connection, rest.into());
        let received = reader.join().unwrap();
        assert!(received[..4 * MIB] == first && received[4 * MIB..8 * MIB] == second);
        assert_eq!(&received[8 * MIB..], b"ccccc");
    }
}

#[test]
fn refusals_come_before_everything_else_of_their_enter() {
    let mut rig = Rig::new(&options());
    let (slow, _slow_client) = rig.slow_client();
    let (busy, mut busy_client) = rig.client();
    rig.receive(busy);
    rig.turn();
    busy_client.write_all(b"ping").unwrap();
    rig.offer(&bytes_of(b'x', 16 * MIB), &[slow.slot]);
    rig.received(busy, 4);
    // `received` has left what came before it.
    assert!(matches!(rig.events.pop_front(), Some(Event::Refused(..))), "{:?}", rig.events);
}

#[test]
fn an_offer_to_more_targets_than_the_queue_holds_reaches_all() {
    for mut rig in both(&tiny()) {
        let mut clients: Vec<_> = (0..8).map(|_| rig.client()).collect();
        let targets: Vec<Slot> = clients.iter().map(|(connection, _)| connection.slot).collect();
        for round in 0..20 {
            rig.offer(&bytes_of(round, 50), &targets);
        }
        let mut offered = 0;
        while offered < 160 {
            offered += rig.until(|event| match event {
                Event::Offered(targets) => Some(*targets),
                _ => None,
            });
        }
        assert_eq!((offered, rig.events.len()), (160, 0));
        for (_, client) in &mut clients {
            let mut received = [0; 1000];
            client.read_exact(&mut received).unwrap();
            assert!(received.iter().enumerate().all(|(at, byte)| usize::from(*byte) == at / 50));
        }
        rig.assert_clean();
    }
}

#[test]
fn a_target_that_is_not_open_is_decided_without_a_send() {
    let mut rig = Rig::new(&options());
    let (connection, _client) = rig.client();
    rig.close(connection, Closing::Finish);
    rig.offer(&bytes_of(b'x', 10), &[connection.slot, 4000]);
    rig.expect(&Event::Offered(2));
    rig.expect(&Event::Closed(connection));
    rig.offer(&bytes_of(b'x', 10), &[connection.slot]);
    rig.turn();
    assert_eq!(rig.events, [Event::Offered(1)]);
    rig.engine.submit(Operation::Send { connection, bytes: bytes_of(b'x', 1) });
    rig.turn();
    assert_eq!(rig.events.len(), 1);
}
