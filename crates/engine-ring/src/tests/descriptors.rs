//! Direct and ordinary descriptors: what the probe finds, and that nothing stays of either.

use std::{
    collections::HashSet,
    fs,
    io::{self, ErrorKind, Read},
    net::TcpStream,
    os::fd::AsRawFd,
    path::PathBuf,
};

use worker::Closing;

use crate::{Descriptors, RingOptions};

use super::rig::{Event, Rig, all_descriptors, options};

/// What this process has open: each file has a name of its own.
fn open() -> HashSet<PathBuf> {
    // The directory that is being read is closed by then.
    let target = |entry: io::Result<fs::DirEntry>| fs::read_link(entry.unwrap().path()).ok();
    fs::read_dir("/proc/self/fd").unwrap().filter_map(target).collect()
}

fn rig(descriptors: Descriptors) -> Rig {
    Rig::new(&RingOptions { descriptors, ..options() })
}

/// What the probe says is what becomes of connections: a poll is armed on an old one, and the FIN of
/// a younger one leaves.
#[test]
fn a_connection_is_closed_though_an_older_one_is_armed() {
    for descriptors in all_descriptors() {
        let mut rig = rig(descriptors);
        let (idle, _idle) = rig.client();
        rig.receive(idle);
        rig.turn();
        for _ in 0..100 {
            let (connection, mut client) = rig.client();
            rig.close(connection, Closing::Finish);
            rig.expect(&Event::Closed(connection));
            assert_eq!(client.read(&mut [0]).unwrap(), 0, "{descriptors}");
        }
    }
}

#[test]
fn an_engine_that_ends_closes_who_it_had_not_told_of() {
    for descriptors in all_descriptors() {
        let mut rig = rig(descriptors);
        let (connection, told) = rig.client();
        rig.receive(connection);
        rig.turn();
        let untold: Vec<TcpStream> =
            (0..8).map(|_| TcpStream::connect(rig.address).unwrap()).collect();
        drop(rig);
        for mut client in untold.into_iter().chain([told]) {
            let end = client.read(&mut [0]).map_err(|error| error.kind());
            assert!(matches!(end, Ok(0) | Err(ErrorKind::ConnectionReset)), "{end:?}");
        }
    }
}

#[test]
fn ordinary_descriptors_are_the_process_s_own() {
    let mut rig = rig(Descriptors::Ordinary);
    let (connection, mut client) = rig.client();
    let socket = rig.engine.slots.slot_mut(connection.slot).unwrap().socket.as_ref().unwrap();
    let flags = rustix::io::fcntl_getfd(socket).unwrap();
    assert!(flags.contains(rustix::io::FdFlags::CLOEXEC), "children do not inherit it");
    let name = fs::read_link(format!("/proc/self/fd/{}", socket.as_raw_fd())).unwrap();
    assert!(open().contains(&name));
    rig.close(connection, Closing::Finish);
    rig.expect(&Event::Closed(connection));
    assert!(!open().contains(&name));
    assert_eq!(client.read(&mut [0]).unwrap(), 0);
}
