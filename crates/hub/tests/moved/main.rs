//! All tests of the hub, once more, with its worker taken apart and put together after every turn:
//! no test may notice.

#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

#[path = "../hub/compression.rs"]
mod compression;
#[path = "../hub/control.rs"]
mod control;
#[path = "../hub/model.rs"]
mod model;
#[path = "../hub/publishing.rs"]
mod publishing;
#[path = "../hub/rig.rs"]
mod rig;
#[path = "../hub/roll.rs"]
mod roll;
#[path = "../hub/tokens_of_clients.rs"]
mod tokens_of_clients;
