//! The real binary and its service manager: what it is told by sd_notify(3), and the unit file, whose
//! filter of system calls is put around the binary.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::{
    collections::{BTreeMap, BTreeSet},
    io::Write,
    os::{
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr, UnixDatagram},
    },
    process::Command,
};

use common::{
    Gateway, PATIENCE,
    raw::{frame, open, read_close, read_frame},
    seccomp,
};
use rustix::process::Signal;
use serde_json::json;

const UNIT: &str = include_str!("../../../kernel-tuning/systemd/ringway.service");

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
    let limits = include_str!("../../../kernel-tuning/limits.d/60-ringway.conf");
    let of_unit = |key: &str| {
        let value = UNIT.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
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

/// What systemd-analyze says.
fn analyzed(arguments: &[&str]) -> (Option<i32>, String) {
    let output = Command::new("systemd-analyze").args(arguments).output();
    let output = output.expect("systemd-analyze is there (Debian: systemd)");
    let said = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8(said).unwrap())
}

#[test]
fn the_unit_has_no_mistake_and_exposes_as_little_as_it_did() {
    let folder = std::env::temp_dir().join(format!("ringway-unit-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let gateway = common::ringway();
    let start = format!("ExecStart={} serve", gateway.get_program().to_str().unwrap());
    assert!(UNIT.contains("\nExecStart=ringway serve ") && UNIT.contains("\n#CPUAffinity="));
    let unit = UNIT.replace("ExecStart=ringway serve", &start);
    // What stands in a comment for whoever wants it is no mistake either.
    let unit = unit.replace("\n#CPUAffinity=", "\nCPUAffinity=");
    // The second is the package's: the same file, as a template.
    for (file, name) in
        [("ringway.service", "ringway.service"), ("ringway@.service", "ringway@b.service")]
    {
        std::fs::write(folder.join(file), &unit).unwrap();
        let path = folder.join(name);
        let verified = analyzed(&["verify", "--recursive-errors=no", path.to_str().unwrap()]);
        assert_eq!(verified, (Some(0), String::new()), "{name}");
    }
    let path = folder.join("ringway.service");
    let security = ["security", "--offline=yes", "--threshold=17", path.to_str().unwrap()];
    let (code, said) = analyzed(&security);
    assert_eq!(code, Some(0), "{said}");
    std::fs::remove_dir_all(folder).unwrap();
}

/// The system calls of each of systemd's sets, such as `@system-service`, which may name others.
fn sets() -> BTreeMap<String, Vec<String>> {
    let (code, text) = analyzed(&["syscall-filter", "--no-pager"]);
    assert_eq!(code, Some(0), "{text}");
    let mut sets: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut current = String::new();
    for line in text.lines().filter(|line| !line.trim_start().starts_with('#')) {
        match line.strip_prefix("    ") {
            Some(name) => sets.entry(current.clone()).or_default().push(name.to_owned()),
            None => line.clone_into(&mut current),
        }
    }
    sets
}

/// A name, or what it stands for.
fn expand(sets: &BTreeMap<String, Vec<String>>, name: &str) -> BTreeSet<String> {
    match sets.get(name) {
        Some(names) => names.iter().flat_map(|name| expand(sets, name)).collect(),
        None => BTreeSet::from([name.to_owned()]),
    }
}

/// What the unit's filter allows, by systemd.exec(5): `@default`, what is named, less what stands
/// behind `~`, line by line.
fn allowed() -> BTreeSet<String> {
    let sets = sets();
    let mut allowed = expand(&sets, "@default");
    for line in UNIT.lines().filter_map(|line| line.strip_prefix("SystemCallFilter=")) {
        let (names, is_allowed) = line.strip_prefix('~').map_or((line, true), |it| (it, false));
        for call in names.split_whitespace().flat_map(|name| expand(&sets, name)) {
            if is_allowed {
                allowed.insert(call)
            } else {
                allowed.remove(&call)
            };
        }
    }
    allowed
}

#[test]
fn every_engine_serves_under_the_units_filter_and_makes_no_call_that_it_refuses() {
    let allowed = allowed();
    assert!(allowed.contains("read") && !allowed.contains("setpriority"), "{allowed:?}");
    let rules: Vec<_> = allowed.iter().map(|name| json!({ "syscall": name })).collect();
    // The unit says EPERM, which the binary might survive unnoticed.
    let filter = seccomp::filter(&rules, &json!("allow"), &json!("kill_process"));
    for flags in [
        ["--engine", "ring", "--zero-copy-bytes-min", "0"],
        ["--engine", "ring", "--zero-copy-bytes-min", "4KiB"],
        ["--engine", "tokio-uring", "--zero-copy-bytes-min", "0"],
        ["--engine", "epoll", "--zero-copy-bytes-min", "0"],
    ] {
        // A child that another test starts has all descriptors for a moment, and with them the name.
        let manager = Manager::new(&flags.concat());
        let variables = [("NOTIFY_SOCKET", manager.name.clone())];
        let filter = filter.clone();
        let start = move || {
            let mut command = common::ringway();
            command.envs(variables).env("WATCHDOG_USEC", "1000000");
            let flags = [&["--workers", "2", "--pin", "on"], &flags[..]].concat();
            Gateway::spawn(command, "drain = \"0\"\n", &flags)
        };
        let mut gateway = seccomp::under(vec![filter], start);
        let engine = gateway.start_lines.iter().find(|line| line["message"] == "engine");
        assert_eq!(engine.unwrap()["name"], flags[1]);
        serves_and_drains(&mut gateway);
        assert!(manager.told().starts_with("READY=1\n"));
    }
}

/// Lets it do what an ordinary life brings.
fn serves_and_drains(gateway: &mut Gateway) {
    let clients: Vec<_> = (0..8).map(|_| gateway.connect()).collect();
    clients.iter().for_each(|client| open(client, "/ws/room"));
    (&clients[0]).write_all(&frame(0x81, b"to all")).unwrap();
    // Before the next is published: it takes another way.
    for client in &clients {
        assert_eq!(read_frame(client), Some((0x81, b"to all".to_vec())));
    }
    let long = vec![7; 9_000];
    let mut http = gateway.http();
    let response = http.post("/publish/room?as=binary", "", &long);
    assert_eq!(response.json()["receivers"], 8, "{response:?}");
    for client in &clients {
        assert!(read_frame(client) == Some((0x82, long.clone())));
    }
    for target in ["/stats", "/metrics", "/latency", "/connections", "/readyz"] {
        assert_eq!(http.get(target).status, 200, "{target}");
    }
    gateway.configure("drain = \"1ms\"\n");
    gateway.signal(Signal::HUP);
    let line = gateway.line(|line| line["message"] == "configuration reloaded");
    assert_eq!(line["changed"], "drain");
    gateway.signal(Signal::TERM);
    for client in &clients {
        assert_eq!(read_close(client).0, 1012);
    }
    drop(clients);
    assert_eq!(gateway.wait().code(), Some(0));
}
