//! A request head, beside tungstenite.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| ringway_wire_fuzz::handshake(bytes));
