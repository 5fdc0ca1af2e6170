//! Connections come and go while others stay idle: the kernel lets go of every socket. Where it would
//! not, on direct descriptors before Linux 6.13, others are to have been chosen.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::{
    fs,
    io::Write,
    net::{SocketAddr, TcpStream},
    thread,
    time::{Duration, Instant},
};

use common::{
    Gateway,
    raw::{frame, open, read_close},
};

/// Connections that are there before the others, and after them.
const STAYING: usize = 100;

/// Connections that come and go, unless `TEST_VISITS` says another number.
const VISITS: usize = 400;

/// Visitors that are there at the same time.
const VISITORS: usize = 4;

/// How long the kernel may take to let go.
const RELEASE_MAX: Duration = Duration::from_secs(30);

/// Connections that the kernel holds at this address: no listener, and nobody whose socket is gone
/// (TIME_WAIT). Each line of the table of proc(5) has the local address and the state in its second
/// and fourth columns.
fn sockets_at(address: SocketAddr) -> usize {
    const TIME_WAIT: &str = "06";
    const LISTEN: &str = "0A";
    let SocketAddr::V4(address) = address else { panic!("{address} is not of IPv4") };
    let octets = u32::from_le_bytes(address.ip().octets());
    let local = format!("{octets:08X}:{:04X}", address.port());
    let table = fs::read_to_string("/proc/net/tcp").unwrap();
    let is_counted = |line: &&str| {
        let mut columns = line.split_ascii_whitespace().skip(1);
        let is_local = columns.next() == Some(local.as_str());
        is_local && !columns.nth(1).is_some_and(|state| [TIME_WAIT, LISTEN].contains(&state))
    };
    table.lines().filter(is_counted).count()
}

/// Comes, and leaves by Close or without a word.
fn visit(gateway: &Gateway, politely: bool) {
    let stream = gateway.connect();
    open(&stream, "/ws/room");
    if politely {
        (&stream).write_all(&frame(0x88, &1000_u16.to_be_bytes())).unwrap();
        assert_eq!(read_close(&stream).0, 1000);
    }
}

#[test]
fn whoever_leaves_while_others_stay_takes_the_socket_along() {
    let visits = std::env::var("TEST_VISITS").map_or(VISITS, |visits| visits.parse().unwrap());
    // Nobody here answers a ping.
    let gateway = Gateway::start(&["--workers", "2", "--ping-interval", "0"]);
    let staying: Vec<TcpStream> = (0..STAYING)
        .map(|_| {
            let stream = gateway.connect();
            open(&stream, "/ws/room");
            stream
        })
        .collect();
    assert_eq!(sockets_at(gateway.data), STAYING);
    thread::scope(|scope| {
        for visitor in 0..VISITORS {
            let gateway = &gateway;
            scope.spawn(move || {
                for number in (visitor..visits).step_by(VISITORS) {
                    visit(gateway, (number / VISITORS).is_multiple_of(2));
                }
            });
        }
    });
    gateway.stats_until(|stats| stats["connections"] == STAYING);
    let released_by = Instant::now() + RELEASE_MAX;
    let mut http = gateway.http();
    let mut kept = sockets_at(gateway.data) - STAYING;
    while kept > 0 && Instant::now() < released_by {
        // The kernel says nothing when it lets go; an answer of the gateway gives it time.
        http.get("/stats");
        kept = sockets_at(gateway.data) - STAYING;
    }
    println!("sockets kept: {kept} of {visits}");
    assert_eq!(kept, 0, "the kernel keeps sockets of connections that were closed");
    drop(staying);
}
