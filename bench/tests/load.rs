//! `load` and `compare` against small servers on tungstenite: what is counted, what is an error,
//! and the exit codes.

#![expect(clippy::unwrap_used, reason = "a failed step of a test is its failure")]

use std::fs;
use std::io::Write as _;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};
use std::thread;

use flate2::{Compress, Compression, FlushCompress};
use serde_json::Value;
use tungstenite::handshake::server::{Request, Response};
use tungstenite::http::HeaderValue;
use tungstenite::{Message, WebSocket, accept_hdr};

/// What a test server does with a message; the sockets of all open connections are at hand.
type Answer = fn(&Message, &mut WebSocket<TcpStream>, &mut Vec<TcpStream>);

/// A server on a free port, with a thread for each connection. Its threads end with the test.
fn serve(answer: Answer) -> String {
    serve_with(answer, None)
}

/// The same, with this answer to whatever extensions are offered.
fn serve_with(answer: Answer, extensions: Option<&'static str>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let sockets = Arc::new(Mutex::new(Vec::new()));
    thread::spawn(move || {
        for stream in listener.incoming() {
            let stream = stream.unwrap();
            let sockets = Arc::clone(&sockets);
            thread::spawn(move || {
                let raw = stream.try_clone().unwrap();
                // The command's first connection only asks whether somebody listens.
                #[expect(clippy::result_large_err, reason = "the type is tungstenite's")]
                let agree = |request: &Request, mut response: Response| {
                    let offered = request.headers().contains_key("sec-websocket-extensions");
                    assert_eq!(offered, extensions.is_some());
                    let value = extensions.map(HeaderValue::from_static);
                    let headers = response.headers_mut();
                    value.map(|value| headers.insert("sec-websocket-extensions", value));
                    Ok(response)
                };
                let Ok(mut socket) = accept_hdr(stream, agree) else { return };
                sockets.lock().unwrap().push(raw);
                while let Ok(message) = socket.read() {
                    if message.is_binary() {
                        answer(&message, &mut socket, &mut sockets.lock().unwrap());
                    }
                }
                // Dropping would not do: `sockets` has it too.
                let _ = socket.get_ref().shutdown(Shutdown::Both);
            });
        }
    });
    format!("ws://{address}/ws/bench")
}

fn echo(message: &Message, socket: &mut WebSocket<TcpStream>, _: &mut Vec<TcpStream>) {
    socket.send(message.clone()).unwrap();
}

/// Sends a message of less than 126 bytes to all connections.
fn broadcast(message: &Message, _: &mut WebSocket<TcpStream>, sockets: &mut Vec<TcpStream>) {
    let payload = message.clone().into_data();
    let mut frame = vec![0x82, u8::try_from(payload.len()).unwrap()];
    frame.extend_from_slice(&payload);
    sockets.retain_mut(|socket| socket.write_all(&frame).is_ok());
}

/// Sends a message that shrinks to less than 126 bytes to all connections, compressed.
fn broadcast_deflated(
    message: &Message,
    _: &mut WebSocket<TcpStream>,
    sockets: &mut Vec<TcpStream>,
) {
    let mut payload = Vec::with_capacity(1 << 12);
    let mut state = Compress::new(Compression::fast(), false);
    let data = message.clone().into_data();
    state.compress_vec(&data, &mut payload, FlushCompress::Sync).unwrap();
    payload.truncate(payload.len() - 4);
    let frame = [&[0xC2, u8::try_from(payload.len()).unwrap()], &payload[..]].concat();
    sockets.retain_mut(|socket| socket.write_all(&frame).is_ok());
}

/// Speaks as much of NATS as one topic needs.
fn broadcast_nats(
    message: &Message,
    socket: &mut WebSocket<TcpStream>,
    sockets: &mut Vec<TcpStream>,
) {
    let data = message.clone().into_data();
    match data.strip_prefix(b"PUB bench ") {
        Some(rest) => {
            let message = [b"MSG bench 1 ", rest].concat();
            broadcast(&Message::binary(message), socket, sockets);
        }
        // The answer to the ping below.
        None if data == b"PONG\r\n"[..] => {}
        None => {
            assert!(data.ends_with(b"SUB bench 1\r\nPING\r\n"), "{data:?}");
            socket.send(Message::binary("INFO {}\r\n")).unwrap();
            socket.send(Message::binary("PONG\r\nPING\r\n")).unwrap();
        }
    }
}

fn broadcast_twice(
    message: &Message,
    socket: &mut WebSocket<TcpStream>,
    sockets: &mut Vec<TcpStream>,
) {
    broadcast(message, socket, sockets);
    broadcast(message, socket, sockets);
}

fn broadcast_cut(
    message: &Message,
    socket: &mut WebSocket<TcpStream>,
    sockets: &mut Vec<TcpStream>,
) {
    let cut = message.clone().into_data().slice(..20);
    broadcast(&Message::Binary(cut), socket, sockets);
}

fn hang_up(_: &Message, socket: &mut WebSocket<TcpStream>, _: &mut Vec<TcpStream>) {
    let _ = socket.close(None);
}

fn bench(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_ringway-bench")).args(arguments).output().unwrap()
}

/// A file name of this test process.
fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{}-{name}", std::process::id()))
}

/// Runs a short load and returns its exit code and its figures.
fn load(url: &str, name: &str, arguments: &[&str]) -> (Option<i32>, Value) {
    let json = file(&format!("{name}.json"));
    let mut all = vec!["load", "--allow-debug", "--url", url, "--json", json.to_str().unwrap()];
    all.extend(["--duration", "200ms"]);
    if !arguments.contains(&"--warmup") {
        all.extend(["--warmup", "50ms"]);
    }
    all.extend(arguments);
    let output = bench(&all);
    let json = fs::read(&json).unwrap_or_else(|_| panic!("{output:?}"));
    (output.status.code(), serde_json::from_slice(&json).unwrap())
}

/// The subscribers that read have everything, and so has the publisher, which this server sends to
/// as well; but nobody waits for its copies: the last may still be under way, and some of the
/// warm-up may be counted.
fn assert_delivered(report: &Value, subscribers: u64) {
    let published = report["traffic"]["published"].as_u64().unwrap();
    let delivered = report["traffic"]["delivered"].as_u64().unwrap();
    let (least, most) = (published * subscribers, published * (subscribers + 1) + 20);
    assert!(published > 0 && (least..=most).contains(&delivered), "{report}");
}

#[test]
fn a_closed_fan_out_delivers_every_publication_to_everybody() {
    let arguments = ["--scenario", "fanout", "--connections", "20"];
    let (code, report) = load(&serve(broadcast), "closed", &arguments);
    assert_eq!(code, Some(0), "{report}");
    let published = report["traffic"]["published"].as_u64().unwrap();
    assert!(published > 0);
    assert_delivered(&report, 20);
    assert_eq!(report["latency"]["last"]["count"].as_u64().unwrap(), published);
    assert_eq!(report["latency"]["handshake"]["count"].as_u64().unwrap(), 21);
}

#[test]
fn compressed_messages_are_inflated_checked_and_weighed() {
    let agreed = "permessage-deflate; server_no_context_takeover";
    let url = serve_with(broadcast_deflated, Some(agreed));
    let arguments = ["--scenario", "fanout", "--connections", "20", "--compression"];
    for (name, payload, size) in [("deflated", "json", "100"), ("deflated-filler", "filler", "80")]
    {
        let what = ["--payload", payload, "--size", size];
        let (code, report) = load(&url, name, &[&arguments[..], &what].concat());
        assert_eq!(code, Some(0), "{report}");
        assert_delivered(&report, 20);
        let traffic = &report["traffic"];
        assert_eq!(traffic["compressed"], traffic["delivered"]);
        let bytes = traffic["frame_bytes"].as_u64().unwrap();
        assert!(bytes > traffic["delivered"].as_u64().unwrap() * 20, "{report}");
    }
}

#[test]
fn a_compressed_message_that_nobody_agreed_on_is_an_error() {
    let arguments = ["--scenario", "fanout", "--connections", "2", "--warmup", "0"];
    let (code, report) = load(&serve(broadcast_deflated), "unasked", &arguments);
    assert_eq!(code, Some(1), "{report}");
    assert!(report["errors"][0].as_str().unwrap().contains("not agreed on"), "{report}");
}

#[test]
fn documents_travel_plain_too() {
    let arguments = ["--scenario", "echo", "--connections", "2", "--payload", "json"];
    let (code, report) =
        load(&serve(echo), "json", &[&arguments[..], &["--size", "1KiB"]].concat());
    assert_eq!(code, Some(0), "{report}");
    assert_eq!(report["traffic"]["compressed"], 0);
    let delivered = report["traffic"]["delivered"].as_u64().unwrap();
    assert_eq!(report["traffic"]["frame_bytes"].as_u64().unwrap(), delivered * (4 + 1024));
}

#[test]
fn a_fan_out_in_a_dialect_starts_when_all_have_subscribed() {
    let arguments = ["--scenario", "fanout", "--connections", "20", "--dialect", "nats"];
    let url = serve(broadcast_nats);
    let (code, report) = load(&url, "nats", &[&arguments[..], &["--warmup", "0"]].concat());
    assert_eq!(code, Some(0), "{report}");
    assert!(report["traffic"]["published"].as_u64().unwrap() > 0);
    assert_delivered(&report, 20);
}

#[test]
fn several_processes_share_one_topic() {
    for (name, rate) in [("shared-closed", "0"), ("shared-open", "100")] {
        let arguments = ["--scenario", "fanout", "--connections", "20", "--rate", rate];
        let several = ["--connections-per-process", "8"];
        let (code, report) = load(&serve(broadcast), name, &[&arguments[..], &several].concat());
        assert_eq!(code, Some(0), "{report}");
        let published = report["traffic"]["published"].as_u64().unwrap();
        assert_eq!(report["processes"], 3);
        assert_delivered(&report, 20);
        assert_eq!(report["latency"]["last"]["count"].as_u64().unwrap(), published);
    }
}

#[test]
fn an_open_loop_sends_on_schedule() {
    let arguments = ["--scenario", "fanout", "--connections", "3", "--rate", "100"];
    let (code, report) = load(&serve(broadcast), "open", &arguments);
    assert_eq!(code, Some(0), "{report}");
    assert_eq!(report["traffic"]["published"], 20);
}

#[test]
fn echoes_come_back_large_and_small() {
    for size in ["16", "40KiB"] {
        let arguments = ["--scenario", "echo", "--connections", "4", "--size", size];
        let (code, report) = load(&serve(echo), &format!("echo-{size}"), &arguments);
        assert_eq!(code, Some(0), "{report}");
        let published = &report["traffic"]["published"];
        assert!(published.as_u64().unwrap() >= 4);
        assert_eq!(&report["traffic"]["delivered"], published);
    }
}

#[test]
fn connections_are_replaced_by_churn() {
    let arguments = ["--scenario", "churn", "--connections", "5", "--rate", "50"];
    let (code, report) = load(&serve(echo), "churn", &arguments);
    assert_eq!(code, Some(0), "{report}");
    assert!(report["traffic"]["reopened"].as_u64().unwrap() > 1);
    assert_eq!(report["latency"]["reopen"]["count"], report["traffic"]["reopened"]);
}

#[test]
fn a_stalled_subscriber_is_not_waited_for() {
    let scenario = file("stalled.toml");
    let text = "question = '?'\ntraffic = 'fanout'\nconnections = 10\nduration = '1s'\n\
                stalled_percent = 20.0";
    fs::write(&scenario, text).unwrap();
    let arguments = ["--scenario", scenario.to_str().unwrap()];
    let (code, report) = load(&serve(broadcast), "stalled", &arguments);
    assert_eq!(code, Some(0), "{report}");
    assert_delivered(&report, 8);
}

#[test]
fn repeated_cut_and_lost_are_errors() {
    let fanout = ["--scenario", "fanout", "--connections", "2"];
    let arguments = [&fanout[..], &["--warmup", "0", "--grace", "300ms"]].concat();
    for (name, answer, count) in [
        ("repeated", broadcast_twice as Answer, "repeated"),
        ("cut", broadcast_cut, "broken"),
        ("hung-up", hang_up, "lost"),
    ] {
        let (code, report) = load(&serve(answer), name, &arguments);
        assert_eq!(code, Some(1), "{report}");
        assert!(report["traffic"][count].as_u64().unwrap() > 0, "{report}");
        assert!(!report["errors"].as_array().unwrap().is_empty());
    }
}

#[test]
fn a_refused_upgrade_is_an_error_with_its_status() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("ws://{}/ws/bench", listener.local_addr().unwrap());
    thread::spawn(move || {
        for stream in listener.incoming() {
            let head = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n";
            let _ = stream.unwrap().write_all(head);
        }
    });
    let arguments = ["--scenario", "fanout", "--connections", "2"];
    let (code, report) = load(&url, "refused", &arguments);
    assert_eq!(code, Some(1));
    assert!(report["errors"][0].as_str().unwrap().contains("503"), "{report}");
}

#[test]
fn two_logs_are_compared_and_drawn() {
    let (log, svg) = (file("log.hlog"), file("curves.svg"));
    let (log, svg) = (log.to_str().unwrap(), svg.to_str().unwrap());
    let arguments = ["--scenario", "echo", "--connections", "2", "--out", log];
    assert_eq!(load(&serve(echo), "log", &arguments).0, Some(0));
    let text = fs::read_to_string(log).unwrap();
    assert!(text.starts_with("#scenario     echo"), "{text}");
    assert!(text.contains("Tag=delivery,"));
    let same = bench(&["compare", log, log, "--tolerance", "0", "--svg", svg]);
    assert_eq!(same.status.code(), Some(0));
    assert!(String::from_utf8(same.stdout).unwrap().contains("delivery"));
    assert!(fs::read_to_string(svg).unwrap().contains("<polyline"));
    let nothing = file("empty.hlog");
    fs::write(&nothing, "#nothing\n").unwrap();
    assert_eq!(bench(&["compare", log, nothing.to_str().unwrap()]).status.code(), Some(2));
    assert_eq!(bench(&["compare", log, "/nowhere.hlog"]).status.code(), Some(2));
    assert_eq!(bench(&["compare", log, log, log]).status.code(), Some(2));
    let three = bench(&["compare", log, log, log, log, log, log]);
    assert!(String::from_utf8(three.stdout).unwrap().contains("(+0.0 to +0.0 %)"));
}

#[test]
fn a_debug_build_refuses_to_measure() {
    let output = bench(&["load", "--url", "ws://127.0.0.1:9/", "--scenario", "echo"]);
    if cfg!(debug_assertions) {
        assert_eq!(output.status.code(), Some(2));
        assert!(String::from_utf8(output.stderr).unwrap().contains("debug build"));
    } else {
        assert_eq!(output.status.code(), Some(1));
    }
}

#[test]
fn pairs_need_a_server_that_answers() {
    let output = bench(&["pairs", "--allow-debug", "--server", "true", "--url", "http://x"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8(output.stderr).unwrap().contains("not a ws:// URL"));
}
