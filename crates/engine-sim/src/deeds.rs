//! The account of a history: the last things that were done and told, and a number that stands for
//! all of them.

use std::collections::VecDeque;

use worker::Time;

/// Something that was done or told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deed {
    /// When.
    pub time: Time,
    /// Whose, or which connection's.
    pub who: u64,
    /// What.
    pub what: &'static str,
    /// How much of it.
    pub count: u64,
}

/// The account.
#[derive(Debug)]
pub(crate) struct Deeds {
    last: VecDeque<Deed>,
    last_max: usize,
    fingerprint: u64,
}

impl Deeds {
    /// An account that remembers so many.
    pub(crate) fn new(last_max: usize) -> Self {
        Self { last: VecDeque::new(), last_max, fingerprint: 0xcbf2_9ce4_8422_2325 }
    }

    pub(crate) fn note(&mut self, deed: Deed) {
        if self.last_max > 0 {
            if self.last.len() == self.last_max {
                self.last.pop_front();
            }
            self.last.push_back(deed);
        }
        for word in [deed.time.0, deed.who, deed.count, deed.what.len() as u64] {
            // FNV-1a by words: it need not resist anybody.
            self.fingerprint = (self.fingerprint ^ word).wrapping_mul(0x0100_0000_01b3);
        }
    }

    pub(crate) fn last(&self) -> Vec<Deed> {
        self.last.iter().copied().collect()
    }

    /// Two histories that are the same have it in common.
    pub(crate) fn fingerprint(&self) -> u64 {
        self.fingerprint
    }
}
