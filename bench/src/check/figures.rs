//! What the checks that measure have in common: the server's CPU over a stretch of time, and how
//! figures are summed up and written.

use std::time::Instant;

use hdrhistogram::Histogram;

use crate::failure::Outcome;
use crate::proc::Tree;
pub(super) use crate::spread::to_f64;
use crate::spread::{self, Spread};

/// The start of a [`Stretch`].
#[derive(Debug)]
pub(super) struct Watch {
    tree: Tree,
    started: Instant,
    cpu_seconds: f64,
}

/// What passed since [`Watch::start`].
#[derive(Clone, Copy, Debug)]
pub(super) struct Stretch {
    pub(super) seconds: f64,
    /// Of all threads of the process and its descendants.
    pub(super) cpu_seconds: f64,
}

impl Watch {
    /// Begins to watch.
    pub(super) fn start(tree: Tree) -> Outcome<Watch> {
        let cpu_seconds = tree.cpu_seconds()?;
        Ok(Watch { tree, started: Instant::now(), cpu_seconds })
    }

    /// What has passed until now.
    pub(super) fn look(&self) -> Outcome<Stretch> {
        Ok(Stretch {
            seconds: self.started.elapsed().as_secs_f64(),
            cpu_seconds: self.tree.cpu_seconds()? - self.cpu_seconds,
        })
    }
}

impl Stretch {
    /// Of one core.
    pub(super) fn percent(&self) -> f64 {
        self.cpu_seconds / self.seconds * 100.0
    }
}

/// The spread of `figures`, of which there is at least one.
pub(super) fn spread(figures: &[f64]) -> Spread {
    Spread::of(figures).expect("every round gives a figure")
}

/// How many times those of another the figures of one are, of which each round gives one.
pub(super) fn ratio(these: &[f64], those: &[f64]) -> Spread {
    spread(&spread::ratios(these, those))
}

/// A quantile of nanoseconds, in milliseconds.
pub(super) fn milliseconds(histogram: &Histogram<u64>, quantile: f64) -> f64 {
    to_f64(histogram.value_at_quantile(quantile)) / 1e6
}

/// Median, p99 and p99.9 in milliseconds.
pub(super) fn percentiles(histogram: &Histogram<u64>) -> String {
    [0.5, 0.99, 0.999]
        .map(|quantile| format!("{:.1}", milliseconds(histogram, quantile)))
        .join(" | ")
}
