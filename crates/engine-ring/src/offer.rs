//! Sends and offers: one entry per target, decided by the enter that consumes it. Between two
//! enters a connection gets at most one, whoever asks: of two, the second would follow the first
//! onto the wire even where the first was cut short.

use bytes::Bytes;
use sockets::{Decided, refused};
use worker::{Completion, ConnectionId, Slot, Time};

use crate::{
    engine::RingEngine,
    queue::Entry,
    sends::FrameMark,
    slots::{Flags, Phase, tagged_mut},
    tag::{Kind, Tag},
};

impl RingEngine {
    pub(crate) fn send(&mut self, connection: ConnectionId, bytes: Bytes) {
        let Some(state) = self.slots.open_mut(connection) else { return };
        let file = state.file(connection.slot);
        self.make_room_for(connection.slot);
        if self.refuse_behind(connection.slot, true, &bytes) {
            return;
        }
        let mark = self.sends.hold(bytes);
        let entry = self.sends.send(mark, connection.slot, file);
        self.push_send(connection.slot, entry);
    }

    pub(crate) fn offer(&mut self, frame: &Bytes, targets: &[Slot]) {
        let mut held: Option<(u32, FrameMark)> = None;
        let mut is_large = self.is_large(frame);
        for &slot in targets {
            self.offered += 1;
            let state = self.slots.slot_mut(slot).filter(|state| state.phase == Phase::Open);
            let Some(state) = state else { continue };
            let file = state.file(slot);
            self.make_room_for(slot);
            if self.refuse_behind(slot, false, frame) {
                continue;
            }
            // An enter in between has released the frame, and it is held again.
            let mark = match held {
                Some((batch, mark)) if batch == self.batch => mark,
                _ => self.sends.hold(frame.clone()),
            };
            held = Some((self.batch, mark));
            let from_arena = if is_large {
                self.offer_from_arena(&mut is_large, frame, mark, slot)
            } else {
                None
            };
            let entry = from_arena.or_else(|| self.sends.offer(mark, slot, file));
            self.push_send(slot, entry);
        }
    }

    /// Enters if the queue is full, or if the connection has been sent to since the last enter.
    #[inline]
    fn make_room_for(&mut self, slot: Slot) {
        let batch = self.batch;
        if self.slots.slot_mut(slot).is_some_and(|state| state.batch == batch) {
            self.counts.batches_split += 1;
            self.flush();
        } else {
            self.make_room();
        }
    }

    /// If an earlier send was refused and the worker does not know yet, this one is refused, whole
    /// and behind it.
    fn refuse_behind(&mut self, slot: Slot, sent: bool, bytes: &Bytes) -> bool {
        let refused = self.slots.slot_mut(slot).is_some_and(|state| state.has(Flags::REFUSED));
        if refused {
            let connection = self.slots.connection(slot);
            let bytes = bytes.clone();
            self.decided.push_back(Decided { connection, sent, bytes, taken: Ok(0) });
        }
        refused
    }

    #[inline]
    fn push_send(&mut self, slot: Slot, entry: Option<Entry>) {
        let Some(entry) = entry else { return };
        if let Some(state) = self.slots.slot_mut(slot) {
            state.batch = self.batch;
        }
        self.push(&entry);
    }

    /// Takes the completion of a send or of a target, right after the enter that consumed it.
    pub(crate) fn on_decided(&mut self, tag: Tag, result: i32) {
        let Some(bytes) = self.sends.frame(tag.mark) else {
            self.counts.completions_stale += 1;
            return;
        };
        let Some(state) = self.slots.slot_mut(tag.slot).filter(|state| state.phase == Phase::Open)
        else {
            return;
        };
        let taken = usize::try_from(result).or_else(|_| refused(-result));
        let whole = taken.is_ok_and(|taken| taken >= bytes.len());
        let sent = tag.kind == Kind::Send;
        if !whole {
            state.flags.insert(Flags::REFUSED);
        }
        if sent || !whole {
            let bytes = bytes.clone();
            let connection = self.slots.connection(tag.slot);
            self.decided.push_back(Decided { connection, sent, bytes, taken });
        }
    }

    /// Tells the worker what was decided, before anything else of the same enters.
    pub(crate) fn deliver_decided(
        &mut self,
        now: Time,
        on_completion: &mut impl FnMut(Time, Completion<'_>),
    ) {
        while let Some(decided) = self.decided.pop_front() {
            let Some(state) = self.slots.open_mut(decided.connection) else { continue };
            state.flags.remove(Flags::REFUSED);
            if decided.is_short() {
                self.poll_writable(decided.connection.slot);
            }
            on_completion(now, decided.into_completion());
        }
        let targets = std::mem::take(&mut self.offered_decided);
        if targets > 0 {
            on_completion(now, Completion::Offered { targets });
        }
    }

    /// Waits for the socket to take bytes again; completes once, as `Writable`.
    fn poll_writable(&mut self, slot: Slot) {
        let Some(state) = self.slots.slot_mut(slot).filter(|state| !state.has(Flags::WRITE_POLL))
        else {
            return;
        };
        state.flags.insert(Flags::WRITE_POLL);
        let (file, tag) = (state.file(slot), state.tag(Kind::WritePoll, slot));
        self.push(&Entry::poll(file, libc::POLLOUT, tag));
    }

    /// The poll for writability has ended. A failed socket is writable too: the next send says so.
    pub(crate) fn on_write_poll(
        &mut self,
        now: Time,
        tag: Tag,
        on_completion: &mut impl FnMut(Time, Completion<'_>),
    ) {
        let Some(state) = tagged_mut(&mut self.slots, tag) else {
            self.counts.completions_stale += 1;
            return;
        };
        state.flags.remove(Flags::WRITE_POLL);
        let open = state.phase == Phase::Open;
        let connection = self.slots.connection(tag.slot);
        if open {
            on_completion(now, Completion::Writable { connection });
        } else {
            self.close_if_idle(tag.slot);
        }
    }
}
