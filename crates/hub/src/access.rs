//! Who may connect, where tokens are asked for: the token is found in the request, verified, and
//! held against what the request asks for. All of it is a value given to the hub; the moment comes
//! with the call.

use std::{borrow::Cow, sync::Arc};

use http::header::{AUTHORIZATION, SEC_WEBSOCKET_PROTOCOL};
use tokens::{BadToken, Grant, Verifier};
use wire::Request;
use worker::{RefusalReason, Time};

use crate::{blocked::Blocked, passes::Pass, route::Asked, topic::percent_decode};

/// A subprotocol that carries a token, which browsers can send nowhere else but in the URL.
const TOKEN_ENTRY: &[u8] = b"ringway.token.";

/// What tokens are verified with.
#[derive(Debug)]
pub struct Access {
    /// Keys and rules.
    pub verifier: Arc<Verifier>,
    /// Milliseconds from the beginning of 1970 to `Time(0)`. The wall clock can be set, so this can
    /// change.
    pub unix_at_zero_ms: u64,
}

/// Why a request may not become a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Denial {
    pub(crate) reason: RefusalReason,
    /// One line that says what to do.
    pub(crate) text: &'static str,
}

impl Access {
    /// What the bearer of the request's token may do.
    pub(crate) fn admit(
        &self,
        request: &Request,
        asked: &Asked,
        blocked: &mut Blocked,
        now: Time,
    ) -> Result<Pass, Denial> {
        let token = token(request)?;
        let grant = self.verifier.verify(&token, self.seconds(now)).map_err(deny)?;
        let subject = grant.subject.as_deref();
        if subject.is_some_and(|subject| blocked.refuses(subject, grant.ends_at)) {
            return Err(BLOCKED);
        }
        let may_publish = match asked {
            Asked::Echo => false,
            Asked::Subscribe { topics, .. } => {
                if !topics.iter().all(|topic| grant.topics.cover(topic)) {
                    return Err(NOT_ALLOWED);
                }
                topics.first().is_some_and(|topic| grant.publish.cover(topic))
            }
        };
        let Grant { subject, ends_at, .. } = grant;
        Ok(Pass { subject, ends_at, may_publish })
    }

    /// A moment in seconds since 1970.
    pub(crate) fn seconds(&self, moment: Time) -> u64 {
        (self.unix_at_zero_ms + moment.0 / 1_000_000) / 1000
    }

    /// The moment from which on so many seconds have passed since 1970.
    pub(crate) fn moment(&self, seconds: u64) -> Time {
        let ms = seconds.saturating_mul(1000).saturating_sub(self.unix_at_zero_ms);
        Time(ms.saturating_mul(1_000_000))
    }
}

const MISSING: Denial = Denial {
    reason: RefusalReason::TokenMissing,
    text: "a token is required: Authorization: Bearer TOKEN, ?token=TOKEN, or ringway.token.TOKEN \
           in Sec-WebSocket-Protocol",
};

const NOT_ALLOWED: Denial =
    Denial { reason: RefusalReason::NotAllowed, text: "the token does not name all these topics" };

const BLOCKED: Denial = Denial {
    reason: RefusalReason::TokenBlocked,
    text: "whom this token means was removed, and may not come back yet",
};

const UNREADABLE: Denial =
    Denial { reason: RefusalReason::TokenMalformed, text: "the token is no JWT" };

fn deny(bad: BadToken) -> Denial {
    let reason = match bad {
        BadToken::Malformed | BadToken::Endless => RefusalReason::TokenMalformed,
        BadToken::Signature => RefusalReason::TokenSignature,
        BadToken::Expired => RefusalReason::TokenExpired,
        BadToken::Early => RefusalReason::TokenNotYetValid,
        BadToken::Issuer => RefusalReason::TokenIssuer,
        BadToken::Audience => RefusalReason::TokenAudience,
    };
    Denial { reason, text: bad.text() }
}

/// Whether the request has something to be verified.
pub(crate) fn has_token(request: &Request) -> bool {
    token(request).is_ok()
}

/// The request's token: of the header, else of the first subprotocol that carries one, else of the
/// query. An empty one is none.
fn token(request: &Request) -> Result<Cow<'_, str>, Denial> {
    let readable = |bytes| std::str::from_utf8(bytes).map(Cow::Borrowed).map_err(|_| UNREADABLE);
    let headers = request.headers();
    let bearer = headers.get(AUTHORIZATION).and_then(|value| bearer(value.as_bytes()));
    let mut entries = headers
        .get_all(SEC_WEBSOCKET_PROTOCOL)
        .iter()
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    let entry = || entries.find_map(|entry| entry.trim_ascii().strip_prefix(TOKEN_ENTRY));
    if let Some(token) = bearer.or_else(entry).filter(|token| !token.is_empty()) {
        return readable(token);
    }
    let query = request.uri().query().unwrap_or_default();
    let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    let value = pairs.find_map(|(name, value)| {
        let is_token = percent_decode(name).is_ok_and(|name| name == "token");
        (is_token && !value.is_empty()).then_some(value)
    });
    percent_decode(value.ok_or(MISSING)?).map_err(|_| UNREADABLE)
}

/// What follows the scheme (RFC 6750 section 2.1), whose name has no case (RFC 9110 section 11.1).
fn bearer(value: &[u8]) -> Option<&[u8]> {
    let (scheme, token) = value.split_at_checked("Bearer ".len())?;
    scheme.eq_ignore_ascii_case(b"Bearer ").then(|| token.trim_ascii())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(target: &str, headers: &str) -> Result<String, RefusalReason> {
        let head = format!("GET {target} HTTP/1.1\r\nHost: h\r\n{headers}\r\n");
        let (request, _) = wire::parse_request(head.as_bytes()).unwrap().unwrap();
        token(&request).map(Cow::into_owned).map_err(|denial| denial.reason)
    }

    #[test]
    fn a_token_is_found_in_the_header_in_a_subprotocol_and_in_the_query() {
        let cases = [
            ("/ws/a?token=abc", "", "abc"),
            ("/ws/a?topic=b&%74oken=a%2Eb&token=c", "", "a.b"),
            ("/ws/a?token=&token=c", "", "c"),
            ("/ws/a", "Authorization: Bearer abc\r\n", "abc"),
            ("/ws/a", "authorization: bEARER   abc \r\n", "abc"),
            ("/ws/a", "Sec-WebSocket-Protocol: ringway.raw.v1, ringway.token.a.b.c\r\n", "a.b.c"),
            (
                "/ws/a",
                "Sec-WebSocket-Protocol: x\r\nSec-WebSocket-Protocol: ringway.token.y\r\n",
                "y",
            ),
            ("/ws/a?token=q", "Sec-WebSocket-Protocol: ringway.token.p\r\n", "p"),
            (
                "/ws/a?token=q",
                "Sec-WebSocket-Protocol: ringway.token.p\r\nAuthorization: Bearer h\r\n",
                "h",
            ),
            ("/ws/a?token=q", "Authorization: Basic h\r\n", "q"),
            ("/ws/a?token=q", "Authorization: Bearer \r\n", "q"),
        ];
        for (target, headers, expected) in cases {
            assert_eq!(found(target, headers).as_deref(), Ok(expected), "{target} {headers}");
        }
    }

    #[test]
    fn without_a_token_it_is_missing_and_with_one_that_is_no_text_malformed() {
        let missing = Err(RefusalReason::TokenMissing);
        for (target, headers) in [
            ("/ws/a", ""),
            ("/ws/a?token", ""),
            ("/ws/a?token=", ""),
            ("/ws/a?Token=x", ""),
            ("/ws/a", "Authorization: Bearer\r\n"),
            ("/ws/a", "Authorization: Basic abc\r\n"),
            ("/ws/a", "Sec-WebSocket-Protocol: ringway.token.\r\n"),
            ("/ws/a", "Sec-WebSocket-Protocol: ringway.raw.v1\r\n"),
        ] {
            assert_eq!(found(target, headers), missing, "{target} {headers}");
        }
        assert_eq!(found("/ws/a?token=%FF", ""), Err(RefusalReason::TokenMalformed));
        assert_eq!(found("/ws/a?token=%z", ""), Err(RefusalReason::TokenMalformed));
    }
}
