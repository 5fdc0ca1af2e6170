//! Receiving. An idle connection is polled once (a receive that waits would hold three times the
//! kernel memory); when the poll completes, a receive that does not wait takes what is there, and
//! the poll is armed again at the start of the next turn, after the worker has parsed the bytes.
//! In between the kernel holds nothing of the connection, and that is when most are closed. A busy
//! connection is promoted to a multishot receive, and demoted when it has been quiet.
//!
//! ```text
//!     Nothing ──▶ Poll ──▶ Receive ──▶ Nothing      idle: one message, one poll
//!        │                    └─▶ Receive           more is there, at most 4 in a row
//!        └──────▶ Multishot ──▶ Nothing             busy, until quiet, cancelled or out of buffers
//! ```

use io_uring::cqueue;
use sockets::{ReceiveFailure, Resting, receive_failure};
use worker::{Completion, ConnectionId, Reception, Slot, Time};

use crate::{
    engine::RingEngine,
    queue::Entry,
    slots::{Armed, Flags, Phase, SlotState, tagged_mut},
    tag::{Kind, Tag},
};

/// Receives in a row from one connection before the others get their turn.
const RECEIVES_IN_ROW_MAX: u8 = 4;

/// Multishots looked at, at once, whether they are quiet.
const QUIET_LOOKS_MAX: usize = 64;

/// Between two looks at the same multishot, in nanoseconds; also how long one may be quiet.
const QUIET_NS: u64 = 1_000_000_000;

/// Between two looks at different multishots, in nanoseconds.
const QUIET_STEP_NS: u64 = 10_000_000;

/// Which connections are to be armed, and which receive by multishot.
#[derive(Debug)]
pub(crate) struct Receptions {
    /// Slots to arm at the start of the next turn.
    to_arm: Vec<Slot>,
    /// Slots for whose bytes the kernel had no memory.
    pub(crate) resting: Resting,
    /// Slots that receive by multishot, and some that no longer do.
    multishots: Vec<Slot>,
    /// The next of them to look at.
    cursor: usize,
    /// When to look next.
    look_at: Time,
    /// How many may receive by multishot.
    multishots_max: usize,
    /// Receives within a second that promote; 0 never does.
    promote_at: u8,
}

impl Receptions {
    pub(crate) fn new(connections: u32, share: u32, messages_min: u32) -> Self {
        Self {
            to_arm: Vec::new(),
            resting: Resting::default(),
            multishots: Vec::new(),
            cursor: 0,
            look_at: Time(0),
            multishots_max: (connections / share.max(1)) as usize,
            promote_at: u8::try_from(messages_min).unwrap_or(u8::MAX),
        }
    }

    /// True exactly when this connection is to receive by multishot, where so many do now.
    fn promotes(&self, state: &SlotState, multishots: u64, now: Time) -> bool {
        multishots < self.multishots_max as u64 && state.is_busy(now, self.promote_at)
    }

    /// When there may be a quiet multishot to demote.
    pub(crate) fn due(&self) -> Time {
        if self.multishots.is_empty() { Time::NEVER } else { self.look_at }
    }
}

impl RingEngine {
    pub(crate) fn receive(&mut self, connection: ConnectionId) {
        let Some(state) = self.slots.open_mut(connection).filter(|state| !state.has(Flags::ENDED))
        else {
            return;
        };
        state.flags.insert(Flags::WANTED);
        self.list_to_arm(connection.slot);
    }

    pub(crate) fn stop_receiving(&mut self, connection: ConnectionId) {
        if let Some(state) = self.slots.open_mut(connection) {
            state.flags.remove(Flags::WANTED);
            self.cancel_armed(connection.slot);
        }
    }

    /// Puts a connection on the list of those to arm, unless something is armed: that one's
    /// completion lists it.
    pub(crate) fn list_to_arm(&mut self, slot: Slot) {
        let Some(state) = self.slots.slot_mut(slot) else { return };
        if state.has(Flags::WANTED) && !state.has(Flags::LISTED) && state.armed == Armed::Nothing {
            state.flags.insert(Flags::LISTED);
            self.receptions.to_arm.push(slot);
        }
    }

    /// Cancels what is armed and can wait. A one-shot receive ends by itself.
    pub(crate) fn cancel_armed(&mut self, slot: Slot) {
        let Some(state) = self.slots.slot_mut(slot) else { return };
        if state.has(Flags::CANCELLING) || !matches!(state.armed, Armed::Poll | Armed::Multishot) {
            return;
        }
        state.flags.insert(Flags::CANCELLING);
        if let Some(tag) = state.armed_tag(slot) {
            self.push(&Entry::cancel(tag));
        }
    }

    /// Arms every connection on the list that is still to be received from.
    pub(crate) fn arm_receives(&mut self, now: Time) {
        let mut list = std::mem::take(&mut self.receptions.to_arm);
        list.extend(self.receptions.resting.rested(now));
        for slot in list.drain(..) {
            let Some(state) = self.slots.slot_mut(slot) else { continue };
            state.flags.remove(Flags::LISTED);
            let receives =
                matches!(state.phase, Phase::Open | Phase::Lingering) && state.has(Flags::WANTED);
            if !receives || state.armed != Armed::Nothing {
                continue;
            }
            if self.receptions.promotes(state, self.counts.multishots, now) {
                self.arm_multishot(slot);
            } else if state.has(Flags::MORE) {
                state.receives_in_row = 0;
                self.arm_receive(slot);
            } else {
                state.armed = Armed::Poll;
                let (file, tag) = (state.file(slot), state.tag(Kind::Poll, slot));
                self.push(&Entry::poll(file, libc::POLLIN | libc::POLLRDHUP, tag));
            }
        }
        // Arming lists nothing: the room is kept, and no entry is lost.
        self.receptions.to_arm = list;
    }

    fn arm_receive(&mut self, slot: Slot) {
        let Some(state) = self.slots.slot_mut(slot) else { return };
        state.armed = Armed::Receive;
        state.flags.remove(Flags::MORE);
        state.receives_in_row += 1;
        let (file, tag) = (state.file(slot), state.tag(Kind::Receive, slot));
        self.push(&Entry::receive(file, tag));
    }

    fn arm_multishot(&mut self, slot: Slot) {
        let Some(state) = self.slots.slot_mut(slot) else { return };
        state.armed = Armed::Multishot;
        if !state.has(Flags::MULTISHOT_LISTED) {
            state.flags.insert(Flags::MULTISHOT_LISTED);
            self.receptions.multishots.push(slot);
        }
        let (file, tag) = (state.file(slot), state.tag(Kind::Multishot, slot));
        self.counts.multishots += 1;
        self.push(&Entry::receive_on_and_on(file, tag));
    }

    /// The poll of an idle connection has ended: receive what is there, or learn the errno.
    pub(crate) fn on_poll(&mut self, tag: Tag, result: i32) {
        let Some(state) = tagged_mut(&mut self.slots, tag) else {
            self.counts.completions_stale += 1;
            return;
        };
        state.armed = Armed::Nothing;
        state.flags.remove(Flags::CANCELLING);
        if !state.has(Flags::WANTED) {
            self.close_if_idle(tag.slot);
        } else if result == -libc::ECANCELED {
            self.list_to_arm(tag.slot);
        } else {
            state.receives_in_row = 0;
            self.arm_receive(tag.slot);
        }
    }

    /// A receive has completed: once, or once more.
    pub(crate) fn on_received(
        &mut self,
        now: Time,
        tag: Tag,
        completion: &cqueue::Entry,
        on_completion: &mut impl FnMut(Time, Completion<'_>),
    ) {
        let (result, flags) = (completion.result(), completion.flags());
        let buffer = cqueue::buffer_select(flags);
        let Some(state) = tagged_mut(&mut self.slots, tag) else {
            self.counts.completions_stale += 1;
            if let Some(buffer) = buffer {
                self.discard(buffer);
            }
            return;
        };
        // A multishot may end with any completion, whatever its result.
        if !cqueue::more(flags) {
            if state.armed == Armed::Multishot {
                self.counts.multishots -= 1;
            }
            state.armed = Armed::Nothing;
            state.flags.remove(Flags::CANCELLING);
        }
        state.flags.set(Flags::MORE, cqueue::sock_nonempty(flags));
        match (usize::try_from(result), buffer) {
            (Ok(length), Some(buffer)) if length > 0 => {
                self.deliver_bytes(now, tag.slot, buffer, length, on_completion);
            }
            (outcome, buffer) => {
                if let Some(buffer) = buffer {
                    self.discard(buffer);
                }
                let errno = outcome.map_or(-result, |_| 0);
                self.on_nothing_received(now, tag.slot, errno, on_completion);
            }
        }
        self.go_on_receiving(now, tag.slot);
    }

    /// A receive has brought no bytes: the end of the stream (`errno` 0), or an errno.
    pub(crate) fn on_nothing_received(
        &mut self,
        now: Time,
        slot: Slot,
        errno: i32,
        on_completion: &mut impl FnMut(Time, Completion<'_>),
    ) {
        let connection = self.slots.connection(slot);
        let Some(state) = self.slots.slot_mut(slot) else { return };
        let outcome = match errno {
            // Bytes are there and no buffer was: the others are given theirs back first.
            libc::ENOBUFS => {
                self.counts.receive_buffers_exhausted += 1;
                state.flags.insert(Flags::MORE);
                state.receives_in_row = RECEIVES_IN_ROW_MAX;
                return;
            }
            0 => Reception::Finished,
            errno => match receive_failure(errno) {
                // It is armed again.
                ReceiveFailure::Passing => return,
                ReceiveFailure::Exhausted => return self.receive_later(now, slot),
                ReceiveFailure::Lost(failure) => Reception::Failed(failure),
            },
        };
        state.flags.insert(Flags::ENDED);
        state.flags.remove(Flags::WANTED);
        match state.phase {
            Phase::Open => on_completion(now, Completion::Received { connection, outcome }),
            Phase::Lingering => self.end(slot),
            _ => {}
        }
    }

    /// Receives from a connection later: the kernel has no memory for its bytes.
    fn receive_later(&mut self, now: Time, slot: Slot) {
        let Some(state) = self.slots.slot_mut(slot) else { return };
        // The next one is preceded by a poll, whatever the last one said.
        state.flags.remove(Flags::MORE);
        if !state.has(Flags::LISTED) {
            state.flags.insert(Flags::LISTED);
            self.receptions.resting.rest(now, slot);
        }
    }

    /// Hands bytes to the worker, or throws them away, and gives the buffer back.
    fn deliver_bytes(
        &mut self,
        now: Time,
        slot: Slot,
        buffer: u16,
        length: usize,
        on_completion: &mut impl FnMut(Time, Completion<'_>),
    ) {
        let connection = self.slots.connection(slot);
        let Some(state) = self.slots.slot_mut(slot) else { return };
        let phase = state.phase;
        state.count_receive(now);
        match self.buffers.take(buffer, length) {
            Some(bytes) if phase == Phase::Open => {
                let outcome = Reception::Bytes(bytes);
                on_completion(now, Completion::Received { connection, outcome });
            }
            Some(_) => {}
            None => self.counts.completions_stale += 1,
        }
        self.buffers.give_back(buffer);
        if phase == Phase::Lingering {
            self.count_lingered(slot, length);
        }
    }

    /// What follows a completed receive: another one at once, or one at the start of the next turn.
    fn go_on_receiving(&mut self, now: Time, slot: Slot) {
        let Some(state) = self.slots.slot_mut(slot) else { return };
        if state.armed != Armed::Nothing {
            return;
        }
        let at_once = state.has(Flags::MORE)
            && state.receives_in_row < RECEIVES_IN_ROW_MAX
            && !self.receptions.promotes(state, self.counts.multishots, now);
        let receives =
            matches!(state.phase, Phase::Open | Phase::Lingering) && state.has(Flags::WANTED);
        if !receives {
            self.close_if_idle(slot);
        } else if at_once {
            self.arm_receive(slot);
        } else {
            self.list_to_arm(slot);
        }
    }

    /// A buffer that came with a completion nobody waits for.
    fn discard(&mut self, buffer: u16) {
        if self.buffers.take(buffer, 0).is_some() {
            self.buffers.give_back(buffer);
        }
    }

    /// Demotes multishots that have been quiet for a second: they have no end of their own and hold
    /// three times the memory of a poll.
    pub(crate) fn demote_quiet(&mut self, now: Time) {
        if now < self.receptions.due() {
            return;
        }
        for _ in 0..QUIET_LOOKS_MAX {
            let index = self.receptions.cursor;
            let Some(&slot) = self.receptions.multishots.get(index) else {
                self.receptions.cursor = 0;
                self.receptions.look_at = Time(now.0.saturating_add(QUIET_NS));
                return;
            };
            let Some(state) = self.slots.slot_mut(slot) else { return };
            if state.armed != Armed::Multishot {
                state.flags.remove(Flags::MULTISHOT_LISTED);
                self.receptions.multishots.swap_remove(index);
                continue;
            }
            if state.is_quiet(now) {
                self.cancel_armed(slot);
            }
            self.receptions.cursor += 1;
        }
        self.receptions.look_at = Time(now.0.saturating_add(QUIET_STEP_NS));
    }
}
