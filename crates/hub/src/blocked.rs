//! Subjects whose tokens are good for nothing, whatever they say, and what was seen of such tokens
//! since the control thread was last told: it knows when each block ends, and only from the tokens
//! that come how long they last. Where nobody was removed this owns no memory, and asking it is a
//! comparison.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use crate::letter::Refused;

/// Who is blocked.
#[derive(Debug, Default)]
pub(crate) struct Blocked {
    subjects: BTreeSet<Arc<str>>,
    /// When the last of a subject's refused tokens ends, in seconds since 1970: only of who is
    /// blocked, so it is bounded as the blocks are.
    refused: BTreeMap<Arc<str>, u64>,
}

impl Blocked {
    pub(crate) fn insert(&mut self, subject: Arc<str>) {
        self.subjects.insert(subject);
    }

    pub(crate) fn remove(&mut self, subject: &Arc<str>) {
        self.subjects.remove(subject);
        self.refused.remove(subject);
    }

    /// Whether a token of this subject is refused; then its end is kept. `None`: it never ends.
    pub(crate) fn refuses(&mut self, subject: &str, ends_at: Option<u64>) -> bool {
        let Some(subject) = self.subjects.get(subject) else { return false };
        let end = self.refused.entry(Arc::clone(subject)).or_default();
        *end = (*end).max(ends_at.unwrap_or(u64::MAX));
        true
    }

    /// What was refused since this was last asked, where anything was.
    pub(crate) fn take_refused(&mut self) -> Option<Box<Refused>> {
        let refused = std::mem::take(&mut self.refused);
        (!refused.is_empty()).then(|| Box::new(Refused { ends: refused }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ends(blocked: &mut Blocked) -> Vec<(Arc<str>, u64)> {
        blocked.take_refused().map_or_else(Vec::new, |it| it.ends.into_iter().collect())
    }

    #[test]
    fn of_a_subject_that_is_blocked_the_last_end_of_its_tokens_is_told_once() {
        let mut blocked = Blocked::default();
        blocked.insert("a".into());
        blocked.insert("b".into());
        assert!(!blocked.refuses("c", Some(9)) && ends(&mut blocked).is_empty());
        assert!(blocked.refuses("a", Some(5)) && blocked.refuses("a", Some(7)));
        assert!(blocked.refuses("a", Some(6)) && blocked.refuses("b", None));
        assert_eq!(ends(&mut blocked), [("a".into(), 7), ("b".into(), u64::MAX)]);
        assert!(ends(&mut blocked).is_empty());
        assert!(blocked.refuses("a", Some(8)));
        blocked.remove(&"a".into());
        assert!(!blocked.refuses("a", Some(8)) && ends(&mut blocked).is_empty());
    }
}
