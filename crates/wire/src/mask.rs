//! Unmasking (RFC 6455 section 5.3): the one pass over every received byte. Written so that the
//! compiler makes vector instructions of it; there is no code for a particular processor.

/// From about this length on, finding the first aligned byte costs less than stores that straddle
/// cache lines (the rows with an offset in `examples/unmask_speed.rs` show what it is worth).
const ALIGNED_BYTES_MIN: usize = 1024;

/// Bytes of a vector that every x86-64 and AArch64 has.
const VECTOR_BYTES: usize = 16;

/// Unmasks `payload` in place with `key`, whose first byte belongs to the payload's byte
/// `offset` modulo 4: `offset` is how many bytes of the same frame came before. Masking is the
/// same operation.
#[inline]
pub fn unmask(payload: &mut [u8], key: [u8; 4], offset: usize) {
    let key = skip(u32::from_le_bytes(key), offset);
    match unaligned_bytes(payload) {
        None => unmask_words(payload, key),
        Some(bytes) => {
            let (unaligned, aligned) = payload.split_at_mut(bytes);
            unmask_words(unaligned, key);
            unmask_words(aligned, skip(key, bytes));
        }
    }
}

/// Bytes before the first vector that is aligned. `None`: it is not worth finding.
#[inline]
fn unaligned_bytes(payload: &[u8]) -> Option<usize> {
    let is_long = payload.len() >= ALIGNED_BYTES_MIN;
    is_long.then(|| payload.as_ptr().align_offset(VECTOR_BYTES).min(payload.len()))
}

/// The key for what comes `bytes` later. Its lowest byte is the next one.
#[inline]
fn skip(key: u32, bytes: usize) -> u32 {
    match bytes % 4 {
        1 => key.rotate_right(8),
        2 => key.rotate_right(16),
        3 => key.rotate_right(24),
        _ => key,
    }
}

/// The loop that becomes vector instructions, and up to three bytes after it.
#[inline]
fn unmask_words(payload: &mut [u8], key: u32) {
    let (words, tail) = payload.as_chunks_mut::<4>();
    for word in words {
        *word = (u32::from_le_bytes(*word) ^ key).to_le_bytes();
    }
    for (byte, key) in tail.iter_mut().zip(key.to_le_bytes()) {
        *byte ^= key;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_masked_hello_of_rfc_6455_section_5_7_is_unmasked() {
        let mut payload = [0x7f, 0x9f, 0x4d, 0x51, 0x58];
        unmask(&mut payload, [0x37, 0xfa, 0x21, 0x3d], 0);
        assert_eq!(payload, *b"Hello");
    }

    #[test]
    fn every_byte_gets_the_key_byte_of_its_place_for_any_length_and_offset() {
        let key = [0x11, 0x22, 0x44, 0x88];
        for length in (0..200).chain(ALIGNED_BYTES_MIN - 20..ALIGNED_BYTES_MIN + 40) {
            for offset in 0..20 {
                // The offset is also the place in memory, so that every alignment occurs.
                let mut buffer = vec![0; offset + length];
                let payload = &mut buffer[offset..];
                unmask(payload, key, offset);
                for (index, byte) in payload.iter().enumerate() {
                    assert_eq!(*byte, key[(offset + index) % 4], "{length} {offset} {index}");
                }
            }
        }
    }

    #[test]
    fn from_1024_bytes_on_vectors_begin_at_a_multiple_of_16() {
        let buffer = vec![0; 2000];
        let aligned = buffer.as_ptr().align_offset(16);
        for (before, length, expected) in [
            (0, 1023, None),
            (0, 1024, Some(0)),
            (15, 1023, None),
            (15, 1024, Some(15)),
            (15, 1500, Some(15)),
            (1, 1024, Some(1)),
        ] {
            let start = aligned + 16 - before;
            let payload = &buffer[start..start + length];
            assert_eq!(unaligned_bytes(payload), expected, "{before} {length}");
        }
    }

    #[test]
    fn a_payload_in_pieces_is_unmasked_as_in_one() {
        let key = [0x37, 0xfa, 0x21, 0x3d];
        let bytes: Vec<u8> = (0..=255).collect();
        let mut whole = bytes.clone();
        unmask(&mut whole, key, 0);
        for cut in 0..=bytes.len() {
            let mut pieces = bytes.clone();
            let (first, second) = pieces.split_at_mut(cut);
            unmask(first, key, 0);
            unmask(second, key, cut);
            assert_eq!(pieces, whole, "cut at {cut}");
        }
    }
}
