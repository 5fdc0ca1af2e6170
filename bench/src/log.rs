//! Interval logs in the format that public HdrHistogram tools read: V2 with DEFLATE, one line
//! for each tag and interval, nanoseconds, the facts of the run as comments above.

use std::collections::BTreeMap;
use std::fs;
use std::io::BufWriter;
use std::path::Path;
use std::time::{Duration, SystemTime};

use hdrhistogram::Histogram;
use hdrhistogram::serialization::V2DeflateSerializer;
use hdrhistogram::serialization::interval_log::{
    IntervalLogIterator, IntervalLogWriterBuilder, LogEntry, Tag,
};

use crate::failure::{Failure, Outcome};
use crate::payload::now_ns;
use crate::recorder;

/// Intervals of several processes that start within this of each other are one.
const INTERVAL_NS: u64 = 1_000_000_000;
/// The unit of the log's third column, which is for people: milliseconds.
const MAX_VALUE_DIVISOR: f64 = 1e6;

#[derive(Debug)]
struct Interval {
    start_ns: u64,
    end_ns: u64,
    histogram: Histogram<u64>,
}

/// The intervals of a run so far.
#[derive(Debug)]
pub(crate) struct Log {
    started_at: SystemTime,
    started_ns: u64,
    /// By number of the interval and tag.
    intervals: BTreeMap<(u64, String), Interval>,
}

impl Log {
    /// A log that starts now.
    pub(crate) fn new() -> Log {
        Log { started_at: SystemTime::now(), started_ns: now_ns(), intervals: BTreeMap::new() }
    }

    /// Adds what was recorded between two times of the monotonic clock.
    pub(crate) fn add(
        &mut self,
        (start_ns, end_ns): (u64, u64),
        tag: &str,
        histogram: &Histogram<u64>,
    ) -> Outcome<()> {
        let number = (start_ns.saturating_sub(self.started_ns) + INTERVAL_NS / 2) / INTERVAL_NS;
        let interval = self.intervals.entry((number, tag.to_owned())).or_insert_with(|| Interval {
            start_ns,
            end_ns,
            histogram: recorder::histogram(),
        });
        interval.start_ns = interval.start_ns.min(start_ns);
        interval.end_ns = interval.end_ns.max(end_ns);
        interval.histogram.add(histogram).map_err(Failure::run)
    }

    /// All intervals of each tag in one histogram.
    pub(crate) fn totals(&self) -> Outcome<BTreeMap<String, Histogram<u64>>> {
        let mut totals = BTreeMap::new();
        for ((_, tag), interval) in &self.intervals {
            let total = totals.entry(tag.clone()).or_insert_with(recorder::histogram);
            total.add(&interval.histogram).map_err(Failure::run)?;
        }
        Ok(totals)
    }

    /// Writes the log to `path`.
    pub(crate) fn write(&self, path: &Path, comments: &[String]) -> Outcome<()> {
        let named = |error| Failure::run(format!("{}: {error}", path.display()));
        let mut file = BufWriter::new(fs::File::create(path).map_err(named)?);
        let mut serializer = V2DeflateSerializer::new();
        let mut builder = IntervalLogWriterBuilder::new();
        for comment in comments {
            builder.add_comment(comment);
        }
        let mut writer = builder
            .with_start_time(self.started_at)
            .with_base_time(self.started_at)
            .with_max_value_divisor(MAX_VALUE_DIVISOR)
            .begin_log_with(&mut file, &mut serializer)
            .map_err(named)?;
        for ((_, tag), interval) in &self.intervals {
            let start = Duration::from_nanos(interval.start_ns.saturating_sub(self.started_ns));
            let length = Duration::from_nanos(interval.end_ns - interval.start_ns);
            writer
                .write_histogram(&interval.histogram, start, length, Tag::new(tag))
                .map_err(Failure::run)?;
        }
        Ok(())
    }
}

/// Reads a log and joins the intervals of each tag. Lines without a tag are under the empty one.
///
/// # Errors
///
/// The file cannot be read or is no interval log.
pub(crate) fn read(path: &Path) -> Outcome<BTreeMap<String, Histogram<u64>>> {
    let named = |why: String| Failure::Usage(format!("{}: {why}", path.display()));
    let bytes = fs::read(path).map_err(|error| named(error.to_string()))?;
    let mut totals: BTreeMap<String, Histogram<u64>> = BTreeMap::new();
    for (tag, histogram) in parse(&bytes).map_err(|failure| named(failure.to_string()))? {
        match totals.get_mut(&tag) {
            Some(total) => total.add(&histogram).map_err(|error| named(error.to_string()))?,
            None => {
                totals.insert(tag, histogram);
            }
        }
    }
    Ok(totals)
}

/// The histograms of a log in its order, each with its tag.
pub(crate) fn parse(bytes: &[u8]) -> Outcome<Vec<(String, Histogram<u64>)>> {
    let mut histograms = Vec::new();
    for entry in IntervalLogIterator::new(bytes) {
        let entry =
            entry.map_err(|error| Failure::run(format!("not an interval log: {error:?}")))?;
        let LogEntry::Interval(interval) = entry else { continue };
        let tag = interval.tag().map_or("", |tag| tag.as_str()).to_owned();
        histograms.push((tag, recorder::decode(interval.encoded_histogram())?));
    }
    Ok(histograms)
}
