//! Accepts: who, how many, and the end of a listener.

use std::{io, net::TcpStream, time::Duration};

use nix::errno::Errno;
use sockets::listeners;
use worker::{Closing, Engine};

use crate::{TokioUringEngine, TokioUringOptions};

use super::rig::{Event, Rig, options};

#[test]
fn an_ipv4_peer_of_an_ipv6_listener_has_an_ipv4_address() {
    listeners::knows_its_peers::<TokioUringEngine>(&options());
}

#[test]
fn a_listener_that_settles_takes_who_is_on_the_way_and_nobody_new() {
    let options = TokioUringOptions { settle: Duration::from_secs(3600), ..options() };
    listeners::settles::<TokioUringEngine>(&options, |engine, later| engine.start_accepts(later));
}

#[test]
fn a_listener_without_newcomers_is_closed_at_once() {
    let options = TokioUringOptions { settle: Duration::from_secs(3600), ..options() };
    // In the first it is shut down, in the second its accepts have ended.
    listeners::closes_at_once::<TokioUringEngine>(&options, 2);
}

#[test]
fn what_is_no_listener_is_fatal_with_a_sentence() {
    listeners::refuses_what_is_none::<TokioUringEngine>(&options(), 1);
}

/// What the kernel answers when the system has no file left; the entry itself never gets there.
#[test]
fn accepting_rests_when_the_kernel_has_no_descriptor() {
    let mut rig = Rig::new(&TokioUringOptions { accepts_armed_max: 1, ..options() });
    let now = rig.engine.now();
    rig.engine.start_accepts(now);
    assert_eq!(rig.engine.slots.free_count(), 4095);
    let failed = Err(io::Error::from(Errno::ENFILE));
    rig.engine.on_accept(now, 0, 0, failed, &mut |_, completion| panic!("{completion:?}"));
    assert_eq!(rig.engine.counts().accepts_failed, 1);
    assert_eq!(rig.engine.acceptor.due(now), now + Duration::from_millis(100));
    rig.engine.start_accepts(now + Duration::from_millis(99));
    assert_eq!(rig.engine.slots.free_count(), 4096, "it rests");
    rig.engine.start_accepts(now + Duration::from_millis(100));
    assert_eq!(rig.engine.slots.free_count(), 4095, "it is rested");
}

#[test]
fn a_storm_larger_than_the_table_waits_in_the_backlog() {
    const CLIENTS: usize = 1000;
    const TABLE: u32 = 256;
    let mut rig = Rig::new(&TokioUringOptions { connections_max: TABLE, ..options() });
    let clients: Vec<TcpStream> =
        (0..CLIENTS).map(|_| TcpStream::connect(rig.address).unwrap()).collect();
    let accepted = |event: &Event| match event {
        Event::Accepted(connection, ..) => Some(*connection),
        _ => None,
    };
    let open: Vec<_> = (0..TABLE).map(|_| rig.until(accepted)).collect();
    rig.turn();
    assert_eq!(rig.events.len(), 0, "there is no 257th slot");
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
