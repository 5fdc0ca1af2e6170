//! The last hour in intervals of ten seconds: as lines of an HdrHistogram interval log, encoded once
//! when an interval ends and never decoded here, and as percentiles. Dropped an hour later.

use std::{
    collections::VecDeque,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use hdrhistogram::serialization::{
    V2DeflateSerializer,
    interval_log::{IntervalLogWriterBuilder, Tag},
};
use worker::{Report, Stage};

use super::{latency::LatencyInterval, totals::Stages};

/// The length of an interval.
const INTERVAL: Duration = Duration::from_secs(10);

/// How many intervals are kept: an hour.
const INTERVALS_MAX: usize = 360;

/// What was timed, by interval.
pub(super) struct Intervals {
    started: SystemTime,
    started_at: Instant,
    current: Stages,
    current_at: Instant,
    lines: VecDeque<Bytes>,
    ended: VecDeque<LatencyInterval>,
    serializer: V2DeflateSerializer,
}

impl std::fmt::Debug for Intervals {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Intervals").field("kept", &self.lines.len()).finish_non_exhaustive()
    }
}

impl Intervals {
    /// The first interval begins now. `started` and `now` are the same moment on two clocks.
    pub(super) fn new(started: SystemTime, now: Instant) -> Self {
        Self {
            started,
            started_at: now,
            current: Stages::new(),
            current_at: now,
            lines: VecDeque::with_capacity(INTERVALS_MAX),
            ended: VecDeque::new(),
            serializer: V2DeflateSerializer::new(),
        }
    }

    /// Adds what a worker has timed to the interval that is running.
    pub(super) fn add(&mut self, report: &Report) {
        self.current.add(report);
    }

    /// Counts one passage through a stage on the control thread.
    pub(super) fn record(&mut self, stage: Stage, span: Duration) {
        self.current.record(stage, span);
    }

    /// Ends the running interval if it has lasted long enough. A control thread that was stopped
    /// for a while has one longer interval, and the log says how long.
    ///
    /// # Errors
    /// A histogram could not be encoded; its interval is lost, and the next one has begun.
    pub(super) fn poll_end(&mut self, now: Instant) -> Result<(), String> {
        let duration = now.saturating_duration_since(self.current_at);
        if duration < INTERVAL {
            return Ok(());
        }
        let start = self.current_at.saturating_duration_since(self.started_at);
        let encoded = self.encode(start, duration);
        let began = self.started.duration_since(UNIX_EPOCH).unwrap_or_default() + start;
        if self.ended.len() == INTERVALS_MAX {
            self.ended.pop_front();
        }
        self.ended.push_back(LatencyInterval::new(began, duration, &self.current));
        self.current.reset();
        self.current_at = now;
        let encoded = encoded?;
        if self.lines.len() == INTERVALS_MAX {
            self.lines.pop_front();
        }
        self.lines.push_back(Bytes::from(encoded));
        Ok(())
    }

    /// The intervals that have ended, in order.
    pub(super) fn ended(&self) -> impl Iterator<Item = &LatencyInterval> {
        self.ended.iter()
    }

    /// The log as it stands: its head, then one piece an interval.
    pub(super) fn log(&self) -> VecDeque<Bytes> {
        let mut log = VecDeque::with_capacity(1 + self.lines.len());
        log.push_back(Bytes::from(self.head()));
        log.extend(self.lines.iter().cloned());
        log
    }

    fn head(&self) -> Vec<u8> {
        let mut head = Vec::new();
        let mut serializer = V2DeflateSerializer::new();
        IntervalLogWriterBuilder::new()
            .add_comment("[Histogram log format version 1.3]")
            .add_comment("Latency by stage, in nanoseconds")
            .with_base_time(self.started)
            .with_start_time(self.started)
            .begin_log_with(&mut head, &mut serializer)
            .expect("writing to a vector cannot fail");
        head.extend_from_slice(
            b"\"StartTimestamp\",\"Interval_Length\",\"Interval_Max\",\
              \"Interval_Compressed_Histogram\"\n",
        );
        head
    }

    fn encode(&mut self, start: Duration, duration: Duration) -> Result<Vec<u8>, String> {
        let mut lines = Vec::new();
        let mut log = IntervalLogWriterBuilder::new()
            .begin_log_with(&mut lines, &mut self.serializer)
            .expect("writing to a vector cannot fail");
        for stage in Stage::ALL {
            log.write_histogram(
                self.current.stage(stage),
                start,
                duration,
                Tag::new(stage.label()),
            )
            .map_err(|error| format!("{}: {error}", stage.label()))?;
        }
        Ok(lines)
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use base64::{Engine as _, engine::general_purpose::STANDARD};
    use hdrhistogram::{
        Histogram,
        serialization::{
            Deserializer,
            interval_log::{IntervalLogIterator, LogEntry},
        },
    };

    use super::*;

    fn report(stage: Stage, span: Duration, passages: u32) -> Report {
        let mut report = Report::new();
        report.record_many(stage, span, passages);
        report
    }

    fn text(intervals: &Intervals) -> Vec<u8> {
        intervals.log().iter().flatten().copied().collect()
    }

    fn decode(encoded: &str) -> Histogram<u64> {
        let bytes = STANDARD.decode(encoded).unwrap();
        Deserializer::new().deserialize(&mut bytes.as_slice()).unwrap()
    }

    #[test]
    fn a_log_read_back_holds_every_stage_of_every_interval_and_its_counts() {
        let now = Instant::now();
        let mut intervals = Intervals::new(UNIX_EPOCH + Duration::from_secs(1_000), now);
        intervals.add(&report(Stage::Turn, Duration::from_micros(50), 7));
        intervals.add(&report(Stage::Turn, Duration::from_millis(2), 1));
        intervals.poll_end(now + Duration::from_secs(10)).unwrap();
        intervals.add(&report(Stage::Ping, Duration::from_millis(30), 4));
        intervals.poll_end(now + Duration::from_secs(20)).unwrap();

        let log = text(&intervals);
        let entries: Vec<_> = IntervalLogIterator::new(&log).map(Result::unwrap).collect();
        assert_eq!(entries.len(), 2 + 2 * 6);
        assert!(entries.contains(&LogEntry::StartTime(Duration::from_secs(1_000))));
        assert!(entries.contains(&LogEntry::BaseTime(Duration::from_secs(1_000))));
        let lines: Vec<_> = entries
            .iter()
            .filter_map(|entry| match entry {
                LogEntry::Interval(line) => Some(line),
                _ => None,
            })
            .collect();
        let tags: Vec<_> = lines.iter().map(|line| line.tag().unwrap().as_str()).collect();
        let names = ["handshake", "encode", "hop", "fanout", "turn", "ping"];
        assert_eq!(tags, [names, names].concat());
        assert_eq!(lines[4].start_timestamp(), Duration::ZERO);
        assert_eq!(lines[4].duration(), Duration::from_secs(10));
        assert_eq!(lines[10].start_timestamp(), Duration::from_secs(10));

        let ended = serde_json::to_value(intervals.ended().collect::<Vec<_>>()).unwrap();
        assert_eq!(ended[0]["start"], 1_000.0);
        assert_eq!((&ended[1]["start"], &ended[1]["seconds"]), (&1_010.0.into(), &10.0.into()));
        assert_eq!(ended[0]["stages"]["turn"]["count"], 8);
        assert_eq!(ended[1]["stages"]["turn"]["count"], 0);
        let p50 = ended[0]["stages"]["turn"]["p50"].as_u64().unwrap();
        assert!((49_500..=50_500).contains(&p50), "{p50}");

        let turn = decode(lines[4].encoded_histogram());
        assert_eq!(turn.len(), 8);
        assert_eq!(turn.count_between(49_500, 50_500), 7);
        assert_eq!(turn.count_between(1_980_000, 2_020_000), 1);
        assert_eq!(decode(lines[10].encoded_histogram()).len(), 0, "each interval starts empty");
        assert_eq!(decode(lines[11].encoded_histogram()).len(), 4);
    }

    #[test]
    fn reading_the_log_changes_nothing() {
        let now = Instant::now();
        let mut intervals = Intervals::new(UNIX_EPOCH, now);
        intervals.add(&report(Stage::Hop, Duration::from_micros(9), 1));
        intervals.poll_end(now + INTERVAL).unwrap();
        assert_eq!(text(&intervals), text(&intervals));
    }

    #[test]
    fn an_interval_ends_only_when_it_is_over_and_a_late_one_says_how_long_it_was() {
        let now = Instant::now();
        let mut intervals = Intervals::new(UNIX_EPOCH, now);
        intervals.poll_end(now + Duration::from_secs(9)).unwrap();
        assert_eq!(intervals.log().len(), 1, "the head alone");
        intervals.poll_end(now + Duration::from_secs(25)).unwrap();
        let log = String::from_utf8(text(&intervals)).unwrap();
        assert!(log.contains("Tag=turn,0.000,25.000,0.000,"), "{log}");
    }

    #[test]
    fn an_hour_is_kept_and_no_more() {
        let now = Instant::now();
        let mut intervals = Intervals::new(UNIX_EPOCH, now);
        for interval in 1..=361 {
            intervals.poll_end(now + INTERVAL * interval).unwrap();
        }
        let log = String::from_utf8(text(&intervals)).unwrap();
        assert_eq!(log.matches("Tag=").count(), 360 * 6);
        assert!(!log.contains("Tag=turn,0.000,"), "the first is gone");
        assert!(log.contains("Tag=turn,3600.000,10.000,"));
        let starts: Vec<f64> = intervals.ended().map(|interval| interval.start).collect();
        assert_eq!((starts.len(), starts[0], starts[359]), (360, 10.0, 3600.0));
    }
}
