//! `ringway-bench compare`: two interval logs side by side, and a verdict for scripts.

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::Args;
use hdrhistogram::Histogram;

use crate::chart;
use crate::failure::{Failure, Outcome};
use crate::log;

/// The quantiles that are compared.
const QUANTILES: [(&str, f64); 4] = [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p99.9", 0.999)];

/// Compares the latencies of two interval logs.
#[derive(Args, Clone, Debug)]
pub(crate) struct Options {
    /// The log before.
    pub(crate) before: PathBuf,
    /// The log after.
    pub(crate) after: PathBuf,
    /// Draw the curves into this SVG file.
    #[arg(long, value_name = "FILE")]
    pub(crate) svg: Option<PathBuf>,
    /// How much higher the second log may be, in per cent.
    #[arg(long, value_name = "PERCENT", default_value_t = 10.0)]
    pub(crate) tolerance: f64,
}

/// A tag that both logs have.
pub(crate) struct Pair {
    pub(crate) tag: String,
    pub(crate) before: Histogram<u64>,
    pub(crate) after: Histogram<u64>,
}

/// Prints the comparison; true when the second log is within the tolerance.
///
/// # Errors
///
/// Wrong usage when a log cannot be read or the logs have no tag in common.
pub(crate) fn run(options: &Options) -> Outcome<bool> {
    if options.tolerance.is_nan() || options.tolerance < 0.0 {
        return Err(Failure::usage("a tolerance is 0 or more per cent"));
    }
    let pairs = pair(log::read(&options.before)?, log::read(&options.after)?);
    if pairs.is_empty() {
        return Err(Failure::usage("the logs have no tag in common, nothing can be compared"));
    }
    let (lines, is_within) = table(&pairs, options.tolerance);
    lines.iter().for_each(|line| println!("{line}"));
    if let Some(path) = &options.svg {
        chart::draw(path, &pairs)?;
    }
    Ok(is_within)
}

/// The tags that have values in both logs.
fn pair(
    before: BTreeMap<String, Histogram<u64>>,
    mut after: BTreeMap<String, Histogram<u64>>,
) -> Vec<Pair> {
    before
        .into_iter()
        .filter_map(|(tag, before)| {
            let after = after.remove(&tag)?;
            let pair = Pair { tag, before, after };
            (!pair.before.is_empty() && !pair.after.is_empty()).then_some(pair)
        })
        .collect()
}

/// The lines of the table, and whether every difference is within `tolerance` per cent.
fn table(pairs: &[Pair], tolerance: f64) -> (Vec<String>, bool) {
    let mut is_within = true;
    let mut lines = vec![format!(
        "{:<12} {:<6} {:>14} {:>14} {:>12}",
        "tag", "", "A, µs", "B, µs", "difference"
    )];
    for pair in pairs {
        for (name, quantile) in QUANTILES {
            let before = microseconds(&pair.before, quantile);
            let after = microseconds(&pair.after, quantile);
            // A histogram's zero stands for less than its unit.
            let percent = (after - before) / before.max(0.001) * 100.0;
            let is_above = percent > tolerance;
            is_within &= !is_above;
            lines.push(format!(
                "{:<12} {name:<6} {before:>14.1} {after:>14.1} {percent:>+10.1} %{}",
                pair.tag,
                if is_above { "  above tolerance" } else { "" }
            ));
        }
    }
    (lines, is_within)
}

#[expect(clippy::cast_precision_loss, reason = "a minute is far below 2^53 nanoseconds")]
fn microseconds(histogram: &Histogram<u64>, quantile: f64) -> f64 {
    histogram.value_at_quantile(quantile) as f64 / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recorder::histogram;

    fn log(tag: &str, values_us: &[u64]) -> BTreeMap<String, Histogram<u64>> {
        let mut histogram = histogram();
        values_us.iter().for_each(|us| histogram.saturating_record(us * 1000));
        BTreeMap::from([(tag.to_owned(), histogram)])
    }

    #[test]
    fn one_quantile_above_the_tolerance_is_enough() {
        let before = [100; 1000];
        let mut after = before;
        after[..20].fill(120);
        let pairs = pair(log("delivery", &before), log("delivery", &after));
        let (lines, is_within) = table(&pairs, 10.0);
        assert!(!is_within);
        let above = |line: usize| lines[line].ends_with("above tolerance");
        assert_eq!([above(1), above(2), above(3), above(4)], [false, false, true, true]);
        assert!(table(&pairs, 25.0).1);
    }

    #[test]
    fn faster_is_within_every_tolerance() {
        let pairs = pair(log("delivery", &[100; 10]), log("delivery", &[50; 10]));
        assert!(table(&pairs, 0.0).1);
    }

    #[test]
    fn tags_of_one_log_only_and_empty_ones_are_left_out() {
        assert!(pair(log("delivery", &[1]), log("last", &[1])).is_empty());
        assert!(pair(log("delivery", &[]), log("delivery", &[1])).is_empty());
    }
}
