//! Nothing is broken: what `breakage.rs` asks is answered before there is any code.

use crate::{core::Core, operation::ConnectionId, stats::CloseReason};

pub(crate) const fn drops_rests() -> bool {
    false
}

pub(crate) const fn ignores_generations() -> bool {
    false
}

pub(crate) const fn offers_to_busy() -> bool {
    false
}

pub(crate) const fn swaps_letters() -> bool {
    false
}

pub(crate) const fn ignores_heard() -> bool {
    false
}

pub(crate) const fn ignores_write_timeout() -> bool {
    false
}

pub(crate) const fn forgets_to_count_drops() -> bool {
    false
}

pub(crate) const fn ignores_windows() -> bool {
    false
}

pub(crate) const fn doubles_queue_bound() -> bool {
    false
}

pub(crate) const fn counts_refused_bytes() -> bool {
    false
}

pub(crate) const fn fills_too_early() -> bool {
    false
}

pub(crate) const fn doubles_budget() -> bool {
    false
}

pub(crate) const fn forgets_pings() -> bool {
    false
}

pub(crate) const fn keeps_publications() -> bool {
    false
}

pub(crate) const fn keeps(_: CloseReason) -> bool {
    false
}

pub(crate) const fn ends_without_cause(_: &mut Core, _: ConnectionId) {}
