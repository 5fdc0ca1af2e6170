//! A completion that outlives the state it was made from.

use std::net::SocketAddr;

use bytes::Bytes;
use worker::{Completion, ConnectionId, Failure, ListenerId, Lost, Reception, Taken};

/// What a wait is about to tell.
#[derive(Clone, Debug)]
pub(crate) enum Outcome {
    Accepted(ConnectionId, ListenerId, SocketAddr),
    StoppedAccepting(ListenerId),
    Bytes(ConnectionId, Vec<u8>),
    Finished(ConnectionId),
    Failed(ConnectionId, Failure),
    Sent(ConnectionId, Result<Taken, Failure>),
    Refused(ConnectionId, Result<Taken, Lost>),
    Writable(ConnectionId),
    Offered(u32),
    Closed(ConnectionId),
    Woken,
}

impl Outcome {
    pub(crate) fn sent(id: ConnectionId, bytes: Bytes, taken: Result<usize, Failure>) -> Self {
        Self::Sent(id, taken.map(|taken| Taken { bytes, taken }))
    }

    pub(crate) fn refused(id: ConnectionId, bytes: Bytes, taken: Result<usize, Failure>) -> Self {
        Self::Refused(
            id,
            match taken {
                Ok(taken) => Ok(Taken { bytes, taken }),
                Err(failure) => Err(Lost { bytes, failure }),
            },
        )
    }

    /// True exactly when a queue can become shorter by it.
    pub(crate) fn eases(&self) -> bool {
        !matches!(
            self,
            Self::Accepted(..)
                | Self::StoppedAccepting(_)
                | Self::Writable(_)
                | Self::Offered(_)
                | Self::Woken
        )
    }

    /// The connection whose send it tells of.
    pub(crate) fn connection(&self) -> Option<ConnectionId> {
        match self {
            Self::Sent(id, _) | Self::Refused(id, _) => Some(*id),
            _ => None,
        }
    }

    /// As the worker is told. Bytes are lent, and may be written over.
    pub(crate) fn completion(&mut self) -> Completion<'_> {
        match self {
            Self::Accepted(connection, listener, peer) => {
                Completion::Accepted { connection: *connection, listener: *listener, peer: *peer }
            }
            Self::StoppedAccepting(listener) => {
                Completion::StoppedAccepting { listener: *listener }
            }
            Self::Bytes(connection, bytes) => {
                Completion::Received { connection: *connection, outcome: Reception::Bytes(bytes) }
            }
            Self::Finished(connection) => {
                Completion::Received { connection: *connection, outcome: Reception::Finished }
            }
            Self::Failed(connection, failure) => Completion::Received {
                connection: *connection,
                outcome: Reception::Failed(*failure),
            },
            Self::Sent(connection, outcome) => {
                Completion::Sent { connection: *connection, outcome: outcome.clone() }
            }
            Self::Refused(connection, outcome) => {
                Completion::Refused { connection: *connection, outcome: outcome.clone() }
            }
            Self::Writable(connection) => Completion::Writable { connection: *connection },
            Self::Offered(targets) => Completion::Offered { targets: *targets },
            Self::Closed(connection) => Completion::Closed { connection: *connection },
            Self::Woken => Completion::Woken,
        }
    }
}
