//! The `ws://` URL of a run. Its path may hold `{i}`, the number of the connection, and `{room}`,
//! the number of its room.

use std::net::{SocketAddr, ToSocketAddrs};

use serde::{Deserialize, Serialize};

use crate::failure::{Failure, Outcome};

/// Where the connections go.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Url {
    /// The resolved address.
    pub(crate) address: SocketAddr,
    /// The value of the `Host` header.
    pub(crate) host: String,
    /// Path and query, placeholders included.
    pub(crate) target: String,
}

impl Url {
    /// Reads and resolves a URL.
    ///
    /// # Errors
    ///
    /// Another scheme than `ws`, white space, or a host that does not resolve.
    pub(crate) fn parse(text: &str) -> Outcome<Url> {
        let rest = text
            .strip_prefix("ws://")
            .filter(|rest| !rest.contains(|letter: char| letter.is_whitespace()))
            .ok_or_else(|| Failure::usage(format!("`{text}` is not a ws:// URL")))?;
        let split = rest.find(['/', '?']).unwrap_or(rest.len());
        let (host, target) = rest.split_at(split);
        let target = if target.starts_with('/') { target.into() } else { format!("/{target}") };
        let unresolved = |error| Failure::usage(format!("`{host}`: {error}"));
        // A port is digits behind the last colon; `[::1]` ends in none.
        let has_port = host.rsplit_once(':').is_some_and(|(_, port)| {
            !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit())
        });
        let with_port = if has_port { host.to_owned() } else { format!("{host}:80") };
        let address = with_port
            .to_socket_addrs()
            .map_err(unresolved)?
            .next()
            .ok_or_else(|| Failure::usage(format!("`{host}` has no address")))?;
        Ok(Url { address, host: host.to_owned(), target })
    }

    /// The request of connection `number` in `room`, as bytes. `query` is added to the target's;
    /// `extensions` is a header line, or empty.
    pub(crate) fn request(
        &self,
        number: u32,
        room: u32,
        key: &str,
        query: &str,
        subprotocol: Option<&str>,
        extensions: &str,
    ) -> Vec<u8> {
        let target =
            self.target.replace("{i}", &number.to_string()).replace("{room}", &room.to_string());
        let separator = match (query.is_empty(), target.contains('?')) {
            (true, _) => "",
            (false, true) => "&",
            (false, false) => "?",
        };
        let subprotocol = subprotocol
            .map(|name| format!("Sec-WebSocket-Protocol: {name}\r\n"))
            .unwrap_or_default();
        format!(
            "GET {target}{separator}{query} HTTP/1.1\r\nHost: {}\r\nUpgrade: websocket\r\n\
             Connection: Upgrade\r\nSec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\
             {subprotocol}{extensions}\r\n",
            self.host
        )
        .into_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_and_target_are_split_and_placeholders_filled() {
        let url = Url::parse("ws://127.0.0.1:9000/ws/room-{room}?n={i}").unwrap();
        assert_eq!(url.address, "127.0.0.1:9000".parse().unwrap());
        let request =
            String::from_utf8(url.request(12, 3, "KEY", "role=publisher", None, "")).unwrap();
        assert!(request.starts_with("GET /ws/room-3?n=12&role=publisher HTTP/1.1\r\n"));
        assert!(request.contains("\r\nHost: 127.0.0.1:9000\r\n"));
        assert!(request.ends_with("\r\n\r\n"));
    }

    #[test]
    fn a_url_without_path_or_port_is_completed() {
        let url = Url::parse("ws://[::1]").unwrap();
        assert_eq!(url.address, "[::1]:80".parse().unwrap());
        assert_eq!(url.target, "/");
    }

    #[test]
    fn other_schemes_and_spaces_are_refused() {
        assert!(matches!(Url::parse("http://127.0.0.1/"), Err(Failure::Usage(_))));
        assert!(matches!(Url::parse("ws://127.0.0.1/a b"), Err(Failure::Usage(_))));
        assert!(matches!(Url::parse("ws://127.0.0.1:99999/"), Err(Failure::Usage(_))));
    }
}
