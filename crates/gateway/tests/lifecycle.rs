//! Start and end of the real binary: what the start lines say, and what signals do.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::{
    io::{BufRead, BufReader, Read},
    os::{fd::OwnedFd, unix::net::UnixStream},
};

use common::Gateway;
use rustix::process::{Pid, Signal, kill_process};
use socket2::SockRef;
use tungstenite::{Message, protocol::frame::coding::CloseCode};

#[test]
fn the_start_lines_say_what_was_decided_and_why() {
    let mut gateway = Gateway::start(&["--workers", "3", "--connections-max", "1000"]);
    let said = |message: &str| {
        let mut lines = gateway.start_lines.iter();
        lines.find(|line| line["message"] == message).unwrap_or_else(|| panic!("{message}"))
    };
    assert_eq!(said("ringway")["version"], env!("CARGO_PKG_VERSION"));
    assert!(said("running")["kernel"].as_str().unwrap().contains('.'));
    let engine = common::engine_under_test().unwrap_or_else(|| "ring".to_owned());
    assert_eq!(said("engine")["name"], engine);
    assert!(said("engine")["reason"].is_string());
    assert_eq!(said("workers")["count"], 3);
    assert!(said("workers")["reason"].is_string());
    assert_eq!(said("capacity")["connections_max"], 1000);
    let setting = std::fs::read_to_string("/proc/sys/net/ipv4/tcp_migrate_req").unwrap();
    let settle_ms = if setting.trim() == "0" { 500 } else { 0 };
    assert_eq!(said("listeners settle")["ms"], settle_ms);
    assert_eq!(said("clients publish")["state"], "on");
    assert_eq!(said("clients publish")["reason"], "every listener is on loopback");
    assert_eq!(said("origins")["allowed"], "any");
    let stats = gateway.http().get("/stats").json();
    assert_eq!(stats["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(stats["engine"], engine);
    assert_eq!(stats["connections_max"], 1000);
    let workers = stats["workers"].as_array().unwrap();
    let shares: Vec<_> = workers.iter().map(|it| it["connections_max"].as_u64()).collect();
    // 1000 × 1.05 ÷ 3.
    assert_eq!(shares, [Some(350); 3]);
    gateway.signal(Signal::TERM);
    assert_eq!(gateway.wait().code(), Some(0));
}

#[test]
fn a_signal_drains_and_the_process_ends_when_nobody_is_left() {
    // It waits for no timeout: the tests do not last so long.
    let flags = ["--workers", "2", "--drain", "1s", "--close-timeout", "10m"];
    let mut gateway = Gateway::start(&flags);
    let mut clients: Vec<_> = (0..20).map(|_| gateway.open("/ws/room")).collect();
    gateway.stats_until(|stats| stats["connections"] == 20);
    assert_eq!(gateway.http().get("/readyz").status, 200);
    gateway.signal(Signal::TERM);
    for client in &mut clients {
        let Message::Close(Some(close)) = client.read().unwrap() else { panic!("no Close frame") };
        assert_eq!(close.code, CloseCode::Restart);
        assert_eq!(close.reason.as_str(), "restarting");
        while client.read().is_ok() {}
    }
    assert_eq!(gateway.wait().code(), Some(0));
}

/// The gateway cannot have gone on far from the line that is read: what takes its lines has room for
/// a few, and many are to come.
#[test]
fn whoever_reads_that_it_listens_may_signal_it() {
    let (reader, writer) = UnixStream::pair().unwrap();
    SockRef::from(&writer).set_send_buffer_size(1).unwrap();
    let listen = std::iter::repeat_n(["--listen", "127.0.0.1:0"], 60).flatten();
    let mut command = common::ringway();
    command.arg("serve").args(listen).args(["--admin", "off", "--workers", "1"]);
    let mut gateway = command.stderr(OwnedFd::from(writer)).spawn().unwrap();
    drop(command);
    let mut reader = BufReader::with_capacity(1, reader);
    let mut line = String::new();
    while !line.contains("listening") {
        line.clear();
        assert_ne!(reader.read_line(&mut line).unwrap(), 0, "it has ended");
    }
    let id = Pid::from_raw(gateway.id().cast_signed()).unwrap();
    kill_process(id, Signal::TERM).unwrap();
    let mut lines = String::new();
    reader.read_to_string(&mut lines).unwrap();
    assert_eq!(gateway.wait().unwrap().code(), Some(0), "{lines}");
    assert!(lines.contains("drained"), "{lines}");
}

#[test]
fn while_draining_the_gateway_is_not_ready_and_a_second_signal_ends_it() {
    let mut gateway = Gateway::start(&["--drain", "10m", "--drain-delay", "10m"]);
    let mut client = gateway.open("/ws/room");
    let mut http = gateway.http();
    // Ready, once the workers have reported for the first time.
    while http.get("/readyz").status == 503 {}
    gateway.signal(Signal::INT);
    while http.get("/readyz").status == 200 {}
    assert_eq!(http.get("/readyz").status, 503);
    assert_eq!(http.get("/healthz").status, 200);
    // Within the delay all goes on, for those that are connected and for newcomers.
    client.send("still here".into()).unwrap();
    assert_eq!(client.read().unwrap(), Message::text("still here"));
    drop(gateway.open("/ws/room"));
    assert!(gateway.is_running());
    gateway.signal(Signal::TERM);
    assert_eq!(gateway.wait().code(), Some(0));
}

#[test]
fn the_data_plane_answers_probes() {
    let gateway = Gateway::start(&[]);
    let mut http = common::http::Http::new(gateway.data);
    for target in ["/healthz", "/readyz"] {
        let response = http.get(target);
        assert_eq!((response.status, response.text().trim_end()), (200, "ok"), "{target}");
    }
}

#[test]
fn a_restart_takes_the_same_port_at_once() {
    let mut first = Gateway::start(&["--drain", "0", "--close-timeout", "100ms"]);
    let address = first.data;
    let client = first.open("/ws/room");
    first.signal(Signal::TERM);
    assert_eq!(first.wait().code(), Some(0));
    let _second = Gateway::start(&["--listen", &address.to_string()]);
    drop(client);
    let stream = std::net::TcpStream::connect(address).unwrap();
    assert!(tungstenite::client(format!("ws://{address}/ws/room"), stream).is_ok());
}

#[test]
fn closes_that_the_peer_did_not_ask_for_are_logged() {
    let mut gateway = Gateway::start(&["--workers", "1", "--client-publish", "off"]);
    let mut client = gateway.open("/ws/room");
    client.send("not allowed".into()).unwrap();
    let address = client.get_ref().local_addr().unwrap().to_string();
    let line = gateway.line(|line| line["address"] == *address);
    assert_eq!(line["reason"], "publishing_is_off");
    assert_eq!(line["code"], "1008");
    assert_eq!(line["topics"], "room");
    assert_eq!(line["level"], "info");
}

#[test]
fn workers_do_not_take_signals() {
    let gateway = Gateway::start(&["--workers", "2"]);
    let id = gateway.id();
    let tasks = std::fs::read_dir(format!("/proc/{id}/task")).unwrap();
    let mut workers = 0;
    for task in tasks.map(Result::unwrap) {
        let name = std::fs::read_to_string(task.path().join("comm")).unwrap();
        if !name.starts_with("ringway-") {
            continue;
        }
        workers += 1;
        let status = std::fs::read_to_string(task.path().join("status")).unwrap();
        let blocked = status.lines().find_map(|line| line.strip_prefix("SigBlk:")).unwrap();
        let blocked = u64::from_str_radix(blocked.trim(), 16).unwrap();
        for signal in [Signal::TERM, Signal::INT, Signal::HUP] {
            assert_ne!(blocked & 1 << (signal.as_raw() - 1), 0, "{name}: {signal:?}");
        }
    }
    assert_eq!(workers, 2);
}

#[test]
fn a_worker_without_connections_takes_letters_while_another_drains() {
    // More messages than a queue between two workers holds, from a client of only one of them.
    const MESSAGES: usize = 1_500;
    let mut gateway = Gateway::start(&["--workers", "2", "--drain", "10m"]);
    let mut client = gateway.open("/ws/room");
    gateway.signal(Signal::TERM);
    let mut http = gateway.http();
    while !http.get("/readyz").text().contains("draining") {}
    for number in 0..MESSAGES {
        client.send(Message::text(number.to_string())).unwrap();
        assert_eq!(client.read().unwrap(), Message::text(number.to_string()));
    }
    gateway.signal(Signal::TERM);
    assert_eq!(gateway.wait().code(), Some(0));
}

#[test]
fn a_connection_that_has_its_age_is_closed_as_moving() {
    let gateway = Gateway::start(&["--connection-age-max", "200ms"]);
    let mut client = gateway.open("/ws/room");
    let Message::Close(Some(close)) = client.read().unwrap() else { panic!("no Close frame") };
    assert_eq!((close.code, close.reason.as_str()), (CloseCode::Restart, "moving"));
}
