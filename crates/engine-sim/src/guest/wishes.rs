//! What the control thread wants of workers beside publishing: who is there, that some be removed,
//! and that other settings count. One question at a time is asked, of all workers.

use std::{sync::Arc, time::Duration};

use hub::{Findings, Inquiry, Letter, Question, Reply, Selection};
use mesh::Member;
use worker::{ClosedConnection, ConnectionId, Gauges, Time};

use super::Guest;
use crate::{
    hosts,
    ledger::Subscription,
    reached::{ASKED, REMOVED_ADDRESS, REMOVED_ID, REMOVED_TOPIC, SETTINGS},
    world::World,
};

/// Entries of a listing.
const ENTRIES_MAX: usize = 20;

/// The question that is being answered.
#[derive(Debug)]
pub(super) struct Asked {
    id: u64,
    since: Time,
    members: Vec<Member>,
    /// Who was found, where that was the question.
    found: Vec<(Member, ConnectionId)>,
    /// The removal that it is, if it is one.
    removal: Option<usize>,
}

/// What the guest has wished.
#[derive(Debug, Default)]
pub(super) struct Wishes {
    next: Time,
    asked: Option<Asked>,
    questions: u64,
    /// How many each worker says that it has removed.
    pub(super) removed: Vec<u64>,
    /// True exactly when the budget of all queues was last doubled.
    is_doubled: bool,
}

/// Some that were to be removed.
#[derive(Clone, Debug)]
pub(crate) struct Removal {
    selection: Selection,
    asked: Time,
    /// When all workers had said that they were done.
    done: Option<Time>,
}

impl Removal {
    /// Whether it can be the cause of a close.
    /// `by`: whom the token of that connection means.
    pub(crate) fn covers(
        &self,
        worker: usize,
        closed: &ClosedConnection,
        by: Option<&str>,
    ) -> bool {
        let Selection { id, topic, address, subject } = &self.selection;
        let mut topics = closed.purpose.split(", ");
        let is_it = |(member, connection): (Member, ConnectionId)| {
            (usize::from(member.0), connection) == (worker, closed.connection)
        };
        id.is_none_or(is_it)
            && topic.as_deref().is_none_or(|topic| topics.any(|other| other == topic))
            && address.is_none_or(|(ip, _)| closed.peer.ip() == ip)
            && subject.as_deref().is_none_or(|subject| by == Some(subject))
    }

    /// Whether a visitor that is open must have been removed: it was open when that was asked for.
    /// An id may have gone over to somebody else when a worker was moved.
    pub(crate) fn must_include(
        &self,
        visitor: &Subscription,
        ip: std::net::IpAddr,
        by: Option<&str>,
    ) -> bool {
        let Selection { id, topic, address, subject } = &self.selection;
        let subscribes = |topic: &str| visitor.topics.iter().any(|it| format!("t{it}") == topic);
        self.done.is_some()
            && visitor.since < self.asked
            && id.is_none()
            && topic.as_deref().is_none_or(subscribes)
            && address.is_none_or(|(of, _)| of == ip)
            && subject.as_deref().is_none_or(|subject| by == Some(subject))
    }
}

impl Guest {
    /// When it has a wish again.
    pub(super) fn next_wish(&self) -> Time {
        match self.wishes.asked.is_none() && self.has_wishes {
            true => self.wishes.next,
            false => Time::NEVER,
        }
    }

    /// Wishes something, where it has a wish and everybody has room for it.
    pub(super) fn wish(&mut self, world: &mut World, now: Time) {
        if now < self.next_wish() {
            return;
        }
        self.wishes.next = now + Duration::from_millis(world.wishes.long(1_000..=60_000));
        if !self.has_room() {
            return;
        }
        if self.wish_of_tokens(world, now) {
            return;
        }
        match world.wishes.number(0..=3) {
            0 => self.reload(world),
            1 => {
                let topic = world.wishes.number(0..=world.scenario.topics - 1);
                let topic = Some(format!("t{topic}").into());
                self.remove(Selection { topic, ..Selection::default() }, REMOVED_TOPIC, world);
            }
            2 => {
                let links = world.network.links();
                if links > 0 {
                    let link = world.wishes.number(0..=links - 1);
                    let ip = hosts::address(link, world.scenario.network.hosts).ip();
                    let address = Some((ip, None));
                    let selection = Selection { address, ..Selection::default() };
                    self.remove(selection, REMOVED_ADDRESS, world);
                }
            }
            _ => {
                let selection = Selection::default();
                let inquiry =
                    Inquiry::Connections { selection, after: None, entries_max: ENTRIES_MAX };
                self.inquire(inquiry, None);
            }
        }
    }

    pub(super) fn remove(&mut self, selection: Selection, row: &'static str, world: &mut World) {
        self.reached.count(row);
        let asked = self.network.now();
        world.removals.push(Removal { selection: selection.clone(), asked, done: None });
        self.inquire(Inquiry::Remove(selection), Some(world.removals.len() - 1));
    }

    fn inquire(&mut self, inquiry: Inquiry, removal: Option<usize>) {
        self.reached.count(ASKED);
        let id = self.wishes.questions;
        self.wishes.questions += 1;
        let members = self.members().collect();
        let since = self.network.now();
        self.wishes.asked = Some(Asked { id, since, members, found: Vec::new(), removal });
        let question = Arc::new(Question { id, inquiry });
        for member in self.members() {
            self.post(member, Letter::Ask(Arc::clone(&question)));
        }
    }

    /// Longer timeouts and a larger budget, or those of the beginning again.
    fn reload(&mut self, world: &World) {
        self.reached.count(SETTINGS);
        self.wishes.is_doubled = !self.wishes.is_doubled;
        let settings = world.scenario.settings(self.wishes.is_doubled);
        for member in self.members() {
            self.post(member, Letter::Settings(Box::new(settings.clone())));
        }
    }

    pub(super) fn handle_reply(
        &mut self,
        from: Member,
        reply: Reply,
        world: &mut World,
    ) -> Result<(), String> {
        let wrong = || format!("{from:?} answers what it was not asked");
        let asked = self.wishes.asked.as_mut().filter(|it| it.id == reply.id).ok_or_else(wrong)?;
        let before = asked.members.len();
        asked.members.retain(|member| *member != from);
        if asked.members.len() + 1 != before {
            return Err(wrong());
        }
        match (reply.findings, asked.removal) {
            (Findings::Removed(removal), Some(_)) => {
                self.wishes.removed.resize(usize::from(self.workers), 0);
                self.wishes.removed[usize::from(from.0)] += u64::from(removal.closed);
            }
            (Findings::Connections(roll), None) => {
                let ids = roll.entries.iter().map(|entry| (from, entry.sight.connection));
                asked.found.extend(ids);
                if roll.entries.len() > ENTRIES_MAX || !roll.entries.is_sorted_by_key(slot) {
                    return Err(format!("{from:?} lists {} in disorder", roll.entries.len()));
                }
            }
            _ => return Err(wrong()),
        }
        if asked.members.is_empty() {
            self.conclude(world);
        }
        Ok(())
    }

    /// All have answered.
    fn conclude(&mut self, world: &mut World) {
        let Some(asked) = self.wishes.asked.take() else { return };
        let now = self.network.now();
        world.guard.iter_mut().for_each(|guard| guard.handle_answered(asked.since, now));
        if let Some(removal) = asked.removal {
            let removal = &mut world.removals[removal];
            // Who changes places while it is looked for may be missed.
            let is_sure = world.handed_over < removal.asked;
            removal.done = is_sure.then_some(now);
        } else if !asked.found.is_empty() && self.has_room() && self.publishes {
            let id = Some(*world.wishes.one(&asked.found));
            self.remove(Selection { id, ..Selection::default() }, REMOVED_ID, world);
        }
    }

    /// When everything has come to rest: nothing is left unanswered.
    pub(super) fn check_wishes(&self) -> Result<(), String> {
        match &self.wishes.asked {
            None => Ok(()),
            Some(asked) => Err(format!("{asked:?} was never answered")),
        }
    }

    /// At the end: those were closed as removed that were removed, and the last settings count.
    pub(super) fn check_granted(&self, world: &World) -> Result<(), String> {
        let removed: u64 = self.wishes.removed.iter().sum();
        if removed != self.removed {
            return Err(format!("{removed} were removed, and {} closed for it", self.removed));
        }
        let limits = world.scenario.settings(self.wishes.is_doubled).worker.limits;
        let expected = limits.send_queue_total_bytes_max;
        let adopts = |gauges: &Gauges| gauges.send_queue_bytes_max == expected;
        match self.gauges.iter().all(adopts) {
            true => Ok(()),
            false => Err("some worker does not go by its settings".to_owned()),
        }
    }
}

fn slot(entry: &hub::Entry) -> worker::Slot {
    entry.sight.connection.slot
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr, SocketAddr};

    use worker::CloseReason;

    use super::*;

    const IP: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

    fn removal(selection: Selection) -> Removal {
        Removal { selection, asked: Time(10), done: Some(Time(20)) }
    }

    #[test]
    fn a_removal_is_cause_to_close_those_alone_that_it_names() {
        let closed = ClosedConnection {
            connection: ConnectionId { slot: 1, generation: 2 },
            peer: SocketAddr::from((IP, 7)),
            purpose: "t1, t12".to_owned(),
            reason: CloseReason::Removed,
        };
        let covers = |selection| removal(selection).covers(3, &closed, Some("s1"));
        let topic = |name: &str| Selection { topic: Some(name.into()), ..Selection::default() };
        assert_eq!([topic("t12"), topic("t2")].map(covers), [true, false]);
        let address = |ip| Selection { address: Some((ip, None)), ..Selection::default() };
        let other = IpAddr::V4(Ipv4Addr::BROADCAST);
        assert_eq!([address(IP), address(other)].map(covers), [true, false]);
        let subject = |name: &str| Selection { subject: Some(name.into()), ..Selection::default() };
        assert_eq!([subject("s1"), subject("s2")].map(covers), [true, false]);
        let id = |member, generation| {
            let connection = ConnectionId { slot: 1, generation };
            Selection { id: Some((Member(member), connection)), ..Selection::default() }
        };
        assert_eq!([id(3, 2), id(3, 1), id(2, 2)].map(covers), [true, false, false]);
    }

    #[test]
    fn who_was_open_before_it_must_be_gone() {
        let topic = Selection { topic: Some("t4".into()), ..Selection::default() };
        let must = |topics: &[usize], since| {
            let mut visitor = Subscription::new(0, topics.to_vec(), false, true);
            visitor.since = Time(since);
            removal(topic.clone()).must_include(&visitor, IP, Some("s1"))
        };
        assert_eq!([must(&[3, 4], 9), must(&[3, 4], 10), must(&[3], 9)], [true, false, false]);
    }
}
