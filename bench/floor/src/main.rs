//! `ringway-floor`: the cheapest servers that a fan-out load accepts, to be measured beside
//! Ringway. `ring` sends on an io_uring with direct descriptors, `send` is epoll and a loop of
//! `send(2)`, `deflate` is `send` with a compressor for every subscriber. All complete WebSocket upgrades, receive only from connections whose request says
//! `role=publisher`, and send each received payload to every open connection in slot order. There
//! are no topics, no queues and no slow-reader policy: a connection whose socket does not take a
//! whole frame at once is dropped.

mod deflate;
mod frame;
mod handshake;
#[expect(unsafe_code, reason = "ring entries point at memory; this module alone makes them")]
mod queue;
mod ring;
mod send;
mod table;

use std::io;
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
    /// Most connections held at once; on the ring at most RLIMIT_NOFILE.
    #[arg(long, default_value_t = 19_900)]
    connections_max: u32,
    /// Ping every connection once per this many seconds and read the pongs; 0: no pings.
    #[arg(long, value_name = "SECONDS", default_value_t = 0)]
    pings: u32,
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
    let listener = listen(options.listen)?;
    println!("listening on {}", listener.local_addr()?);
    match options.mode {
        Mode::Ring => ring::serve(&listener, options.connections_max, options.pings),
        Mode::Send => send::serve(&listener, options.connections_max, options.pings, false),
        Mode::Deflate => send::serve(&listener, options.connections_max, options.pings, true),
    }
}

/// Opens the listener; accepted sockets inherit TCP_NODELAY from it.
fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.set_tcp_nodelay(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}
