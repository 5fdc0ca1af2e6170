//! The contract of `operation.rs` as a suite of checks, so that there is one contract however many
//! engines there are. An engine brings a [`Bed`]: itself, and peers on sockets of its kind. Each
//! check makes a bed of its own, and is a sentence that holds of every engine. Nothing sleeps:
//! whoever waits for something waits in the engine, for a bounded time of the engine's clock.

mod accepting;
mod closing;
mod event;
mod receiving;
mod rig;
mod sending;
mod waiting;

use std::{fmt, io, net::SocketAddr, panic::AssertUnwindSafe};

use crate::operation::{Engine, ListenerId};

pub use event::Event;

/// What a check needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BedOptions {
    /// Places in the table of each engine, exactly.
    pub connections_max: u32,
    /// Listeners of the first engine; the others have none.
    pub listeners: u16,
    /// How many engines, each the member of a mesh that its index says, and each able to wake the
    /// others.
    pub engines: u16,
    /// What a lingering connection reads and throws away at most.
    pub linger_bytes_max: u32,
}

/// One or more engines under test, and the world around them. The engines are driven by one thread.
pub trait Bed {
    /// The engine under test.
    type Engine: Engine;
    /// A client.
    type Peer: Peer;

    /// More than a connection takes, both its sockets together, while its peer does not read: a
    /// multiple of what is likely, since buffers grow.
    const OVERWHELMING_BYTES: usize;

    /// The engines, by member.
    fn engines(&mut self) -> &mut [Self::Engine];

    /// A new client of a listener of the first engine. It need not have been accepted yet.
    ///
    /// # Errors
    /// The listener is closed. A bed whose clients learn that later resets them.
    fn connect(&mut self, listener: ListenerId) -> io::Result<Self::Peer>;
}

/// A client's socket. Nothing of it blocks.
pub trait Peer {
    /// The client's own address.
    fn address(&self) -> SocketAddr;

    /// Writes what the socket takes now, perhaps nothing; nothing where the connection is broken.
    fn write(&mut self, bytes: &[u8]) -> usize;

    /// Appends some of the bytes that have arrived.
    fn read(&mut self, received: &mut Vec<u8>) -> PeerRead;

    /// Sends FIN, and can go on reading.
    fn finish(&mut self);

    /// Cuts the connection: the engine's side gets RST.
    fn reset(&mut self);
}

/// What became of a [`Peer::read`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PeerRead {
    /// At least one byte.
    Bytes,
    /// Nothing has arrived.
    Nothing,
    /// The engine's side has sent FIN, and all before it was read.
    Finished,
    /// The connection is broken.
    Reset,
}

/// Makes a bed. What differs between beds of one engine is the maker's.
pub type Make<'a, B> = &'a dyn Fn(&BedOptions) -> B;

/// One sentence of the contract.
#[derive(Clone, Copy)]
pub struct Check<B> {
    /// The sentence, with underscores for spaces.
    pub name: &'static str,
    /// Panics where it does not hold.
    pub run: fn(Make<'_, B>),
}

impl<B> fmt::Debug for Check<B> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Check").field("name", &self.name).finish_non_exhaustive()
    }
}

/// Every check, in the order of reading.
#[must_use]
pub fn checks<B: Bed>() -> Vec<Check<B>> {
    [
        accepting::checks(),
        receiving::checks(),
        sending::checks(),
        closing::checks(),
        waiting::checks(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// Runs every check, the later ones too where an earlier one fails.
///
/// # Panics
/// Names the checks that have failed; what each had to say stands on standard error.
pub fn run_all<B: Bed>(make: Make<'_, B>) {
    let failed: Vec<&str> = checks::<B>()
        .into_iter()
        .filter(|check| std::panic::catch_unwind(AssertUnwindSafe(|| (check.run)(make))).is_err())
        .map(|check| check.name)
        .collect();
    assert!(failed.is_empty(), "checks of the contract have failed: {failed:#?}");
}
