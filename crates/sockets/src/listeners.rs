//! What every engine on sockets does with its listeners, checked on TCP. Each check fails by
//! panicking.

#![allow(clippy::unwrap_used, reason = "a check fails by panicking")]

use std::{
    collections::HashSet,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream},
    os::fd::OwnedFd,
};

use rustix::io::Errno;
use socket2::{Domain, SockFilter, Socket, Type};
use worker::{ListenerId, Operation, Time};

use crate::{
    peer,
    rig::{Event, PATIENCE, Rig, Rigged},
};

/// A listener that shares its address, on a port of the kernel's choice where `address` has none.
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
    let begun = client.connect(&address.into()).map_err(|error| Errno::from_io_error(&error));
    assert!(matches!(begun, Ok(()) | Err(Some(Errno::INPROGRESS))), "{begun:?}");
    client
}

/// A listener that settles takes who is on the way and nobody new. By these options it settles
/// longer than the check takes; `settled` has the engine look at its listeners at a later time.
///
/// # Panics
/// The engine does otherwise.
pub fn settles<E: Rigged>(options: &E::Options, settled: impl FnOnce(&mut E, Time)) {
    const NEWCOMERS: usize = 16;
    let loopback = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let mut rig: Rig<E> = Rig::with(options, shared_listener(loopback));
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
    settled(&mut rig.engine, Time(u64::MAX / 2));
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

/// A listener without newcomers is closed at once, whatever the options say of settling: in so many
/// turns, none of which waits.
///
/// # Panics
/// The engine does otherwise.
pub fn closes_at_once<E: Rigged>(options: &E::Options, turns: usize) {
    let mut rig: Rig<E> = Rig::new(options);
    rig.turn();
    rig.engine.submit(Operation::StopAccepting { listener: ListenerId(0) });
    for _ in 0..turns {
        assert_eq!(rig.events.len(), 0);
        rig.turn();
    }
    assert_eq!(rig.events, [Event::StoppedAccepting(ListenerId(0))]);
    TcpStream::connect(rig.address).unwrap_err();
}

/// An IPv4 peer of a listener on IPv6 has an IPv4 address, and an IPv6 peer its own.
///
/// # Panics
/// The engine does otherwise.
pub fn knows_its_peers<E: Rigged>(options: &E::Options) {
    let socket = Socket::new(Domain::IPV6, Type::STREAM, None).unwrap();
    socket.set_only_v6(false).unwrap();
    socket.bind(&SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)).into()).unwrap();
    socket.listen(16).unwrap();
    let mut rig: Rig<E> = Rig::with(options, socket.into());
    let port = rig.address.port();
    for address in [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()] {
        rig.address = SocketAddr::new(address, port);
        // It waits for a peer with the address that the client has.
        let (_, client) = rig.client();
        assert_eq!(client.local_addr().unwrap().ip(), address);
    }
}

/// What is no listener ends the engine, in so many waits, with a sentence, and for good.
///
/// # Panics
/// The engine does otherwise.
pub fn refuses_what_is_none<E: Rigged>(options: &E::Options, waits: usize) {
    let (_listener, address) = peer::listener().unwrap();
    let connected = TcpStream::connect(address).unwrap();
    let mut engine = E::rigged(options, vec![TcpListener::from(OwnedFd::from(connected))]);
    engine.submit(Operation::Accept { listener: ListenerId(0) });
    let deadline = engine.now() + PATIENCE;
    let error = (0..waits).find_map(|_| engine.wait(deadline, |_, _| {}).err()).unwrap();
    assert!(error.to_string().starts_with("listener 0 is no listening TCP socket"), "{error}");
    engine.wait(deadline, |_, _| {}).unwrap_err();
}
