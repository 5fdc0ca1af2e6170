//! Whether a worker has cause for what it does to a connection for its own sake: refusals, and ends
//! that nobody has asked for.

use std::time::Duration;

use worker::{Closing, ConnectionId, Time};

use super::{Accepting, SimEngine, Submitted};
use crate::{
    options::Promises,
    table::{Connection, Phase},
    watch,
};

/// By how much deadlines are rounded.
const TICKS: Duration = Duration::from_millis(50);

impl SimEngine {
    /// What is wrong with the first bytes that answer a request, if they refuse it.
    pub(super) fn judge_answer(
        &self,
        now: Time,
        id: ConnectionId,
        answer: &[u8],
    ) -> Option<String> {
        let Connection { watch, .. } = self.table.peek(id).filter(|it| !it.watch.is_answered())?;
        let promises = &self.options.promises;
        let is_right = match answer.strip_prefix(b"HTTP/1.1 ")?.get(..3)? {
            b"503" => {
                let (open, head_bytes) = self.occupied_max.unwrap_or_else(|| self.occupied());
                let is_full =
                    open >= promises.connections_max || head_bytes > promises.head_bytes_max;
                return (!is_full && !self.is_draining()).then(|| {
                    format!("is refused where {open} are open, and {head_bytes} bytes are of heads")
                });
            }
            b"408" => watch.age(now) + TICKS >= promises.handshake_timeout,
            _ => true,
        };
        (!is_right).then(|| "is refused too early".to_owned())
    }

    fn is_draining(&self) -> bool {
        let mut accepting = self.accepting.iter();
        accepting.all(|it| matches!(it, Accepting::Emptying | Accepting::Closed))
    }

    /// Connections that are open, and bytes of heads that may be kept, as far as it can be seen:
    /// who is being closed is open until its Close frame leaves.
    fn occupied(&self) -> (u32, u64) {
        let (mut open, mut head_bytes) = (0, 0);
        for connection in self.table.connections().filter(|it| it.phase == Phase::Open) {
            if !connection.watch.is_answered() {
                head_bytes += connection.told;
            } else if connection.watch.is_open() && !connection.watch.is_closing() {
                open += 1;
            }
        }
        (open, head_bytes)
    }

    /// The same before some are let in and some closed in any order, and as if those were in already.
    pub(super) fn occupied_within(&self, all_submitted: &[Submitted]) -> (u32, u64) {
        let (open, head_bytes) = self.occupied();
        let is_let_in = |it: &&Submitted| match it {
            Submitted::Send(id, bytes) => {
                let connection = self.table.peek(*id);
                connection.is_some_and(|it| !it.watch.is_answered()) && watch::lets_in(bytes)
            }
            _ => false,
        };
        let let_in = all_submitted.iter().filter(is_let_in).count();
        (open + u32::try_from(let_in).unwrap_or(u32::MAX), head_bytes)
    }
}

/// What is wrong with the close of a connection that was not closed before.
pub(super) fn judge_close(
    promises: &Promises,
    connection: &Connection,
    how: Closing,
) -> Option<&'static str> {
    let Connection { watch, ended, arrival, .. } = connection;
    let has_words = watch.is_closing() || watch.is_answered() && !watch.is_open();
    match how {
        Closing::Finish if !(*ended || has_words) => {
            Some("is closed as if it had ended, which was not told")
        }
        Closing::Linger if !has_words => Some("is closed without a word"),
        Closing::Abort if !watch.is_answered() && watch.failure.is_none() => {
            let limit = promises.addresses.connections_max;
            let is_flood = limit.is_some_and(|max| arrival.is_beyond(max.get() * 2));
            (!is_flood).then_some("is cut before it was answered")
        }
        _ => None,
    }
}
