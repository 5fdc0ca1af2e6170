//! Nothing is broken: what `breakage.rs` asks is answered before there is any code.

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
