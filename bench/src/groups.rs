//! Who should get which publication, and who has it: one group of subscribers for each topic of
//! a run. A publication is complete when every member has it or has been given up.

use std::collections::VecDeque;

use crate::order::Plan;
use crate::scenario::Traffic;

/// How far a publication of another process may be ahead of those known here. Connections are
/// served one after the other, so a server's whole send queue may separate two of them.
const AHEAD_MAX: u32 = 1 << 16;

/// A publication that every member has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Complete {
    pub(crate) group: u32,
    pub(crate) sequence: u32,
    pub(crate) intended_ns: u64,
}

#[derive(Debug)]
struct Waiting {
    /// Members that do not have it yet.
    remaining: u32,
    intended_ns: u64,
}

#[derive(Debug)]
struct Group {
    /// Index of the connection that publishes, where this process has it.
    publisher: Option<u32>,
    members: u32,
    /// Number of the oldest publication that is not complete.
    first: u32,
    /// The publications from `first` on.
    waiting: VecDeque<Waiting>,
}

/// All groups of a process.
#[derive(Debug)]
pub(crate) struct Groups {
    groups: Vec<Group>,
    /// Connections per group, in order of their index.
    group_members: u32,
    /// Connections below this index are members; a fan-out's publisher is not.
    members_end: u32,
    /// Deliveries that are waited for, over all groups.
    remaining: u64,
}

impl Groups {
    /// The groups of `plan`; `is_member` says which connections are waited for.
    pub(crate) fn new(plan: &Plan, is_member: impl Fn(u32) -> bool) -> Groups {
        let group_members = match plan.traffic {
            Traffic::None | Traffic::Churn => 0,
            Traffic::Fanout => plan.connections,
            Traffic::Rooms => plan.room_members,
            Traffic::Echo => 1,
        };
        let count = if group_members == 0 { 0 } else { plan.connections.div_ceil(group_members) };
        let group = |number: u32| {
            let start = number * group_members;
            let end = (start + group_members).min(plan.connections);
            let publisher = match plan.traffic {
                Traffic::Fanout => plan.publisher.then_some(plan.connections),
                _ => Some(start),
            };
            let members = u32::try_from((start..end).filter(|index| is_member(*index)).count())
                .expect("a part of a u32 range");
            Group { publisher, members, first: 0, waiting: VecDeque::new() }
        };
        Groups {
            groups: (0..count).map(group).collect(),
            group_members,
            members_end: plan.connections,
            remaining: 0,
        }
    }

    /// The number of groups.
    pub(crate) fn count(&self) -> u32 {
        u32::try_from(self.groups.len()).expect("no more groups than connections")
    }

    /// Deliveries that are waited for.
    pub(crate) fn remaining(&self) -> u64 {
        self.remaining
    }

    /// The oldest publication of `group` that is not complete.
    pub(crate) fn first(&self, group: u32) -> u32 {
        self.groups[group as usize].first
    }

    /// The number that the next publication of `group` will have.
    pub(crate) fn next(&self, group: u32) -> u32 {
        self.groups[group as usize].next()
    }

    /// The connection that publishes in `group`.
    pub(crate) fn publisher(&self, group: u32) -> Option<u32> {
        self.groups[group as usize].publisher
    }

    /// Counts a new publication of `group` and returns its number.
    pub(crate) fn publish(&mut self, group: u32, intended_ns: u64) -> u32 {
        let group = &mut self.groups[group as usize];
        let sequence = group.next();
        self.remaining += group.push(intended_ns);
        sequence
    }

    /// Connection `index` got `sequence`, after `missed` others that it will not get. False when
    /// no such publication can have been sent.
    pub(crate) fn receive(
        &mut self,
        index: u32,
        (sequence, intended_ns): (u32, u64),
        missed: u32,
        complete: &mut Vec<Complete>,
    ) -> bool {
        let Some(number) = self.group_of(index) else { return true };
        let group = &mut self.groups[number as usize];
        let ahead_max = if group.publisher.is_some() { 0 } else { AHEAD_MAX };
        if sequence >= group.next().saturating_add(ahead_max) {
            return false;
        }
        // Where another process publishes, its publications are first heard of here.
        while group.next() <= sequence {
            self.remaining += group.push(intended_ns);
        }
        for sequence in sequence - missed..=sequence {
            self.remaining -= group.settle(sequence);
        }
        group.take_complete(number, complete);
        true
    }

    /// Connection `index` ended: it will get nothing from `expected` on. Returns how many
    /// deliveries were waited for in vain.
    pub(crate) fn lose(&mut self, index: u32, expected: u32, complete: &mut Vec<Complete>) -> u64 {
        let Some(number) = self.group_of(index) else { return 0 };
        let group = &mut self.groups[number as usize];
        group.members = group.members.saturating_sub(1);
        let settled: u64 = (expected..group.next()).map(|sequence| group.settle(sequence)).sum();
        self.remaining -= settled;
        group.take_complete(number, complete);
        settled
    }

    /// Gives up all that is still waited for and returns how much it was.
    pub(crate) fn give_up(&mut self) -> u64 {
        for group in &mut self.groups {
            group.first = group.next();
            group.waiting.clear();
        }
        std::mem::take(&mut self.remaining)
    }

    fn group_of(&self, index: u32) -> Option<u32> {
        (index < self.members_end).then(|| index.checked_div(self.group_members)).flatten()
    }
}

impl Group {
    fn next(&self) -> u32 {
        self.first + u32::try_from(self.waiting.len()).expect("numbers are u32")
    }

    fn push(&mut self, intended_ns: u64) -> u64 {
        self.waiting.push_back(Waiting { remaining: self.members, intended_ns });
        self.members.into()
    }

    /// One member is no longer waited for; returns 1 when it was.
    fn settle(&mut self, sequence: u32) -> u64 {
        let waiting = sequence
            .checked_sub(self.first)
            .and_then(|place| self.waiting.get_mut(place as usize))
            .filter(|waiting| waiting.remaining > 0);
        match waiting {
            Some(waiting) => {
                waiting.remaining -= 1;
                1
            }
            None => 0,
        }
    }

    fn take_complete(&mut self, group: u32, complete: &mut Vec<Complete>) {
        while let Some(front) = self.waiting.front() {
            if front.remaining > 0 {
                return;
            }
            let intended_ns = front.intended_ns;
            complete.push(Complete { group, sequence: self.first, intended_ns });
            self.waiting.pop_front();
            self.first += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dialect::Dialect;
    use crate::payload::Kind;
    use crate::url::Url;

    fn plan(traffic: Traffic, connections: u32, publisher: bool) -> Plan {
        Plan {
            url: Url::parse("ws://127.0.0.1:9/").unwrap(),
            dialect: Dialect::Plain,
            compression: false,
            traffic,
            first: 0,
            connections,
            publisher,
            shared: false,
            size: 16,
            payload: Kind::Filler,
            rate: 0.0,
            room_members: 2,
            stalled_percent: 0.0,
            batch: 1,
            returns: false,
            core: None,
        }
    }

    fn complete(group: u32, sequence: u32, intended_ns: u64) -> Complete {
        Complete { group, sequence, intended_ns }
    }

    #[test]
    fn a_publication_is_complete_when_every_member_has_it() {
        let mut groups = Groups::new(&plan(Traffic::Fanout, 3, true), |index| index != 1);
        let mut done = Vec::new();
        assert_eq!((groups.count(), groups.publisher(0)), (1, Some(3)));
        assert_eq!(groups.publish(0, 50), 0);
        assert_eq!(groups.remaining(), 2);
        assert!(groups.receive(0, (0, 50), 0, &mut done));
        // The publisher gets its own message and is not waited for.
        assert!(groups.receive(3, (0, 50), 0, &mut done));
        assert_eq!(done, []);
        assert!(groups.receive(2, (0, 50), 0, &mut done));
        assert_eq!(done, [complete(0, 0, 50)]);
        assert_eq!(groups.remaining(), 0);
    }

    #[test]
    fn a_gap_settles_what_was_missed() {
        let mut groups = Groups::new(&plan(Traffic::Echo, 1, false), |_| true);
        let mut done = Vec::new();
        assert_eq!([0, 1, 2].map(|time| groups.publish(0, time)), [0, 1, 2]);
        assert!(groups.receive(0, (2, 2), 2, &mut done));
        assert_eq!(done, [complete(0, 0, 0), complete(0, 1, 1), complete(0, 2, 2)]);
        assert_eq!((groups.first(0), groups.remaining()), (3, 0));
    }

    #[test]
    fn a_lost_member_is_no_longer_waited_for() {
        let mut groups = Groups::new(&plan(Traffic::Rooms, 4, false), |_| true);
        let mut done = Vec::new();
        assert_eq!((groups.count(), groups.publisher(1)), (2, Some(2)));
        groups.publish(1, 7);
        assert!(groups.receive(2, (0, 7), 0, &mut done));
        assert_eq!(groups.lose(3, 0, &mut done), 1);
        assert_eq!(done, [complete(1, 0, 7)]);
        groups.publish(1, 8);
        assert!(groups.receive(2, (1, 8), 0, &mut done));
        assert_eq!(done[1], complete(1, 1, 8));
    }

    #[test]
    fn a_number_that_was_never_sent_is_refused() {
        let mut groups = Groups::new(&plan(Traffic::Fanout, 2, true), |_| true);
        assert!(!groups.receive(0, (0, 0), 0, &mut Vec::new()));
        let mut others = Groups::new(&plan(Traffic::Fanout, 2, false), |_| true);
        assert!(others.receive(0, (5, 0), 5, &mut Vec::new()));
        assert!(!others.receive(1, (1 << 20, 0), 1 << 20, &mut Vec::new()));
        assert_eq!(others.remaining(), 6);
    }

    #[test]
    fn giving_up_forgets_what_is_waited_for() {
        let mut groups = Groups::new(&plan(Traffic::Fanout, 2, true), |_| true);
        groups.publish(0, 1);
        groups.publish(0, 2);
        assert_eq!(groups.give_up(), 4);
        assert_eq!((groups.first(0), groups.remaining()), (2, 0));
        assert!(groups.receive(0, (0, 1), 0, &mut Vec::new()));
        assert_eq!(groups.remaining(), 0);
    }
}
