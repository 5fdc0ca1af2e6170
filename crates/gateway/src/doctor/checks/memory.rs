//! Memory and files: what so many connections take, and what there is.

use super::{Subject, UNTOLD};
use crate::{
    cgroup::groups,
    doctor::report::{Check, Severity, bytes},
};

/// Kernel memory of an idle connection: socket, inode, dentry, file and the armed poll. A million
/// took 8,828 B for both ends (`ringway-bench check million`).
const KERNEL_BYTES: u64 = 4608;

/// User memory of an idle connection: a slope of 109 B (`ringway-bench load --scenario idle`).
const USER_BYTES: u64 = 128;

/// Memory of a worker without connections, however many share a core: 1 MiB of receive buffers, its
/// ring, and its stack.
const WORKER_BYTES: u64 = 2 << 20;

/// Limits of control groups from here on are none: version 1 writes the largest number of pages.
const GROUP_BYTES_MAX: u64 = 1 << 60;

pub(super) fn checks(subject: &Subject) -> Vec<Check> {
    vec![memory(subject), queued_memory(subject), tables(subject), files(subject)]
}

/// What the connections take when nothing is sent to them.
fn idle_bytes(subject: &Subject) -> u64 {
    u64::from(subject.connections) * (KERNEL_BYTES + USER_BYTES)
        + u64::from(subject.workers) * WORKER_BYTES
}

/// How much of the machine is free or can be made so.
fn available(subject: &Subject) -> Option<u64> {
    let field = subject.root.field("proc/meminfo", "MemAvailable:")?;
    let kib: u64 = field.split_whitespace().next()?.parse().ok()?;
    kib.checked_mul(1024)
}

/// What the tightest control group leaves: its limit, less what is in use and cannot be given back.
fn left_in_group(subject: &Subject) -> Option<u64> {
    let membership = subject.root.text("proc/self/cgroup")?;
    let groups = groups(&membership, &subject.root.path("sys/fs/cgroup"), "memory");
    let left = groups.into_iter().filter_map(|group| {
        let (limit, used, cache) = if group.is_v2 {
            ("memory.max", "memory.current", "inactive_file ")
        } else {
            ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file ")
        };
        let number = |name: &str| subject.root.number(group.directory.join(name));
        let limit = number(limit).filter(|limit| *limit < GROUP_BYTES_MAX)?;
        let cache = subject.root.field(group.directory.join("memory.stat"), cache);
        let cache = cache.and_then(|cache| cache.parse().ok()).unwrap_or(0);
        let used = number(used).unwrap_or(0).saturating_sub(cache);
        Some(limit.saturating_sub(used))
    });
    left.min()
}

/// What there is for the connections, and who bounds it.
fn left(subject: &Subject) -> Option<(u64, &'static str)> {
    let of_machine = available(subject).map(|left| (left, "available"));
    let of_group = left_in_group(subject).map(|left| (left, "left in the control group"));
    of_machine.into_iter().chain(of_group).min()
}

fn memory_check(subject: &Subject, wanted: u64) -> Check {
    let left = left(subject);
    Check {
        name: "memory",
        severity: Severity::Required,
        holds: left.map(|(left, _)| left >= wanted),
        value: left.map_or(UNTOLD.to_owned(), |(left, whose)| format!("{} {whose}", bytes(left))),
        wanted: format!("at least {}", bytes(wanted)),
        why: String::new(),
        how: "more memory, a larger memory limit of the control group (MemoryMax=), or fewer \
              connections"
            .to_owned(),
    }
}

fn memory(subject: &Subject) -> Check {
    Check {
        why: format!(
            "an idle connection takes {KERNEL_BYTES} B of the kernel's memory, which counts in a \
             control group too, and {USER_BYTES} B of ours; a worker {}",
            bytes(WORKER_BYTES)
        ),
        ..memory_check(subject, idle_bytes(subject))
    }
}

fn queued_memory(subject: &Subject) -> Check {
    let queues = subject.send_queue_total_bytes_max;
    let sockets = subject.wanted.numbers(TCP_MEM)[1] * PAGE_BYTES;
    Check {
        name: "memory under load",
        severity: Severity::Advice,
        why: format!(
            "beside that, {} of send queues (--send-queue-total-bytes-max) and {} of socket \
             buffers, a frame for everybody",
            bytes(queues),
            bytes(sockets)
        ),
        ..memory_check(subject, idle_bytes(subject) + queues + sockets)
    }
}

const TCP_MEM: &str = "net.ipv4.tcp_mem";

/// tcp_mem counts in pages.
const PAGE_BYTES: u64 = 4096;

fn tables(subject: &Subject) -> Check {
    subject.at_least(
        Severity::Advice,
        "fs.nr_open",
        subject.wanted.number("fs.nr_open"),
        "RLIMIT_NOFILE cannot be raised above it, and a ring's table has at most as many places",
    )
}

fn files(subject: &Subject) -> Check {
    let used = subject.root.number("proc/sys/fs/file-nr").unwrap_or(0);
    let least = subject.wanted.number("fs.file-max") + used;
    subject.at_least(
        Severity::Required,
        "fs.file-max",
        least,
        &format!("each connection is a file, direct descriptor or not; {used} are open now"),
    )
}
