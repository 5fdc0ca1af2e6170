//! What a connection's socket has not taken yet. A queue exists only while something is in it or
//! on its way out of it; a connection that keeps up has none.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};

use crate::{operation::Taken, wheel::Tick};

/// Frames in the order in which they must leave.
#[derive(Debug, Clone, Default)]
pub(crate) struct SendQueue {
    frames: VecDeque<Frame>,
    /// How much of the first frame has left.
    taken: usize,
    /// Bytes of the frames, their charges included, and of what is in flight.
    bytes: usize,
    /// How many of the first frames were refused by the socket and have not been sent again.
    returned: usize,
    /// The send that has not completed.
    in_flight: Option<InFlight>,
}

/// What is to leave together: one frame, several, or the rest of one and others behind it.
#[derive(Debug, Clone)]
struct Frame {
    bytes: Bytes,
    /// So many of the first bytes are not whole frames: the rest of one, or an HTTP response.
    opaque: usize,
    messages: u32,
    queued: Tick,
}

/// A send as it will have to be put back if the socket does not take it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct InFlight {
    bytes: usize,
    pub(crate) opaque: usize,
    pub(crate) messages: u32,
    pub(crate) queued: Tick,
}

impl SendQueue {
    /// Puts whole frames of so many messages behind the others. `charge`: see `limits.rs`.
    pub(crate) fn push(&mut self, bytes: Bytes, messages: u32, queued: Tick, charge: usize) {
        self.bytes += bytes.len() + charge;
        self.frames.push_back(Frame { bytes, opaque: 0, messages, queued });
    }

    /// Puts bytes that are not to be cut behind the others.
    pub(crate) fn push_opaque(&mut self, bytes: Bytes, queued: Tick, charge: usize) {
        self.bytes += bytes.len() + charge;
        self.frames.push_back(Frame { opaque: bytes.len(), bytes, messages: 0, queued });
    }

    /// Puts a control frame before all data that has not begun to leave.
    pub(crate) fn push_control(&mut self, bytes: Bytes, queued: Tick, charge: usize) {
        self.bytes += bytes.len() + charge;
        let begun = usize::from(self.taken > 0);
        self.returned += usize::from(self.returned > 0);
        self.frames.insert(begun, Frame { opaque: bytes.len(), bytes, messages: 0, queued });
    }

    /// Puts back what a socket did not take: before everything else, but behind what the same
    /// batch had sent before it.
    pub(crate) fn push_rest(&mut self, rest: Taken, as_sent: InFlight, charge: usize) {
        debug_assert!(self.returned == 0 || rest.taken == 0, "a refused socket takes nothing more");
        self.bytes += rest.bytes.len() - rest.taken + charge;
        if self.returned == 0 {
            self.taken = rest.taken;
        }
        let InFlight { opaque, messages, queued, .. } = as_sent;
        self.frames.insert(self.returned, Frame { bytes: rest.bytes, opaque, messages, queued });
        self.returned += 1;
    }

    /// Takes what is to be sent next: the first frame, joined with those behind it as far as
    /// `bytes_max` goes.
    pub(crate) fn poll_send(&mut self, bytes_max: usize, charge: usize) -> Option<Bytes> {
        debug_assert!(self.in_flight.is_none(), "one send at a time");
        let first = self.frames.pop_front()?;
        let (queued, mut messages) = (first.queued, first.messages);
        let opaque = first.end_of_begun(self.taken).0 - self.taken;
        let mut next = first.bytes.slice(self.taken..);
        self.bytes -= charge;
        self.taken = 0;
        self.returned = 0;
        let mut joined = 0;
        let mut total = next.len();
        while let Some(frame) = self.frames.get(joined) {
            if total + frame.bytes.len() > bytes_max || frame.opaque > 0 {
                break;
            }
            total += frame.bytes.len();
            messages += frame.messages;
            joined += 1;
        }
        if joined > 0 {
            let mut buffer = BytesMut::with_capacity(total);
            buffer.extend_from_slice(&next);
            for frame in self.frames.drain(..joined) {
                buffer.extend_from_slice(&frame.bytes);
                self.bytes -= charge;
            }
            next = buffer.freeze();
        }
        self.in_flight = Some(InFlight { bytes: next.len(), opaque, messages, queued });
        Some(next)
    }

    /// The send is complete; what it left, if anything, is to be put back.
    pub(crate) fn complete_send(&mut self) -> Option<InFlight> {
        let sent = self.in_flight.take()?;
        self.bytes -= sent.bytes;
        Some(sent)
    }

    /// Throws away what has not begun to leave. Returns the number of messages lost. What has
    /// begun is cut behind the message it is in.
    pub(crate) fn truncate(&mut self, charge: usize) -> u64 {
        let begun = if self.taken > 0 { self.frames.pop_front() } else { None };
        let mut lost: u64 = self.frames.drain(..).map(|frame| u64::from(frame.messages)).sum();
        self.bytes = self.in_flight.map_or(0, |sent| sent.bytes);
        self.returned = 0;
        if let Some(mut frame) = begun {
            let (end, whole) = frame.end_of_begun(self.taken);
            lost += u64::from(frame.messages.saturating_sub(whole));
            frame.bytes.truncate(end);
            frame.messages = whole;
            if end > self.taken {
                self.bytes += end - self.taken + charge;
                self.returned = 1;
                self.frames.push_front(frame);
            } else {
                self.taken = 0;
            }
        }
        lost
    }

    /// Messages that have not left, the one that has begun included.
    pub(crate) fn messages(&self) -> u64 {
        self.frames.iter().map(|frame| u64::from(frame.messages)).sum()
    }

    /// Bytes held: frames, charges, and what is in flight.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// When the oldest byte that has not left was queued.
    pub(crate) fn oldest(&self) -> Option<Tick> {
        let queued = self.frames.front().map(|frame| frame.queued);
        self.in_flight.map(|sent| sent.queued).or(queued)
    }

    /// When each part of it was queued.
    pub(crate) fn times_mut(&mut self) -> impl Iterator<Item = &mut Tick> {
        let in_flight = self.in_flight.iter_mut().map(|sent| &mut sent.queued);
        self.frames.iter_mut().map(|frame| &mut frame.queued).chain(in_flight)
    }

    /// Whether nothing is left to be sent, nor in flight.
    pub(crate) fn is_empty(&self) -> bool {
        self.frames.is_empty() && self.in_flight.is_none()
    }
}

impl Frame {
    /// Where the message ends of which `taken` bytes have left, and how many messages end there.
    fn end_of_begun(&self, taken: usize) -> (usize, u32) {
        if taken <= self.opaque {
            return (self.opaque, u32::from(self.opaque > 0).min(self.messages));
        }
        let (end, whole) = wire::message_boundary(&self.bytes[self.opaque..], taken - self.opaque);
        (self.opaque + end, whole + u32::from(self.opaque > 0))
    }
}

impl InFlight {
    /// What was sent or offered without having been in a queue.
    pub(crate) fn unqueued(opaque: usize, messages: u32, queued: Tick) -> Self {
        Self { bytes: 0, opaque, messages, queued }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHARGE: usize = 64;

    fn text(payload: &str) -> Bytes {
        wire::encode_message(wire::DataOpcode::Text, payload.as_bytes())
    }

    #[test]
    fn frames_leave_joined_in_order_up_to_the_bound() {
        let mut queue = SendQueue::default();
        for payload in ["one", "two", "three"] {
            queue.push(text(payload), 1, Tick(1), CHARGE);
        }
        assert_eq!(queue.bytes(), 5 + 5 + 7 + 3 * CHARGE);
        assert_eq!(&queue.poll_send(11, CHARGE).unwrap()[..], b"\x81\x03one\x81\x03two");
        assert_eq!(queue.complete_send().unwrap().queued, Tick(1));
        assert_eq!(&queue.poll_send(1, CHARGE).unwrap()[..], b"\x81\x05three");
        queue.complete_send();
        assert!(queue.is_empty());
        assert_eq!(queue.bytes(), 0);
    }

    #[test]
    fn a_rest_leaves_first_and_keeps_its_age() {
        let mut queue = SendQueue::default();
        queue.push(text("behind"), 1, Tick(9), CHARGE);
        queue.push_rest(
            Taken { bytes: text("begun"), taken: 3 },
            InFlight::unqueued(0, 1, Tick(4)),
            CHARGE,
        );
        assert_eq!(queue.oldest(), Some(Tick(4)));
        assert_eq!(&queue.poll_send(0, CHARGE).unwrap()[..], b"egun");
        assert_eq!(queue.oldest(), Some(Tick(4)));
    }

    #[test]
    fn truncation_keeps_the_rest_of_the_message_that_has_begun() {
        let mut queue = SendQueue::default();
        let joined = Bytes::from([&text("one")[..], &text("two"), &text("three")].concat());
        queue.push_rest(
            Taken { bytes: joined, taken: 6 },
            InFlight::unqueued(0, 3, Tick(0)),
            CHARGE,
        );
        queue.push(text("four"), 1, Tick(0), CHARGE);
        assert_eq!(queue.truncate(CHARGE), 2);
        assert_eq!(&queue.poll_send(100, CHARGE).unwrap()[..], b"\x03two");
        queue.complete_send();
        assert_eq!(queue.bytes(), 0);
    }

    #[test]
    fn truncation_at_a_boundary_keeps_nothing() {
        let mut queue = SendQueue::default();
        let joined = Bytes::from([&text("one")[..], &text("two")].concat());
        queue.push_rest(
            Taken { bytes: joined, taken: 5 },
            InFlight::unqueued(0, 2, Tick(0)),
            CHARGE,
        );
        assert_eq!(queue.truncate(CHARGE), 1);
        assert!(queue.is_empty());
        assert_eq!(queue.bytes(), 0);
    }
}
