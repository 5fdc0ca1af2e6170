//! What the service manager is told, by sd_notify(3): datagrams to the socket that `NOTIFY_SOCKET`
//! names. Without one nothing is sent. Errors are dropped: nobody else could be told of them.

use std::{
    ffi::OsStr,
    io,
    os::{
        linux::net::SocketAddrExt,
        unix::{
            ffi::OsStrExt,
            net::{SocketAddr, UnixDatagram},
        },
    },
    time::Duration,
};

/// The shortest time between two signs of life, whatever is asked for.
const BEAT_INTERVAL_MIN: Duration = Duration::from_millis(10);

/// Who has started this process and wants to know how it is.
#[derive(Debug, Default)]
pub(crate) struct Supervisor {
    socket: Option<UnixDatagram>,
    watchdog: Option<Duration>,
}

impl Supervisor {
    /// The one that the environment names: `NOTIFY_SOCKET`, a path or `@` and an abstract name, and
    /// `WATCHDOG_USEC`, which counts only where `WATCHDOG_PID` is this process or is not set.
    ///
    /// # Errors
    /// There is a socket, and it cannot be used.
    pub(crate) fn of_this_process() -> io::Result<Self> {
        let Some(name) = std::env::var_os("NOTIFY_SOCKET") else { return Ok(Self::default()) };
        let number = |name| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
        let is_for_us = std::env::var_os("WATCHDOG_PID").is_none()
            || number("WATCHDOG_PID") == Some(u64::from(std::process::id()));
        let watchdog = number("WATCHDOG_USEC").filter(|usec| is_for_us && *usec > 0);
        Ok(Self::new(connect(&name)?, watchdog.map(Duration::from_micros)))
    }

    /// One that listens at the other end of a connected socket and wants a sign of life within
    /// every `watchdog`.
    pub(super) fn new(socket: UnixDatagram, watchdog: Option<Duration>) -> Self {
        Self { socket: Some(socket), watchdog }
    }

    /// How often it wants a sign of life: at half of its patience, as sd_watchdog_enabled(3) says.
    pub(super) fn beat_interval(&self) -> Option<Duration> {
        self.watchdog.map(|patience| (patience / 2).max(BEAT_INTERVAL_MIN))
    }

    /// Sends assignments, one a line.
    pub(super) fn tell(&self, assignments: &str) {
        if let Some(socket) = &self.socket {
            let _ = socket.send(assignments.as_bytes());
        }
    }
}

fn connect(name: &OsStr) -> io::Result<UnixDatagram> {
    let address = match name.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        path => SocketAddr::from_pathname(OsStr::from_bytes(path))?,
    };
    let socket = UnixDatagram::unbound()?;
    socket.connect_addr(&address)?;
    // A manager that does not read must not hold publications up.
    socket.set_nonblocking(true)?;
    Ok(socket)
}
