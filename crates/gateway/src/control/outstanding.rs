//! What was posted to the workers and is not answered by all of them yet. Each entry is answered
//! once: with what all workers said, or not at all when its asker has left.

use std::collections::{BTreeMap, HashMap};

use hub::{Findings, Receipt, Reply};
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

    /// Notes what was posted under [`Self::next_id`] to the workers that `awaited` marks.
    pub(super) fn insert(&mut self, awaited: Vec<bool>, answer: Answer) {
        let entry = Entry { awaited, answer };
        if entry.awaited.contains(&true) {
            self.entries.insert(self.next_id, entry);
        } else {
            entry.answer.give();
        }
        self.next_id += 1;
    }

    /// A worker has taken a batch.
    pub(super) fn handle_receipt(&mut self, worker: usize, receipt: &Receipt) {
        let Some(entry) = self.entries.get_mut(&receipt.id) else { return };
        if let Answer::Receivers { receivers, .. } = &mut entry.answer {
            for (sum, count) in receivers.iter_mut().zip(&receipt.receivers) {
                *sum += u64::from(*count);
            }
        }
        self.settle(receipt.id, worker);
    }

    /// A worker has answered a question.
    pub(super) fn handle_reply(&mut self, worker: usize, reply: Reply) {
        let Some(entry) = self.entries.get_mut(&reply.id) else { return };
        if let Answer::Found { found, .. } = &mut entry.answer {
            found.insert(worker, reply.findings);
        }
        self.settle(reply.id, worker);
    }

    /// A worker has ended: it answers nothing any more, and has nobody to deliver to.
    pub(super) fn handle_end(&mut self, worker: usize) {
        let ids: Vec<u64> = self.entries.keys().copied().collect();
        for id in ids {
            self.settle(id, worker);
        }
    }

    fn settle(&mut self, id: u64, worker: usize) {
        let Some(entry) = self.entries.get_mut(&id) else { return };
        entry.awaited[worker] = false;
        if entry.awaited.contains(&true) {
            return;
        }
        if let Some(entry) = self.entries.remove(&id) {
            entry.answer.give();
        }
    }
}

impl Answer {
    /// Hands it to who waits. Who has left meanwhile has got its own answer already.
    fn give(self) {
        match self {
            Self::Receivers { receivers, reply, permit } => {
                drop(permit);
                let _ = reply.send(receivers);
            }
            Self::Found { found, reply } => {
                let _ = reply.send(found);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn receivers(publications: usize) -> (Answer, oneshot::Receiver<Vec<u64>>) {
        let (reply, waiting) = oneshot::channel();
        (Answer::Receivers { receivers: vec![0; publications], reply, permit: None }, waiting)
    }

    #[test]
    fn receivers_are_summed_over_workers_and_given_when_the_last_has_answered() {
        let mut outstanding = Outstanding::new(4);
        let (answer, mut waiting) = receivers(2);
        let id = outstanding.next_id();
        outstanding.insert(vec![true, true], answer);
        outstanding.handle_receipt(1, &Receipt { id, receivers: vec![3, 0] });
        assert!(waiting.try_recv().is_err(), "worker 0 has not answered");
        outstanding.handle_receipt(0, &Receipt { id, receivers: vec![4, 1] });
        assert_eq!(waiting.try_recv().unwrap(), [7, 1]);
    }

    #[test]
    fn a_worker_that_has_ended_is_not_waited_for() {
        let mut outstanding = Outstanding::new(4);
        let (answer, mut waiting) = receivers(1);
        let id = outstanding.next_id();
        outstanding.insert(vec![true, true], answer);
        outstanding.handle_receipt(0, &Receipt { id, receivers: vec![2] });
        outstanding.handle_end(1);
        assert_eq!(waiting.try_recv().unwrap(), [2]);

        let (answer, mut waiting) = receivers(1);
        outstanding.insert(vec![false, false], answer);
        assert_eq!(waiting.try_recv().unwrap(), [0], "nobody was posted to");
    }

    #[test]
    fn an_entry_whose_asker_has_left_occupies_its_place_until_it_is_answered() {
        let mut outstanding = Outstanding::new(1);
        let (answer, waiting) = receivers(1);
        drop(waiting);
        outstanding.insert(vec![true], answer);
        assert!(!outstanding.has_room());
        outstanding.handle_receipt(0, &Receipt { id: 0, receivers: vec![0] });
        assert!(outstanding.has_room());
    }

    #[test]
    fn what_workers_have_found_is_given_together_by_their_number() {
        let mut outstanding = Outstanding::new(4);
        let (reply, mut waiting) = oneshot::channel();
        outstanding.insert(vec![true, true], Answer::Found { found: Found::new(), reply });
        let findings = |topic: &str| Findings::Topics(vec![(topic.into(), 1)]);
        outstanding.handle_reply(1, Reply { id: 0, findings: findings("b") });
        assert!(waiting.try_recv().is_err(), "worker 0 has not answered");
        outstanding.handle_reply(0, Reply { id: 0, findings: findings("a") });
        let found: Vec<_> = waiting.try_recv().unwrap().into_iter().collect();
        assert_eq!(found, [(0, findings("a")), (1, findings("b"))]);
    }
}
