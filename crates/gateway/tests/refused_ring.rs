//! Where a seccomp filter refuses io_uring, as those of container runtimes do, the binary says so
//! in one sentence, with what to do, and ends with exit code 1.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::{collections::BTreeMap, env::consts::ARCH, process::Output, thread};

use common::ringway;
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, apply_filter};

/// Runs the binary under a filter that answers one system call with EPERM. A filter is a thread's,
/// and its children inherit it: the thread that starts the binary is all that it takes.
fn output_without(call: libc::c_long, arguments: &[&str]) -> Output {
    let errno = SeccompAction::Errno(libc::EPERM.cast_unsigned());
    let filter = SeccompFilter::new(
        BTreeMap::from([(call, Vec::new())]),
        SeccompAction::Allow,
        errno,
        ARCH.try_into().unwrap(),
    );
    let filter = BpfProgram::try_from(filter.unwrap()).unwrap();
    let mut command = ringway();
    command.args(arguments);
    let run = move || {
        apply_filter(&filter).unwrap();
        command.output().unwrap()
    };
    thread::spawn(run).join().unwrap()
}

#[test]
fn a_filter_on_io_uring_is_named_with_its_cure() {
    let calls = [libc::SYS_io_uring_setup, libc::SYS_io_uring_register, libc::SYS_io_uring_enter];
    for call in calls {
        for engine in ["ring", "auto"] {
            let ports = ["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"];
            let arguments = [&["serve", "--engine", engine, "--log-level", "error"], &ports[..]];
            let output = output_without(call, &arguments.concat());
            let said = String::from_utf8(output.stderr).unwrap();
            assert_eq!(output.status.code(), Some(1), "{call} {engine}: {said}");
            assert_eq!(said.lines().count(), 1, "{call} {engine}: {said}");
            assert!(said.contains("a seccomp filter"), "{call} {engine}: {said}");
            let cure = "allow io_uring_setup, io_uring_enter and io_uring_register in its profile";
            assert!(said.contains(cure), "{call} {engine}: {said}");
            assert!(output.stdout.is_empty());
        }
    }
}
