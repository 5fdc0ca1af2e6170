//! One-line breaks of a worker, for the simulator to catch: a checker that has never caught anything
//! shows nothing. This file is compiled with the feature `breakage` only; without it every question
//! below is the constant `false` of `breakage_none.rs`, and nothing is left of it.

#![expect(
    clippy::disallowed_types,
    reason = "which break is meant is the thread's, not a worker's"
)]

use std::cell::Cell;

use bytes::Bytes;

use crate::{connections::Farewell, core::Core, operation::ConnectionId, stats::CloseReason};

/// What is broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Break {
    /// The rest of a message that a socket took in part never follows.
    RestDropped,
    /// A completion is believed whatever its connection's generation.
    GenerationIgnored,
    /// Who is busy is offered frames.
    BusyOffered,
    /// Two letters of one sender are handled in the wrong order.
    LettersSwapped,
    /// Bytes that are heard do not answer a ping.
    HeardIgnored,
    /// Under `SlowConsumer::Latest` a socket may take nothing for ever.
    WriteTimeoutIgnored,
    /// The oldest messages are dropped and not counted.
    DropsUncounted,
    /// Publications are compressed for the largest window, whatever was agreed on.
    WindowIgnored,
    /// A connection's queue may hold twice what it may.
    QueueBoundDoubled,
    /// What is refused stays counted as sent.
    RefusedBytesCounted,
    /// Who is open is ended for this reason as soon as its socket has taken the 101.
    EndedWithoutCause(CloseReason),
    /// A worker says that it is full when it is half full.
    FullTooEarly,
    /// All queues together may hold twice what they may.
    BudgetDoubled,
    /// Nobody is pinged.
    PingsForgotten,
    /// What everybody has received is kept.
    PublicationsKept,
    /// Whom its handler wants closed for this reason stays open.
    Kept(CloseReason),
}

thread_local! {
    /// Of this thread's workers. Nobody else has breaks: a product is built without this file.
    static BROKEN: Cell<Option<Break>> = const { Cell::new(None) };
}

/// Breaks the workers of this thread from now on, or mends them.
pub fn set(broken: Option<Break>) {
    BROKEN.set(broken);
}

fn is(broken: Break) -> bool {
    BROKEN.get() == Some(broken)
}

pub(crate) fn drops_rests() -> bool {
    is(Break::RestDropped)
}

pub(crate) fn ignores_generations() -> bool {
    is(Break::GenerationIgnored)
}

pub(crate) fn offers_to_busy() -> bool {
    is(Break::BusyOffered)
}

pub(crate) fn swaps_letters() -> bool {
    is(Break::LettersSwapped)
}

pub(crate) fn ignores_heard() -> bool {
    is(Break::HeardIgnored)
}

pub(crate) fn ignores_write_timeout() -> bool {
    is(Break::WriteTimeoutIgnored)
}

pub(crate) fn forgets_to_count_drops() -> bool {
    is(Break::DropsUncounted)
}

pub(crate) fn ignores_windows() -> bool {
    is(Break::WindowIgnored)
}

pub(crate) fn doubles_queue_bound() -> bool {
    is(Break::QueueBoundDoubled)
}

pub(crate) fn counts_refused_bytes() -> bool {
    is(Break::RefusedBytesCounted)
}

pub(crate) fn fills_too_early() -> bool {
    is(Break::FullTooEarly)
}

pub(crate) fn doubles_budget() -> bool {
    is(Break::BudgetDoubled)
}

pub(crate) fn forgets_pings() -> bool {
    is(Break::PingsForgotten)
}

pub(crate) fn keeps_publications() -> bool {
    is(Break::PublicationsKept)
}

pub(crate) fn keeps(reason: CloseReason) -> bool {
    is(Break::Kept(reason))
}

/// Ends an open connection for a reason that it has not given.
pub(crate) fn ends_without_cause(core: &mut Core, connection: ConnectionId) {
    let Some(Break::EndedWithoutCause(reason)) = BROKEN.get() else { return };
    match reason {
        CloseReason::PeerGone => core.handle_finished(connection),
        CloseReason::PeerClosed => {
            let words = Bytes::from_static(b"\x88\x02\x03\xe8");
            core.begin_closing(connection, reason, Farewell::Finish, words);
            core.handle_peer_done(connection);
        }
        CloseReason::OverBudget => core.cut(connection, reason),
        reason => core.close(connection, reason),
    }
}
