//! The engine boundary on epoll: for kernels and containers that refuse io_uring. One epoll instance
//! per worker, edge-triggered, asked once a turn. A socket is given what it takes at once, when it is
//! submitted; a socket that has something is received from once a turn, into one buffer that all
//! share. It knows sockets and slots; it does not know what the bytes mean.
//!
//! Read in this order: `engine.rs` (the turn), `slots.rs` (the life of a connection), `accept.rs`,
//! `receive.rs`, `send.rs`, `close.rs`.

#![forbid(unsafe_code)]

mod accept;
mod close;
mod engine;
mod receive;
mod send;
mod slots;
#[cfg(test)]
mod tests;

pub use crate::engine::{EpollEngine, EpollOptions};
