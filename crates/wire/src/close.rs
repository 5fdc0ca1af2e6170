//! Close codes and the body of a Close frame (RFC 6455 sections 5.5.1 and 7.4). When to close is
//! the caller's business.

use crate::{Violation, decode};

/// The code of a Close frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct CloseCode(pub u16);

#[expect(missing_docs, reason = "the names are those of RFC 6455 section 7.4.1 and the registry")]
impl CloseCode {
    pub const NORMAL: Self = Self(1000);
    pub const PROTOCOL_ERROR: Self = Self(1002);
    pub const UNSUPPORTED_DATA: Self = Self(1003);
    pub const INVALID_PAYLOAD: Self = Self(1007);
    pub const POLICY_VIOLATION: Self = Self(1008);
    pub const MESSAGE_TOO_BIG: Self = Self(1009);
    pub const INTERNAL_ERROR: Self = Self(1011);
    pub const SERVICE_RESTART: Self = Self(1012);
    pub const TRY_AGAIN_LATER: Self = Self(1013);
}

impl CloseCode {
    /// Whether the code may stand in a Close frame: it is registered for that (1012 to 1014 came
    /// after RFC 6455), or lies in the ranges for libraries and applications. 1005, 1006 and 1015
    /// are for local use only (RFC 6455 section 7.4).
    #[must_use]
    pub const fn is_allowed(self) -> bool {
        matches!(self.0, 1000..=1003 | 1007..=1014 | 3000..=4999)
    }
}

/// The body of a Close frame that has one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CloseFrame<'a> {
    /// A code that may stand on the wire.
    pub code: CloseCode,
    /// The reason, at most 123 bytes.
    pub reason: &'a str,
}

impl<'a> CloseFrame<'a> {
    /// Bytes of the longest reason: a control frame's 125 less the code (RFC 6455 section 5.5).
    pub const REASON_BYTES_MAX: usize = 123;

    /// Reads an unmasked body. `None`: it is empty, and so says nothing.
    pub(crate) fn parse(body: &'a [u8]) -> Result<Option<Self>, Violation> {
        let (code, reason) = match body {
            [] => return Ok(None),
            [_] => return Err(decode::CLOSE_BODY_OF_ONE_BYTE),
            [high, low, reason @ ..] => (CloseCode(u16::from_be_bytes([*high, *low])), reason),
        };
        if !code.is_allowed() {
            return Err(decode::CLOSE_CODE);
        }
        let reason = simdutf8::basic::from_utf8(reason).map_err(|_| decode::INVALID_UTF8)?;
        Ok(Some(Self { code, reason }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_that_may_stand_on_the_wire_are_those_of_rfc_6455_section_7_4_and_the_registry() {
        let allowed = |range: std::ops::RangeInclusive<u16>| {
            range.filter(|code| CloseCode(*code).is_allowed()).count()
        };
        assert_eq!(allowed(0..=999), 0);
        assert_eq!(allowed(1000..=1003), 4);
        assert_eq!(allowed(1004..=1006), 0);
        assert_eq!(allowed(1007..=1014), 8);
        assert_eq!(allowed(1015..=2999), 0);
        assert_eq!(allowed(3000..=4999), 2000);
        assert_eq!(allowed(5000..=u16::MAX), 0);
    }
}
