//! The real binary and its service manager: what it is told by sd_notify(3), and the unit file.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::{
    os::{
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr, UnixDatagram},
    },
    process::Command,
};

use common::{Gateway, PATIENCE};
use rustix::process::Signal;

/// A manager at a name of its own.
struct Manager {
    socket: UnixDatagram,
    name: String,
}

impl Manager {
    fn new(test: &str) -> Self {
        let name = format!("ringway-{test}-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        Self::at(&address, format!("@{name}"))
    }

    fn at(address: &SocketAddr, name: String) -> Self {
        let socket = UnixDatagram::bind_addr(address).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Self { socket, name }
    }

    /// A gateway that it starts, with these variables.
    fn start(&self, variables: &[(&str, &str)], flags: &[&str]) -> Gateway {
        let mut command = common::ringway();
        command.env("NOTIFY_SOCKET", &self.name).envs(variables.iter().copied());
        Gateway::spawn(command, "", flags)
    }

    fn told(&self) -> String {
        let mut buffer = [0; 1_000];
        let length = self.socket.recv(&mut buffer).unwrap();
        String::from_utf8(buffer[..length].to_vec()).unwrap()
    }

    /// What comes next beside signs of life.
    fn told_of_its_state(&self) -> String {
        loop {
            let told = self.told();
            if told != "WATCHDOG=1" {
                return told;
            }
        }
    }
}

#[test]
fn the_manager_hears_of_start_reload_and_stop() {
    let manager = Manager::new("states");
    let mut gateway = manager.start(&[], &["--drain", "2s", "--connections-max", "100"]);
    let ready = format!("READY=1\nSTATUS=serving up to 100 connections on {}", gateway.data);
    assert_eq!(manager.told(), ready);
    drop(gateway.open("/ws/room"));
    gateway.signal(Signal::HUP);
    let reloading = manager.told();
    let began = reloading.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").unwrap();
    assert!(began.parse::<u64>().unwrap() > 0);
    assert_eq!(manager.told(), ready);
    gateway.signal(Signal::TERM);
    let stopping = "STOPPING=1\nSTATUS=draining: accepting for 0 s, then closing over 2 s";
    assert_eq!(manager.told(), stopping);
    assert_eq!(gateway.wait().code(), Some(0));
}

#[test]
fn the_watchdog_gets_signs_of_life() {
    let manager = Manager::new("beats");
    // The socket holds a few datagrams, and what finds it full is lost: a beat is half a second.
    let mut gateway = manager.start(&[("WATCHDOG_USEC", "1000000")], &[]);
    assert!(manager.told().starts_with("READY=1\n"));
    for _ in 0..3 {
        assert_eq!(manager.told(), "WATCHDOG=1");
    }
    gateway.signal(Signal::TERM);
    assert!(manager.told_of_its_state().starts_with("STOPPING=1\n"));
    assert_eq!(gateway.wait().code(), Some(0));
}

#[test]
fn a_manager_at_a_path_and_a_watchdog_of_this_very_process_are_heard() {
    let name = std::env::temp_dir().join(format!("ringway-notify-{}", std::process::id()));
    let address = SocketAddr::from_pathname(&name).unwrap();
    let manager = Manager::at(&address, name.to_str().unwrap().to_owned());
    let mut command = Command::new("sh");
    command.args(["-c", r#"WATCHDOG_PID=$$ exec "$0" "$@""#]).arg(common::ringway().get_program());
    command.env("NOTIFY_SOCKET", &manager.name).env("WATCHDOG_USEC", "100000");
    let _gateway = Gateway::spawn(command, "", &[]);
    assert!(manager.told().starts_with("READY=1\n"));
    assert_eq!(manager.told(), "WATCHDOG=1");
    std::fs::remove_file(name).unwrap();
}

#[test]
fn the_watchdog_of_another_process_is_none_of_ours() {
    let manager = Manager::new("foreign");
    let mut gateway = manager.start(&[("WATCHDOG_USEC", "20000"), ("WATCHDOG_PID", "1")], &[]);
    assert!(manager.told().starts_with("READY=1\n"));
    // Two reports of every worker are a second apart.
    gateway.stats_until(|_| true);
    gateway.signal(Signal::TERM);
    assert!(manager.told().starts_with("STOPPING=1\n"));
    assert_eq!(gateway.wait().code(), Some(0));
}

#[test]
fn a_socket_that_is_not_there_is_a_warning() {
    let mut command = common::ringway();
    command.env("NOTIFY_SOCKET", "/nonexistent/notify");
    let mut gateway = Gateway::spawn(command, "", &[]);
    let warning = "NOTIFY_SOCKET cannot be used";
    assert!(gateway.start_lines.iter().any(|line| line["message"] == warning));
    gateway.signal(Signal::TERM);
    assert_eq!(gateway.wait().code(), Some(0));
}

#[test]
fn the_unit_gives_what_the_limits_file_gives_and_time_to_drain() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../kernel-tuning");
    let unit = std::fs::read_to_string(format!("{folder}/systemd/ringway.service")).unwrap();
    let limits = std::fs::read_to_string(format!("{folder}/limits.d/60-ringway.conf")).unwrap();
    let of_unit = |key: &str| {
        let value = unit.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
        value.unwrap().trim_end_matches('s').parse::<u64>().unwrap()
    };
    let of_limits = |item: &str| {
        let mut lines = limits.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        lines.find(|words| words.get(2) == Some(&item)).unwrap()[3].parse::<u64>().unwrap()
    };
    assert_eq!(of_unit("LimitNOFILE"), of_limits("nofile"));
    assert_eq!(of_unit("LimitMEMLOCK"), of_limits("memlock") * 1024);
    let printed =
        Command::new(common::ringway().get_program()).args(["config", "--print"]).output();
    let printed: toml::Table = String::from_utf8(printed.unwrap().stdout).unwrap().parse().unwrap();
    let seconds = |key: &str| {
        let text = printed[key].as_str().unwrap();
        text.trim_end_matches('s').parse::<u64>().unwrap()
    };
    let longest = seconds("drain-delay") + seconds("drain") + seconds("close-timeout");
    assert!(of_unit("TimeoutStopSec") > longest);
}
