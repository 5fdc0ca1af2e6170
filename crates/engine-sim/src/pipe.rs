//! One direction of a link: what was written and could not leave yet, what is on its way, and what
//! has arrived and was not read. The first is bounded by the send buffer, the other two together by
//! the window of the reader; who does not read so makes the writer stop.

use std::collections::VecDeque;

use worker::Time;

/// What arrives at one moment.
#[derive(Debug)]
pub(crate) enum Segment {
    /// So many bytes.
    Bytes(usize),
    Fin,
    Reset,
}

/// How far the end of a stream has got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fin {
    None,
    /// Behind what could not leave yet.
    Queued,
    Sent,
    Arrived,
}

#[derive(Debug)]
pub(crate) struct Pipe {
    /// Every byte that was written and not read, in order: first what has arrived, then what is on
    /// its way, last what could not leave yet. Where a byte is only the two counts say.
    bytes: VecDeque<u8>,
    arrived_bytes: usize,
    on_the_way_bytes: usize,
    on_the_way: VecDeque<Segment>,
    fin: Fin,
    send_buffer_bytes: usize,
    window_bytes: usize,
    /// When the last segment that left arrives: none arrives before it.
    pub(crate) last_arrival: Time,
}

impl Pipe {
    pub(crate) fn new(send_buffer_bytes: usize, window_bytes: usize) -> Self {
        Self {
            bytes: VecDeque::new(),
            arrived_bytes: 0,
            on_the_way_bytes: 0,
            on_the_way: VecDeque::new(),
            fin: Fin::None,
            send_buffer_bytes,
            window_bytes,
            last_arrival: Time(0),
        }
    }

    /// What the send buffer takes now.
    pub(crate) fn room(&self) -> usize {
        self.send_buffer_bytes.saturating_sub(self.unsent_bytes())
    }

    /// Whether a writer that was refused is told to try again: not for every single byte.
    pub(crate) fn has_enough_room(&self) -> bool {
        self.room() >= (self.send_buffer_bytes / 4).max(1)
    }

    pub(crate) fn write(&mut self, bytes: &[u8]) {
        self.bytes.extend(bytes);
    }

    /// The end of the stream, behind what was written. True exactly when it was not told before.
    pub(crate) fn finish(&mut self) -> bool {
        let first = self.fin == Fin::None;
        if first {
            self.fin = Fin::Queued;
        }
        first
    }

    /// True exactly when the end of the stream was written.
    pub(crate) fn is_finished_by_writer(&self) -> bool {
        self.fin != Fin::None
    }

    /// True exactly when something waits for the window to open.
    pub(crate) fn is_held_up(&self) -> bool {
        self.unsent_bytes() > 0 || self.fin == Fin::Queued
    }

    /// Sends what the window lets through, at most `bytes_max` of it. True if something left.
    pub(crate) fn depart(&mut self, bytes_max: usize) -> bool {
        let window = self.window_bytes.saturating_sub(self.on_the_way_bytes + self.arrived_bytes);
        let unsent = self.unsent_bytes();
        let count = unsent.min(window).min(bytes_max);
        if count > 0 {
            self.on_the_way_bytes += count;
            self.on_the_way.push_back(Segment::Bytes(count));
            return true;
        }
        let finishes = unsent == 0 && self.fin == Fin::Queued;
        if finishes {
            self.fin = Fin::Sent;
            self.on_the_way.push_back(Segment::Fin);
        }
        finishes
    }

    /// A reset leaves, behind what is on its way and instead of what was still to be sent.
    pub(crate) fn depart_reset(&mut self) {
        self.forget_unsent();
        self.on_the_way.push_back(Segment::Reset);
    }

    /// The first segment arrives. Its bytes are kept if the reader `takes` them.
    pub(crate) fn arrive(&mut self, takes: bool) -> Option<Segment> {
        let segment = self.on_the_way.pop_front()?;
        match segment {
            Segment::Bytes(count) => {
                self.on_the_way_bytes -= count;
                if takes {
                    self.arrived_bytes += count;
                } else {
                    self.bytes.drain(self.arrived_bytes..self.arrived_bytes + count);
                }
            }
            Segment::Fin => self.fin = Fin::Arrived,
            Segment::Reset => {}
        }
        Some(segment)
    }

    /// Takes at most so many bytes that have arrived, puts them behind those, and says how many.
    pub(crate) fn read(&mut self, bytes_max: usize, received: &mut Vec<u8>) -> usize {
        let count = self.arrived_bytes.min(bytes_max);
        // In slices: an iterator would go by single bytes.
        let (front, back) = self.bytes.as_slices();
        let from_front = count.min(front.len());
        received.extend_from_slice(&front[..from_front]);
        received.extend_from_slice(&back[..count - from_front]);
        self.forget_front(count);
        count
    }

    pub(crate) fn arrived_bytes(&self) -> usize {
        self.arrived_bytes
    }

    /// True exactly when the reader has read everything, and there will be no more.
    pub(crate) fn is_at_its_end(&self) -> bool {
        self.arrived_bytes == 0 && self.fin == Fin::Arrived
    }

    /// The reader is broken.
    pub(crate) fn forget_arrived(&mut self) {
        self.forget_front(self.arrived_bytes);
    }

    /// The writer is broken.
    pub(crate) fn forget_unsent(&mut self) {
        self.bytes.truncate(self.arrived_bytes + self.on_the_way_bytes);
    }

    fn unsent_bytes(&self) -> usize {
        self.bytes.len() - self.arrived_bytes - self.on_the_way_bytes
    }

    fn forget_front(&mut self, count: usize) {
        self.bytes.drain(..count);
        self.arrived_bytes -= count;
    }
}
