//! The opening handshake against the real binary: each form of a request that RFC 6455, RFC 9110
//! and RFC 9112 speak of, with its answer; topics in URLs as literals; and bytes behind the head.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::io::{BufReader, Read, Write};

use common::{
    Gateway, PATIENCE,
    http::Response,
    raw::{exchange, frame, open, read_close, read_frame, upgrade},
};
use rand::{Rng, SeedableRng, rngs::StdRng};

const HOST: &str = "Host: test";
const CONNECTION: &str = "Connection: Upgrade";
const UPGRADE: &str = "Upgrade: websocket";
const VERSION: &str = "Sec-WebSocket-Version: 13";
const KEY: &str = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==";

/// What all answers to an upgrade have here, because the key is that of RFC 6455 section 1.3.
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

/// A request and its answer.
struct Row {
    /// The section, and what is tried.
    name: &'static str,
    request: Vec<u8>,
    status: u16,
    /// In the text of a refusal.
    says: &'static str,
}

fn row(name: &'static str, request: impl Into<Vec<u8>>, status: u16, says: &'static str) -> Row {
    Row { name, request: request.into(), status, says }
}

/// A head of these lines.
fn head(lines: &[&str]) -> Vec<u8> {
    [lines.join("\r\n").as_bytes(), b"\r\n\r\n"].concat()
}

/// An upgrade with this request line.
fn asking(line: &str) -> Vec<u8> {
    head(&[line, HOST, CONNECTION, UPGRADE, VERSION, KEY])
}

/// An upgrade with these lines in addition.
fn adding(lines: &[&str]) -> Vec<u8> {
    let upgrade = ["GET /echo HTTP/1.1", HOST, CONNECTION, UPGRADE, VERSION, KEY];
    head(&[&upgrade, lines].concat())
}

/// An upgrade with other lines instead of one.
fn replacing(line: &str, by: &[&str]) -> Vec<u8> {
    let mut lines = Vec::new();
    for known in ["GET /echo HTTP/1.1", HOST, CONNECTION, UPGRADE, VERSION, KEY] {
        if known == line { lines.extend(by) } else { lines.push(known) }
    }
    head(&lines)
}

fn check(rows: &[Row]) {
    let gateway = Gateway::start(&["--workers", "1", "--echo"]);
    for (index, row) in rows.iter().enumerate() {
        check_answer(&gateway, row, &[&row.request]);
        // Cut once and cut often, anywhere.
        let mut random = StdRng::seed_from_u64(index as u64);
        for cuts in [1, 20] {
            check_answer(&gateway, row, &cut(&row.request, cuts, &mut random));
        }
    }
    gateway.stats_at_rest();
}

/// Pieces with so many cuts between them, some at the same place.
fn cut<'r>(request: &'r [u8], cuts: usize, random: &mut StdRng) -> Vec<&'r [u8]> {
    let mut places: Vec<usize> =
        (0..cuts).map(|_| random.random_range(0..=request.len())).collect();
    places.extend([0, request.len()]);
    places.sort_unstable();
    places.windows(2).map(|ends| &request[ends[0]..ends[1]]).collect()
}

fn check_answer(gateway: &Gateway, row: &Row, pieces: &[&[u8]]) {
    let (name, stream) = (row.name, gateway.connect());
    for piece in pieces {
        // What is wrong may be answered before all of it is there.
        let _ = (&stream).write_all(piece);
    }
    let mut reader = BufReader::with_capacity(1, &stream);
    let response = if row.request.starts_with(b"HEAD ") {
        Response::read_head(&mut reader)
    } else {
        Response::read(&mut reader)
    };
    assert_eq!(response.status, row.status, "{name}: {response:?}");
    if row.status == 101 {
        assert_eq!(response.header("connection"), Some("Upgrade"), "{name}");
        assert_eq!(response.header("upgrade"), Some("websocket"), "{name}");
        assert_eq!(response.header("sec-websocket-accept"), Some(ACCEPT), "{name}");
        assert_eq!(response.header("sec-websocket-extensions"), None, "{name}");
        // It is a WebSocket, and whatever stood behind the head has been heard.
        (&stream).write_all(&frame(0x81, b"hi")).unwrap();
        assert_eq!(read_frame(&stream), Some((0x81, b"hi".to_vec())), "{name}");
        return;
    }
    assert_eq!(response.header("connection"), Some("close"), "{name}: {response:?}");
    assert!(response.header("content-length").is_some(), "{name}: {response:?}");
    assert!(response.text().contains(row.says), "{name}: {response:?}");
    assert_eq!(response.header("allow").is_some(), row.status == 405, "{name}: {response:?}");
    if row.status == 426 {
        // RFC 9110 sections 7.8 and 15.5.22.
        let lists = |name, value| response.headers.iter().any(|it| it.0 == name && it.1 == value);
        assert!(lists("upgrade", "websocket"), "{name}: {response:?}");
        assert!(lists("connection", "Upgrade"), "{name}: {response:?}");
    }
    assert_eq!(reader.read(&mut [0]).unwrap(), 0, "{name}: the connection ends behind it");
}

#[test]
fn request_lines_and_targets_are_answered_as_rfc_9112_section_3_says() {
    let head_text = "send an HTTP/1.1 request head";
    let target = "the request target must be a path, or a URL with scheme and host";
    let missing = "connect over HTTP/1.1 with Connection: Upgrade and Upgrade: websocket";
    let host = "send exactly one valid Host header";
    check(&[
        row("6455 4.2.1: an upgrade", asking("GET /echo HTTP/1.1"), 101, ""),
        row("9112 2.2: an empty line first", asking("\r\nGET /echo HTTP/1.1"), 101, ""),
        row("9112 2.2: empty lines first", asking("\r\n\r\nGET /echo HTTP/1.1"), 101, ""),
        row("9112 2.2: spaces first", asking("  GET /echo HTTP/1.1"), 400, head_text),
        row(
            "9112 2.2: lines that end with LF",
            String::from_utf8(adding(&[])).unwrap().replace('\r', ""),
            101,
            "",
        ),
        row("9112 3: two spaces", asking("GET  /echo HTTP/1.1"), 400, head_text),
        row("9112 3: a tab", asking("GET\t/echo HTTP/1.1"), 400, head_text),
        row("9112 3: a space at the end", asking("GET /echo HTTP/1.1 "), 400, head_text),
        row("9112 3: no target", asking("GET HTTP/1.1"), 400, head_text),
        row("9112 2.3: no version", asking("GET /echo"), 400, head_text),
        row("9112 2.3: HTTP/2.0", asking("GET /echo HTTP/2.0"), 400, head_text),
        row("9110 2.5: HTTP/1.2", asking("GET /echo HTTP/1.2"), 101, ""),
        row("9112 2.3: HTTP/0.9", "GET /echo\r\n\r\n", 400, head_text),
        row("9112 2.3: http/1.1", asking("GET /echo http/1.1"), 400, head_text),
        row("9112 2.3: HTTP/1.10", asking("GET /echo HTTP/1.10"), 400, head_text),
        row("9113 3.4: HTTP/2", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400, head_text),
        row("6455 4.2.1: HTTP/1.0", asking("GET /echo HTTP/1.0"), 426, missing),
        row("6455 4.2.1: POST", asking("POST /echo HTTP/1.1"), 405, "use GET"),
        row("6455 4.2.1: PUT", asking("PUT /echo HTTP/1.1"), 405, "use GET"),
        row("6455 4.2.1: OPTIONS", asking("OPTIONS /echo HTTP/1.1"), 405, "use GET"),
        row("9110 9.1: methods have a case", asking("get /echo HTTP/1.1"), 405, "use GET"),
        row("9110 9.3.2: HEAD has no content", asking("HEAD /echo HTTP/1.1"), 405, ""),
        row("9110 9.3.2: HEAD of nothing", asking("HEAD /nowhere HTTP/1.1"), 404, ""),
        row("9110 9.3.2: HEAD of a probe", head(&["HEAD /healthz HTTP/1.1", HOST]), 405, ""),
        row("9112 3.2.1: a query", asking("GET /echo?a=b HTTP/1.1"), 101, ""),
        row("9112 3.2.1: an empty query", asking("GET /echo? HTTP/1.1"), 101, ""),
        row("3986 2.1: a bad escape nobody reads", asking("GET /echo?a=%zz HTTP/1.1"), 101, ""),
        row("9112 3.2.2: http", asking("GET http://test/echo HTTP/1.1"), 101, ""),
        row("9112 3.2.2: ws", asking("GET ws://test:9000/echo?a=b HTTP/1.1"), 101, ""),
        row("9112 3.2.2: an address", asking("GET wss://[::1]:443/echo HTTP/1.1"), 101, ""),
        row("9110 4.2.3: a scheme in capitals", asking("GET HTTP://test/echo HTTP/1.1"), 101, ""),
        row("9112 3.2.2: ftp", asking("GET ftp://test/echo HTTP/1.1"), 400, target),
        row("9110 4.2.4: a user", asking("GET http://me@test/echo HTTP/1.1"), 400, target),
        row("9110 4.2.1: no host", asking("GET http:///echo HTTP/1.1"), 400, head_text),
        row(
            "9112 3.2.2: a URL, and no Host",
            head(&["GET http://test/echo HTTP/1.1", CONNECTION, UPGRADE, VERSION, KEY]),
            400,
            host,
        ),
        row("9112 3.2.3: an authority", asking("CONNECT test:80 HTTP/1.1"), 400, target),
        row("9112 3.2.4: an asterisk", asking("OPTIONS * HTTP/1.1"), 400, target),
        row("9112 3.2: a relative path", asking("GET echo HTTP/1.1"), 400, target),
        row("6455 3: a fragment", asking("GET /echo#a HTTP/1.1"), 400, target),
        row("6455 3: a fragment in a query", asking("GET /echo?a#b HTTP/1.1"), 400, target),
        row("9112 3.2: a space in the target", asking("GET /ec ho HTTP/1.1"), 400, head_text),
        row("9112 3.2: a control character", asking("GET /echo\x01 HTTP/1.1"), 400, head_text),
        row("another path", asking("GET /nowhere HTTP/1.1"), 404, "/ws/TOPIC"),
        row("a slash more", asking("GET /echo/ HTTP/1.1"), 404, "/ws/TOPIC"),
        row("two slashes", asking("GET //echo HTTP/1.1"), 404, "/ws/TOPIC"),
        row("a path in capitals", asking("GET /ECHO HTTP/1.1"), 404, "/ws/TOPIC"),
        row("a reserved path", asking("GET /mqtt HTTP/1.1"), 404, "reserved"),
        row("a bad escape in another path", asking("GET /%zz HTTP/1.1"), 404, "/ws/TOPIC"),
        row("not HTTP", "\x16\x03\x01\x02\x00\x01", 400, head_text),
        row("a frame without a handshake", frame(0x81, b"hi"), 400, head_text),
    ]);
}

#[test]
fn header_lines_and_hosts_are_answered_as_rfc_9112_sections_3_and_5_say() {
    let head_text = "send an HTTP/1.1 request head";
    let host = "send exactly one valid Host header";
    check(&[
        row("9112 5.2: a folded line", adding(&["X: a", " b"]), 400, head_text),
        row("9112 5.2: folded with a tab", adding(&["X: a", "\tb"]), 400, head_text),
        row(
            "9112 5.2: a folded Connection",
            replacing(CONNECTION, &["Connection: keep-alive,", " Upgrade"]),
            400,
            head_text,
        ),
        row(
            "9112 2.2: a space before the first header",
            replacing(HOST, &[" Host: test"]),
            400,
            head_text,
        ),
        row("9112 5.1: a space before the colon", adding(&["X : a"]), 400, head_text),
        row("9112 5.1: Host and a space", replacing(HOST, &["Host : test"]), 400, head_text),
        row("9112 5: no colon", adding(&["X"]), 400, head_text),
        row("9112 5: no name", adding(&[": a"]), 400, head_text),
        row("9110 5.6.2: a name that is no token", adding(&["X(y): a"]), 400, head_text),
        row("9110 5.5: NUL", adding(&["X: a\0"]), 400, head_text),
        row("9112 2.2: a bare CR", adding(&["X: a\rY: b"]), 400, head_text),
        row("9110 5.5: a tab in a value", adding(&["X: a\tb"]), 101, ""),
        row("9110 5.5: bytes beyond ASCII", adding(&["X: \u{e9}"]), 101, ""),
        row("9110 5.5: an empty value", adding(&["X:"]), 101, ""),
        row("9112 5.1: spaces about a value", adding(&["X: \t a \t "]), 101, ""),
        row("9110 5.1: names have no case", replacing(HOST, &["hOsT: test"]), 101, ""),
        row("9112 3.2: no Host", replacing(HOST, &[]), 400, host),
        row("9112 3.2: two Hosts", replacing(HOST, &[HOST, HOST]), 400, host),
        row("9112 3.2: Hosts that differ", replacing(HOST, &["Host: a", "Host: b"]), 400, host),
        row("9112 3.2: two Hosts in one", replacing(HOST, &["Host: a, b"]), 400, host),
        row("9112 3.2: a Host that is none", replacing(HOST, &["Host: a/b"]), 400, host),
        row("9112 3.2: a Host with a user", replacing(HOST, &["Host: me@a"]), 400, host),
        row("9112 3.2: a port that is none", replacing(HOST, &["Host: a:b"]), 400, host),
        row("9112 3.2: an empty Host", replacing(HOST, &["Host:"]), 101, ""),
        row("9110 7.2: a port", replacing(HOST, &["Host: a:9000"]), 101, ""),
        row("9110 7.2: an address", replacing(HOST, &["Host: [::1]:9000"]), 101, ""),
    ]);
}

#[test]
fn bodies_are_answered_as_rfc_9112_section_6_says() {
    let body = "send the request without a body";
    let length = "Content-Length must be a number, alone";
    let post = |lines: &[&str]| head(&[&["POST /ws/a HTTP/1.1", HOST], lines].concat());
    check(&[
        row("9112 6: a body of no bytes", adding(&["Content-Length: 0"]), 101, ""),
        row("9112 6: a body", adding(&["Content-Length: 1"]), 400, body),
        row("9112 6: a body in chunks", adding(&["Transfer-Encoding: chunked"]), 400, body),
        row("9112 6.1: another coding", adding(&["Transfer-Encoding: gzip"]), 400, body),
        row("9112 6.1: identity", adding(&["Transfer-Encoding: identity"]), 400, body),
        row(
            "9112 6.1: a length and a coding",
            adding(&["Content-Length: 0", "Transfer-Encoding: chunked"]),
            400,
            length,
        ),
        row(
            "9112 6.1: a coding and a length",
            post(&["Transfer-Encoding: chunked", "Content-Length: 5"]),
            400,
            length,
        ),
        row("9110 8.6: a length with a sign", adding(&["Content-Length: +0"]), 400, length),
        row("9110 8.6: a negative length", adding(&["Content-Length: -1"]), 400, length),
        row("9110 8.6: an empty length", adding(&["Content-Length:"]), 400, length),
        row("9110 8.6: a hexadecimal length", adding(&["Content-Length: 0x0"]), 400, length),
        row("9110 8.6: a list of lengths", adding(&["Content-Length: 0, 0"]), 400, length),
        row(
            "9110 8.6: two lengths",
            adding(&["Content-Length: 0", "Content-Length: 0"]),
            400,
            length,
        ),
        row(
            "9112 6.3: lengths that differ",
            post(&["Content-Length: 0", "Content-Length: 1"]),
            400,
            length,
        ),
        row("9110 9.3.3: a body of POST", post(&["Content-Length: 1", "", "x"]), 405, "use GET"),
        row("9110 8.6: zeros", adding(&["Content-Length: 000"]), 101, ""),
        row(
            "9110 8.6: a length beyond 64 bits",
            adding(&["Content-Length: 99999999999999999999999"]),
            400,
            body,
        ),
        row(
            "9112 6.1: a coding in HTTP/1.0",
            head(&["GET /echo HTTP/1.0", HOST, "Transfer-Encoding: chunked"]),
            400,
            body,
        ),
        row("9110 10.1.1: an expectation", adding(&["Expect: 100-continue"]), 101, ""),
    ]);
}

#[test]
fn upgrades_are_answered_as_items_3_and_4_of_rfc_6455_section_4_2_1_say() {
    let missing = "connect over HTTP/1.1 with Connection: Upgrade and Upgrade: websocket";
    let upgrade = |lines: &[&str]| replacing(UPGRADE, lines);
    let connection = |lines: &[&str]| replacing(CONNECTION, lines);
    check(&[
        row("4.2.1 item 3: no Upgrade", upgrade(&[]), 426, missing),
        row("4.2.1 item 3: an empty Upgrade", upgrade(&["Upgrade:"]), 426, missing),
        row("4.2.1 item 3: another protocol", upgrade(&["Upgrade: h2c"]), 426, missing),
        row("4.2.1 item 3: part of a word", upgrade(&["Upgrade: websockets"]), 426, missing),
        row("4.2.1 item 3: a version", upgrade(&["Upgrade: websocket/13"]), 426, missing),
        row("4.2.1 item 3: any case", upgrade(&["upgrade: WebSocket"]), 101, ""),
        row("4.2.1 item 3: a list", upgrade(&["Upgrade: h2c, websocket"]), 101, ""),
        row("4.2.1 item 3: two lines", upgrade(&["Upgrade: h2c", UPGRADE]), 101, ""),
        row("4.2.1 item 4: no Connection", connection(&[]), 426, missing),
        row("4.2.1 item 4: keep-alive", connection(&["Connection: keep-alive"]), 426, missing),
        row("4.2.1 item 4: close", connection(&["Connection: close"]), 426, missing),
        row("4.2.1 item 4: two words", connection(&["Connection: an Upgrade"]), 426, missing),
        row("4.2.1 item 4: any case", connection(&["CONNECTION: upgrade"]), 101, ""),
        row("4.2.1 item 4: a list", connection(&["Connection: keep-alive,Upgrade"]), 101, ""),
        row("4.2.1 item 4: empty entries", connection(&["Connection: ,\t,Upgrade,"]), 101, ""),
        row(
            "4.2.1 item 4: two lines",
            connection(&["Connection: keep-alive", "Connection: Upgrade"]),
            101,
            "",
        ),
        row("9110 7.8: a plain request", head(&["GET /echo HTTP/1.1", HOST]), 426, missing),
    ]);
}

#[test]
fn keys_and_versions_are_answered_as_items_5_and_6_of_rfc_6455_section_4_2_1_say() {
    let version = "use Sec-WebSocket-Version: 13";
    let key = "send exactly one Sec-WebSocket-Key: 16 random bytes in base64";
    let versions = |lines: &[&str]| replacing(VERSION, lines);
    let keys = |lines: &[&str]| replacing(KEY, lines);
    check(&[
        row("4.2.1 item 5: no key", keys(&[]), 400, key),
        row("4.2.1 item 5: an empty key", keys(&["Sec-WebSocket-Key:"]), 400, key),
        row("4.2.1 item 5: 15 bytes", keys(&["Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAA"]), 400, key),
        row(
            "4.2.1 item 5: 17 bytes",
            keys(&["Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAAA="]),
            400,
            key,
        ),
        row(
            "4.2.1 item 5: no padding",
            keys(&["Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ"]),
            400,
            key,
        ),
        row(
            "4.2.1 item 5: the alphabet for URLs",
            keys(&["Sec-WebSocket-Key: dGhl-HNhbXBsZSBub25jZQ=="]),
            400,
            key,
        ),
        row(
            "4.2.1 item 5: 18 bytes",
            keys(&["Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAAAA"]),
            400,
            key,
        ),
        row(
            "4648 3.5: bits behind the last byte",
            keys(&["Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAB=="]),
            400,
            key,
        ),
        row("11.3.1: two keys", keys(&[KEY, KEY]), 400, key),
        row("4.2.1 item 6: no version", versions(&[]), 426, version),
        row("4.2.1 item 6: 8", versions(&["Sec-WebSocket-Version: 8"]), 426, version),
        row("4.2.1 item 6: 0", versions(&["Sec-WebSocket-Version: 0"]), 426, version),
        row("4.2.1 item 6: 14", versions(&["Sec-WebSocket-Version: 14"]), 426, version),
        row("4.2.1 item 6: 013", versions(&["Sec-WebSocket-Version: 013"]), 426, version),
        row("4.2.1 item 6: a list", versions(&["Sec-WebSocket-Version: 13, 8"]), 426, version),
        row("4.2.1 item 6: empty", versions(&["Sec-WebSocket-Version:"]), 426, version),
        row(
            "11.3.5: two versions",
            versions(&[VERSION, VERSION]),
            400,
            "send exactly one Sec-WebSocket-Version header",
        ),
        row("4.2.1 item 10: unknown headers", adding(&["Cookie: a=b", "X-Y: z"]), 101, ""),
    ]);
}

#[test]
fn what_an_upgrade_offers_is_answered_as_rfc_6455_sections_4_2_and_9_1_say() {
    let extensions = "write Sec-WebSocket-Extensions as a list of names with parameters";
    check(&[
        row("4.2.1 item 8: unknown subprotocols", adding(&["Sec-WebSocket-Protocol: a"]), 101, ""),
        row(
            "4.2.1 item 9: unknown extensions",
            adding(&[
                "Sec-WebSocket-Extensions: a; b=c; d=\"e\", f",
                "Sec-WebSocket-Extensions: g",
            ]),
            101,
            "",
        ),
        row("9.1: no extension", adding(&["Sec-WebSocket-Extensions:"]), 101, ""),
        row("9.1: no name", adding(&["Sec-WebSocket-Extensions: a, ;b"]), 400, extensions),
        row("9.1: no value", adding(&["Sec-WebSocket-Extensions: a; b="]), 400, extensions),
        row("9.1: a quote", adding(&["Sec-WebSocket-Extensions: a; b=\"c"]), 400, extensions),
    ]);
}

#[test]
fn the_subprotocol_that_is_known_is_answered_rfc_6455_section_4_2_2_step_5() {
    let gateway = Gateway::start(&["--workers", "1", "--echo"]);
    let raw = Some("ringway.raw.v1");
    let cases: [(&[&str], Option<&str>); 9] = [
        (&["ringway.raw.v1"], raw),
        (&["a, ringway.raw.v1, b"], raw),
        (&["a,,\tringway.raw.v1 ,"], raw),
        (&["a", "ringway.raw.v1"], raw),
        (&["ringway.token.secret, ringway.raw.v1"], raw),
        (&["ringway.token.secret"], None),
        (&["RINGWAY.RAW.V1"], None),
        (&["ringway.raw.v1x, xringway.raw.v1, ringway.raw"], None),
        (&[""], None),
    ];
    for (offers, expected) in cases {
        let lines: Vec<String> =
            offers.iter().map(|offer| format!("Sec-WebSocket-Protocol: {offer}")).collect();
        let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
        let response = exchange(&gateway.connect(), &adding(&lines));
        assert_eq!(response.status, 101, "{offers:?}");
        assert_eq!(response.header("sec-websocket-protocol"), expected, "{offers:?}");
    }
}

#[test]
fn a_wrong_version_is_told_the_right_one_rfc_6455_section_4_4() {
    let gateway = Gateway::start(&["--workers", "1", "--echo"]);
    let request = replacing(VERSION, &["Sec-WebSocket-Version: 8"]);
    let response = exchange(&gateway.connect(), &request);
    assert_eq!(response.status, 426);
    assert_eq!(response.header("sec-websocket-version"), Some("13"));
    // The retry of section 4.2.2 step 4 is a new request.
    open(&gateway.connect(), "/echo");
}

#[test]
fn the_size_of_a_head_is_bounded_to_the_byte() {
    let gateway = Gateway::start(&["--workers", "1", "--echo"]);
    let of_size = |bytes: usize| {
        let padding = bytes - adding(&["X: "]).len();
        adding(&[&format!("X: {}", "x".repeat(padding))])
    };
    assert_eq!(of_size(16_384).len(), 16_384);
    let response = exchange(&gateway.connect(), &of_size(16_384));
    assert_eq!(response.status, 101, "{response:?}");
    for request in [of_size(16_385), of_size(20_000), of_size(20_000)[..16_385].to_vec()] {
        let response = exchange(&gateway.connect(), &request);
        assert_eq!(response.status, 431, "{response:?}");
        assert!(response.text().contains("too large"), "{response:?}");
    }
    // Lines have a bound as well: five are the upgrade's.
    let of_lines = |lines: usize| adding(&vec!["X: y"; lines - 5]);
    assert_eq!(exchange(&gateway.connect(), &of_lines(124)).status, 101);
    let response = exchange(&gateway.connect(), &of_lines(125));
    assert_eq!(response.status, 431, "{response:?}");
    assert!(response.text().contains("at most 124 header lines"), "{response:?}");
    gateway.stats_at_rest();
}

#[test]
fn a_head_that_never_ends_is_answered_408_wherever_it_stops() {
    let gateway = Gateway::start(&["--workers", "1", "--echo", "--handshake-timeout", "300ms"]);
    let request = adding(&[]);
    let unfinished = [0, 1, 20, request.len() - 1].map(|end| {
        let stream = gateway.connect();
        (&stream).write_all(&request[..end]).unwrap();
        (end, stream)
    });
    for (end, stream) in unfinished {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let response = Response::read(&mut BufReader::with_capacity(1, &stream));
        assert_eq!(response.status, 408, "after {end} bytes: {response:?}");
        assert_eq!(response.header("connection"), Some("close"), "after {end} bytes");
        assert_eq!((&stream).read(&mut [0]).unwrap(), 0, "after {end} bytes");
    }
    gateway.stats_at_rest();
}

#[test]
fn frames_behind_the_head_are_heard_wherever_the_bytes_are_cut() {
    let gateway = Gateway::start(&["--workers", "1", "--echo"]);
    let early = [frame(0x01, "é".as_bytes()), frame(0x89, b"p"), frame(0x80, b"!")].concat();
    let request = [adding(&[]), early].concat();
    for cut in 0..=request.len() {
        let stream = gateway.connect();
        let (first, second) = request.split_at(cut);
        (&stream).write_all(first).unwrap();
        let response = exchange(&stream, second);
        assert_eq!(response.status, 101, "cut at {cut}");
        assert_eq!(read_frame(&stream), Some((0x8A, b"p".to_vec())), "cut at {cut}");
        assert_eq!(read_frame(&stream), Some((0x81, "é!".into())), "cut at {cut}");
    }
    // A Close, and a frame that breaks a rule, behind the head: the 101 comes first.
    for (early, code) in [(frame(0x88, &[0x0F, 0xA0]), 4000), (frame(0x83, b""), 1002)] {
        let stream = gateway.connect();
        let response = exchange(&stream, &[adding(&[]), early].concat());
        assert_eq!(response.status, 101);
        assert_eq!(read_close(&stream).0, code);
        assert_eq!(read_frame(&stream), None);
    }
    gateway.stats_at_rest();
}

#[test]
fn a_request_behind_a_refused_one_is_not_answered_rfc_9112_section_9_6() {
    let gateway = Gateway::start(&["--workers", "1", "--echo"]);
    let probe = head(&["GET /healthz HTTP/1.1", HOST]);
    let refused = asking("GET /nowhere HTTP/1.1");
    for (first, status) in [(&probe, 200), (&refused, 404)] {
        let stream = gateway.connect();
        let response = exchange(&stream, &[&first[..], &adding(&[]), &probe].concat());
        assert_eq!(response.status, status, "{response:?}");
        assert_eq!((&stream).read(&mut [0]).unwrap(), 0);
    }
    gateway.stats_at_rest();
}

#[test]
fn topics_in_a_url_are_what_they_stand_for() {
    let gateway = Gateway::start(&["--workers", "1"]);
    let longest = "t".repeat(255);
    let escaped = "%74".repeat(255);
    let longest_target = format!("/ws/{longest}");
    let escaped_target = format!("/ws/{escaped}");
    // What is asked for, and the topics as a publisher writes them.
    let cases: [(&str, &[&str]); 22] = [
        ("/ws/a", &["a"]),
        ("/ws/a/b", &["a/b"]),
        ("/ws/a%2Fb", &["a/b"]),
        ("/ws/a%2fb", &["a/b"]),
        ("/ws/%61", &["a"]),
        ("/ws/a+b", &["a+b", "a%2Bb"]),
        ("/ws/a%20b", &["a%20b"]),
        ("/ws/100%25", &["100%25"]),
        ("/ws/gr%C3%BC%C3%9Fe", &["gr%C3%BC%C3%9Fe", "gr%c3%bc%c3%9fe"]),
        ("/ws/%F0%9F%98%80", &["%F0%9F%98%80"]),
        ("/ws/...", &["..."]),
        ("/ws/a$", &["a$", "a%24"]),
        ("/ws?topic=a", &["a"]),
        ("/ws?topic=a&topic=b", &["a", "b"]),
        ("/ws?topic=a&own=off&x=%zz&topic=b", &["a", "b"]),
        ("/ws?topic=a/b", &["a/b"]),
        ("/ws?topic=a%26b", &["a&b", "a%26b"]),
        ("/ws?topic=a=b", &["a=b", "a%3Db"]),
        ("/ws?%74opic=a", &["a"]),
        ("/ws/a?topic=b", &["a", "b"]),
        (&longest_target, &[&longest]),
        (&escaped_target, &[&longest]),
    ];
    let mut http = gateway.http();
    for (target, topics) in cases {
        let stream = gateway.connect();
        open(&stream, target);
        for topic in topics {
            let response = http.post(&format!("/publish/{topic}"), "", topic.as_bytes());
            assert_eq!(response.status, 200, "{target} {topic}: {response:?}");
            assert_eq!(response.json()["receivers"], 1, "{target} {topic}");
            let (first, payload) = read_frame(&stream).unwrap();
            assert_eq!((first, &payload[..]), (0x81, topic.as_bytes()), "{target}");
        }
        (&stream).write_all(&frame(0x88, b"")).unwrap();
        while read_frame(&stream).is_some() {}
    }
    // Another spelling is another topic.
    let stream = gateway.connect();
    open(&stream, "/ws/a");
    for other in ["A", "a%20", "a.", "b", "a/b", "%C3%A4"] {
        let response = http.post(&format!("/publish/{other}"), "", b"x");
        assert_eq!(response.json()["receivers"], 0, "{other}");
    }
    drop(stream);
    gateway.stats_at_rest();
}

#[test]
fn topics_that_are_none_are_told_which_rule_they_break() {
    let gateway = Gateway::start(&["--workers", "1"]);
    let too_long = format!("/ws/{}", "t".repeat(256));
    let escapes = "write two hex digits behind every % of the topic";
    let utf8 = "the topic must be UTF-8 after percent-decoding";
    let control = "the topic must have no control character";
    let segment = "the topic must have no empty, . or .. segment between slashes";
    let dollar = "the topic must not begin with $, which is reserved";
    let wildcard = "the topic must not contain * or >, which are reserved";
    for (target, says) in [
        ("/ws", "name a topic: /ws/TOPIC or /ws?topic=TOPIC"),
        ("/ws/", "name a topic"),
        ("/ws?topic=", "name a topic"),
        (&too_long, "the topic must have at most 255 bytes"),
        ("/ws/%", escapes),
        ("/ws/a%2", escapes),
        ("/ws/a%zz", escapes),
        ("/ws/%%41", escapes),
        ("/ws?topic=%", escapes),
        ("/ws/%FF", utf8),
        ("/ws/%C3", utf8),
        ("/ws/%C3%28", utf8),
        ("/ws/%C0%AF", utf8),
        ("/ws/%ED%A0%80", utf8),
        ("/ws/%F4%90%80%80", utf8),
        ("/ws/%00", control),
        ("/ws/a%0D%0Ab", control),
        ("/ws/%1F", control),
        ("/ws/%7F", control),
        ("/ws/%C2%80", control),
        ("/ws/%C2%9F", control),
        ("/ws//a", segment),
        ("/ws/a/", segment),
        ("/ws/a//b", segment),
        ("/ws/.", segment),
        ("/ws/..", segment),
        ("/ws/a/../b", segment),
        ("/ws/a/%2E%2E", segment),
        ("/ws/%2Fa", segment),
        ("/ws/$a", dollar),
        ("/ws/%24a", dollar),
        ("/ws/*", wildcard),
        ("/ws/a%2A", wildcard),
        ("/ws/%3E", wildcard),
        ("/ws/a?topic=$b", dollar),
        ("/ws/a?own=maybe", "write own=on or own=off"),
    ] {
        let response = exchange(&gateway.connect(), upgrade(target, "").as_bytes());
        assert_eq!(response.status, 400, "{target}: {response:?}");
        assert!(response.text().contains(says), "{target}: {response:?}");
    }
    gateway.stats_at_rest();
}
