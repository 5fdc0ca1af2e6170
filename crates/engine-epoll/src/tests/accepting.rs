//! Accepts: who, how many, and the end of a listener.

use std::{
    collections::HashSet,
    net::{SocketAddr, TcpListener, TcpStream},
    os::fd::OwnedFd,
    time::Duration,
};

use rustix::io::Errno;
use socket2::{Domain, SockFilter, Socket, Type};
use sockets::peer;
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
    let socket = Socket::new(Domain::IPV6, Type::STREAM, None).unwrap();
    socket.set_only_v6(false).unwrap();
    socket.bind(&SocketAddr::from(([0_u16; 8], 0)).into()).unwrap();
    socket.listen(16).unwrap();
    let mut rig = Rig::with(&options(), socket.into());
    let port = rig.address.port();
    let client = TcpStream::connect(("127.0.0.1", port)).unwrap();
    let peer = rig.until(|event| match event {
        Event::Accepted(_, _, peer) => Some(*peer),
        _ => None,
    });
    assert_eq!(peer, client.local_addr().unwrap());
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

/// A listener that shares `address`, or a port of the kernel's choice.
fn shared_listener(address: SocketAddr) -> TcpListener {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None).unwrap();
    socket.set_reuse_port(true).unwrap();
    socket.bind(&address.into()).unwrap();
    socket.listen(64).unwrap();
    socket.into()
}

/// A client that has begun to connect.
fn connecting(address: SocketAddr, filter: &[SockFilter]) -> Socket {
    let client = Socket::new(Domain::for_address(address), Type::STREAM, None).unwrap();
    if !filter.is_empty() {
        client.attach_filter(filter).unwrap();
    }
    client.set_nonblocking(true).unwrap();
    let begun = client.connect(&address.into()).map_err(|error| error.raw_os_error());
    assert!(matches!(begun, Ok(()) | Err(Some(115))), "{begun:?}");
    client
}

#[test]
fn a_listener_that_settles_takes_who_is_on_the_way_and_nobody_new() {
    const NEWCOMERS: usize = 16;
    let never = Duration::from_secs(3600);
    let options = EpollOptions { settle: never, ..options() };
    let mut rig = Rig::with(&options, shared_listener(SocketAddr::from(([127, 0, 0, 1], 0))));
    let address = rig.address;
    let (_, first) = rig.client();
    // The SYN is with the listener; the answer does not get through, as in a long round trip.
    let midway = connecting(address, &[SockFilter::new(0x06, 0, 0, 0)]);
    rig.engine.submit(Operation::StopAccepting { listener: ListenerId(0) });
    let next = shared_listener(address);
    let newcomers: Vec<Socket> = (0..NEWCOMERS).map(|_| connecting(address, &[])).collect();
    midway.detach_filter().unwrap();
    // The kernel repeats the answer after a second.
    let peer = midway.local_addr().unwrap().as_socket().unwrap();
    rig.until(|event| {
        let Event::Accepted(_, _, from) = event else { panic!("{event:?}") };
        assert_eq!(*from, peer, "a newcomer");
        Some(())
    });
    let settled = rig.engine.now() + never;
    assert!(rig.engine.acceptor.due(rig.engine.now()) <= settled);
    rig.engine.acceptor.look(settled);
    rig.expect(&Event::StoppedAccepting(ListenerId(0)));
    // Those whose SYN was dropped repeat it, and find the next listener.
    let mut taken = HashSet::new();
    while taken.len() < NEWCOMERS {
        taken.insert(next.accept().unwrap().1);
    }
    for newcomer in &newcomers {
        assert!(taken.contains(&newcomer.local_addr().unwrap().as_socket().unwrap()));
    }
    rig.assert_clean();
    drop((first, midway));
}

#[test]
fn a_listener_without_newcomers_is_closed_at_once() {
    let mut rig = Rig::new(&EpollOptions { settle: Duration::from_secs(3600), ..options() });
    rig.turn();
    rig.engine.submit(Operation::StopAccepting { listener: ListenerId(0) });
    rig.turn();
    assert_eq!(rig.events, [Event::StoppedAccepting(ListenerId(0))]);
    TcpStream::connect(rig.address).unwrap_err();
}

#[test]
fn what_is_no_listener_is_fatal_with_a_sentence() {
    let (_listener, address) = peer::listener().unwrap();
    let connected = TcpStream::connect(address).unwrap();
    let listener = TcpListener::from(OwnedFd::from(connected));
    let mut engine = EpollEngine::new(&options(), vec![listener]).unwrap();
    engine.submit(Operation::Accept { listener: ListenerId(0) });
    let deadline = engine.now() + PATIENCE;
    let error = engine.wait(deadline, |_, _| {}).unwrap_err();
    assert!(error.to_string().starts_with("listener 0 is no listening TCP socket"), "{error}");
    engine.wait(deadline, |_, _| {}).unwrap_err();
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
