//! Memory and files: what so many connections take, and what there is.

use super::{Subject, UNTOLD};
use crate::{
    cgroup::groups,
    doctor::report::{Check, Severity, bytes},
};

/// Kernel memory of an idle connection: socket, inode, dentry, file and the armed poll. A million
/// took 8,828 B for both ends (`ringway-bench check million`). Control groups of version 2, of which
/// nothing was measured, are taken to count all of it.
const KERNEL_BYTES: u64 = 4608;

/// What of that a control group of version 1 counts: 1,527 B (`kernel-tuning/measure.py group`).
const KERNEL_BYTES_OF_V1: u64 = 1536;

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

/// Something that bounds memory.
struct Bound {
    /// Bytes that are free or can be made so.
    left: u64,
    /// In words, behind a size.
    whose: &'static str,
    /// What it counts of an idle connection's kernel memory.
    kernel_bytes: u64,
}

impl Bound {
    /// Bytes that the connections take of it when nothing is sent to them.
    fn idle_bytes(&self, subject: &Subject) -> u64 {
        u64::from(subject.connections) * (self.kernel_bytes + USER_BYTES)
            + u64::from(subject.workers) * WORKER_BYTES
    }

    /// What it has beyond such a need; below 0, what is missing.
    fn spare(&self, wanted: u64) -> i128 {
        i128::from(self.left) - i128::from(wanted)
    }
}

/// How much of the machine is free or can be made so.
fn machine(subject: &Subject) -> Option<Bound> {
    let field = subject.root.field("proc/meminfo", "MemAvailable:")?;
    let kib: u64 = field.split_whitespace().next()?.parse().ok()?;
    let left = kib.checked_mul(1024)?;
    Some(Bound { left, whose: "available", kernel_bytes: KERNEL_BYTES })
}

/// What each control group that has a limit leaves: less what is in use and cannot be given back.
fn of_groups(subject: &Subject) -> Vec<Bound> {
    let membership = subject.root.text("proc/self/cgroup").unwrap_or_default();
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
        let left = limit.saturating_sub(used);
        let kernel_bytes = if group.is_v2 { KERNEL_BYTES } else { KERNEL_BYTES_OF_V1 };
        Some(Bound { left, whose: "left in the control group", kernel_bytes })
    });
    left.collect()
}

/// Judged by what bounds most tightly, with so many bytes beside those of idle connections.
fn memory_check(subject: &Subject, beside: u64) -> Check {
    let wanted = |bound: &Bound| bound.idle_bytes(subject).saturating_add(beside);
    let bounds = machine(subject).into_iter().chain(of_groups(subject));
    let tightest = bounds.min_by_key(|bound| bound.spare(wanted(bound)));
    let in_words = |bound: &Bound| format!("{} {}", bytes(bound.left), bound.whose);
    Check {
        name: "memory",
        severity: Severity::Required,
        holds: tightest.as_ref().map(|bound| bound.left >= wanted(bound)),
        value: tightest.as_ref().map_or(UNTOLD.to_owned(), in_words),
        wanted: tightest
            .map_or(UNTOLD.to_owned(), |bound| format!("at least {}", bytes(wanted(&bound)))),
        why: String::new(),
        how: "more memory, a larger memory limit of the control group (MemoryMax=), or fewer \
              connections"
            .to_owned(),
    }
}

fn memory(subject: &Subject) -> Check {
    Check {
        why: format!(
            "an idle connection takes {KERNEL_BYTES} B of the kernel's memory, of which a control \
             group of version 1 counts {KERNEL_BYTES_OF_V1}, and {USER_BYTES} B of ours; a \
             worker {}",
            bytes(WORKER_BYTES)
        ),
        ..memory_check(subject, 0)
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
        ..memory_check(subject, queues.saturating_add(sockets))
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
