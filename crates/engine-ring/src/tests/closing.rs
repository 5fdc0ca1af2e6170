//! The four ways in which a connection ends, and what is left of it.

use std::{
    io::{ErrorKind, Read, Write},
    net::TcpStream,
    time::Duration,
};

use bytes::Bytes;
use worker::{Closing, ConnectionId, Engine};

use super::rig::{Event, Rig, options};

/// What the peer reads at the end.
fn end(client: &mut TcpStream) -> Result<Vec<u8>, ErrorKind> {
    let mut bytes = Vec::new();
    client.read_to_end(&mut bytes).map(|_| bytes).map_err(|error| error.kind())
}

/// Receives by multishot.
fn make_busy(rig: &mut Rig, connection: ConnectionId, client: &mut TcpStream) {
    rig.receive(connection);
    for _ in 0..16 {
        client.write_all(b"x").unwrap();
        rig.received(connection, 1);
    }
    rig.turn();
    assert_eq!(rig.engine.counts().multishots, 1);
}

#[test]
fn a_connection_with_nothing_armed_closes_at_once() {
    let mut rig = Rig::new(&options());
    let (connection, mut client) = rig.client();
    rig.receive(connection);
    client.write_all(b"bye").unwrap();
    rig.received(connection, 3);
    rig.send(connection, Bytes::from_static(b"bye"));
    rig.close(connection, Closing::Finish);
    let enters = rig.engine.counts().enters;
    rig.turn();
    assert_eq!(rig.events, [Event::Closed(connection)]);
    assert_eq!(rig.engine.counts().enters, enters + 1, "one enter, without a cancellation");
    assert_eq!(end(&mut client), Ok(b"bye".to_vec()));
}

/// CLOSE alone would leave the socket open behind the poll.
#[test]
fn a_close_with_a_poll_armed_reaches_the_peer() {
    let mut rig = Rig::new(&options());
    let mut clients: Vec<_> = (0..200).map(|_| rig.client()).collect();
    for (connection, _) in &clients {
        rig.receive(*connection);
    }
    rig.turn();
    for (connection, _) in &clients {
        rig.close(*connection, Closing::Finish);
    }
    for (connection, client) in &mut clients {
        rig.expect(&Event::Closed(*connection));
        assert_eq!(end(client), Ok(Vec::new()));
    }
    rig.assert_clean();
}

#[test]
fn a_close_with_a_multishot_armed_reaches_the_peer() {
    let mut rig = Rig::new(&options());
    let (connection, mut client) = rig.client();
    make_busy(&mut rig, connection, &mut client);
    rig.close(connection, Closing::Finish);
    rig.expect(&Event::Closed(connection));
    assert_eq!(end(&mut client), Ok(Vec::new()));
    assert_eq!(rig.engine.counts().multishots, 0);
}

#[test]
fn a_close_with_both_polls_armed_reaches_the_peer() {
    let mut rig = Rig::new(&options());
    let (connection, client) = rig.slow_client();
    rig.receive(connection);
    rig.send(connection, vec![0; 1 << 24]);
    assert!(rig.sent(connection).unwrap().taken < 1 << 24);
    rig.turn();
    rig.close(connection, Closing::Finish);
    rig.expect(&Event::Closed(connection));
    assert_eq!(rig.events.len(), 0);
    drop(client);
    rig.assert_clean();
}

#[test]
fn nothing_but_closed_follows_a_close() {
    let mut rig = Rig::new(&options());
    let (connection, mut client) = rig.client();
    rig.receive(connection);
    rig.turn();
    client.write_all(b"too late").unwrap();
    rig.send(connection, Bytes::from_static(b"last"));
    rig.close(connection, Closing::Finish);
    rig.expect(&Event::Closed(connection));
    rig.turn();
    assert_eq!(rig.events.len(), 0);
    rig.assert_clean();
}

#[test]
fn a_slot_is_used_again_with_a_new_generation() {
    let mut rig = Rig::new(&options());
    let (first, _client) = rig.client();
    rig.close(first, Closing::Finish);
    rig.expect(&Event::Closed(first));
    let mut again = None;
    let mut clients = Vec::new();
    while again.is_none() {
        let (connection, client) = rig.client();
        clients.push(client);
        again = (connection.slot == first.slot).then_some(connection);
    }
    let second = again.unwrap();
    assert_eq!(second.generation, first.generation + 1);
    // What is meant for the first does not reach the second.
    rig.close(first, Closing::Abort);
    rig.send(first, Bytes::from_static(b"x"));
    rig.turn();
    assert_eq!(rig.events.len(), 0);
    rig.send(second, Bytes::from_static(b"x"));
    assert_eq!(rig.sent(second).unwrap().taken, 1);
}

/// A plain close would answer the unread bytes with a reset, which destroys the reply.
#[test]
fn lingering_delivers_the_reply_though_bytes_are_unread() {
    let mut rig = Rig::new(&options());
    for _ in 0..20 {
        let (connection, mut client) = rig.client();
        client.write_all(&[b'x'; 60_000]).unwrap();
        rig.send(connection, Bytes::from_static(b"the reply"));
        rig.close(connection, Closing::Linger);
        rig.turn();
        // The peer goes on sending before it reads.
        rig.turn();
        client.write_all(&[b'x'; 60_000]).unwrap();
        rig.turn();
        let mut reply = [0; 9];
        client.read_exact(&mut reply).unwrap();
        assert_eq!(&reply, b"the reply");
        client.shutdown(std::net::Shutdown::Write).unwrap();
        rig.expect(&Event::Closed(connection));
        assert_eq!(end(&mut client), Ok(Vec::new()));
        assert_eq!(rig.events.len(), 0);
    }
    rig.assert_clean();
}

#[test]
fn lingering_with_a_multishot_armed_reads_on() {
    let mut rig = Rig::new(&options());
    let (connection, mut client) = rig.client();
    make_busy(&mut rig, connection, &mut client);
    rig.close(connection, Closing::Linger);
    client.write_all(&[b'x'; 5000]).unwrap();
    rig.turn();
    assert_eq!(end(&mut client), Ok(Vec::new()));
    drop(client);
    rig.expect(&Event::Closed(connection));
    assert_eq!(rig.events.len(), 0);
}

#[test]
fn lingering_ends_when_the_peer_sends_on_and_on() {
    let mut rig = Rig::new(&crate::RingOptions { linger_bytes_max: 10_000, ..options() });
    let (connection, mut client) = rig.client();
    rig.close(connection, Closing::Linger);
    client.write_all(&[b'x'; 60_000]).unwrap();
    rig.expect(&Event::Closed(connection));
}

#[test]
fn lingering_after_the_end_of_the_stream_is_a_plain_close() {
    let mut rig = Rig::new(&options());
    let (connection, mut client) = rig.client();
    rig.receive(connection);
    client.shutdown(std::net::Shutdown::Write).unwrap();
    rig.expect(&Event::Finished(connection));
    rig.close(connection, Closing::Linger);
    rig.expect(&Event::Closed(connection));
    assert_eq!(end(&mut client), Ok(Vec::new()));
}

#[test]
fn more_shutdowns_than_run_at_once_all_come_to_pass() {
    let mut rig = Rig::new(&crate::RingOptions { shutdowns_max: 2, ..options() });
    let clients: Vec<_> = (0..50).map(|_| rig.client()).collect();
    for (connection, _) in &clients {
        rig.close(*connection, Closing::Linger);
    }
    for (connection, mut client) in clients {
        rig.turn();
        drop(std::thread::spawn(move || end(&mut client)));
        rig.expect(&Event::Closed(connection));
    }
    rig.assert_clean();
}

#[test]
fn an_abort_is_a_reset() {
    let mut rig = Rig::new(&options());
    let (connection, mut client) = rig.client();
    rig.receive(connection);
    rig.turn();
    rig.close(connection, Closing::Abort);
    rig.expect(&Event::Closed(connection));
    assert_eq!(end(&mut client), Err(ErrorKind::ConnectionReset));
    assert_eq!(rig.events.len(), 0);
    rig.assert_clean();
}

#[test]
fn an_abort_ends_a_full_socket_with_everything_armed() {
    let mut rig = Rig::new(&options());
    let (connection, mut client) = rig.slow_client();
    make_busy(&mut rig, connection, &mut client);
    rig.send(connection, vec![0; 1 << 24]);
    assert!(rig.sent(connection).unwrap().taken < 1 << 24);
    rig.turn();
    rig.close(connection, Closing::Abort);
    rig.expect(&Event::Closed(connection));
    assert_eq!(end(&mut client), Err(ErrorKind::ConnectionReset));
    assert_eq!((rig.events.len(), rig.engine.counts().multishots), (0, 0));
    rig.assert_clean();
}

#[test]
fn an_abort_overtakes_a_linger() {
    let mut rig = Rig::new(&options());
    let (connection, mut client) = rig.client();
    rig.close(connection, Closing::Linger);
    rig.turn();
    assert_eq!(end(&mut client), Ok(Vec::new()));
    let soon = rig.engine.now() + Duration::from_millis(5);
    rig.wait(soon);
    assert_eq!(rig.events.len(), 0, "the peer has not finished");
    rig.close(connection, Closing::Abort);
    rig.expect(&Event::Closed(connection));
    let error = client.write(b"x").map_err(|error| error.kind());
    assert!(matches!(error, Err(ErrorKind::BrokenPipe | ErrorKind::ConnectionReset)), "{error:?}");
    rig.assert_clean();
}

#[test]
fn an_abort_in_the_turn_of_another_close_closes_once() {
    let mut rig = Rig::new(&options());
    for how in [Closing::Finish, Closing::Linger, Closing::Abort] {
        for armed in [false, true] {
            let (connection, _client) = rig.client();
            if armed {
                rig.receive(connection);
                rig.turn();
            }
            rig.close(connection, how);
            rig.close(connection, Closing::Abort);
            rig.expect(&Event::Closed(connection));
            rig.turn();
            assert_eq!(rig.events.len(), 0);
        }
    }
    rig.assert_clean();
}

/// Though another ring knows how to wake it.
#[test]
fn an_engine_that_ends_takes_its_connections_with_it() {
    let mut other = Rig::new(&options());
    let mut rig = Rig::new(&options());
    other.engine.connect(mesh::Member(1), rig.engine.wake_target());
    let (connection, mut client) = rig.client();
    rig.receive(connection);
    rig.turn();
    let address = rig.address;
    drop(rig);
    assert!(matches!(end(&mut client), Ok(_) | Err(ErrorKind::ConnectionReset)));
    // The kernel closes the listener last; until then it lets clients in and resets them.
    while let Ok(mut late) = TcpStream::connect(address) {
        let _ = end(&mut late);
    }
}
