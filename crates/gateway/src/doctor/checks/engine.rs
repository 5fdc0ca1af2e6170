//! What the engine stands on: the kernel, io_uring, descriptors, and memory that may be locked.

use worker::Limits;

use super::{Subject, UNTOLD};
use crate::{
    cli::WORKERS_MAX,
    doctor::report::{Check, Severity, bytes},
};

/// The first kernel with all that the ring engine asks for.
const KERNEL_MIN: (u32, u32) = (6, 1);

/// Descriptors of a worker beside its connections: they answer 503, and hold listeners and waker.
const DESCRIPTORS_SPARE: u32 = 64;

/// CAP_IPC_LOCK in the masks of `/proc/self/status` (linux/capability.h).
const CAP_IPC_LOCK: u64 = 1 << 14;

/// Bytes that the kernel locks for a ring at a time.
const PAGE_BYTES: u64 = 4096;

const STATUS: &str = "proc/self/status";

pub(super) fn checks(subject: &Subject) -> Vec<Check> {
    vec![
        kernel(subject),
        io_uring(subject),
        descriptors(subject),
        workers(subject),
        locked_memory(subject),
    ]
}

fn kernel(subject: &Subject) -> Check {
    let release = subject.root.word("proc/sys/kernel/osrelease");
    let (major, minor) = KERNEL_MIN;
    Check {
        name: "kernel",
        severity: Severity::Required,
        holds: release.as_deref().and_then(version).map(|version| version >= KERNEL_MIN),
        value: release.unwrap_or_else(|| UNTOLD.to_owned()),
        wanted: format!("{major}.{minor} or newer"),
        why: "an older one lacks operations of io_uring that the ring engine is made of".to_owned(),
        how: "a newer kernel, or ringway serve --engine auto, which takes another engine"
            .to_owned(),
    }
}

/// The first two numbers of a release.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|character: char| !character.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

fn io_uring(subject: &Subject) -> Check {
    let setting = subject.root.word("proc/sys/kernel/io_uring_disabled");
    let seccomp = subject.root.field(STATUS, "Seccomp:");
    let filter = match seccomp.as_deref() {
        Some("0") => "no seccomp filter",
        Some("1" | "2") => "a seccomp filter",
        _ => "seccomp not told",
    };
    let setting = match setting.as_deref() {
        None => "no sysctl against it".to_owned(),
        Some(setting) => format!("kernel.io_uring_disabled = {setting}"),
    };
    let workers = subject.workers;
    let (value, how) = match &subject.started {
        Ok(_) => (format!("{workers} rings start"), "nothing to change"),
        Err(sentence) => ("does not start".to_owned(), sentence.as_str()),
    };
    Check {
        name: "io_uring",
        severity: Severity::Required,
        holds: Some(subject.started.is_ok()),
        value,
        wanted: format!("{workers} rings at once"),
        why: format!(
            "each worker has a ring; all were started as ringway serve does, and ended ({setting}, \
             {filter})"
        ),
        how: how.to_owned(),
    }
}

/// A limit of `/proc/self/limits`: soft and hard, `None` is none.
type Bounds = (Option<u64>, Option<u64>);

fn limit(subject: &Subject, label: &str) -> Option<Bounds> {
    let line = subject.root.field("proc/self/limits", label)?;
    let mut numbers = line.split_whitespace().map(|number| match number {
        "unlimited" => Some(None),
        number => number.parse().ok().map(Some),
    });
    Some((numbers.next()??, numbers.next()??))
}

fn descriptors(subject: &Subject) -> Check {
    let limit = limit(subject, "Max open files");
    let share = subject.connections.div_ceil(subject.workers.into());
    // Where the process shares them, one worker is allowed as many as all are.
    let (needed, workers, whose) = if subject.descriptors_are_shared {
        (subject.connections, subject.workers, "the process")
    } else {
        (share, 1, "each ring's table")
    };
    let allowed = subject.connections_max_of_worker;
    let value = match limit {
        None => UNTOLD.to_owned(),
        // `ringway serve` raises the soft limit to the hard one.
        Some((_, None)) => "unlimited".to_owned(),
        Some((_, Some(hard))) => hard.to_string(),
    };
    let wanted = u64::from(needed) + u64::from(DESCRIPTORS_SPARE) * u64::from(workers);
    Check {
        name: "RLIMIT_NOFILE",
        severity: Severity::Required,
        holds: Some(allowed >= needed),
        value: format!("{value}: {allowed} connections, of {whose}"),
        wanted: format!("at least {wanted}, for {} workers", subject.workers),
        why: format!(
            "the hard limit bounds {whose}; {DESCRIPTORS_SPARE} descriptors a worker answer 503"
        ),
        how: format!(
            "LimitNOFILE={wanted} in the unit, ulimit -Hn, or more workers (--workers, at most \
             {WORKERS_MAX})"
        ),
    }
}

fn workers(subject: &Subject) -> Check {
    let default = subject.cores.len();
    let asked = subject.workers_asked.map(usize::from);
    let of_worker = subject.connections_max_of_worker;
    let needed = subject.connections.div_ceil(of_worker.max(1)) as usize;
    let of_each = subject.connections.div_ceil(u32::try_from(default.max(1)).unwrap_or(u32::MAX));
    Check {
        name: "workers",
        severity: Severity::Advice,
        holds: Some(asked.unwrap_or(default) >= needed),
        value: match asked {
            Some(asked) => format!("{asked}, asked for"),
            None => format!("{default}, one a core"),
        },
        wanted: format!("at least {needed}"),
        why: "ringway serve takes one a core unless told; each holds what RLIMIT_NOFILE allows"
            .to_owned(),
        how: format!(
            "ringway serve --workers {needed}, or an RLIMIT_NOFILE of {}",
            u64::from(of_each) + u64::from(DESCRIPTORS_SPARE)
        ),
    }
}

/// What the kernel locks for the rings of these workers: completion queue, submission entries, and
/// the ring of receive buffers, each in whole pages.
fn locked_bytes(limits: &[Limits]) -> u64 {
    let pages = |bytes: u64| bytes.div_ceil(PAGE_BYTES) * PAGE_BYTES;
    let of_worker = |limits: &Limits| {
        let completions = u64::from(limits.completion_entries.next_power_of_two());
        let submissions = u64::from(limits.submission_entries.next_power_of_two());
        let buffers = u64::from(limits.receive_buffers.next_power_of_two());
        // In front of the completions stand the queues' heads and tails.
        pages(completions * 16 + PAGE_BYTES) + pages(submissions * 64) + pages(buffers * 16)
    };
    limits.iter().map(of_worker).sum()
}

fn locked_memory(subject: &Subject) -> Check {
    let capabilities = subject.root.field(STATUS, "CapEff:");
    let capabilities = capabilities.and_then(|mask| u64::from_str_radix(&mask, 16).ok());
    let is_exempt = capabilities.is_some_and(|mask| mask & CAP_IPC_LOCK != 0);
    let limit = limit(subject, "Max locked memory");
    let wanted = locked_bytes(&subject.limits);
    let value = match limit {
        None => UNTOLD.to_owned(),
        Some((None, _)) => "unlimited".to_owned(),
        Some((Some(soft), _)) => bytes(soft),
    };
    let is_enough = limit.map(|(soft, _)| soft.is_none_or(|soft| soft >= wanted));
    Check {
        name: "RLIMIT_MEMLOCK",
        severity: Severity::Required,
        holds: if is_exempt { Some(true) } else { is_enough },
        value: if is_exempt { format!("{value}, not counted: CAP_IPC_LOCK") } else { value },
        wanted: format!("at least {}", bytes(wanted)),
        why: "the rings of all workers count against what the user may lock, with whatever else \
              the user has locked"
            .to_owned(),
        how: format!(
            "LimitMEMLOCK={wanted} in the unit, ulimit -l, fewer workers, or fewer \
             completion_entries"
        ),
    }
}
