//! The least of a WebSocket upgrade (RFC 6455 section 4.2): finds the key and the role in a
//! request head and writes the 101. Everything else in the request is taken on trust, because the
//! only client is a load generator.

use std::io;

use tungstenite::handshake::derive_accept_key;

/// What a request head says.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Request {
    /// Bytes of the head, the blank line included.
    pub(crate) bytes: usize,
    /// True exactly when the query says `role=publisher`: this connection is received from.
    pub(crate) publisher: bool,
    /// True exactly when `Sec-WebSocket-Extensions` names permessage-deflate.
    pub(crate) offers_deflate: bool,
    /// The answer to `Sec-WebSocket-Key`.
    accept_key: String,
}

/// Reads the head at the start of `bytes`; `None` until it is complete.
///
/// # Errors
///
/// A complete head that is not UTF-8 or has no `Sec-WebSocket-Key`.
pub(crate) fn parse(bytes: &[u8]) -> io::Result<Option<Request>> {
    let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else {
        return Ok(None);
    };
    let head = std::str::from_utf8(&bytes[..end]).map_err(io::Error::other)?;
    let mut lines = head.split("\r\n");
    let publisher = lines.next().is_some_and(|line| line.contains("role=publisher"));
    let value = |wanted: &str| {
        lines
            .clone()
            .filter_map(|line| line.split_once(':'))
            .find(|(name, _)| name.eq_ignore_ascii_case(wanted))
            .map(|(_, value)| value.trim())
    };
    let key = value("sec-websocket-key")
        .ok_or_else(|| io::Error::other("the request has no Sec-WebSocket-Key"))?;
    let extensions = value("sec-websocket-extensions").unwrap_or_default();
    Ok(Some(Request {
        bytes: end + 4,
        publisher,
        offers_deflate: extensions.contains("permessage-deflate"),
        accept_key: derive_accept_key(key.as_bytes()),
    }))
}

impl Request {
    /// The 101 that completes the upgrade, and agrees on compression from here to there.
    pub(crate) fn response(&self, deflates: bool) -> Vec<u8> {
        let extensions =
            if deflates { "Sec-WebSocket-Extensions: permessage-deflate\r\n" } else { "" };
        format!(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Accept: {}\r\n{extensions}\r\n",
            self.accept_key
        )
        .into_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "GET /ws/bench?role=publisher HTTP/1.1\r\nHost: server.example.com\r\n\
                        sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

    /// RFC 6455 section 1.3 gives this key and its answer.
    #[test]
    fn the_sample_key_of_the_rfc_gets_the_sample_answer() {
        let request = parse(HEAD.as_bytes()).unwrap().unwrap();
        assert!(request.publisher);
        assert_eq!(request.bytes, HEAD.len());
        assert!(!request.offers_deflate);
        let response = String::from_utf8(request.response(false)).unwrap();
        assert!(response.contains("Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"));
    }

    #[test]
    fn compression_is_agreed_on_where_it_is_offered_and_wanted() {
        let line = "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n\r\n";
        let head = HEAD.strip_suffix("\r\n").unwrap().to_owned() + line;
        let request = parse(head.as_bytes()).unwrap().unwrap();
        assert!(request.offers_deflate);
        let response = String::from_utf8(request.response(true)).unwrap();
        assert!(response.ends_with("\r\nSec-WebSocket-Extensions: permessage-deflate\r\n\r\n"));
    }

    #[test]
    fn an_unfinished_head_is_waited_for() {
        assert_eq!(parse(&HEAD.as_bytes()[..HEAD.len() - 1]).unwrap(), None);
    }

    #[test]
    fn a_head_without_a_key_is_refused() {
        assert!(parse(b"GET /ws/bench HTTP/1.1\r\nHost: x\r\n\r\n").is_err());
    }
}
