//! Which request gets which answer. Paths, query parameters, origins and subprotocols are decided
//! here; whether a request is a well-formed upgrade, and whether there is room for it, by the
//! worker.

use http::{
    Method,
    header::{ORIGIN, SEC_WEBSOCKET_PROTOCOL},
};
use wire::{Extensions, Request, StatusCode};
use worker::{Answer, CloseReason, Readiness, RefusalReason, Response, Time};

use crate::{
    access::Denial,
    blocked::Blocked,
    options::Options,
    passes::Pass,
    topic::{BadTopic, decode_topic, percent_decode},
};

/// What a connection is there for, and by what right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admission {
    /// What it has asked for.
    pub asked: Asked,
    /// What its token lets it do, where tokens are asked for.
    pub pass: Option<Pass>,
}

/// What a request asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Asked {
    /// Its messages go back to it.
    Echo,
    /// It subscribes, and may publish.
    Subscribe {
        /// Its topics, each once; it publishes to the first.
        topics: Vec<Box<str>>,
        /// Whether it gets its own messages.
        own: bool,
    },
}

/// The one subprotocol there is; naming none means the same.
const SUBPROTOCOL_RAW: &str = "ringway.raw.v1";

/// Other protocols will live at these paths and below them.
const RESERVED: [&str; 8] =
    ["/app", "/apps", "/connection", "/emulation", "/api", "/sse", "/poll", "/mqtt"];

/// The answer to a request: first its path decides, then its origin, then its topics, then its
/// token.
pub(crate) fn answer(
    options: &Options,
    blocked: &mut Blocked,
    request: &Request,
    readiness: Readiness,
    now: Time,
) -> Answer<Admission> {
    let path = request.uri().path();
    let query = request.uri().query().unwrap_or_default();
    let asked = match path {
        "/healthz" => return Answer::Respond(probe(request, Readiness::Ready)),
        "/readyz" => return Answer::Respond(probe(request, readiness)),
        _ if is_below(path, "/ws") => {
            options.origins.allows(request.headers()).then(|| subscribe(options, path, query))
        }
        "/echo" if options.echo => {
            options.origins.allows(request.headers()).then_some(Ok(Asked::Echo))
        }
        _ => return Answer::Respond(not_found(path)),
    };
    let asked = match asked {
        None => {
            return Answer::Respond(refuse(
                RefusalReason::Origin,
                "this page's origin may not connect here: see --allow-origin",
            ));
        }
        Some(Err(refusal)) => return Answer::Respond(refusal),
        Some(Ok(asked)) => asked,
    };
    let pass = options.access.as_ref().map(|access| access.admit(request, &asked, blocked, now));
    match pass.transpose() {
        Err(denial) => deny(request, denial),
        Ok(pass) => Answer::Upgrade {
            subprotocol: subprotocol(request),
            extensions: Extensions { deflate: options.compression },
            admission: Admission { asked, pass },
        },
    }
}

/// A browser shows its page no status, so it is told by a Close frame.
fn deny(request: &Request, denial: Denial) -> Answer<Admission> {
    let Denial { reason, text } = denial;
    if request.headers().contains_key(ORIGIN) {
        let close = match reason {
            RefusalReason::TokenExpired => CloseReason::TokenExpired,
            RefusalReason::TokenBlocked => CloseReason::Removed,
            _ => CloseReason::NotAllowed,
        };
        return Answer::Dismiss { subprotocol: subprotocol(request), close, refusal: reason };
    }
    let mut response = refuse(reason, text);
    if response.status == StatusCode::UNAUTHORIZED {
        // RFC 9110 section 15.5.2.
        response.headers.push(("WWW-Authenticate", "Bearer"));
    }
    Answer::Respond(response)
}

/// What `/ws`, `/ws/{topic}` and their parameters ask for.
fn subscribe(options: &Options, path: &str, query: &str) -> Result<Asked, Response> {
    let bytes_max = options.topic_bytes_max as usize;
    let topics_max = options.topics_per_connection_max as usize;
    let mut topics: Vec<Box<str>> = Vec::new();
    let mut own = true;
    let mut add = |encoded: &str| {
        let topic = decode_topic(encoded, bytes_max).map_err(bad_topic)?;
        if topics.contains(&topic) {
            return Ok(());
        }
        if topics.len() == topics_max {
            let text = format!("name at most {topics_max} topics");
            return Err(refuse(RefusalReason::BadTopic, text));
        }
        topics.push(topic);
        Ok(())
    };
    if let Some(encoded) = path.strip_prefix("/ws/") {
        add(encoded)?;
    }
    // Bounded by the request head. A name that cannot be decoded is one that nobody knows.
    for pair in query.split('&') {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        match percent_decode(name).as_deref() {
            Ok("topic") => add(value)?,
            Ok("own") => own = parse_own(value)?,
            _ => {}
        }
    }
    if topics.is_empty() {
        return Err(bad_topic(BadTopic::Empty));
    }
    Ok(Asked::Subscribe { topics, own })
}

fn parse_own(value: &str) -> Result<bool, Response> {
    match percent_decode(value).as_deref() {
        Ok("on") => Ok(true),
        Ok("off") => Ok(false),
        _ => Err(refuse(RefusalReason::Malformed, "write own=on or own=off")),
    }
}

/// The first entry of all lists that is known. A token that stands there is never chosen.
fn subprotocol(request: &Request) -> Option<&'static str> {
    let mut entries = request
        .headers()
        .get_all(SEC_WEBSOCKET_PROTOCOL)
        .iter()
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    entries.any(|entry| entry.trim_ascii() == SUBPROTOCOL_RAW.as_bytes()).then_some(SUBPROTOCOL_RAW)
}

/// The answer to a health check.
fn probe(request: &Request, readiness: Readiness) -> Response {
    if request.method() != Method::GET {
        return Response {
            headers: vec![("Allow", "GET")],
            ..refuse(RefusalReason::Method, "use GET")
        };
    }
    let (status, text) = match readiness {
        Readiness::Ready => (StatusCode::OK, "ok"),
        Readiness::Full => (StatusCode::SERVICE_UNAVAILABLE, "at capacity: try again later"),
        Readiness::Draining => (StatusCode::SERVICE_UNAVAILABLE, "draining: try again elsewhere"),
    };
    let headers = if status == StatusCode::OK { Vec::new() } else { vec![("Retry-After", "5")] };
    Response { status, headers, text: text.to_owned(), refusal: None }
}

fn not_found(path: &str) -> Response {
    let text = match path {
        "/echo" => "/echo is served with --echo only",
        _ if RESERVED.iter().any(|prefix| is_below(path, prefix)) => {
            "this path is reserved: connect to /ws/TOPIC or /ws?topic=TOPIC"
        }
        _ => "connect to /ws/TOPIC or /ws?topic=TOPIC",
    };
    refuse(RefusalReason::NotFound, text)
}

fn bad_topic(rule: BadTopic) -> Response {
    refuse(RefusalReason::BadTopic, rule.to_string())
}

fn refuse(reason: RefusalReason, text: impl Into<String>) -> Response {
    Response {
        status: reason.status(),
        headers: Vec::new(),
        text: text.into(),
        refusal: Some(reason),
    }
}

/// Whether `path` is `prefix`, or goes on behind it with a slash.
fn is_below(path: &str, prefix: &str) -> bool {
    path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    use crate::{interest::Interest, origin::OriginRule};

    fn options() -> Options {
        Options {
            client_publish: true,
            echo: true,
            compression: false,
            origins: OriginRule::SameHost,
            access: None,
            topics_per_connection_max: 64,
            topic_bytes_max: 255,
            held_bytes_max: 0,
            interest: Arc::new(Interest::new(1, 1, 0)),
        }
    }

    fn ask_with(options: &Options, line: &str, headers: &str) -> Answer<Admission> {
        let head = format!("{line} HTTP/1.1\r\nHost: example.com\r\n{headers}\r\n");
        let (request, _) = wire::parse_request(head.as_bytes()).unwrap().unwrap();
        answer(options, &mut Blocked::default(), &request, Readiness::Ready, Time(0))
    }

    fn ask(target: &str) -> Answer<Admission> {
        ask_with(&options(), &format!("GET {target}"), "")
    }

    fn topics(target: &str) -> (Vec<Box<str>>, bool) {
        match ask(target) {
            Answer::Upgrade { admission: Admission { asked, pass: None }, .. } => match asked {
                Asked::Subscribe { topics, own } => (topics, own),
                Asked::Echo => panic!("{target}"),
            },
            other => panic!("{target}: {other:?}"),
        }
    }

    fn refusal(answer: Answer<Admission>) -> Response {
        match answer {
            Answer::Respond(response) => response,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn topics_come_from_the_path_and_then_from_the_query_in_order_each_once() {
        let cases: [(&str, &[&str]); 15] = [
            ("/ws/a", &["a"]),
            ("/ws/a/b", &["a/b"]),
            ("/ws/a%2Fb", &["a/b"]),
            ("/ws/a+b", &["a+b"]),
            ("/ws?topic=a", &["a"]),
            ("/ws?topic=a&topic=b", &["a", "b"]),
            ("/ws?topic=b&topic=a&topic=b", &["b", "a"]),
            ("/ws?topic=a%2Fb&topic=a/b", &["a/b"]),
            ("/ws?topic=a+b", &["a+b"]),
            ("/ws?topic=a=b", &["a=b"]),
            ("/ws?%74opic=a%26b", &["a&b"]),
            ("/ws/a?topic=b", &["a", "b"]),
            ("/ws/b?topic=a&topic=b&token=x", &["b", "a"]),
            ("/ws/a?", &["a"]),
            ("/ws/a?&&x&%zz=1&Topic=b&topics=c", &["a"]),
        ];
        for (target, expected) in cases {
            let (found, own) = topics(target);
            assert_eq!(found.iter().map(|it| &**it).collect::<Vec<_>>(), expected, "{target}");
            assert!(own);
        }
    }

    #[test]
    fn own_messages_can_be_left_out() {
        for (target, expected) in [
            ("/ws/a?own=off", false),
            ("/ws?own=off&topic=a", false),
            ("/ws/a?own=%6Fff", false),
            ("/ws/a?own=on", true),
            ("/ws/a?own=off&own=on", true),
        ] {
            assert_eq!(topics(target).1, expected, "{target}");
        }
        for target in ["/ws/a?own=of", "/ws/a?own", "/ws/a?own=%zz"] {
            let response = refusal(ask(target));
            assert_eq!(
                (response.status.as_u16(), response.refusal),
                (400, Some(RefusalReason::Malformed))
            );
        }
    }

    #[test]
    fn what_names_no_topic_is_a_bad_request() {
        for target in [
            "/ws",
            "/ws?",
            "/ws?own=off",
            "/ws/",
            "/ws/?topic=a",
            "/ws?topic",
            "/ws?topic=",
            "/ws/a?topic=",
            "/ws//a",
            "/ws/a/",
            "/ws/..",
            "/ws/a?topic=..",
            "/ws/%",
            "/ws/%0A",
            "/ws/%FF",
            "/ws/$a",
            "/ws/*",
            "/ws/a/%3E",
            "/ws?topic=a&topic=%00",
        ] {
            let response = refusal(ask(target));
            assert_eq!(response.status.as_u16(), 400, "{target}");
            assert_eq!(response.refusal, Some(RefusalReason::BadTopic), "{target}");
            assert!(!response.text.is_empty() && !response.text.contains('\n'), "{target}");
        }
    }

    #[test]
    fn a_connection_has_at_most_64_different_topics_of_at_most_255_bytes() {
        let query = |count: usize| {
            let names = (0..count).map(|number| format!("topic=t{number}"));
            format!("/ws/t0?{}", names.collect::<Vec<_>>().join("&"))
        };
        assert_eq!(topics(&query(64)).0.len(), 64);
        let response = refusal(ask(&query(65)));
        assert_eq!(response.status.as_u16(), 400);
        assert_eq!(response.text, "name at most 64 topics");
        topics(&format!("/ws/{}", "a".repeat(255)));
        assert_eq!(refusal(ask(&format!("/ws/{}", "a".repeat(256)))).status.as_u16(), 400);
    }

    #[test]
    fn other_paths_are_not_found_and_reserved_ones_say_so() {
        for target in [
            "/app/key",
            "/apps/1/events",
            "/connection/websocket",
            "/emulation",
            "/api/publish",
            "/sse/a",
            "/poll/a",
            "/mqtt",
            "/mqtt/a",
            "/emulation?x=1",
        ] {
            let response = refusal(ask(target));
            assert_eq!(response.status.as_u16(), 404, "{target}");
            assert!(response.text.contains("reserved"), "{target}");
        }
        for target in ["/", "/w", "/wsx", "/WS/a", "/mqttx", "/echo/", "/healthz/", "/metrics"] {
            let response = refusal(ask(target));
            assert_eq!(response.status.as_u16(), 404, "{target}");
            assert_eq!(response.refusal, Some(RefusalReason::NotFound), "{target}");
            assert!(!response.text.contains("reserved"), "{target}");
        }
    }

    #[test]
    fn echo_is_served_only_where_it_is_on() {
        assert!(matches!(
            ask("/echo?x=1"),
            Answer::Upgrade {
                admission: Admission { asked: Asked::Echo, pass: None },
                subprotocol: None,
                extensions: Extensions { deflate: false }
            }
        ));
        let options = Options { echo: false, ..options() };
        let response = refusal(ask_with(&options, "GET /echo", ""));
        assert_eq!(response.status.as_u16(), 404);
        assert!(response.text.contains("--echo"));
    }

    #[test]
    fn extensions_may_be_agreed_on_where_compression_is_on() {
        for deflate in [false, true] {
            let options = Options { compression: deflate, ..options() };
            for line in ["GET /ws/a", "GET /echo"] {
                match ask_with(&options, line, "") {
                    Answer::Upgrade { extensions, .. } => assert_eq!(extensions.deflate, deflate),
                    other => panic!("{other:?}"),
                }
            }
        }
    }

    #[test]
    fn health_is_always_ok_and_readiness_is_the_workers() {
        let probe = |line: &str, readiness| {
            let head =
                format!("{line} HTTP/1.1\r\nHost: h\r\nOrigin: https://evil.example\r\n\r\n");
            let (request, _) = wire::parse_request(head.as_bytes()).unwrap().unwrap();
            let response =
                refusal(answer(&options(), &mut Blocked::default(), &request, readiness, Time(0)));
            (response.status.as_u16(), response.text, response.refusal)
        };
        let ok = (200, "ok".to_owned(), None);
        for readiness in [Readiness::Ready, Readiness::Full, Readiness::Draining] {
            assert_eq!(probe("GET /healthz", readiness), ok);
        }
        assert_eq!(probe("GET /readyz?x=1", Readiness::Ready), ok);
        for readiness in [Readiness::Full, Readiness::Draining] {
            let (status, _, refusal) = probe("GET /readyz", readiness);
            assert_eq!((status, refusal), (503, None));
        }
    }

    #[test]
    fn health_checks_by_another_method_are_told_which_to_use() {
        for line in ["POST /healthz", "HEAD /readyz", "DELETE /healthz"] {
            let response = refusal(ask_with(&options(), line, ""));
            assert_eq!(response.status.as_u16(), 405, "{line}");
            assert_eq!(response.headers, [("Allow", "GET")], "{line}");
        }
    }

    #[test]
    fn a_foreign_origin_is_refused_before_its_topics_are_looked_at() {
        for target in ["/ws/a", "/ws", "/echo"] {
            let headers = "Origin: https://evil.example\r\n";
            let response = refusal(ask_with(&options(), &format!("GET {target}"), headers));
            assert_eq!(response.status.as_u16(), 403, "{target}");
            assert_eq!(response.refusal, Some(RefusalReason::Origin), "{target}");
            let headers = "Origin: https://example.com\r\n";
            let allowed = ask_with(&options(), &format!("GET {target}"), headers);
            assert_eq!(matches!(allowed, Answer::Upgrade { .. }), target != "/ws", "{target}");
        }
        let foreign = "Origin: https://evil.example\r\n";
        assert_eq!(refusal(ask_with(&options(), "GET /nowhere", foreign)).status.as_u16(), 404);
    }

    #[test]
    fn the_first_known_subprotocol_is_answered_and_none_if_only_others_are_offered() {
        let known = Some("ringway.raw.v1");
        let cases = [
            ("", None),
            ("Sec-WebSocket-Protocol: ringway.raw.v1\r\n", known),
            ("Sec-WebSocket-Protocol: chat, ringway.raw.v1\r\n", known),
            ("Sec-WebSocket-Protocol: ringway.raw.v1,ringway.token.abc\r\n", known),
            ("Sec-WebSocket-Protocol: chat\r\nSec-WebSocket-Protocol: ringway.raw.v1\r\n", known),
            ("Sec-WebSocket-Protocol: ringway.token.abc\r\n", None),
            ("Sec-WebSocket-Protocol: ringway.token.ringway.raw.v1\r\n", None),
            ("Sec-WebSocket-Protocol: ringway.json.v1\r\n", None),
            ("Sec-WebSocket-Protocol: Ringway.Raw.V1\r\n", None),
            ("Sec-WebSocket-Protocol: chat ringway.raw.v1\r\n", None),
            ("Sec-WebSocket-Protocol: ,\r\n", None),
        ];
        for (headers, expected) in cases {
            match ask_with(&options(), "GET /ws/a", headers) {
                Answer::Upgrade { subprotocol, .. } => {
                    assert_eq!(subprotocol, expected, "{headers}")
                }
                other => panic!("{headers}: {other:?}"),
            }
        }
    }
}
