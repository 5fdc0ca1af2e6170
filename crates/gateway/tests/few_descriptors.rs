//! Where connections are ordinary descriptors and the process runs out of them, nobody is lost who
//! waits, the others are served, and the workers do not turn in vain.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::{io::Write, net::TcpStream};

use common::{
    Gateway,
    http::Response,
    raw::{exchange, frame, open, read_frame, upgrade},
    ringway,
};
use rustix::process::{Pid, Resource, Rlimit, prlimit};

/// Sets the soft limit of descriptors of a running process; returns what it was.
fn limit_descriptors(gateway: &Gateway, current: Option<u64>) -> Option<u64> {
    let pid = Pid::from_raw(gateway.id().cast_signed()).unwrap();
    let maximum = rustix::process::getrlimit(Resource::Nofile).maximum;
    prlimit(Some(pid), Resource::Nofile, Rlimit { current, maximum }).unwrap().current
}

#[test]
fn who_finds_no_descriptor_waits_and_is_served_when_there_is_one() {
    waits_and_is_served(&["--engine", "epoll"]);
}

#[test]
fn on_a_ring_with_ordinary_descriptors_too() {
    waits_and_is_served(&["--engine", "ring", "--descriptors", "ordinary"]);
}

fn waits_and_is_served(engine: &[&str]) {
    let flags = [engine, &["--workers", "1", "--ping-interval", "0"]].concat();
    let gateway = Gateway::start_with("[limits]\naccepts_armed_max = 2\n", &flags);
    let member = gateway.connect();
    open(&member, "/ws/room");
    // Its own are kept open: new ones would need numbers beyond the limit.
    let mut control = gateway.http();
    control.get("/stats");
    let before = limit_descriptors(&gateway, Some(1));
    let waiting: Vec<TcpStream> = (0..10).map(|_| gateway.connect()).collect();
    for client in &waiting {
        let mut client: &TcpStream = client;
        client.write_all(upgrade("/ws/room", "").as_bytes()).unwrap();
    }
    // Both of one report, however long this takes to ask for them.
    let counted = |control: &mut common::http::Http| {
        let page = control.get("/metrics");
        let of = |name: &str| -> u64 {
            let line = page.text().lines().find_map(|line| line.strip_prefix(name)).unwrap();
            line.trim().parse().unwrap()
        };
        (of("ringway_accepts_failed_total "), of("ringway_engine_enters_total "))
    };
    let until = |control: &mut common::http::Http, failed_min: u64| loop {
        let (failed, enters) = counted(control);
        if failed >= failed_min {
            return (failed, enters);
        }
    };
    let (failed_before, enters_before) = until(&mut control, 1);
    let (failed, enters) = until(&mut control, failed_before + 20);
    let per_rest = (enters - enters_before) / (failed - failed_before);
    assert!(per_rest < 20, "{per_rest} system calls a rest");
    // Who is there is served.
    (&member).write_all(&frame(0x81, b"still here")).unwrap();
    assert_eq!(read_frame(&member), Some((0x81, b"still here".to_vec())));
    limit_descriptors(&gateway, before);
    for client in &waiting {
        let response = Response::read_head(&mut std::io::BufReader::with_capacity(1, client));
        assert_eq!(response.status, 101, "{response:?}");
    }
    (&member).write_all(&frame(0x81, b"to all")).unwrap();
    for client in &waiting {
        let mut heard = read_frame(client).unwrap();
        if heard.1 == b"still here" {
            // An accept that a ring had armed goes by the limit of then.
            heard = read_frame(client).unwrap();
        }
        assert_eq!(heard, (0x81, b"to all".to_vec()));
    }
    drop(waiting);
    let response = exchange(&gateway.connect(), upgrade("/ws/room", "").as_bytes());
    assert_eq!(response.status, 101, "{response:?}");
}

#[test]
fn a_process_without_descriptors_for_connections_does_not_start_and_says_what_to_do() {
    let mut command = std::process::Command::new("sh");
    command.args(["-c", r#"ulimit -n 256 && exec "$0" "$@""#]);
    command.arg(ringway().get_program());
    command.args(["serve", "--engine", "epoll", "--workers", "16", "--log-level", "error"]);
    command.args(["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]);
    let output = command.output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    for part in ["RLIMIT_NOFILE = 256", "12 descriptors to each of 16 workers", "ulimit -n"] {
        assert!(said.contains(part), "{part}: {said}");
    }
}
