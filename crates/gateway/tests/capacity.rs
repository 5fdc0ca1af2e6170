//! A process takes as many connections as it may, refuses the rest with 503, and takes others when
//! some have left; and nothing stays of those who come and go. At full size:
//! `ringway-bench check capacity` and `ringway-bench check rounds`.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::{
    io::{Read, Write},
    net::{Shutdown, TcpStream},
    time::{Duration, Instant},
};

use common::{
    Gateway, PATIENCE,
    http::Http,
    raw::{exchange, frame, open, read_frame, upgrade},
    sum, workers,
};
use socket2::SockRef;

/// Connects until the process is full, as its workers are dealt connections unevenly; returns who
/// was taken and how many were refused.
fn fill(gateway: &Gateway, open: usize, connections_max: usize) -> (Vec<TcpStream>, u64) {
    let until = Instant::now() + PATIENCE;
    let (mut taken, mut refused) = (Vec::new(), 0);
    while open + taken.len() < connections_max {
        assert!(Instant::now() < until, "{} of {connections_max}, {refused} refused", taken.len());
        let stream = gateway.connect();
        let response = exchange(&stream, upgrade("/ws/room", "").as_bytes());
        if response.status == 101 {
            taken.push(stream);
            continue;
        }
        assert_eq!(response.status, 503, "{response:?}");
        assert!(response.header("retry-after").is_some(), "{response:?}");
        refused += 1;
    }
    (taken, refused)
}

#[test]
fn a_full_process_answers_503_and_takes_others_when_some_leave() {
    let gateway = Gateway::start(&["--workers", "2", "--connections-max", "20"]);
    // 20 × 1.05 ÷ 2, rounded up.
    let shares: Vec<u64> = workers(&gateway.http().get("/stats").json())
        .iter()
        .map(|worker| worker["connections_max"].as_u64().unwrap())
        .collect();
    assert_eq!(shares, [11, 11]);
    let (mut clients, mut refused) = fill(&gateway, 0, 22);
    for _ in 0..20 {
        let response = exchange(&gateway.connect(), upgrade("/ws/room", "").as_bytes());
        assert_eq!(response.status, 503);
        refused += 1;
    }
    gateway.stats_until(|stats| stats["connections"] == 22);
    for plane in [gateway.data, gateway.admin] {
        let response = Http::new(plane).get("/readyz");
        assert_eq!(response.status, 503, "{plane}: {response:?}");
        assert!(response.header("retry-after").is_some(), "{plane}: {response:?}");
        assert_eq!(Http::new(plane).get("/healthz").status, 200, "{plane}");
    }
    clients.truncate(9);
    gateway.stats_until(|stats| stats["connections"] == 9);
    let (others, refused_again) = fill(&gateway, 9, 22);
    refused += refused_again;
    let stats = gateway.stats_until(|stats| stats["connections"] == 22);
    assert_eq!(sum(&stats, &["refused", "full"]), refused, "{stats:#}");
    drop((clients, others));
    gateway.stats_at_rest();
}

/// Memory that is the process's own, in KiB: of its code it has a share, which other tests change.
fn own_kib(gateway: &Gateway) -> u64 {
    let path = format!("/proc/{}/smaps_rollup", gateway.id());
    let rollup = std::fs::read_to_string(path).unwrap();
    let kib = rollup.lines().find_map(|line| line.strip_prefix("Pss_Anon:")).unwrap();
    kib.trim().strip_suffix(" kB").unwrap().parse().unwrap()
}

#[test]
fn nothing_stays_of_connections_that_come_and_go() {
    const CLIENTS: u64 = 200;
    let gateway = Gateway::start(&["--workers", "2"]);
    let mut of_second = u64::MAX;
    for round in 0..6 {
        let clients: Vec<TcpStream> = (0..CLIENTS)
            .map(|number| {
                let stream = gateway.connect();
                open(&stream, &format!("/ws?topic=room&topic=user-{number}"));
                stream
            })
            .collect();
        let reason = ["reset", "peer_closed", "peer_gone"][round % 3];
        for mut client in &clients {
            match reason {
                "reset" => SockRef::from(client).set_linger(Some(Duration::ZERO)).unwrap(),
                "peer_closed" => {
                    client.write_all(&frame(0x88, b"\x03\xe8")).unwrap();
                    assert_eq!(read_frame(client), Some((0x88, b"\x03\xe8".to_vec())));
                    assert_eq!(client.read(&mut [0]).unwrap(), 0);
                }
                _ => {
                    client.shutdown(Shutdown::Write).unwrap();
                    assert_eq!(client.read(&mut [0]).unwrap(), 0);
                }
            }
        }
        drop(clients);
        let stats = gateway.stats_at_rest();
        let so_often = round as u64 / 3 + 1;
        assert_eq!(sum(&stats, &["closed", reason]), so_often * CLIENTS, "{stats:#}");
        assert_eq!(sum(&stats, &["opened"]), (round as u64 + 1) * CLIENTS, "{stats:#}");
        let kib = own_kib(&gateway);
        if round == 1 {
            of_second = kib;
        }
        assert!(kib <= of_second.saturating_add(2048), "{kib} KiB, {of_second} before");
    }
}
