//! Families of samples, put together from values that were counted elsewhere. The registry of the
//! `prometheus` crate wants to count by itself; only its model of a page and its encoder are used.

use hdrhistogram::Histogram;
use prometheus::proto::{
    Bucket, Counter, Gauge, Histogram as Buckets, LabelPair, Metric, MetricFamily, MetricType,
};

/// Upper bounds of the buckets in nanoseconds: three a decade from 1 µs to 10 s.
const BOUNDS_NS: [u64; 22] = [
    1_000,
    2_500,
    5_000,
    10_000,
    25_000,
    50_000,
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    25_000_000,
    50_000_000,
    100_000_000,
    250_000_000,
    500_000_000,
    1_000_000_000,
    2_500_000_000,
    5_000_000_000,
    10_000_000_000,
];

const NS_PER_SECOND: f64 = 1e9;

/// A page in the making.
pub(super) struct Families(Vec<MetricFamily>);

/// One family of it.
pub(super) struct Family<'a>(&'a mut MetricFamily);

impl Families {
    /// An empty page.
    pub(super) fn new() -> Self {
        Self(Vec::new())
    }

    /// The page.
    pub(super) fn into_vec(self) -> Vec<MetricFamily> {
        self.0
    }

    /// A value that goes up and down.
    pub(super) fn gauge(&mut self, name: &str, help: &str) -> Family<'_> {
        self.family(name, help, MetricType::GAUGE)
    }

    /// A value that only grows.
    pub(super) fn counter(&mut self, name: &str, help: &str) -> Family<'_> {
        self.family(name, help, MetricType::COUNTER)
    }

    /// Values by bucket.
    pub(super) fn histogram(&mut self, name: &str, help: &str) -> Family<'_> {
        self.family(name, help, MetricType::HISTOGRAM)
    }

    fn family(&mut self, name: &str, help: &str, kind: MetricType) -> Family<'_> {
        let family = self.0.push_mut(MetricFamily::default());
        family.set_name(name.to_owned());
        family.set_help(help.to_owned());
        family.set_field_type(kind);
        Family(family)
    }
}

impl Family<'_> {
    /// One value of a gauge or a counter.
    pub(super) fn sample(&mut self, labels: &[(&str, &str)], value: f64) {
        let mut metric = Metric::from_label(pairs(labels));
        if self.0.get_field_type() == MetricType::COUNTER {
            let mut counter = Counter::default();
            counter.set_value(value);
            metric.set_counter(counter);
        } else {
            let mut gauge = Gauge::default();
            gauge.set_value(value);
            metric.set_gauge(gauge);
        }
        self.0.mut_metric().push(metric);
    }

    /// One histogram of nanoseconds, as seconds. A value counts below a bound when the whole of its
    /// bucket does, and into the sum with its bucket's middle: both are within the precision that
    /// the histogram was recorded with.
    pub(super) fn histogram(&mut self, labels: &[(&str, &str)], recorded: &Histogram<u64>) {
        let mut counts = [0; BOUNDS_NS.len()];
        let mut sum_ns = 0.0;
        for value in recorded.iter_recorded() {
            let ns = value.value_iterated_to();
            sum_ns += recorded.median_equivalent(ns) as f64 * value.count_at_value() as f64;
            let bucket = BOUNDS_NS.partition_point(|bound| *bound < ns);
            if let Some(count) = counts.get_mut(bucket) {
                *count += value.count_at_value();
            }
        }
        let mut below = 0;
        let buckets = BOUNDS_NS.iter().zip(counts).map(|(bound, count)| {
            below += count;
            let mut bucket = Bucket::default();
            bucket.set_upper_bound(*bound as f64 / NS_PER_SECOND);
            bucket.set_cumulative_count(below);
            bucket
        });
        let mut histogram = Buckets::default();
        histogram.set_bucket(buckets.collect());
        histogram.set_sample_count(recorded.len());
        histogram.set_sample_sum(sum_ns / NS_PER_SECOND);
        let mut metric = Metric::from_label(pairs(labels));
        metric.set_histogram(histogram);
        self.0.mut_metric().push(metric);
    }
}

fn pairs(labels: &[(&str, &str)]) -> Vec<LabelPair> {
    labels
        .iter()
        .map(|(name, value)| {
            let mut pair = LabelPair::default();
            pair.set_name((*name).to_owned());
            pair.set_value((*value).to_owned());
            pair
        })
        .collect()
}
