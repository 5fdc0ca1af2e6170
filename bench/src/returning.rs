//! Connections that were lost and come back: which of them wait, and when the next may try. It
//! opens nothing itself.

use std::collections::VecDeque;

/// How long all wait after one was refused: nobody listens, or everything is full.
const RETRY_NS: u64 = 10_000_000;

/// The connections of a process that are on their way back.
#[derive(Debug, Default)]
pub(crate) struct Returning {
    waiting: VecDeque<u32>,
    retry_ns: u64,
    /// How often an open connection was lost, since all were open.
    lost: u32,
}

impl Returning {
    /// Connection `index`, which was open, is lost.
    pub(crate) fn lose(&mut self, index: u32) {
        self.waiting.push_back(index);
        self.lost += 1;
    }

    /// Connection `index` has tried and was refused.
    pub(crate) fn refuse(&mut self, index: u32, now_ns: u64) {
        self.waiting.push_back(index);
        self.retry_ns = now_ns + RETRY_NS;
    }

    /// The next that may try now.
    pub(crate) fn poll(&mut self, now_ns: u64) -> Option<u32> {
        if now_ns < self.retry_ns { None } else { self.waiting.pop_front() }
    }

    /// When the next may try, where one waits.
    pub(crate) fn deadline_ns(&self) -> Option<u64> {
        (!self.waiting.is_empty()).then_some(self.retry_ns)
    }

    /// True once: when so many as there are in `all` have been lost, and all are open again. A
    /// server that has died loses its connections bit by bit, so some are back before others go.
    pub(crate) fn take_end(&mut self, open: u32, all: u32) -> bool {
        let has_ended = self.lost > 0 && self.lost >= all && open == all;
        if has_ended {
            self.lost = 0;
        }
        has_ended
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_refused_tries_again_after_a_while_and_the_end_is_told_once() {
        let mut returning = Returning::default();
        assert!(!returning.take_end(2, 2), "nobody was lost");
        returning.lose(7);
        assert_eq!(returning.poll(100), Some(7));
        assert!(!returning.take_end(2, 2), "one is back before the other is lost");
        returning.lose(3);
        assert_eq!(returning.poll(200), Some(3));
        returning.refuse(3, 200);
        assert_eq!(returning.deadline_ns(), Some(10_000_200));
        assert_eq!(returning.poll(10_000_199), None);
        assert!(!returning.take_end(1, 2), "one waits");
        assert_eq!(returning.poll(10_000_200), Some(3));
        assert_eq!(returning.deadline_ns(), None);
        assert!(returning.take_end(2, 2));
        assert!(!returning.take_end(2, 2));
    }
}
