//! Completions that can be kept and compared, for everything that tests an engine.

use std::{fmt, net::SocketAddr};

use crate::operation::{Completion, ConnectionId, Failure, ListenerId, Reception, Taken};

/// A completion that outlives the call.
#[derive(Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "each is named after its completion")]
pub enum Event {
    Accepted(ConnectionId, ListenerId, SocketAddr),
    StoppedAccepting(ListenerId),
    Bytes(ConnectionId, Vec<u8>),
    Finished(ConnectionId),
    Failed(ConnectionId, Failure),
    Sent(ConnectionId, Result<Taken, Failure>),
    Writable(ConnectionId),
    Refused(ConnectionId, Result<Taken, Failure>),
    Offered(u32),
    Closed(ConnectionId),
    Woken,
}

impl From<Completion<'_>> for Event {
    fn from(completion: Completion<'_>) -> Self {
        match completion {
            Completion::Accepted { connection, listener, peer } => {
                Self::Accepted(connection, listener, peer)
            }
            Completion::StoppedAccepting { listener } => Self::StoppedAccepting(listener),
            Completion::Received { connection, outcome } => match outcome {
                Reception::Bytes(bytes) => {
                    assert!(!bytes.is_empty(), "received bytes are at least one");
                    let received = bytes.to_vec();
                    // They belong to the receiver for the moment: it unmasks in place.
                    bytes.fill(0);
                    Self::Bytes(connection, received)
                }
                Reception::Finished => Self::Finished(connection),
                Reception::Failed(failure) => Self::Failed(connection, failure),
            },
            Completion::Sent { connection, outcome } => Self::Sent(connection, outcome),
            Completion::Writable { connection } => Self::Writable(connection),
            Completion::Refused { connection, outcome } => {
                let outcome = outcome.map_err(|lost| {
                    assert!(!lost.bytes.is_empty(), "what is lost is told");
                    lost.failure
                });
                Self::Refused(connection, outcome)
            }
            Completion::Offered { targets } => Self::Offered(targets),
            Completion::Closed { connection } => Self::Closed(connection),
            Completion::Woken => Self::Woken,
        }
    }
}

impl fmt::Debug for Event {
    /// Lengths in place of bytes, of which there may be millions.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let connection = |id: &ConnectionId| format!("{}.{}", id.slot, id.generation);
        let outcome = |outcome: &Result<Taken, Failure>| match outcome {
            Ok(taken) => format!("{} of {} bytes", taken.taken, taken.bytes.len()),
            Err(failure) => format!("{failure:?}"),
        };
        match self {
            Self::Accepted(id, listener, peer) => {
                write!(f, "Accepted({}, {listener:?}, {peer})", connection(id))
            }
            Self::StoppedAccepting(listener) => write!(f, "StoppedAccepting({listener:?})"),
            Self::Bytes(id, bytes) => write!(f, "Bytes({}, {})", connection(id), bytes.len()),
            Self::Finished(id) => write!(f, "Finished({})", connection(id)),
            Self::Failed(id, failure) => write!(f, "Failed({}, {failure:?})", connection(id)),
            Self::Sent(id, sent) => write!(f, "Sent({}, {})", connection(id), outcome(sent)),
            Self::Writable(id) => write!(f, "Writable({})", connection(id)),
            Self::Refused(id, rest) => write!(f, "Refused({}, {})", connection(id), outcome(rest)),
            Self::Offered(targets) => write!(f, "Offered({targets})"),
            Self::Closed(id) => write!(f, "Closed({})", connection(id)),
            Self::Woken => write!(f, "Woken"),
        }
    }
}
