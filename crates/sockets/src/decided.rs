//! What became of sends, until the worker is told.

use bytes::Bytes;
use rustix::io::Errno;
use worker::{Completion, ConnectionId, Failure, Lost, Taken};

use crate::failure;

/// What became of one send or of one target of an offer.
#[derive(Debug)]
pub struct Decided {
    /// Who was sent to.
    pub connection: ConnectionId,
    /// True exactly when it was a `Send`.
    pub sent: bool,
    /// All that was to be sent.
    pub bytes: Bytes,
    /// How many of the bytes were taken.
    pub taken: Result<usize, Failure>,
}

impl Decided {
    /// Whether the socket lives and has not taken all, so that it owes `Writable`.
    #[must_use]
    pub fn is_short(&self) -> bool {
        self.taken.is_ok_and(|taken| taken < self.bytes.len())
    }

    /// What the worker is told.
    #[must_use]
    pub fn into_completion(self) -> Completion<'static> {
        let Self { connection, sent, bytes, taken } = self;
        if sent {
            let outcome = taken.map(|taken| Taken { bytes, taken });
            return Completion::Sent { connection, outcome };
        }
        let outcome = match taken {
            Ok(taken) => Ok(Taken { bytes, taken }),
            Err(failure) => Err(Lost { bytes, failure }),
        };
        Completion::Refused { connection, outcome }
    }
}

/// How many bytes were taken by a send that has failed: none by a full socket, by a kernel without
/// memory for them or in a call that was interrupted.
///
/// # Errors
/// The connection can carry no more bytes.
pub fn refused(errno: i32) -> Result<usize, Failure> {
    match Errno::from_raw_os_error(errno) {
        Errno::AGAIN | Errno::NOMEM | Errno::NOBUFS | Errno::INTR => Ok(0),
        _ => Err(failure(errno)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers of asm-generic/errno-base.h and asm-generic/errno.h.
    #[test]
    fn a_full_socket_is_no_failure() {
        for errno in [11, 12, 105, 4] {
            assert_eq!(refused(errno), Ok(0), "{errno}");
        }
        assert_eq!(refused(32), Err(Failure::Reset));
        assert_eq!(refused(110), Err(Failure::TimedOut));
        assert_eq!(refused(113), Err(Failure::Unreachable));
        assert_eq!(refused(22), Err(Failure::Other(22)));
    }

    #[test]
    fn an_offer_that_fails_gives_its_bytes_back_and_a_send_does_not() {
        let decided = |sent, taken| Decided {
            connection: ConnectionId { slot: 1, generation: 2 },
            sent,
            bytes: Bytes::from_static(b"frame"),
            taken,
        };
        assert!(decided(true, Ok(4)).is_short() && !decided(true, Ok(5)).is_short());
        assert!(!decided(false, Err(Failure::Reset)).is_short());
        let told = |sent, taken| format!("{:?}", decided(sent, taken).into_completion());
        let of = "connection: ConnectionId { slot: 1, generation: 2 }";
        let taken = "Ok(Taken { bytes: b\"frame\", taken: 3 })";
        let lost = "Err(Lost { bytes: b\"frame\", failure: Reset })";
        for (sent, outcome, expected) in [
            (true, Ok(3), format!("Sent {{ {of}, outcome: {taken} }}")),
            (true, Err(Failure::Reset), format!("Sent {{ {of}, outcome: Err(Reset) }}")),
            (false, Ok(3), format!("Refused {{ {of}, outcome: {taken} }}")),
            (false, Err(Failure::Reset), format!("Refused {{ {of}, outcome: {lost} }}")),
        ] {
            assert_eq!(told(sent, outcome), expected);
        }
    }
}
