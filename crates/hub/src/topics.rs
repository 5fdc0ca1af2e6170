//! The topics that have subscribers here, by name and by index. A topic begins with its first
//! subscriber and ends with its last; its index is used again, under a new generation, so that
//! what was begun for the old topic finds nobody.

use hashbrown::HashTable;
use rand::{Rng, SeedableRng, rngs::StdRng};
use siphasher::sip::SipHasher13;
use worker::{Audience, Slot};

use crate::subscribers::Subscribers;

/// Where a topic stands in the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TopicIndex(u32);

/// All topics of one worker.
#[derive(Debug)]
pub(crate) struct Topics {
    topics: Vec<Topic>,
    /// Indexes without a topic.
    vacant: Vec<u32>,
    by_name: HashTable<Entry>,
    hasher: SipHasher13,
    subscriptions: u64,
}

#[derive(Debug)]
struct Topic {
    name: Box<str>,
    subscribers: Subscribers,
    generation: u32,
}

const _: () = assert!(size_of::<Topic>() <= 56, "there may be a million");

/// The hash stands beside the index so that the table grows without visiting every name.
#[derive(Debug, Clone, Copy)]
struct Entry {
    hash: u32,
    index: u32,
}

impl Topics {
    /// No topics. Clients choose the names, so the hash has a secret key, made from the seed.
    pub(crate) fn new(seed: u64) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        Self {
            topics: Vec::new(),
            vacant: Vec::new(),
            by_name: HashTable::new(),
            hasher: SipHasher13::new_with_keys(random.random(), random.random()),
            subscriptions: 0,
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
        &self.topics[index.0 as usize].name
    }

    pub(crate) fn find(&self, name: &str) -> Option<TopicIndex> {
        let hash = self.hash(name);
        let is_it =
            |entry: &Entry| entry.hash == hash && *self.topics[entry.index as usize].name == *name;
        self.by_name.find(spread(hash), is_it).map(|entry| TopicIndex(entry.index))
    }

    pub(crate) fn subscribers_len(&self, index: TopicIndex) -> usize {
        self.topics[index.0 as usize].subscribers.len()
    }

    /// The subscribers of a topic as long as it exists, and of nothing once it has ended.
    pub(crate) fn audience(&self, index: TopicIndex) -> Audience {
        let generation = self.topics[index.0 as usize].generation;
        Audience(u64::from(generation) << 32 | u64::from(index.0))
    }

    /// The subscribers that an audience stands for, if its topic still exists.
    pub(crate) fn subscribers(&self, audience: Audience) -> Option<&Subscribers> {
        let [index, generation] = [audience.0 & u64::from(u32::MAX), audience.0 >> 32];
        let topic = self.topics.get(usize::try_from(index).ok()?)?;
        (u64::from(topic.generation) == generation).then_some(&topic.subscribers)
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
        let topics = self.topics[places].iter().filter(|topic| !topic.subscribers.is_empty());
        topics.map(|topic| (&*topic.name, topic.subscribers.len()))
    }

    /// Subscribes a slot that is no subscriber of the topic.
    pub(crate) fn subscribe(&mut self, name: &str, slot: Slot) -> TopicIndex {
        let index = self.find(name).unwrap_or_else(|| self.begin(name));
        self.topics[index.0 as usize].subscribers.insert(slot);
        self.subscriptions += 1;
        index
    }

    /// Takes a subscriber out.
    pub(crate) fn unsubscribe(&mut self, index: TopicIndex, slot: Slot) {
        let topic = &mut self.topics[index.0 as usize];
        topic.subscribers.remove(slot);
        let is_over = topic.subscribers.is_empty();
        self.subscriptions -= 1;
        if is_over {
            self.end(index);
        }
    }

    fn begin(&mut self, name: &str) -> TopicIndex {
        let index = match self.vacant.pop() {
            Some(index) => {
                self.topics[index as usize].name = name.into();
                index
            }
            None => {
                let index = u32::try_from(self.topics.len())
                    .ok()
                    .filter(|index| *index < u32::MAX)
                    .expect("subscriptions are bounded far below 2^32");
                let subscribers = Subscribers::new();
                self.topics.push(Topic { name: name.into(), subscribers, generation: 0 });
                index
            }
        };
        let hash = self.hash(name);
        let entry = Entry { hash, index };
        self.by_name.insert_unique(spread(hash), entry, |entry| spread(entry.hash));
        TopicIndex(index)
    }

    fn end(&mut self, index: TopicIndex) {
        let topic = &mut self.topics[index.0 as usize];
        let name = std::mem::take(&mut topic.name);
        topic.subscribers = Subscribers::new();
        topic.generation = topic.generation.wrapping_add(1);
        let hash = spread(self.hash(&name));
        self.by_name
            .find_entry(hash, |entry| entry.index == index.0)
            .expect("every topic stands in the table")
            .remove();
        self.vacant.push(index.0);
    }

    #[expect(clippy::cast_possible_truncation, reason = "half of a good hash is a good hash")]
    fn hash(&self, name: &str) -> u32 {
        self.hasher.hash(name.as_bytes()) as u32
    }
}

/// The table takes the place from the low bits and a tag from the highest.
fn spread(hash: u32) -> u64 {
    u64::from(hash) << 32 | u64::from(hash)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topic_begins_with_its_first_subscriber_and_ends_with_its_last() {
        let mut topics = Topics::new(1);
        assert_eq!(topics.find("a"), None);
        let a = topics.subscribe("a", 7);
        assert_eq!(topics.subscribe("a", 3), a);
        let b = topics.subscribe("b", 7);
        assert_ne!(a, b);
        assert_eq!((topics.len(), topics.subscriptions()), (2, 3));
        assert_eq!(
            (topics.find("a"), topics.name(a), topics.subscribers_len(a)),
            (Some(a), "a", 2)
        );
        topics.unsubscribe(a, 7);
        assert_eq!(topics.find("a"), Some(a));
        topics.unsubscribe(a, 3);
        assert_eq!(topics.find("a"), None);
        assert_eq!((topics.len(), topics.subscriptions()), (1, 1));
        assert_eq!(topics.find("b"), Some(b));
    }

    #[test]
    fn an_audience_has_no_members_once_its_topic_has_ended_even_if_the_index_is_used_again() {
        let mut topics = Topics::new(1);
        let old = topics.subscribe("old", 7);
        let audience = topics.audience(old);
        assert_eq!(topics.subscribers(audience).map(Subscribers::len), Some(1));
        topics.unsubscribe(old, 7);
        assert!(topics.subscribers(audience).is_none_or(Subscribers::is_empty));
        let new = topics.subscribe("new", 9);
        assert_eq!(new, old);
        assert!(topics.subscribers(audience).is_none());
        assert_eq!(topics.subscribers(topics.audience(new)).map(Subscribers::len), Some(1));
        assert!(topics.subscribers(Audience(u64::MAX)).is_none());
    }

    #[test]
    fn names_stay_where_they_are_while_the_table_grows_and_shrinks() {
        let mut topics = Topics::new(1);
        let name = |number: u32| format!("room/{number}");
        let indexes: Vec<_> = (0..10_000).map(|slot| topics.subscribe(&name(slot), slot)).collect();
        for slot in (0..10_000).step_by(2) {
            topics.unsubscribe(indexes[slot as usize], slot);
        }
        for slot in 0..10_000 {
            let expected = (slot % 2 == 1).then_some(indexes[slot as usize]);
            assert_eq!(topics.find(&name(slot)), expected);
        }
        assert_eq!(topics.len(), 5_000);
        (0..5_000).for_each(|slot| _ = topics.subscribe(&name(20_000 + slot), slot));
        assert_eq!(topics.topics.len(), 10_000, "indexes are used again");
    }

    #[test]
    fn the_hash_depends_on_the_seed() {
        let hashes = |seed| ["a", "b", "c"].map(|name| Topics::new(seed).hash(name));
        assert_eq!(hashes(1), hashes(1));
        assert_ne!(hashes(1), hashes(2));
    }

    #[test]
    fn a_range_of_the_table_leaves_out_what_has_ended_and_ends_with_the_table() {
        let mut topics = Topics::new(1);
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
