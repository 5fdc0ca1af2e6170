//! The floor on io_uring. A few lanes accept and complete handshakes, one connection each at a
//! time; after its handshake a subscriber has nothing armed in the kernel, and a publisher keeps
//! its lane for its messages. Several rings have a thread and a listener each.

use std::io;
use std::net::TcpListener;
use std::os::fd::AsRawFd;
use std::thread;
use std::time::Instant;

use crate::TICK;
use crate::frame::{self, PING, Received};
use crate::handshake;
use crate::queue::{self, Completion, LANE_BYTES, Queue, What};
use crate::rings::{Rings, Shared};
use crate::table::{Slot, Table};

/// Connections in their handshake, and publishers, at once.
const LANES: u32 = 32;

/// What a lane is doing.
#[derive(Clone, Copy, Debug)]
enum Lane {
    Accepting,
    Reading { slot: u32, filled: usize },
    Replying { slot: u32, publisher: bool },
    Publishing { slot: u32, filled: usize },
}

struct Floor<'ring> {
    queue: Queue<'ring>,
    lanes: Vec<Lane>,
    table: Table,
    /// Seconds in which every connection is pinged once; 0: never.
    pings: u32,
    /// Connections dropped because their socket did not take a whole frame.
    refused: u64,
    /// All rings, and the number of this one.
    rings: &'ring Rings,
    number: usize,
}

/// Serves each of `listeners` on a ring of its own, of `slots` connections, until an error of one.
pub(crate) fn serve(
    listeners: &[TcpListener],
    slots: u32,
    pings: u32,
    zero_copy: bool,
) -> io::Result<()> {
    let rings = Rings::new(listeners.len());
    let serve = |number: usize| -> io::Result<()> {
        let outcome = serve_one(&listeners[number], slots, pings, zero_copy, (&rings, number));
        if let Err(error) = &outcome
            && listeners.len() > 1
        {
            // The others would go on, and wait for nobody.
            eprintln!("ringway-floor: {error}");
            std::process::exit(1);
        }
        outcome
    };
    thread::scope(|scope| {
        for number in 1..listeners.len() {
            scope.spawn(move || serve(number));
        }
        serve(0)
    })
}

fn serve_one(
    listener: &TcpListener,
    slots: u32,
    pings: u32,
    zero_copy: bool,
    (rings, number): (&Rings, usize),
) -> io::Result<()> {
    let mut ring = queue::ring()?;
    rings.start(number, ring.as_raw_fd());
    let mut floor = Floor {
        queue: Queue::new(&mut ring, listener.as_raw_fd(), slots, LANES, zero_copy)?,
        lanes: vec![Lane::Accepting; LANES as usize],
        table: Table::new(slots),
        pings,
        refused: 0,
        rings,
        number,
    };
    for lane in 0..LANES {
        floor.queue.accept(lane)?;
    }
    let mut next_tick = Instant::now() + TICK;
    loop {
        let timeout = (pings > 0).then(|| next_tick.saturating_duration_since(Instant::now()));
        floor.queue.enter(1, timeout)?;
        while let Some(completion) = floor.queue.next() {
            floor.handle(completion)?;
        }
        if pings > 0 && Instant::now() >= next_tick {
            floor.ping_share()?;
            next_tick += TICK;
        }
    }
}

impl Floor<'_> {
    fn handle(&mut self, completion: Completion) -> io::Result<()> {
        let Completion { what, index, result } = completion;
        match what {
            What::Accepted => self.handle_accepted(index, result),
            What::Received => self.handle_received(index, result),
            What::Replied => self.handle_replied(index, result),
            What::Refused => self.handle_refused(index),
            What::Readable => self.queue.drop_bytes(index),
            What::Dropped if result > 0 || result == -libc::EAGAIN => self.queue.poll(index),
            What::Dropped => self.close(index),
            What::Closed => Ok(()),
            What::Woken => {
                self.rings.take(self.number).iter().try_for_each(|frame| self.fan_out(frame))
            }
            What::NotWoken => Err(io::Error::from_raw_os_error(-result)),
        }
    }

    fn handle_accepted(&mut self, lane: u32, result: i32) -> io::Result<()> {
        match u32::try_from(result) {
            Ok(slot) => {
                self.lanes[lane as usize] = Lane::Reading { slot, filled: 0 };
                self.queue.receive(lane, slot, 0)
            }
            // The peer left before it was accepted, or the table is full for now.
            Err(_) if matches!(-result, libc::ECONNABORTED | libc::ENFILE) => {
                self.queue.accept(lane)
            }
            Err(_) => Err(io::Error::from_raw_os_error(-result)),
        }
    }

    fn handle_received(&mut self, lane: u32, result: i32) -> io::Result<()> {
        let received = usize::try_from(result).unwrap_or(0);
        match self.lanes[lane as usize] {
            Lane::Reading { slot, .. } | Lane::Publishing { slot, .. } if received == 0 => {
                self.restart(lane, slot)
            }
            Lane::Reading { slot, filled } => self.read_request(lane, slot, filled + received),
            Lane::Publishing { slot, filled } => self.publish(lane, slot, filled + received),
            Lane::Accepting | Lane::Replying { .. } => Ok(()),
        }
    }

    fn read_request(&mut self, lane: u32, slot: u32, filled: usize) -> io::Result<()> {
        match handshake::parse(&self.queue.lane_mut(lane)[..filled]) {
            Ok(None) if filled < LANE_BYTES => {
                self.lanes[lane as usize] = Lane::Reading { slot, filled };
                self.queue.receive(lane, slot, filled)
            }
            Ok(Some(request)) => {
                self.lanes[lane as usize] = Lane::Replying { slot, publisher: request.publisher };
                self.queue.reply(lane, slot, &request.response(false))
            }
            Ok(None) | Err(_) => self.restart(lane, slot),
        }
    }

    fn handle_replied(&mut self, lane: u32, result: i32) -> io::Result<()> {
        let Lane::Replying { slot, publisher } = self.lanes[lane as usize] else { return Ok(()) };
        if result <= 0 {
            return self.restart(lane, slot);
        }
        if publisher {
            self.table.set(slot, Slot::Publisher);
            self.lanes[lane as usize] = Lane::Publishing { slot, filled: 0 };
            return self.queue.receive(lane, slot, 0);
        }
        self.table.set(slot, Slot::Subscriber);
        if self.pings > 0 {
            self.queue.poll(slot)?;
        }
        self.lanes[lane as usize] = Lane::Accepting;
        self.queue.accept(lane)
    }

    /// Fans out every whole message among the `filled` bytes, then receives again.
    fn publish(&mut self, lane: u32, slot: u32, filled: usize) -> io::Result<()> {
        let mut taken = 0;
        loop {
            match frame::take(&self.queue.lane_mut(lane)[taken..filled], LANE_BYTES) {
                Ok(Some((Received::Message(frame), bytes))) => {
                    taken += bytes;
                    let frame = Shared::from(frame);
                    // First, so that the other rings have it with the first sends of this one.
                    for ring in self.rings.post(self.number, &frame) {
                        self.queue.wake(ring)?;
                    }
                    self.fan_out(&frame)?;
                }
                Ok(Some((Received::Ignored, bytes))) => taken += bytes,
                Ok(Some((Received::Close, _))) | Err(_) => return self.restart(lane, slot),
                Ok(None) => break,
            }
        }
        self.queue.lane_mut(lane).copy_within(taken..filled, 0);
        let filled = filled - taken;
        self.lanes[lane as usize] = Lane::Publishing { slot, filled };
        self.queue.receive(lane, slot, filled)
    }

    /// Sends `frame` to everybody of this ring.
    fn fan_out(&mut self, frame: &[u8]) -> io::Result<()> {
        self.queue.set_frame(frame)?;
        for target in self.table.open(self.table.all()) {
            self.queue.offer(target)?;
        }
        Ok(())
    }

    /// Pings the part of the table whose turn it is.
    fn ping_share(&mut self) -> io::Result<()> {
        self.queue.set_frame(&PING)?;
        let share = self.table.next_share(self.pings);
        for target in self.table.open(share) {
            self.queue.offer(target)?;
        }
        Ok(())
    }

    /// A socket took nothing or a part, so its stream is unusable. A publisher, and with pings a
    /// subscriber, has a receive or poll armed that will end and close the slot.
    fn handle_refused(&mut self, slot: u32) -> io::Result<()> {
        let what = self.table.get(slot);
        self.table.set(slot, Slot::Free);
        self.refused += 1;
        if self.refused.is_power_of_two() {
            eprintln!("ringway-floor: {} connections did not take a frame", self.refused);
        }
        match what {
            Slot::Subscriber if self.pings == 0 => self.queue.close(slot),
            _ => Ok(()),
        }
    }

    /// Gives a lane's slot back and lets the lane accept again.
    fn restart(&mut self, lane: u32, slot: u32) -> io::Result<()> {
        self.close(slot)?;
        self.lanes[lane as usize] = Lane::Accepting;
        self.queue.accept(lane)
    }

    fn close(&mut self, slot: u32) -> io::Result<()> {
        self.table.set(slot, Slot::Free);
        self.queue.close(slot)
    }
}
