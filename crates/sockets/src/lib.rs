//! What the engines on the kernel's sockets have in common, however they ask the kernel: the clock,
//! the connection table, what an errno says about a connection or an accept, what became of a send,
//! when a listener is accepted from and lets nobody new in, and how any thread ends a wait. It knows
//! the boundary, and nothing of any engine.

#![forbid(unsafe_code)]

mod accepting;
#[cfg(feature = "conformance")]
pub mod bed;
#[cfg(feature = "conformance")]
pub mod churn;
mod clock;
mod decided;
mod event;
mod failure;
mod free_slots;
#[cfg(feature = "conformance")]
pub mod listeners;
#[cfg(feature = "conformance")]
pub mod peer;
mod receiving;
#[cfg(feature = "conformance")]
pub mod rig;
mod slots;
mod syn_filter;

pub use crate::{
    accepting::{AcceptFailure, Pace, accept_failure},
    clock::now,
    decided::{Decided, refused},
    event::EventWaker,
    failure::failure,
    receiving::{ReceiveFailure, Resting, receive_failure},
    slots::{SlotState, Slots},
};
