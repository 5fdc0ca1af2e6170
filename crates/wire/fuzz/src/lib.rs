//! What the fuzz targets try: the properties of the wire tests, from the same files. A finding is
//! kept in the corpus, which the wire tests replay, and gets a test of its own.

#![forbid(unsafe_code)]
#![allow(dead_code, reason = "the shared files are written for the tests, and partly used here")]

#[path = "../../tests/rfc6455/cases/mod.rs"]
mod cases;
#[path = "../../tests/rfc6455/properties.rs"]
mod properties;
#[path = "../../tests/rfc6455/support.rs"]
mod support;

/// Frames of any kind cut anywhere.
pub fn decoder(bytes: &[u8]) {
    properties::decoder_hears_the_same_however_reads_are_cut(bytes);
}

/// A request head.
pub fn handshake(bytes: &[u8]) {
    properties::handshake_is_decided_by_a_certain_byte_and_as_tungstenite_does(bytes);
}

/// Well-formed frames, beside tungstenite.
pub fn differential(bytes: &[u8]) {
    properties::streams_are_heard_as_tungstenite_hears_them(bytes);
}

/// Frames where permessage-deflate is agreed on, cut anywhere.
pub fn deflated(bytes: &[u8]) {
    properties::compressed_streams_are_heard_the_same_however_reads_are_cut(bytes);
}

/// Compressed payloads.
pub fn inflate(bytes: &[u8]) {
    properties::payloads_are_inflated_within_their_bound_and_come_back(bytes);
}
