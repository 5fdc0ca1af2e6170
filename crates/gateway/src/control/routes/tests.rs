//! Requests to a whole control plane without a listener.

use serde_json::json;

use crate::control::{Access, testing::Plane};

fn running(workers: u16) -> Plane {
    let mut plane = Plane::new(workers, Access::Loopback);
    plane.start();
    plane
}

#[tokio::test(start_paused = true)]
async fn errors_are_json_for_unknown_paths_and_methods_too() {
    let plane = running(1);
    for target in ["/index.html", "/connection", "/nothing", "/publisher"] {
        let answered = plane.send("GET", target, "").await;
        assert_eq!(answered.status, 404, "{target}");
        assert!(answered.body["error"].is_string(), "{target}");
    }
    let answered = plane.send("GET", "/publish/a", "").await;
    assert_eq!(answered.status, 405);
    assert!(answered.body["error"].is_string());
    assert_eq!(answered.headers["allow"], "POST");
    let answered = plane.send("POST", "/stats", "").await;
    assert_eq!(answered.status, 405);
    assert_eq!(answered.headers["allow"], "GET,HEAD");
}

#[tokio::test(start_paused = true)]
async fn the_topic_is_everything_behind_the_prefix_and_follows_the_topic_rules() {
    let plane = running(1);
    for topic in ["a", "a/b/c", "a%2Fb", "caf%C3%A9", "a+b", "a%20b", "%25"] {
        let answered = plane.send("POST", &format!("/publish/{topic}"), "x").await;
        assert_eq!(answered.status, 200, "{topic}: {}", answered.body);
    }
    for topic in
        ["", "a//b", "a/", "/a", "$a", "%24a", "a/%2A", "a%3E", ".", "a/../b", "%FF", "%zz", "%00"]
    {
        let answered = plane.send("POST", &format!("/publish/{topic}"), "x").await;
        assert_eq!(answered.status, 400, "{topic}");
        assert!(answered.body["error"].is_string(), "{topic}");
    }
    let longest = "t".repeat(255);
    assert_eq!(plane.send("POST", &format!("/publish/{longest}"), "x").await.status, 200);
    assert_eq!(plane.send("POST", &format!("/publish/{longest}t"), "x").await.status, 400);
}

#[tokio::test(start_paused = true)]
async fn a_body_longer_than_a_message_is_413_and_one_as_long_is_taken() {
    let plane = running(1);
    let longest = vec![b'x'; 64 * 1024];
    let longer = vec![b'x'; 64 * 1024 + 1];
    for target in ["/publish/a", "/broadcast"] {
        assert_eq!(plane.send("POST", target, longest.clone()).await.status, 200);
        let answered = plane.send("POST", target, longer.clone()).await;
        assert_eq!(answered.status, 413);
        assert!(answered.body["error"].as_str().unwrap().contains("65536"));
    }
    assert_eq!(plane.send("POST", "/publish/a", "").await.status, 200, "an empty message is one");
}

#[tokio::test(start_paused = true)]
async fn a_batch_is_bounded_in_bytes_and_messages_and_names_what_is_wrong() {
    let plane = running(1);
    let too_long = vec![b' '; 8 * 1024 * 1024 + 1];
    assert_eq!(plane.send("POST", "/publish", too_long).await.status, 413);
    let message = r#"{"topic":"a","text":"x"}"#;
    let batch = |count| format!(r#"{{"messages":[{}]}}"#, vec![message; count].join(","));
    let answered = plane.send("POST", "/publish", batch(1000)).await;
    assert_eq!(answered.body["receivers"].as_array().unwrap().len(), 1000);
    let answered = plane.send("POST", "/publish", batch(1001)).await;
    assert_eq!(answered.status, 400);
    let bad = r#"{"messages":[{"topic":"a","text":"x"},{"topic":"$a","text":"x"}]}"#;
    let answered = plane.send("POST", "/publish", bad).await;
    assert_eq!(answered.status, 400);
    assert!(answered.body["error"].as_str().unwrap().starts_with("message 1: "));
    assert_eq!(
        plane.send("POST", "/publish", r#"{"messages":[]}"#).await.body,
        json!({"receivers": []})
    );
}

#[tokio::test(start_paused = true)]
async fn bytes_on_their_way_are_bounded_over_all_requests() {
    let plane = running(1);
    let all = plane.control.body_bytes.available_permits();
    assert_eq!(all, 32 * 1024 * 1024);
    let held = std::sync::Arc::clone(&plane.control.body_bytes);
    let permit = held.try_acquire_many_owned(u32::try_from(all - 4).unwrap()).unwrap();
    assert_eq!(plane.send("POST", "/publish/a", "1234").await.status, 200);
    let answered = plane.send("POST", "/publish/a", "12345").await;
    assert_eq!(answered.status, 429);
    assert_eq!(answered.headers["retry-after"], "1");
    drop(permit);
    assert_eq!(plane.send("POST", "/publish/a", "12345").await.status, 200);
    assert_eq!(plane.control.body_bytes.available_permits(), all, "all of it came back");
}

#[tokio::test(start_paused = true)]
async fn a_page_of_another_site_can_neither_read_nor_publish() {
    let plane = running(1);
    let cases: [&[(&str, &str)]; 3] = [
        &[("host", "attacker.example:9001")],
        &[("host", "localhost:9001"), ("origin", "https://attacker.example")],
        &[("host", "localhost:9001"), ("sec-fetch-site", "cross-site")],
    ];
    for headers in cases {
        for (method, target) in [("GET", "/stats"), ("POST", "/publish/a"), ("GET", "/nothing")] {
            let answered = plane.send_as(method, target, headers, "x").await;
            assert_eq!(answered.status, 403, "{method} {target} {headers:?}");
            assert!(answered.body["error"].is_string());
        }
    }
    let answered = plane.send("GET", "/stats", "").await;
    assert!(!answered.headers.keys().any(|name| name.as_str().starts_with("access-control-")));
}

#[tokio::test(start_paused = true)]
async fn a_token_opens_what_its_scope_says_whatever_the_host() {
    let path = std::env::temp_dir().join(format!("ringway-scopes-{}", std::process::id()));
    let long = "-0123456789abcdef";
    std::fs::write(&path, format!("read R{long}\npublish P{long}\nA{long}\n")).unwrap();
    let access = Access::open(Some(path.clone())).unwrap();
    std::fs::remove_file(&path).unwrap();
    let mut plane = Plane::new(1, access);
    plane.start();
    let cases = [
        ("GET", "/stats", None, 401),
        ("GET", "/stats", Some("R"), 200),
        ("GET", "/stats", Some("P"), 403),
        ("GET", "/nothing", None, 401),
        ("POST", "/publish/a", Some("R"), 403),
        ("POST", "/publish/a", Some("P"), 200),
        ("POST", "/publish/a", Some("A"), 200),
    ];
    for (method, target, token, status) in cases {
        let authorization = token.map(|token| format!("Bearer {token}{long}"));
        let authorization = authorization.as_deref();
        let mut headers = vec![("host", "ringway.example")];
        headers.extend(authorization.map(|value| ("authorization", value)));
        let answered = plane.send_as(method, target, &headers, "x").await;
        assert_eq!(answered.status, status, "{method} {target} {authorization:?}");
        assert_eq!(answered.headers.contains_key("www-authenticate"), status == 401);
    }
}

#[tokio::test(start_paused = true)]
async fn readers_get_what_the_workers_have_reported() {
    let mut plane = Plane::new(2, Access::Loopback);
    let answered = plane.send("GET", "/readyz", "").await;
    assert_eq!((answered.status, answered.body), (503, json!({"error": "starting"})));
    plane.workers[0].report.gauges.connections = 200;
    let span = std::time::Duration::from_millis(2);
    plane.workers[1].report.record(worker::Stage::Handshake, span);
    plane.start();
    plane.settle().await;
    let answered = plane.send("GET", "/readyz", "").await;
    assert_eq!((answered.status, answered.body), (503, json!({"error": "at capacity"})));
    let answered = plane.send("GET", "/healthz", "").await;
    assert_eq!((answered.status, answered.body), (200, json!("ok\n")));
    let answered = plane.send("GET", "/stats", "").await;
    assert_eq!(answered.body["workers"][0]["connections"], 200);
    let answered = plane.send("GET", "/latency", "").await;
    assert_eq!(answered.body["unit"], "ns");
    assert_eq!(answered.body["stages"]["handshake"]["count"], 1);
    for stage in ["handshake", "encode", "hop", "fanout", "turn", "ping"] {
        for name in ["count", "p50", "p90", "p99", "p999", "max"] {
            assert!(answered.body["stages"][stage][name].is_u64(), "{stage} {name}");
        }
    }
    let answered = plane.send("GET", "/metrics", "").await;
    assert_eq!(answered.headers["content-type"], "text/plain; version=0.0.4");
    let page = answered.body.as_str().unwrap().to_owned();
    assert!(page.contains("ringway_connections{worker=\"0\"} 200\n"));
    let answered = plane.send("GET", "/latency.hlog", "").await;
    assert!(answered.body.as_str().unwrap().starts_with("#[Histogram log format version 1.3]\n"));
    assert_eq!(plane.send("HEAD", "/metrics", "").await.status, 200);
}

#[tokio::test(start_paused = true)]
async fn the_page_is_four_files_that_may_load_and_run_nothing_else() {
    let plane = running(1);
    let files = [
        ("/", "text/html; charset=utf-8", "<!doctype html>"),
        ("/page.css", "text/css; charset=utf-8", "/*"),
        ("/page.js", "text/javascript; charset=utf-8", "//"),
        ("/page.svg", "image/svg+xml", "<svg "),
    ];
    for (path, kind, begin) in files {
        let answered = plane.send("GET", path, "").await;
        assert_eq!(answered.status, 200, "{path}");
        assert_eq!(answered.headers["content-type"], kind);
        assert!(answered.body.as_str().unwrap().starts_with(begin), "{path}");
        assert_eq!(answered.headers["x-content-type-options"], "nosniff");
        assert_eq!(answered.headers["referrer-policy"], "no-referrer");
        assert_eq!(answered.headers["cache-control"], "no-cache");
        let policy = answered.headers["content-security-policy"].to_str().unwrap();
        assert_eq!(
            policy,
            "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; \
             base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
             connect-src 'self' ws://*:9000 ws://*:9002"
        );
        assert_eq!(plane.send("HEAD", path, "").await.status, 200);
        assert_eq!(plane.send("POST", path, "").await.status, 405);
    }
    let html = plane.send("GET", "/", "").await.body.as_str().unwrap().to_owned();
    for forbidden in ["http:", "https:", "//", " style=", "onclick", "<style", "<script>"] {
        assert!(!html.contains(forbidden), "{forbidden}");
    }
}

#[tokio::test(start_paused = true)]
async fn intervals_of_latency_are_given_from_a_moment_on() {
    let plane = running(1);
    let answered = plane.send("GET", "/latency/intervals", "").await;
    assert_eq!(answered.body, json!({"unit": "ns", "intervals": []}));
    // Starts that are whole numbers, which every reader of JSON takes as they are.
    let (epoch, began) =
        (std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_000), std::time::Instant::now());
    let mut intervals = crate::control::intervals::Intervals::new(epoch, began);
    for seconds in [20, 40, 60] {
        intervals.poll_end(began + std::time::Duration::from_secs(seconds)).unwrap();
    }
    plane.control.record().intervals = intervals;
    let starts = async |query: &str| {
        let body = plane.send("GET", &format!("/latency/intervals{query}"), "").await.body;
        let intervals = body["intervals"].as_array().unwrap();
        intervals.iter().map(|interval| interval["start"].as_f64().unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(starts("").await, [1_000.0, 1_020.0, 1_040.0]);
    assert_eq!(starts("?after=1000").await, [1_020.0, 1_040.0]);
    assert!(starts("?after=1040").await.is_empty());
    for after in ["", "x", "inf"] {
        let target = format!("/latency/intervals?after={after}");
        assert_eq!(plane.send("GET", &target, "").await.status, 400, "{after}");
    }
}
