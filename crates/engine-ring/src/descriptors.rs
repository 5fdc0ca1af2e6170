//! How the files of a ring are named. Direct descriptors stand in a table of the ring's own: looking
//! one up costs less, and RLIMIT_NOFILE bounds each ring instead of the process. Kernels that release
//! the files of a table in order (before 6.13) make them useless here: one armed poll on an old
//! connection keeps the sockets of all that are closed after it, and no FIN leaves. There the files
//! are ordinary descriptors of the process. Which kernel it is is tried, not looked up.

use std::{
    fmt, io,
    os::fd::{AsRawFd, OwnedFd},
    time::Duration,
};

use io_uring::{squeue::Flags, types::Fd};
use rustix::event::{EventfdFlags, eventfd};
use worker::Slot;

use crate::{
    queue::{Entry, Stay},
    self_test::Pair,
    setup::{self, StartError, explain},
    tag::{Kind, Tag},
};

/// How the files of a ring are named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Descriptors {
    /// By their places in a table of the ring's own.
    Direct,
    /// By descriptors of the process.
    Ordinary,
}

/// How long a FIN is waited for: over loopback it is there when the call that sends it returns.
const PATIENCE: Duration = Duration::from_millis(20);

/// Tries of a call that is interrupted.
const TRIES_MAX: u32 = 16;

/// Places of the probe's table.
const OLDER: Slot = 0;
const NEWER: Slot = 1;

impl Descriptors {
    /// Direct ones, unless this kernel holds a closed one back for as long as an older one is armed.
    /// Less than a millisecond where it does not, [`PATIENCE`] more where it does.
    ///
    /// # Errors
    /// One sentence that names what is in the way of a ring and the cure.
    pub fn probe() -> Result<Self, StartError> {
        let failed = |error| explain("trying direct descriptors", error);
        let older = eventfd(0, EventfdFlags::CLOEXEC).map_err(|error| failed(error.into()))?;
        let pair = Pair::new().map_err(failed)?;
        let files = [older.as_raw_fd(), pair.sender.as_raw_fd()];
        let mut queue = setup::open_probe(&files)?;
        // The table's is the last one.
        let receiver = pair.into_receiver();
        let armed = Entry::poll_on_and_on(File::direct(OLDER), Tag::of_engine(Kind::WakePoll, 0));
        let close = Entry::close_place(NEWER, Tag::of_engine(Kind::Close, NEWER));
        for entry in [armed, close] {
            queue.push(&entry);
            uninterrupted(|| queue.enter(Stay::Reap)).map_err(failed)?;
        }
        receiver.set_read_timeout(Some(PATIENCE)).map_err(failed)?;
        match uninterrupted(|| io::Read::read(&mut &receiver, &mut [0])) {
            Ok(_) => Ok(Self::Direct),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(Self::Ordinary),
            Err(error) => Err(failed(error)),
        }
    }
}

/// Calls again where a call is interrupted: older kernels do that for the deferred work of a ring too,
/// even to a call that has nothing to do with it.
fn uninterrupted<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    for _ in 1..TRIES_MAX {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            outcome => return outcome,
        }
    }
    call()
}

impl fmt::Display for Descriptors {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(match self {
            Self::Direct => "direct",
            Self::Ordinary => "ordinary",
        })
    }
}

/// A file, as an entry names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct File {
    number: i32,
    flags: Flags,
}

impl File {
    /// The one in a place of the ring's table.
    #[inline]
    pub(crate) fn direct(place: Slot) -> Self {
        Self { number: place.cast_signed(), flags: Flags::FIXED_FILE }
    }

    /// One of the process. It stays open until what names it has completed.
    #[inline]
    pub(crate) fn ordinary(file: &OwnedFd) -> Self {
        Self { number: file.as_raw_fd(), flags: Flags::empty() }
    }

    /// What stands where an entry names its file; [`flags`](Self::flags) say how to read it.
    #[inline]
    pub(crate) fn number(self) -> Fd {
        Fd(self.number)
    }

    /// The flags of an entry that names it.
    #[inline]
    pub(crate) fn flags(self) -> Flags {
        self.flags
    }
}

/// What a ring's files are beside its connections, and where they stand in its table, if it has one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Places {
    /// Whether there is a table.
    pub(crate) descriptors: Descriptors,
    /// Places for connections, from 0; the listeners stand behind them.
    pub(crate) connections: u32,
    /// How many listeners there are; the waker's eventfd stands behind them.
    pub(crate) listeners: u32,
}

impl Places {
    /// A file that stands in this place if there is a table.
    pub(crate) fn file(self, place: Slot, file: &OwnedFd) -> File {
        match self.descriptors {
            Descriptors::Direct => File::direct(place),
            Descriptors::Ordinary => File::ordinary(file),
        }
    }

    /// Where a listener stands.
    pub(crate) fn listener(self, listener: usize) -> Slot {
        self.connections + u32::try_from(listener).unwrap_or(u32::MAX)
    }

    /// Where the waker's eventfd stands.
    pub(crate) fn waker(self) -> Slot {
        self.connections + self.listeners
    }

    /// How many places there are.
    pub(crate) fn count(self) -> u32 {
        self.waker() + 1
    }

    /// Bytes of the kernel's table.
    pub(crate) fn bytes(self) -> usize {
        match self.descriptors {
            Descriptors::Direct => self.count() as usize * size_of::<usize>(),
            Descriptors::Ordinary => 0,
        }
    }
}
