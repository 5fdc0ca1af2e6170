//! A set of members by number, one bit each, that one endpoint keeps for itself.

/// How many members one word holds.
pub(crate) const WORD_MEMBERS: usize = u64::BITS as usize;

/// A set of numbers below the bound it was made with.
#[derive(Debug)]
pub(crate) struct MemberSet {
    words: Box<[u64]>,
}

impl MemberSet {
    /// The empty set of numbers below `members`.
    pub(crate) fn new(members: usize) -> Self {
        Self { words: vec![0; members.div_ceil(WORD_MEMBERS)].into() }
    }

    pub(crate) fn insert(&mut self, member: usize) {
        self.words[member / WORD_MEMBERS] |= bit(member);
    }

    pub(crate) fn remove(&mut self, member: usize) {
        self.words[member / WORD_MEMBERS] &= !bit(member);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.words.iter().all(|word| *word == 0)
    }

    /// The smallest element that is not below `from`.
    pub(crate) fn first_from(&self, from: usize) -> Option<usize> {
        let first = from / WORD_MEMBERS;
        let mut mask = u64::MAX << (from % WORD_MEMBERS);
        for (index, word) in self.words.iter().enumerate().skip(first) {
            let left = word & mask;
            if left != 0 {
                return Some(index * WORD_MEMBERS + left.trailing_zeros() as usize);
            }
            mask = u64::MAX;
        }
        None
    }

    /// The words, least members first.
    pub(crate) fn words_mut(&mut self) -> &mut [u64] {
        &mut self.words
    }
}

/// The bit of `member` in its word.
pub(crate) fn bit(member: usize) -> u64 {
    1 << (member % WORD_MEMBERS)
}
