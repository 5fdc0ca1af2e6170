//! Addresses as users write them. Names are looked up when the listeners are made, not
//! here.

use std::{
    fmt, io,
    net::{IpAddr, SocketAddr, ToSocketAddrs},
    str::FromStr,
};

use ipnet::IpNet;

/// `host:port` or `[v6]:port`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HostPort {
    /// Without brackets.
    host: String,
    port: u16,
}

impl HostPort {
    /// Every address that the name stands for, each once.
    ///
    /// # Errors
    /// The name is not known.
    pub(crate) fn resolve(&self) -> io::Result<Vec<SocketAddr>> {
        let mut addresses: Vec<SocketAddr> = Vec::new();
        for address in (self.host.as_str(), self.port).to_socket_addrs()? {
            if !addresses.contains(&address) {
                addresses.push(address);
            }
        }
        Ok(addresses)
    }
}

impl FromStr for HostPort {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || "an address is host:port or [v6]:port, as 127.0.0.1:9000".to_owned();
        let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
        let port = port.parse().map_err(|_| wrong())?;
        let bracketed = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let plain = (!host.is_empty() && !host.contains([':', '[', ']', '/'])).then_some(host);
        let host = match bracketed {
            Some(v6) => v6.parse::<std::net::Ipv6Addr>().ok().map(|_| v6),
            None => plain,
        };
        Ok(Self { host: host.ok_or_else(wrong)?.to_owned(), port })
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(formatter, "[{}]:{}", self.host, self.port)
        } else {
            write!(formatter, "{}:{}", self.host, self.port)
        }
    }
}

/// An address, or none: `off`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AddressOrOff(pub(crate) Option<HostPort>);

impl FromStr for AddressOrOff {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "off" {
            return Ok(Self(None));
        }
        text.parse().map(Some).map(Self).map_err(|error: String| format!("{error}, or off"))
    }
}

/// `ADDR[,OPTION…]` of `--listen`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Listen {
    /// Where.
    pub(crate) address: HostPort,
    /// Whether every connection begins with a PROXY header.
    pub(crate) proxy: bool,
}

/// Addresses of proxies: `10.0.0.0/8`, or one address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Network(pub(crate) IpNet);

impl FromStr for Network {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let one = || text.parse::<IpAddr>().map(IpNet::from).ok();
        let network = text.parse().ok().or_else(one);
        network.map(Self).ok_or("a network is an address or address/bits, as 10.0.0.0/8")
    }
}

impl FromStr for Listen {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.starts_with("unix:") {
            return Err("unix: is not available in this build".to_owned());
        }
        let mut parts = text.split(',');
        let address = parts.next().unwrap_or_default().parse()?;
        let mut listen = Self { address, proxy: false };
        for option in parts {
            match option {
                "proxy" => listen.proxy = true,
                "tls" => return Err("the option tls is not available in this build".to_owned()),
                _ => return Err(format!("a listener has no option {option:?}")),
            }
        }
        Ok(listen)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_a_host_and_a_port() {
        for right in ["127.0.0.1:9000", "localhost:0", "[::]:9000", "[::1]:65535", "a-b.c:1"] {
            assert_eq!(right.parse::<HostPort>().unwrap().to_string(), right);
        }
        for wrong in ["", "9000", ":9000", "localhost", "::1:9000", "[::1]", "[x]:1", "a:65536"] {
            assert!(wrong.parse::<HostPort>().is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn addresses_that_are_numbers_resolve_to_themselves() {
        let resolve = |text: &str| text.parse::<HostPort>().unwrap().resolve().unwrap();
        assert_eq!(resolve("127.0.0.1:9000"), ["127.0.0.1:9000".parse().unwrap()]);
        assert_eq!(resolve("[::1]:80"), ["[::1]:80".parse().unwrap()]);
    }

    #[test]
    fn an_address_may_be_off() {
        assert_eq!("off".parse(), Ok(AddressOrOff(None)));
        assert!("off".parse::<HostPort>().is_err());
        assert_eq!(
            "on".parse::<AddressOrOff>(),
            Err("an address is host:port or [v6]:port, as 127.0.0.1:9000, or off".to_owned())
        );
    }

    #[test]
    fn a_network_is_an_address_or_several() {
        for (text, network) in [
            ("10.0.0.0/8", "10.0.0.0/8"),
            ("127.0.0.1", "127.0.0.1/32"),
            ("::1", "::1/128"),
            ("2001:db8::/32", "2001:db8::/32"),
        ] {
            assert_eq!(text.parse::<Network>().unwrap().0.to_string(), network);
        }
        for wrong in ["", "10.0.0.0/33", "10.0.0.0/", "localhost", "10.0.0.1:80"] {
            assert!(wrong.parse::<Network>().is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_listener_takes_no_option_that_this_build_lacks() {
        let error = |text: &str| text.parse::<Listen>().unwrap_err();
        assert!(!"0.0.0.0:9000".parse::<Listen>().unwrap().proxy);
        assert!("0.0.0.0:9000,proxy".parse::<Listen>().unwrap().proxy);
        assert_eq!(error("0.0.0.0:9000,proxy,fast"), "a listener has no option \"fast\"");
        assert_eq!(error("0.0.0.0:9000,tls"), "the option tls is not available in this build");
        assert_eq!(error("unix:/run/ringway"), "unix: is not available in this build");
        assert_eq!(error("0.0.0.0:9000,fast"), "a listener has no option \"fast\"");
    }
}
