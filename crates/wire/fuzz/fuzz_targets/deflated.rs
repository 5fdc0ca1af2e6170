//! Frames where permessage-deflate is agreed on, cut anywhere, beside the same without compression.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| ringway_wire_fuzz::deflated(bytes));
