//! A seed is a history.

#![forbid(unsafe_code)]

use std::collections::BTreeSet;

use ringway_sim::run;

/// Small ones: they are quick even in a debug build.
const SEEDS: [u64; 4] = [2, 3, 5, 7];

#[test]
fn the_same_seed_is_the_same_history_and_another_is_another() {
    let mut fingerprints = BTreeSet::new();
    for seed in SEEDS {
        let summary = run(seed, 0).unwrap();
        assert_eq!(run(seed, 0).unwrap(), summary, "seed {seed}");
        fingerprints.insert(summary.fingerprint);
    }
    assert_eq!(fingerprints.len(), SEEDS.len());
}

/// What histories have found, and is mended. What was added since with dice of its own does not
/// happen in the first two.
#[test]
fn histories_that_were_broken_are_not_any_more() {
    for (seed, what) in [
        (1, "a publisher that was held back went on whatever its rate"),
        (3524, "a publisher was blamed for a pong as soon as it could be heard again"),
        (37, "what was held back for a publisher that changed engines forgot whose it was"),
        (170, "a publisher that changed engines was never read from again"),
        (734_217, "who was closed as its stream ended was received from once more"),
        (2356, "who was sent more behind its 101 than may be queued was taken for quick"),
        (1443, "who was over budget with what came behind its 101 was taken for one without"),
        (
            13_857,
            "who came first to a topic heard what was posted before for nothing, and not the next",
        ),
        (1_021_499, "a topic whose first to change engines left at once began anew with the next"),
        (2_004_602, "who was refused stood before those whom it had found no place beside"),
        (2_229_684, "a history ended while a report was asked for"),
        (272, "what was decoded of what is kept took more room than there was"),
    ] {
        if let Err(broken) = run(seed, 0) {
            panic!("seed {seed}, where {what}: {}", broken.what);
        }
    }
}
