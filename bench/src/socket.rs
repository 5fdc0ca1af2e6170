//! The socket of a client before it connects: its options and its source address.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::AsFd;
use std::time::Duration;

use socket2::{Domain, Socket, Type};

use crate::order::Plan;
use crate::ring;
use crate::scenario::Traffic;

/// Connections from one source address: below the 28,232 ports that a kernel gives out.
const CONNECTIONS_PER_SOURCE: u32 = 20_000;
/// Receive buffer of a subscriber that never reads: the smaller, the sooner its server notices.
const STALLED_RECEIVE_BUFFER_BYTES: usize = 4096;

/// A socket for client `index` of `plan`, bound to its source address where that matters.
pub(crate) fn open(plan: &Plan, index: u32) -> io::Result<Socket> {
    let address = plan.url.address;
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    // Closing resets: thousands of ports in TIME_WAIT would be missing in the next run.
    socket.set_linger(Some(Duration::ZERO))?;
    if plan.traffic != Traffic::None {
        socket.set_tcp_nodelay(true)?;
    }
    if is_stalled(plan, index) {
        socket.set_recv_buffer_size(STALLED_RECEIVE_BUFFER_BYTES)?;
    }
    if let Some(source) = source(address, plan.first + index) {
        ring::bind_without_port(socket.as_fd())?;
        socket.bind(&source.into())?;
    }
    Ok(socket)
}

/// The source address of connection `number`: on loopback each 20,000 have their own, because
/// one source address has only so many ports.
fn source(destination: SocketAddr, number: u32) -> Option<SocketAddr> {
    let block = number / CONNECTIONS_PER_SOURCE;
    match destination.ip() {
        IpAddr::V4(address) if address.is_loopback() && block > 0 => {
            let first = u32::from(Ipv4Addr::LOCALHOST);
            Some(SocketAddr::from((Ipv4Addr::from(first + block), 0)))
        }
        _ => None,
    }
}

/// Spreads the stalled subscribers evenly over the numbers of the connections.
pub(crate) fn is_stalled(plan: &Plan, index: u32) -> bool {
    if index >= plan.connections {
        return false;
    }
    let until = |count: u32| (f64::from(count) * plan.stalled_percent / 100.0).floor();
    let number = plan.first + index;
    until(number + 1) > until(number)
}
