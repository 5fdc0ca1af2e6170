//! What the hub knows of each open connection, by slot: 8 bytes, and more only for one with several
//! topics.

use worker::{Slot, SlotSet};

use crate::{
    runs::{self, Runs},
    topics::TopicIndex,
};

/// All connections of one worker.
#[derive(Debug, Default)]
pub(crate) struct Connections {
    /// Grown to the highest slot that was ever open.
    records: Vec<Record>,
    several: Runs<TopicIndex>,
    open: SlotSet,
}

/// One connection.
#[derive(Debug, Default, Clone, Copy)]
enum Record {
    /// Nobody is there.
    #[default]
    Vacant,
    /// Its messages go back to it.
    Echo,
    /// A subscriber of one topic.
    Single { own: bool, topic: TopicIndex },
    /// A subscriber of several, which stand at this place of their own table.
    Several { own: bool, len: u16, place: u32 },
}

const _: () = assert!(size_of::<Record>() == 8, "there may be a million");

/// What a connection is there for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose<'a> {
    /// Its messages go back to it.
    Echo,
    /// Its topics in the order in which it named them, and whether it gets its own messages.
    Subscriber { topics: &'a [TopicIndex], own: bool },
}

impl Connections {
    /// Every open connection.
    pub(crate) fn open(&self) -> &SlotSet {
        &self.open
    }

    /// What the connection in a slot is there for.
    ///
    /// # Panics
    /// Nobody is there.
    #[inline]
    pub(crate) fn get(&self, slot: Slot) -> Purpose<'_> {
        match &self.records[slot as usize] {
            Record::Vacant => panic!("slot {slot} is not open"),
            Record::Echo => Purpose::Echo,
            Record::Single { own, topic } => {
                Purpose::Subscriber { topics: std::slice::from_ref(topic), own: *own }
            }
            Record::Several { own, len, place } => {
                let topics = self.several.get(*place, usize::from(*len));
                Purpose::Subscriber { topics, own: *own }
            }
        }
    }

    pub(crate) fn insert(&mut self, slot: Slot, purpose: Purpose<'_>) {
        let record = match purpose {
            Purpose::Echo => Record::Echo,
            Purpose::Subscriber { topics: &[topic], own } => Record::Single { own, topic },
            Purpose::Subscriber { topics, own } => {
                let len = u16::try_from(topics.len()).expect("a limit's own bound is below 2^16");
                Record::Several { own, len, place: self.several.insert(topics) }
            }
        };
        let index = slot as usize;
        if index >= self.records.len() {
            let more = index + 1 - self.records.len();
            runs::reserve(&mut self.records, more);
            self.records.resize(index + 1, Record::Vacant);
        }
        self.records[index] = record;
        self.open.insert(slot);
    }

    /// Takes a connection out of its slot; its topics are shown to `leave`.
    pub(crate) fn remove(&mut self, slot: Slot, mut leave: impl FnMut(TopicIndex)) {
        self.open.remove(slot);
        match std::mem::take(&mut self.records[slot as usize]) {
            Record::Vacant | Record::Echo => {}
            Record::Single { topic, .. } => leave(topic),
            Record::Several { len, place, .. } => {
                let len = usize::from(len);
                self.several.get(place, len).iter().copied().for_each(leave);
                self.several.remove(place, len);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topics::Topics;

    #[test]
    fn what_is_put_into_a_slot_comes_out_again() {
        let mut topics = Topics::of_some_worker();
        let [a, b] = ["a", "b"].map(|name| topics.subscribe(name, 0));
        let mut connections = Connections::default();
        let purposes = [
            (70, Purpose::Echo),
            (3, Purpose::Subscriber { topics: &[b], own: false }),
            (4, Purpose::Subscriber { topics: &[b, a], own: true }),
        ];
        for (slot, purpose) in purposes {
            connections.insert(slot, purpose);
        }
        for (slot, purpose) in purposes {
            assert_eq!(connections.get(slot), purpose);
        }
        assert_eq!(connections.open().iter().collect::<Vec<_>>(), [3, 4, 70]);
        let mut left = Vec::new();
        for (slot, _) in purposes {
            connections.remove(slot, |topic| left.push(topic));
        }
        assert_eq!(left, [b, b, a]);
        assert_eq!(connections.open().len(), 0);
    }
}
