//! Where a seccomp filter refuses io_uring, as those of container runtimes do: who asks for the ring
//! is told so in one sentence, with what to do, and exit code 1; who leaves the choice to the binary
//! is served by another engine, which says why.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::{collections::BTreeMap, env::consts::ARCH, process::Output};

use common::{
    Gateway,
    raw::{frame, open, read_frame},
    ringway,
    seccomp::under,
    workers,
};
use seccompiler::{SeccompAction, SeccompFilter};

/// Runs something under a filter that answers one system call with EPERM.
fn without<T: Send + 'static>(call: libc::c_long, run: impl FnOnce() -> T + Send + 'static) -> T {
    let errno = SeccompAction::Errno(libc::EPERM.cast_unsigned());
    let filter = SeccompFilter::new(
        BTreeMap::from([(call, Vec::new())]),
        SeccompAction::Allow,
        errno,
        ARCH.try_into().unwrap(),
    );
    under(vec![filter.unwrap().try_into().unwrap()], run)
}

/// Each of them is enough to refuse io_uring.
const CALLS: [libc::c_long; 3] =
    [libc::SYS_io_uring_setup, libc::SYS_io_uring_register, libc::SYS_io_uring_enter];

#[test]
fn a_filter_on_io_uring_is_named_with_its_cure() {
    for call in CALLS {
        let mut command = ringway();
        command.args(["serve", "--engine", "ring", "--log-level", "error"]);
        command.args(["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]);
        let output = without(call, move || command.output().unwrap());
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{call}: {said}");
        assert_eq!(said.lines().count(), 1, "{call}: {said}");
        assert!(said.contains("a seccomp filter"), "{call}: {said}");
        let cure = "allow io_uring_setup, io_uring_enter and io_uring_register in its profile";
        assert!(said.contains(cure), "{call}: {said}");
        assert!(output.stdout.is_empty());
    }
}

#[test]
fn without_io_uring_another_engine_serves_and_says_why() {
    for call in CALLS {
        // tokio-uring registers nothing.
        let expected = if call == libc::SYS_io_uring_register { "tokio-uring" } else { "epoll" };
        let flags = ["--engine", "auto", "--workers", "2", "--connections-max", "100"];
        let gateway = without(call, move || Gateway::start(&flags));
        let mut lines = gateway.start_lines.iter();
        let engine = lines.find(|line| line["message"] == "engine").unwrap();
        assert_eq!(engine["name"], expected, "{engine}");
        let reason = engine["reason"].as_str().unwrap();
        assert!(reason.contains("ring: ") && reason.contains("a seccomp filter"), "{reason}");
        let capacity = lines.find(|line| line["message"] == "capacity").unwrap();
        let shared = "the workers share RLIMIT_NOFILE descriptors of the process";
        assert_eq!(capacity["reason"], shared, "{capacity}");
        let stats = gateway.http().get("/stats").json();
        assert_eq!(
            (&stats["engine"], &stats["engine_reason"]),
            (&engine["name"], &engine["reason"])
        );
        let page = gateway.http().get("/metrics");
        let build =
            page.text().lines().find(|line| line.starts_with("ringway_build_info{")).unwrap();
        assert!(
            build.contains(&format!(r#"engine="{expected}""#))
                && build.contains("a seccomp filter"),
            "{build}"
        );
        // Many enough that both workers have some, and wake each other.
        let clients: Vec<_> = (0..16).map(|_| gateway.connect()).collect();
        clients.iter().for_each(|client| open(client, "/ws/room"));
        gateway.stats_until(|stats| workers(stats).iter().all(|it| it["connections"] != 0));
        std::io::Write::write_all(&mut &clients[0], &frame(0x81, b"to all")).unwrap();
        for client in &clients {
            assert_eq!(read_frame(client), Some((0x81, b"to all".to_vec())));
        }
        drop(clients);
        gateway.stats_at_rest();
    }
}

/// What the binary says without a system call.
fn output_without(call: libc::c_long, arguments: &[&str]) -> Output {
    let mut command = ringway();
    command.args(arguments);
    without(call, move || command.output().unwrap())
}

#[test]
fn doctor_says_of_a_filter_what_serve_says() {
    let call = libc::SYS_io_uring_setup;
    let doctor =
        output_without(call, &["doctor", "--engine", "auto", "--json", "--connections", "100"]);
    assert_eq!(doctor.status.code(), Some(1));
    let report: serde_json::Value = serde_json::from_slice(&doctor.stdout).unwrap();
    let checks = report["checks"].as_array().unwrap();
    let io_uring = checks.iter().find(|check| check["name"] == "io_uring").unwrap();
    assert_eq!(io_uring["holds"], false);
    assert!(io_uring["why"].as_str().unwrap().contains("a seccomp filter"), "{io_uring}");
    let ports = ["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"];
    let serve = output_without(call, &[&["serve", "--engine", "ring"], &ports[..]].concat());
    let said = String::from_utf8(serve.stderr).unwrap();
    assert!(said.contains(io_uring["how"].as_str().unwrap()), "{said} {io_uring}");
}
