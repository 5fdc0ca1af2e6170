//! The topics that have subscribers here, by name and by index. A topic begins with its first
//! subscriber and ends with its last; its index is used again, by a topic that has begun later, so
//! that what is meant for the old topic finds nobody.

use std::{collections::BTreeMap, mem, sync::Arc};

use hashbrown::HashTable;
use mesh::Member;
use worker::{Audience, Slot};

use crate::{
    interest::{Announced, Epoch, Interest, Interested},
    runs::{self, Runs},
    subscribers::{MemberTable, Members, Subscribers},
};

/// Where a topic stands in the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TopicIndex(u32);

/// All topics of one worker. What there is of each stands in few large vectors: a topic of five
/// subscribers would spend most of its memory on the allocator's headers and rounding otherwise.
#[derive(Debug)]
pub(crate) struct Topics {
    topics: Vec<Topic>,
    /// Indexes without a topic.
    vacant: Vec<u32>,
    names: Runs<u8>,
    members: MemberTable,
    by_name: HashTable<u32>,
    interest: Arc<Interest>,
    here: Member,
    /// How many topics of this worker share a row of `interest` with an earlier one of it, by row.
    sharing: BTreeMap<u32, u32>,
    /// Those that were cleared, come back or not, and since when they are announced. They stay it
    /// though their subscribers go again, until all that come back have come.
    cleared: BTreeMap<Box<[u8]>, Epoch>,
    subscriptions: u64,
}

/// A topic as long as it has members, and its index without one otherwise.
#[derive(Debug)]
struct Topic {
    /// Of the name: the table grows without visiting the names themselves.
    hash: u32,
    name_place: u32,
    name_len: u8,
    /// As of then the worker hears of it.
    begun: Epoch,
    members: Members,
}

const _: () = assert!(size_of::<Topic>() <= 24, "there may be a million");

/// One part in so many of the table by name is free at least when it has grown.
const FREE_SHARE: usize = 4;

impl Topics {
    /// No topics of the worker `here`, which is to hear of those that begin.
    pub(crate) fn new(interest: Arc<Interest>, here: Member) -> Self {
        Self {
            topics: Vec::new(),
            vacant: Vec::new(),
            names: Runs::default(),
            members: MemberTable::default(),
            by_name: HashTable::new(),
            interest,
            here,
            sharing: BTreeMap::new(),
            cleared: BTreeMap::new(),
            subscriptions: 0,
        }
    }

    /// Takes all subscribers out. Their topics stay announced, and are the same ones if subscribers
    /// come back before [`Topics::end_cleared`].
    pub(crate) fn clear(&mut self) {
        let mut cleared = mem::take(&mut self.cleared);
        for topic in self.topics.iter().filter(|topic| topic.members.len > 0) {
            cleared.insert(self.bytes_of(topic).into(), topic.begun);
        }
        let sharing = mem::take(&mut self.sharing);
        let interest = Arc::clone(&self.interest);
        *self = Self { sharing, cleared, ..Self::new(interest, self.here) };
    }

    /// Ends the topics that were cleared and have not come back.
    pub(crate) fn end_cleared(&mut self) {
        while let Some((name, _)) = self.cleared.pop_first() {
            let hash = self.interest.hash(&name);
            if self.find_hashed(&name, hash).is_none() {
                self.withdraw(hash);
            }
        }
    }

    /// Topics with a subscriber.
    pub(crate) fn len(&self) -> usize {
        self.by_name.len()
    }

    /// Subscribers, summed over topics.
    pub(crate) fn subscriptions(&self) -> u64 {
        self.subscriptions
    }

    pub(crate) fn name(&self, index: TopicIndex) -> &str {
        text(self.name_bytes(index))
    }

    /// The name as it stands there: who only hands it on need not have it read.
    #[inline]
    pub(crate) fn name_bytes(&self, index: TopicIndex) -> &[u8] {
        self.bytes_of(&self.topics[index.0 as usize])
    }

    pub(crate) fn find(&self, name: &[u8]) -> Option<TopicIndex> {
        self.find_hashed(name, self.interest.hash(name))
    }

    /// The workers that are to hear of what is published to it.
    #[inline]
    pub(crate) fn interested(&self, index: TopicIndex) -> Interested {
        self.interest.of_hash(self.topics[index.0 as usize].hash)
    }

    pub(crate) fn subscribers_len(&self, index: TopicIndex) -> usize {
        self.topics[index.0 as usize].members.len as usize
    }

    /// As of when this worker hears of it.
    pub(crate) fn begun(&self, index: TopicIndex) -> Epoch {
        self.topics[index.0 as usize].begun
    }

    /// The subscribers of a topic as long as it exists, and of nothing once it has ended.
    pub(crate) fn audience(&self, index: TopicIndex) -> Audience {
        let generation = self.topics[index.0 as usize].begun.low_bits();
        Audience(u64::from(generation) << 32 | u64::from(index.0))
    }

    /// The subscribers that an audience stands for, if its topic still exists.
    #[inline]
    pub(crate) fn subscribers(&self, audience: Audience) -> Option<Subscribers<'_>> {
        let [index, generation] = [audience.0 & u64::from(u32::MAX), audience.0 >> 32];
        let topic = self.topics.get(usize::try_from(index).ok()?)?;
        let is_it = topic.members.len > 0 && u64::from(topic.begun.low_bits()) == generation;
        is_it.then(|| self.members.get(&topic.members))
    }

    /// How many places the table has, those without a topic included.
    pub(crate) fn places(&self) -> usize {
        self.topics.len()
    }

    /// Names and subscribers of the topics in these places of the table, in no order.
    pub(crate) fn range(
        &self,
        places: std::ops::Range<usize>,
    ) -> impl Iterator<Item = (&str, usize)> {
        let places = places.start.min(self.topics.len())..places.end.min(self.topics.len());
        let topics = self.topics[places].iter().filter(|topic| topic.members.len > 0);
        topics.map(|topic| (text(self.bytes_of(topic)), topic.members.len as usize))
    }

    /// Subscribes a slot that is no subscriber of the topic.
    pub(crate) fn subscribe(&mut self, name: &str, slot: Slot) -> TopicIndex {
        let name = name.as_bytes();
        let hash = self.interest.hash(name);
        let index = self.find_hashed(name, hash).unwrap_or_else(|| self.begin(name, hash));
        self.members.insert(&mut self.topics[index.0 as usize].members, slot);
        self.subscriptions += 1;
        index
    }

    /// Takes a subscriber out.
    pub(crate) fn unsubscribe(&mut self, index: TopicIndex, slot: Slot) {
        let topic = &mut self.topics[index.0 as usize];
        self.members.remove(&mut topic.members, slot);
        let is_over = topic.members.len == 0;
        self.subscriptions -= 1;
        if is_over {
            self.end(index);
        }
    }

    #[inline]
    fn bytes_of(&self, topic: &Topic) -> &[u8] {
        self.names.get(topic.name_place, topic.name_len.into())
    }

    fn find_hashed(&self, name: &[u8], hash: u32) -> Option<TopicIndex> {
        let is_it = |index: &u32| {
            let topic = &self.topics[*index as usize];
            topic.hash == hash
                && usize::from(topic.name_len) == name.len()
                && self.bytes_of(topic) == name
        };
        self.by_name.find(spread(hash), is_it).map(|index| TopicIndex(*index))
    }

    /// A topic that does not exist, and has no member yet.
    fn begin(&mut self, name: &[u8], hash: u32) -> TopicIndex {
        let topic = Topic {
            hash,
            name_place: self.names.insert(name),
            name_len: u8::try_from(name.len()).expect("a longer name is no topic"),
            begun: self.cleared.get(name).copied().unwrap_or_else(|| self.announce(hash)),
            members: Members::default(),
        };
        let index = match self.vacant.pop() {
            Some(index) => {
                self.topics[index as usize] = topic;
                index
            }
            None => {
                let index = u32::try_from(self.topics.len())
                    .ok()
                    .filter(|index| *index < u32::MAX)
                    .expect("subscriptions are bounded far below 2^32");
                runs::reserve(&mut self.topics, 1);
                self.topics.push(topic);
                index
            }
        };
        if self.by_name.len() == self.by_name.capacity() {
            self.grow();
        }
        let Self { topics, by_name, .. } = self;
        let hash_of = |index: &u32| spread(topics[*index as usize].hash);
        by_name.insert_unique(spread(hash), index, hash_of);
        TopicIndex(index)
    }

    /// Makes the table by name anew. By itself it would look at the topics in its own order, which
    /// is none: a million of them would be fetched from memory one by one.
    fn grow(&mut self) {
        let len = self.by_name.len() + 1;
        let mut by_name = HashTable::with_capacity(len + len / (FREE_SHARE - 1));
        for (index, topic) in (0..).zip(&self.topics) {
            if topic.members.len > 0 {
                by_name.insert_unique(spread(topic.hash), index, |_| 0);
            }
        }
        self.by_name = by_name;
    }

    fn end(&mut self, index: TopicIndex) {
        let topic = &self.topics[index.0 as usize];
        let stays_announced = self.cleared.contains_key(self.bytes_of(topic));
        self.names.remove(topic.name_place, topic.name_len.into());
        self.by_name
            .find_entry(spread(topic.hash), |entry| *entry == index.0)
            .expect("every topic stands in the table")
            .remove();
        self.vacant.push(index.0);
        let hash = topic.hash;
        if !stays_announced {
            self.withdraw(hash);
        }
    }

    /// A topic with this hash begins.
    fn announce(&mut self, hash: u32) -> Epoch {
        let Announced { begun, is_first } = self.interest.announce(hash, self.here);
        if !is_first {
            *self.sharing.entry(self.interest.row(hash)).or_default() += 1;
        }
        begun
    }

    /// A topic with this hash has ended: unless another one shares its row, nothing of that row
    /// concerns this worker any more.
    fn withdraw(&mut self, hash: u32) {
        let row = self.interest.row(hash);
        match self.sharing.get_mut(&row) {
            None => self.interest.withdraw(hash, self.here),
            Some(1) => _ = self.sharing.remove(&row),
            Some(others) => *others -= 1,
        }
    }
}

/// A name as text.
fn text(name: &[u8]) -> &str {
    std::str::from_utf8(name).expect("it was put there as text")
}

/// The table takes the place from the low bits and a tag from the highest.
fn spread(hash: u32) -> u64 {
    u64::from(hash) << 32 | u64::from(hash)
}

#[cfg(test)]
impl Topics {
    /// No topics, of one of two workers.
    pub(crate) fn of_some_worker() -> Self {
        Self::new(Arc::new(Interest::new(2, 1 << 10, 1)), Member(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topic_begins_with_its_first_subscriber_and_ends_with_its_last() {
        let mut topics = Topics::of_some_worker();
        assert_eq!(topics.find(b"a"), None);
        let a = topics.subscribe("a", 7);
        assert_eq!(topics.subscribe("a", 3), a);
        let b = topics.subscribe("b", 7);
        assert_ne!(a, b);
        assert_eq!((topics.len(), topics.subscriptions()), (2, 3));
        assert_eq!(
            (topics.find(b"a"), topics.name(a), topics.subscribers_len(a)),
            (Some(a), "a", 2)
        );
        topics.unsubscribe(a, 7);
        assert_eq!(topics.find(b"a"), Some(a));
        topics.unsubscribe(a, 3);
        assert_eq!(topics.find(b"a"), None);
        assert_eq!((topics.len(), topics.subscriptions()), (1, 1));
        assert_eq!(topics.find(b"b"), Some(b));
    }

    #[test]
    fn an_audience_has_no_members_once_its_topic_has_ended_even_if_the_index_is_used_again() {
        let mut topics = Topics::of_some_worker();
        let old = topics.subscribe("old", 7);
        let audience = topics.audience(old);
        assert!(matches!(topics.subscribers(audience), Some(Subscribers::List(&[7]))));
        topics.unsubscribe(old, 7);
        assert!(topics.subscribers(audience).is_none());
        let new = topics.subscribe("new", 9);
        assert_eq!(new, old);
        assert!(topics.subscribers(audience).is_none());
        let subscribers = topics.subscribers(topics.audience(new));
        assert!(matches!(subscribers, Some(Subscribers::List(&[9]))));
        assert!(topics.subscribers(Audience(u64::MAX)).is_none());
    }

    #[test]
    fn names_stay_where_they_are_while_the_table_grows_and_shrinks() {
        let mut topics = Topics::of_some_worker();
        let name = |number: u32| format!("room/{number}");
        let indexes: Vec<_> = (0..10_000).map(|slot| topics.subscribe(&name(slot), slot)).collect();
        for slot in (0..10_000).step_by(2) {
            topics.unsubscribe(indexes[slot as usize], slot);
        }
        for slot in 0..10_000 {
            let expected = (slot % 2 == 1).then_some(indexes[slot as usize]);
            assert_eq!(topics.find(name(slot).as_bytes()), expected);
        }
        assert_eq!(topics.len(), 5_000);
        (0..5_000).for_each(|slot| _ = topics.subscribe(&name(20_000 + slot), slot));
        assert_eq!(topics.topics.len(), 10_000, "indexes are used again");
    }

    #[test]
    fn a_worker_hears_of_a_row_as_long_as_any_topic_of_it_stands_in_it() {
        // All topics share the one row.
        let interest = Arc::new(Interest::new(2, 1, 1));
        let mut topics = Topics::new(Arc::clone(&interest), Member(1));
        let hears = || interest.of(Some(b"any")).contains(Member(1));
        assert!(!hears());
        let indexes = ["a", "b", "c"].map(|name| topics.subscribe(name, 7));
        topics.subscribe("a", 8);
        for (index, slot) in [(0, 7), (1, 7), (0, 8)] {
            topics.unsubscribe(indexes[index], slot);
            assert!(hears());
        }
        topics.unsubscribe(indexes[2], 7);
        assert!(!hears());
        topics.subscribe("d", 1);
        assert!(hears());
        assert!(!interest.of(Some(b"any")).contains(Member(0)));
    }

    #[test]
    fn topics_that_are_cleared_stay_announced_until_they_have_come_back_or_end() {
        // With rows of their own and with one that all share.
        for rows in [1 << 10, 1] {
            let interest = Arc::new(Interest::new(2, rows, 1));
            let mut topics = Topics::new(Arc::clone(&interest), Member(1));
            let names = ["a", "b", "c"];
            let heard = || names.map(|name| interest.of(Some(name.as_bytes())).contains(Member(1)));
            let [_, b, _] = names.map(|name| topics.subscribe(name, 7));
            let begun = topics.begun(b);
            topics.clear();
            assert_eq!((heard(), topics.len(), topics.find(b"a")), ([true; 3], 0, None));
            let index = topics.subscribe("b", 7);
            assert_eq!(topics.begun(index), begun, "it never ended");
            topics.clear();
            let index = topics.subscribe("b", 8);
            assert_eq!(topics.begun(index), begun, "twice");
            topics.unsubscribe(index, 8);
            assert_eq!(heard(), [true; 3], "others may still come back");
            let index = topics.subscribe("b", 8);
            assert_eq!(topics.begun(index), begun, "they do");
            topics.end_cleared();
            assert_eq!(heard(), if rows == 1 { [true; 3] } else { [false, true, false] });
            topics.unsubscribe(index, 8);
            assert_eq!(heard(), [false; 3]);
            let index = topics.subscribe("b", 7);
            assert!(topics.begun(index) > begun, "it did end");
        }
    }

    #[test]
    fn a_range_of_the_table_leaves_out_what_has_ended_and_ends_with_the_table() {
        let mut topics = Topics::of_some_worker();
        let indexes = ["a", "b", "c"].map(|name| topics.subscribe(name, 0));
        topics.subscribe("c", 1);
        topics.unsubscribe(indexes[1], 0);
        assert_eq!(topics.places(), 3);
        let range = |places| topics.range(places).collect::<Vec<_>>();
        assert_eq!(range(0..2), [("a", 1)]);
        assert_eq!(range(2..4), [("c", 2)]);
        assert_eq!(range(3..6), []);
        assert_eq!(range(4..6), []);
    }
}
