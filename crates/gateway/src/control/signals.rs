//! What signals ask of the process.

use std::io;

use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc,
};

/// What a signal asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asked {
    /// SIGTERM or SIGINT: drain; the second time, end.
    Stop,
    /// SIGHUP: read what may change again.
    Reload,
}

/// Signals that were not handled yet; more of them are one.
const ASKED_MAX: usize = 4;

/// Listens for signals for as long as the receiver lives.
///
/// # Errors
/// A handler could not be installed.
pub(super) fn listen() -> io::Result<mpsc::Receiver<Asked>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let (sender, receiver) = mpsc::channel(ASKED_MAX);
    tokio::spawn(async move {
        loop {
            let asked = tokio::select! {
                _ = terminate.recv() => Asked::Stop,
                _ = interrupt.recv() => Asked::Stop,
                _ = hangup.recv() => Asked::Reload,
            };
            if sender.send(asked).await.is_err() {
                return;
            }
        }
    });
    Ok(receiver)
}
