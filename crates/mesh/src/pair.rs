//! The queue of one ordered pair of members, as a producer's end and a consumer's end. Each end
//! exists once and is used by `&mut`, so there is never a second producer or a second consumer.
//!
//! `ArrayQueue` moves its tail before the letter lies in the slot, and its head before the slot is
//! free; an end that meets the other between these two steps spins until the other thread runs
//! again, which is a time slice when they share a core. So each end counts what it has finished,
//! and the other end touches the queue only as far as that count goes: neither ever spins.
//!
//! **Invariants:** `taken` ≤ `posted` ≤ `taken` + capacity, as numbers that never wrap in practice
//! and may. `posted` is written only by the [`Outbox`], `taken` only by the [`Inbox`], so each end
//! knows its own count without loading it.

use std::sync::Arc;

use crate::{
    line::Line,
    sync::{AtomicUsize, Ordering, Queue},
};

/// What lies in a queue: 24 bytes for a letter of 16.
#[derive(Debug)]
pub(crate) struct Posted<L> {
    pub(crate) letter: L,
    pub(crate) posted_at: u64,
}

#[derive(Debug)]
struct Pair<L> {
    queue: Queue<Posted<L>>,
    /// How many letters lie, or lay, in the queue. Stored with release after the push and loaded
    /// with acquire before the pop: a letter that is counted is in its slot.
    posted: Line<AtomicUsize>,
    /// How many of them have left it. Stored with release after the pop and loaded with acquire
    /// before the push: the slot of a letter that is counted is free.
    taken: Line<AtomicUsize>,
}

/// The producer's end.
#[derive(Debug)]
pub(crate) struct Outbox<L> {
    pair: Arc<Pair<L>>,
    posted: usize,
    /// What `pair.taken` was when it was last needed; it can only have grown.
    taken_seen: usize,
}

/// The consumer's end.
#[derive(Debug)]
pub(crate) struct Inbox<L> {
    pair: Arc<Pair<L>>,
    taken: usize,
    /// What `pair.posted` was when it was last needed; it can only have grown.
    posted_seen: usize,
}

/// Makes a queue of `letters_max` letters, which is not zero.
pub(crate) fn pair<L>(letters_max: usize) -> (Outbox<L>, Inbox<L>) {
    let pair = Arc::new(Pair {
        queue: Queue::new(letters_max),
        posted: Line(AtomicUsize::new(0)),
        taken: Line(AtomicUsize::new(0)),
    });
    (
        Outbox { pair: Arc::clone(&pair), posted: 0, taken_seen: 0 },
        Inbox { pair, taken: 0, posted_seen: 0 },
    )
}

impl<L> Outbox<L> {
    /// How many more letters fit now.
    pub(crate) fn room(&self) -> usize {
        self.room_after(self.pair.taken.load(Ordering::Acquire))
    }

    /// Puts a letter into the queue, or gives it back when there is no room.
    pub(crate) fn post(&mut self, posted: Posted<L>) -> Result<(), L> {
        if self.room_after(self.taken_seen) == 0 {
            self.taken_seen = self.pair.taken.load(Ordering::Acquire);
            if self.room_after(self.taken_seen) == 0 {
                return Err(posted.letter);
            }
        }
        let pushed = self.pair.queue.push(posted);
        assert!(pushed.is_ok(), "a slot whose letter was counted as taken is free");
        self.posted = self.posted.wrapping_add(1);
        self.pair.posted.store(self.posted, Ordering::Release);
        Ok(())
    }

    fn room_after(&self, taken: usize) -> usize {
        self.pair.queue.capacity() - self.posted.wrapping_sub(taken)
    }
}

impl<L> Inbox<L> {
    /// Whether a letter can be taken now.
    pub(crate) fn has_letter(&mut self) -> bool {
        if self.posted_seen == self.taken {
            self.posted_seen = self.pair.posted.load(Ordering::Acquire);
        }
        self.posted_seen != self.taken
    }

    /// The oldest letter.
    pub(crate) fn take(&mut self) -> Option<Posted<L>> {
        if !self.has_letter() {
            return None;
        }
        let posted = self.pair.queue.pop().expect("a letter that was counted is in its slot");
        self.taken = self.taken.wrapping_add(1);
        self.pair.taken.store(self.taken, Ordering::Release);
        Some(posted)
    }

    /// How many letters can be taken now.
    pub(crate) fn waiting(&self) -> usize {
        self.pair.posted.load(Ordering::Acquire).wrapping_sub(self.taken)
    }

    /// How many letters the queue holds at most.
    pub(crate) fn letters_max(&self) -> usize {
        self.pair.queue.capacity()
    }

    /// How much memory the queue takes, whether full or empty.
    pub(crate) fn memory_bytes(&self) -> usize {
        // The queue keeps a stamp of its own beside every element.
        size_of::<Pair<L>>() + self.letters_max() * size_of::<(usize, Posted<L>)>()
    }
}
