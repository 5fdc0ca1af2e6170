//! Who a connection's client really is where proxies stand between: the address that a trusted
//! proxy names. Nobody else's word counts, so a client can name no address but its own.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use ipnet::IpNet;
use wire::Request;

/// Listeners whose connections begin with a PROXY header, and proxies whose `X-Forwarded-For` is
/// believed.
#[derive(Debug, Clone, Default)]
pub struct Proxies {
    /// By listener: true exactly when each of its connections begins with a PROXY header.
    pub announcing: Arc<[bool]>,
    /// Where trusted proxies are.
    pub trusted: Arc<[IpNet]>,
}

impl Proxies {
    /// Whether the word of this address counts.
    pub(crate) fn trust(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.trusted.iter().any(|network| network.contains(&address))
    }

    /// Whom a request comes from that the address `peer` has sent. Each proxy appends the address
    /// that it was connected from, so what is trusted is read from the end: the first address
    /// that is no proxy's is the client's, and whatever stands before it is the client's claim.
    /// The port is not told.
    pub(crate) fn client(&self, request: &Request, peer: SocketAddr) -> SocketAddr {
        let mut client = peer;
        let values = request.headers().get_all("x-forwarded-for").iter().rev();
        let entries = values.flat_map(|value| value.as_bytes().rsplit(|byte| *byte == b','));
        for entry in entries {
            if !self.trust(client.ip()) {
                break;
            }
            let Some(address) = std::str::from_utf8(entry).ok().and_then(parse) else { break };
            client = SocketAddr::new(address.to_canonical(), 0);
        }
        client
    }
}

/// An address, with its port as some proxies write it, or without.
fn parse(entry: &str) -> Option<IpAddr> {
    let entry = entry.trim_ascii();
    let with_port = || entry.parse::<SocketAddr>().ok().map(|it| it.ip());
    let in_brackets = || entry.strip_prefix('[')?.strip_suffix(']')?.parse().ok();
    entry.parse().ok().or_else(with_port).or_else(in_brackets)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(peer: &str, headers: &[&str]) -> String {
        let trusted = ["10.0.0.0/8", "2001:db8::/32", "127.0.0.1/32"];
        let proxies = Proxies {
            announcing: Arc::default(),
            trusted: trusted.iter().map(|it| it.parse().unwrap()).collect(),
        };
        let lines = headers.iter().map(|value| format!("X-Forwarded-For: {value}\r\n"));
        let head = format!("GET / HTTP/1.1\r\nHost: h\r\n{}\r\n", lines.collect::<String>());
        let (request, _) = wire::parse_request(head.as_bytes()).unwrap().unwrap();
        let peer = SocketAddr::new(peer.parse().unwrap(), 7);
        proxies.client(&request, peer).to_string()
    }

    #[test]
    fn only_a_trusted_proxy_is_believed_and_only_what_it_saw_itself() {
        // (peer, X-Forwarded-For, client)
        let cases: [(&str, &[&str], &str); 17] = [
            ("192.0.2.1", &["203.0.113.9"], "192.0.2.1:7"),
            ("192.0.2.1", &[], "192.0.2.1:7"),
            ("10.0.0.1", &[], "10.0.0.1:7"),
            ("10.0.0.1", &["203.0.113.9"], "203.0.113.9:0"),
            ("10.0.0.1", &["1.2.3.4, 203.0.113.9"], "203.0.113.9:0"),
            ("10.0.0.1", &["127.0.0.1, 203.0.113.9"], "203.0.113.9:0"),
            ("10.0.0.1", &["203.0.113.9, 10.1.1.1"], "203.0.113.9:0"),
            ("10.0.0.1", &["1.2.3.4, 203.0.113.9,10.1.1.1 , 2001:db8::5"], "203.0.113.9:0"),
            ("10.0.0.1", &["1.2.3.4", "203.0.113.9"], "203.0.113.9:0"),
            ("10.0.0.1", &["10.2.2.2, 10.3.3.3"], "10.2.2.2:0"),
            ("10.0.0.1", &["203.0.113.9:555"], "203.0.113.9:0"),
            ("10.0.0.1", &["[2001:db9::1]:555"], "[2001:db9::1]:0"),
            ("10.0.0.1", &["[2001:db9::1]"], "[2001:db9::1]:0"),
            ("10.0.0.1", &["::ffff:203.0.113.9"], "203.0.113.9:0"),
            ("::ffff:10.0.0.1", &["203.0.113.9"], "203.0.113.9:0"),
            ("10.0.0.1", &["203.0.113.9, unknown"], "10.0.0.1:7"),
            ("10.0.0.1", &["203.0.113.9, "], "10.0.0.1:7"),
        ];
        for (peer, headers, expected) in cases {
            assert_eq!(client(peer, headers), expected, "{peer} {headers:?}");
        }
    }
}
