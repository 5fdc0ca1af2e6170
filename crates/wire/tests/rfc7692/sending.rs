//! Compressed messages to clients (RFC 7692 sections 6.1 and 7.2.1).

use rand::{Rng, SeedableRng, rngs::StdRng};
use ringway_wire::{DataOpcode, Deflater, Window, encode_message, message_boundary};

use crate::inflate::inflate;

fn window(bits: u8) -> Window {
    Window::of_bits(bits).unwrap()
}

/// What a frame says to a receiver with this window.
fn receive(frame: &[u8], bits: u8) -> Vec<u8> {
    let (message, reach) = receive_all(frame);
    assert!(reach <= 1 << bits, "it reaches {reach} back, out of a window of {bits} bits");
    message
}

/// What a frame says, and how far back it reaches.
fn receive_all(frame: &[u8]) -> (Vec<u8>, usize) {
    assert_eq!(frame[0] & 0xF0, 0xC0, "final, and compressed");
    let head_bytes = match frame[1] {
        126 => 4,
        127 => 10,
        _ => 2,
    };
    inflate(&[&frame[head_bytes..], &[0x00, 0x00, 0xFF, 0xFF]].concat())
}

/// Random bytes that return after so many others.
fn returning(distance: usize) -> Vec<u8> {
    let mut random = StdRng::seed_from_u64(distance as u64);
    let noise: Vec<u8> = (0..distance).map(|_| random.random()).collect();
    noise.repeat(3)
}

#[test]
fn hello_is_the_message_of_rfc_7692_section_7_2_3_1_as_often_as_it_repays() {
    // Five bytes cannot become fewer: the message of the RFC has seven.
    assert_eq!(Deflater::new().encode_message(DataOpcode::Text, b"Hello", window(15)), None);
    let frame = Deflater::new().encode_message(DataOpcode::Text, &b"Hello".repeat(9), window(15));
    let frame = frame.unwrap();
    assert_eq!(frame[0], 0xC1);
    assert_eq!(frame[2..8], [0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0xf7][..], "one bit tells them apart");
    assert_eq!(receive(&frame, 15), b"Hello".repeat(9));
}

#[test]
fn every_window_is_kept_to() {
    let mut deflater = Deflater::new();
    for bits in 9..=15 {
        // One distance that the window reaches, and one that it does not.
        let (near, far) = ((1 << bits) - 300, (1 << bits) + 100);
        let mut encode = |distance, window| {
            deflater.encode_message(DataOpcode::Binary, &returning(distance), window)
        };
        let frame = encode(near, window(bits)).expect("the window is of use");
        assert_eq!(receive(&frame, bits), returning(near), "{bits}");
        // Out of its reach, it is noise: a few bytes less at best.
        if let Some(frame) = encode(far, window(bits)) {
            assert_eq!(receive(&frame, bits), returning(far), "{bits}");
            assert!(frame.len() > 3 * far - 100, "{bits}");
        }
        if bits < 15 {
            let frame = encode(far, window(15)).expect("a larger window is of use");
            let (message, reach) = receive_all(&frame);
            assert_eq!((message, reach >= far), (returning(far), true), "{bits}");
        }
    }
}

#[test]
fn a_window_is_forgotten_with_its_message() {
    let mut deflater = Deflater::new();
    let payload = b"the same again and again and again".repeat(3);
    let mut encode = || deflater.encode_message(DataOpcode::Text, &payload, window(15)).unwrap();
    let first = encode();
    assert_eq!(receive(&first, 15), payload);
    assert_eq!(encode(), first);
}

#[test]
fn what_does_not_shrink_is_not_compressed() {
    let mut random = StdRng::seed_from_u64(1);
    let mut deflater = Deflater::new();
    for bytes in [0, 1, 5, 100, 1000, 70_000] {
        let noise: Vec<u8> = (0..bytes).map(|_| random.random()).collect();
        let frame = deflater.encode_message(DataOpcode::Binary, &noise, window(15));
        assert_eq!(frame, None, "{bytes}");
    }
}

#[test]
fn lengths_of_every_form_come_out_as_they_went_in() {
    let mut random = StdRng::seed_from_u64(1);
    let mut deflater = Deflater::new();
    for bytes in [100, 1_000, 10_000, 100_000, 1_000_000] {
        let payload: Vec<u8> = (0..bytes).map(|_| random.random_range(b'a'..b'e')).collect();
        for bits in 9..=15 {
            let frame = deflater.encode_message(DataOpcode::Text, &payload, window(bits)).unwrap();
            assert!(frame.len() < encode_message(DataOpcode::Text, &payload).len());
            assert_eq!(receive(&frame, bits), payload, "{bytes} {bits}");
        }
    }
}

#[test]
fn boundaries_of_joined_frames_are_found_among_compressed_ones() {
    let long = Deflater::new().encode_message(DataOpcode::Text, &[b'x'; 40_000], window(15));
    let long = long.unwrap();
    let frames = [&encode_message(DataOpcode::Text, b"one")[..], &long, b"\x81\x00"].concat();
    let end = 5 + long.len();
    for (taken, expected) in [(5, (5, 1)), (6, (end, 2)), (end, (end, 2)), (end + 1, (end + 2, 3))]
    {
        assert_eq!(message_boundary(&frames, taken), expected, "{taken}");
    }
}
