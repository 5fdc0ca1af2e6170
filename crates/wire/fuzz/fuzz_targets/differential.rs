//! Well-formed frames in any order, beside tungstenite.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| ringway_wire_fuzz::differential(bytes));
