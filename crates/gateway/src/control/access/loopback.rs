//! The rules without a token. The listener is on a loopback address, so whoever connects is on this
//! machine; but a browser on this machine runs other people's pages. `Host` stops a page whose name
//! was pointed at the loopback address (DNS rebinding), `Origin` and `Sec-Fetch-Site` stop a page
//! that sends here from its own site.

use std::net::{Ipv4Addr, Ipv6Addr};

use axum::http::{HeaderMap, StatusCode, Uri, header, uri::Authority};

use crate::control::error::Refusal;

/// Whether a request without a token may be served.
pub(super) fn check(target: &Uri, headers: &HeaderMap) -> Result<(), Refusal> {
    let host = host(target, headers)
        .filter(|host| is_loopback(host))
        .ok_or_else(|| forbidden("without a token, Host must be a loopback name or address"))?;
    if let Some(site) = headers.get("sec-fetch-site") {
        // Fetch Metadata: `none` is a person who typed the address.
        if !["same-origin", "same-site", "none"].iter().any(|own| site.as_bytes() == own.as_bytes())
        {
            return Err(forbidden("without a token, requests of other sites are refused"));
        }
    }
    for origin in headers.get_all(header::ORIGIN) {
        let own = origin.to_str().ok().and_then(origin_host);
        if !own.is_some_and(|origin| origin.eq_ignore_ascii_case(&host)) {
            return Err(forbidden("without a token, requests of other sites are refused"));
        }
    }
    Ok(())
}

/// The host that a request is for, without its port: of the one `Host`, and of the target where it
/// names one too (RFC 9112 section 3.2).
fn host(target: &Uri, headers: &HeaderMap) -> Option<String> {
    let mut values = headers.get_all(header::HOST).iter();
    let (Some(value), None) = (values.next(), values.next()) else { return None };
    let authority: Authority = value.to_str().ok()?.parse().ok()?;
    let host = bare_host(&authority)?;
    match target.host() {
        Some(other) if !other.eq_ignore_ascii_case(host) => None,
        _ => Some(host.to_owned()),
    }
}

/// The host of an origin, `scheme://host[:port]` (RFC 6454 section 6.1); `null` has none. A site is
/// told by its host: a page on another port of the same host is not another site.
fn origin_host(origin: &str) -> Option<String> {
    let rest = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"))?;
    let authority: Authority = rest.parse().ok()?;
    bare_host(&authority).map(str::to_owned)
}

/// The host of an authority that holds no user name.
fn bare_host(authority: &Authority) -> Option<&str> {
    (!authority.as_str().contains('@')).then(|| authority.host())
}

/// `localhost` and the names under it (RFC 6761 section 6.3), 127.0.0.0/8, `[::1]`, and the same
/// IPv4 addresses written as IPv6.
fn is_loopback(host: &str) -> bool {
    if let Some(address) = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        return address.parse::<Ipv6Addr>().is_ok_and(|address| {
            address.is_loopback() || address.to_ipv4_mapped().is_some_and(|v4| v4.is_loopback())
        });
    }
    if let Ok(address) = host.parse::<Ipv4Addr>() {
        return address.is_loopback();
    }
    let name = host.to_ascii_lowercase();
    let name = name.strip_suffix('.').unwrap_or(&name);
    name == "localhost" || name.ends_with(".localhost")
}

fn forbidden(error: &str) -> Refusal {
    Refusal::new(StatusCode::FORBIDDEN, error)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passes(target: &str, headers: &[(&'static str, &'static str)]) -> bool {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, value.parse().unwrap());
        }
        match check(&target.parse().unwrap(), &map) {
            Ok(()) => true,
            Err(refusal) => {
                assert_eq!(refusal.status, StatusCode::FORBIDDEN);
                false
            }
        }
    }

    #[test]
    fn only_a_loopback_host_passes() {
        for host in [
            "localhost",
            "localhost:9001",
            "LOCALHOST:9001",
            "localhost.",
            "a.localhost:80",
            "127.0.0.1",
            "127.0.0.1:9001",
            "127.9.9.9:1",
            "[::1]",
            "[::1]:9001",
            "[::ffff:127.0.0.1]:9001",
        ] {
            assert!(passes("/stats", &[("host", host)]), "{host}");
        }
        for host in [
            "example.com",
            "example.com:9001",
            "localhost.example.com",
            "notlocalhost",
            "10.0.0.1:9001",
            "128.0.0.1",
            "0.0.0.0:9001",
            "[::]:9001",
            "[fe80::1]",
            "::1",
            "127.0.0.1.example.com",
            "2130706433",
            "127.1",
            "",
            "user@localhost",
            ".localhost.com",
        ] {
            assert!(!passes("/stats", &[("host", host)]), "{host}");
        }
    }

    #[test]
    fn no_host_two_hosts_and_a_target_for_another_host_are_refused() {
        assert!(!passes("/stats", &[]));
        assert!(!passes("/stats", &[("host", "localhost"), ("host", "localhost")]));
        assert!(!passes("http://example.com/stats", &[("host", "localhost")]));
        assert!(passes("http://localhost:9001/stats", &[("host", "localhost:9001")]));
    }

    #[test]
    fn an_origin_of_another_site_is_refused() {
        let from = |origin| passes("/publish/a", &[("host", "localhost:9001"), ("origin", origin)]);
        assert!(from("http://localhost:9001"));
        assert!(from("http://localhost:3000"), "another port is not another site");
        assert!(from("http://LocalHost"));
        for origin in [
            "http://example.com",
            "https://example.com",
            "http://127.0.0.1:9001",
            "null",
            "",
            "http://localhost.example.com",
            "http://user@localhost:9001",
            "ftp://localhost",
            "localhost:9001",
        ] {
            assert!(!from(origin), "{origin}");
        }
    }

    #[test]
    fn sec_fetch_site_of_another_site_is_refused() {
        let from = |site| passes("/stats", &[("host", "[::1]:9001"), ("sec-fetch-site", site)]);
        assert!(from("same-origin"));
        assert!(from("same-site"));
        assert!(from("none"));
        assert!(!from("cross-site"));
        assert!(!from(""));
        assert!(!from("anything"));
    }
}
