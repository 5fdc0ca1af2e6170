//! How figures of several runs are summed up.

use std::fmt::{self, Display, Formatter};

/// Median, least and most.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) least: f64,
    pub(crate) most: f64,
}

impl Spread {
    /// That of `figures`; `None` when there are none.
    pub(crate) fn of(figures: &[f64]) -> Option<Spread> {
        (!figures.is_empty()).then(|| Spread {
            median: median(figures),
            least: figures.iter().copied().fold(f64::INFINITY, f64::min),
            most: figures.iter().copied().fold(f64::NEG_INFINITY, f64::max),
        })
    }
}

/// How many times those of another the figures of one are, run by run.
pub(crate) fn ratios(these: &[f64], those: &[f64]) -> Vec<f64> {
    these.iter().zip(those).map(|(this, that)| this / that).collect()
}

/// A figure as a number to divide.
#[expect(clippy::cast_precision_loss, reason = "figures of a run are far below 2^53")]
pub(crate) fn to_f64(value: u64) -> f64 {
    value as f64
}

impl Display for Spread {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        let Spread { median, least, most } = self;
        write!(formatter, "{median:.2} ({least:.2} – {most:.2})")
    }
}

/// The middle of `figures`, of which there is at least one, or the mean of the two in the middle.
pub(crate) fn median(figures: &[f64]) -> f64 {
    let mut sorted = figures.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    if sorted.len() % 2 == 1 {
        sorted[middle]
    } else {
        f64::midpoint(sorted[middle - 1], sorted[middle])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spread_is_median_least_and_most() {
        assert_eq!(Spread::of(&[3.0, 1.25, 2.0]).unwrap().to_string(), "2.00 (1.25 – 3.00)");
        assert_eq!(Spread::of(&[]), None);
        assert_eq!(median(&[4.0, 1.0, 3.0, 2.0]), 2.5);
    }

    #[test]
    fn ratios_are_those_of_the_same_run() {
        assert_eq!(ratios(&[3.0, 8.0], &[2.0, 4.0]), [1.5, 2.0]);
    }
}
