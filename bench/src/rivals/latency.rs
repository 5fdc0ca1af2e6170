//! Latency of a fan-out on schedule, of each rival in turn with the reference: both get half of
//! what the slower of the two can do in a closed loop, so that neither is full and both do the same
//! work.

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use super::bars::Panel;
use super::definition::Rival;
use super::results::Results;
use super::{FANOUT_BYTES, Job, Options, Task, facts, run_task, show};
use crate::check::Claims;
use crate::failure::{Failure, Outcome};
use crate::proc;
use crate::recorder::Tag;
use crate::report::{Percentiles, Report};
use crate::spread::{self, Spread, to_f64};

/// Part of the slower one's peak that is published.
const PART_OF_PEAK: f64 = 0.5;

/// One rival, and the figures of its rounds with those of the reference beside them.
struct Row<'rivals> {
    rival: &'rivals Rival,
    /// Publications a second.
    rate: f64,
    rounds: Vec<(Percentiles, Percentiles)>,
}

/// Measures all rivals and prints and writes the table. False when the reference is behind one.
pub(super) fn run(
    options: &Options,
    rivals: &[Rival],
    cache: &Path,
    results: &mut Results,
) -> Outcome<bool> {
    let Some((reference, others)) = rivals.split_first() else { return Ok(true) };
    let before = proc::load_average();
    let peak = |number| peak(options, &rivals[number], number, cache);
    let reference_peak = peak(0)?;
    let mut rows = Vec::new();
    for (rival, number) in others.iter().zip(1..) {
        if results.has_failed(number) {
            continue;
        }
        match peak(number) {
            Ok(peak) => {
                let rate = peak.min(reference_peak) * PART_OF_PEAK;
                println!(
                    "peak         {:<18} {peak:>8.1} a second; both get {rate:.1}",
                    rival.name
                );
                rows.push((number, Row { rival, rate, rounds: Vec::new() }));
            }
            Err(failure) => results.fail(number, &failure),
        }
    }
    for round in 1..=options.pairs {
        for (number, row) in &mut rows {
            if results.has_failed(*number) {
                continue;
            }
            let ours = on_schedule(options, reference, 0, row.rate, cache)?;
            match on_schedule(options, row.rival, *number, row.rate, cache) {
                Ok(its) => {
                    println!(
                        "round {round:<6} {:<18} p99 {:>8.1} ms, {:.1} of {}",
                        row.rival.name,
                        milliseconds(its.p99),
                        milliseconds(ours.p99),
                        reference.title
                    );
                    row.rounds.push((its, ours));
                }
                Err(failure) => results.fail(*number, &failure),
            }
        }
    }
    let rows: Vec<Row<'_>> = rows.into_iter().map(|(_, row)| row).collect();
    let loads = format!(
        "fan-out to {} subscribers, {FANOUT_BYTES} B, open loop of {} s",
        options.connections,
        options.duration_latency.as_secs_f64(),
    );
    let text = markdown(reference, &rows, &facts(options, &before, &loads));
    show(options, "latency", &text, &[panel(reference, &rows)])?;
    Ok(claim(reference, &rows))
}

/// Publications a second in a closed loop.
fn peak(options: &Options, rival: &Rival, number: usize, cache: &Path) -> Outcome<f64> {
    let report = run_task(options, &task(options, 0.0, options.duration), rival, number, cache)?;
    let published = u32::try_from(report.traffic.counts.published).map_err(Failure::run)?;
    Ok(f64::from(published) / report.traffic.seconds)
}

fn on_schedule(
    options: &Options,
    rival: &Rival,
    number: usize,
    rate: f64,
    cache: &Path,
) -> Outcome<Percentiles> {
    let task = task(options, rate, options.duration_latency);
    let report: Report = run_task(options, &task, rival, number, cache)?;
    let delivery = report.latency.get(Tag::Delivery.name()).copied();
    delivery.ok_or_else(|| Failure::run("nothing was published: too short a run"))
}

fn task(options: &Options, rate: f64, duration: Duration) -> Task {
    Task {
        job: Job::Latency,
        scenario: "fanout",
        connections: options.connections,
        size: FANOUT_BYTES,
        rate,
        duration: Some(duration),
    }
}

impl Row<'_> {
    /// How many times the reference's the latency is, round by round.
    fn ratio(&self, get: fn(&Percentiles) -> u64) -> Option<Spread> {
        let (its, ours) = self.milliseconds(get);
        Spread::of(&spread::ratios(&its, &ours))
    }

    /// The rival's median and the reference's, in milliseconds.
    fn medians(&self, get: fn(&Percentiles) -> u64) -> Option<(f64, f64)> {
        let (its, ours) = self.milliseconds(get);
        Some((Spread::of(&its)?.median, Spread::of(&ours)?.median))
    }

    /// The rival's and the reference's, round by round.
    fn milliseconds(&self, get: fn(&Percentiles) -> u64) -> (Vec<f64>, Vec<f64>) {
        self.rounds
            .iter()
            .map(|(its, ours)| (milliseconds(get(its)), milliseconds(get(ours))))
            .unzip()
    }
}

fn markdown(reference: &Rival, rows: &[Row<'_>], facts: &[String]) -> String {
    let title = &reference.title;
    let mut text = String::from("# Latency on schedule, beside others\n\n");
    for fact in facts {
        let _ = writeln!(text, "* {fact}");
    }
    let _ = write!(
        text,
        "\nBoth get half of the slower one's peak. Milliseconds from when a message was meant to \
         leave to its arrival, median of the rounds: the server's, and {title}'s beside it. Then \
         how many times {title}'s p99 the server's is: above 1 is later.\n\n\
         | server | publications a second | p50 | p99 | p99.9 | × p99 |\n\
         |---|---|---|---|---|---|\n"
    );
    for row in rows {
        let cell = |get| {
            row.medians(get)
                .map_or_else(|| "–".to_owned(), |(its, ours)| format!("{its:.1}, {ours:.1}"))
        };
        let ratio =
            row.ratio(|each| each.p99).map_or_else(|| "–".to_owned(), |ratio| ratio.to_string());
        let _ = writeln!(
            text,
            "| {} | {:.1} | {} | {} | {} | {ratio} |",
            row.rival.title,
            row.rate,
            cell(|each| each.p50),
            cell(|each| each.p99),
            cell(|each| each.p999)
        );
    }
    text
}

fn panel<'rows>(reference: &'rows Rival, rows: &'rows [Row<'_>]) -> Panel<'rows> {
    let mut bars: Vec<_> = rows
        .iter()
        .filter_map(|row| Some((row.rival.title.as_str(), row.ratio(|each| each.p99)?)))
        .collect();
    bars.push((reference.title.as_str(), Spread { median: 1.0, least: 1.0, most: 1.0 }));
    bars.sort_by(|(_, left), (_, right)| left.median.total_cmp(&right.median));
    let caption =
        format!("p99 of a delivery at half of the slower one's peak, times {}'s", reference.title);
    Panel { caption, bars, text: |figure| format!("{figure:.2}") }
}

/// Claims that nobody is earlier at p99, but for who does nothing but send.
fn claim(reference: &Rival, rows: &[Row<'_>]) -> bool {
    let mut claims = Claims::new();
    for row in rows.iter().filter(|row| !row.rival.is_bare) {
        let Some(ratio) = row.ratio(|each| each.p99) else { continue };
        claims.add(
            &format!("the p99 of {} is at most that of {}", reference.title, row.rival.title),
            ratio.median >= 1.0,
            &format!("{ratio} times ours, {} rounds", row.rounds.len()),
        );
    }
    claims.hold()
}

fn milliseconds(ns: u64) -> f64 {
    to_f64(ns) / 1e6
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    fn rival(title: &str, is_bare: bool) -> Rival {
        Rival {
            name: title.to_lowercase(),
            source: PathBuf::new(),
            title: title.to_owned(),
            advice: String::new(),
            debian: Vec::new(),
            npm: Vec::new(),
            pypi: Vec::new(),
            build: String::new(),
            serve: String::new(),
            dialect: crate::dialect::Dialect::Plain,
            topic: String::new(),
            echo: None,
            is_bare,
        }
    }

    fn percentiles(milliseconds: u64) -> Percentiles {
        let ns = milliseconds * 1_000_000;
        Percentiles { count: 1, p50: ns, p90: ns, p99: 2 * ns, p999: 3 * ns, max: 3 * ns }
    }

    fn row<'rival>(rival: &'rival Rival, rounds: &[(u64, u64)]) -> Row<'rival> {
        let rounds =
            rounds.iter().map(|(its, ours)| (percentiles(*its), percentiles(*ours))).collect();
        Row { rival, rate: 12.5, rounds }
    }

    #[test]
    fn the_table_has_both_medians_and_the_ratio_of_each_round() {
        let (ours, other) = (rival("Ours", false), rival("Other", false));
        let rows = [row(&other, &[(20, 10), (30, 10), (90, 30)])];
        let text = markdown(&ours, &rows, &["a fact".to_owned()]);
        let line = "| Other | 12.5 | 30.0, 10.0 | 60.0, 20.0 | 90.0, 30.0 | 3.00 (2.00 – 3.00) |";
        assert!(text.contains("* a fact\n") && text.contains(line), "{text}");
        assert!(claim(&ours, &rows));
        assert_eq!(panel(&ours, &rows).bars[0].0, "Ours");
    }

    #[test]
    fn whoever_is_earlier_breaks_the_claim_unless_it_only_sends() {
        let (ours, other) = (rival("Ours", false), rival("Other", false));
        assert!(!claim(&ours, &[row(&other, &[(9, 10)])]));
        assert!(claim(&ours, &[row(&rival("Loop", true), &[(9, 10)])]));
    }
}
