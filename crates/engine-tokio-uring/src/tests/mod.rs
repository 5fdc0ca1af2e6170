//! The engine on real sockets of this machine: what the kernel does, and what the engine makes of
//! it; and, in `conformance.rs`, what every engine must do.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod accepting;
mod churn;
mod conformance;
mod rig;
mod tasks;
mod writes;

pub(crate) use rig::{Rig, options};
