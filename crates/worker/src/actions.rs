//! What a handler may do: publish, reply, close, post. Borrowed for the length of one call.

use std::{sync::Arc, time::Duration};

use mesh::{Endpoint, Full, Member};
use wire::Message;

use crate::{
    breakage,
    core::Core,
    handler::{Audience, HandlerCounts},
    operation::{ConnectionId, Slot, Time},
    options::Settings,
    publication::Publication,
    sight::Sight,
    stats::{CloseReason, Report, Stage},
};

/// A handler's hands.
#[derive(Debug)]
pub struct Actions<'a, L> {
    pub(crate) core: &'a mut Core,
    pub(crate) endpoint: &'a mut Endpoint<L>,
}

impl<L> Actions<'_, L> {
    /// The time of what is being handled.
    #[must_use]
    pub fn now(&self) -> Time {
        self.core.now()
    }

    /// Who this worker is in the mesh.
    #[must_use]
    pub fn member(&self) -> Member {
        self.endpoint.member()
    }

    /// How many members the mesh has, this worker and the guests included.
    #[must_use]
    pub fn members(&self) -> u16 {
        self.endpoint.members()
    }

    /// How many letters to `to` have room.
    #[must_use]
    pub fn room(&self, to: Member) -> usize {
        self.endpoint.room(to)
    }

    /// Posts a letter and sees to it that its receiver wakes.
    ///
    /// # Errors
    /// No room: the letter comes back.
    pub fn post(&mut self, to: Member, letter: L) -> Result<(), Full<L>> {
        let now = self.core.now().0;
        self.endpoint.post(to, letter, now)
    }

    /// Whether publications of so many bytes in all may be published here now.
    #[must_use]
    pub fn publish_room(&self, publications: usize, bytes: usize) -> bool {
        self.core.fanout_room(publications, bytes)
    }

    /// Gives a publication to the members of an audience here. Look for room first; a publication
    /// that was taken over from another worker may exceed it by what one turn brings.
    pub fn publish(&mut self, audience: Audience, publication: Arc<Publication>) {
        self.core.publish(audience, publication);
    }

    /// Sends a message to one open connection, behind what is queued for it.
    pub fn send(&mut self, connection: ConnectionId, message: Message<'_>) {
        self.core.send_message(connection, message);
    }

    /// The connection in this slot, unless nobody is there who is open.
    #[must_use]
    pub fn sight(&self, slot: Slot) -> Option<Sight> {
        self.core.sight(slot)
    }

    /// Closes an open connection with a reason that has a Close frame. The handler's `on_close`
    /// is called before the turn ends.
    pub fn close(&mut self, connection: ConnectionId, reason: CloseReason) {
        if !breakage::keeps(reason) {
            self.core.close(connection, reason);
        }
    }

    /// Lets a connection go on whose message was answered with `Flow::Pause`, if it is still there.
    pub fn resume(&mut self, connection: ConnectionId) {
        self.core.resume(connection);
    }

    /// Counts a publication that had no room.
    pub fn count_refused_publication(&mut self) {
        self.core.count_refused_publication();
    }

    /// Times a stage.
    pub fn record(&mut self, stage: Stage, span: Duration) {
        self.core.record(stage, span);
    }

    /// Stops accepting and closes every connection within `over`, evenly. Called again: at once.
    pub fn drain(&mut self, over: Duration) {
        self.core.drain(over);
    }

    /// Goes by these settings from now on.
    pub fn adopt(&mut self, settings: Settings) {
        self.core.adopt(settings);
    }

    /// Exchanges the report that the worker fills for an empty one.
    #[must_use]
    pub fn swap_report(&mut self, empty: Box<Report>, counts: HandlerCounts) -> Box<Report> {
        let mut report = self.core.swap_report(empty);
        report.gauges.topics = counts.topics;
        report.gauges.subscriptions = counts.subscriptions;
        report.gauges.fixed_bytes += self.endpoint.memory_bytes() as u64;
        report.gauges.inbox_letters = u32::try_from(self.endpoint.waiting()).unwrap_or(u32::MAX);
        report
    }
}
