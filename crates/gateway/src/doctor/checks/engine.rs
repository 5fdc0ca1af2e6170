//! What the engine stands on: the kernel, io_uring, descriptors, and memory that may be locked.

use worker::Limits;

use super::{Subject, UNTOLD};
use crate::{
    capacity::{DESCRIPTORS_SPARE, Descriptors},
    cli::WORKERS_MAX,
    doctor::report::{Check, Severity, bytes},
    engine::Kind,
};

/// CAP_IPC_LOCK in the masks of `/proc/self/status` (linux/capability.h).
const CAP_IPC_LOCK: u64 = 1 << 14;

/// Bytes that the kernel locks for a ring at a time.
const PAGE_BYTES: u64 = 4096;

/// Of the kind that an arena is made of.
const HUGE_PAGE_BYTES: u64 = 2 << 20;

const STATUS: &str = "proc/self/status";

const DIRECT: &str = "direct descriptors";

/// What the ring engine uses where it can, and what its notes have where it cannot.
pub(super) const FEATURES: [(&str, &str); 6] = [
    ("plain submissions", "the kernel does not take IORING_SETUP_NO_SQARRAY"),
    ("idling that is idle time", "the kernel counts an idle worker as one that waits for a disk"),
    ("a registered ring", "the ring's descriptor is looked up at every enter"),
    (DIRECT, "sockets are ordinary descriptors of the process"),
    ("inline sends", "whole sends are completed one by one"),
    ("sends without a copy", "large frames are copied as all others"),
];

pub(super) fn checks(subject: &Subject) -> Vec<Check> {
    let mut checks = vec![
        kernel(subject),
        io_uring(subject),
        features(subject),
        descriptors(subject),
        workers(subject),
        locked_memory(subject),
    ];
    if subject.engine == Kind::Epoll {
        let why = "all workers were started as ringway serve does, and ended".to_owned();
        checks.insert(2, start(subject, "epoll", "workers", why));
    }
    checks
}

fn kernel(subject: &Subject) -> Check {
    let release = subject.root.word("proc/sys/kernel/osrelease");
    let kernel_min = match subject.engine {
        Kind::Ring => Some(engine_ring::KERNEL_MIN),
        Kind::TokioUring => Some(engine_tokio_uring::KERNEL_MIN),
        Kind::Epoll => None,
    };
    let is_new_enough =
        |kernel_min| release.as_deref().and_then(version).map(|it| it >= kernel_min);
    let name = subject.engine.name();
    Check {
        name: "kernel",
        severity: if kernel_min.is_some() { Severity::Required } else { Severity::Advice },
        holds: kernel_min.and_then(is_new_enough),
        wanted: kernel_min
            .map_or("any".to_owned(), |(major, minor)| format!("{major}.{minor} or newer")),
        value: release.unwrap_or_else(|| UNTOLD.to_owned()),
        why: match kernel_min {
            Some(_) => format!("an older one lacks operations of io_uring that {name} is made of"),
            None => format!("each has what {name} is made of"),
        },
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
    if subject.engine == Kind::Epoll {
        return Check {
            name: "io_uring",
            severity: Severity::Advice,
            holds: None,
            value: format!("{setting}, {filter}"),
            wanted: "anything".to_owned(),
            why: "epoll, which is asked for, does without".to_owned(),
            how: "ringway serve --engine auto, which takes it where it is allowed".to_owned(),
        };
    }
    let why = format!(
        "each worker has a ring; all were started as ringway serve does, and ended ({setting}, \
         {filter})"
    );
    start(subject, "io_uring", "rings", why)
}

/// What the engine's own notes say that it does without.
fn features(subject: &Subject) -> Check {
    let notes = subject.started.as_ref().ok().filter(|_| subject.engine == Kind::Ring);
    let lacking = notes.map(|notes| {
        let is_noted = |sentence: &str| notes.iter().any(|note| note.starts_with(sentence));
        // Where frames leave from an arena sockets are ordinary descriptors on any kernel.
        let has_arena = subject.limits.iter().any(|limits| limits.zero_copy_bytes_min > 0);
        let is_chosen = |name: &str| has_arena && name == DIRECT;
        let lacking = FEATURES.iter().filter(|(_, sentence)| is_noted(sentence));
        lacking.map(|(name, _)| *name).filter(|name| !is_chosen(name)).collect::<Vec<_>>()
    });
    let value = match lacking.as_deref() {
        None if subject.engine == Kind::Ring => UNTOLD.to_owned(),
        None => format!("{} has no optional ones", subject.engine.name()),
        Some([]) => "all".to_owned(),
        Some(lacking) => format!("without {}", lacking.join(", ")),
    };
    Check {
        name: "kernel features",
        severity: Severity::Advice,
        holds: lacking.map(|lacking| lacking.is_empty()),
        value,
        wanted: "all".to_owned(),
        why: "the ring engine works without each of these, at a price; its notes below say how"
            .to_owned(),
        how: "a newer kernel (6.18 has all), --descriptors auto, and loopback that is up"
            .to_owned(),
    }
}

/// Whether the workers start; where they do not, the engine says how to change it.
fn start(subject: &Subject, name: &'static str, what: &str, why: String) -> Check {
    let workers = subject.workers;
    let (value, how) = match &subject.started {
        Ok(_) => (format!("{workers} {what} start"), "nothing to change"),
        Err(sentence) => ("does not start".to_owned(), sentence.as_str()),
    };
    Check {
        name,
        severity: Severity::Required,
        holds: Some(subject.started.is_ok()),
        value,
        wanted: format!("{workers} {what} at once"),
        why,
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
    let Subject { connections, workers, connections_allowed: allowed, .. } = *subject;
    let wanted = subject.descriptors.limit_for(connections, workers);
    let (needed, whose, others, cure) = match subject.descriptors {
        Descriptors::OfWorker(_) => (
            connections.div_ceil(workers.into()),
            "each ring's table",
            "",
            format!(", or more workers (--workers, at most {WORKERS_MAX})"),
        ),
        // More workers would have no more between them.
        Descriptors::OfProcess(_) => {
            (connections, "the process", ", and the rest is the control plane's", String::new())
        }
    };
    let value = match limit {
        None => UNTOLD.to_owned(),
        // `ringway serve` raises the soft limit to the hard one.
        Some((_, None)) => "unlimited".to_owned(),
        Some((_, Some(hard))) => hard.to_string(),
    };
    Check {
        name: "RLIMIT_NOFILE",
        severity: Severity::Required,
        holds: Some(allowed >= needed.into()),
        value: format!("{value}: {allowed} connections, of {whose}"),
        wanted: format!("at least {wanted}, for {workers} workers"),
        why: format!(
            "the hard limit bounds {whose}; {DESCRIPTORS_SPARE} descriptors a worker answer \
             503{others}"
        ),
        how: format!("LimitNOFILE={wanted} in the unit, ulimit -Hn{cure}"),
    }
}

fn workers(subject: &Subject) -> Check {
    let default = u16::try_from(subject.cores.len()).unwrap_or(WORKERS_MAX).max(1);
    let asked = subject.workers_asked;
    let needed = subject.workers_needed;
    let (holds, limit) = match subject.descriptors {
        Descriptors::OfWorker(_) => ("each holds what RLIMIT_NOFILE allows", default),
        Descriptors::OfProcess(_) => ("they share what RLIMIT_NOFILE allows", subject.workers),
    };
    let limit = subject.descriptors.limit_for(subject.connections, limit);
    Check {
        name: "workers",
        severity: Severity::Advice,
        holds: Some(u64::from(asked.unwrap_or(default)) >= needed),
        value: match asked {
            Some(asked) => format!("{asked}, asked for"),
            None => format!("{default}, one a core"),
        },
        wanted: format!("at least {needed}"),
        why: format!("ringway serve takes one a core unless told; {holds}"),
        how: format!("ringway serve --workers {needed}, or an RLIMIT_NOFILE of {limit}"),
    }
}

/// What the kernel locks for the rings of these workers, in whole pages: completion queue and
/// submission entries, and of the ring engine the ring of receive buffers and the arena of large
/// frames.
fn locked_bytes(engine: Kind, limits: &[Limits]) -> u64 {
    let pages = |bytes: u64| bytes.div_ceil(PAGE_BYTES) * PAGE_BYTES;
    let of_worker = |limits: &Limits| {
        let completions = u64::from(limits.completion_entries.next_power_of_two());
        let submissions = u64::from(limits.submission_entries.next_power_of_two());
        // In front of the completions stand the queues' heads and tails.
        let queues = pages(completions * 16 + PAGE_BYTES) + pages(submissions * 64);
        match engine {
            Kind::Ring => {
                let arena = u64::from(limits.zero_copy_arena_bytes);
                let arena = if limits.zero_copy_bytes_min > 0 { arena } else { 0 };
                let buffers = u64::from(limits.receive_buffers.next_power_of_two()) * 16;
                queues + pages(buffers) + arena.next_multiple_of(HUGE_PAGE_BYTES)
            }
            Kind::TokioUring => queues,
            Kind::Epoll => 0,
        }
    };
    limits.iter().map(of_worker).sum()
}

fn locked_memory(subject: &Subject) -> Check {
    let capabilities = subject.root.field(STATUS, "CapEff:");
    let capabilities = capabilities.and_then(|mask| u64::from_str_radix(&mask, 16).ok());
    let is_exempt = capabilities.is_some_and(|mask| mask & CAP_IPC_LOCK != 0);
    let limit = limit(subject, "Max locked memory");
    let wanted = locked_bytes(subject.engine, &subject.limits);
    let value = match limit {
        None => UNTOLD.to_owned(),
        Some((None, _)) => "unlimited".to_owned(),
        Some((Some(soft), _)) => bytes(soft),
    };
    if subject.engine == Kind::Epoll {
        return Check {
            name: "RLIMIT_MEMLOCK",
            severity: Severity::Advice,
            holds: None,
            value,
            wanted: "anything".to_owned(),
            why: "only rings count against it, and epoll has none".to_owned(),
            how: "nothing to change".to_owned(),
        };
    }
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
