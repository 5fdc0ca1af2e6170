//! The engine on real sockets of this machine: what the kernel does, and what the engine makes of
//! it; and, in `conformance.rs`, what every engine must do.

mod accepting;
mod churn;
mod closing;
mod conformance;
mod descriptors;
mod receiving;
mod rig;
mod sending;
mod starting;
mod waking;
mod zero_copy;
