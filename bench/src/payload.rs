//! The payload of every message: its number and the time it was meant to leave, and behind them
//! what is known from these. So a subscriber can tell whether a message is whole, the next one,
//! and how long it took, whichever process sent it. The filler is the same in every message; JSON
//! differs, as there is something to compress.

use std::ops::Range;

use clap::ValueEnum;
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

use crate::document;

/// Where a document has its number and its time, in hexadecimal.
const NUMBER: Range<usize> = 7..23;
const TIME: Range<usize> = 33..49;
/// Bytes before a document's body.
const HEAD_BYTES: usize = 51;
/// Documents that are kept, so that one that many subscribers get is made once.
const DOCUMENTS: u64 = 16;

/// What payloads consist of.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Kind {
    /// 16 bytes of number and time, and printable bytes that never change.
    #[default]
    Filler,
    /// A JSON document, another one in every message.
    Json,
}

/// What a whole payload says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    /// Number of the message in its group, from 0.
    pub(crate) sequence: u64,
    /// When it was meant to be sent, on the clock of [`now_ns`].
    pub(crate) intended_ns: u64,
}

/// Makes and checks payloads of one size.
#[derive(Debug)]
pub(crate) struct Payload {
    size: usize,
    content: Content,
}

#[derive(Debug)]
enum Content {
    Filler(Vec<u8>),
    /// The last bodies with their numbers, by the number's remainder.
    Json(Vec<Option<(u64, String)>>),
}

impl Kind {
    /// The shortest payload.
    pub(crate) fn bytes_min(self) -> usize {
        match self {
            Kind::Filler => 16,
            Kind::Json => HEAD_BYTES + document::BYTES_MIN,
        }
    }
}

impl Payload {
    /// Payloads of `size` bytes, at least [`Kind::bytes_min`].
    pub(crate) fn new(kind: Kind, size: usize) -> Payload {
        let size = size.max(kind.bytes_min());
        let content = match kind {
            // Printable bytes, none of which equals the one before it.
            Kind::Filler => {
                Content::Filler((b'!'..=b'z').cycle().take(size - kind.bytes_min()).collect())
            }
            Kind::Json => Content::Json((0..DOCUMENTS).map(|_| None).collect()),
        };
        Payload { size, content }
    }

    /// Bytes of each payload.
    pub(crate) fn size(&self) -> usize {
        self.size
    }

    /// Appends the payload with `stamp` to `bytes`.
    pub(crate) fn write(&mut self, stamp: Stamp, bytes: &mut Vec<u8>) {
        let Stamp { sequence, intended_ns } = stamp;
        match &mut self.content {
            Content::Filler(filler) => {
                bytes.extend_from_slice(&sequence.to_le_bytes());
                bytes.extend_from_slice(&intended_ns.to_le_bytes());
                bytes.extend_from_slice(filler);
            }
            Content::Json(bodies) => {
                bytes.extend(
                    format!("{{\"id\":\"{sequence:016x}\",\"sent\":\"{intended_ns:016x}\",")
                        .bytes(),
                );
                bytes.extend_from_slice(body(bodies, sequence, self.size).as_bytes());
            }
        }
    }

    /// The stamp of `bytes`; `None` when they are not a whole payload.
    pub(crate) fn read(&mut self, bytes: &[u8]) -> Option<Stamp> {
        match &mut self.content {
            Content::Filler(filler) => {
                let (sequence, rest) = bytes.split_first_chunk()?;
                let (intended_ns, rest) = rest.split_first_chunk()?;
                (rest == filler).then_some(Stamp {
                    sequence: u64::from_le_bytes(*sequence),
                    intended_ns: u64::from_le_bytes(*intended_ns),
                })
            }
            Content::Json(bodies) => {
                let sequence = hexadecimal(bytes.get(NUMBER)?)?;
                let intended_ns = hexadecimal(bytes.get(TIME)?)?;
                let is_whole = bytes.starts_with(b"{\"id\":\"")
                    && bytes[NUMBER.end..].starts_with(b"\",\"sent\":\"")
                    && bytes[TIME.end..].starts_with(b"\",")
                    && bytes[HEAD_BYTES..] == *body(bodies, sequence, self.size).as_bytes();
                is_whole.then_some(Stamp { sequence, intended_ns })
            }
        }
    }
}

/// The body of the document `number`, of `size` bytes in all.
fn body(bodies: &mut [Option<(u64, String)>], number: u64, size: usize) -> &str {
    let place = usize::try_from(number % DOCUMENTS).expect("a remainder below 16");
    let kept = &mut bodies[place];
    if kept.as_ref().is_none_or(|(other, _)| *other != number) {
        *kept = None;
    }
    &kept.get_or_insert_with(|| (number, document::body(number, size - HEAD_BYTES))).1
}

fn hexadecimal(digits: &[u8]) -> Option<u64> {
    u64::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

/// Nanoseconds of CLOCK_MONOTONIC, which all processes of a machine share.
pub(crate) fn now_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    // Both parts are positive: this clock starts at boot.
    now.tv_sec.unsigned_abs() * 1_000_000_000 + now.tv_nsec.unsigned_abs()
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAMP: Stamp = Stamp { sequence: 7, intended_ns: 256 };

    #[test]
    fn a_payload_is_number_time_and_filler() {
        let mut bytes = Vec::new();
        Payload::new(Kind::Filler, 18).write(STAMP, &mut bytes);
        assert_eq!(bytes, *b"\x07\0\0\0\0\0\0\0\0\x01\0\0\0\0\0\0!\"");
        assert_eq!(Payload::new(Kind::Filler, 18).read(&bytes), Some(STAMP));
    }

    #[test]
    fn a_document_has_its_stamp_in_front() {
        let mut bytes = Vec::new();
        Payload::new(Kind::Json, 61).write(STAMP, &mut bytes);
        let text = r#"{"id":"0000000000000007","sent":"0000000000000100","note":""}"#;
        assert_eq!(str::from_utf8(&bytes).unwrap(), text);
        assert_eq!(Kind::Json.bytes_min(), 61);
        let mut payload = Payload::new(Kind::Json, 61);
        assert_eq!(payload.read(&bytes), Some(STAMP));
        bytes[0] = b'[';
        assert_eq!(payload.read(&bytes), None);
    }

    #[test]
    fn cut_longer_and_altered_payloads_are_not_whole() {
        for kind in [Kind::Filler, Kind::Json] {
            let mut payload = Payload::new(kind, 100);
            let mut bytes = Vec::new();
            payload.write(STAMP, &mut bytes);
            assert_eq!((payload.read(&bytes), bytes.len()), (Some(STAMP), 100));
            assert_eq!(payload.read(&bytes[..99]), None);
            assert_eq!(payload.read(&bytes[..15]), None);
            bytes[99] ^= 1;
            assert_eq!(payload.read(&bytes), None);
            bytes[99] ^= 1;
            bytes.push(b'!');
            assert_eq!(payload.read(&bytes), None);
        }
    }
}
