//! The engine on real sockets of this machine: what the kernel does, and what the engine makes of
//! it. What every engine must do is in the worker's conformance suite.

mod accepting;
mod churn;
mod closing;
mod receiving;
mod rig;
mod sending;
mod starting;
mod waking;
