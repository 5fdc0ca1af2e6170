//! What the tokens of open connections said, beside the tables of those without: whom the issuer
//! means, whether they may publish, and when it ends. Where no tokens are asked for this is empty.

use std::collections::BTreeSet;

use worker::{ConnectionId, Slot};

/// What a token lets the connection do that brought it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pass {
    /// Whom the issuer means.
    pub subject: Option<Box<str>>,
    /// When it ends, in seconds since 1970; `None`: never.
    pub ends_at: Option<u64>,
    /// Whether it may publish to the topic that it publishes to.
    pub may_publish: bool,
}

/// The passes of one worker's connections.
#[derive(Debug, Default)]
pub(crate) struct Passes {
    /// Grown to the highest slot that ever had one.
    by_slot: Vec<Option<Box<Pass>>>,
    /// When they end: each connection whose pass does, once.
    ends: BTreeSet<(u64, ConnectionId)>,
}

impl Passes {
    pub(crate) fn get(&self, slot: Slot) -> Option<&Pass> {
        self.by_slot.get(slot as usize)?.as_deref()
    }

    pub(crate) fn insert(&mut self, connection: ConnectionId, pass: Pass) {
        let index = connection.slot as usize;
        if index >= self.by_slot.len() {
            self.by_slot.resize_with(index + 1, || None);
        }
        if let Some(ends_at) = pass.ends_at {
            self.ends.insert((ends_at, connection));
        }
        self.by_slot[index] = Some(Box::new(pass));
    }

    /// The connection is no longer open.
    pub(crate) fn remove(&mut self, connection: ConnectionId) {
        let pass = self.by_slot.get_mut(connection.slot as usize).and_then(Option::take);
        if let Some(ends_at) = pass.and_then(|pass| pass.ends_at) {
            self.ends.remove(&(ends_at, connection));
        }
    }

    /// When the first pass ends, in seconds since 1970.
    pub(crate) fn first_end(&self) -> Option<u64> {
        self.ends.first().map(|(ends_at, _)| *ends_at)
    }

    /// A connection whose pass has ended by `seconds` since 1970, each once.
    pub(crate) fn poll_ended(&mut self, seconds: u64) -> Option<ConnectionId> {
        self.first_end().filter(|ends_at| *ends_at <= seconds)?;
        self.ends.pop_first().map(|(_, connection)| connection)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connection(slot: Slot) -> ConnectionId {
        ConnectionId { slot, generation: 1 }
    }

    fn pass(ends_at: Option<u64>) -> Pass {
        Pass { subject: Some("s".into()), ends_at, may_publish: false }
    }

    #[test]
    fn passes_end_in_the_order_of_their_ends_each_once() {
        let mut passes = Passes::default();
        let ends = [(70, Some(30)), (2, Some(10)), (3, None), (4, Some(20)), (5, Some(10))];
        for (slot, ends_at) in ends {
            passes.insert(connection(slot), pass(ends_at));
        }
        assert_eq!(passes.get(3), Some(&pass(None)));
        assert_eq!(passes.poll_ended(9), None);
        assert_eq!(passes.first_end(), Some(10));
        assert_eq!(passes.poll_ended(10), Some(connection(2)));
        passes.remove(connection(2));
        passes.remove(connection(4));
        assert_eq!(passes.get(4), None);
        assert_eq!(passes.poll_ended(99), Some(connection(5)));
        assert_eq!(passes.poll_ended(99), Some(connection(70)));
        assert_eq!(passes.poll_ended(u64::MAX), None);
        assert_eq!(passes.first_end(), None);
    }

    #[test]
    fn where_nobody_has_a_pass_there_is_nothing() {
        let mut passes = Passes::default();
        passes.remove(connection(1_000_000));
        assert_eq!((passes.get(1_000_000), passes.by_slot.capacity()), (None, 0));
    }
}
