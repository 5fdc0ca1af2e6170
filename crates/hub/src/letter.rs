//! What crosses the mesh: publications between workers, questions and reports with the control
//! thread. A letter is a tag and a pointer, whatever it carries.

use std::{sync::Arc, time::Duration};

use worker::{Publication, Report};

use crate::access::Access;

/// One letter.
#[derive(Debug)]
pub enum Letter {
    /// A publication of another worker's client.
    Publication(Arc<Publication>),
    /// Publications of the control thread, to be published in this order and acknowledged.
    Batch(Arc<Batch>),
    /// The acknowledgement of a batch.
    Receipt(Box<Receipt>),
    /// A question of the control thread.
    Ask(Arc<Question>),
    /// A worker's answer.
    Tell(Box<Reply>),
    /// To a worker an empty report, from a worker its full one.
    Report(Box<Report>),
    /// Stop accepting and close every connection, evenly, within this many milliseconds.
    Drain(u32),
    /// Verify tokens with this from now on. Who is connected stays.
    Access(Arc<Access>),
}

const _: () = assert!(size_of::<Letter>() <= 16, "a place in a queue is a letter and its stamp");

/// Publications that are taken together or not at all.
#[derive(Debug)]
pub struct Batch {
    /// Names the batch in its receipts.
    pub id: u64,
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
}

/// A worker's answer to a question.
#[derive(Debug, PartialEq, Eq)]
pub struct Reply {
    /// Which question.
    pub id: u64,
    /// Topics and their subscribers on this worker, in byte order.
    pub topics: Vec<(Box<str>, u32)>,
}

impl Letter {
    /// The letter that drains a worker within `over`.
    #[must_use]
    pub fn drain(over: Duration) -> Self {
        Self::Drain(u32::try_from(over.as_millis()).unwrap_or(u32::MAX))
    }
}
