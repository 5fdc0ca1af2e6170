//! Compressed payloads, and what our own deflater makes of the same bytes.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| ringway_wire_fuzz::inflate(bytes));
