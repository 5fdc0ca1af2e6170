//! The connections of a load process: a few dozen bytes each, opened with a bound on the
//! handshakes in flight, read frame by frame, every message checked. It knows the ring but no
//! schedule: what it finds it hands up as [`Found`].
//!
//! ```text
//! Closed ─▶ Connecting ─▶ Requesting ─▶ Open ─▶ Leaving ─▶ Closed
//!                 │            │  ▲        │                 ▲
//!                 │            ▼  │        │                 │
//!                 │          Greeting      │                 │
//!                 └────────────┴───────────┴── peer gone ────┘
//! ```
//!
//! A client greets only where the server expects a dialect inside its messages.

mod hearing;

use std::collections::HashMap;
use std::io;
use std::os::fd::AsFd;

use socket2::Socket;
use tungstenite::handshake::client::generate_key;
use tungstenite::handshake::derive_accept_key;

use crate::dialect::Dialect;
use crate::frame;
use crate::inflate::{self, Agreed, Inflaters};
use crate::order::Plan;
use crate::payload::{Payload, Stamp};
use crate::ring::{Buffer, Event, Ring, Token};
use crate::socket;

/// Handshakes in flight in one process.
const OPENING_MAX: u32 = 256;
/// Bytes that may wait for one connection's socket.
const OUTBOX_BYTES_MAX: usize = 64 << 20;

/// Something that a connection did.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// Its handshake is complete; counted from when it was meant to start.
    Opened { latency_ns: u64 },
    /// Its handshake failed.
    Refused { index: u32, why: String },
    /// Its next message came, after `missed` that never will.
    Message { index: u32, sequence: u32, intended_ns: u64, missed: u32 },
    /// A message that it had already, or that is older than one it had.
    Repeated,
    /// Bytes that are no message of this run.
    Broken { why: &'static str },
    /// A ping, which is answered.
    Ping,
    /// It ended, and was not asked to; the first message it will not get is `expected`.
    Lost { index: u32, expected: u32, why: String },
    /// It ended after it said Close.
    Left { index: u32 },
}

/// See the diagram above.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Closed,
    Connecting,
    Requesting,
    Greeting,
    Open,
    Leaving,
}

struct Client {
    socket: Option<Socket>,
    phase: Phase,
    generation: u8,
    /// True exactly while a send is in flight.
    sending: bool,
    agreed: Agreed,
    /// Number of the next message.
    expected: u32,
    /// When its handshake was meant to start.
    since_ns: u64,
}

/// All connections of the process.
pub(crate) struct Clients {
    plan: Plan,
    payload: Payload,
    key: String,
    /// What a 101 must contain.
    accept_key: String,
    table: Vec<Client>,
    /// Bytes of frames and heads that are not whole yet. Few have any.
    partial: HashMap<u32, Vec<u8>>,
    /// Bytes that wait until a send completes. Few have any.
    outbox: HashMap<u32, Vec<u8>>,
    /// Buffers of completed sends.
    spare: Vec<Vec<u8>>,
    inflaters: Inflaters,
    opening: u32,
    open: u32,
    /// Of all data frames since this was last asked: their bytes, and how many were compressed.
    received: (u64, u64),
}

impl Clients {
    /// A table of closed connections.
    pub(crate) fn new(plan: &Plan) -> Clients {
        let key = generate_key();
        let client = |_| Client {
            socket: None,
            phase: Phase::Closed,
            generation: 0,
            sending: false,
            agreed: Agreed::Plain,
            expected: 0,
            since_ns: 0,
        };
        Clients {
            payload: Payload::new(plan.payload, plan.size),
            accept_key: derive_accept_key(key.as_bytes()),
            key,
            table: (0..plan.clients()).map(client).collect(),
            plan: plan.clone(),
            partial: HashMap::new(),
            outbox: HashMap::new(),
            spare: Vec::new(),
            inflaters: Inflaters::new(),
            opening: 0,
            open: 0,
            received: (0, 0),
        }
    }

    /// Connections that are open.
    pub(crate) fn open(&self) -> u32 {
        self.open
    }

    /// Connections in their handshake.
    pub(crate) fn opening(&self) -> u32 {
        self.opening
    }

    /// Bytes of data frames, and how many of them were compressed, since this was last asked.
    pub(crate) fn take_received(&mut self) -> (u64, u64) {
        std::mem::take(&mut self.received)
    }

    /// True exactly when another handshake may start.
    pub(crate) fn can_start(&self) -> bool {
        self.opening < OPENING_MAX
    }

    /// True exactly when connection `index` never reads.
    pub(crate) fn is_stalled(&self, index: u32) -> bool {
        socket::is_stalled(&self.plan, index)
    }

    /// Starts the handshake of `index`, which is closed. Its latency counts from `since_ns`.
    pub(crate) fn start(&mut self, index: u32, since_ns: u64, ring: &mut Ring) -> io::Result<()> {
        let socket = socket::open(&self.plan, index)?;
        let client = &mut self.table[index as usize];
        client.generation = client.generation.wrapping_add(1);
        client.phase = Phase::Connecting;
        client.since_ns = since_ns;
        client.sending = false;
        client.expected = 0;
        let token = Token { index, generation: client.generation };
        ring.connect(token, client.socket.insert(socket).as_fd())?;
        self.opening += 1;
        Ok(())
    }

    /// Sends the message with `stamp` from `index`, when it is open.
    pub(crate) fn send_message(
        &mut self,
        index: u32,
        stamp: Stamp,
        ring: &mut Ring,
    ) -> io::Result<()> {
        let mut payload = self.spare();
        self.payload.write(stamp, &mut payload);
        let mut bytes = self.spare();
        match self.plan.dialect {
            Dialect::Plain => frame::write_message(&payload, &mut bytes),
            dialect => frame::write_message(&dialect.publication(&payload), &mut bytes),
        }
        self.spare.push(payload);
        self.send(index, bytes, ring)
    }

    /// Says Close on `index` and waits for the server to end it; false when it is not open.
    pub(crate) fn leave(&mut self, index: u32, ring: &mut Ring) -> io::Result<bool> {
        if self.table[index as usize].phase != Phase::Open {
            return Ok(false);
        }
        let mut bytes = self.spare();
        frame::write_close(&mut bytes);
        self.send(index, bytes, ring)?;
        self.table[index as usize].phase = Phase::Leaving;
        self.open -= 1;
        Ok(true)
    }

    /// Takes what completed and appends what it means to `found`.
    pub(crate) fn handle(
        &mut self,
        event: Event,
        ring: &mut Ring,
        found: &mut Vec<Found>,
    ) -> io::Result<()> {
        match event {
            Event::Connected { token, error } if self.is_current(token) => {
                self.handle_connected(token, error, ring, found)
            }
            Event::Received { token, buffer, error, armed } => {
                let outcome = if self.is_current(token) {
                    self.handle_received(token, buffer.as_ref(), error, armed, ring, found)
                } else {
                    Ok(())
                };
                if let Some(buffer) = buffer {
                    ring.give_back(buffer);
                }
                outcome
            }
            Event::Sent { token, bytes, error } => {
                self.spare.push(bytes);
                if !self.is_current(token) {
                    return Ok(());
                }
                self.table[token.index as usize].sending = false;
                match error {
                    Some(error) => self.end(token.index, &reason(error), found),
                    None => self.flush(token.index, ring)?,
                }
                Ok(())
            }
            Event::Connected { .. } | Event::Readable => Ok(()),
        }
    }

    fn handle_connected(
        &mut self,
        token: Token,
        error: Option<i32>,
        ring: &mut Ring,
        found: &mut Vec<Found>,
    ) -> io::Result<()> {
        let Token { index, .. } = token;
        if let Some(error) = error {
            self.end(index, &reason(error), found);
            return Ok(());
        }
        self.table[index as usize].phase = Phase::Requesting;
        self.arm(token, ring)?;
        let number = self.plan.first + index;
        let publisher = self.plan.publisher && index == self.plan.connections;
        let query = if publisher { "role=publisher" } else { "" };
        let room = number / self.plan.room_members;
        let subprotocol = self.plan.dialect.subprotocol();
        let extensions = if self.plan.compression { inflate::OFFER } else { "" };
        let request =
            self.plan.url.request(number, room, &self.key, query, subprotocol, extensions);
        self.send(index, request, ring)
    }

    fn handle_received(
        &mut self,
        token: Token,
        buffer: Option<&Buffer>,
        error: Option<i32>,
        armed: bool,
        ring: &mut Ring,
        found: &mut Vec<Found>,
    ) -> io::Result<()> {
        match (buffer, error) {
            (Some(buffer), _) => {
                if let Err(why) = self.read(token.index, ring.bytes(buffer), found) {
                    self.end(token.index, &why, found);
                    return Ok(());
                }
                self.flush(token.index, ring)?;
            }
            // The pool was empty for a moment: nothing is lost, receive again.
            (None, Some(libc::ENOBUFS)) => {}
            (None, Some(error)) => self.end(token.index, &reason(error), found),
            (None, None) => self.end(token.index, "the server closed the connection", found),
        }
        if !armed && self.is_current(token) { self.arm(token, ring) } else { Ok(()) }
    }

    /// Arms the receive that `token`'s connection should have: none once a stalled one is open.
    fn arm(&self, token: Token, ring: &mut Ring) -> io::Result<()> {
        let client = &self.table[token.index as usize];
        let Some(socket) = &client.socket else { return Ok(()) };
        match (self.is_stalled(token.index), client.phase) {
            (false, _) => ring.receive(token, socket.as_fd()),
            (true, Phase::Open) => Ok(()),
            (true, _) => ring.receive_once(token, socket.as_fd()),
        }
    }

    /// Ends `index`; idempotent. What is in flight for it comes back with an old generation.
    fn end(&mut self, index: u32, why: &str, found: &mut Vec<Found>) {
        let client = &mut self.table[index as usize];
        let expected = client.expected;
        match client.phase {
            Phase::Closed => return,
            Phase::Connecting | Phase::Requesting | Phase::Greeting => {
                self.opening -= 1;
                found.push(Found::Refused { index, why: why.to_owned() });
            }
            Phase::Open => {
                self.open -= 1;
                found.push(Found::Lost { index, expected, why: why.to_owned() });
            }
            Phase::Leaving => found.push(Found::Left { index }),
        }
        client.phase = Phase::Closed;
        client.generation = client.generation.wrapping_add(1);
        client.socket = None;
        self.partial.remove(&index);
        self.outbox.remove(&index);
        self.inflaters.forget(index);
    }

    /// Sends `bytes` now, or behind the send that is in flight.
    fn send(&mut self, index: u32, bytes: Vec<u8>, ring: &mut Ring) -> io::Result<()> {
        let client = &mut self.table[index as usize];
        let Some(socket) = &client.socket else { return Ok(()) };
        if !client.sending && !self.outbox.contains_key(&index) {
            client.sending = true;
            let token = Token { index, generation: client.generation };
            return ring.send(token, socket.as_fd(), bytes);
        }
        let outbox = self.outbox.entry(index).or_default();
        if outbox.len() + bytes.len() > OUTBOX_BYTES_MAX {
            return Err(io::Error::other("the server does not take what is published"));
        }
        outbox.extend_from_slice(&bytes);
        self.spare.push(bytes);
        self.flush(index, ring)
    }

    /// Sends what waits for `index` when nothing is in flight.
    fn flush(&mut self, index: u32, ring: &mut Ring) -> io::Result<()> {
        let client = &mut self.table[index as usize];
        let Some(socket) = &client.socket else { return Ok(()) };
        if client.sending {
            return Ok(());
        }
        let Some(bytes) = self.outbox.remove(&index) else { return Ok(()) };
        client.sending = true;
        let token = Token { index, generation: client.generation };
        ring.send(token, socket.as_fd(), bytes)
    }

    fn is_current(&self, token: Token) -> bool {
        self.table
            .get(token.index as usize)
            .is_some_and(|client| client.generation == token.generation)
    }

    fn spare(&mut self) -> Vec<u8> {
        let mut bytes = self.spare.pop().unwrap_or_default();
        bytes.clear();
        bytes
    }
}

fn reason(error: i32) -> String {
    io::Error::from_raw_os_error(error).to_string()
}
