//! Accepts: who, where, how many, and the end of a listener.

use std::{
    collections::HashSet,
    io::ErrorKind,
    net::TcpStream,
    os::fd::{FromRawFd, OwnedFd},
    time::Duration,
};

use io_uring::{opcode, types::Fixed};
use socket2::{SockRef, Socket};
use sockets::listeners;
use worker::{Closing, Engine, ListenerId, Operation, Slot};

use crate::{
    Descriptors, RingEngine, RingOptions,
    engine::Start,
    queue::{Entry, Stay},
    tag::{Kind, Tag},
};

use super::rig::{Event, PATIENCE, Rig, listener, loopback, options, started};

#[test]
fn an_ipv4_peer_of_an_ipv6_listener_has_an_ipv4_address() {
    listeners::knows_its_peers::<RingEngine>(&options());
}

/// Direct descriptors have no number that getsockopt takes: the kernel installs one for the test.
#[expect(unsafe_code, reason = "the descriptor comes from the kernel as a number")]
fn install(rig: &mut Rig, slot: Slot) -> Socket {
    let entry = opcode::FixedFdInstall::new(Fixed(slot), 0).build();
    // SAFETY: the entry names no memory.
    let entry = unsafe { Entry::with_memory(entry, Tag::of_engine(Kind::Cancel, 0)) };
    assert!(rig.engine.queue.push(&entry));
    rig.engine.queue.enter(Stay::Reap).unwrap();
    let mut descriptors = Vec::new();
    rig.engine.queue.drain(|completion| {
        if Tag::unpack(completion.user_data()).unwrap().kind == Kind::Cancel {
            descriptors.push(completion.result());
        }
    });
    let [descriptor] = descriptors[..] else { panic!("{descriptors:?}") };
    assert!(descriptor >= 0, "{descriptor}");
    // SAFETY: the kernel has just opened it for this process.
    unsafe { OwnedFd::from_raw_fd(descriptor) }.into()
}

/// The socket of a connection, once more.
fn accepted(rig: &mut Rig, slot: Slot) -> Socket {
    match &rig.engine.slots.slot_mut(slot).unwrap().socket {
        Some(socket) => socket.try_clone().unwrap().into(),
        None => install(rig, slot),
    }
}

#[test]
fn accepted_connections_inherit_the_options_of_the_listener() {
    let listener = listener(loopback());
    let socket = SockRef::from(&listener);
    socket.set_tcp_nodelay(true).unwrap();
    socket.set_tcp_notsent_lowat(16 * 1024).unwrap();
    socket.set_tcp_user_timeout(Some(Duration::from_secs(30))).unwrap();
    let options = options();
    // Older kernels do not know the operation, and have no direct descriptors.
    let extra: &[u8] = match options.descriptors {
        Descriptors::Direct => &[opcode::FixedFdInstall::CODE],
        Descriptors::Ordinary => &[],
    };
    let mut rig = started(&options, listener, Start { extra, ..Start::USUAL });
    let (connection, _client) = rig.client();
    rig.turn();
    let accepted = accepted(&mut rig, connection.slot);
    assert!(accepted.tcp_nodelay().unwrap());
    assert_eq!(accepted.tcp_notsent_lowat().unwrap(), 16 * 1024);
    assert_eq!(accepted.tcp_user_timeout().unwrap(), Some(Duration::from_secs(30)));
}

#[test]
fn a_listener_that_does_not_block_is_accepted_from() {
    let listener = listener(loopback());
    listener.set_nonblocking(true).unwrap();
    let mut rig = Rig::with(&options(), listener);
    let soon = rig.engine.now() + Duration::from_millis(5);
    rig.wait(soon);
    let enters = rig.engine.counts().enters;
    rig.client();
    assert!(rig.engine.counts().enters < enters + 4, "it waits, and does not try in vain");
}

#[test]
fn neighbours_are_accepted_into_neighbouring_slots() {
    let mut rig = Rig::new(&options());
    let clients: Vec<TcpStream> =
        (0..10).map(|_| TcpStream::connect(rig.address).unwrap()).collect();
    let slots: HashSet<Slot> = (0..10)
        .map(|_| {
            rig.until(|event| match event {
                Event::Accepted(connection, ..) => Some(connection.slot),
                _ => None,
            })
        })
        .collect();
    assert_eq!(slots, (0..10).collect::<HashSet<Slot>>());
    drop(clients);
}

#[test]
fn a_storm_larger_than_the_table_waits_in_the_backlog() {
    const CLIENTS: usize = 2000;
    let mut rig = Rig::new(&RingOptions { connections_max: 256, ..options() });
    let address = rig.address;
    let clients = std::thread::spawn(move || {
        (0..CLIENTS).map(|_| TcpStream::connect(address).unwrap()).collect::<Vec<_>>()
    });
    let mut open = HashSet::new();
    let mut accepted = 0;
    while open.len() < 256 {
        let connection = rig.until(|event| match event {
            Event::Accepted(connection, ..) => Some(*connection),
            _ => None,
        });
        open.insert(connection);
        accepted += 1;
    }
    let clients = clients.join().unwrap();
    rig.turn();
    assert_eq!(rig.events.len(), 0, "there is no 257th slot");
    assert_eq!(rig.engine.counts().accepts_paused, 1);
    for connection in open.drain() {
        rig.close(connection, Closing::Finish);
    }
    while accepted < CLIENTS {
        let event = rig.until(|event| {
            matches!(event, Event::Accepted(..) | Event::Closed(_)).then(|| event.clone())
        });
        if let Event::Accepted(connection, ..) = event {
            accepted += 1;
            rig.close(connection, Closing::Finish);
        }
    }
    rig.assert_clean();
    drop(clients);
}

#[test]
fn two_listeners_share_a_small_table() {
    let listeners = [listener(loopback()), listener(loopback())];
    let addresses = listeners.each_ref().map(|listener| listener.local_addr().unwrap());
    let options = RingOptions { connections_max: 8, ..options() };
    let mut engine = RingEngine::new(&options, Vec::from(listeners)).unwrap();
    for listener in 0..2 {
        engine.submit(Operation::Accept { listener: ListenerId(listener) });
    }
    for (index, address) in addresses.into_iter().enumerate() {
        let _client = TcpStream::connect(address).unwrap();
        let mut from = None;
        let deadline = engine.now() + PATIENCE;
        engine
            .wait(deadline, |_, completion| {
                if let worker::Completion::Accepted { listener, .. } = completion {
                    from = Some(usize::from(listener.0));
                }
            })
            .unwrap();
        assert_eq!(from, Some(index));
    }
}

#[test]
fn a_listener_that_stops_accepting_loses_nobody() {
    let options = RingOptions { connections_max: 64, accepts_armed_max: 4, ..options() };
    let mut rig = Rig::new(&options);
    rig.turn();
    let clients: Vec<TcpStream> =
        (0..200).map(|_| TcpStream::connect(rig.address).unwrap()).collect();
    rig.engine.submit(Operation::StopAccepting { listener: ListenerId(0) });
    let mut accepted = 0;
    loop {
        let event = rig.until(|event| (!matches!(event, Event::Closed(_))).then(|| event.clone()));
        match event {
            Event::Accepted(connection, ..) => {
                accepted += 1;
                rig.close(connection, Closing::Finish);
            }
            Event::StoppedAccepting(_) => break,
            event => panic!("{event:?}"),
        }
    }
    assert_eq!(accepted, 200);
    let refused = TcpStream::connect(rig.address).map_err(|error| error.kind());
    assert_eq!(refused.err(), Some(ErrorKind::ConnectionRefused));
    drop(clients);
    rig.assert_clean();
}

#[test]
fn a_listener_that_settles_takes_who_is_on_the_way_and_nobody_new() {
    let options = RingOptions { settle: Duration::from_secs(3600), ..options() };
    listeners::settles::<RingEngine>(&options, |engine, later| engine.arm_accepts(later));
}

#[test]
fn a_listener_without_newcomers_is_closed_at_once() {
    let options = RingOptions { settle: Duration::from_secs(3600), ..options() };
    listeners::closes_at_once::<RingEngine>(&options, 1);
}

/// Another ring that waits for the same queue takes the call and does nothing: as where the kernel
/// has put a connection into the queue without calling anybody.
#[test]
fn a_queue_is_looked_at_though_nobody_was_called() {
    let listener = listener(loopback());
    let options = RingOptions { accepts_armed_max: 1, ..options() };
    let mut idle = Rig::with(&options, listener.try_clone().unwrap());
    idle.turn();
    let mut rig = Rig::with(&options, listener);
    rig.turn();
    let _client = TcpStream::connect(rig.address).unwrap();
    rig.turn();
    assert_eq!(rig.events.len(), 0, "nobody was called");
    let later = rig.engine.now() + Duration::from_secs(1);
    rig.engine.arm_accepts(later);
    rig.until(|event| matches!(event, Event::Accepted(..)).then_some(()));
}

#[test]
fn a_listener_that_never_accepted_is_closed_too() {
    let listener = listener(loopback());
    let address = listener.local_addr().unwrap();
    let mut engine = RingEngine::new(&options(), vec![listener]).unwrap();
    engine.submit(Operation::StopAccepting { listener: ListenerId(0) });
    let mut stopped = 0;
    let deadline = engine.now() + PATIENCE;
    while stopped == 0 && engine.now() < deadline {
        engine.wait(deadline, |_, _| stopped += 1).unwrap();
    }
    assert_eq!(stopped, 1);
    TcpStream::connect(address).unwrap_err();
}

#[test]
fn what_is_no_listener_is_fatal_with_a_sentence() {
    listeners::refuses_what_is_none::<RingEngine>(&options(), 10);
}

/// What the kernel answers when the system has no file left; the entry itself never gets there.
#[test]
fn accepting_rests_when_the_kernel_has_no_descriptor() {
    let mut rig = Rig::new(&RingOptions { accepts_armed_max: 1, ..options() });
    let now = rig.engine.now();
    rig.engine.arm_accepts(now);
    let tag = Tag { kind: Kind::Accept, mark: 0, slot: 0 };
    rig.engine
        .on_accept(now, tag, Err(libc::ENFILE), &mut |_, completion| panic!("{completion:?}"));
    assert_eq!(rig.engine.counts().accepts_failed, 1);
    assert_eq!(rig.engine.slots.free_count(), 4096);
    rig.engine.arm_accepts(now + Duration::from_millis(99));
    assert_eq!(rig.engine.slots.free_count(), 4096, "it rests");
    rig.engine.arm_accepts(now + Duration::from_millis(100));
    assert_eq!(rig.engine.slots.free_count(), 4095, "it is rested");
}
