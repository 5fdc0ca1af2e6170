//! What crosses the mesh: publications between workers, questions and reports with the control
//! thread. A letter is a tag and a pointer, whatever it carries.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc, time::Duration};

use mesh::Member;
use worker::{ConnectionId, Publication, Report, Sight, Slot};

use crate::{access::Access, interest::Epoch, options::Settings};

/// One letter.
#[derive(Debug)]
pub enum Letter {
    /// A publication of another worker's client.
    Publication {
        /// When it was posted.
        as_of: Epoch,
        /// The publication itself.
        publication: Arc<Publication>,
    },
    /// Publications of the control thread, to be published in this order and acknowledged.
    Batch(Arc<Batch>),
    /// The acknowledgement of a batch.
    Receipt(Box<Receipt>),
    /// A question of the control thread.
    Ask(Arc<Question>),
    /// A worker's answer.
    Tell(Box<Reply>),
    /// To a worker an empty report, from a worker its full one, behind what it has refused.
    Report(Box<Report>),
    /// Stop accepting and close every connection, evenly, within this many milliseconds.
    Drain(u32),
    /// Verify tokens with this from now on. Who is connected stays.
    Access(Arc<Access>),
    /// From a worker: tokens that it has refused since its last report.
    Refused(Box<Refused>),
    /// Tokens of these subjects are good again.
    Unblock(Arc<Vec<Arc<str>>>),
    /// Go by these settings from now on.
    Settings(Box<Settings>),
}

const _: () = assert!(size_of::<Letter>() <= 16, "a place in a queue is a letter and its stamp");

/// Publications that are taken together or not at all.
#[derive(Debug)]
pub struct Batch {
    /// Names the batch in its receipts.
    pub id: u64,
    /// When it was posted.
    pub as_of: Epoch,
    /// In order.
    pub publications: Vec<Arc<Publication>>,
}

/// A worker has taken a batch.
#[derive(Debug, PartialEq, Eq)]
pub struct Receipt {
    /// Which batch.
    pub id: u64,
    /// Subscribers of this worker, one number a publication.
    pub receivers: Vec<u32>,
}

/// What the control thread wants to know.
#[derive(Debug)]
pub struct Question {
    /// Names the question in its replies.
    pub id: u64,
    /// The question itself.
    pub inquiry: Inquiry,
}

/// The questions there are.
#[derive(Debug, PartialEq, Eq)]
pub enum Inquiry {
    /// The first `entries_max` topics, in byte order, behind this name.
    Topics {
        /// Names up to and including this one are left out.
        after: Option<Box<str>>,
        /// At most so many.
        entries_max: usize,
    },
    /// The subscribers of one topic.
    Topic(Box<str>),
    /// The first `entries_max` of these open connections, by worker and slot.
    Connections {
        /// Which ones.
        selection: Selection,
        /// Those up to and including this one are left out.
        after: Option<(Member, Slot)>,
        /// At most so many.
        entries_max: usize,
    },
    /// Close these open connections as removed, and say so when it is done. A subject that is
    /// named is blocked from now on, until [`Letter::Unblock`]: no token of it opens anything.
    Remove(Selection),
}

/// Which open connections are meant: those of which all holds that is named here.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selection {
    /// This one of this worker.
    pub id: Option<(Member, ConnectionId)>,
    /// Those that subscribe to this topic.
    pub topic: Option<Box<str>>,
    /// Those whose client has this address, and this port where one is named.
    pub address: Option<(IpAddr, Option<u16>)>,
    /// Those whose token means this subject.
    pub subject: Option<Arc<str>>,
}

/// A worker's answer to a question.
#[derive(Debug, PartialEq, Eq)]
pub struct Reply {
    /// Which question.
    pub id: u64,
    /// What was found.
    pub findings: Findings,
}

/// What a worker has found.
#[derive(Debug, PartialEq, Eq)]
pub enum Findings {
    /// Topics and their subscribers on this worker, in byte order.
    Topics(Vec<(Box<str>, u32)>),
    /// Connections.
    Connections(Roll),
    /// It has closed connections.
    Removed(Removal),
}

/// Some of a worker's open connections.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Roll {
    /// In slot order.
    pub entries: Vec<Entry>,
    /// True exactly when the worker has stopped before it had seen all.
    pub is_cut: bool,
}

/// One of them.
#[derive(Debug, PartialEq, Eq)]
pub struct Entry {
    /// How it stands.
    pub sight: Sight,
    /// What it subscribes to, in the order in which it named them; none for `/echo`.
    pub topics: Vec<Box<str>>,
    /// Whom its token means.
    pub subject: Option<Box<str>>,
}

/// What a worker has closed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Removal {
    /// Connections.
    pub closed: u32,
    /// When the last of their tokens ends, in seconds since 1970; one that never ends:
    /// `u64::MAX`; `None` where nobody had a token.
    pub tokens_end: Option<u64>,
}

/// Tokens of subjects that are blocked.
#[derive(Debug, PartialEq, Eq)]
pub struct Refused {
    /// By subject, when the last of them ends, in seconds since 1970; one that never ends:
    /// `u64::MAX`.
    pub ends: BTreeMap<Arc<str>, u64>,
}

impl Letter {
    /// The letter that drains a worker within `over`.
    #[must_use]
    pub fn drain(over: Duration) -> Self {
        Self::Drain(u32::try_from(over.as_millis()).unwrap_or(u32::MAX))
    }
}
