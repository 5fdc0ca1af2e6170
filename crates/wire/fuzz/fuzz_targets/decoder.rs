//! Frames of any kind cut anywhere.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| ringway_wire_fuzz::decoder(bytes));
