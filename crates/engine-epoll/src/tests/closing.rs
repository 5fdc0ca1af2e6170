//! The ways in which a connection ends, and what is left of it.

use std::{
    io::{ErrorKind, Read, Write},
    net::{Shutdown, TcpStream},
};

use worker::Closing;

use super::rig::{Event, Rig, options, reset};

/// What the peer reads at the end.
fn end(client: &mut TcpStream) -> Result<Vec<u8>, ErrorKind> {
    let mut bytes = Vec::new();
    client.read_to_end(&mut bytes).map(|_| bytes).map_err(|error| error.kind())
}

#[test]
fn a_close_is_told_in_the_next_turn_and_reaches_the_peer_at_once() {
    let mut rig = Rig::new(&options());
    let (connection, mut client) = rig.client();
    rig.receive(connection);
    rig.send(connection, &b"bye"[..]);
    rig.close(connection, Closing::Finish);
    assert_eq!(end(&mut client), Ok(b"bye".to_vec()));
    rig.turn();
    assert_eq!(rig.events, [Event::Closed(connection)], "nobody asks what became of the send");
    assert_eq!(rig.engine.slots.free_count(), 4096);
}

/// A plain close would answer the unread bytes with a reset, which destroys the reply.
#[test]
fn lingering_delivers_the_reply_though_bytes_are_unread() {
    let mut rig = Rig::new(&options());
    for _ in 0..20 {
        let (connection, mut client) = rig.client();
        client.write_all(&[b'x'; 60_000]).unwrap();
        rig.send(connection, &b"the reply"[..]);
        rig.close(connection, Closing::Linger);
        rig.turn();
        // The peer goes on sending before it reads.
        client.write_all(&[b'x'; 60_000]).unwrap();
        rig.turn();
        let mut reply = [0; 9];
        client.read_exact(&mut reply).unwrap();
        assert_eq!(&reply, b"the reply");
        client.shutdown(Shutdown::Write).unwrap();
        rig.expect(&Event::Closed(connection));
        assert_eq!(end(&mut client), Ok(Vec::new()));
        assert_eq!(rig.events.len(), 0);
    }
    rig.assert_clean();
}

#[test]
fn lingering_ends_at_linger_bytes_max() {
    let mut rig = Rig::new(&crate::EpollOptions { linger_bytes_max: 10_000, ..options() });
    let (connection, mut client) = rig.client();
    client.write_all(&[b'x'; 9_999]).unwrap();
    rig.close(connection, Closing::Linger);
    rig.turn();
    rig.turn();
    assert_eq!(rig.events.len(), 0);
    client.write_all(b"x").unwrap();
    rig.expect(&Event::Closed(connection));
}

#[test]
fn lingering_with_a_writable_owed_tells_nothing_of_it() {
    let mut rig = Rig::new(&options());
    let (connection, mut client) = rig.slow_client();
    rig.send(connection, vec![0; 1 << 24]);
    let taken = rig.sent(connection).unwrap().taken;
    rig.turn();
    rig.close(connection, Closing::Linger);
    let reader = std::thread::spawn(move || {
        let read = end(&mut client).unwrap().len();
        (read, client)
    });
    while !reader.is_finished() {
        rig.turn();
    }
    let (read, client) = reader.join().unwrap();
    assert_eq!((read, rig.events.len()), (taken, 0));
    drop(client);
    rig.expect(&Event::Closed(connection));
    rig.assert_clean();
}

#[test]
fn an_abort_is_a_reset_and_throws_away_what_is_queued() {
    let mut rig = Rig::new(&options());
    let (connection, mut client) = rig.slow_client();
    rig.receive(connection);
    rig.send(connection, vec![0; 1 << 24]);
    rig.sent(connection).unwrap();
    rig.close(connection, Closing::Abort);
    assert_eq!(end(&mut client), Err(ErrorKind::ConnectionReset));
    rig.turn();
    assert_eq!(rig.events, [Event::Closed(connection)]);
}

#[test]
fn a_connection_that_is_reset_while_it_lingers_is_gone() {
    let mut rig = Rig::new(&options());
    let (connection, client) = rig.client();
    rig.close(connection, Closing::Linger);
    rig.turn();
    reset(client);
    rig.expect(&Event::Closed(connection));
    rig.close(connection, Closing::Abort);
    rig.turn();
    assert_eq!(rig.events.len(), 0);
    rig.assert_clean();
}

#[test]
fn an_engine_that_ends_takes_its_connections_and_listeners_with_it() {
    let mut rig = Rig::new(&options());
    let (connection, mut client) = rig.client();
    rig.receive(connection);
    let address = rig.address;
    let target = rig.engine.wake_target();
    drop(rig);
    assert_eq!(end(&mut client), Ok(Vec::new()));
    TcpStream::connect(address).unwrap_err();
    // Who still knows how to wake it does no harm.
    worker::Waker::wake(&target);
}
