//! What signals ask of the process.

use std::io;

use tokio::{
    signal::unix::{Signal, SignalKind, signal},
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

/// Handlers of signals: from the moment they are made, a signal waits to be listened to instead of
/// ending the process.
#[derive(Debug)]
pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    /// Installs the handlers, in the context of a runtime.
    ///
    /// # Errors
    /// A handler could not be installed.
    pub(super) fn catch() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    /// Listens for as long as the receiver lives; in the same runtime.
    pub(super) fn listen(mut self) -> mpsc::Receiver<Asked> {
        let (sender, receiver) = mpsc::channel(ASKED_MAX);
        tokio::spawn(async move {
            loop {
                let asked = tokio::select! {
                    _ = self.terminate.recv() => Asked::Stop,
                    _ = self.interrupt.recv() => Asked::Stop,
                    _ = self.hangup.recv() => Asked::Reload,
                };
                if sender.send(asked).await.is_err() {
                    return;
                }
            }
        });
        receiver
    }
}
