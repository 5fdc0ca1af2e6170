//! What stands in `packaging`: the configuration that is shipped, the profile that is made of a
//! runtime's, and times to stop that are above those which the drain takes.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::process::{Command, Output};

use common::temporary_file;
use serde_json::{Value, json};

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/packaging/containers");

/// What is made of a runtime's profile.
fn made_of(profile: &Value) -> Output {
    let file = temporary_file(&profile.to_string());
    let output = Command::new("python3").arg(format!("{FOLDER}/seccomp")).arg(&file).output();
    std::fs::remove_file(file).unwrap();
    output.unwrap()
}

#[test]
fn the_profile_is_the_runtimes_with_io_uring() {
    let allowed = json!({ "names": ["read", "write"], "action": "SCMP_ACT_ALLOW" });
    let output = made_of(&json!({
        "defaultAction": "SCMP_ACT_ERRNO",
        "syscalls": [
            { "names": ["io_uring_setup"], "action": "SCMP_ACT_ERRNO" },
            { "names": ["bpf", "io_uring_enter"], "action": "SCMP_ACT_ERRNO" },
            allowed,
        ],
    }));
    assert!(output.status.success(), "{output:?}");
    let made: Value = serde_json::from_slice(&output.stdout).unwrap();
    let io_uring = json!({
        "names": ["io_uring_setup", "io_uring_enter", "io_uring_register"],
        "action": "SCMP_ACT_ALLOW",
    });
    let refused = json!({ "names": ["bpf"], "action": "SCMP_ACT_ERRNO" });
    let syscalls = json!([refused, allowed, io_uring]);
    assert_eq!(made, json!({ "defaultAction": "SCMP_ACT_ERRNO", "syscalls": syscalls }));
}

#[test]
fn a_profile_that_allows_by_default_is_none_to_add_to() {
    let output = made_of(&json!({ "defaultAction": "SCMP_ACT_ALLOW", "syscalls": [] }));
    assert_eq!(output.status.code(), Some(1));
    assert!(output.stdout.is_empty());
}

/// The number of seconds behind a key of one of the files.
fn seconds(file: &str, key: &str) -> u64 {
    let text = std::fs::read_to_string(format!("{FOLDER}/{file}")).unwrap();
    let (_, behind) = text.split_once(key).unwrap_or_else(|| panic!("{key} in {file}"));
    let digits: String = behind.chars().skip_while(|it| !it.is_ascii_digit()).collect();
    digits.split(|it: char| !it.is_ascii_digit()).next().unwrap().parse().unwrap()
}

#[test]
fn there_is_time_to_drain_and_to_close() {
    const CLOSE_TIMEOUT: u64 = 5;
    let file = "kubernetes.yaml";
    let drain = seconds(file, "RINGWAY_DRAIN_DELAY\n") + seconds(file, "RINGWAY_DRAIN\n");
    assert_eq!(drain, 35);
    assert!(seconds(file, "terminationGracePeriodSeconds:") > drain + CLOSE_TIMEOUT);
    // The defaults, which tests/systemd.rs reads out of the binary.
    assert!(seconds("compose.yaml", "stop_grace_period:") > 25 + CLOSE_TIMEOUT);
}

#[test]
fn what_the_shipped_configuration_has_in_comments_is_a_configuration() {
    let text = std::fs::read_to_string(format!("{FOLDER}/../ringway.toml")).unwrap();
    // A setting has its comment sign right before it, words have a space between.
    let said = text.lines().map(|line| match line.strip_prefix('#') {
        Some(setting) if !setting.starts_with(' ') => setting,
        _ => line,
    });
    let said: Vec<&str> = said.collect();
    assert!(said.contains(&"[limits]") && said.iter().any(|it| it.starts_with("drain = ")));
    let file = temporary_file(&said.join("\n"));
    let output = common::ringway().args(["config", "--check", "--config"]).arg(&file).output();
    std::fs::remove_file(file).unwrap();
    let output = output.unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
}
