//! What was posted to the workers and is not answered by all of them yet. Each entry comes out once,
//! with what all workers said; its asker may have left.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use hub::{Findings, Receipt, Removal, Reply};
use tokio::sync::{OwnedSemaphorePermit, oneshot};

/// What workers have found, by their number.
pub(super) type Found = BTreeMap<usize, Findings>;

/// Posted and not answered by all.
#[derive(Debug)]
pub(super) struct Outstanding {
    entries: HashMap<u64, Entry>,
    next_id: u64,
    entries_max: usize,
}

#[derive(Debug)]
struct Entry {
    /// Workers whose answer is awaited, by number.
    awaited: Vec<bool>,
    answer: Answer,
}

/// What is being gathered, and for whom.
#[derive(Debug)]
pub(super) enum Answer {
    /// Receivers of each publication of a batch.
    Receivers {
        /// So far.
        receivers: Vec<u64>,
        /// Who waits for it.
        reply: oneshot::Sender<Vec<u64>>,
        /// The batch's share of the bytes that may be on their way.
        permit: Option<OwnedSemaphorePermit>,
    },
    /// What each worker has found.
    Found {
        /// So far.
        found: Found,
        /// Who waits for it.
        reply: oneshot::Sender<Found>,
    },
    /// What was removed.
    Removed {
        /// So far.
        removal: Removal,
        /// Whose block begins with it.
        block: Option<BlockAsked>,
        /// Who waits for it.
        reply: oneshot::Sender<Removed>,
    },
}

/// A block that a removal brings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct BlockAsked {
    /// Whose.
    pub(super) subject: Arc<str>,
    /// How many seconds it lasts at least, where that was asked for.
    pub(super) seconds_min: Option<u64>,
}

/// What became of a removal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Removed {
    /// Connections closed, on all workers.
    pub(super) closed: u32,
    /// Until when the subject is blocked, in seconds since 1970, where one was named.
    pub(super) blocked_until: Option<u64>,
}

impl Outstanding {
    /// None yet, and never more than `entries_max`: each may put one letter into each worker's
    /// queue to the guest, and those must have room.
    pub(super) fn new(entries_max: usize) -> Self {
        Self { entries: HashMap::with_capacity(entries_max), next_id: 0, entries_max }
    }

    /// Whether one more fits.
    pub(super) fn has_room(&self) -> bool {
        self.entries.len() < self.entries_max
    }

    /// The id of the next entry.
    pub(super) fn next_id(&self) -> u64 {
        self.next_id
    }

    /// Notes what was posted under [`Self::next_id`] to the workers that `awaited` marks; it comes
    /// back where that is nobody.
    pub(super) fn insert(&mut self, awaited: Vec<bool>, answer: Answer) -> Option<Answer> {
        let id = self.next_id;
        self.next_id += 1;
        if !awaited.contains(&true) {
            return Some(answer);
        }
        self.entries.insert(id, Entry { awaited, answer });
        None
    }

    /// A worker has taken a batch; the answer, if it was the last.
    pub(super) fn handle_receipt(&mut self, worker: usize, receipt: &Receipt) -> Option<Answer> {
        let entry = self.entries.get_mut(&receipt.id)?;
        if let Answer::Receivers { receivers, .. } = &mut entry.answer {
            for (sum, count) in receivers.iter_mut().zip(&receipt.receivers) {
                *sum += u64::from(*count);
            }
        }
        self.settle(receipt.id, worker)
    }

    /// A worker has answered a question; the answer, if it was the last.
    pub(super) fn handle_reply(&mut self, worker: usize, reply: Reply) -> Option<Answer> {
        let entry = self.entries.get_mut(&reply.id)?;
        match (&mut entry.answer, reply.findings) {
            (Answer::Found { found, .. }, findings) => _ = found.insert(worker, findings),
            (Answer::Removed { removal, .. }, Findings::Removed(here)) => {
                removal.closed = removal.closed.saturating_add(here.closed);
                removal.tokens_end = removal.tokens_end.max(here.tokens_end);
            }
            (Answer::Removed { .. } | Answer::Receivers { .. }, _) => {}
        }
        self.settle(reply.id, worker)
    }

    /// A worker has ended: it answers nothing any more, and has nobody to deliver to. The answers
    /// that only it was awaited for.
    pub(super) fn handle_end(&mut self, worker: usize) -> Vec<Answer> {
        let ids: Vec<u64> = self.entries.keys().copied().collect();
        ids.into_iter().filter_map(|id| self.settle(id, worker)).collect()
    }

    /// Lets go of what was found for those who have left: where a worker hangs, the entry stays, and
    /// what the others have said would stay with it.
    pub(super) fn forget_unawaited(&mut self) {
        for entry in self.entries.values_mut() {
            match &mut entry.answer {
                Answer::Found { found, reply } if reply.is_closed() => found.clear(),
                _ => {}
            }
        }
    }

    fn settle(&mut self, id: u64, worker: usize) -> Option<Answer> {
        let entry = self.entries.get_mut(&id)?;
        entry.awaited[worker] = false;
        if entry.awaited.contains(&true) {
            return None;
        }
        self.entries.remove(&id).map(|entry| entry.answer)
    }
}

impl Answer {
    /// Hands it to who waits; of a removal `blocked_until` is told too. Who has left meanwhile has
    /// got its own answer already.
    pub(super) fn give(self, blocked_until: Option<u64>) {
        match self {
            Self::Receivers { receivers, reply, permit } => {
                drop(permit);
                let _ = reply.send(receivers);
            }
            Self::Found { found, reply } => {
                let _ = reply.send(found);
            }
            Self::Removed { removal, reply, .. } => {
                let _ = reply.send(Removed { closed: removal.closed, blocked_until });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn give(answers: impl IntoIterator<Item = Answer>) {
        answers.into_iter().for_each(|answer| answer.give(None));
    }

    fn receivers(publications: usize) -> (Answer, oneshot::Receiver<Vec<u64>>) {
        let (reply, waiting) = oneshot::channel();
        (Answer::Receivers { receivers: vec![0; publications], reply, permit: None }, waiting)
    }

    #[test]
    fn receivers_are_summed_over_workers_and_given_when_the_last_has_answered() {
        let mut outstanding = Outstanding::new(4);
        let (answer, mut waiting) = receivers(2);
        let id = outstanding.next_id();
        give(outstanding.insert(vec![true, true], answer));
        give(outstanding.handle_receipt(1, &Receipt { id, receivers: vec![3, 0] }));
        assert!(waiting.try_recv().is_err(), "worker 0 has not answered");
        give(outstanding.handle_receipt(0, &Receipt { id, receivers: vec![4, 1] }));
        assert_eq!(waiting.try_recv().unwrap(), [7, 1]);
    }

    #[test]
    fn a_worker_that_has_ended_is_not_waited_for() {
        let mut outstanding = Outstanding::new(4);
        let (answer, mut waiting) = receivers(1);
        let id = outstanding.next_id();
        give(outstanding.insert(vec![true, true], answer));
        give(outstanding.handle_receipt(0, &Receipt { id, receivers: vec![2] }));
        give(outstanding.handle_end(1));
        assert_eq!(waiting.try_recv().unwrap(), [2]);

        let (answer, mut waiting) = receivers(1);
        give(outstanding.insert(vec![false, false], answer));
        assert_eq!(waiting.try_recv().unwrap(), [0], "nobody was posted to");
    }

    #[test]
    fn an_entry_whose_asker_has_left_occupies_its_place_until_it_is_answered() {
        let mut outstanding = Outstanding::new(1);
        let (answer, waiting) = receivers(1);
        drop(waiting);
        give(outstanding.insert(vec![true], answer));
        assert!(!outstanding.has_room());
        give(outstanding.handle_receipt(0, &Receipt { id: 0, receivers: vec![0] }));
        assert!(outstanding.has_room());
    }

    #[test]
    fn what_workers_have_found_is_given_together_by_their_number() {
        let mut outstanding = Outstanding::new(4);
        let (reply, mut waiting) = oneshot::channel();
        give(outstanding.insert(vec![true, true], Answer::Found { found: Found::new(), reply }));
        let findings = |topic: &str| Findings::Topics(vec![(topic.into(), 1)]);
        give(outstanding.handle_reply(1, Reply { id: 0, findings: findings("b") }));
        assert!(waiting.try_recv().is_err(), "worker 0 has not answered");
        give(outstanding.handle_reply(0, Reply { id: 0, findings: findings("a") }));
        let found: Vec<_> = waiting.try_recv().unwrap().into_iter().collect();
        assert_eq!(found, [(0, findings("a")), (1, findings("b"))]);
    }

    #[test]
    fn what_was_found_for_who_has_left_is_let_go_of_before_all_have_answered() {
        let mut outstanding = Outstanding::new(4);
        let waiting: Vec<_> = (0..2)
            .map(|_| {
                let (reply, waiting) = oneshot::channel();
                let answer = Answer::Found { found: Found::new(), reply };
                give(outstanding.insert(vec![true, true], answer));
                waiting
            })
            .collect();
        let findings = || Findings::Topics(vec![("a".into(), 1)]);
        for id in 0..2 {
            give(outstanding.handle_reply(1, Reply { id, findings: findings() }));
        }
        let mut waiting = waiting.into_iter();
        drop(waiting.next());
        outstanding.forget_unawaited();
        for (id, workers) in [(0, vec![0]), (1, vec![0, 1])] {
            let answer = outstanding.handle_reply(0, Reply { id, findings: findings() });
            let Some(Answer::Found { found, .. }) = answer else { panic!("{answer:?}") };
            assert_eq!(found.into_keys().collect::<Vec<usize>>(), workers);
        }
    }

    #[test]
    fn a_removal_is_the_sum_of_what_workers_have_closed_and_the_last_of_their_tokens() {
        let mut outstanding = Outstanding::new(4);
        let (reply, mut waiting) = oneshot::channel();
        let answer = Answer::Removed { removal: Removal::default(), block: None, reply };
        give(outstanding.insert(vec![true, true], answer));
        let removed = |closed, tokens_end| Findings::Removed(Removal { closed, tokens_end });
        give(outstanding.handle_reply(1, Reply { id: 0, findings: removed(2, Some(50)) }));
        let answer = outstanding.handle_reply(0, Reply { id: 0, findings: removed(1, None) });
        let Some(Answer::Removed { removal, .. }) = &answer else { panic!("{answer:?}") };
        assert_eq!(removal.tokens_end, Some(50));
        answer.unwrap().give(Some(80));
        assert_eq!(waiting.try_recv(), Ok(Removed { closed: 3, blocked_until: Some(80) }));
    }
}
