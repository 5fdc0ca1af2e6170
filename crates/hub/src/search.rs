//! Questions of the control thread that take more than a turn: each goes on from turn to turn, a
//! bounded step at a time, and only the first at once.

use std::sync::Arc;

use mesh::Member;
use worker::Actions;

use crate::{
    connections::Connections,
    letter::{Inquiry, Letter, Question, Reply},
    listing::Listing,
    passes::Passes,
    topics::Topics,
    walk::Walk,
};

/// What a hub knows of its connections.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ground<'a> {
    pub(crate) topics: &'a Topics,
    pub(crate) connections: &'a Connections,
    pub(crate) passes: &'a Passes,
}

/// A question that is being answered.
#[derive(Debug)]
pub(crate) enum Search {
    Topics(Listing),
    Connections(Walk),
}

impl Search {
    /// A search of this worker that has visited nothing yet.
    pub(crate) fn new(from: Member, question: Arc<Question>, here: Member) -> Self {
        match question.inquiry {
            Inquiry::Topics { .. } | Inquiry::Topic(_) => {
                Self::Topics(Listing::new(from, question))
            }
            Inquiry::Connections { .. } | Inquiry::Remove(_) => {
                Self::Connections(Walk::new(from, question, here))
            }
        }
    }

    /// Who asked.
    pub(crate) fn from(&self) -> Member {
        match self {
            Self::Topics(listing) => listing.from,
            Self::Connections(walk) => walk.from,
        }
    }

    /// Whether it closes connections.
    pub(crate) fn is_removal(&self) -> bool {
        matches!(self, Self::Connections(walk) if walk.is_removal())
    }

    /// Begins anew where it has to: topics will stand in other places, connections keep their slots.
    pub(crate) fn restart(&mut self) {
        match self {
            Self::Topics(listing) => listing.restart(),
            Self::Connections(_) => {}
        }
    }

    /// One step. `true` exactly when it was the last.
    pub(crate) fn advance(
        &mut self,
        ground: &Ground<'_>,
        actions: &mut Actions<'_, Letter>,
    ) -> bool {
        match self {
            Self::Topics(listing) => listing.advance(ground.topics),
            Self::Connections(walk) => walk.advance(ground, actions),
        }
    }

    /// The answer.
    pub(crate) fn into_reply(self) -> Reply {
        match self {
            Self::Topics(listing) => listing.into_reply(),
            Self::Connections(walk) => walk.into_reply(),
        }
    }
}
