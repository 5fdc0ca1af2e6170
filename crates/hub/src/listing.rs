//! Pages of the topic list. The table has no order, so a page is the smallest names behind a given
//! one, found in one pass. The pass goes on from turn to turn: a million topics are visited without
//! holding anything else up. A listing is no snapshot: a topic that ends and begins meanwhile may
//! be in it or not, but none stands in it twice.

use std::{collections::BTreeMap, sync::Arc};

use mesh::Member;

use crate::{
    letter::{Findings, Inquiry, Question, Reply},
    topics::Topics,
};

/// Topics visited in one turn.
pub(crate) const TOPICS_PER_TURN_MAX: usize = 4096;

/// A page in the making.
#[derive(Debug)]
pub(crate) struct Listing {
    /// Who asked.
    pub(crate) from: Member,
    question: Arc<Question>,
    next: usize,
    page: BTreeMap<Box<str>, u32>,
}

impl Listing {
    /// A listing that has visited nothing yet.
    pub(crate) fn new(from: Member, question: Arc<Question>) -> Self {
        Self { from, question, next: 0, page: BTreeMap::new() }
    }

    /// Forgets what it has visited.
    pub(crate) fn restart(&mut self) {
        self.next = 0;
        self.page.clear();
    }

    /// Visits the next topics. `true` exactly when it has visited all. Of connections it knows
    /// nothing.
    pub(crate) fn advance(&mut self, topics: &Topics) -> bool {
        match &self.question.inquiry {
            Inquiry::Topic(name) => {
                let found = topics.find(name.as_bytes()).map(|topic| topics.subscribers_len(topic));
                self.page.extend(found.map(|subscribers| (name.clone(), saturate(subscribers))));
                true
            }
            Inquiry::Topics { entries_max: 0, .. }
            | Inquiry::Connections { .. }
            | Inquiry::Remove(_) => true,
            Inquiry::Topics { after, entries_max } => {
                let end = self.next + TOPICS_PER_TURN_MAX;
                for (name, subscribers) in topics.range(self.next..end) {
                    if after.as_deref().is_none_or(|after| name > after) {
                        offer(&mut self.page, *entries_max, name, saturate(subscribers));
                    }
                }
                self.next = end;
                end >= topics.places()
            }
        }
    }

    /// The answer.
    pub(crate) fn into_reply(self) -> Reply {
        let topics = self.page.into_iter().collect();
        Reply { id: self.question.id, findings: Findings::Topics(topics) }
    }
}

/// Puts a name into the page if it is among the `entries_max` smallest so far.
fn offer(page: &mut BTreeMap<Box<str>, u32>, entries_max: usize, name: &str, subscribers: u32) {
    if page.len() == entries_max {
        if page.last_key_value().is_none_or(|(last, _)| name > &**last) {
            return;
        }
        if !page.contains_key(name) {
            page.pop_last();
        }
    }
    page.insert(name.into(), subscribers);
}

fn saturate(subscribers: usize) -> u32 {
    u32::try_from(subscribers).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(topics: &Topics, inquiry: Inquiry) -> Vec<(Box<str>, u32)> {
        let mut listing = Listing::new(Member(3), Arc::new(Question { id: 7, inquiry }));
        while !listing.advance(topics) {}
        let reply = listing.into_reply();
        assert_eq!(reply.id, 7);
        listed(reply)
    }

    fn listed(reply: Reply) -> Vec<(Box<str>, u32)> {
        match reply.findings {
            Findings::Topics(topics) => topics,
            other => panic!("{other:?}"),
        }
    }

    fn behind(after: Option<&str>, entries_max: usize) -> Inquiry {
        Inquiry::Topics { after: after.map(Into::into), entries_max }
    }

    #[test]
    fn a_page_is_the_smallest_names_behind_the_given_one_in_byte_order() {
        let mut topics = Topics::of_some_worker();
        for (slot, name) in (0..).zip(["b", "é", "a/b", "Z", "a", "z"]) {
            topics.subscribe(name, slot);
        }
        topics.subscribe("a", 9);
        let expect = |page: Vec<(Box<str>, u32)>, expected: &[(&str, u32)]| {
            let page: Vec<_> = page.iter().map(|(name, count)| (&**name, *count)).collect();
            assert_eq!(page, expected);
        };
        expect(page(&topics, behind(None, 3)), &[("Z", 1), ("a", 2), ("a/b", 1)]);
        expect(page(&topics, behind(Some("a/b"), 3)), &[("b", 1), ("z", 1), ("é", 1)]);
        expect(page(&topics, behind(Some("a0"), 1)), &[("b", 1)]);
        expect(page(&topics, behind(Some("é"), 3)), &[]);
        expect(page(&topics, behind(None, 0)), &[]);
        expect(page(&topics, Inquiry::Topic("a".into())), &[("a", 2)]);
        expect(page(&topics, Inquiry::Topic("nobody".into())), &[]);
    }

    #[test]
    fn a_large_table_takes_several_turns_and_its_pages_hold_every_topic_once() {
        let mut topics = Topics::of_some_worker();
        let count = 3 * TOPICS_PER_TURN_MAX + 1;
        // In an order that is not theirs: 7,919 and the count have no common divisor.
        let names = (0..count).map(|number| format!("{:08}", number * 7_919 % count));
        names.for_each(|name| _ = topics.subscribe(&name, 0));
        let question = Arc::new(Question { id: 1, inquiry: behind(None, 1_000) });
        let mut listing = Listing::new(Member(3), question);
        let turns = (1..).find(|_| listing.advance(&topics)).unwrap();
        assert_eq!(turns, 4);
        let mut listed = 0;
        let mut after: Option<Box<str>> = None;
        loop {
            let page = page(&topics, behind(after.as_deref(), 1_000));
            for (name, subscribers) in &page {
                assert_eq!((&**name, *subscribers), (&*format!("{listed:08}"), 1));
                listed += 1;
            }
            if page.len() < 1_000 {
                break;
            }
            after = page.last().map(|(name, _)| name.clone());
        }
        assert_eq!(listed, count);
    }

    #[test]
    fn a_topic_that_moves_during_a_listing_is_listed_once() {
        let mut topics = Topics::of_some_worker();
        let moved = topics.subscribe("moved", 0);
        for number in 0..TOPICS_PER_TURN_MAX {
            topics.subscribe(&format!("other {number}"), 0);
        }
        let question = Arc::new(Question { id: 1, inquiry: behind(None, 2) });
        let mut listing = Listing::new(Member(3), question);
        assert!(!listing.advance(&topics));
        topics.unsubscribe(moved, 0);
        topics.subscribe("fills the gap", 0);
        topics.subscribe("moved", 0);
        topics.subscribe("moved", 1);
        while !listing.advance(&topics) {}
        let page = listed(listing.into_reply());
        assert_eq!(page, [("moved".into(), 2), ("other 0".into(), 1)]);
    }
}
