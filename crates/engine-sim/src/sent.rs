//! What became of all that was sent, as the sockets know it, beside what the worker tells of it.

use crate::guest::Told;

/// What became of messages that were sent, and of all bytes.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct SentCounts {
    /// Sockets took them whole.
    pub(crate) taken: u64,
    /// Sockets did not take them whole, and their worker cannot know: the close was submitted
    /// before their outcome was told.
    pub(crate) unknown: u64,
    /// Bytes that sockets took.
    pub(crate) bytes: u64,
    /// Of those, bytes that their worker cannot know of, and bytes that it must take for sent: the
    /// close was submitted before their outcome was told.
    pub(crate) bytes_unknown: u64,
    pub(crate) bytes_presumed: u64,
    /// By how much the frames of the messages that sockets took whole were shorter for being
    /// compressed.
    pub(crate) saved_bytes: u64,
}

impl SentCounts {
    /// Whether the worker tells the same. No message can save more than so many bytes.
    pub(crate) fn check(&self, told: &Told, saving_max: u64) -> Result<(), String> {
        let Self { taken, unknown, bytes, bytes_unknown, bytes_presumed, saved_bytes } = self;
        if told.delivered != taken + unknown {
            return Err(format!(
                "has delivered {} messages, but sockets took {taken}, and {unknown} are unknown",
                told.delivered
            ));
        }
        if told.sent_bytes + bytes_unknown != bytes + bytes_presumed {
            return Err(format!(
                "has sent {} bytes, but sockets took {bytes}; it cannot know of {bytes_unknown}, \
                 and presumes {bytes_presumed}",
                told.sent_bytes
            ));
        }
        // It counts what compression saves when it offers or queues a message, and never takes it
        // back: what is beyond was saved by messages of which no socket took all.
        let not_taken = told.dropped + unknown;
        let beyond = told.saved_bytes.checked_sub(*saved_bytes);
        if beyond.is_none_or(|beyond| beyond > not_taken * saving_max) {
            return Err(format!(
                "has saved {} bytes, but sockets were spared {saved_bytes}, and {not_taken} \
                 messages were not taken",
                told.saved_bytes
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_must_be_what_sockets_took_as_far_as_a_worker_can_know() {
        let counts = SentCounts {
            taken: 10,
            unknown: 2,
            bytes: 1_000,
            bytes_unknown: 30,
            bytes_presumed: 50,
            saved_bytes: 400,
        };
        let right = Told { delivered: 12, dropped: 1, sent_bytes: 1_020, saved_bytes: 400 };
        let is_right = |told| counts.check(&told, 100).is_ok();
        assert!(is_right(right));
        assert!(is_right(Told { saved_bytes: 700, ..right }));
        assert!(!is_right(Told { saved_bytes: 701, ..right }));
        assert!(!is_right(Told { saved_bytes: 399, ..right }));
        assert!(!is_right(Told { delivered: 10, ..right }));
        assert!(!is_right(Told { sent_bytes: 1_000, ..right }));
    }
}
