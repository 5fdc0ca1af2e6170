//! What a connection's socket has not taken yet. A queue exists only while something is in it or
//! on its way out of it; a connection that keeps up has none. What has begun to leave, what is on
//! its way, and what is no message is never dropped; the rest may be, a whole message at a time.

use std::{collections::VecDeque, mem};

use bytes::{Buf, Bytes, BytesMut};

use crate::{handler::Audience, operation::Taken, wheel::Tick};

/// Frames in the order in which they must leave.
#[derive(Debug, Clone, Default)]
pub(crate) struct SendQueue {
    frames: VecDeque<Frame>,
    /// How much of the first frame has left.
    taken: usize,
    /// Bytes of the frames and their charges, of what is on its way too.
    bytes: usize,
    /// Behind this many of the first frames belongs what the batch that the socket refused brings
    /// back next.
    returned: usize,
    /// The send that has not completed.
    sending: Option<Sending>,
}

/// What is to leave together: one frame or several joined.
#[derive(Debug, Clone)]
pub(crate) struct Frame {
    pub(crate) bytes: Bytes,
    /// Messages in it.
    pub(crate) messages: u32,
    pub(crate) content: Content,
    pub(crate) queued: Tick,
}

/// What a frame is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Content {
    /// Messages, published to this audience if to any.
    Messages(Option<Audience>),
    /// A control frame that may pass messages.
    Control,
    /// What is neither dropped nor passed: a response, a Close frame, messages among control frames.
    Opaque,
}

const _: () = assert!(size_of::<Frame>() <= 64, "the default charge covers it");

/// Frames on their way to the socket.
#[derive(Debug, Clone)]
struct Sending {
    parts: Vec<Frame>,
    /// How much of the first had left before.
    begun: usize,
}

impl SendQueue {
    /// Puts a frame behind the others, a control frame before all messages that have not begun to
    /// leave and have nothing else behind them. `charge`: see `limits.rs`.
    pub(crate) fn push(&mut self, mut frame: Frame, charge: usize) {
        self.bytes += frame.bytes.len() + charge;
        if frame.content == Content::Control {
            let last = self.frames.iter().rposition(|it| !it.is_message());
            let index = last.map_or(0, |last| last + 1).max(self.begun());
            self.returned += usize::from(index < self.returned);
            if let Some(passed) = self.frames.get(index) {
                // The first frame stays the oldest: who sends pings gains no time by their pongs.
                frame.queued = passed.queued;
            }
            self.frames.insert(index, frame);
        } else {
            self.frames.push_back(frame);
        }
    }

    /// Puts back a frame of which a socket took only so many bytes: before everything else, but
    /// behind what the same batch had sent before it.
    pub(crate) fn push_refused(&mut self, frame: Frame, taken: usize, charge: usize) {
        debug_assert!(self.returned == 0 || taken == 0, "a refused socket takes nothing more");
        self.bytes += frame.bytes.len() - taken + charge;
        if self.returned == 0 {
            self.taken = taken;
        }
        self.frames.insert(self.returned, frame);
        self.returned += 1;
    }

    /// Takes what is to be sent next: the first frame, joined with the messages behind it as far
    /// as `bytes_max` goes.
    pub(crate) fn poll_send(&mut self, bytes_max: usize) -> Option<Bytes> {
        debug_assert!(self.sending.is_none(), "one send at a time");
        let first = self.frames.pop_front()?;
        let begun = mem::take(&mut self.taken);
        self.returned = 0;
        let mut next = first.bytes.slice(begun..);
        let mut total = next.len();
        let mut parts = vec![first];
        while let Some(frame) = self.frames.front()
            && total + frame.bytes.len() <= bytes_max
            && matches!(frame.content, Content::Messages(_))
        {
            total += frame.bytes.len();
            parts.extend(self.frames.pop_front());
        }
        if parts.len() > 1 {
            let mut buffer = BytesMut::with_capacity(total);
            buffer.extend_from_slice(&next);
            parts[1..].iter().for_each(|part| buffer.extend_from_slice(&part.bytes));
            next = buffer.freeze();
        }
        self.sending = Some(Sending { parts, begun });
        Some(next)
    }

    /// The socket took so many bytes of what was sent. What is left of it comes back.
    pub(crate) fn complete_send(&mut self, taken: usize, charge: usize) {
        let Some(Sending { mut parts, begun }) = self.sending.take() else { return };
        self.bytes -= taken;
        let mut left = begun + taken;
        let whole = parts
            .iter()
            .take_while(|part| match left.checked_sub(part.bytes.len()) {
                Some(rest) => {
                    left = rest;
                    true
                }
                None => false,
            })
            .count();
        self.bytes -= whole * charge;
        parts.drain(..whole);
        let mut rest = parts.into_iter();
        // Behind what the same batch had sent before it. Control frames that came meanwhile pass
        // messages that have not begun, and nothing else.
        let mut first = self.returned;
        let waiting = self.frames.iter().skip(first);
        let mut place = first + waiting.take_while(|it| it.content == Content::Control).count();
        if left > 0 {
            debug_assert!(first == 0, "a refused socket takes nothing more");
            self.taken = left;
            self.frames.push_front(rest.next().expect("no more was taken than was sent"));
            (first, place) = (1, place + 1);
        }
        let is_refused = left > 0 || rest.len() > 0;
        for part in rest {
            if part.is_message() {
                self.frames.insert(place, part);
            } else {
                self.frames.insert(first, part);
                first += 1;
            }
            place += 1;
        }
        self.returned = if is_refused { place } else { 0 };
    }

    /// What was sent has failed. Returns the number of messages lost.
    pub(crate) fn fail_send(&mut self, charge: usize) -> u64 {
        let Some(Sending { parts, begun }) = self.sending.take() else { return 0 };
        self.bytes += begun;
        let mut taken = begun;
        let lost = parts.iter().map(|part| {
            self.bytes -= part.bytes.len() + charge;
            part.messages_left(mem::take(&mut taken))
        });
        lost.sum()
    }

    /// Throws away what has not begun to leave and is not on its way, but nothing opaque. Returns
    /// the number of messages lost. What has begun is cut behind the message it is in.
    pub(crate) fn truncate(&mut self, charge: usize) -> u64 {
        self.split_begun(charge);
        let mut lost = 0;
        let mut index = self.begun();
        while let Some(frame) = self.frames.get(index) {
            if frame.content == Content::Opaque {
                index += 1;
                continue;
            }
            lost += u64::from(frame.messages);
            self.bytes -= frame.bytes.len();
            self.remove(index, charge);
        }
        self.returned = self.frames.len();
        lost
    }

    /// Throws away the oldest messages until the queue is within its bound, as far as there are
    /// any that may be dropped. Returns how many.
    pub(crate) fn drop_oldest(&mut self, bytes_max: usize, charge: usize) -> u64 {
        let mut dropped = 0;
        if self.bytes > bytes_max {
            self.split_begun(charge);
        }
        let mut index = self.begun();
        while self.bytes > bytes_max {
            let Some(frame) = self.frames.get_mut(index) else { break };
            if !matches!(frame.content, Content::Messages(_)) {
                index += 1;
                continue;
            }
            let (end, _) = wire::message_boundary(&frame.bytes, 1);
            frame.bytes.advance(end);
            frame.messages -= 1;
            self.bytes -= end;
            dropped += 1;
            if frame.bytes.is_empty() {
                self.remove(index, charge);
            }
        }
        dropped
    }

    /// Throws away every message behind which there is a newer one of the same audience. Returns
    /// how many.
    pub(crate) fn keep_latest(&mut self, charge: usize) -> u64 {
        let mut dropped = 0;
        self.split_begun(charge);
        let mut seen: Vec<Audience> = Vec::new();
        for index in (self.begun()..self.frames.len()).rev() {
            let frame = &mut self.frames[index];
            let Content::Messages(Some(audience)) = frame.content else { continue };
            if seen.contains(&audience) {
                dropped += u64::from(frame.messages);
                self.bytes -= frame.bytes.len();
                self.remove(index, charge);
                continue;
            }
            seen.push(audience);
            while frame.messages > 1 {
                let (end, _) = wire::message_boundary(&frame.bytes, 1);
                frame.bytes.advance(end);
                frame.messages -= 1;
                self.bytes -= end;
                dropped += 1;
            }
        }
        dropped
    }

    /// How many of the first frames have begun to leave.
    fn begun(&self) -> usize {
        usize::from(self.taken > 0)
    }

    /// Lets the message that has begun stand alone.
    fn split_begun(&mut self, charge: usize) {
        if self.taken == 0 {
            return;
        }
        let frame = &mut self.frames[0];
        if !matches!(frame.content, Content::Messages(_)) {
            return;
        }
        let (end, whole) = wire::message_boundary(&frame.bytes, self.taken);
        let behind = Frame {
            bytes: frame.bytes.split_off(end),
            messages: frame.messages.saturating_sub(whole),
            ..frame.clone()
        };
        frame.messages = whole.min(frame.messages);
        if !behind.bytes.is_empty() {
            self.bytes += charge;
            self.frames.insert(1, behind);
            self.returned += usize::from(self.returned > 0);
        }
        if end == self.taken {
            self.remove(0, charge);
            self.taken = 0;
        }
    }

    /// Takes out a frame of which nothing is left.
    fn remove(&mut self, index: usize, charge: usize) {
        self.frames.remove(index);
        self.bytes -= charge;
        self.returned -= usize::from(index < self.returned);
    }

    /// Messages that wait, one that has begun among them.
    pub(crate) fn messages(&self) -> u64 {
        let mut taken = self.taken;
        self.frames.iter().map(|frame| frame.messages_left(mem::take(&mut taken))).sum()
    }

    /// Bytes held, those on their way included, and their charges.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// When the oldest byte that has not left was queued.
    pub(crate) fn oldest(&self) -> Option<Tick> {
        self.all().next().map(|frame| frame.queued)
    }

    /// What is on its way, and what waits behind it.
    fn all(&self) -> impl Iterator<Item = &Frame> {
        self.sending.iter().flat_map(|sending| &sending.parts).chain(&self.frames)
    }

    /// When each part of it was queued.
    pub(crate) fn times_mut(&mut self) -> impl Iterator<Item = &mut Tick> {
        let sending = self.sending.iter_mut().flat_map(|sending| &mut sending.parts);
        sending.chain(&mut self.frames).map(|frame| &mut frame.queued)
    }

    /// Whether nothing is left to be sent, nor on its way.
    pub(crate) fn is_empty(&self) -> bool {
        self.frames.is_empty() && self.sending.is_none()
    }
}

impl Frame {
    fn is_message(&self) -> bool {
        matches!(self.content, Content::Messages(_))
    }

    /// Messages that have not left when the socket has taken so many bytes.
    pub(crate) fn messages_left(&self, taken: usize) -> u64 {
        // What is no frame holds no messages either: a response.
        let gone = if self.messages == 0 { 0 } else { wire::messages_within(&self.bytes, taken) };
        u64::from(self.messages - gone)
    }

    /// What a socket did not take whole, of which it is not known what it is.
    pub(crate) fn refused(taken: &Taken, audience: Option<Audience>, queued: Tick) -> Self {
        let (_, messages) = wire::message_boundary(&taken.bytes, taken.bytes.len());
        let content = if wire::has_control_frame(&taken.bytes) {
            Content::Opaque
        } else {
            Content::Messages(audience)
        };
        Self { bytes: taken.bytes.clone(), messages, content, queued }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHARGE: usize = 64;
    const A: Option<Audience> = Some(Audience(1));
    const B: Option<Audience> = Some(Audience(2));

    fn bytes(payloads: &[&str]) -> Bytes {
        let frames = payloads
            .iter()
            .map(|payload| wire::encode_message(wire::DataOpcode::Text, payload.as_bytes()));
        frames.collect::<Vec<_>>().concat().into()
    }

    fn frame(payloads: &[&str], audience: Option<Audience>) -> Frame {
        let messages = u32::try_from(payloads.len()).unwrap();
        let content = Content::Messages(audience);
        Frame { bytes: bytes(payloads), messages, content, queued: Tick(1) }
    }

    fn control() -> Frame {
        let bytes = Bytes::from_static(b"\x8A\x00");
        Frame { bytes, messages: 0, content: Content::Control, queued: Tick(1) }
    }

    /// All that leaves of a queue, which is then worth nothing.
    fn drain(queue: &mut SendQueue) -> Vec<u8> {
        let mut all = Vec::new();
        while let Some(next) = queue.poll_send(10) {
            all.extend_from_slice(&next);
            queue.complete_send(next.len(), CHARGE);
        }
        assert!(queue.is_empty());
        assert_eq!(queue.bytes(), 0);
        all
    }

    #[test]
    fn frames_leave_joined_in_order_up_to_the_bound() {
        let mut queue = SendQueue::default();
        for payload in ["one", "two", "three"] {
            queue.push(frame(&[payload], A), CHARGE);
        }
        assert_eq!(queue.bytes(), 5 + 5 + 7 + 3 * CHARGE);
        assert_eq!(&queue.poll_send(11).unwrap()[..], b"\x81\x03one\x81\x03two");
        queue.complete_send(10, CHARGE);
        assert_eq!(queue.bytes(), 7 + CHARGE);
        assert_eq!(drain(&mut queue), b"\x81\x05three");
    }

    #[test]
    fn a_rest_leaves_first_and_keeps_its_age() {
        let mut queue = SendQueue::default();
        queue.push(Frame { queued: Tick(9), ..frame(&["behind"], A) }, CHARGE);
        queue.push_refused(Frame { queued: Tick(4), ..frame(&["begun"], A) }, 3, CHARGE);
        assert_eq!(queue.oldest(), Some(Tick(4)));
        assert_eq!(&queue.poll_send(0).unwrap()[..], b"egun");
        assert_eq!(queue.oldest(), Some(Tick(4)));
        queue.complete_send(4, CHARGE);
        assert_eq!(drain(&mut queue), b"\x81\x06behind");
    }

    #[test]
    fn a_pong_is_as_old_as_the_message_that_it_passes() {
        let mut queue = SendQueue::default();
        queue.push(Frame { queued: Tick(4), ..frame(&["one"], A) }, CHARGE);
        queue.push(Frame { queued: Tick(9), ..control() }, CHARGE);
        assert_eq!(queue.oldest(), Some(Tick(4)));
        assert_eq!(drain(&mut queue), b"\x8A\x00\x81\x03one");
    }

    #[test]
    fn what_a_send_left_comes_back_before_all_and_behind_a_control_frame_unless_it_has_begun() {
        for (taken, expected) in [
            (0, &b"\x8A\x00\x81\x03one\x81\x03two\x81\x05three"[..]),
            (2, b"one\x8A\x00\x81\x03two\x81\x05three"),
            (5, b"\x8A\x00\x81\x03two\x81\x05three"),
            (10, b"\x8A\x00\x81\x05three"),
        ] {
            let mut queue = SendQueue::default();
            queue.push(frame(&["one"], A), CHARGE);
            queue.push(frame(&["two"], B), CHARGE);
            assert_eq!(queue.poll_send(100).unwrap().len(), 10);
            queue.push(frame(&["three"], A), CHARGE);
            queue.push(control(), CHARGE);
            queue.complete_send(taken, CHARGE);
            assert_eq!(drain(&mut queue), expected, "{taken}");
        }
    }

    #[test]
    fn what_is_sent_behind_a_refused_offer_comes_back_behind_it() {
        let mut queue = SendQueue::default();
        let close =
            Frame { bytes: Bytes::from_static(b"\x88\x00"), content: Content::Opaque, ..control() };
        queue.push(close, CHARGE);
        assert!(queue.poll_send(0).is_some());
        queue.push_refused(frame(&["begun"], A), 3, CHARGE);
        queue.complete_send(0, CHARGE);
        assert_eq!(drain(&mut queue), b"egun\x88\x00");
    }

    fn pong(letter: u8) -> Frame {
        Frame { bytes: Bytes::from(vec![0x8A, 0x01, letter]), ..control() }
    }

    #[test]
    fn control_frames_leave_in_their_order_whether_refused_on_their_way_or_waiting() {
        let mut queue = SendQueue::default();
        let refused = Taken { bytes: pong(b'a').bytes, taken: 0 };
        queue.push_refused(Frame::refused(&refused, None, Tick(1)), 0, CHARGE);
        queue.push(frame(&["behind"], A), CHARGE);
        queue.push(pong(b'b'), CHARGE);
        queue.push(pong(b'c'), CHARGE);
        assert_eq!(&queue.poll_send(0).unwrap()[..], b"\x8A\x01a");
        queue.push(pong(b'd'), CHARGE);
        queue.complete_send(0, CHARGE);
        let expected = b"\x8A\x01a\x8A\x01b\x8A\x01c\x8A\x01d\x81\x06behind";
        assert_eq!(drain(&mut queue), expected);
    }

    #[test]
    fn nothing_passes_a_response_that_comes_back() {
        let mut queue = SendQueue::default();
        let response = Bytes::from_static(b"HTTP/1.1 101 ");
        queue.push(Frame { bytes: response, content: Content::Opaque, ..control() }, CHARGE);
        assert!(queue.poll_send(0).is_some());
        queue.push(pong(b'a'), CHARGE);
        queue.complete_send(0, CHARGE);
        queue.push(frame(&["lost"], A), CHARGE);
        assert_eq!(queue.truncate(CHARGE), 1);
        assert_eq!(drain(&mut queue), b"HTTP/1.1 101 ", "a pong may be lost at the end");
    }

    #[test]
    fn a_send_behind_an_offer_that_the_socket_refused_in_the_same_batch_stays_behind_it() {
        for taken in [0, 3] {
            let mut queue = SendQueue::default();
            queue.push(Frame { content: Content::Opaque, ..frame(&["last"], None) }, CHARGE);
            queue.poll_send(100).unwrap();
            queue.push_refused(frame(&["offered"], A), taken, CHARGE);
            queue.push_refused(frame(&["too"], A), 0, CHARGE);
            queue.complete_send(0, CHARGE);
            let expected = b"\x81\x07offered\x81\x03too\x81\x04last";
            assert_eq!(drain(&mut queue), expected[taken..]);
        }
    }

    #[test]
    fn what_fails_on_its_way_is_lost_and_what_waits_is_not() {
        let mut queue = SendQueue::default();
        queue.push_refused(frame(&["one", "two"], A), 3, CHARGE);
        queue.push(frame(&["three"], A), CHARGE);
        queue.push(frame(&["four"], A), CHARGE);
        assert_eq!(queue.poll_send(7 + 7).unwrap().len(), 7 + 7);
        assert_eq!(queue.fail_send(CHARGE), 3);
        assert_eq!(queue.messages(), 1);
        assert_eq!(drain(&mut queue), b"\x81\x04four");
    }

    #[test]
    fn messages_that_have_left_whole_are_not_lost_with_the_rest_of_their_frame() {
        let mut queue = SendQueue::default();
        queue.push_refused(frame(&["one", "two", "three"], A), 5 + 2, CHARGE);
        assert_eq!(queue.messages(), 2);
        queue.poll_send(100).unwrap();
        queue.complete_send(3, CHARGE);
        assert_eq!(queue.messages(), 1);
        queue.poll_send(100).unwrap();
        assert_eq!(queue.fail_send(CHARGE), 1);
        assert_eq!((queue.messages(), queue.bytes()), (0, 0));
    }

    #[test]
    fn truncation_keeps_the_rest_of_the_message_that_has_begun() {
        let mut queue = SendQueue::default();
        queue.push_refused(frame(&["one", "two", "three"], A), 6, CHARGE);
        queue.push(frame(&["four"], A), CHARGE);
        assert_eq!(queue.truncate(CHARGE), 2);
        assert_eq!(drain(&mut queue), b"\x03two");
    }

    #[test]
    fn truncation_at_a_boundary_keeps_nothing() {
        let mut queue = SendQueue::default();
        queue.push_refused(frame(&["one", "two"], A), 5, CHARGE);
        assert_eq!(queue.truncate(CHARGE), 1);
        assert!(queue.is_empty());
        assert_eq!(queue.bytes(), 0);
    }

    #[test]
    fn the_oldest_messages_are_dropped_but_not_what_has_begun_nor_control_frames() {
        let mut queue = SendQueue::default();
        queue.push_refused(frame(&["one", "two", "three"], A), 2, CHARGE);
        queue.push(frame(&["four", "five"], B), CHARGE);
        queue.push(control(), CHARGE);
        let within = queue.bytes();
        assert_eq!(queue.drop_oldest(within, CHARGE), 0);
        // What had begun stands alone now, at the price of a charge, and then "three" goes as well.
        assert_eq!(queue.drop_oldest(within - 1, CHARGE), 2);
        assert_eq!(queue.drop_oldest(3 + 2 + 6 + 3 * CHARGE, CHARGE), 1);
        assert_eq!(queue.bytes(), 3 + 2 + 6 + 3 * CHARGE);
        assert_eq!(queue.messages(), 2);
        assert_eq!(drain(&mut queue), b"one\x8A\x00\x81\x04five");
    }

    #[test]
    fn a_bound_that_nothing_fits_into_drops_every_message_that_may_be_dropped() {
        let mut queue = SendQueue::default();
        queue.push(frame(&["one"], A), CHARGE);
        assert!(queue.poll_send(100).is_some());
        queue.push(frame(&["two"], A), CHARGE);
        assert_eq!(queue.drop_oldest(0, CHARGE), 1);
        queue.complete_send(0, CHARGE);
        assert_eq!(drain(&mut queue), b"\x81\x03one");
    }

    #[test]
    fn the_latest_message_of_each_audience_is_kept() {
        let mut queue = SendQueue::default();
        queue.push_refused(frame(&["a1", "a2"], A), 1, CHARGE);
        queue.push(frame(&["b1", "b2", "b3"], B), CHARGE);
        queue.push(frame(&["to me"], None), CHARGE);
        queue.push(frame(&["a3"], A), CHARGE);
        assert_eq!(queue.keep_latest(CHARGE), 3);
        assert_eq!(queue.keep_latest(CHARGE), 0);
        assert_eq!(drain(&mut queue), b"\x02a1\x81\x02b3\x81\x05to me\x81\x02a3");
    }
}
