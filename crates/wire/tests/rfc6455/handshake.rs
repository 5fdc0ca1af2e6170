//! The opening handshake (RFC 6455 sections 1.3 and 4.2) and the HTTP/1.1 around it (RFC 9112).

use rand::{Rng, SeedableRng, rngs::StdRng};
use ringway_wire::{
    BadRequest, Extensions, NoUpgrade, Request, StatusCode, Upgrade, encode_response,
    encode_upgrade, parse_request, without_content,
};

/// The client's handshake of RFC 6455 section 1.3.
const RFC_REQUEST: &str = "GET /chat HTTP/1.1\r\n\
    Host: server.example.com\r\n\
    Upgrade: websocket\r\n\
    Connection: Upgrade\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
    Origin: http://example.com\r\n\
    Sec-WebSocket-Protocol: chat, superchat\r\n\
    Sec-WebSocket-Version: 13\r\n\
    \r\n";

const NONE: Extensions = Extensions { deflate: false };

const UPGRADE: &str = "Upgrade: websocket";
const CONNECTION: &str = "Connection: Upgrade";
const KEY: &str = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==";
const VERSION: &str = "Sec-WebSocket-Version: 13";

const BAD_HEAD: BadRequest = BadRequest::Malformed("send an HTTP/1.1 request head");
const BAD_TARGET: BadRequest =
    BadRequest::Malformed("the request target must be a path, or a URL with scheme and host");
const BAD_HOST: BadRequest = BadRequest::Malformed("send exactly one valid Host header");
const BAD_BODY: BadRequest = BadRequest::Malformed("send the request without a body");
const BAD_LENGTH: BadRequest = BadRequest::Malformed("Content-Length must be a number, alone");

/// A head from its lines.
fn head(lines: &[&str]) -> Vec<u8> {
    [lines.join("\r\n").as_bytes(), b"\r\n\r\n"].concat()
}

fn parse(bytes: &[u8]) -> Request {
    let (request, head_bytes) =
        parse_request(bytes).expect("the head is valid").expect("the head is complete");
    assert_eq!(head_bytes, bytes.len());
    request
}

/// What `encode_upgrade` says to a request with these lines after its Host.
fn upgrade(lines: &[&str]) -> Result<(), NoUpgrade> {
    let lines = [&["GET / HTTP/1.1", "Host: a"], lines].concat();
    encode_upgrade(&parse(&head(&lines)), None, NONE).map(|_| ())
}

#[test]
fn the_handshake_of_rfc_6455_section_1_3_is_answered_with_its_accept_key() {
    let request = parse(RFC_REQUEST.as_bytes());
    assert_eq!(request.method(), "GET");
    assert_eq!(request.uri(), "/chat");
    assert_eq!(request.headers()["Origin"], "http://example.com");
    let response = encode_upgrade(&request, Some("chat"), NONE).unwrap().response;
    let expected = "HTTP/1.1 101 Switching Protocols\r\n\
        Connection: Upgrade\r\n\
        Upgrade: websocket\r\n\
        Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\
        Sec-WebSocket-Protocol: chat\r\n\
        \r\n";
    assert_eq!(response, expected);
}

#[test]
fn an_answer_names_neither_subprotocol_nor_extension_by_itself() {
    let mut lines = vec!["GET / HTTP/1.1", "Host: a", UPGRADE, CONNECTION, KEY, VERSION];
    lines.push("Sec-WebSocket-Protocol: chat");
    lines.push("Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits");
    let response = encode_upgrade(&parse(&head(&lines)), None, NONE).unwrap().response;
    let response = std::str::from_utf8(&response).unwrap();
    assert!(response.starts_with("HTTP/1.1 101 "));
    assert!(!response.contains("Sec-WebSocket-Protocol"));
    assert!(!response.contains("Sec-WebSocket-Extensions"));
}

#[test]
fn a_head_is_incomplete_until_its_last_byte_and_what_follows_is_left() {
    let bytes = RFC_REQUEST.as_bytes();
    for end in 0..bytes.len() {
        assert!(matches!(parse_request(&bytes[..end]), Ok(None)), "{end} bytes");
    }
    let with_frame = [bytes, &[0x81, 0x80, 1, 2, 3, 4]].concat();
    let (_, head_bytes) = parse_request(&with_frame).unwrap().unwrap();
    assert_eq!(head_bytes, bytes.len());
}

#[test]
fn the_size_of_a_head_counts_empty_lines_and_any_method() {
    for start in
        ["GET / HTTP/1.1", "\r\n\r\nGET / HTTP/1.1", "P / HTTP/1.1", "\r\nOPTIONS /x HTTP/1.0"]
    {
        let bytes = head(&[start, "Host: a"]);
        let with_rest = [&bytes[..], b"rest"].concat();
        let (_, head_bytes) = parse_request(&with_rest).unwrap().unwrap();
        assert_eq!(head_bytes, bytes.len(), "{start:?}");
    }
}

#[test]
fn upgrades_in_every_form_that_rfc_9110_allows_are_accepted() {
    let cases: [(&str, &[&str]); 9] = [
        ("the plain form", &[CONNECTION, UPGRADE]),
        ("any case", &["CONNECTION: uPGRADE", "uPgRaDe: WebSocket"]),
        ("a list", &["Connection: keep-alive, Upgrade", UPGRADE]),
        ("a list without spaces", &["Connection: keep-alive,Upgrade,x", UPGRADE]),
        ("a list with tabs", &["Connection: keep-alive\t,\tUpgrade\t", "Upgrade:\twebsocket\t "]),
        ("a list over lines", &["Connection: keep-alive", CONNECTION, UPGRADE]),
        ("empty list entries", &["Connection: ,, Upgrade ,", UPGRADE]),
        ("several protocols", &[CONNECTION, "Upgrade: h2c, websocket"]),
        ("several protocols over lines", &[CONNECTION, "Upgrade: h2c", UPGRADE]),
    ];
    for (name, lines) in cases {
        assert_eq!(upgrade(&[lines, &[KEY, VERSION]].concat()), Ok(()), "{name}");
    }
}

#[test]
fn a_request_without_the_two_upgrade_headers_is_told_so_rfc_6455_section_4_2_1_items_3_and_4() {
    let cases: [(&str, &[&str]); 7] = [
        ("a plain request", &[]),
        ("no Upgrade", &[CONNECTION]),
        ("another protocol", &["Upgrade: h2c", CONNECTION]),
        ("part of a word", &["Upgrade: websockets", CONNECTION]),
        ("no Connection", &[UPGRADE]),
        ("keep-alive only", &[UPGRADE, "Connection: keep-alive"]),
        ("two words", &[UPGRADE, "Connection: not Upgrade"]),
    ];
    for (name, lines) in cases {
        let answer = upgrade(&[lines, &[KEY, VERSION]].concat());
        assert_eq!(answer, Err(NoUpgrade::Missing), "{name}");
    }
}

#[test]
fn a_key_is_sixteen_bytes_in_base64_rfc_6455_section_4_2_1_item_5() {
    let refused =
        Err(NoUpgrade::Malformed("send exactly one Sec-WebSocket-Key: 16 random bytes in base64"));
    let much_too_long = "A".repeat(4000);
    let cases = [
        ("empty", ""),
        ("15 bytes", "AAAAAAAAAAAAAAAAAAAA"),
        ("17 bytes", "AAAAAAAAAAAAAAAAAAAAAAA="),
        ("18 bytes", "AAAAAAAAAAAAAAAAAAAAAAAA"),
        ("no padding", "dGhlIHNhbXBsZSBub25jZQ"),
        ("a character of no alphabet", "dGhlIHNhbXBsZSBub25j!Q=="),
        ("the alphabet for URLs", "dGhl-HNhbXBsZSBub25jZQ=="),
        ("much too long", &much_too_long),
        ("a space within", "dGhlIHNhbXBs ZSBub25jZQ=="),
        ("RFC 4648 3.5: bits behind the last byte", "AAAAAAAAAAAAAAAAAAAAAB=="),
        ("padding too many", "dGhlIHNhbXBsZSBub25jZQ==="),
    ];
    for (name, key) in cases {
        let line = format!("Sec-WebSocket-Key: {key}");
        assert_eq!(upgrade(&[UPGRADE, CONNECTION, &line, VERSION]), refused, "{name}");
    }
    assert_eq!(upgrade(&[UPGRADE, CONNECTION, VERSION]), refused, "none");
    let twice = upgrade(&[UPGRADE, CONNECTION, KEY, KEY, VERSION]);
    assert_eq!(twice, refused, "RFC 6455 section 11.3.1");
    assert_eq!(upgrade(&[UPGRADE, CONNECTION, KEY, VERSION]), Ok(()));
}

#[test]
fn only_version_13_is_spoken_rfc_6455_section_4_2_1_item_6() {
    for version in ["", "0", "8", "14", "013", "13, 8", "13.0", "thirteen"] {
        let line = format!("Sec-WebSocket-Version: {version}");
        let answer = upgrade(&[UPGRADE, CONNECTION, KEY, &line]);
        assert_eq!(answer, Err(NoUpgrade::Version), "{version}");
    }
    assert_eq!(upgrade(&[UPGRADE, CONNECTION, KEY]), Err(NoUpgrade::Version), "none");
    let twice = upgrade(&[UPGRADE, CONNECTION, KEY, VERSION, VERSION]);
    let refused = NoUpgrade::Malformed("send exactly one Sec-WebSocket-Version header");
    assert_eq!(twice, Err(refused), "RFC 6455 section 11.3.5");
}

#[test]
fn only_get_over_http_1_1_can_be_an_upgrade_rfc_6455_section_4_2_1_item_1() {
    let answer = |method: &str, version: &str| {
        let line = format!("{method} / {version}");
        let lines = [&line, "Host: a", UPGRADE, CONNECTION, KEY, VERSION];
        encode_upgrade(&parse(&head(&lines)), None, NONE).map(|_| ())
    };
    assert_eq!(answer("GET", "HTTP/1.1"), Ok(()));
    assert_eq!(answer("GET", "HTTP/1.0"), Err(NoUpgrade::Missing));
    for method in ["POST", "HEAD", "PUT", "OPTIONS", "DELETE", "get", "X-OWN"] {
        assert_eq!(answer(method, "HTTP/1.1"), Err(NoUpgrade::Method), "{method}");
        assert_eq!(answer(method, "HTTP/1.0"), Err(NoUpgrade::Method), "{method}");
    }
}

#[test]
fn other_methods_and_http_1_0_are_parsed_as_they_came() {
    let request = parse(&head(&["POST /ws/a?b=c HTTP/1.1", "Host: a", "Content-Length: 5"]));
    assert_eq!(request.method(), "POST");
    assert_eq!(request.uri(), "/ws/a?b=c");
    assert_eq!(request.version(), http::Version::HTTP_11);
    assert_eq!(request.headers()["Content-Length"], "5");
    let request = parse(&head(&["HEAD /readyz HTTP/1.0"]));
    assert_eq!(request.method(), "HEAD");
    assert_eq!(request.uri(), "/readyz");
    assert_eq!(request.version(), http::Version::HTTP_10);
}

#[test]
fn a_later_minor_version_is_taken_for_http_1_1_rfc_9110_section_2_5() {
    for method in ["GET", "POST"] {
        for version in ["HTTP/1.2", "HTTP/1.9"] {
            let line = format!("{method} /a {version}");
            let bytes = head(&["", &line, "Host: a", UPGRADE, CONNECTION, KEY, VERSION]);
            let request = parse(&bytes);
            assert_eq!((request.method().as_str(), request.uri().path()), (method, "/a"));
            assert_eq!(request.version(), http::Version::HTTP_11);
            let refused = (method == "POST").then_some(NoUpgrade::Method);
            assert_eq!(encode_upgrade(&request, None, NONE).err(), refused, "{line}");
            for end in 0..bytes.len() {
                assert!(matches!(parse_request(&bytes[..end]), Ok(None)), "{line}: {end} bytes");
            }
        }
    }
}

#[test]
fn a_target_in_absolute_form_overrules_host_rfc_9112_section_3_2_2() {
    for (target, path, host) in [
        ("http://real.example/ws/a?b=c", "/ws/a", "real.example"),
        ("https://real.example:8443/ws", "/ws", "real.example:8443"),
        ("ws://[::1]:9000/ws", "/ws", "[::1]:9000"),
        ("wss://real.example", "/", "real.example"),
        ("HTTP://real.example/", "/", "real.example"),
    ] {
        let line = format!("GET {target} HTTP/1.1");
        let request = parse(&head(&[&line, "Host: other.example"]));
        assert_eq!(request.uri().path(), path, "{target}");
        let hosts: Vec<_> = request.headers().get_all("Host").iter().collect();
        assert_eq!(hosts, [host], "{target}");
    }
}

fn check_refused(cases: &[(&str, &[&str], BadRequest)]) {
    for (name, lines, expected) in cases {
        assert_eq!(parse_request(&head(lines)).map(|_| ()), Err(*expected), "{name}");
    }
}

#[test]
fn a_host_or_target_that_is_missing_repeated_or_invalid_is_refused() {
    check_refused(&[
        ("RFC 9112 3.2: no Host", &["GET / HTTP/1.1"], BAD_HOST),
        ("RFC 9112 3.2: two Hosts", &["GET / HTTP/1.1", "Host: a", "Host: b"], BAD_HOST),
        ("RFC 9112 3.2: the same Host twice", &["GET / HTTP/1.1", "Host: a", "host: a"], BAD_HOST),
        (
            "RFC 9112 3.2: two Hosts in HTTP/1.0",
            &["GET / HTTP/1.0", "Host: a", "Host: b"],
            BAD_HOST,
        ),
        ("RFC 9112 3.2: a Host with spaces", &["GET / HTTP/1.1", "Host: a b"], BAD_HOST),
        ("RFC 9112 3.2: a Host with a path", &["GET / HTTP/1.1", "Host: a/b"], BAD_HOST),
        ("RFC 9112 3.2: a Host that is a URL", &["GET / HTTP/1.1", "Host: http://a"], BAD_HOST),
        ("RFC 9112 3.2: a Host with a user", &["GET / HTTP/1.1", "Host: user@a"], BAD_HOST),
        ("RFC 9112 3.2: a port in letters", &["GET / HTTP/1.1", "Host: a:http"], BAD_HOST),
        ("RFC 9112 3.2.2: no Host with a URL", &["GET http://a/ HTTP/1.1"], BAD_HOST),
        (
            "RFC 9110 4.2.4: a user in the URL",
            &["GET http://user@a/ HTTP/1.1", "Host: a"],
            BAD_TARGET,
        ),
        ("RFC 9112 3.2: a relative target", &["GET ws HTTP/1.1", "Host: a"], BAD_TARGET),
        ("RFC 9112 3.2.3: a target for proxies", &["CONNECT a:80 HTTP/1.1", "Host: a"], BAD_TARGET),
        ("RFC 9112 3.2.4: a target for OPTIONS", &["OPTIONS * HTTP/1.1", "Host: a"], BAD_TARGET),
        ("RFC 9112 3.2.2: another scheme", &["GET ftp://a/ HTTP/1.1", "Host: a"], BAD_TARGET),
        ("RFC 6455 3: a fragment", &["GET /ws#a HTTP/1.1", "Host: a"], BAD_TARGET),
        ("a URL without a host", &["GET http:///ws HTTP/1.1", "Host: a"], BAD_HEAD),
    ]);
}

#[test]
fn header_lines_and_bodies_that_two_parsers_could_read_differently_are_refused() {
    check_refused(&[
        ("RFC 9112 5.2: a folded line", &["GET / HTTP/1.1", "Host: a", "X: b", " c"], BAD_HEAD),
        (
            "RFC 9112 5.2: folded with a tab",
            &["GET / HTTP/1.1", "X: b", "\tc", "Host: a"],
            BAD_HEAD,
        ),
        ("RFC 9112 2.2: space before the first header", &["GET / HTTP/1.1", " Host: a"], BAD_HEAD),
        ("RFC 9112 5.1: space before the colon", &["GET / HTTP/1.1", "Host : a"], BAD_HEAD),
        ("RFC 9112 5: no colon", &["GET / HTTP/1.1", "Host"], BAD_HEAD),
        ("RFC 9112 5: no name", &["GET / HTTP/1.1", "Host: a", ": b"], BAD_HEAD),
        ("RFC 9110 5.5: NUL in a value", &["GET / HTTP/1.1", "Host: a", "X: \0"], BAD_HEAD),
        ("RFC 9112 2.2: a bare CR", &["GET / HTTP/1.1", "Host: a", "X: b\rY: c"], BAD_HEAD),
        ("RFC 9112 3: two spaces", &["GET  / HTTP/1.1", "Host: a"], BAD_HEAD),
        ("RFC 9112 2.3: HTTP/2.0", &["GET / HTTP/2.0", "Host: a"], BAD_HEAD),
        ("RFC 9112 2.3: HTTP/0.9", &["GET / HTTP/0.9", "Host: a"], BAD_HEAD),
        ("RFC 9112 2.3: a letter", &["GET / HTTP/1.x", "Host: a"], BAD_HEAD),
        ("RFC 9112 2.3: two digits", &["GET / HTTP/1.22", "Host: a"], BAD_HEAD),
        ("RFC 9112 2.3: http/1.2", &["GET / http/1.2", "Host: a"], BAD_HEAD),
        ("RFC 9110 5.6.2: a method that is no token", &["G/T / HTTP/1.2", "Host: a"], BAD_HEAD),
        ("RFC 9112 5: no colon, HTTP/1.2", &["GET / HTTP/1.2", "Host"], BAD_HEAD),
        ("RFC 9112 3.2: no Host, HTTP/1.2", &["GET / HTTP/1.2"], BAD_HOST),
        ("RFC 9112 2.3: no version", &["GET /", "Host: a"], BAD_HEAD),
        (
            "RFC 9112 6: a body by length",
            &["GET / HTTP/1.1", "Host: a", "Content-Length: 1"],
            BAD_BODY,
        ),
        (
            "RFC 9112 6: a body in chunks",
            &["GET / HTTP/1.1", "Host: a", "Transfer-Encoding: chunked"],
            BAD_BODY,
        ),
        (
            "RFC 9112 6.3: a length that is none",
            &["GET / HTTP/1.1", "Host: a", "Content-Length: +0"],
            BAD_LENGTH,
        ),
        (
            "RFC 9112 6.3: an empty length",
            &["GET / HTTP/1.1", "Host: a", "Content-Length:"],
            BAD_LENGTH,
        ),
        (
            "RFC 9112 6.3: two lengths",
            &["POST / HTTP/1.1", "Host: a", "Content-Length: 0", "Content-Length: 1"],
            BAD_LENGTH,
        ),
        (
            "RFC 9112 6.1: length and coding",
            &["POST / HTTP/1.1", "Host: a", "Content-Length: 0", "Transfer-Encoding: chunked"],
            BAD_LENGTH,
        ),
    ]);
}

#[test]
fn what_rfc_9112_allows_is_parsed() {
    let cases: [(&str, &[&str]); 9] = [
        ("an empty Host", &["GET / HTTP/1.1", "Host:"]),
        ("a port", &["GET / HTTP/1.1", "Host: a:9000"]),
        ("an empty port", &["GET / HTTP/1.1", "Host: a:"]),
        ("IPv6", &["GET / HTTP/1.1", "Host: [::1]:9000"]),
        ("no Host in HTTP/1.0", &["GET / HTTP/1.0"]),
        ("a body of no bytes", &["GET / HTTP/1.1", "Host: a", "Content-Length: 0"]),
        ("a body that is not read", &["POST / HTTP/1.1", "Host: a", "Transfer-Encoding: chunked"]),
        ("obs-text", &["GET / HTTP/1.1", "Host: a", "X: \u{e9}"]),
        ("an empty line first", &["", "GET / HTTP/1.1", "Host: a"]),
    ];
    for (name, lines) in cases {
        assert!(matches!(parse_request(&head(lines)), Ok(Some(_))), "{name}");
    }
    let bare_line_feeds = b"GET / HTTP/1.1\nHost: a\n\n";
    assert!(matches!(parse_request(bare_line_feeds), Ok(Some(_))), "RFC 9112 section 2.2");
}

#[test]
fn headers_are_counted_and_one_too_many_is_refused_before_the_head_ends() {
    let lines =
        |count: usize| "GET / HTTP/1.1\r\nHost: a\r\n".to_owned() + &"X: y\r\n".repeat(count - 1);
    assert!(matches!(parse_request(format!("{}\r\n", lines(124)).as_bytes()), Ok(Some(_))));
    for (from, to) in [("", ""), ("GET", "POST"), ("1.1", "1.0"), ("1.1", "1.2")] {
        let head = lines(125).replacen(from, to, 1);
        let refused = parse_request(head.as_bytes()).map(|_| ());
        assert_eq!(refused, Err(BadRequest::TooManyHeaders));
    }
    assert_eq!(BadRequest::TooManyHeaders.text(), "send at most 124 header lines");
    assert_eq!(BAD_HEAD.text(), "send an HTTP/1.1 request head");
}

#[test]
fn what_can_never_become_a_head_is_refused_by_its_first_wrong_byte() {
    let cases: [(&str, &[u8]); 8] = [
        ("a TLS client", &[0x16]),
        ("a NUL", b"\0"),
        ("a frame without a handshake", &[0x81]),
        ("HTTP/2", b"PRI * HTTP/2"),
        ("SMTP", b"HELO example.com\r"),
        ("a PROXY line", b"PROXY TCP4 1"),
        ("a header from nowhere", b"GET / HTTP/1.1\r\n:"),
        ("a control character", b"GET /\x01"),
    ];
    for (name, bytes) in cases {
        assert_eq!(parse_request(bytes).map(|_| ()), Err(BAD_HEAD), "{name}");
        let before = &bytes[..bytes.len() - 1];
        assert!(matches!(parse_request(before), Ok(None)), "{name}: {before:?} may go on");
    }
}

#[test]
fn changed_and_random_bytes_never_panic_and_never_make_a_head_longer_than_they_are() {
    for seed in 0..20_000 {
        let mut random = StdRng::seed_from_u64(seed);
        let mut bytes = RFC_REQUEST.as_bytes().to_vec();
        for _ in 0..random.random_range(1..4) {
            let place = random.random_range(0..bytes.len());
            match random.random_range(0..3) {
                0 => bytes[place] = random.random(),
                1 => bytes.insert(place, b"\r\n \t:/#@,\0"[random.random_range(0..10)]),
                _ => drop(bytes.remove(place)),
            }
        }
        if let Ok(Some((request, head_bytes))) = parse_request(&bytes) {
            assert!(head_bytes <= bytes.len(), "seed {seed}");
            assert!(request.uri().path().starts_with('/'), "seed {seed}");
            if let Ok(Upgrade { response, .. }) = encode_upgrade(&request, None, NONE) {
                assert!(response.ends_with(b"\r\n\r\n"), "seed {seed}");
            }
        }
    }
}

#[test]
fn a_refusal_is_a_whole_response_of_one_line_of_text() {
    let response = encode_response(
        StatusCode::SERVICE_UNAVAILABLE,
        &[("Retry-After", "5")],
        "full: try again later",
    );
    let expected = "HTTP/1.1 503 Service Unavailable\r\n\
        Connection: close\r\n\
        Retry-After: 5\r\n\
        Content-Type: text/plain; charset=utf-8\r\n\
        Content-Length: 22\r\n\
        \r\n\
        full: try again later\n";
    assert_eq!(response, expected);
}

#[test]
fn a_response_to_head_ends_with_its_head_rfc_9110_section_9_3_2() {
    let response = encode_response(StatusCode::NOT_FOUND, &[], "nothing here");
    let expected = "HTTP/1.1 404 Not Found\r\n\
        Connection: close\r\n\
        Content-Type: text/plain; charset=utf-8\r\n\
        Content-Length: 13\r\n\
        \r\n";
    assert_eq!(without_content(&response), expected);
    assert_eq!(without_content(&without_content(&response)), expected);
}

#[test]
fn every_refused_upgrade_has_the_status_and_headers_of_its_kind() {
    let cases = [
        (NoUpgrade::Malformed("why"), "HTTP/1.1 400 Bad Request\r\n", vec![], "why"),
        (NoUpgrade::Method, "HTTP/1.1 405 Method Not Allowed\r\n", vec!["Allow: GET"], "GET"),
        (
            NoUpgrade::Missing,
            "HTTP/1.1 426 Upgrade Required\r\n",
            vec!["Upgrade: websocket", "Connection: Upgrade"],
            "Upgrade: websocket",
        ),
        (
            NoUpgrade::Version,
            "HTTP/1.1 426 Upgrade Required\r\n",
            vec!["Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13"],
            "Sec-WebSocket-Version: 13",
        ),
    ];
    for (refusal, status_line, headers, text) in cases {
        let response = encode_response(refusal.status(), refusal.headers(), refusal.text());
        let response = std::str::from_utf8(&response).unwrap();
        let (head, body) = response.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with(status_line), "{refusal:?}");
        for header in headers.iter().chain(&["Connection: close"]) {
            assert!(head.lines().any(|line| line == *header), "{refusal:?}: {header}");
        }
        assert!(body.contains(text) && body.ends_with('\n'), "{refusal:?}");
        assert_eq!(body.matches('\n').count(), 1, "{refusal:?}");
    }
}
