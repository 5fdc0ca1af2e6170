//! Walks along the open connections, to show them or to close them. A walk goes in slot order, from
//! turn to turn, so that a million of them are visited without holding anything else up; where a
//! topic is named it visits only its subscribers. It is no snapshot: who comes or leaves meanwhile
//! may be met or not, but nobody is met twice.

use std::sync::Arc;

use mesh::Member;
use worker::{Actions, CloseReason, Sight, Slot};

use crate::{
    connections::Purpose,
    letter::{Entry, Findings, Inquiry, Letter, Question, Removal, Reply, Roll, Selection},
    search::Ground,
    topics::TopicIndex,
};

/// Connections looked at in one turn.
const LOOKS_PER_TURN_MAX: usize = 4096;

/// Connections shown or closed in one turn: a close is a send, and who is shown may have many
/// topics.
const MEETINGS_PER_TURN_MAX: usize = 64;

/// Bytes of names in one answer, of topics and of subjects; a roll ends with the connection that
/// reaches it.
const ROLL_BYTES_MAX: usize = 1 << 20;

/// A walk.
#[derive(Debug)]
pub(crate) struct Walk {
    /// Who asked.
    pub(crate) from: Member,
    question: Arc<Question>,
    here: Member,
    /// Where it goes on; `None`: nowhere.
    next: Option<Slot>,
    roll: Roll,
    roll_bytes: usize,
    removal: Removal,
}

impl Walk {
    /// A walk on worker `here` that has met nobody yet.
    pub(crate) fn new(from: Member, question: Arc<Question>, here: Member) -> Self {
        let next = match &question.inquiry {
            Inquiry::Connections { entries_max: 0, .. } => None,
            Inquiry::Connections { after: Some((member, slot)), .. } if *member == here => {
                slot.checked_add(1)
            }
            Inquiry::Connections { after: Some((member, _)), .. } => (*member < here).then_some(0),
            _ => Some(0),
        };
        let (roll, removal) = (Roll::default(), Removal::default());
        Self { from, question, here, next, roll, roll_bytes: 0, removal }
    }

    /// Whether it closes whom it meets.
    pub(crate) fn is_removal(&self) -> bool {
        matches!(self.question.inquiry, Inquiry::Remove(_))
    }

    /// Visits the next connections. `true` exactly when it is over.
    pub(crate) fn advance(
        &mut self,
        ground: &Ground<'_>,
        actions: &mut Actions<'_, Letter>,
    ) -> bool {
        let question = Arc::clone(&self.question);
        let (selection, entries_max) = match &question.inquiry {
            Inquiry::Connections { selection, entries_max, .. } => (selection, *entries_max),
            Inquiry::Remove(selection) => (selection, 0),
            Inquiry::Topics { .. } | Inquiry::Topic(_) => return true,
        };
        let is_removal = self.is_removal();
        let topic = selection.topic.as_ref().map(|name| ground.topics.find(name.as_bytes()));
        let topic = match topic {
            Some(None) => return true,
            Some(Some(topic)) => Some(topic),
            None => None,
        };
        let mut meetings = 0;
        for _ in 0..LOOKS_PER_TURN_MAX {
            let Some(slot) = self.candidate(selection, topic, ground) else { return true };
            self.next = slot.checked_add(1);
            let Some(sight) = actions.sight(slot) else { continue };
            if !is_meant(selection, topic, ground, &sight) {
                continue;
            }
            meetings += 1;
            if is_removal {
                actions.close(sight.connection, CloseReason::Removed);
                self.count_removed(ground, slot);
            } else if self.show(ground, sight, entries_max) {
                return true;
            }
            if meetings == MEETINGS_PER_TURN_MAX {
                return false;
            }
        }
        false
    }

    /// The answer.
    pub(crate) fn into_reply(self) -> Reply {
        let findings = match self.question.inquiry {
            Inquiry::Remove(_) => Findings::Removed(self.removal),
            _ => Findings::Connections(self.roll),
        };
        Reply { id: self.question.id, findings }
    }

    /// The next open connection that may be meant.
    fn candidate(
        &self,
        selection: &Selection,
        topic: Option<TopicIndex>,
        ground: &Ground<'_>,
    ) -> Option<Slot> {
        let next = self.next?;
        if let Some((member, connection)) = selection.id {
            let slot = connection.slot;
            let is_here = member == self.here && ground.connections.open().contains(slot);
            return (is_here && slot >= next).then_some(slot);
        }
        match topic {
            None => ground.connections.open().next(next),
            Some(topic) => ground.topics.subscribers(ground.topics.audience(topic))?.next(next),
        }
    }

    fn count_removed(&mut self, ground: &Ground<'_>, slot: Slot) {
        self.removal.closed += 1;
        if let Some(pass) = ground.passes.get(slot) {
            let end = pass.ends_at.unwrap_or(u64::MAX);
            self.removal.tokens_end = self.removal.tokens_end.max(Some(end));
        }
    }

    /// Puts a connection on the roll; `true` exactly when that has no room for more.
    fn show(&mut self, ground: &Ground<'_>, sight: Sight, entries_max: usize) -> bool {
        let slot = sight.connection.slot;
        let topics: Vec<Box<str>> = match ground.connections.get(slot) {
            Purpose::Echo => Vec::new(),
            Purpose::Subscriber { topics, .. } => {
                topics.iter().map(|topic| ground.topics.name(*topic).into()).collect()
            }
        };
        let subject = ground.passes.get(slot).and_then(|pass| pass.subject.clone());
        self.roll_bytes += topics.iter().chain(&subject).map(|name| name.len()).sum::<usize>();
        self.roll.entries.push(Entry { sight, topics, subject });
        self.roll.is_cut =
            self.roll.entries.len() >= entries_max || self.roll_bytes >= ROLL_BYTES_MAX;
        self.roll.is_cut
    }
}

/// Whether all that is named holds of an open connection; `topic` is the one that is named.
fn is_meant(
    selection: &Selection,
    topic: Option<TopicIndex>,
    ground: &Ground<'_>,
    sight: &Sight,
) -> bool {
    let slot = sight.connection.slot;
    let subscribes = |topic| match ground.connections.get(slot) {
        Purpose::Echo => false,
        Purpose::Subscriber { topics, .. } => topics.contains(&topic),
    };
    let comes_from = |(address, port): (_, Option<u16>)| {
        sight.peer.ip() == address && port.is_none_or(|port| sight.peer.port() == port)
    };
    let is_of = |subject: &Arc<str>| {
        let pass = ground.passes.get(slot);
        pass.and_then(|pass| pass.subject.as_deref()) == Some(&**subject)
    };
    selection.id.is_none_or(|(_, connection)| connection == sight.connection)
        && topic.is_none_or(subscribes)
        && selection.address.is_none_or(comes_from)
        && selection.subject.as_ref().is_none_or(is_of)
}
