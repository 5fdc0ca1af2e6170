//! What the crate builds on when it runs. `sync_loom.rs` has the same names over `loom`, so that
//! every interleaving of the rules above can be tried.

pub(crate) use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering, fence};

pub(crate) use crossbeam_queue::ArrayQueue as Queue;
