//! The histograms of a load process: one for each tag, handed over once per interval.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hdrhistogram::Histogram;
use hdrhistogram::serialization::{Deserializer, Serializer, V2DeflateSerializer};

use crate::failure::{Failure, Outcome};
use crate::order::Encoded;

/// What is timed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tag {
    /// From when a message was meant to leave to its arrival at each subscriber.
    Delivery,
    /// The same to the last subscriber of each publication.
    Last,
    /// From the start of a connect to the 101.
    Handshake,
    /// From when a connection was meant to be replaced to the 101 of the new one.
    Reopen,
}

/// All tags, in the order of their values.
const TAGS: [Tag; 4] = [Tag::Delivery, Tag::Last, Tag::Handshake, Tag::Reopen];

impl Tag {
    /// The `Tag=` of the interval log.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Tag::Delivery => "delivery",
            Tag::Last => "last",
            Tag::Handshake => "handshake",
            Tag::Reopen => "reopen",
        }
    }
}

/// An empty histogram: 1 µs to 60 s in nanoseconds, three significant digits.
pub(crate) fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1_000, 60_000_000_000, 3).expect("the bounds are in order")
}

/// The histograms of the interval under way.
pub(crate) struct Recorder {
    histograms: [Histogram<u64>; 4],
    serializer: V2DeflateSerializer,
}

impl Recorder {
    /// Empty histograms.
    pub(crate) fn new() -> Recorder {
        Recorder { histograms: TAGS.map(|_| histogram()), serializer: V2DeflateSerializer::new() }
    }

    /// Records one time; over 60 s counts as 60 s.
    pub(crate) fn record(&mut self, tag: Tag, ns: u64) {
        self.histograms[tag as usize].saturating_record(ns);
    }

    /// Hands over what was recorded and starts again.
    pub(crate) fn take(&mut self) -> Outcome<Vec<Encoded>> {
        let mut taken = Vec::new();
        for (tag, histogram) in TAGS.iter().zip(&mut self.histograms) {
            if histogram.is_empty() {
                continue;
            }
            let mut bytes = Vec::new();
            self.serializer.serialize(histogram, &mut bytes).map_err(Failure::run)?;
            histogram.clear();
            taken.push(Encoded { tag: tag.name().to_owned(), histogram: STANDARD.encode(bytes) });
        }
        Ok(taken)
    }

    /// Forgets what was recorded.
    pub(crate) fn clear(&mut self) {
        self.histograms.iter_mut().for_each(Histogram::clear);
    }
}

/// Reads a histogram as [`Recorder::take`] and interval logs write them.
///
/// # Errors
///
/// The text is no base64 of a V2 histogram.
pub(crate) fn decode(text: &str) -> Outcome<Histogram<u64>> {
    let bytes = STANDARD.decode(text).map_err(Failure::run)?;
    Deserializer::new().deserialize(&mut bytes.as_slice()).map_err(Failure::run)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_recorded_is_handed_over_once() {
        let mut recorder = Recorder::new();
        recorder.record(Tag::Last, 5_000_000);
        recorder.record(Tag::Last, 120_000_000_000);
        let taken = recorder.take().unwrap();
        assert_eq!(taken.len(), 1);
        assert_eq!(taken[0].tag, "last");
        let read = decode(&taken[0].histogram).unwrap();
        assert_eq!(read.len(), 2);
        assert!(read.max() < 61_000_000_000);
        assert!(recorder.take().unwrap().is_empty());
    }
}
