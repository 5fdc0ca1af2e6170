//! Subjects of tokens that were removed, and until when they are blocked: the workers block from the
//! removal on until they are told otherwise, and what tells them is here. A block ends with the last
//! token that is known of its subject: one that was connected, or one that was refused meanwhile.
//! Nobody is let back to make room for another: a list that is full refuses.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use hub::Letter;
use tokens::SKEW_SECONDS;

/// How long a subject is blocked of which no token is known: access tokens seldom live longer.
const UNKNOWN_SECONDS: u64 = 3600;

/// Blocks whose end one letter tells.
const ENDED_MAX: usize = 1024;

/// All that are blocked.
#[derive(Debug)]
pub(super) struct Blocks {
    entries: HashMap<Arc<str>, Entry>,
    /// Those that end by themselves: by then no removal of them may be under way.
    by_end: BTreeSet<(u64, Arc<str>)>,
    subjects_max: usize,
    /// Whose blocks have ended, without those that were blocked anew.
    ended: Arc<Vec<Arc<str>>>,
    /// By worker, true exactly when it knows of `ended`.
    told: Vec<bool>,
}

/// One block.
#[derive(Debug, Default)]
struct Entry {
    /// When it ends, in seconds since 1970, as far as it is known.
    end: Option<u64>,
    /// It lasts until then at least, for a token that was refused before anything else was known.
    end_min: u64,
    /// Removals that have begun and not ended.
    removals: u32,
}

/// No room for one more block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Full {
    /// In how many seconds the first of the others ends, as far as that is known: 1 at least, for
    /// some may have ended already and be told of.
    pub(super) seconds: u64,
}

impl Blocks {
    /// No blocks, and never more than `subjects_max`.
    pub(super) fn new(subjects_max: usize, workers: usize) -> Self {
        Self {
            entries: HashMap::new(),
            by_end: BTreeSet::new(),
            subjects_max,
            ended: Arc::default(),
            told: vec![true; workers],
        }
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// A removal of this subject begins: the workers block it. `end` must follow.
    ///
    /// # Errors
    /// There is no room; nothing has changed.
    pub(super) fn begin(&mut self, subject: &Arc<str>, now: u64) -> Result<(), Full> {
        if !self.entries.contains_key(subject) && self.entries.len() >= self.subjects_max {
            let first = self.by_end.first().map_or(now, |(end, _)| *end);
            return Err(Full { seconds: first.saturating_sub(now).max(1) });
        }
        let entry = self.entries.entry(Arc::clone(subject)).or_default();
        entry.removals += 1;
        if let Some(end) = entry.end {
            self.by_end.remove(&(end, Arc::clone(subject)));
        }
        // Who has not been told of an end that no longer holds must not be told any more.
        if self.ended.contains(subject) {
            let others = self.ended.iter().filter(|other| *other != subject).cloned();
            self.ended = Arc::new(others.collect());
        }
        Ok(())
    }

    /// A removal of this subject has ended. `tokens_end` is the last moment of the tokens that it
    /// found; the block lasts until `end_min` at least, where there is one. Returns when it ends.
    pub(super) fn end(
        &mut self,
        subject: &Arc<str>,
        tokens_end: Option<u64>,
        end_min: Option<u64>,
        now: u64,
    ) -> u64 {
        let entry = self.entries.entry(Arc::clone(subject)).or_default();
        // A token opens connections for a little longer than it says.
        let known = tokens_end.map(|end| end.saturating_add(SKEW_SECONDS)).max(entry.end);
        let known = known.unwrap_or(now.saturating_add(UNKNOWN_SECONDS));
        let end = known.max(end_min.unwrap_or(0)).max(entry.end_min);
        entry.end = Some(end);
        entry.removals = entry.removals.saturating_sub(1);
        if entry.removals == 0 {
            self.by_end.insert((end, Arc::clone(subject)));
        }
        end
    }

    /// A token of this subject was refused that ends then: the block lasts as long, unless it has
    /// ended already.
    pub(super) fn extend(&mut self, subject: &Arc<str>, token_end: u64) {
        let Some(entry) = self.entries.get_mut(subject) else { return };
        let end = token_end.saturating_add(SKEW_SECONDS);
        let Some(before) = entry.end else {
            entry.end_min = entry.end_min.max(end);
            return;
        };
        if before >= end {
            return;
        }
        entry.end = Some(end);
        if self.by_end.remove(&(before, Arc::clone(subject))) {
            self.by_end.insert((end, Arc::clone(subject)));
        }
    }

    /// Takes out who is blocked no longer, once everybody knows of those before. `now` is a moment
    /// up to which all tokens are known that were refused.
    pub(super) fn expire(&mut self, now: u64) {
        if self.told.contains(&false) {
            return;
        }
        let mut ended = Vec::new();
        while ended.len() < ENDED_MAX
            && self.by_end.first().is_some_and(|(end, _)| *end <= now)
            && let Some((_, subject)) = self.by_end.pop_first()
        {
            self.entries.remove(&subject);
            ended.push(subject);
        }
        if !ended.is_empty() {
            self.ended = Arc::new(ended);
            self.told.fill(false);
        }
    }

    /// Hands everybody who has not got it yet to `post`, which says whether there was room.
    pub(super) fn tell(&mut self, mut post: impl FnMut(usize, Letter) -> bool) {
        for (worker, told) in self.told.iter_mut().enumerate() {
            *told = *told || post(worker, Letter::Unblock(Arc::clone(&self.ended)));
        }
    }
}

/// Seconds since 1970.
pub(super) fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(blocks: &mut Blocks) -> Vec<(usize, Vec<Arc<str>>)> {
        let mut told = Vec::new();
        blocks.tell(|worker, letter| {
            let Letter::Unblock(subjects) = letter else { panic!("{letter:?}") };
            told.push((worker, subjects.to_vec()));
            true
        });
        told
    }

    fn subject(name: &str) -> Arc<str> {
        name.into()
    }

    fn block(blocks: &mut Blocks, name: &str, tokens_end: Option<u64>) -> u64 {
        blocks.begin(&subject(name), 1_000).unwrap();
        blocks.end(&subject(name), tokens_end, None, 1_000)
    }

    #[test]
    fn a_block_ends_half_a_minute_behind_the_last_known_token() {
        let mut blocks = Blocks::new(10, 2);
        assert_eq!(block(&mut blocks, "a", Some(2_000)), 2_030);
        assert_eq!(block(&mut blocks, "a", Some(1_500)), 2_030, "never earlier than before");
        assert_eq!(block(&mut blocks, "a", None), 2_030, "a token is known of before");
        assert_eq!(block(&mut blocks, "b", None), 4_600, "no token is known");
        assert_eq!(block(&mut blocks, "c", Some(u64::MAX)), u64::MAX, "one that never ends");
        blocks.begin(&subject("d"), 1_000).unwrap();
        assert_eq!(
            blocks.end(&subject("d"), Some(1_100), Some(1_600), 1_000),
            1_600,
            "as was asked"
        );
        assert_eq!(blocks.len(), 4);
        blocks.expire(1_599);
        assert_eq!(blocks.len(), 4);
        blocks.expire(2_030);
        let both = vec![subject("d"), subject("a")];
        assert_eq!(told(&mut blocks), [(0, both.clone()), (1, both)]);
        assert!(told(&mut blocks).is_empty(), "once");
        assert_eq!(blocks.len(), 2);
    }

    #[test]
    fn a_token_that_is_refused_during_a_removal_makes_no_block_shorter() {
        let mut blocks = Blocks::new(10, 2);
        // Refused while the removal goes on, and about to end: others may be about.
        blocks.begin(&subject("tried"), 1_000).unwrap();
        blocks.extend(&subject("tried"), 1_010);
        assert_eq!(blocks.end(&subject("tried"), None, None, 1_000), 4_600);
        blocks.begin(&subject("longer"), 1_000).unwrap();
        blocks.extend(&subject("longer"), 9_000);
        assert_eq!(blocks.end(&subject("longer"), Some(2_000), None, 1_000), 9_030);
    }

    #[test]
    fn a_refused_token_that_ends_later_makes_the_block_longer() {
        let mut blocks = Blocks::new(10, 1);
        block(&mut blocks, "a", Some(1_100));
        blocks.extend(&subject("a"), 1_700);
        blocks.extend(&subject("a"), 1_600);
        blocks.extend(&subject("b"), 9_000);
        assert_eq!(blocks.len(), 1, "who is not blocked is not by that");
        blocks.expire(1_729);
        assert_eq!(blocks.len(), 1);
        blocks.expire(1_730);
        assert_eq!(told(&mut blocks), [(0, vec![subject("a")])]);
        // While a removal is under way nobody knows the end, and no block has one to be taken out.
        blocks.begin(&subject("c"), 1_000).unwrap();
        blocks.extend(&subject("c"), 1_200);
        blocks.expire(9_000);
        assert_eq!(blocks.len(), 1);
        assert_eq!(blocks.end(&subject("c"), Some(1_150), None, 1_000), 1_230);
        blocks.extend(&subject("c"), u64::MAX);
        blocks.expire(u64::MAX - 1);
        assert_eq!(blocks.len(), 1, "a token that never ends");
    }

    #[test]
    fn a_hundred_thousand_are_blocked_and_let_back_by_a_hundred_letters() {
        let mut blocks = Blocks::new(100_000, 1);
        for number in 0..100_000_u64 {
            block(&mut blocks, &number.to_string(), Some(2_000 + number % 7));
        }
        assert_eq!(blocks.len(), 100_000);
        assert_eq!(blocks.begin(&subject("one more"), 1_000), Err(Full { seconds: 1_030 }));
        blocks.extend(&subject("99999"), 5_000);
        let mut back = 0;
        let letters = (1..).find(|_| {
            blocks.expire(2_036);
            back += told(&mut blocks).iter().map(|(_, subjects)| subjects.len()).sum::<usize>();
            back == 99_999
        });
        // 99,999 = 97 × 1,024 + 671.
        assert_eq!((letters, blocks.len()), (Some(98), 1));
        blocks.expire(5_030);
        assert_eq!(told(&mut blocks), [(0, vec![subject("99999")])]);
        assert_eq!((blocks.len(), blocks.by_end.len()), (0, 0));
    }

    #[test]
    fn a_full_list_refuses_whoever_is_not_in_it_and_lets_nobody_back() {
        let mut blocks = Blocks::new(2, 1);
        block(&mut blocks, "a", Some(1_500));
        block(&mut blocks, "b", Some(1_200));
        assert_eq!(blocks.begin(&subject("c"), 1_000), Err(Full { seconds: 230 }));
        assert_eq!(blocks.begin(&subject("c"), 1_230), Err(Full { seconds: 1 }), "not told yet");
        assert_eq!(blocks.begin(&subject("a"), 1_000), Ok(()));
        blocks.end(&subject("a"), None, None, 1_000);
        blocks.expire(1_230);
        assert_eq!(told(&mut blocks), [(0, vec![subject("b")])]);
        assert_eq!(blocks.begin(&subject("c"), 1_230), Ok(()));
    }

    #[test]
    fn no_block_ends_while_a_removal_is_under_way() {
        let mut blocks = Blocks::new(2, 1);
        block(&mut blocks, "a", Some(1_100));
        blocks.begin(&subject("a"), 1_100).unwrap();
        blocks.expire(9_000);
        assert_eq!(blocks.len(), 1);
        assert_eq!(blocks.end(&subject("a"), None, None, 9_000), 1_130);
        blocks.begin(&subject("a"), 9_000).unwrap();
        blocks.begin(&subject("a"), 9_000).unwrap();
        blocks.end(&subject("a"), None, None, 9_000);
        blocks.expire(9_000);
        assert_eq!(blocks.len(), 1, "one of two has ended");
        blocks.end(&subject("a"), None, None, 9_000);
        blocks.expire(9_000);
        assert_eq!(blocks.len(), 0);
    }

    #[test]
    fn all_are_told_of_an_end_before_the_next_ones() {
        let mut blocks = Blocks::new(9, 2);
        block(&mut blocks, "a", Some(1_100));
        block(&mut blocks, "b", Some(1_200));
        blocks.expire(1_130);
        blocks.tell(|worker, _| worker == 0);
        blocks.expire(1_230);
        assert_eq!(told(&mut blocks), [(1, vec![subject("a")])]);
        assert_eq!(blocks.len(), 1);
        blocks.expire(1_230);
        assert_eq!(told(&mut blocks), [(0, vec![subject("b")]), (1, vec![subject("b")])]);
    }

    #[test]
    fn a_letter_tells_of_1024_ends_at_most() {
        let mut blocks = Blocks::new(1_025, 1);
        for number in 0..1_025 {
            block(&mut blocks, &number.to_string(), Some(1_100));
        }
        let mut ends = || {
            blocks.expire(1_130);
            told(&mut blocks)[0].1.len()
        };
        assert_eq!([ends(), ends()], [1_024, 1]);
    }

    #[test]
    fn who_is_blocked_anew_before_all_know_of_the_end_stays_blocked() {
        let mut blocks = Blocks::new(9, 2);
        block(&mut blocks, "a", Some(1_100));
        block(&mut blocks, "b", Some(1_100));
        blocks.expire(2_000);
        blocks.tell(|worker, _| worker == 0);
        block(&mut blocks, "a", Some(3_000));
        assert_eq!(told(&mut blocks), [(1, vec![subject("b")])]);
        blocks.expire(2_000);
        assert!(told(&mut blocks).is_empty());
        assert_eq!(blocks.len(), 1);
    }
}
