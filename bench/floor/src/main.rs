//! `ringway-floor`: the cheapest servers that a fan-out load accepts, to be measured beside
//! Ringway. `ring` sends on an io_uring with direct descriptors, or on several, `send` is epoll and
//! a loop of `send(2)`, `deflate` is `send` with a compressor for every subscriber. All complete
//! WebSocket upgrades, receive only from connections whose request says `role=publisher`, and send
//! each received payload to every open connection in slot order. There are no topics, no queues and
//! no slow-reader policy: a connection whose socket does not take a whole frame at once is dropped.

mod deflate;
mod frame;
mod handshake;
#[expect(unsafe_code, reason = "ring entries point at memory; this module alone makes them")]
mod queue;
mod ring;
mod rings;
mod send;
mod table;

use std::io;
use std::iter;
use std::net::{SocketAddr, TcpListener};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use socket2::{Domain, Socket, Type};

/// A bare WebSocket fan-out server, the floor under every other.
#[derive(Debug, Parser)]
#[command(name = "ringway-floor", version)]
struct Options {
    /// How frames are handed to the kernel.
    mode: Mode,
    /// Address to serve; port 0 takes a free one, the first line on stdout names it.
    #[arg(long, default_value = "127.0.0.1:9100")]
    listen: SocketAddr,
    /// Most connections held at once; on a ring at most RLIMIT_NOFILE, which each of several may
    /// hold.
    #[arg(long, default_value_t = 19_900)]
    connections_max: u32,
    /// Rings, each with a thread of its own; the kernel deals new connections among them.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    rings: u16,
    /// Ping every connection once per this many seconds and read the pongs; 0: no pings.
    #[arg(long, value_name = "SECONDS", default_value_t = 0)]
    pings: u32,
    /// Send frames from a registered huge page by SEND_ZC. How many notifications report that the
    /// kernel has copied all the same is said on stderr.
    #[arg(long)]
    zero_copy: bool,
    /// CPU to run on; without it the scheduler decides.
    #[arg(long)]
    core: Option<usize>,
}

/// The loops.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Mode {
    /// io_uring: inline-or-fail SEND entries, 64 for each enter, direct descriptors.
    Ring,
    /// epoll, accept4 and one send(2) for each subscriber.
    Send,
    /// As `send`; each subscriber that offers permessage-deflate has a compressor of its own.
    Deflate,
}

/// Length of a heartbeat tick: one share of the table is pinged in each.
const TICK: Duration = Duration::from_secs(1);

/// Connections the kernel may hold for us before we accept them.
const BACKLOG: i32 = 4096;

fn main() -> ExitCode {
    let options = Options::parse();
    match run(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ringway-floor: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> io::Result<()> {
    if let Some(core) = options.core {
        let mut cpus = rustix::thread::CpuSet::new();
        cpus.set(core);
        rustix::thread::sched_setaffinity(None, &cpus)?;
    }
    let Options { mode, connections_max, rings, pings, zero_copy, .. } = *options;
    if (rings > 1 || zero_copy) && mode != Mode::Ring {
        return Err(io::Error::other("only `ring` has several, and sends without a copy"));
    }
    let listener = listen(options.listen, rings > 1)?;
    // The first takes the port where there is none yet.
    let address = listener.local_addr()?;
    let more = (1..rings).map(|_| listen(address, true));
    let listeners = iter::once(Ok(listener)).chain(more).collect::<io::Result<Vec<_>>>()?;
    println!("listening on {address}");
    match mode {
        Mode::Ring => ring::serve(&listeners, connections_max, pings, zero_copy),
        Mode::Send => send::serve(&listeners[0], connections_max, pings, false),
        Mode::Deflate => send::serve(&listeners[0], connections_max, pings, true),
    }
}

/// Opens a listener, of several at its address where it is shared; accepted sockets inherit
/// TCP_NODELAY from it.
fn listen(address: SocketAddr, is_shared: bool) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(is_shared)?;
    socket.set_tcp_nodelay(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}
