//! The engine boundary on a virtual network, for whole workers without a kernel, a thread or a
//! clock: sockets with bounded buffers, links with latencies, and faults, all decided by one seed.
//! It is no part of the product. It is not the suite that every engine has to pass
//! (`worker::conformance`), though it passes that too: a worker tested here is tested against the
//! same contract that the real engines keep.

#![forbid(unsafe_code)]

mod bounds;
#[cfg(feature = "breakage")]
pub mod canaries;
mod chance;
mod client;
mod deeds;
mod deflate;
mod engine;
mod frames;
mod guard;
mod guest;
mod history;
mod hosts;
mod inflated;
mod ledger;
mod link;
mod network;
mod options;
mod outcome;
mod payload;
mod pipe;
mod queues;
mod reached;
mod scenario;
mod sent;
mod table;
mod tally;
mod visitor;
mod watch;
mod world;

pub use crate::{
    chance::Chance,
    client::{Client, ClientRead},
    deeds::Deed,
    engine::SimEngine,
    history::{Broken, Summary, run},
    network::Network,
    options::{Clock, EngineOptions, Faults, NetworkOptions, Promises},
    reached::Reached,
};
