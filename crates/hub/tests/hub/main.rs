//! The hub inside of whole workers: what subscribers receive, in which order, and what happens
//! where there is no room.

#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod compression;
mod control;
mod crowd;
mod model;
mod publishing;
mod rig;
mod roll;
mod tokens_of_clients;
