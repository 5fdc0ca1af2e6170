//! How a ring comes to be: what it needs of the kernel, what it can do without, what it may do
//! afterwards, and one sentence for each reason why it cannot be had.

use std::{
    fmt, io,
    os::fd::{AsRawFd, OwnedFd, RawFd},
    thread,
    time::{Duration, Instant},
};

use io_uring::{Builder, IoUring, Probe, opcode, register::Restriction, squeue::Flags};
use rustix::{
    process::{Resource, getrlimit},
    system::uname,
};
use worker::Slot;

use crate::{
    arena::Arena,
    buffers::ReceiveBuffers,
    descriptors::{Descriptors, Places},
    engine::RingOptions,
    queue::Queue,
};

/// The first kernel with all that a ring cannot do without. What is missing is tried, so this is for
/// the sentence.
pub const KERNEL_MIN: (u32, u32) = (6, 1);

/// How long memory of rings that have just ended is waited for: the kernel returns it late.
const MEMORY_PATIENCE: Duration = Duration::from_secs(5);

/// Between two tries within that time.
const MEMORY_PAUSE: Duration = Duration::from_millis(50);

/// The operations in use, and what to call one that is missing.
const OPERATIONS: [(u8, &str); 10] = [
    (opcode::Accept::CODE, "ACCEPT"),
    (opcode::AsyncCancel::CODE, "ASYNC_CANCEL"),
    (opcode::Close::CODE, "CLOSE"),
    (opcode::Connect::CODE, "CONNECT"),
    (opcode::MsgRingData::CODE, "MSG_RING"),
    (opcode::PollAdd::CODE, "POLL_ADD"),
    (opcode::Recv::CODE, "RECV"),
    (opcode::Send::CODE, "SEND"),
    (opcode::Shutdown::CODE, "SHUTDOWN"),
    (opcode::Write::CODE, "WRITE"),
];

/// IORING_UNREGISTER_RING_FDS and IORING_REGISTER_SYNC_CANCEL (linux/io_uring.h): what a ring is
/// still registered for after its start is its end.
const REGISTRATIONS_AFTER_START: [u8; 2] = [21, 24];

/// IORING_UNREGISTER_BUFFERS (linux/io_uring.h): an arena that the self-test rejects is given back.
const UNREGISTER_BUFFERS: u8 = 1;

/// Why the ring engine cannot start here.
#[derive(Debug)]
pub enum StartError {
    /// The kernel lacks something.
    KernelTooOld {
        /// What `uname -r` says.
        release: String,
        /// What is missing.
        missing: String,
    },
    /// `kernel.io_uring_disabled` forbids io_uring to this process.
    Disabled {
        /// The setting: 1 or 2.
        setting: u32,
    },
    /// Something answers for the kernel that io_uring does not exist or is not allowed.
    Filtered {
        /// What `uname -r` says.
        release: String,
        /// EPERM or ENOSYS.
        error: io::Error,
    },
    /// The memory that may be locked is used up.
    MemoryLimit {
        /// RLIMIT_MEMLOCK in bytes; `None` is no limit.
        limit: Option<u64>,
    },
    /// A ring is to have more descriptors than the process may.
    DescriptorLimit {
        /// Connections and listeners.
        wanted: u32,
        /// RLIMIT_NOFILE; `None` is no limit.
        limit: Option<u64>,
    },
    /// A send that must not wait does not complete at once on this kernel.
    SendsWait,
    /// Anything else.
    Failed {
        /// What was being done.
        step: &'static str,
        /// What the kernel said.
        error: io::Error,
    },
}

impl fmt::Display for StartError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (major, minor) = KERNEL_MIN;
        match self {
            Self::KernelTooOld { release, missing } => write!(
                formatter,
                "the ring engine needs Linux {major}.{minor} or later and this is {release}, which \
                 lacks {missing}: choose another engine or a newer kernel"
            ),
            Self::Disabled { setting } => write!(
                formatter,
                "io_uring is forbidden by kernel.io_uring_disabled = {setting}: set it to 0 with \
                 sysctl, or choose another engine"
            ),
            Self::Filtered { release, error } => write!(
                formatter,
                "io_uring is refused ({error}) though Linux {release} has it and \
                 kernel.io_uring_disabled allows it: a seccomp filter, as of a container runtime, \
                 is in the way; allow io_uring_setup, io_uring_enter and io_uring_register in its \
                 profile, or choose another engine"
            ),
            Self::MemoryLimit { limit: Some(limit) } => write!(
                formatter,
                "the kernel has no memory left for a ring within RLIMIT_MEMLOCK = {limit} bytes: \
                 raise it (ulimit -l), or take fewer workers or fewer completion_entries"
            ),
            Self::MemoryLimit { limit: None } => formatter.write_str(
                "the kernel has no memory left for a ring: take fewer workers or fewer \
                 completion_entries",
            ),
            Self::DescriptorLimit { wanted, limit } => {
                let limit = limit.map_or("unlimited".to_owned(), |limit| limit.to_string());
                write!(
                    formatter,
                    "a ring of {wanted} connections and listeners exceeds what the kernel allows \
                     (RLIMIT_NOFILE = {limit}): raise it (ulimit -n), or take more workers or \
                     fewer connections"
                )
            }
            Self::SendsWait => formatter.write_str(
                "this kernel lets a send wait that must not: choose another engine, and report it",
            ),
            Self::Failed { step, error } => {
                write!(formatter, "{step} failed: {error}: choose another engine, and report it")
            }
        }
    }
}

impl std::error::Error for StartError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Filtered { error, .. } | Self::Failed { error, .. } => Some(error),
            _ => None,
        }
    }
}

/// Where the sender of the self-test stands, until it is over.
pub(crate) const SELF_TEST_PLACE: Slot = 0;

/// Opens a ring whose table, if it has one, holds `files` behind the connections, and in front the
/// `sender` of the self-test. `extra` are operations that a test uses beside the engine's own. The ring
/// has all its memory when `before_arena` is called, where there is to be an arena.
///
/// # Errors
/// One sentence that names cause and cure.
pub(crate) fn open(
    options: &RingOptions,
    places: Places,
    files: &[RawFd],
    sender: Option<RawFd>,
    extra: &[u8],
    before_arena: impl FnOnce(),
    notes: &mut Vec<String>,
) -> Result<(Option<Arena>, ReceiveBuffers, Queue), StartError> {
    // In front of the queue, so that it is unmapped behind it where a step below fails.
    let mut arena = None;
    let noted = notes.len();
    let ((buffers, queue), refusals) = with_patience(MEMORY_PATIENCE, MEMORY_PAUSE, || {
        notes.truncate(noted);
        attempt(options, places, files, sender, notes)
    })?;
    if refusals > 0 {
        notes.push(format!(
            "the kernel refused memory for the ring {refusals} times before it gave it: a process \
             that had just ended still held it, or RLIMIT_MEMLOCK is nearly used up"
        ));
    }
    if let Some(zero_copy) = options.zero_copy {
        before_arena();
        match open_arena(zero_copy.arena_bytes, &queue) {
            Ok(opened) => arena = Some(opened),
            Err(error) => notes.push(why_no_arena(&error)),
        }
    }
    let submitter = queue.submitter();
    submitter
        .register_restrictions(&mut restrictions(arena.is_some(), extra))
        .map_err(|error| explain("restricting the ring", error))?;
    submitter.register_enable_rings().map_err(|error| explain("enabling the ring", error))?;
    Ok((arena, buffers, queue))
}

/// An arena of this ring. What may never be locked is not waited for.
fn open_arena(bytes: u32, queue: &Queue) -> Result<Arena, StartError> {
    let limit = getrlimit(Resource::Memlock).current;
    let fits = limit.is_none_or(|limit| Arena::bytes_of_frames(bytes) as u64 <= limit);
    let patience = if fits { MEMORY_PATIENCE } else { Duration::ZERO };
    let attempt = || {
        let arena = Arena::new(bytes, |arena| arena.register(queue.submitter()));
        arena.map_err(|error| explain("registering the arena", error))
    };
    with_patience(patience, MEMORY_PAUSE, attempt).map(|(arena, _)| arena)
}

/// Tries again and again, as long as memory is what is missing and there is patience. Says how
/// often it was refused before.
fn with_patience<T>(
    patience: Duration,
    pause: Duration,
    mut attempt: impl FnMut() -> Result<T, StartError>,
) -> Result<(T, u32), StartError> {
    let until = Instant::now() + patience;
    let mut refusals = 0;
    loop {
        match attempt() {
            Err(StartError::MemoryLimit { .. }) if Instant::now() < until => {
                refusals += 1;
                thread::sleep(pause);
            }
            outcome => return outcome.map(|it| (it, refusals)),
        }
    }
}

/// A ring with all the memory that it cannot do without, not enabled yet.
fn attempt(
    options: &RingOptions,
    places: Places,
    files: &[RawFd],
    sender: Option<RawFd>,
    notes: &mut Vec<String>,
) -> Result<(ReceiveBuffers, Queue), StartError> {
    let (ring, dropped) = set_up(options.submission_entries, options.completion_entries)?;
    notes.extend(dropped.iter().map(|flag| format!("the kernel does not take {flag}")));
    if !ring.params().is_feature_no_iowait() {
        notes.push("the kernel counts an idle worker as one that waits for a disk".to_owned());
    }
    check_operations(&ring)?;
    let mut buffers = ReceiveBuffers::new(options.receive_buffers, options.receive_buffer_bytes)
        .map_err(|error| explain("allocating receive buffers", error))?;
    let mut queue = Queue::new(ring);
    if let Err(error) = queue.register_with_thread() {
        notes.push(format!("the ring's descriptor is looked up at every enter ({error})"));
    }
    match places.descriptors {
        Descriptors::Direct => register_table(&queue, places, files, sender)?,
        Descriptors::Ordinary => check_limit(places)?,
    }
    let submitter = queue.submitter();
    buffers
        .register(submitter)
        .map_err(|error| explain("registering the receive buffers", error))?;
    // SHUTDOWN is the only operation that needs a thread of the kernel's.
    submitter
        .register_iowq_max_workers(&mut [1, 1])
        .map_err(|error| explain("limiting the kernel's worker threads", error))?;
    Ok((buffers, queue))
}

/// Why there is no memory for sends without a copy.
fn why_no_arena(error: &StartError) -> String {
    match error {
        StartError::MemoryLimit { limit: Some(limit) } => format!(
            "the arena of large frames is not locked within RLIMIT_MEMLOCK = {limit} bytes: raise \
             it (ulimit -l), or take a smaller zero_copy_arena_bytes or fewer workers"
        ),
        StartError::MemoryLimit { limit: None } => {
            "the arena of large frames cannot be had: the kernel has no memory left".to_owned()
        }
        StartError::Failed { error, .. } => {
            format!("the arena of large frames cannot be had: {error}")
        }
        other => format!("the arena of large frames cannot be had: {other}"),
    }
}

/// The name of a flag, and what sets it.
type SetupFlag = (&'static str, fn(&mut Builder));

/// Flags that make a ring cheaper and that it works without.
const OPTIONAL_FLAGS: [SetupFlag; 3] = [
    ("IORING_SETUP_NO_SQARRAY", |builder| {
        builder.setup_no_sqarray();
    }),
    ("IORING_SETUP_SUBMIT_ALL", |builder| {
        builder.setup_submit_all();
    }),
    ("IORING_SETUP_CLAMP", |builder| {
        builder.setup_clamp();
    }),
];

/// Tries with all optional flags, then with one less each time that the kernel finds the flags
/// invalid. Says which were dropped.
fn with_fewer_flags<R>(
    mut build: impl FnMut(&[SetupFlag]) -> io::Result<R>,
) -> io::Result<(R, Vec<&'static str>)> {
    for first in 0..OPTIONAL_FLAGS.len() {
        match build(&OPTIONAL_FLAGS[first..]) {
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {}
            outcome => {
                let dropped = OPTIONAL_FLAGS[..first].iter().map(|(name, _)| *name).collect();
                return outcome.map(|ring| (ring, dropped));
            }
        }
    }
    let dropped = OPTIONAL_FLAGS.iter().map(|(name, _)| *name).collect();
    build(&[]).map(|ring| (ring, dropped))
}

/// A ring that is not enabled yet, and the flags that it does without.
fn set_up(submissions: u32, completions: u32) -> Result<(IoUring, Vec<&'static str>), StartError> {
    with_fewer_flags(|flags| build(submissions, completions, flags)).map_err(|error| {
        match error.raw_os_error() {
            Some(libc::EINVAL) => {
                let missing = "rings that defer their work (IORING_SETUP_DEFER_TASKRUN)".to_owned();
                StartError::KernelTooOld { release: release(), missing }
            }
            _ => explain("io_uring_setup", error),
        }
    })
}

/// Opens a small ring with a table of these files and nothing else.
///
/// # Errors
/// One sentence that names cause and cure.
pub(crate) fn open_probe(files: &[RawFd]) -> Result<Queue, StartError> {
    let (entries, places) = (8, u32::try_from(files.len()).unwrap_or(u32::MAX));
    let ((ring, _), _) =
        with_patience(MEMORY_PATIENCE, MEMORY_PAUSE, || set_up(entries, 2 * entries))?;
    let queue = Queue::new(ring);
    let submitter = queue.submitter();
    submitter
        .register_files_sparse(places)
        .and_then(|()| submitter.register_files_update(0, files))
        .and_then(|_| submitter.register_enable_rings())
        .map_err(|error| explain("trying direct descriptors", error))?;
    Ok(queue)
}

fn build(submissions: u32, completions: u32, optional: &[SetupFlag]) -> io::Result<IoUring> {
    let mut builder = IoUring::builder();
    builder
        .setup_single_issuer()
        .setup_defer_taskrun()
        .setup_taskrun_flag()
        // Fewer than there are to submit would be invalid.
        .setup_cqsize(completions.max(submissions))
        .setup_r_disabled()
        .dontfork();
    for (_, set) in optional {
        set(&mut builder);
    }
    builder.build(submissions)
}

fn check_operations(ring: &IoUring) -> Result<(), StartError> {
    let mut probe = Probe::new();
    ring.submitter()
        .register_probe(&mut probe)
        .map_err(|error| explain("asking which operations there are", error))?;
    match OPERATIONS.iter().find(|(code, _)| !probe.is_supported(*code)) {
        Some((_, name)) => {
            let missing = format!("the operation {name}");
            Err(StartError::KernelTooOld { release: release(), missing })
        }
        None => Ok(()),
    }
}

/// A table is bounded when it is registered; descriptors of the process only when they are opened.
fn check_limit(places: Places) -> Result<(), StartError> {
    let limit = getrlimit(Resource::Nofile).current;
    if limit.is_some_and(|limit| u64::from(places.count()) > limit) {
        return Err(StartError::DescriptorLimit { wanted: places.count(), limit });
    }
    Ok(())
}

fn register_table(
    queue: &Queue,
    places: Places,
    files: &[RawFd],
    sender: Option<RawFd>,
) -> Result<(), StartError> {
    let submitter = queue.submitter();
    submitter.register_files_sparse(places.count()).map_err(|error| {
        match error.raw_os_error() {
            Some(libc::EMFILE | libc::EINVAL) => StartError::DescriptorLimit {
                wanted: places.count(),
                limit: getrlimit(Resource::Nofile).current,
            },
            _ => explain("registering the descriptor table", error),
        }
    })?;
    let listeners = places.connections;
    submitter
        .register_files_update(listeners, files)
        .map_err(|error| explain("registering the listeners", error))?;
    if let Some(sender) = sender {
        submitter
            .register_files_update(SELF_TEST_PLACE, &[sender])
            .map_err(|error| explain("registering the self-test", error))?;
    }
    Ok(())
}

/// Everything that the ring may be used for from now on, and nothing else.
fn restrictions(zero_copy: bool, extra: &[u8]) -> Vec<Restriction> {
    let flags = Flags::FIXED_FILE | Flags::BUFFER_SELECT | Flags::SKIP_SUCCESS;
    OPERATIONS
        .iter()
        .map(|(code, _)| *code)
        .chain(zero_copy.then_some(opcode::SendZc::CODE))
        .chain(extra.iter().copied())
        .map(Restriction::sqe_op)
        .chain(REGISTRATIONS_AFTER_START.map(Restriction::register_op))
        .chain(zero_copy.then_some(Restriction::register_op(UNREGISTER_BUFFERS)))
        .chain([Restriction::sqe_flags_allowed(flags.bits())])
        .collect()
}

/// Why the kernel refused.
pub(crate) fn explain(step: &'static str, error: io::Error) -> StartError {
    match error.raw_os_error() {
        Some(libc::EPERM | libc::ENOSYS) => refusal(disabled_setting(), error),
        Some(libc::ENOMEM) => {
            StartError::MemoryLimit { limit: getrlimit(Resource::Memlock).current }
        }
        _ => StartError::Failed { step, error },
    }
}

/// Who it is that refuses io_uring as such, given `kernel.io_uring_disabled`.
fn refusal(setting: u32, error: io::Error) -> StartError {
    if setting > 0 && error.raw_os_error() == Some(libc::EPERM) {
        return StartError::Disabled { setting };
    }
    StartError::Filtered { release: release(), error }
}

/// `kernel.io_uring_disabled`; 0 where it cannot be read, as on kernels that lack it.
fn disabled_setting() -> u32 {
    std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled")
        .ok()
        .and_then(|setting| setting.trim().parse().ok())
        .unwrap_or(0)
}

fn release() -> String {
    uname().release().to_string_lossy().into_owned()
}

/// The raw descriptors of files.
pub(crate) fn raw(files: &[OwnedFd]) -> Vec<RawFd> {
    files.iter().map(AsRawFd::as_raw_fd).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn invalid() -> io::Error {
        io::Error::from_raw_os_error(libc::EINVAL)
    }

    #[test]
    fn flags_are_dropped_one_by_one_and_named() {
        let (left, dropped) =
            with_fewer_flags(
                |flags| {
                    if flags.len() > 1 { Err(invalid()) } else { Ok(flags.len()) }
                },
            )
            .unwrap();
        assert_eq!(left, 1);
        assert_eq!(dropped, ["IORING_SETUP_NO_SQARRAY", "IORING_SETUP_SUBMIT_ALL"]);
    }

    #[test]
    fn all_flags_are_kept_where_all_are_taken() {
        let (left, dropped) = with_fewer_flags(|flags| Ok(flags.len())).unwrap();
        assert_eq!((left, dropped.len()), (3, 0));
    }

    #[test]
    fn another_error_than_einval_drops_nothing() {
        let mut tries = 0;
        let refused = with_fewer_flags::<()>(|_| {
            tries += 1;
            Err(io::Error::from_raw_os_error(libc::EPERM))
        });
        assert_eq!((refused.unwrap_err().raw_os_error(), tries), (Some(libc::EPERM), 1));
        let refused = with_fewer_flags::<()>(|_| Err(invalid()));
        assert_eq!(refused.unwrap_err().raw_os_error(), Some(libc::EINVAL));
    }

    #[test]
    fn missing_memory_is_waited_for_and_then_named() {
        let memory = || StartError::MemoryLimit { limit: Some(8192) };
        let mut tries = 0;
        let third = with_patience(Duration::from_secs(60), Duration::ZERO, || {
            tries += 1;
            if tries < 3 { Err(memory()) } else { Ok(tries) }
        });
        assert_eq!(third.unwrap(), (3, 2));
        let never = with_patience::<()>(Duration::ZERO, Duration::ZERO, || Err(memory()));
        let sentence = never.unwrap_err().to_string();
        assert!(sentence.contains("RLIMIT_MEMLOCK = 8192 bytes"), "{sentence}");
    }

    #[test]
    fn who_forbids_io_uring_is_told_apart() {
        let error = |errno| io::Error::from_raw_os_error(errno);
        let disabled = refusal(2, error(libc::EPERM)).to_string();
        assert!(disabled.contains("kernel.io_uring_disabled = 2"), "{disabled}");
        let filtered = refusal(0, error(libc::EPERM)).to_string();
        assert!(filtered.contains("seccomp filter"), "{filtered}");
        let missing = refusal(2, error(libc::ENOSYS)).to_string();
        assert!(missing.contains("seccomp filter"), "the setting answers EPERM: {missing}");
    }

    #[test]
    fn an_old_kernel_is_named_with_what_it_lacks() {
        let missing = "the operation MSG_RING".to_owned();
        let error = StartError::KernelTooOld { release: "5.15.0".to_owned(), missing };
        assert_eq!(
            error.to_string(),
            "the ring engine needs Linux 6.1 or later and this is 5.15.0, which lacks the \
             operation MSG_RING: choose another engine or a newer kernel"
        );
    }
}
