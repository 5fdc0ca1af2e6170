//! The payload of every message: its number and the time it was meant to leave in the first 16
//! bytes, a known filler behind them. So a subscriber can tell whether a message is whole, the
//! next one, and how long it took, whichever process sent it.

use rustix::time::{ClockId, clock_gettime};

/// The shortest payload: number and time.
pub(crate) const BYTES_MIN: usize = 16;

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
    filler: Vec<u8>,
}

impl Payload {
    /// Payloads of `size` bytes, at least [`BYTES_MIN`].
    pub(crate) fn new(size: usize) -> Payload {
        // Printable bytes, none of which equals the one before it.
        let filler = (b'!'..=b'z').cycle().take(size.saturating_sub(BYTES_MIN)).collect();
        Payload { filler }
    }

    /// Bytes of each payload.
    pub(crate) fn size(&self) -> usize {
        BYTES_MIN + self.filler.len()
    }

    /// Appends the payload with `stamp` to `bytes`.
    pub(crate) fn write(&self, stamp: Stamp, bytes: &mut Vec<u8>) {
        bytes.extend_from_slice(&stamp.sequence.to_le_bytes());
        bytes.extend_from_slice(&stamp.intended_ns.to_le_bytes());
        bytes.extend_from_slice(&self.filler);
    }

    /// The stamp of `bytes`; `None` when they are not a whole payload.
    pub(crate) fn read(&self, bytes: &[u8]) -> Option<Stamp> {
        let (sequence, rest) = bytes.split_first_chunk()?;
        let (intended_ns, filler) = rest.split_first_chunk()?;
        (filler == self.filler).then_some(Stamp {
            sequence: u64::from_le_bytes(*sequence),
            intended_ns: u64::from_le_bytes(*intended_ns),
        })
    }
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
        Payload::new(18).write(STAMP, &mut bytes);
        assert_eq!(bytes, *b"\x07\0\0\0\0\0\0\0\0\x01\0\0\0\0\0\0!\"");
        assert_eq!(Payload::new(18).read(&bytes), Some(STAMP));
    }

    #[test]
    fn cut_longer_and_altered_payloads_are_not_whole() {
        let payload = Payload::new(100);
        let mut bytes = Vec::new();
        payload.write(STAMP, &mut bytes);
        assert_eq!(payload.read(&bytes[..99]), None);
        assert_eq!(payload.read(&bytes[..15]), None);
        bytes[99] ^= 1;
        assert_eq!(payload.read(&bytes), None);
        bytes[99] ^= 1;
        bytes.push(b'!');
        assert_eq!(payload.read(&bytes), None);
    }
}
