//! What a worker asks of the code above it: which requests become connections, what a message
//! means, who is to get a publication. The hub implements it for topics; tests implement it for
//! whatever they need. A handler sees connections by id and acts through [`Actions`] only.

use std::net::SocketAddr;

use mesh::Member;
use wire::{Extensions, Message, Request, StatusCode};

use crate::{
    actions::Actions,
    operation::{ConnectionId, Slot, Time},
    slots::SlotSet,
    stats::{CloseReason, RefusalReason},
};

/// The code above a worker.
pub trait Handler {
    /// What crosses the mesh between handlers.
    type Letter: Send;
    /// What `on_request` found out about a connection to be, handed back by `on_open`. All the
    /// handler knows of a connection can be told as one: connections move between workers so.
    type Admission;

    /// Whether to answer the request takes a verification, tens of microseconds: a turn answers at
    /// most `verifications_max` of them, and the others wait for the next.
    fn verifies(&self, _request: &Request) -> bool {
        false
    }

    /// A complete request head has arrived. The worker itself checks that the request is a
    /// well-formed upgrade where the answer is `Upgrade`.
    /// Where the worker is not ready for more, an `Upgrade` is answered with 503 for it.
    fn on_request(
        &mut self,
        request: &Request,
        peer: SocketAddr,
        readiness: Readiness,
        now: Time,
    ) -> Answer<Self::Admission>;

    /// The connection is open: its 101 goes out before whatever is sent or published from now on.
    fn on_open(
        &mut self,
        actions: &mut Actions<'_, Self::Letter>,
        connection: ConnectionId,
        admission: Self::Admission,
    );

    /// What `on_open` would have to be given for the connection to be as it is now.
    fn admission(&self, connection: ConnectionId) -> Self::Admission;

    /// The open connection that was exported as `from` is about to be open as `to`: another engine
    /// has given it another place. Called for each that comes back, all of which have been
    /// forgotten before, whether its name has changed or not.
    fn on_moved(&mut self, _from: ConnectionId, _to: ConnectionId) {}

    /// What an open connection is there for, in a few words for the log: its topics.
    fn purpose(&self, connection: ConnectionId) -> String;

    /// A whole message has arrived on an open connection.
    fn on_message(
        &mut self,
        actions: &mut Actions<'_, Self::Letter>,
        connection: ConnectionId,
        message: Message<'_>,
    ) -> Flow;

    /// An open connection is no longer open. Called once for each `on_open`, and before the slot
    /// can be used again; nothing may be sent to it any more.
    fn on_close(
        &mut self,
        actions: &mut Actions<'_, Self::Letter>,
        connection: ConnectionId,
        reason: CloseReason,
    );

    /// A letter has arrived. `posted_at` is when its sender posted it.
    fn on_letter(
        &mut self,
        actions: &mut Actions<'_, Self::Letter>,
        from: Member,
        letter: Self::Letter,
    );

    /// Once a turn, after everything that has arrived was handled: retry what had no room. `true`
    /// exactly when something is still held back, so that the worker looks again soon.
    fn poll_held(&mut self, actions: &mut Actions<'_, Self::Letter>) -> bool;

    /// From when on `poll_held` has something to do though nothing arrives.
    fn deadline(&self) -> Time {
        Time::NEVER
    }

    /// The members of `audience` from slot `from` on, in slot order, at most
    /// [`Chunk::room`] of them: those in `busy` into `chunk.busy`, the others into
    /// `chunk.targets`. Returns the slot to go on from, `None` when there are no more. An audience
    /// that no longer exists has no members.
    fn fill(
        &self,
        audience: Audience,
        from: Slot,
        busy: &SlotSet,
        chunk: &mut Chunk,
    ) -> Option<Slot>;
}

/// Whether a worker takes new connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Readiness {
    /// It does.
    Ready,
    /// It holds as many as it may.
    Full,
    /// It is draining.
    Draining,
}

/// The answer to a request.
#[derive(Debug)]
pub enum Answer<A> {
    /// Complete the upgrade.
    Upgrade {
        /// The subprotocol to name in the 101, if any.
        subprotocol: Option<&'static str>,
        /// The extensions that may be agreed on, as far as the request offers them.
        extensions: Extensions,
        /// What `on_open` is to be given.
        admission: A,
    },
    /// Send this response and close.
    Respond(Response),
    /// Complete the upgrade and close at once: a browser shows its page no response but a 101.
    /// Nothing is opened, so the handler hears no more of it.
    Dismiss {
        /// The subprotocol to name in the 101, if any.
        subprotocol: Option<&'static str>,
        /// What the Close frame says; one that has a Close frame.
        close: CloseReason,
        /// How it is counted.
        refusal: RefusalReason,
    },
}

/// A response to a plain request: one line of text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// The status.
    pub status: StatusCode,
    /// Headers beside `Connection`, `Content-Length` and `Content-Type`.
    pub headers: Vec<(&'static str, &'static str)>,
    /// One line that says what to do, without its line end.
    pub text: String,
    /// How it is counted; `None` for an ordinary answer, which counts as no refusal.
    pub refusal: Option<RefusalReason>,
}

/// Whether the worker goes on parsing what a connection sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flow {
    /// The message was taken.
    Continue,
    /// The message was taken, but no other may come until [`Actions::resume`].
    Pause,
}

/// What a handler holds, for the gauges.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct HandlerCounts {
    /// Topics with at least one subscriber.
    pub topics: u64,
    /// Subscribers, summed over topics.
    pub subscriptions: u64,
}

/// A set of connections that the handler knows: a topic, or everyone. Opaque to the worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Audience(pub u64);

/// One step of a fan-out.
#[derive(Debug)]
pub struct Chunk {
    /// Members that get the frame by `Offer`.
    pub targets: Vec<Slot>,
    /// Members that get it at the end of their send queue.
    pub busy: Vec<Slot>,
    members_max: usize,
}

impl Chunk {
    /// An empty chunk for at most `members_max` members.
    #[must_use]
    pub fn new(members_max: usize) -> Self {
        Self {
            targets: Vec::with_capacity(members_max),
            busy: Vec::with_capacity(members_max),
            members_max,
        }
    }

    /// How many more members fit.
    #[must_use]
    pub fn room(&self) -> usize {
        self.members_max - self.targets.len() - self.busy.len()
    }

    /// Empties it for the next step, of at most so many members.
    pub fn clear_for(&mut self, members_max: usize) {
        self.targets.clear();
        self.busy.clear();
        self.members_max = members_max;
    }
}
