//! Connections are removed: whoever is meant is closed on every worker, and a subject that is named
//! is blocked until its tokens have ended.

use std::sync::Arc;

use hub::{Inquiry, Letter, Question, Refused, Removal, Selection};
use tokio::sync::oneshot;

use super::{Guest, NoRoom, Posted, tell};
use crate::control::{
    blocks::unix_seconds,
    outstanding::{Answer, BlockAsked, Removed},
};

impl Guest {
    /// Has connections closed. Where no client needs a token there is nobody to block.
    pub(super) fn remove(
        &mut self,
        selection: Selection,
        block_seconds: Option<u64>,
        has_room: bool,
    ) -> Posted<Removed> {
        if !has_room {
            return Err(NoRoom::Letters);
        }
        let subject = selection.subject.clone().filter(|_| self.tokens.is_some());
        let block = subject.map(|subject| BlockAsked { subject, seconds_min: block_seconds });
        if let Some(block) = &block {
            let begun = self.blocks.begin(&block.subject, unix_seconds());
            if let Err(full) = begun {
                self.control.record().removals_refused += 1;
                return Err(NoRoom::Blocks { seconds: full.seconds });
            }
            self.count_blocks();
        }
        let (reply, answered) = oneshot::channel();
        let inquiry = Inquiry::Remove(selection);
        let question = Arc::new(Question { id: self.outstanding.next_id(), inquiry });
        let awaited = self.post_to(self.everyone(), || Letter::Ask(Arc::clone(&question)));
        let answer = Answer::Removed { removal: Removal::default(), block, reply };
        let answer = self.outstanding.insert(awaited, answer);
        self.give(answer);
        Ok(answered)
    }

    /// Hands out what all workers have answered; a removal settles until when its block lasts.
    pub(super) fn give(&mut self, answers: impl IntoIterator<Item = Answer>) {
        for answer in answers {
            let blocked_until = match &answer {
                Answer::Removed { removal, block: Some(block), .. } => {
                    let now = unix_seconds();
                    let end_min = block.seconds_min.map(|seconds| now.saturating_add(seconds));
                    Some(self.blocks.end(&block.subject, removal.tokens_end, end_min, now))
                }
                _ => None,
            };
            answer.give(blocked_until);
        }
    }

    /// A worker has refused tokens of who is blocked: a block lasts as long as they do.
    pub(super) fn extend_blocks(&mut self, refused: &Refused) {
        for (subject, end) in &refused.ends {
            self.blocks.extend(subject, *end);
        }
    }

    /// Takes out whose tokens have ended, as of the moment until which every worker has told what
    /// it refused: else one could be let back that has just been seen.
    pub(super) fn expire_blocks(&mut self) {
        let alive = self.workers.iter().filter(|worker| worker.alive);
        if let Some(known_until) = alive.map(|worker| worker.known_until).min() {
            self.blocks.expire(known_until);
        }
        self.count_blocks();
    }

    /// Tells the workers who is blocked no longer.
    pub(super) fn post_unblocks(&mut self) {
        let Self { blocks, workers, endpoint, .. } = self;
        blocks.tell(|worker, letter| tell(workers, endpoint, worker, letter).is_ok());
    }

    fn count_blocks(&self) {
        self.control.record().blocked_subs = self.blocks.len() as u64;
    }
}
