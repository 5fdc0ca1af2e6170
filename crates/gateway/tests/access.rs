//! Who may connect, against the real binary: every reason to refuse a token, with what a program
//! and what a browser is told, and how it is counted; and what becomes of those who are connected.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::{
    fs,
    io::BufReader,
    net::TcpStream,
    path::PathBuf,
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use common::{
    Gateway, PATIENCE,
    http::Response,
    raw::{exchange, frame, read_close, read_frame, upgrade},
    sum, temporary_file,
};
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use rustix::process::Signal;
use serde_json::{Value, json};

const RSA: &[u8] = include_bytes!("../../tokens/tests/keys/rsa.pem");
const RSA_PUBLIC: &str = include_str!("../../tokens/tests/keys/rsa.pub.pem");
const P256: &[u8] = include_bytes!("../../tokens/tests/keys/p256.pem");
const P256_PUBLIC: &str = include_str!("../../tokens/tests/keys/p256.pub.pem");
const ED25519: &[u8] = include_bytes!("../../tokens/tests/keys/ed25519.pem");
const ED25519_PUBLIC: &str = include_str!("../../tokens/tests/keys/ed25519.pub.pem");
const SECRET: &str = "a secret of at least thirty-two bytes";

/// Seconds since 1970.
fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

fn sign(algorithm: Algorithm, key: &EncodingKey, claims: &Value) -> String {
    encode(&Header::new(algorithm), claims, key).unwrap()
}

fn hs256(claims: &Value) -> String {
    sign(Algorithm::HS256, &EncodingKey::from_secret(SECRET.as_bytes()), claims)
}

/// A file of a key, removed when dropped.
struct KeyFile(PathBuf);

impl KeyFile {
    fn new(content: &str) -> Self {
        Self(temporary_file(content))
    }

    fn path(&self) -> &str {
        self.0.to_str().unwrap()
    }
}

impl Drop for KeyFile {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

fn guarded(key: &KeyFile, flags: &[&str]) -> Gateway {
    let guard = ["--token-key-file", key.path(), "--workers", "2"];
    Gateway::start(&[&guard, flags].concat())
}

/// What a program is told that asks for this target with these header lines.
fn ask(gateway: &Gateway, target: &str, headers: &str) -> Response {
    exchange(&gateway.connect(), upgrade(target, headers).as_bytes())
}

/// What the page of a browser is told.
fn ask_as_browser(gateway: &Gateway, target: &str, headers: &str) -> (u16, String) {
    let stream = gateway.connect();
    let headers = format!("Origin: http://test\r\n{headers}");
    let request = upgrade(target, &headers);
    std::io::Write::write_all(&mut &stream, request.as_bytes()).unwrap();
    let response = Response::read(&mut BufReader::with_capacity(1, &stream));
    assert_eq!(response.status, 101, "{response:?}");
    assert!(response.header("sec-websocket-protocol").is_none_or(|it| it == "ringway.raw.v1"));
    read_close(&stream)
}

#[test]
fn every_reason_to_refuse_a_token_has_its_answer_and_is_counted() {
    let key = KeyFile::new(SECRET);
    let rules = ["--token-issuer", "https://issuer", "--token-audience", "ringway"];
    let gateway = guarded(&key, &rules);
    let good = |changes: Value| {
        let mut claims = json!({
            "iss": "https://issuer", "aud": "ringway", "sub": "alice", "exp": now() + 600,
            "topics": ["news", "room/*"], "publish": ["room/7"],
        });
        claims.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        claims
    };
    let with = |changes: Value| hs256(&good(changes));
    let confused =
        sign(Algorithm::HS256, &EncodingKey::from_secret(RSA_PUBLIC.as_bytes()), &good(json!({})));
    let by_rsa = sign(Algorithm::RS256, &EncodingKey::from_rsa_pem(RSA).unwrap(), &good(json!({})));
    let mut unsigned: Vec<String> = with(json!({})).split('.').map(str::to_owned).collect();
    unsigned[0] = "eyJhbGciOiJub25lIn0".to_owned();
    unsigned[2] = String::new();
    // (what, token, topic, status, counted as, Close reason)
    let cases = [
        ("none", String::new(), "news", 401, "token_missing", "not allowed"),
        ("no JWT", "abc".to_owned(), "news", 401, "token_malformed", "not allowed"),
        ("alg none", unsigned.join("."), "news", 401, "token_malformed", "not allowed"),
        ("no exp", with(json!({ "exp": null })), "news", 401, "token_malformed", "not allowed"),
        ("wrong key", confused, "news", 401, "token_signature", "not allowed"),
        ("wrong algorithm", by_rsa, "news", 401, "token_signature", "not allowed"),
        (
            "expired",
            with(json!({ "exp": now() - 60 })),
            "news",
            401,
            "token_expired",
            "token expired",
        ),
        (
            "early",
            with(json!({ "nbf": now() + 600 })),
            "news",
            401,
            "token_not_yet_valid",
            "not allowed",
        ),
        ("issuer", with(json!({ "iss": "x" })), "news", 401, "token_issuer", "not allowed"),
        ("audience", with(json!({ "aud": "x" })), "news", 401, "token_audience", "not allowed"),
        ("topic", with(json!({})), "newspaper", 403, "not_allowed", "not allowed"),
        ("one of two topics", with(json!({})), "news?topic=x", 403, "not_allowed", "not allowed"),
        ("no topics", with(json!({ "topics": null })), "news", 403, "not_allowed", "not allowed"),
    ];
    for (what, token, topic, status, _, close) in &cases {
        let bearer = format!("Authorization: Bearer {token}\r\n");
        let response = ask(&gateway, &format!("/ws/{topic}"), &bearer);
        assert_eq!(response.status, *status, "{what}: {response:?}");
        let challenge = response.header("www-authenticate");
        assert_eq!(challenge, (*status == 401).then_some("Bearer"), "{what}");
        let text = String::from_utf8(response.body).unwrap();
        assert!(token.is_empty() || !text.contains(token.as_str()), "{what}: {text}");
        // As a browser can bring it.
        let offer = format!("Sec-WebSocket-Protocol: ringway.raw.v1, ringway.token.{token}\r\n");
        let told = ask_as_browser(&gateway, &format!("/ws/{topic}"), &offer);
        assert_eq!(told, (1008, (*close).to_owned()), "{what}");
    }
    // Each case was asked twice.
    let expected = |reason: &str| 2 * cases.iter().filter(|case| case.4 == reason).count() as u64;
    gateway.stats_until(|stats| {
        cases.iter().all(|case| sum(stats, &["refused", case.4]) == expected(case.4))
    });
    let metrics = String::from_utf8(gateway.http().get("/metrics").body).unwrap();
    assert!(metrics.contains(r#"ringway_handshakes_refused_total{reason="token_signature"} 4"#));
    // The page's origin comes first, and needs no token to be refused.
    let own_origin = ["--allow-origin", "https://ours.example"];
    let gateway = guarded(&key, &own_origin);
    let headers = "Origin: https://evil.example\r\n";
    assert_eq!(ask(&gateway, "/ws/news", headers).status, 403);
    gateway.stats_until(|stats| sum(stats, &["refused", "origin"]) == 1);
}

#[test]
fn a_token_of_each_algorithm_opens_what_it_names_and_publishes_where_it_may() {
    let claims = json!({ "exp": now() + 600, "topics": ["room/*"], "publish": ["room/7"] });
    let keys = [
        (Algorithm::HS256, EncodingKey::from_secret(SECRET.as_bytes()), SECRET),
        (Algorithm::RS256, EncodingKey::from_rsa_pem(RSA).unwrap(), RSA_PUBLIC),
        (Algorithm::ES256, EncodingKey::from_ec_pem(P256).unwrap(), P256_PUBLIC),
        (Algorithm::EdDSA, EncodingKey::from_ed_pem(ED25519).unwrap(), ED25519_PUBLIC),
    ];
    for (algorithm, signing, public) in keys {
        let key = KeyFile::new(public);
        let gateway = guarded(&key, &["--echo"]);
        let token = sign(algorithm, &signing, &claims);
        let by_query = open(&gateway, &format!("/ws/room/7?token={token}"), "");
        let by_header = open(
            &gateway,
            "/ws/room/7?topic=room/8",
            &format!("Authorization: Bearer {token}\r\n"),
        );
        let by_subprotocol = open(
            &gateway,
            "/ws/room/7",
            &format!("Sec-WebSocket-Protocol: ringway.token.{token}\r\n"),
        );
        send(&by_query, b"hello");
        for stream in [&by_query, &by_header, &by_subprotocol] {
            assert_eq!(read_frame(stream), Some((0x81, b"hello".to_vec())), "{algorithm:?}");
        }
        let reader = open(&gateway, &format!("/ws/room/8?token={token}"), "");
        send(&reader, b"I may not");
        assert_eq!(read_close(&reader), (1008, "not allowed".to_owned()));
        let echo = open(&gateway, &format!("/echo?token={token}"), "");
        send(&echo, b"echo");
        assert_eq!(read_frame(&echo), Some((0x81, b"echo".to_vec())));
        assert_eq!(ask(&gateway, "/echo", "").status, 401);
        assert_eq!(ask(&gateway, "/healthz", "").status, 200);
    }
}

fn open(gateway: &Gateway, target: &str, headers: &str) -> TcpStream {
    let stream = gateway.connect();
    let response = exchange(&stream, upgrade(target, headers).as_bytes());
    assert_eq!(response.status, 101, "{response:?}");
    assert!(response.header("sec-websocket-protocol").is_none(), "a token is never echoed");
    stream
}

fn send(mut stream: &TcpStream, payload: &[u8]) {
    std::io::Write::write_all(&mut stream, &frame(0x81, payload)).unwrap();
}

#[test]
fn a_token_that_expires_ends_its_connection_and_no_other() {
    let key = KeyFile::new(SECRET);
    let gateway = guarded(&key, &[]);
    let token = |exp: u64| hs256(&json!({ "exp": exp, "topics": ["*"], "publish": ["*"] }));
    let exp = now() + 2;
    let short = open(&gateway, &format!("/ws/a?token={}", token(exp)), "");
    let long = open(&gateway, &format!("/ws/a?token={}", token(exp + 600)), "");
    assert_eq!(read_close(&short), (1008, "token expired".to_owned()));
    assert!(now() >= exp);
    send(&long, b"still here");
    assert_eq!(read_frame(&long), Some((0x81, b"still here".to_vec())));
    gateway.stats_until(|stats| sum(stats, &["closed", "token_expired"]) == 1);
}

#[test]
fn whoever_is_removed_cannot_come_back_on_any_worker_and_nobody_else_is_touched() {
    let key = KeyFile::new(SECRET);
    let gateway = guarded(&key, &[]);
    let token = |sub: &str, exp: u64| {
        hs256(&json!({ "sub": sub, "exp": exp, "topics": ["*"], "publish": ["*"] }))
    };
    let exp = now() + 600;
    let alice = format!("/ws/a?token={}", token("alice", exp));
    let bob = format!("/ws/b?token={}", token("bob", exp));
    let removed: Vec<TcpStream> = (0..8).map(|_| open(&gateway, &alice, "")).collect();
    let stays = open(&gateway, &bob, "");
    let shown = gateway.http().get("/connections?sub=bob").json();
    assert_eq!(shown["connections"][0]["sub"], "bob");
    assert_eq!(shown["connections"].as_array().unwrap().len(), 1);

    let response = gateway.http().delete("/connections?sub=alice");
    let answer = response.json();
    assert_eq!((response.status, &answer["closed"]), (200, &json!(8)));
    // Until half a minute after the token, which opens connections for so long.
    let in_words = answer["blocked_until"].as_str().unwrap();
    let seconds = std::process::Command::new("date").args(["+%s", "-d", in_words]).output();
    let seconds = String::from_utf8(seconds.unwrap().stdout).unwrap();
    assert_eq!(seconds.trim(), (exp + 30).to_string());
    for stream in &removed {
        assert_eq!(read_close(stream), (1008, "removed".to_owned()));
    }
    // Another token of hers is no better, as a program or as a page.
    let other = format!("/ws/a?token={}", token("alice", exp + 600));
    for target in [&alice, &other] {
        for _ in 0..8 {
            let response = ask(&gateway, target, "");
            assert_eq!(response.status, 403, "{response:?}");
            assert_eq!(response.header("www-authenticate"), None);
            assert_eq!(ask_as_browser(&gateway, target, ""), (1008, "removed".to_owned()));
        }
    }
    assert_eq!(ask(&gateway, &bob, "").status, 101);
    send(&stays, b"still here");
    assert_eq!(read_frame(&stays), Some((0x81, b"still here".to_vec())));
    let stats = gateway.stats_until(|stats| sum(stats, &["refused", "token_blocked"]) == 32);
    assert_eq!(sum(&stats, &["closed", "removed"]), 8);
    assert_eq!(stats["blocked_subs"], 1);
    let metrics = String::from_utf8(gateway.http().get("/metrics").body).unwrap();
    for line in [
        r#"ringway_handshakes_refused_total{reason="token_blocked"} 32"#,
        "ringway_blocked_subs 1",
        "ringway_blocked_subs_max 100000",
        r#"ringway_limit{name="blocked_subs_max"} 100000"#,
    ] {
        assert!(metrics.lines().any(|other| other == line), "no line {line}");
    }
}

#[test]
fn who_was_removed_comes_back_when_the_token_has_ended_unless_a_longer_one_was_seen() {
    let key = KeyFile::new(SECRET);
    let gateway = guarded(&key, &[]);
    let target = |sub: &str, exp: u64| {
        format!("/ws/a?token={}", hs256(&json!({ "sub": sub, "exp": exp, "topics": ["*"] })))
    };
    let exp = now() + 5;
    let mut http = gateway.http();
    for sub in ["alice", "bob"] {
        let stream = open(&gateway, &target(sub, exp), "");
        assert_eq!(http.delete(&format!("/connections?sub={sub}")).json()["closed"], 1);
        assert_eq!(read_close(&stream), (1008, "removed".to_owned()));
        assert_eq!(ask(&gateway, &target(sub, exp), "").status, 403);
    }
    // She has a second token, which was not connected and is seen once.
    let longer = target("alice", now() + 600);
    assert_eq!(ask(&gateway, &longer, "").status, 403);
    // The first ones open connections for half a minute after their end.
    gateway.stats_until(|stats| stats["blocked_subs"] == 1);
    assert!(now() >= exp + 30);
    let fresh = target("bob", now() + 600);
    let until = Instant::now() + PATIENCE;
    while ask(&gateway, &fresh, "").status != 101 {
        assert!(Instant::now() < until, "he is never let back");
    }
    for _ in 0..8 {
        assert_eq!(ask(&gateway, &longer, "").status, 403, "on each worker");
    }
}

#[test]
fn where_as_many_are_blocked_as_may_be_nobody_is_let_back_for_another() {
    let key = KeyFile::new(SECRET);
    let file =
        format!("token-key-file = {:?}\nworkers = 2\n[limits]\nblocked_subs_max = 1", key.path());
    let gateway = Gateway::start_with(&file, &[]);
    let target = |sub: &str| {
        let claims = json!({ "sub": sub, "exp": now() + 600, "topics": ["*"], "publish": ["*"] });
        format!("/ws/a?token={}", hs256(&claims))
    };
    let mut http = gateway.http();
    let absent = http.delete("/connections?sub=alice");
    assert_eq!(absent.json()["closed"], 0);
    assert_eq!(ask(&gateway, &target("alice"), "").status, 403, "blocked before she came");
    let bob = open(&gateway, &target("bob"), "");
    let refused = http.delete("/connections?sub=bob");
    assert_eq!(refused.status, 429, "{refused:?}");
    let retry_after: u64 = refused.header("retry-after").unwrap().parse().unwrap();
    assert!((3_500..=3_600).contains(&retry_after), "an hour, as no token of hers was known");
    assert!(refused.json()["error"].is_string());
    send(&bob, b"nothing was done");
    assert_eq!(read_frame(&bob), Some((0x81, b"nothing was done".to_vec())));
    assert_eq!(http.delete("/connections?sub=alice").status, 200, "she is in the list already");
    assert_eq!(ask(&gateway, &target("alice"), "").status, 403);
    let stats = gateway.stats_until(|stats| sum(stats, &["refused", "token_blocked"]) == 2);
    assert_eq!((&stats["blocked_subs"], &stats["removals_refused"]), (&json!(1), &json!(1)));
}

#[test]
fn keys_are_read_again_on_sighup_and_stay_where_the_new_ones_are_bad() {
    let key = KeyFile::new(SECRET);
    let mut gateway = guarded(&key, &[]);
    let claims = json!({ "exp": now() + 600, "topics": ["a"] });
    let old = format!("/ws/a?token={}", hs256(&claims));
    let connected = open(&gateway, &old, "");

    fs::write(&key.0, "too short").unwrap();
    gateway.signal(Signal::HUP);
    let line = gateway.line(|line| line["message"] == "the old token keys stay");
    assert!(line["error"].as_str().unwrap().contains("at least 32 bytes"), "{line}");
    assert_eq!(ask(&gateway, &old, "").status, 101);

    let other = "another secret of at least thirty-two bytes";
    fs::write(&key.0, other).unwrap();
    gateway.signal(Signal::HUP);
    gateway.line(|line| line["message"] == "token keys reloaded");
    // The workers are told a moment later.
    let until = Instant::now() + PATIENCE;
    while ask(&gateway, &old, "").status != 401 {
        assert!(Instant::now() < until, "the old key is still good");
    }
    let signing = EncodingKey::from_secret(other.as_bytes());
    let new = format!("/ws/a?token={}", sign(Algorithm::HS256, &signing, &claims));
    while ask(&gateway, &new, "").status != 101 {
        assert!(Instant::now() < until, "the new key is not good on every worker");
    }
    gateway.http().post("/publish/a", "", b"who is connected stays");
    let frame = read_frame(&connected);
    assert_eq!(frame, Some((0x81, b"who is connected stays".to_vec())));
}

#[test]
fn no_token_is_ever_shown() {
    let key = KeyFile::new(SECRET);
    let mut gateway = guarded(&key, &["--log-level", "debug", "--drain", "0s"]);
    let good = hs256(&json!({ "sub": "alice", "exp": now() + 1, "topics": ["a"] }));
    let bad = format!("{good}x");
    for token in [&good, &bad] {
        let stream = gateway.connect();
        let headers = format!("Sec-WebSocket-Protocol: ringway.token.{token}\r\n");
        let target = format!("/ws/a?token={token}");
        let response = exchange(&stream, upgrade(&target, &headers).as_bytes());
        assert_eq!(response.status, if token == &good { 101 } else { 401 });
        if response.status == 101 {
            assert_eq!(read_close(&stream), (1008, "token expired".to_owned()));
        }
    }
    let signature = good.rsplit('.').next().unwrap();
    // What is refused for something else, with its token in the URL.
    let long = format!("X: {}\r\n", "x".repeat(20_000));
    for (target, headers, status) in [
        (format!("/ws/$a?token={good}"), "", 400),
        (format!("/nowhere?token={good}"), "", 404),
        (format!("/ws/a?token={good}"), &*long, 431),
    ] {
        let response = ask(&gateway, &target, headers);
        assert_eq!(response.status, status, "{target}");
        assert!(!response.text().contains(signature), "{target}");
    }
    let stays = hs256(&json!({ "sub": "bob", "exp": now() + 600, "topics": ["b"] }));
    let stays_signature = stays.rsplit('.').next().unwrap();
    let connected = open(&gateway, &format!("/ws/b?token={stays}"), "");
    let page = gateway.http().get("/connections");
    assert!(page.text().contains("\"sub\":\"bob\"") && !page.text().contains(stays_signature));
    gateway.stats_until(|stats| sum(stats, &["closed", "token_expired"]) == 1);
    for page in ["/stats", "/metrics", "/topics", "/latency"] {
        let body = gateway.http().get(page).body;
        assert!(!String::from_utf8_lossy(&body).contains(signature), "{page}");
    }
    gateway.signal(Signal::TERM);
    let lines = std::cell::Cell::new(0);
    gateway.line(|line| {
        lines.set(lines.get() + 1);
        let line_text = line.to_string();
        assert!(!line_text.contains(signature) && !line_text.contains(stays_signature), "{line}");
        line["message"] == "drained"
    });
    assert!(lines.get() > 2, "the close was logged, and the end");
    assert_eq!(read_close(&connected), (1012, "restarting".to_owned()));
}

#[test]
fn what_cannot_be_is_said_at_the_start() {
    let short = KeyFile::new("short");
    let private = KeyFile::new(std::str::from_utf8(RSA).unwrap());
    let no_set = KeyFile::new(r#"{"keys": []}"#);
    let long = KeyFile::new(&"s".repeat(256 * 1024 + 1));
    let cases: [(&[&str], &str); 8] = [
        (&["--token-key-file", short.path()], "at least 32 bytes"),
        (&["--token-key-file", private.path()], "private key"),
        (&["--token-jwks-file", no_set.path()], "no key for HS256"),
        (&["--token-key-file", "/nonexistent/key"], "/nonexistent/key"),
        (&["--token-key-file", long.path()], "at most 262144 bytes"),
        (&["--token-issuer", "x"], "need keys"),
        (&["--token-audience", "x"], "need keys"),
        (&["--token-expiry", "optional"], "need keys"),
    ];
    for (flags, words) in cases {
        let output = common::ringway().arg("serve").args(flags).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains(words), "{said}");
    }
}

/// Real clients' README has a table of what must not be possible: every test in it must be one.
#[test]
fn the_table_of_access_names_tests_that_there_are() {
    let sources = [
        ("access.rs", include_str!("access.rs")),
        ("control_access.rs", include_str!("control_access.rs")),
        ("proxies.rs", include_str!("proxies.rs")),
        ("tokens.rs", include_str!("../../tokens/tests/tokens.rs")),
    ];
    let (_, table) = include_str!("peers/README.md").split_once("## Access\n").unwrap();
    let (table, _) = table.split_once("`run tokens`:").unwrap();
    let rows = table.lines().filter(|line| line.starts_with("| ")).skip(1);
    let mut count = 0;
    for row in rows {
        let tests = row.trim_end_matches(" |").rsplit_once('|').unwrap().1;
        let mut file = None;
        for word in tests.split('`').skip(1).step_by(2).filter(|word| !word.contains(' ')) {
            match sources.iter().find(|(name, _)| *name == word) {
                Some((_, source)) => file = Some(source),
                None => {
                    count += 1;
                    let test = format!("#[test]\nfn {word}()");
                    assert!(file.unwrap().contains(&test), "no test {word}: {row}");
                }
            }
        }
    }
    assert_eq!(count, 20);
}
