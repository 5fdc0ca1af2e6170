//! The floor on epoll: `accept4`, and for each publication a loop of `send(2)` over the
//! connections in the order of their slots, compressed before each where it is to be. Subscribers
//! leave the epoll set after their handshake unless pongs are to be read.

use std::io;
use std::mem::MaybeUninit;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::event::{Timespec, epoll};
use rustix::net::{self, RecvFlags, SendFlags, SocketFlags};

use crate::TICK;
use crate::deflate::Deflater;
use crate::frame::{self, PING, Received};
use crate::handshake;
use crate::table::{Slot, Table};

/// The listener's mark in the epoll set; slots are below it.
const LISTENER: u64 = u64::MAX;
/// The longest publication with its header, or a request head.
const RECEIVE_BYTES: usize = 80 * 1024;
const EVENTS: usize = 256;

struct Connection {
    socket: OwnedFd,
    /// Bytes of a request or of a publication that is not whole yet.
    partial: Vec<u8>,
    /// Present exactly when compression was agreed on.
    deflater: Option<Box<Deflater>>,
}

struct Floor {
    epoll: OwnedFd,
    connections: Vec<Option<Connection>>,
    free: Vec<u32>,
    table: Table,
    /// Seconds in which every connection is pinged once; 0: never.
    pings: u32,
    /// True exactly when whoever offers compression gets it.
    deflates: bool,
    received: Vec<u8>,
    /// A compressed frame.
    compressed: Vec<u8>,
}

/// Serves `listener` until an error of epoll.
pub(crate) fn serve(
    listener: &TcpListener,
    slots: u32,
    pings: u32,
    deflates: bool,
) -> io::Result<()> {
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    epoll::add(&epoll, listener, epoll::EventData::new_u64(LISTENER), epoll::EventFlags::IN)?;
    let mut floor = Floor {
        epoll,
        connections: (0..slots).map(|_| None).collect(),
        free: (0..slots).rev().collect(),
        table: Table::new(slots),
        pings,
        deflates,
        received: vec![0; RECEIVE_BYTES],
        compressed: Vec::new(),
    };
    let mut events = [MaybeUninit::uninit(); EVENTS];
    let mut next_tick = Instant::now() + TICK;
    loop {
        let timeout = (pings > 0).then(|| next_tick.saturating_duration_since(Instant::now()));
        let timeout = timeout.map(timespec).transpose()?;
        let ready = match epoll::wait(&floor.epoll, &mut events, timeout.as_ref()) {
            Err(rustix::io::Errno::INTR) => continue,
            ready => ready?.0,
        };
        for event in ready {
            match u32::try_from(event.data.u64()) {
                Ok(slot) => floor.handle_readable(slot)?,
                Err(_) => floor.accept_all(listener)?,
            }
        }
        if pings > 0 && Instant::now() >= next_tick {
            let share = floor.table.next_share(pings);
            floor.send_to(share, &PING);
            next_tick += TICK;
        }
    }
}

impl Floor {
    fn accept_all(&mut self, listener: &TcpListener) -> io::Result<()> {
        loop {
            let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
            let socket = match net::accept_with(listener, flags) {
                Ok(socket) => socket,
                Err(rustix::io::Errno::AGAIN) => return Ok(()),
                Err(rustix::io::Errno::CONNABORTED | rustix::io::Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            };
            // Over the maximum the connection is dropped, which closes it.
            let Some(slot) = self.free.pop() else { continue };
            let data = epoll::EventData::new_u64(slot.into());
            epoll::add(&self.epoll, &socket, data, epoll::EventFlags::IN)?;
            self.connections[slot as usize] =
                Some(Connection { socket, partial: Vec::new(), deflater: None });
        }
    }

    fn handle_readable(&mut self, slot: u32) -> io::Result<()> {
        let Some(connection) = &mut self.connections[slot as usize] else { return Ok(()) };
        let bytes = match net::recv(&connection.socket, &mut self.received[..], RecvFlags::DONTWAIT)
        {
            Err(rustix::io::Errno::AGAIN) => return Ok(()),
            received => received.map_or(0, |(bytes, _)| bytes),
        };
        if bytes == 0 {
            self.close(slot);
            return Ok(());
        }
        connection.partial.extend_from_slice(&self.received[..bytes]);
        match self.table.get(slot) {
            Slot::Free => self.read_request(slot),
            Slot::Subscriber => {
                connection.partial.clear();
                Ok(())
            }
            Slot::Publisher => {
                self.publish(slot);
                Ok(())
            }
        }
    }

    fn read_request(&mut self, slot: u32) -> io::Result<()> {
        let Some(connection) = &mut self.connections[slot as usize] else { return Ok(()) };
        let request = match handshake::parse(&connection.partial) {
            Ok(None) if connection.partial.len() < RECEIVE_BYTES => return Ok(()),
            Ok(Some(request)) => request,
            Ok(None) | Err(_) => {
                self.close(slot);
                return Ok(());
            }
        };
        // Freed, not only emptied: an idle connection of the floor holds nothing.
        connection.partial = Vec::new();
        let deflates = self.deflates && request.offers_deflate;
        connection.deflater = deflates.then(|| Box::new(Deflater::new()));
        let response = request.response(deflates);
        if net::send(&connection.socket, &response, SendFlags::NOSIGNAL) != Ok(response.len()) {
            self.close(slot);
            return Ok(());
        }
        self.table.set(slot, if request.publisher { Slot::Publisher } else { Slot::Subscriber });
        if !request.publisher && self.pings == 0 {
            epoll::delete(&self.epoll, &connection.socket)?;
        }
        Ok(())
    }

    /// Fans out every whole message that `slot` has sent.
    fn publish(&mut self, slot: u32) {
        while let Some(connection) = &mut self.connections[slot as usize] {
            match frame::take(&connection.partial, RECEIVE_BYTES) {
                Ok(Some((Received::Message(frame), bytes))) => {
                    connection.partial.drain(..bytes);
                    self.send_to(self.table.all(), &frame);
                }
                Ok(Some((Received::Ignored, bytes))) => drop(connection.partial.drain(..bytes)),
                Ok(Some((Received::Close, _))) | Err(_) => self.close(slot),
                Ok(None) => return,
            }
        }
    }

    fn send_to(&mut self, slots: std::ops::Range<u32>, frame: &[u8]) {
        for slot in slots {
            if self.table.get(slot) == Slot::Free {
                continue;
            }
            let Some(connection) = &mut self.connections[slot as usize] else { continue };
            // Control frames are never compressed (RFC 7692 section 6.1).
            let frame = match &mut connection.deflater {
                Some(deflater) if frame[0] & 0x08 == 0 => {
                    if deflater.encode(frame, &mut self.compressed).is_err() {
                        self.close(slot);
                        continue;
                    }
                    &self.compressed
                }
                _ => frame,
            };
            let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
            if net::send(&connection.socket, frame, flags) != Ok(frame.len()) {
                self.close(slot);
            }
        }
    }

    /// Forgets a connection; dropping its socket closes it and takes it out of the epoll set.
    fn close(&mut self, slot: u32) {
        if self.connections[slot as usize].take().is_some() {
            self.table.set(slot, Slot::Free);
            self.free.push(slot);
        }
    }
}

fn timespec(duration: Duration) -> io::Result<Timespec> {
    Timespec::try_from(duration).map_err(io::Error::other)
}
