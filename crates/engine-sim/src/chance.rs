//! Where everything that is left open is decided: one generator, one seed.

use std::ops::RangeInclusive;

use rand::{Rng, SeedableRng, rngs::StdRng, seq::SliceRandom};

/// The dice of one run.
#[derive(Debug)]
pub struct Chance(StdRng);

impl Chance {
    /// The same seed, the same throws.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(StdRng::seed_from_u64(seed))
    }

    /// True with this probability. What is certain or impossible throws no dice.
    pub fn of(&mut self, probability: f64) -> bool {
        probability > 0.0 && (probability >= 1.0 || self.0.random_bool(probability))
    }

    /// A number of the range, each as likely as the others.
    pub fn number(&mut self, range: RangeInclusive<usize>) -> usize {
        self.0.random_range(range)
    }

    /// A number of the range, each as likely as the others.
    pub fn long(&mut self, range: RangeInclusive<u64>) -> u64 {
        self.0.random_range(range)
    }

    /// One of the things, of which there must be some.
    pub fn one<'a, T>(&mut self, things: &'a [T]) -> &'a T {
        &things[self.number(0..=things.len() - 1)]
    }

    /// Any order.
    pub fn shuffle<T>(&mut self, things: &mut [T]) {
        things.shuffle(&mut self.0);
    }
}
