//! How sure a difference between two series of runs is. A percentile of one run rests on its few
//! slowest moments, so the runs of a series are pooled before it is taken; and as the next series
//! would be others of the kind, the pairs are drawn again, with replacement, to see how far the
//! ratio moves (percentile bootstrap; Efron and Tibshirani, An Introduction to the Bootstrap, 1993).

use std::fmt::{self, Display, Formatter};

use hdrhistogram::Histogram;

use crate::failure::{Failure, Outcome};
use crate::random::Random;
use crate::spread::to_f64;

/// Series that are drawn.
const DRAWN: usize = 500;
/// The part of them on either side of the interval.
const OUTSIDE: f64 = 0.025;
/// Of fewer pairs nothing is said: most series that are drawn would be one pair again and again.
pub(crate) const PAIRS_MIN: usize = 3;

/// Two runs, one right after the other.
pub(crate) type Pair<'a> = (&'a Histogram<u64>, &'a Histogram<u64>);

/// How many times a percentile of the first runs that of the second ones is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Ratio {
    /// That of all runs.
    pub(crate) pooled: f64,
    /// Where it would be in 95 of 100 such series; `None`: there are too few pairs to tell.
    pub(crate) interval: Option<(f64, f64)>,
}

impl Ratio {
    /// The least that it is, as far as can be told.
    pub(crate) fn least(&self) -> f64 {
        self.interval.map_or(self.pooled, |(least, _)| least)
    }
}

impl Display for Ratio {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:.2}", self.pooled)?;
        let Some((least, most)) = self.interval else { return Ok(()) };
        write!(formatter, " ({least:.2} – {most:.2})")
    }
}

/// The ratio at each quantile.
pub(crate) fn ratios<const N: usize>(
    pairs: &[Pair<'_>],
    quantiles: [f64; N],
) -> Outcome<[Ratio; N]> {
    let pooled = pooled(pairs, quantiles)?;
    if pairs.len() < PAIRS_MIN {
        return Ok(pooled.map(|pooled| Ratio { pooled, interval: None }));
    }
    // Always the same: who compares the same runs again gets the same answer.
    let mut random = Random::new(0);
    let mut drawn: [Vec<f64>; N] = std::array::from_fn(|_| Vec::with_capacity(DRAWN));
    for _ in 0..DRAWN {
        let series: Vec<Pair<'_>> = pairs.iter().map(|_| random.one_of(pairs)).collect();
        for (drawn, ratio) in drawn.iter_mut().zip(self::pooled(&series, quantiles)?) {
            drawn.push(ratio);
        }
    }
    let mut drawn = drawn.into_iter();
    Ok(pooled.map(|pooled| Ratio { pooled, interval: drawn.next().map(middle) }))
}

/// Between which of the ratios most of them lie.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "a part of a few hundred"
)]
fn middle(mut drawn: Vec<f64>) -> (f64, f64) {
    drawn.sort_by(f64::total_cmp);
    let outside = (drawn.len() as f64 * OUTSIDE) as usize;
    (drawn[outside], drawn[drawn.len() - 1 - outside])
}

fn pooled<const N: usize>(pairs: &[Pair<'_>], quantiles: [f64; N]) -> Outcome<[f64; N]> {
    let first = together(pairs.iter().map(|(first, _)| *first))?;
    let second = together(pairs.iter().map(|(_, second)| *second))?;
    let at = |histogram: &Histogram<u64>, quantile| {
        // A histogram's zero stands for less than its unit.
        to_f64(histogram.value_at_quantile(quantile).max(1))
    };
    Ok(quantiles.map(|quantile| at(&second, quantile) / at(&first, quantile)))
}

/// All of them in one.
pub(crate) fn together<'a>(
    runs: impl IntoIterator<Item = &'a Histogram<u64>>,
) -> Outcome<Histogram<u64>> {
    let mut all = crate::recorder::histogram();
    runs.into_iter().try_for_each(|run| all.add(run).map_err(Failure::run))?;
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recorder::histogram;

    fn run(values_us: &[u64]) -> Histogram<u64> {
        let mut histogram = histogram();
        values_us.iter().for_each(|us| histogram.saturating_record(us * 1000));
        histogram
    }

    fn ratio(pairs: &[(Histogram<u64>, Histogram<u64>)], quantile: f64) -> Ratio {
        let pairs: Vec<Pair<'_>> = pairs.iter().map(|(first, second)| (first, second)).collect();
        ratios(&pairs, [quantile]).unwrap()[0]
    }

    #[test]
    fn runs_are_pooled_before_a_percentile_is_taken() {
        // Of 20 values one is slow, so the 19th is not; by run every second p95 would be.
        let (even, odd) = (run(&[100; 10]), run(&[&[100; 9][..], &[900]].concat()));
        let pairs = [(even.clone(), odd), (even.clone(), even)];
        let Ratio { pooled, interval } = ratio(&pairs, 0.95);
        assert_eq!((pooled, interval), (1.0, None));
        assert!(ratio(&pairs, 0.96).pooled > 8.9);
    }

    #[test]
    fn pairs_that_agree_leave_no_doubt() {
        let pairs = [100, 200, 300].map(|us| (run(&[us]), run(&[2 * us])));
        let Ratio { pooled, interval } = ratio(&pairs, 0.5);
        let (least, most) = interval.unwrap();
        assert!((pooled - 2.0).abs() < 0.01 && least > 1.9 && most < 2.1, "{least} {most}");
    }

    #[test]
    fn pairs_that_do_not_agree_leave_an_interval() {
        let alone = || run(&[100; 10]);
        let pairs = [50, 90, 100, 120, 300].map(|us| (alone(), run(&[us; 10])));
        let ratio = ratio(&pairs, 0.99);
        let (least, most) = ratio.interval.unwrap();
        assert!(least < 1.3 && most > 2.9 && ratio.pooled > 2.9, "{ratio}");
        assert_eq!(ratio.least(), least);
    }
}
