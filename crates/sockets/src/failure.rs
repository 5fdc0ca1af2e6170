//! What the kernel says about a socket, in the words of the boundary.

use rustix::io::Errno;
use worker::Failure;

/// What an errno of a socket says about its connection.
#[must_use]
pub fn failure(errno: i32) -> Failure {
    match Errno::from_raw_os_error(errno) {
        Errno::CONNRESET | Errno::PIPE | Errno::NOTCONN | Errno::CONNABORTED => Failure::Reset,
        Errno::TIMEDOUT => Failure::TimedOut,
        Errno::HOSTUNREACH | Errno::NETUNREACH | Errno::HOSTDOWN | Errno::NETDOWN => {
            Failure::Unreachable
        }
        _ => Failure::Other(errno),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers of asm-generic/errno.h.
    #[test]
    fn an_errno_is_told_by_its_kind() {
        for (errno, kind) in [
            (104, Failure::Reset),
            (32, Failure::Reset),
            (107, Failure::Reset),
            (103, Failure::Reset),
            (110, Failure::TimedOut),
            (113, Failure::Unreachable),
            (101, Failure::Unreachable),
            (112, Failure::Unreachable),
            (100, Failure::Unreachable),
            (13, Failure::Other(13)),
        ] {
            assert_eq!(failure(errno), kind, "{errno}");
        }
    }
}
