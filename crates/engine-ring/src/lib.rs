//! The engine boundary on raw io_uring: one ring per worker, created on the worker's thread and
//! never shared. Accepts into direct descriptors where the kernel lets go of them, waits for idle
//! connections with one-shot polls, receives into buffers that the kernel picks, and sends so that no
//! send waits in the kernel: a frame offered to many subscribers costs one entry each and no completion
//! where it was taken whole. Large frames may leave from registered memory, without a copy. It knows
//! sockets and slots; it does not know what the bytes mean.
//!
//! Read in this order: `engine.rs` (the turn), `slots.rs` (the life of a connection), `accept.rs`,
//! `receive.rs`, `offer.rs`, `zero_copy.rs`, `close.rs`, `wake.rs`, then `setup.rs`, `self_test.rs` and
//! `descriptors.rs`. Unsafe code is in four files: `queue.rs`, `buffers.rs` (memory that the kernel writes), `sends.rs` (memory that it reads) and
//! `arena.rs` (memory that it reads for longer than a batch).

mod accept;
mod arena;
mod buffers;
mod close;
mod descriptors;
mod engine;
mod offer;
mod queue;
mod receive;
mod self_test;
mod sends;
mod setup;
mod slots;
mod tag;
#[cfg(test)]
mod tests;
mod wake;
mod zero_copy;

pub use crate::{
    descriptors::Descriptors,
    engine::{RingEngine, RingOptions},
    setup::{KERNEL_MIN, StartError},
    wake::WakeTarget,
    zero_copy::ZeroCopy,
};
