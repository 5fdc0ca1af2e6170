//! Which workers want to hear of a topic: one bit for each worker in every row of a table that all
//! of them share, and a topic's hash says which row is its own. A publication is posted to those
//! whose bit is set and to nobody else. **Invariant:** a worker's bit in a topic's row is set from
//! before the first subscriber there is answered until after the last one has gone. Topics that
//! share a row share its bits, so that a worker may hear of a topic for nothing, and never misses one.
//!
//! A worker may come to what was posted to it for nothing only when it has a subscriber, who did not
//! get what came after. So topics have an order in which they begin, every publication says as of when
//! it was posted, and a worker leaves out what is older than its topic. **Invariant:** a subscriber
//! gets all that one sender publishes to its topic from some publication on.

use std::{
    array, iter,
    ops::BitOrAssign,
    sync::atomic::{
        AtomicU64,
        Ordering::{AcqRel, Acquire, SeqCst},
    },
};

use mesh::Member;
use rand::{Rng, SeedableRng, rngs::StdRng};
use siphasher::sip::SipHasher13;

/// Workers of a process, at most.
pub const WORKERS_MAX: u16 = 256;

/// Rows of the table, at most: 32 MiB with 64 workers.
const ROWS_MAX: u32 = 1 << 22;

const WORD_BITS: usize = 64;

/// The table. Beside the accounts of addresses it is all that workers share; it is written to where
/// a topic begins or ends on a worker, and read once a publication.
#[derive(Debug)]
pub struct Interest {
    everyone: Interested,
    /// Bits of a row: one for each worker, up to a power of two.
    columns: usize,
    /// One less than the rows, of which there are a power of two.
    row_mask: u32,
    /// Rows behind one another; none where there is one worker, who would ask only itself.
    words: Box<[AtomicU64]>,
    /// Topics that have begun on any worker.
    begun: AtomicU64,
    hasher: SipHasher13,
}

/// A moment between the beginnings of topics: how many there were before it, up to 2^56. In few
/// bytes without alignment, the highest first: every topic and every letter has one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Epoch([u8; 7]);

/// What a worker knows of a topic that it has announced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Announced {
    /// What is published as of an earlier epoch is not for this topic.
    pub begun: Epoch,
    /// False where the worker heard of its row already.
    pub is_first: bool,
}

/// Some of the workers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Interested {
    as_of: Epoch,
    words: [u64; WORKERS_MAX as usize / WORD_BITS],
}

impl Interest {
    /// Nobody's. `rows`: as many as there may be topics is plenty; it is rounded up to a power of two.
    /// Clients choose the names of topics, so their hash has a secret key, made from the seed.
    ///
    /// # Panics
    /// There is no worker, or more than [`WORKERS_MAX`].
    #[must_use]
    pub fn new(workers: u16, rows: u32, seed: u64) -> Self {
        assert!((1..=WORKERS_MAX).contains(&workers), "{workers} workers");
        let rows = rows.clamp(1, ROWS_MAX).next_power_of_two();
        let columns = usize::from(workers).next_power_of_two();
        let words = (columns * rows as usize).div_ceil(WORD_BITS);
        let words = if workers == 1 { 0 } else { words };
        let mut random = StdRng::seed_from_u64(seed);
        Self {
            everyone: Interested::first(workers),
            columns,
            row_mask: rows - 1,
            words: (0..words).map(|_| AtomicU64::new(0)).collect(),
            begun: AtomicU64::new(0),
            hasher: SipHasher13::new_with_keys(random.random(), random.random()),
        }
    }

    /// Bytes of the table.
    #[must_use]
    pub fn bytes(&self) -> usize {
        size_of_val(&*self.words)
    }

    /// What the table and everybody else knows a topic by. `topic` is its name in UTF-8.
    #[must_use]
    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "half of a good hash is a good hash")]
    pub fn hash(&self, topic: &[u8]) -> u32 {
        self.hasher.hash(topic) as u32
    }

    /// The workers to post a publication to, as of now; `None`: one to everyone.
    #[must_use]
    pub fn of(&self, topic: Option<&[u8]>) -> Interested {
        match topic {
            Some(topic) if !self.words.is_empty() => self.of_hash(self.hash(topic)),
            _ => self.everyone,
        }
    }

    /// The same for the topic with this hash.
    #[inline]
    pub(crate) fn of_hash(&self, hash: u32) -> Interested {
        if self.words.is_empty() {
            return self.everyone;
        }
        let first = self.first_bit(hash);
        let at = first / WORD_BITS;
        // Before the row: whoever has begun until then stands there.
        let as_of = Epoch::new(self.begun.load(Acquire));
        let mut interested = Interested { as_of, ..Interested::NOBODY };
        if self.columns < WORD_BITS {
            let row = self.words[at].load(Acquire) >> (first % WORD_BITS);
            interested.words[0] = row & ((1 << self.columns) - 1);
        } else {
            let row = &self.words[at..at + self.columns / WORD_BITS];
            interested
                .words
                .iter_mut()
                .zip(row)
                .for_each(|(word, shared)| *word = shared.load(Acquire));
        }
        interested
    }

    /// A topic with this hash begins on this worker, which from now on hears of it. To be called
    /// before a subscriber is answered: whoever publishes because of that answer finds it.
    pub fn announce(&self, hash: u32, worker: Member) -> Announced {
        let place = self.place(hash, worker);
        let is_first = place.is_none_or(|(word, bit)| word.fetch_or(bit, SeqCst) & bit == 0);
        // Behind the bit: who knows of this beginning finds it.
        let begun = Epoch::new(self.begun.fetch_add(1, AcqRel) + 1);
        Announced { begun, is_first }
    }

    /// From now on it does not.
    pub fn withdraw(&self, hash: u32, worker: Member) {
        if let Some((word, bit)) = self.place(hash, worker) {
            word.fetch_and(!bit, SeqCst);
        }
    }

    /// The row of topics with this hash.
    pub(crate) fn row(&self, hash: u32) -> u32 {
        hash & self.row_mask
    }

    fn place(&self, hash: u32, worker: Member) -> Option<(&AtomicU64, u64)> {
        let bit = self.first_bit(hash) + usize::from(worker.0);
        self.words.get(bit / WORD_BITS).map(|word| (word, 1 << (bit % WORD_BITS)))
    }

    fn first_bit(&self, hash: u32) -> usize {
        self.row(hash) as usize * self.columns
    }
}

impl Epoch {
    /// After all others.
    pub const LAST: Self = Self([u8::MAX; 7]);

    fn new(begun: u64) -> Self {
        let [_, bytes @ ..] = begun.to_be_bytes();
        Self(bytes)
    }

    /// Tells the last 2^32 beginnings apart, and is no number of them.
    pub(crate) fn low_bits(self) -> u32 {
        let Self([.., a, b, c, d]) = self;
        u32::from_ne_bytes([a, b, c, d])
    }
}

impl Interested {
    /// No worker.
    pub const NOBODY: Self =
        Self { as_of: Epoch::LAST, words: [0; WORKERS_MAX as usize / WORD_BITS] };

    /// The first so many workers, whatever they want to hear of.
    #[must_use]
    pub fn first(workers: u16) -> Self {
        let workers = usize::from(workers);
        let words = array::from_fn(|index| match workers.saturating_sub(index * WORD_BITS) {
            0 => 0,
            more if more >= WORD_BITS => u64::MAX,
            some => (1 << some) - 1,
        });
        Self { words, ..Self::NOBODY }
    }

    /// What is posted to them says that it was as of then. Who is always among them misses nothing,
    /// and is told the last.
    #[must_use]
    pub fn as_of(&self) -> Epoch {
        self.as_of
    }

    /// Whether this one is among them.
    #[must_use]
    pub fn contains(&self, worker: Member) -> bool {
        let bit = usize::from(worker.0);
        self.words.get(bit / WORD_BITS).is_some_and(|word| word >> (bit % WORD_BITS) & 1 == 1)
    }

    /// Each of them, in order.
    #[inline]
    pub fn members(self) -> impl Iterator<Item = Member> {
        (0..).step_by(WORD_BITS).zip(self.words).flat_map(|(first, mut word)| {
            iter::from_fn(move || {
                let bit = u16::try_from(word.trailing_zeros()).expect("a word has 64 bits");
                // Takes the lowest bit away.
                word &= word.checked_sub(1)?;
                Some(Member(first + bit))
            })
        })
    }
}

impl BitOrAssign for Interested {
    fn bitor_assign(&mut self, other: Self) {
        self.as_of = self.as_of.min(other.as_of);
        self.words.iter_mut().zip(other.words).for_each(|(word, more)| *word |= more);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(interested: Interested) -> Vec<u16> {
        interested.members().map(|member| member.0).collect()
    }

    #[test]
    fn a_row_says_who_has_announced_it_and_not_withdrawn() {
        for workers in [2, 3, 5, 58, 64, 65, 200, 256] {
            let interest = Interest::new(workers, 16, 1);
            let last = workers - 1;
            for row in 0..16 {
                assert_eq!(numbers(interest.of_hash(row)), [0; 0], "{workers} workers");
                assert!(interest.announce(row, Member(last)).is_first);
                assert!(!interest.announce(row, Member(last)).is_first, "it is announced already");
            }
            assert!(interest.announce(7, Member(0)).is_first);
            assert_eq!(numbers(interest.of_hash(7)), [0, last], "{workers} workers");
            assert_eq!(numbers(interest.of_hash(6)), [last]);
            assert_eq!(interest.of_hash(6 + 16), interest.of_hash(6), "the row is the same");
            interest.withdraw(7, Member(last));
            assert_eq!(numbers(interest.of_hash(7)), [0]);
            assert_eq!(numbers(interest.of_hash(8)), [last], "{workers} workers");
        }
    }

    #[test]
    fn what_is_for_everyone_is_for_all_workers_and_so_is_all_where_there_is_one() {
        let everyone = Interest::new(3, 16, 1).of(None);
        assert_eq!((numbers(everyone), everyone.as_of()), (vec![0, 1, 2], Epoch::LAST));
        assert_eq!(numbers(Interest::new(3, 16, 1).of(Some(b"a"))), [0; 0]);
        let alone = Interest::new(1, 16, 1);
        assert_eq!(numbers(alone.of(Some(b"a"))), [0]);
        assert!((0..2).all(|_| alone.announce(1, Member(0)).is_first));
        alone.withdraw(1, Member(0));
        assert_eq!((numbers(alone.of_hash(1)), alone.bytes()), (vec![0], 0));
        assert_eq!(alone.of_hash(1).as_of(), Epoch::LAST);
    }

    #[test]
    fn the_table_takes_a_bit_for_each_worker_and_row() {
        assert_eq!(Interest::new(2, 40_000, 1).bytes(), 16 << 10);
        assert_eq!(Interest::new(6, 100_000, 1).bytes(), 128 << 10);
        assert_eq!(Interest::new(58, 1_000_000, 1).bytes(), 8 << 20);
        assert_eq!(Interest::new(64, u32::MAX, 1).bytes(), 32 << 20);
    }

    #[test]
    fn sets_of_workers_are_joined_and_asked() {
        let mut both = Interested::first(3);
        both |= Interested { words: [0, 1 << 5, 0, 1 << 63], ..Interested::NOBODY };
        assert_eq!(numbers(both), [0, 1, 2, 69, 255]);
        assert!(both.contains(Member(69)) && !both.contains(Member(68)));
        assert!(!both.contains(Member(256)), "there is no such worker");
        assert_eq!(numbers(Interested::first(256)).len(), 256);
        assert_eq!(numbers(Interested::first(64)), (0..64).collect::<Vec<_>>());
    }

    #[test]
    fn what_is_posted_is_as_of_the_beginnings_that_it_has_seen() {
        for workers in [2, 100] {
            let interest = Interest::new(workers, 16, 1);
            let before = interest.of_hash(1);
            let begun = interest.announce(1, Member(0)).begun;
            let again = interest.announce(1, Member(workers - 1)).begun;
            assert!(before.as_of() < begun && begun < again);
            let after = interest.of_hash(1);
            assert_eq!(after.as_of(), again);
            let mut both = Interested::NOBODY;
            both |= after;
            assert_eq!(both, after);
            both |= before;
            assert_eq!(both.as_of(), before.as_of(), "the earlier one");
        }
    }

    #[test]
    fn epochs_are_in_order_as_long_as_56_bits_last() {
        let epochs = [0, 1, 255, 256, u64::from(u32::MAX), 1 << 32, (1 << 56) - 2].map(Epoch::new);
        assert!(epochs.is_sorted_by(|one, next| one < next) && epochs[6] < Epoch::LAST);
        let low_bits = [0, 1, 255, 256, u32::MAX, 0, u32::MAX - 1];
        assert_eq!(epochs.map(Epoch::low_bits), low_bits.map(u32::to_be));
    }

    #[test]
    fn the_hash_depends_on_the_seed() {
        let hashes = |seed| [b"a", b"b", b"c"].map(|name| Interest::new(2, 1, seed).hash(name));
        assert_eq!(hashes(1), hashes(1));
        assert_ne!(hashes(1), hashes(2));
    }
}
