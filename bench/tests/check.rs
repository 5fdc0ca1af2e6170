//! `check` against what is no gateway and no floor: the failure says what the process said last.

#![expect(clippy::unwrap_used, reason = "a failed step of a test is its failure")]

use std::process::{Command, Output};

fn check(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ringway-bench"));
    command.arg("check").args(arguments).output().unwrap()
}

#[test]
fn a_gateway_that_does_not_start_is_a_failure_with_its_last_words() {
    for name in [
        "capacity",
        "rounds",
        "system-calls",
        "pause",
        "slow-consumer",
        "isolation",
        "memory",
        "fixed-memory",
        "heartbeats",
        "churn",
        "restart",
        "article",
        "back",
        "scaling",
        "coalescing",
        "rooms",
    ] {
        let output = check(&[name, "--server", "sh -c 'echo no ring >&2; exit 1'"]);
        assert_eq!(output.status.code(), Some(1), "{name}: {output:?}");
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(said.contains("did not start; it said last: no ring"), "{name}: {said}");
    }
}

#[test]
fn a_floor_that_does_not_start_is_a_failure_with_its_last_words() {
    for name in ["kernel-memory", "broadcast"] {
        let output = check(&[name, "--floor", "sh -c 'echo no ring >&2; exit 1'"]);
        assert_eq!(output.status.code(), Some(1), "{name}: {output:?}");
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(said.contains("the floor did not start; it said last: no ring"), "{name}: {said}");
    }
}

#[test]
fn an_unknown_check_is_wrong_usage() {
    assert_eq!(check(&["everything"]).status.code(), Some(2));
}
