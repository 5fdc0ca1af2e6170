//! Which web pages may open connections. A browser names the page's origin in every WebSocket
//! handshake, and no script can change that; a program that is no browser may write what it likes,
//! so this rule protects users of browsers and nobody else.

use std::fmt;

use http::{
    HeaderMap,
    header::{HOST, ORIGIN},
};

/// Which origins may open connections. Without an `Origin` header every rule allows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OriginRule {
    /// Every origin.
    Any,
    /// Host and port of `Origin` must be those of `Host`. A port that is the default of the
    /// origin's scheme may be left out on either side: what terminates TLS often leaves it out.
    SameHost,
    /// One of these.
    List(Vec<AllowedOrigin>),
}

/// One allowed origin. A leading `*.` stands for exactly one label, as in a certificate: neither
/// for none nor for several.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AllowedOrigin(Pattern);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Pattern {
    /// What a browser sends for a page without an origin of its own.
    Null,
    Exact(Origin),
    /// The host is what follows the wildcard label, its dot included.
    Wildcard(Origin),
}

/// Scheme, host and port (RFC 6454), in lower case and without a default port.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Origin {
    scheme: String,
    host: String,
    port: Option<u16>,
}

/// A value that names no origin: how it must look instead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadOrigin(String);

impl fmt::Display for BadOrigin {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl std::error::Error for BadOrigin {}

impl OriginRule {
    /// The rule that the values of `--allow-origin` stand for: origins, or `any` alone. What
    /// `auto` stands for depends on the listeners, and is the caller's business.
    ///
    /// # Errors
    /// Names the first value that is no origin.
    pub fn parse(values: &[String]) -> Result<Self, BadOrigin> {
        if values == ["any"] {
            return Ok(Self::Any);
        }
        let allowed = values.iter().map(|value| match value.as_str() {
            "any" | "auto" => Err(BadOrigin(format!("`{value}` must stand alone"))),
            value => AllowedOrigin::parse(value),
        });
        allowed.collect::<Result<_, _>>().map(Self::List)
    }

    /// Whether a request with these headers may go on.
    pub(crate) fn allows(&self, headers: &HeaderMap) -> bool {
        let mut origins = headers.get_all(ORIGIN).iter();
        let Some(origin) = origins.next() else { return true };
        if *self == Self::Any {
            return true;
        }
        // Several are as good as none that can be read.
        let (Ok(origin), None) = (origin.to_str(), origins.next()) else { return false };
        match self {
            Self::Any => true,
            Self::SameHost => {
                Origin::parse(origin).is_some_and(|origin| origin.is_at_host(headers))
            }
            Self::List(allowed) => {
                let parsed = Origin::parse(origin);
                allowed.iter().any(|AllowedOrigin(pattern)| match pattern {
                    Pattern::Null => origin == "null",
                    pattern => parsed.as_ref().is_some_and(|parsed| pattern.matches(parsed)),
                })
            }
        }
    }
}

impl AllowedOrigin {
    fn parse(value: &str) -> Result<Self, BadOrigin> {
        if value == "null" {
            return Ok(Self(Pattern::Null));
        }
        let bad = || {
            BadOrigin(format!(
                "`{value}` is no origin: write scheme://host or scheme://host:port, without a \
                 path; the first label of the host may be *"
            ))
        };
        let mut origin = Origin::parse(value).ok_or_else(bad)?;
        let Some(suffix) = origin.host.strip_prefix('*') else {
            return if origin.host.contains('*') {
                Err(bad())
            } else {
                Ok(Self(Pattern::Exact(origin)))
            };
        };
        if suffix.len() < 2 || !suffix.starts_with('.') || suffix.contains('*') {
            return Err(bad());
        }
        origin.host = suffix.to_owned();
        Ok(Self(Pattern::Wildcard(origin)))
    }
}

impl Pattern {
    fn matches(&self, origin: &Origin) -> bool {
        match self {
            Self::Null => false,
            Self::Exact(allowed) => allowed == origin,
            Self::Wildcard(allowed) => {
                let label = origin.host.strip_suffix(&allowed.host);
                allowed.scheme == origin.scheme
                    && allowed.port == origin.port
                    && label.is_some_and(|label| !label.is_empty() && !label.contains('.'))
            }
        }
    }
}

impl Origin {
    fn parse(text: &str) -> Option<Self> {
        let (scheme, authority) = text.split_once("://")?;
        let is_scheme = scheme.starts_with(|first: char| first.is_ascii_alphabetic())
            && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte));
        if !is_scheme {
            return None;
        }
        let scheme = scheme.to_ascii_lowercase();
        let (host, port) = split_port(authority)?;
        let port = port.filter(|port| Some(*port) != default_port(&scheme));
        Some(Self { scheme, host: host.to_ascii_lowercase(), port })
    }

    /// Whether `Host` names this origin's host and port.
    fn is_at_host(&self, headers: &HeaderMap) -> bool {
        let host = headers.get(HOST).and_then(|host| host.to_str().ok()).and_then(split_port);
        host.is_some_and(|(host, port)| {
            let port = port.filter(|port| Some(*port) != default_port(&self.scheme));
            host.eq_ignore_ascii_case(&self.host) && port == self.port
        })
    }
}

/// Host and port of an authority without user information. An empty port is none (RFC 3986
/// section 3.2.3).
fn split_port(authority: &str) -> Option<(&str, Option<u16>)> {
    // The colons of an IPv6 address stand in brackets (RFC 3986 section 3.2.2).
    let host_end = match authority.strip_prefix('[') {
        Some(rest) => rest.find(']')? + 2,
        None => authority.find(':').unwrap_or(authority.len()),
    };
    let (host, port) = authority.split_at(host_end);
    let is_host = !host.is_empty()
        && !host.bytes().any(|byte| byte.is_ascii_whitespace() || b"/?#@\\,".contains(&byte));
    if !is_host {
        return None;
    }
    match port.strip_prefix(':') {
        None if port.is_empty() => Some((host, None)),
        Some("") => Some((host, None)),
        Some(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => {
            Some((host, Some(digits.parse().ok()?)))
        }
        _ => None,
    }
}

fn default_port(scheme: &str) -> Option<u16> {
    match scheme {
        "http" | "ws" => Some(80),
        "https" | "wss" => Some(443),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn headers(host: &str, origin: Option<&str>) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(HOST, host.parse().unwrap());
        if let Some(origin) = origin {
            headers.insert(ORIGIN, origin.parse().unwrap());
        }
        headers
    }

    fn rule(values: &[&str]) -> OriginRule {
        let values: Vec<String> = values.iter().map(ToString::to_string).collect();
        OriginRule::parse(&values).unwrap()
    }

    #[test]
    fn without_an_origin_every_rule_allows_it() {
        for rule in [OriginRule::Any, OriginRule::SameHost, rule(&["https://example.com"])] {
            assert!(rule.allows(&headers("example.com", None)), "{rule:?}");
        }
    }

    #[test]
    fn any_allows_whatever_stands_there() {
        let rule = rule(&["any"]);
        assert_eq!(rule, OriginRule::Any);
        for origin in ["https://evil.example", "null", "???"] {
            assert!(rule.allows(&headers("example.com", Some(origin))), "{origin}");
        }
    }

    #[test]
    fn the_same_host_is_host_and_port_with_the_default_port_left_out_or_not() {
        // (Host, Origin, allowed)
        let cases = [
            ("example.com", "http://example.com", true),
            ("example.com", "https://example.com", true),
            ("Example.COM", "https://example.com", true),
            ("example.com:443", "https://example.com", true),
            ("example.com:80", "http://example.com", true),
            ("example.com", "https://example.com:443", true),
            ("example.com:9000", "http://example.com:9000", true),
            ("example.com:", "http://example.com", true),
            ("[::1]:9000", "http://[::1]:9000", true),
            ("[::1]", "http://[::1]", true),
            ("example.com:9000", "http://example.com", false),
            ("example.com", "http://example.com:9000", false),
            ("example.com:80", "https://example.com", false),
            ("example.com", "https://www.example.com", false),
            ("example.com", "https://example.com.evil.example", false),
            ("example.com", "https://evil.example", false),
            ("example.com", "https://example.com@evil.example", false),
            ("example.com", "https://evil.example/example.com", false),
            ("example.com", "null", false),
            ("example.com", "example.com", false),
            ("example.com", "://example.com", false),
            ("", "https://", false),
            ("[::1]", "http://[::2]", false),
        ];
        for (host, origin, is_allowed) in cases {
            let headers = headers(host, Some(origin));
            assert_eq!(OriginRule::SameHost.allows(&headers), is_allowed, "{host} {origin}");
        }
    }

    #[test]
    fn a_listed_origin_matches_exactly_up_to_case_and_default_port() {
        let rule = rule(&["https://Example.com", "http://localhost:8080", "null", "app://x"]);
        let cases = [
            ("https://example.com", true),
            ("https://example.com:443", true),
            ("http://localhost:8080", true),
            ("app://x", true),
            ("null", true),
            ("http://example.com", false),
            ("https://example.com:8443", false),
            ("https://a.example.com", false),
            ("http://localhost", false),
            ("http://localhost:80801", false),
            ("https://example.com.evil.example", false),
            ("NULL", false),
        ];
        for (origin, is_allowed) in cases {
            let headers = headers("elsewhere.example", Some(origin));
            assert_eq!(rule.allows(&headers), is_allowed, "{origin}");
        }
    }

    #[test]
    fn a_leading_wildcard_stands_for_exactly_one_label() {
        let rule = rule(&["https://*.example.com", "http://*.test:8080"]);
        let cases = [
            ("https://a.example.com", true),
            ("https://A.Example.com", true),
            ("http://a.test:8080", true),
            ("https://example.com", false),
            ("https://.example.com", false),
            ("https://a.b.example.com", false),
            ("https://aexample.com", false),
            ("http://a.example.com", false),
            ("https://a.example.com:8443", false),
            ("https://a.example.com.evil.example", false),
            ("http://a.test", false),
        ];
        for (origin, is_allowed) in cases {
            let headers = headers("elsewhere.example", Some(origin));
            assert_eq!(rule.allows(&headers), is_allowed, "{origin}");
        }
    }

    #[test]
    fn two_origins_are_refused_unless_any_is_allowed() {
        let mut headers = headers("example.com", Some("https://example.com"));
        headers.append(ORIGIN, HeaderValue::from_static("https://example.com"));
        assert!(OriginRule::Any.allows(&headers));
        assert!(!OriginRule::SameHost.allows(&headers));
        assert!(!rule(&["https://example.com"]).allows(&headers));
    }

    #[test]
    fn values_that_are_no_origin_are_refused_by_name() {
        for value in [
            "",
            "example.com",
            "https://",
            "https://example.com/",
            "https://example.com/path",
            "https://user@example.com",
            "https://example.com:port",
            "https://example.com:99999",
            "https://*",
            "https://*.",
            "https://*example.com",
            "https://a.*.example.com",
            "https://*.*.example.com",
            "https://a, https://b",
            "any",
            "auto",
        ] {
            let values = ["https://fine.example".to_owned(), value.to_owned()];
            let error = OriginRule::parse(&values).unwrap_err();
            assert!(error.to_string().starts_with(&format!("`{value}`")), "{error}");
        }
    }
}
