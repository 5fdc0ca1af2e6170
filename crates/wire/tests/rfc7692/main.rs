//! What RFC 7692 demands of a server: its negotiation as a table of literals, its example messages
//! as literal bytes, and messages compressed by another hand, cut wherever they may be.

#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod inflate;
mod negotiation;
mod receiving;
mod sending;
