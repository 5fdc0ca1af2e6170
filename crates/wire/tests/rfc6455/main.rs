//! What RFC 6455 demands of a server, as tables of literal bytes; every stream whole, cut into
//! single bytes and cut at random places; and the same streams through another implementation.

#![forbid(unsafe_code)]

mod cases;
mod corpus;
mod decoder;
mod handshake;
mod memory;
mod peer;
mod properties;
mod support;
mod text;
