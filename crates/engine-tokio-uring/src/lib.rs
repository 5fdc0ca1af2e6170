//! The engine boundary on tokio-uring: for kernels that have io_uring and lack what the ring engine
//! needs. The engine owns a runtime of one thread and enters it once a turn. What has to wait in the
//! kernel is a task, which ends by saying what it has found: one accept, or one read of the first
//! bytes of an idle connection. What need not wait is asked of the socket at once: sends, and the
//! bytes behind the first. It knows sockets and slots; it does not know what the bytes mean.
//!
//! tokio-uring 0.5 decides much of this. It has no cancellation: a read that nobody wants any more
//! is ended by shutting the socket down, an accept by shutting the listener down. It has no poll: who
//! waits for room to write waits in the epoll instance of the same runtime. A write through its ring
//! waits in the kernel when the socket is full, so none is made. And its sockets are lent by number
//! only, which `socket.rs` keeps to itself.
//!
//! Read in this order: `engine.rs` (the turn), `tasks.rs` (what waits), `slots.rs` (the life of a
//! connection), `accept.rs`, `receive.rs`, `send.rs`, `close.rs`, `socket.rs`, `setup.rs`.

#![forbid(unsafe_code)]

mod accept;
mod close;
mod engine;
mod receive;
mod send;
mod setup;
mod slots;
mod socket;
mod tasks;
#[cfg(test)]
mod tests;

pub use crate::{
    engine::{TokioUringEngine, TokioUringOptions},
    setup::{KERNEL_MIN, StartError},
};
