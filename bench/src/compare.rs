//! `ringway-bench compare`: interval logs side by side, and a verdict for scripts.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use clap::Args;
use hdrhistogram::Histogram;

use crate::chart;
use crate::confidence::{self, Ratio};
use crate::failure::{Failure, Outcome};
use crate::log;
use crate::spread::to_f64;

/// The quantiles that are compared.
const QUANTILES: [(&str, f64); 4] = [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p99.9", 0.999)];

/// Compares the latencies of interval logs. Several runs of each, made in turn, are compared as a
/// whole; from three pairs on the difference has an interval of 95 % confidence, and only where all
/// of that is above the tolerance, the difference is.
#[derive(Args, Clone, Debug)]
pub(crate) struct Options {
    /// The log before.
    pub(crate) before: PathBuf,
    /// The log after.
    pub(crate) after: PathBuf,
    /// Logs of further runs, before and after in turn.
    #[arg(value_name = "BEFORE AFTER")]
    pub(crate) further: Vec<PathBuf>,
    /// Draw the curves into this SVG file.
    #[arg(long, value_name = "FILE")]
    pub(crate) svg: Option<PathBuf>,
    /// How much higher the logs after may be, in per cent.
    #[arg(long, value_name = "PERCENT", default_value_t = 10.0)]
    pub(crate) tolerance: f64,
}

/// A tag that all logs have.
pub(crate) struct Compared {
    pub(crate) tag: String,
    /// All runs in one.
    pub(crate) before: Histogram<u64>,
    pub(crate) after: Histogram<u64>,
    /// How much higher the runs after are, at each of [`QUANTILES`].
    ratios: [Ratio; QUANTILES.len()],
}

type Logs = BTreeMap<String, Histogram<u64>>;

/// Prints the comparison; true when the logs after are within the tolerance.
///
/// # Errors
///
/// Wrong usage when a log cannot be read or the logs have no tag in common.
pub(crate) fn run(options: &Options) -> Outcome<bool> {
    if options.tolerance.is_nan() || options.tolerance < 0.0 {
        return Err(Failure::usage("a tolerance is 0 or more per cent"));
    }
    let (further, []) = options.further.as_chunks() else {
        return Err(Failure::usage("logs are compared in pairs, and the last has no other"));
    };
    let read = |[before, after]: [&Path; 2]| Ok((log::read(before)?, log::read(after)?));
    let first = [options.before.as_path(), &options.after];
    let further = further.iter().map(|[before, after]| [before.as_path(), after]);
    let runs = std::iter::once(first).chain(further).map(read).collect::<Outcome<Vec<_>>>()?;
    let compared = compare(&runs)?;
    if compared.is_empty() {
        return Err(Failure::usage("the logs have no tag in common, nothing can be compared"));
    }
    let (lines, is_within) = table(&compared, options.tolerance);
    lines.iter().for_each(|line| println!("{line}"));
    if let Some(path) = &options.svg {
        chart::draw(path, &compared)?;
    }
    Ok(is_within)
}

/// The tags that have values in all logs.
fn compare(runs: &[(Logs, Logs)]) -> Outcome<Vec<Compared>> {
    let tags = runs.first().into_iter().flat_map(|(before, _)| before.keys());
    let all = tags.filter_map(|tag| Some((tag, pairs(runs, tag)?)));
    all.map(|(tag, pairs)| {
        Ok(Compared {
            tag: tag.clone(),
            before: confidence::together(pairs.iter().map(|(before, _)| *before))?,
            after: confidence::together(pairs.iter().map(|(_, after)| *after))?,
            ratios: confidence::ratios(&pairs, QUANTILES.map(|(_, quantile)| quantile))?,
        })
    })
    .collect()
}

/// Its runs, if all logs have values of the tag.
fn pairs<'a>(runs: &'a [(Logs, Logs)], tag: &str) -> Option<Vec<confidence::Pair<'a>>> {
    let values = |logs: &'a Logs| logs.get(tag).filter(|histogram| !histogram.is_empty());
    runs.iter().map(|(before, after)| Some((values(before)?, values(after)?))).collect()
}

/// The lines of the table, and whether every difference is within `tolerance` per cent.
fn table(all: &[Compared], tolerance: f64) -> (Vec<String>, bool) {
    let mut is_within = true;
    let mut lines = vec![format!(
        "{:<12} {:<6} {:>14} {:>14} {:>12}",
        "tag", "", "A, µs", "B, µs", "difference"
    )];
    for compared in all {
        for ((name, quantile), ratio) in QUANTILES.into_iter().zip(compared.ratios) {
            let us =
                |histogram: &Histogram<u64>| to_f64(histogram.value_at_quantile(quantile)) / 1000.0;
            let is_above = percent(ratio.least()) > tolerance;
            is_within &= !is_above;
            let interval = ratio.interval.map_or_else(String::new, |(least, most)| {
                format!("  ({:+.1} to {:+.1} %)", percent(least), percent(most))
            });
            lines.push(format!(
                "{:<12} {name:<6} {:>14.1} {:>14.1} {:>+10.1} %{interval}{}",
                compared.tag,
                us(&compared.before),
                us(&compared.after),
                percent(ratio.pooled),
                if is_above { "  above tolerance" } else { "" }
            ));
        }
    }
    (lines, is_within)
}

/// By how much something is higher that is so many times as high.
fn percent(ratio: f64) -> f64 {
    (ratio - 1.0) * 100.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recorder::histogram;

    fn log(tag: &str, values_us: &[u64]) -> Logs {
        let mut histogram = histogram();
        values_us.iter().for_each(|us| histogram.saturating_record(us * 1000));
        BTreeMap::from([(tag.to_owned(), histogram)])
    }

    fn compared(runs: &[(Logs, Logs)]) -> Vec<Compared> {
        compare(runs).unwrap()
    }

    #[test]
    fn one_quantile_above_the_tolerance_is_enough() {
        let before = [100; 1000];
        let mut after = before;
        after[..20].fill(120);
        let all = compared(&[(log("delivery", &before), log("delivery", &after))]);
        let (lines, is_within) = table(&all, 10.0);
        assert!(!is_within);
        let above = |line: usize| lines[line].ends_with("above tolerance");
        assert_eq!([above(1), above(2), above(3), above(4)], [false, false, true, true]);
        assert!(table(&all, 25.0).1);
    }

    #[test]
    fn faster_is_within_every_tolerance() {
        let all = compared(&[(log("delivery", &[100; 10]), log("delivery", &[50; 10]))]);
        assert!(table(&all, 0.0).1);
    }

    #[test]
    fn runs_that_do_not_agree_are_not_above() {
        let run = |us| (log("delivery", &[100; 10]), log("delivery", &[us; 10]));
        let doubtful = compared(&[run(80), run(90), run(95), run(200)]);
        let (lines, is_within) = table(&doubtful, 10.0);
        assert!(is_within && lines[3].contains("+99"), "{lines:?}");
        let clear = compared(&[run(190), run(200), run(210), run(200)]);
        assert!(!table(&clear, 10.0).1);
    }

    #[test]
    fn tags_of_some_logs_only_and_empty_ones_are_left_out() {
        let run = |before: &[u64], after| (log("delivery", before), log(after, &[1]));
        assert!(compared(&[run(&[1], "last")]).is_empty());
        assert!(compared(&[run(&[], "delivery")]).is_empty());
        assert!(compared(&[run(&[1], "delivery"), run(&[1], "last")]).is_empty());
        assert_eq!(compared(&[run(&[1], "delivery"), run(&[1], "delivery")]).len(), 1);
    }
}
