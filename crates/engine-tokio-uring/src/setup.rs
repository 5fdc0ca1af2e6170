//! Starting the runtime, or saying in one sentence why it cannot be.

use std::{fmt, io};

use rustix::{
    io::Errno,
    process::{Resource, getrlimit},
    system::uname,
};
use tokio_uring::Runtime;

/// The first kernel that tokio-uring is written for.
pub const KERNEL_MIN: (u32, u32) = (5, 11);

/// Why the engine cannot start.
#[derive(Debug)]
pub enum StartError {
    /// io_uring is there and cannot do what is needed.
    KernelTooOld {
        /// As uname(2) says.
        release: String,
    },
    /// EPERM or ENOSYS: `kernel.io_uring_disabled`, a seccomp filter, or a kernel without io_uring.
    Refused {
        /// As uname(2) says.
        release: String,
        /// What io_uring_setup(2) said.
        error: io::Error,
    },
    /// ENOMEM: before Linux 5.12 a ring counts against RLIMIT_MEMLOCK.
    MemoryLimit {
        /// In bytes; `None` is no limit.
        limit: Option<u64>,
    },
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
            Self::KernelTooOld { release } => write!(
                formatter,
                "the tokio-uring engine needs Linux {major}.{minor} or later and this is \
                 {release}: choose another engine or a newer kernel"
            ),
            Self::Refused { release, error } => write!(
                formatter,
                "io_uring is refused ({error}) on Linux {release}: kernel.io_uring_disabled or a \
                 seccomp filter, as of a container runtime, is in the way; allow it, or choose \
                 another engine"
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
            Self::Failed { step, error } => {
                write!(formatter, "{step} failed: {error}: choose another engine, and report it")
            }
        }
    }
}

impl std::error::Error for StartError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Refused { error, .. } | Self::Failed { error, .. } => Some(error),
            Self::KernelTooOld { .. } | Self::MemoryLimit { .. } => None,
        }
    }
}

/// A runtime whose ring has so many entries, rounded up to powers of two by the kernel.
///
/// # Errors
/// One sentence that names cause and cure.
pub(crate) fn runtime(submissions: u32, completions: u32) -> Result<Runtime, StartError> {
    let release = uname().release().to_string_lossy().into_owned();
    if version(&release).is_none_or(|version| version < KERNEL_MIN) {
        return Err(StartError::KernelTooOld { release });
    }
    // tokio-uring ignores where it may not enter its ring, and panics when such a one is dropped.
    let probe = tokio_uring::uring_builder().build(8);
    if let Err(error) = probe.and_then(|probe| probe.submit()) {
        return Err(explain(release, error));
    }
    let mut ring = tokio_uring::uring_builder();
    // Fewer completions than there are to submit would be invalid.
    ring.setup_clamp().setup_cqsize(completions.max(submissions));
    let mut builder = tokio_uring::builder();
    builder.entries(submissions).uring_builder(&ring);
    Runtime::new(&builder).map_err(|error| explain(release, error))
}

/// Why the kernel refused.
fn explain(release: String, error: io::Error) -> StartError {
    match Errno::from_io_error(&error) {
        Some(Errno::PERM | Errno::NOSYS) => StartError::Refused { release, error },
        Some(Errno::NOMEM) => {
            StartError::MemoryLimit { limit: getrlimit(Resource::Memlock).current }
        }
        _ => StartError::Failed { step: "starting a tokio-uring runtime", error },
    }
}

/// The first two numbers of a release.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|character: char| !character.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn explained(errno: Errno) -> String {
        explain("5.15.0".to_owned(), errno.into()).to_string()
    }

    #[test]
    fn a_refusal_names_what_is_in_the_way() {
        for errno in [Errno::PERM, Errno::NOSYS] {
            let sentence = explained(errno);
            assert!(sentence.contains("kernel.io_uring_disabled"), "{sentence}");
            assert!(sentence.contains("seccomp"), "{sentence}");
        }
        assert!(explained(Errno::NOMEM).contains("ring"));
        assert!(explained(Errno::MFILE).starts_with("starting a tokio-uring runtime failed"));
    }

    #[test]
    fn releases_are_read() {
        assert_eq!(version("5.11.0-49-generic"), Some((5, 11)));
        assert_eq!(version("6.0-rc1"), Some((6, 0)));
        assert_eq!(version("unknown"), None);
        assert!((5, 9) < KERNEL_MIN, "numbers, not letters, are compared");
    }
}
