//! What the fuzz targets have found worth keeping, once more: each input alone made the code go
//! where no other had.

use std::{fs, path::Path};

use crate::properties;

/// Tries a property on all inputs of a target.
fn replay(target: &str, property: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let mut inputs = 0;
    for entry in fs::read_dir(&folder).expect("the corpus is part of the repository") {
        let path = entry.expect("the folder can be read").path();
        // The name is in the output of a test that fails.
        println!("{}", path.display());
        property(&fs::read(&path).expect("an input can be read"));
        inputs += 1;
    }
    assert!(inputs >= 20, "{inputs} inputs in {}", folder.display());
}

#[test]
fn the_corpus_of_the_decoder_is_heard_the_same_however_reads_are_cut() {
    replay("decoder", properties::decoder_hears_the_same_however_reads_are_cut);
}

#[test]
fn the_corpus_of_the_handshake_is_decided_by_a_certain_byte_and_as_tungstenite_does() {
    replay("handshake", properties::handshake_is_decided_by_a_certain_byte_and_as_tungstenite_does);
}

#[test]
fn the_corpus_of_streams_is_heard_as_tungstenite_hears_them() {
    replay("differential", properties::streams_are_heard_as_tungstenite_hears_them);
}

#[test]
fn the_corpus_of_compressed_streams_is_heard_the_same_however_reads_are_cut() {
    replay("deflated", properties::compressed_streams_are_heard_the_same_however_reads_are_cut);
}

#[test]
fn the_corpus_of_compressed_payloads_is_inflated_within_its_bound_and_comes_back() {
    replay("inflate", properties::payloads_are_inflated_within_their_bound_and_come_back);
}
