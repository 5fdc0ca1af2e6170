//! The clients of a rolling restart, on one thread: subscribers that reconnect when they are
//! closed, as a client of the contract does, and visitors that come and go all the time, so that
//! there is always somebody in the queue of a listener that is being closed.
//!
//! ```text
//! Away ──due──▶ Connecting ──▶ Shaking ──101──▶ Open ──Close──▶ Away
//!  ▲                │             │               │
//!  └── refused, reset, 503 ◀──────┴───────────────┘
//! ```

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::{self, JoinHandle};

use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use socket2::{Domain, Socket, Type};
use tungstenite::handshake::client::ClientHandshake;
use tungstenite::handshake::{HandshakeError, MidHandshake};
use tungstenite::protocol::CloseFrame;
use tungstenite::{Error, Message, WebSocket};

use super::publisher::ROOMS;
use crate::failure::{Failure, Outcome};
use crate::payload::now_ns;

/// From the end of a visit, or from a refusal, to the next attempt.
const PAUSE_NS: u64 = 200_000_000;
/// How often clients that are due are looked for.
const LOOK: Timespec = Timespec { tv_sec: 0, tv_nsec: 5_000_000 };
const EVENTS_MAX: usize = 256;
/// The golden ratio's fraction of 2^64: the upper halves of its multiples are spread evenly.
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// Who they are.
#[derive(Clone, Copy, Debug)]
pub(super) struct Options {
    pub(super) address: SocketAddr,
    pub(super) subscribers: u32,
    pub(super) visitors: u32,
    /// A closed subscriber comes back after a random part of this.
    pub(super) jitter_ns: u64,
}

/// A subscriber's way from one process to the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Move {
    pub(super) closed_ns: u64,
    pub(super) opened_ns: u64,
}

/// Messages that a subscriber did not get: those of its room from `first` up to `next`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Gap {
    pub(super) room: u32,
    pub(super) first: u32,
    pub(super) next: u32,
    /// When it was away since it got a message last.
    pub(super) away: Option<Move>,
}

/// What the clients saw.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// Closes of subscribers by code and reason.
    pub(super) closes: BTreeMap<String, u32>,
    pub(super) moves: Vec<Move>,
    pub(super) gaps: Vec<Gap>,
    /// By subscriber: the number of the message it would get next, and when it was away since.
    pub(super) ends: Vec<(u32, Option<Move>)>,
    pub(super) messages: u64,
    /// Messages that came twice or late.
    pub(super) repeated: u32,
    pub(super) visits: u32,
    /// Attempts that ended in an HTTP status other than 101.
    pub(super) statuses: BTreeMap<u16, u32>,
    /// Connections that were reset: before the 101, or without a Close frame.
    pub(super) resets: BTreeMap<String, u32>,
    /// Attempts that found nobody listening.
    pub(super) refused: u32,
}

/// A running thread of clients.
pub(super) struct Crowd {
    stop: Arc<AtomicBool>,
    open: Arc<AtomicU32>,
    thread: JoinHandle<Outcome<Seen>>,
}

enum Phase {
    /// Comes back at that moment. Until then the server may end what there was: who closes first is
    /// in TIME_WAIT.
    Away {
        until_ns: u64,
        _old: Option<TcpStream>,
    },
    Connecting(TcpStream),
    Shaking(Box<MidHandshake<ClientHandshake<TcpStream>>>),
    Open(Box<WebSocket<TcpStream>>),
}

struct Client {
    phase: Phase,
    /// The number of the message that comes next.
    expected: u32,
    /// When it was closed; `None` while it has not been.
    closed_ns: Option<u64>,
    /// When it was away since it got a message last.
    away: Option<Move>,
}

struct Clients {
    options: Options,
    table: Vec<Client>,
    ready: OwnedFd,
    open: Arc<AtomicU32>,
    seen: Seen,
}

impl Crowd {
    /// Begins to connect.
    pub(super) fn start(options: Options) -> Outcome<Crowd> {
        let (stop, open) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)));
        let mut clients = Clients::new(options, Arc::clone(&open))?;
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || clients.run(&stopped));
        Ok(Crowd { stop, open, thread })
    }

    /// Subscribers that are connected now.
    pub(super) fn open(&self) -> u32 {
        self.open.load(Ordering::Relaxed)
    }

    /// Ends it.
    pub(super) fn finish(self) -> Outcome<Seen> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| Failure::run("the clients have died"))?
    }
}

impl Phase {
    /// Tries again after a moment.
    fn pause() -> Phase {
        Phase::Away { until_ns: now_ns() + PAUSE_NS, _old: None }
    }
}

impl Clients {
    fn new(options: Options, open: Arc<AtomicU32>) -> Outcome<Clients> {
        let ready = epoll::create(CreateFlags::CLOEXEC).map_err(Failure::run)?;
        let client = |_| Client {
            phase: Phase::Away { until_ns: 0, _old: None },
            expected: 0,
            closed_ns: None,
            away: None,
        };
        let table = (0..options.subscribers + options.visitors).map(client).collect();
        Ok(Clients { options, table, ready, open, seen: Seen::default() })
    }

    fn run(&mut self, stop: &AtomicBool) -> Outcome<Seen> {
        let mut events = Vec::with_capacity(EVENTS_MAX);
        while !stop.load(Ordering::Relaxed) {
            self.connect_due()?;
            events.clear();
            let buffer = rustix::buffer::spare_capacity(&mut events);
            match epoll::wait(&self.ready, buffer, Some(&LOOK)) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(Failure::run(error)),
            }
            for event in &events {
                let index = usize::try_from(event.data.u64()).map_err(Failure::run)?;
                self.advance(index);
            }
        }
        let subscribers = self.options.subscribers as usize;
        let ends = self.table[..subscribers].iter().map(|client| (client.expected, client.away));
        self.seen.ends = ends.collect();
        Ok(std::mem::take(&mut self.seen))
    }

    /// Whoever is due connects.
    fn connect_due(&mut self) -> Outcome<()> {
        let now = now_ns();
        for index in 0..self.table.len() {
            match &self.table[index].phase {
                Phase::Away { until_ns, .. } if *until_ns <= now => {
                    let stream = self.connect(index)?;
                    self.table[index].phase = Phase::Connecting(stream);
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn connect(&self, index: usize) -> Outcome<TcpStream> {
        let address = self.options.address;
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
        socket.set_nonblocking(true)?;
        socket.set_tcp_nodelay(true)?;
        // What comes of it is seen when it is ready.
        let _ = socket.connect(&address.into());
        let stream = TcpStream::from(socket);
        let flags = EventFlags::IN | EventFlags::OUT | EventFlags::ET;
        epoll::add(&self.ready, &stream, EventData::new_u64(index as u64), flags)
            .map_err(Failure::run)?;
        Ok(stream)
    }

    /// Goes on with a client whose socket has something.
    fn advance(&mut self, index: usize) {
        let away = Phase::Away { until_ns: u64::MAX, _old: None };
        let phase = std::mem::replace(&mut self.table[index].phase, away);
        self.table[index].phase = match phase {
            Phase::Connecting(stream) => self.shake(index, stream),
            Phase::Shaking(shaking) => {
                let outcome = shaking.handshake();
                self.handle_handshake(index, outcome.map(|(socket, _)| socket))
            }
            Phase::Open(socket) => self.read(index, socket),
            away @ Phase::Away { .. } => away,
        };
    }

    /// The connection stands, or does not.
    fn shake(&mut self, index: usize, stream: TcpStream) -> Phase {
        match (stream.take_error(), stream.peer_addr()) {
            (Ok(None), Ok(_)) => {}
            (Ok(None), Err(_)) => return Phase::Connecting(stream),
            (Ok(Some(error)) | Err(error), _) => return self.fail("connecting", &error),
        }
        let address = self.options.address;
        let room = u32::try_from(index).unwrap_or(0) % ROOMS;
        let topic =
            if self.is_visitor(index) { "lobby".to_owned() } else { format!("room-{room}") };
        let outcome = tungstenite::client(format!("ws://{address}/ws/{topic}"), stream);
        self.handle_handshake(index, outcome.map(|(socket, _)| socket))
    }

    fn handle_handshake(
        &mut self,
        index: usize,
        outcome: Result<WebSocket<TcpStream>, HandshakeError<ClientHandshake<TcpStream>>>,
    ) -> Phase {
        match outcome {
            Ok(socket) => self.open(index, socket),
            Err(HandshakeError::Interrupted(shaking)) => Phase::Shaking(Box::new(shaking)),
            Err(HandshakeError::Failure(Error::Http(response))) => {
                *self.seen.statuses.entry(response.status().as_u16()).or_default() += 1;
                Phase::pause()
            }
            Err(HandshakeError::Failure(Error::Io(error))) => self.fail("handshake", &error),
            Err(HandshakeError::Failure(error)) => self.fail("handshake", &io::Error::other(error)),
        }
    }

    fn open(&mut self, index: usize, mut socket: WebSocket<TcpStream>) -> Phase {
        if self.is_visitor(index) {
            self.seen.visits += 1;
            // It has seen enough; the server ends the connection.
            let _ = socket.close(None);
            let _ = socket.flush();
            return Phase::Away { until_ns: now_ns() + PAUSE_NS, _old: Some(socket.into_inner()) };
        }
        let opened_ns = now_ns();
        let client = &mut self.table[index];
        if let Some(closed_ns) = client.closed_ns.take() {
            self.seen.moves.push(Move { closed_ns, opened_ns });
            let since = client.away.map_or(closed_ns, |away| away.closed_ns);
            client.away = Some(Move { closed_ns: since, opened_ns });
        }
        self.open.fetch_add(1, Ordering::Relaxed);
        self.read(index, Box::new(socket))
    }

    /// Reads all there is.
    fn read(&mut self, index: usize, mut socket: Box<WebSocket<TcpStream>>) -> Phase {
        loop {
            match socket.read() {
                Ok(Message::Text(text)) => self.note_message(index, text.as_str()),
                Ok(Message::Close(frame)) => {
                    let _ = socket.flush();
                    return self.closed(index, frame, *socket);
                }
                Ok(_) => {}
                Err(Error::Io(error)) if error.kind() == ErrorKind::WouldBlock => {
                    return Phase::Open(socket);
                }
                Err(error) => {
                    self.leave(index);
                    return self.fail("open", &io::Error::other(error));
                }
            }
        }
    }

    fn note_message(&mut self, index: usize, text: &str) {
        self.seen.messages += 1;
        let client = &mut self.table[index];
        let room = u32::try_from(index).unwrap_or(0) % ROOMS;
        let Some(number) = text.parse::<u32>().ok().filter(|number| *number >= client.expected)
        else {
            self.seen.repeated += 1;
            return;
        };
        let away = client.away.take();
        if number > client.expected {
            self.seen.gaps.push(Gap { room, first: client.expected, next: number, away });
        }
        client.expected = number + 1;
    }

    /// A subscriber was told to go, and comes back after a random part of the jitter.
    fn closed(
        &mut self,
        index: usize,
        frame: Option<CloseFrame>,
        socket: WebSocket<TcpStream>,
    ) -> Phase {
        let said = frame.map_or("without a code".to_owned(), |frame| {
            format!("{} {}", u16::from(frame.code), frame.reason)
        });
        *self.seen.closes.entry(said).or_default() += 1;
        self.leave(index);
        let part = (index as u64).wrapping_mul(GOLDEN) >> 32;
        let wait_ns = (u128::from(self.options.jitter_ns) * u128::from(part)) >> 32;
        let until_ns = now_ns() + u64::try_from(wait_ns).unwrap_or(u64::MAX / 2);
        Phase::Away { until_ns, _old: Some(socket.into_inner()) }
    }

    /// A subscriber is no longer connected.
    fn leave(&mut self, index: usize) {
        self.open.fetch_sub(1, Ordering::Relaxed);
        self.table[index].closed_ns = Some(now_ns());
    }

    fn fail(&mut self, stage: &str, error: &io::Error) -> Phase {
        if error.kind() == ErrorKind::ConnectionRefused {
            self.seen.refused += 1;
        } else {
            *self.seen.resets.entry(format!("{stage}: {error}")).or_default() += 1;
        }
        Phase::pause()
    }

    fn is_visitor(&self, index: usize) -> bool {
        index >= self.options.subscribers as usize
    }
}
