//! What stands in `packaging`: the configuration that is shipped, the profile that is made of a
//! runtime's and the binary under both, a control plane that can be reached, and times to stop that
//! are above those which the drain takes.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::process::{Command, Output};

use common::{
    Gateway,
    raw::{open, read_frame},
    seccomp, temporary_file,
};
use rustix::process::Signal;
use seccompiler::BpfProgram;
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

/// A runtime's profile: that of Debian's golang-github-containers-common 0.50.1, less what it
/// allows and no program here asks for, and with Docker's condition on clone. What it does not know
/// is ENOSYS, what it refuses by name EPERM.
fn default_profile() -> Value {
    let names: Vec<&str> = "
        accept accept4 access arch_prctl bind brk capget capset chdir chmod clock_getres
        clock_gettime clock_nanosleep clone3 close close_range connect dup dup2 dup3 epoll_create
        epoll_create1 epoll_ctl epoll_pwait epoll_pwait2 epoll_wait eventfd2 execve exit
        exit_group faccessat faccessat2 fadvise64 fallocate fchdir fchmod fchmodat fchown fchownat
        fcntl fdatasync flock fork fstat fstatfs fsync ftruncate futex getcpu getcwd getdents
        getdents64 getegid geteuid getgid getgroups getpeername getpgid getpgrp getpid getppid
        getpriority getrandom getresgid getresuid getrlimit get_robust_list getrusage getsid
        getsockname getsockopt gettid gettimeofday getuid ioctl kill listen lseek lstat madvise
        membarrier mincore mkdir mkdirat mlock mlock2 mmap mprotect mremap msync munlock munmap
        nanosleep newfstatat open openat openat2 pause pidfd_open pidfd_send_signal pipe pipe2
        poll ppoll prctl pread64 preadv preadv2 prlimit64 pselect6 pwrite64 pwritev pwritev2 read
        readahead readlink readlinkat readv recvfrom recvmmsg recvmsg rename renameat renameat2
        restart_syscall rmdir rseq rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo
        rt_sigreturn rt_sigsuspend rt_sigtimedwait rt_tgsigqueueinfo sched_getaffinity
        sched_getparam sched_getscheduler sched_setaffinity sched_yield seccomp select sendfile
        sendmmsg sendmsg sendto setgid setgroups setpgid setpriority setresgid setresuid setrlimit
        set_robust_list setsid setsockopt set_tid_address setuid shutdown sigaltstack signalfd4
        socketpair splice stat statfs statx sync sysinfo tgkill time timerfd_create
        timerfd_gettime timerfd_settime times tkill umask uname unlink unlinkat utimensat vfork
        wait4 waitid write writev
    "
    .split_whitespace()
    .collect();
    let call = |name: &str, argument: Value| {
        let action = "SCMP_ACT_ALLOW";
        json!({ "names": [name], "action": action, "args": [argument] })
    };
    let no_namespace =
        json!({ "index": 0, "value": 0x7E02_0000, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ" });
    let no_netlink = json!({ "index": 0, "value": 16, "valueTwo": 0, "op": "SCMP_CMP_NE" });
    json!({
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": 38,
        "syscalls": [
            {
                "names": ["bdflush", "kexec_load", "migrate_pages", "swapon", "userfaultfd"],
                "action": "SCMP_ACT_ERRNO",
                "errnoRet": 1,
            },
            { "names": names, "action": "SCMP_ACT_ALLOW" },
            call("clone", no_namespace),
            call("socket", no_netlink),
        ],
    })
}

/// A profile as a runtime hands it to the kernel for a container without capabilities.
fn filters(profile: &Value) -> Vec<BpfProgram> {
    let rules = |action: &str| {
        let wanted = profile["syscalls"].as_array().unwrap().iter();
        let wanted = wanted.filter(|rule| rule["action"] == action);
        let calls = wanted.flat_map(|rule| {
            let names = rule["names"].as_array().unwrap().iter();
            let arguments = rule["args"].as_array();
            names.map(move |name| match arguments {
                None => json!({ "syscall": name }),
                Some(arguments) => {
                    let conditions: Vec<Value> = arguments.iter().map(condition).collect();
                    json!({ "syscall": name, "args": conditions })
                }
            })
        });
        calls.collect::<Vec<Value>>()
    };
    let unknown = json!({ "errno": profile["defaultErrnoRet"] });
    vec![
        seccomp::filter(&rules("SCMP_ACT_ALLOW"), &json!("allow"), &unknown),
        seccomp::filter(&rules("SCMP_ACT_ERRNO"), &json!({ "errno": 1 }), &json!("allow")),
    ]
}

/// A comparison of a profile as seccompiler has it.
fn condition(argument: &Value) -> Value {
    let (operator, value) = match argument["op"].as_str().unwrap() {
        "SCMP_CMP_NE" => (json!("ne"), &argument["value"]),
        "SCMP_CMP_MASKED_EQ" => (json!({ "masked_eq": argument["value"] }), &argument["valueTwo"]),
        other => panic!("{other}"),
    };
    json!({ "index": argument["index"], "type": "qword", "op": operator, "val": value })
}

#[test]
fn the_default_profile_lets_it_serve_on_epoll_and_the_made_one_on_the_ring() {
    let default = default_profile();
    let output = made_of(&default);
    assert!(output.status.success(), "{output:?}");
    let made = serde_json::from_slice(&output.stdout).unwrap();
    for (profile, engine) in [(&default, "epoll"), (&made, "ring")] {
        let flags = ["--engine", "auto", "--workers", "2", "--connections-max", "100"];
        let start = move || Gateway::start(&flags);
        let mut gateway = seccomp::under(filters(profile), start);
        let mut http = gateway.http();
        assert_eq!(http.get("/stats").json()["engine"], engine);
        let client = gateway.connect();
        open(&client, "/ws/room");
        assert_eq!(http.post("/publish/room", "", b"hello").status, 200);
        assert_eq!(read_frame(&client), Some((0x81, b"hello".to_vec())));
        drop(client);
        gateway.signal(Signal::TERM);
        assert_eq!(gateway.wait().code(), Some(0));
    }
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
fn publishers_reach_the_control_plane_of_a_container_with_a_token() {
    let read = |file: &str| std::fs::read_to_string(format!("{FOLDER}/{file}")).unwrap();
    let compose = read("compose.yaml");
    for line in [
        "      RINGWAY_ADMIN: 0.0.0.0:9001",
        "      RINGWAY_ADMIN_TOKEN_FILE: /run/secrets/admin-token",
        "    secrets: [admin-token]",
        // Beyond this machine nobody needs it.
        "      - \"127.0.0.1:9001:9001\"",
    ] {
        assert!(compose.lines().any(|it| it == line), "{line}");
    }
    let kubernetes = read("kubernetes.yaml");
    for lines in [
        "- name: RINGWAY_ADMIN\n              value: 0.0.0.0:9001\n",
        "- name: RINGWAY_ADMIN_TOKEN_FILE\n              value: /run/secrets/ringway/tokens\n",
        "mountPath: /run/secrets/ringway\n",
        "secretName: ringway-admin\n",
        "  name: ringway-pods\nspec:\n  clusterIP: None\n  publishNotReadyAddresses: true\n",
    ] {
        assert!(kubernetes.contains(lines), "{lines}");
    }
    // Not by the service of clients.
    assert_eq!(kubernetes.matches("targetPort: admin\n").count(), 1);
}

#[test]
fn the_image_is_built_by_the_toolchain_of_this_repository() {
    let image = std::fs::read_to_string(format!("{FOLDER}/Containerfile")).unwrap();
    let toolchain = include_str!("../../../rust-toolchain.toml");
    assert!(toolchain.contains("channel = \"1.95."), "{toolchain}");
    assert!(image.contains("FROM docker.io/library/rust:1.95-"), "{image}");
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
fn the_shipped_configuration_is_valid_as_it_is_and_with_what_stands_in_comments() {
    let shipped = std::fs::read_to_string(format!("{FOLDER}/../ringway.toml")).unwrap();
    // A setting has its comment sign right before it, words have a space between.
    let line = |line: &str| match line.strip_prefix('#') {
        Some(setting) if !setting.starts_with(' ') => format!("{setting}\n"),
        _ => format!("{line}\n"),
    };
    let said: String = shipped.lines().map(line).collect();
    assert!(said.contains("\n[limits]\n") && said.contains("\ndrain = "), "{said}");
    for content in [shipped, said] {
        let file = temporary_file(&content);
        let output = common::ringway().args(["config", "--check", "--config"]).arg(&file).output();
        std::fs::remove_file(file).unwrap();
        let output = output.unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}
