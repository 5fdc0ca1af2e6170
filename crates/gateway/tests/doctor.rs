//! `ringway doctor` says of this machine what `ringway serve` then does on it, and what it cannot do.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::{
    fs,
    process::{Command, Output, Stdio},
};

use common::{Gateway, ringway, ringway_within};
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, geteuid, pidfd_getfd, pidfd_open};
use serde_json::Value;
use socket2::Socket;

/// What it says as JSON, and its exit code.
fn doctor(mut command: Command, flags: &[&str]) -> (Value, Option<i32>) {
    let output = command.args(["doctor", "--json"]).args(flags).output().unwrap();
    let Output { status, stdout, stderr } = output;
    let parsed = serde_json::from_slice(&stdout);
    let report = parsed.unwrap_or_else(|error| panic!("{error}: {stderr:?}"));
    (report, status.code())
}

fn check<'a>(report: &'a Value, name: &str) -> &'a Value {
    let checks = report["checks"].as_array().unwrap();
    checks.iter().find(|check| check["name"] == name).unwrap()
}

/// What `serve` said at its start under this heading.
fn line<'a>(gateway: &'a Gateway, message: &str) -> &'a Value {
    gateway.start_lines.iter().find(|line| line["message"] == message).unwrap()
}

/// The binary, with so many descriptors.
fn ringway_with_descriptors(count: u32) -> Command {
    let mut command = Command::new("sh");
    let script = format!("ulimit -n {count} || exit; exec \"$0\" \"$@\"");
    command.args(["-c", &script, env!("CARGO_BIN_EXE_ringway")]);
    command
}

#[test]
fn what_doctor_says_is_what_serve_does() {
    // For `auto` it judges the ring engine.
    let (report, code) = doctor(ringway(), &["--connections", "1000", "--engine", "auto"]);
    assert_eq!((&report["holds"], code), (&true.into(), Some(0)), "{report:#}");
    assert_eq!(check(&report, "io_uring")["holds"], true);
    let features = check(&report, "kernel features");
    assert!(features["holds"].is_boolean(), "{features}");
    let gateway = Gateway::start(&["--connections-max", "1000", "--engine", "ring"]);
    let workers = line(&gateway, "workers");
    assert_eq!(report["workers"], workers["count"]);
    let cpus = check(&report, "CPUs");
    let cores = format!("cores {};", workers["cores"].as_str().unwrap());
    assert!(cpus["value"].as_str().unwrap().starts_with(&cores), "{cpus} {workers}");
    assert_eq!(cpus["holds"], workers["pinned"], "{cpus} {workers}");
    assert!(cpus["why"].as_str().unwrap().ends_with(workers["reason"].as_str().unwrap()));
    let descriptors = line(&gateway, "capacity")["descriptors"].as_u64().unwrap();
    let told = check(&report, "RLIMIT_NOFILE")["value"].as_str().unwrap();
    assert!(told.starts_with(&format!("{descriptors}:")) || told.starts_with("unlimited"));
    let migrates = check(&report, "net.ipv4.tcp_migrate_req")["holds"].as_bool().unwrap();
    let ms = if migrates { 0 } else { 500 };
    assert_eq!(line(&gateway, "listeners settle")["ms"], ms);
    // What the engine said of itself, it says to both.
    let notes = report["notes"].as_array().unwrap();
    let lines = gateway.start_lines.iter().filter(|line| line["note"].is_string());
    let mut told = 0;
    for line in lines {
        assert!(notes.contains(&line["note"]), "{line} {notes:?}");
        told += 1;
    }
    assert!(told > 0);
}

#[test]
fn the_bound_of_what_is_not_sent_is_told_and_that_of_the_listeners() {
    let file = std::env::temp_dir().join(format!("ringway-unsent-{}.toml", std::process::id()));
    let bounds = "[limits]\nunsent_bytes_max = 20480\n";
    fs::write(&file, bounds).unwrap();
    let flags = ["--connections", "100", "--config", file.to_str().unwrap()];
    let (report, _) = doctor(ringway(), &flags);
    fs::remove_file(&file).unwrap();
    let why = check(&report, "tcp_notsent_lowat")["why"].as_str().unwrap().to_owned();
    assert!(why.starts_with("each listener sets 20KiB for its connections"), "{why}");
    // This engine leaves its listeners where they can be looked at.
    let gateway = Gateway::start_with(bounds, &["--engine", "epoll", "--workers", "1"]);
    let id = gateway.id().cast_signed();
    let process = pidfd_open(Pid::from_raw(id).unwrap(), PidfdFlags::empty()).unwrap();
    let mut listeners = 0;
    for entry in fs::read_dir(format!("/proc/{id}/fd")).unwrap() {
        let number = entry.unwrap().file_name().to_str().unwrap().parse().unwrap();
        let descriptor = pidfd_getfd(&process, number, PidfdGetfdFlags::empty());
        let Ok(descriptor) = descriptor else { continue };
        let socket = Socket::from(descriptor);
        let address = socket.local_addr().ok().and_then(|address| address.as_socket());
        if address == Some(gateway.data) {
            assert_eq!(socket.tcp_notsent_lowat().unwrap(), 20_480);
            listeners += 1;
        }
    }
    assert_eq!(listeners, 1);
}

#[test]
fn too_few_descriptors_for_the_workers_asked_for_are_in_the_way() {
    let flags = ["--workers", "2", "--connections-max", "1000"];
    let (report, code) = doctor(ringway_with_descriptors(300), &flags);
    assert_eq!((&report["holds"], code), (&false.into(), Some(1)), "{report:#}");
    assert_eq!(report["connections"], 1000, "those of --connections-max");
    assert_eq!(
        check(&report, "RLIMIT_NOFILE")["value"],
        "300: 236 connections, of each ring's table"
    );
    assert_eq!(check(&report, "RLIMIT_NOFILE")["holds"], false);
    let flags = [&flags[..], &["--engine", "ring"]].concat();
    let gateway = Gateway::spawn(ringway_with_descriptors(300), "", &flags);
    line(&gateway, "the workers cannot hold --connections-max");

    let (report, code) = doctor(ringway_with_descriptors(300), &["--connections", "1000"]);
    assert_eq!(code, Some(0), "{report:#}");
    assert_eq!(check(&report, "RLIMIT_NOFILE")["holds"], true);
    // 1000 ÷ 236, rounded up, unless the machine has more cores than that.
    assert!(report["workers"].as_u64().unwrap() >= 5, "{report:#}");
}

/// 999 descriptors less a quarter, 249, and 64 for each worker; more workers have less between them.
#[test]
fn the_descriptors_of_an_engine_that_shares_them_are_counted_as_serve_counts_them() {
    for engine in ["epoll", "tokio-uring"] {
        let flags = ["--engine", engine, "--workers", "2"];
        let doctor = |connections: &str| {
            let flags = [&flags[..], &["--connections", connections]].concat();
            doctor(ringway_with_descriptors(999), &flags)
        };
        let (report, code) = doctor("622");
        assert_eq!((&report["holds"], code), (&true.into(), Some(0)), "{report:#}");
        let row = check(&report, "RLIMIT_NOFILE");
        assert_eq!(row["value"], "999: 622 connections, of the process");
        assert_eq!(row["wanted"], "at least 999, for 2 workers");
        let (report, code) = doctor("623");
        assert_eq!((&report["holds"], code), (&false.into(), Some(1)), "{report:#}");
        let gateway = Gateway::spawn(ringway_with_descriptors(999), "", &flags);
        assert_eq!(line(&gateway, "capacity")["connections_max"], 622);
    }
}

#[test]
fn too_little_memory_to_lock_is_in_the_way_as_serve_says() {
    if !geteuid().is_root() {
        // What other processes of the user have locked counts too, so that nothing is certain.
        return;
    }
    // Both wait for memory for 5 s, at the same time.
    let flags = ["serve", "--listen", "127.0.0.1:0", "--admin", "off", "--workers", "1"];
    let mut serve = ringway_within(64);
    serve.args(flags).args(["--engine", "ring"]).stderr(Stdio::piped());
    let serve = serve.spawn().unwrap();
    let flags = ["--connections", "100", "--workers", "1", "--engine", "ring"];
    let (report, code) = doctor(ringway_within(64), &flags);
    assert_eq!((&report["holds"], code), (&false.into(), Some(1)), "{report:#}");
    assert_eq!(check(&report, "RLIMIT_MEMLOCK")["holds"], false);
    let io_uring = check(&report, "io_uring");
    assert_eq!(io_uring["holds"], false);
    let said = io_uring["how"].as_str().unwrap();
    let serve = serve.wait_with_output().unwrap();
    assert_eq!(serve.status.code(), Some(1));
    assert!(String::from_utf8(serve.stderr).unwrap().contains(said), "{said}");
}

#[test]
fn the_flags_of_serve_are_taken_and_wrong_usage_is_exit_code_2() {
    for flags in [
        &["--connections", "0"][..],
        &["--connections", "many"],
        &["--cores", "1000"],
        &["--config", "/does/not/exist"],
        &["--mesage-bytes-max", "1KiB"],
    ] {
        let output = ringway().arg("doctor").args(flags).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{flags:?}");
        assert!(output.stdout.is_empty() && !output.stderr.is_empty(), "{flags:?}");
    }
    let output =
        ringway().args(["doctor", "--connections", "100", "--engine", "auto"]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{text}");
    assert!(text.ends_with("all that 100 connections require holds\n"), "{text}");
    assert!(text.contains("lsof, ss -p and /proc/PID/fd"), "{text}");
}
