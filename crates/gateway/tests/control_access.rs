//! Who may do what over the control plane, against the real binary: the scopes of its tokens, and
//! pages of other sites in a browser on this machine, which reach a loopback address too.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::{fs, net::TcpStream, time::Instant};

use common::{
    Gateway, PATIENCE,
    http::{Http, Response},
    raw::{open, read_close, read_frame},
    temporary_file,
};
use rustix::process::Signal;
use serde_json::{Value, json};

/// Every request of the control plane that is worth a row: what it needs beside `admin`.
const REQUESTS: [(&str, &str, &str); 17] = [
    ("GET", "/stats", "read"),
    ("GET", "/metrics", "read"),
    ("GET", "/healthz", "read"),
    ("GET", "/readyz", "read"),
    ("GET", "/latency", "read"),
    ("GET", "/latency.hlog", "read"),
    ("GET", "/latency/intervals", "read"),
    ("GET", "/topics", "read"),
    ("GET", "/topics/room", "read"),
    ("GET", "/connections", "read"),
    ("HEAD", "/connections", "read"),
    ("POST", "/publish/nobody", "publish"),
    ("POST", "/broadcast", "publish"),
    ("DELETE", "/connections?topic=nobody", "admin"),
    ("DELETE", "/connections?address=192.0.2.1", "admin"),
    ("DELETE", "/connections?id=255-9-9", "admin"),
    ("DELETE", "/connections?sub=nobody", "admin"),
];

/// The files of the page.
const PAGE: [&str; 4] = ["/", "/page.css", "/page.js", "/page.svg"];

fn subscriber(gateway: &Gateway) -> TcpStream {
    let stream = gateway.connect();
    open(&stream, "/ws/room");
    stream
}

/// One request on a connection of its own, with `Host` and all other headers as given.
fn send(gateway: &Gateway, method: &str, target: &str, headers: &str) -> Response {
    use std::io::{BufReader, Write};
    let stream = TcpStream::connect(gateway.admin).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(&stream, "{method} {target} HTTP/1.1\r\n{headers}Content-Length: 1\r\n\r\nx").unwrap();
    if method == "HEAD" {
        return Response::read_head(&mut BufReader::new(&stream));
    }
    Response::read(&mut BufReader::new(&stream))
}

/// What makes a name as long as a token should be.
const LONG: &str = "-0123456789abcdef";

fn with_token(http: &mut Http, method: &str, target: &str, token: &str) -> u16 {
    let headers = format!("Authorization: Bearer {token}{LONG}\r\n");
    http.request(method, target, &headers, b"x").status
}

#[test]
fn each_token_does_what_its_scope_says_and_is_read_again_on_sighup() {
    let path = temporary_file(&format!(
        "# scraper\nread R{LONG}\npublish P{LONG}\nadmin A{LONG}\nplain{LONG}\n"
    ));
    // Without pings, which would stand among what is received.
    let flags = ["--admin-token-file", path.to_str().unwrap(), "--ping-interval", "0"];
    let mut gateway = Gateway::start(&flags);
    let stays = subscriber(&gateway);
    let mut http = gateway.http();
    // It is not ready until every worker has reported.
    let until = Instant::now() + PATIENCE;
    while with_token(&mut http, "GET", "/readyz", "R") != 200 {
        assert!(Instant::now() < until, "it is never ready");
    }
    // The answer to HEAD has a length and no body, which this client would wait for.
    for (method, target, scope) in REQUESTS.into_iter().filter(|it| it.0 != "HEAD") {
        let allowed = |token: &str| match token {
            "R" => scope == "read",
            "P" => scope == "publish",
            _ => true,
        };
        for token in ["R", "P", "A", "plain"] {
            let status = with_token(&mut http, method, target, token);
            let expected = if allowed(token) { 200 } else { 403 };
            assert_eq!(status, expected, "{method} {target} with {token}");
        }
        assert_eq!(with_token(&mut http, method, target, "nobody"), 401, "{method} {target}");
        let without = http.request(method, target, "", b"x");
        assert_eq!(without.status, 401, "{method} {target}");
        assert_eq!(without.header("www-authenticate"), Some("Bearer"));
    }
    // The page itself says nothing of this process: a browser opens it without a token.
    for path in PAGE {
        assert_eq!(http.get(path).status, 200, "{path}");
        assert_eq!(http.post(path, "", b"x").status, 401, "{path}");
    }
    // A reader cannot close anybody, nor can who publishes, and who publishes sees nobody.
    assert_eq!(with_token(&mut http, "DELETE", "/connections?topic=room", "R"), 403);
    assert_eq!(with_token(&mut http, "DELETE", "/connections?topic=room", "P"), 403);
    assert_eq!(with_token(&mut http, "POST", "/publish/room", "P"), 200);
    assert_eq!(received(&stays), ["x", "x", "x", "x"], "of three broadcasts, and this");

    fs::write(&path, format!("admin B{LONG}\n")).unwrap();
    gateway.signal(Signal::HUP);
    gateway.line(|line| line["message"] == "tokens reloaded");
    assert_eq!(with_token(&mut http, "DELETE", "/connections?topic=room", "A"), 401);
    assert_eq!(with_token(&mut http, "DELETE", "/connections?topic=room", "B"), 200);
    assert_eq!(read_close(&stays), (1008, "removed".to_owned()));
    // Short ones count as they are, and are told of.
    fs::write(&path, format!("admin B{LONG}\nread R\n")).unwrap();
    gateway.signal(Signal::HUP);
    gateway.line(|line| line["message"] == "tokens reloaded" && line["short"] == "1");
    let headers = "Authorization: Bearer R\r\n";
    assert_eq!(http.request("GET", "/stats", headers, b"").status, 200);
    // What `read $EMPTY` writes is no token that opens everything: what was read before stays.
    fs::write(&path, "read \n").unwrap();
    gateway.signal(Signal::HUP);
    let line = gateway.line(|line| line["message"] == "the old tokens stay");
    assert!(line["error"].as_str().unwrap().contains("a scope needs its token"), "{line}");
    let headers = "Authorization: Bearer read\r\n";
    assert_eq!(http.request("GET", "/stats", headers, b"x").status, 401);
    assert_eq!(with_token(&mut http, "GET", "/stats", "B"), 200);
    fs::remove_file(&path).unwrap();
}

#[test]
fn a_page_of_another_site_can_do_nothing_and_read_nothing() {
    let gateway = Gateway::start(&["--ping-interval", "0"]);
    let host = format!("Host: {}\r\n", gateway.admin);
    let stays = subscriber(&gateway);
    let foreign = [
        // The page's name was pointed at the loopback address (DNS rebinding).
        "Host: attacker.example\r\n".to_owned(),
        format!("Host: attacker.example:{}\r\n", gateway.admin.port()),
        "Host: 127.0.0.1.attacker.example\r\nOrigin: http://127.0.0.1.attacker.example\r\n"
            .to_owned(),
        // The page sends across sites.
        format!("{host}Origin: https://attacker.example\r\n"),
        format!("{host}Origin: null\r\n"),
        format!("{host}Origin: https://127.0.0.1.attacker.example\r\n"),
        format!("{host}Sec-Fetch-Site: cross-site\r\n"),
        // A form: no preflight comes before it.
        format!(
            "{host}Origin: https://attacker.example\r\nSec-Fetch-Site: cross-site\r\n\
             Content-Type: text/plain\r\n"
        ),
    ];
    let harmful = [
        ("POST", "/publish/room"),
        ("POST", "/publish"),
        ("POST", "/broadcast"),
        ("DELETE", "/connections?topic=room"),
        ("DELETE", "/connections?address=127.0.0.1"),
        ("OPTIONS", "/publish/room"),
        ("OPTIONS", "/connections?topic=room"),
        ("GET", "/"),
        ("GET", "/page.js"),
    ];
    let all = REQUESTS.iter().map(|(method, target, _)| (*method, *target)).chain(harmful);
    for (method, target) in all {
        for headers in &foreign {
            let response = send(&gateway, method, target, headers);
            assert_eq!(response.status, 403, "{method} {target} {headers}");
            let mut names = response.headers.iter().map(|(name, _)| name);
            assert!(!names.any(|name| name.starts_with("access-control-")), "{response:?}");
        }
    }
    // Nothing was said to who subscribes, and it is still there; a page of ours may do all of it.
    let own = format!("{host}Origin: http://{}\r\nSec-Fetch-Site: same-origin\r\n", gateway.admin);
    assert_eq!(send(&gateway, "POST", "/publish/room", &own).status, 200);
    assert_eq!(received(&stays), ["x"]);
    assert_eq!(send(&gateway, "DELETE", "/connections?topic=room", &own).status, 200);
    assert_eq!(read_close(&stays), (1008, "removed".to_owned()));
}

/// As many messages as are compared with.
fn received<const N: usize>(stream: &TcpStream) -> [String; N] {
    [(); N].map(|()| String::from_utf8(read_frame(stream).unwrap().1).unwrap())
}

#[test]
fn whoever_guesses_tokens_is_counted_and_whoever_removes_leaves_a_line() {
    let path = temporary_file(&format!("read R{LONG}\nadmin A{LONG}\nread short\n"));
    let flags = ["--admin-token-file", path.to_str().unwrap(), "--ping-interval", "0"];
    let mut gateway = Gateway::start(&flags);
    fs::remove_file(&path).unwrap();
    let warning = |line: &Value| line["message"] == "tokens of --admin-token-file can be guessed";
    let warning = gateway.start_lines.iter().find(|line| warning(line)).unwrap();
    assert_eq!((&warning["level"], &warning["short"]), (&json!("warn"), &json!(1)));
    let mut http = gateway.http();
    for guess in ["", "read", "admin"] {
        assert_eq!(with_token(&mut http, "GET", "/stats", guess), 401);
    }
    assert_eq!(with_token(&mut http, "POST", "/publish/a", "R"), 403);
    assert_eq!(with_token(&mut http, "GET", "/nowhere", "R"), 404);
    assert_eq!(with_token(&mut http, "POST", "/publish/$a", "A"), 400);
    let stays = subscriber(&gateway);
    assert_eq!(with_token(&mut http, "DELETE", "/connections?topic=room", "A"), 200);
    assert_eq!(read_close(&stays), (1008, "removed".to_owned()));
    let line = gateway.line(|line| line["message"] == "connections removed");
    let said = ["level", "topic", "closed"].map(|field| line[field].as_str().unwrap());
    assert_eq!(said, ["info", "room", "1"]);
    let headers = format!("Authorization: Bearer A{LONG}\r\n");
    let page = http.request("GET", "/metrics", &headers, b"");
    for line in [
        r#"ringway_control_refused_total{reason="token"} 3"#,
        r#"ringway_control_refused_total{reason="not_allowed"} 1"#,
        r#"ringway_control_refused_total{reason="not_found"} 1"#,
        r#"ringway_control_refused_total{reason="malformed"} 1"#,
        r#"ringway_control_refused_total{reason="no_room"} 0"#,
        r#"ringway_limit{name="write_timeout_seconds"} 10"#,
        r#"ringway_limit{name="ping_interval_seconds"} 0"#,
    ] {
        assert!(page.text().lines().any(|other| other == line), "no line {line}");
    }
    let stats = http.request("GET", "/stats", &headers, b"").json();
    assert_eq!(stats["control_refused"]["token"], 3);
}

#[test]
fn metrics_on_a_loopback_address_are_not_for_pages_of_other_sites() {
    use std::io::{Read, Write};
    let mut gateway = Gateway::start(&["--metrics", "127.0.0.1:0"]);
    let line = gateway.line(|line| line["message"] == "listening" && line["plane"] == "metrics");
    let address = line["address"].as_str().unwrap().to_owned();
    let status = |request: &str| {
        let mut stream = TcpStream::connect(&address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer.split(' ').nth(1).unwrap().to_owned()
    };
    for (headers, expected) in [
        (format!("Host: {address}\r\n"), "200"),
        ("Host: localhost:1\r\n".to_owned(), "200"),
        ("Host: attacker.example\r\n".to_owned(), "403"),
        (format!("Host: {address}\r\nOrigin: https://attacker.example\r\n"), "403"),
        (format!("Host: {address}\r\nSec-Fetch-Site: cross-site\r\n"), "403"),
    ] {
        for path in ["/metrics", "/healthz"] {
            let request = format!("GET {path} HTTP/1.1\r\n{headers}Connection: close\r\n\r\n");
            assert_eq!(status(&request), expected, "{path} {headers}");
        }
    }
    // As a proxy looks whether the gateway is there.
    assert_eq!(status("GET /healthz HTTP/1.0\r\n\r\n"), "200");
}
