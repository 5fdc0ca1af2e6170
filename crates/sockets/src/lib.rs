//! What the engines on the kernel's sockets have in common, however they ask the kernel: the clock,
//! what an errno says about a connection, the connection table, how a listener lets nobody new
//! in, and how any thread ends a wait. It knows the boundary, and nothing of any engine.

#![forbid(unsafe_code)]

#[cfg(feature = "conformance")]
pub mod bed;
#[cfg(feature = "conformance")]
pub mod churn;
mod clock;
mod event;
mod failure;
mod free_slots;
#[cfg(feature = "conformance")]
pub mod peer;
#[cfg(feature = "conformance")]
pub mod rig;
mod slots;
mod syn_filter;

pub use crate::{
    clock::now,
    event::EventWaker,
    failure::failure,
    slots::{SlotState, Slots},
    syn_filter::drop_syns,
};
