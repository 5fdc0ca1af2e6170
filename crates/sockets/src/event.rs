//! A waker that is an eventfd: whoever waits polls it, whoever wakes writes to it. It is not read:
//! an edge comes with every write (eventfd(2), epoll(7)), so that a wake is one system call.

use std::{io, os::fd::OwnedFd, sync::Arc};

use rustix::event::{EventfdFlags, eventfd};
use worker::Waker;

/// Ends the wait of whoever polls the eventfd: an engine, or a guest of the mesh.
#[derive(Clone, Debug)]
pub struct EventWaker {
    event: Arc<OwnedFd>,
}

impl EventWaker {
    /// With an eventfd of its own.
    ///
    /// # Errors
    /// The process has no descriptor left, or the kernel no memory.
    pub fn new() -> io::Result<Self> {
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self { event: Arc::new(event) })
    }

    /// What is polled.
    #[must_use]
    pub fn event(&self) -> &OwnedFd {
        &self.event
    }
}

impl From<Arc<OwnedFd>> for EventWaker {
    /// Wakes who polls this eventfd.
    fn from(event: Arc<OwnedFd>) -> Self {
        Self { event }
    }
}

impl Waker for EventWaker {
    fn wake(&self) {
        // Fails only after 2^64 wakes that nobody has read.
        let _ = rustix::io::write(&self.event, &1_u64.to_ne_bytes());
    }
}
