//! Placeholder while the worker is being written.
use std::{sync::Arc, time::Duration};

use bytes::Bytes;

use crate::{handler::Audience, operation::*, publication::Publication, stats::*};

#[derive(Debug)]
pub(crate) struct Core {}

impl Core {
    pub(crate) fn now(&self) -> Time {
        unimplemented!()
    }
    pub(crate) fn fanout_room(&self, _: usize, _: usize) -> bool {
        unimplemented!()
    }
    pub(crate) fn publish(&mut self, _: Audience, _: Arc<Publication>) {}
    pub(crate) fn send(&mut self, _: ConnectionId, _: Bytes) {}
    pub(crate) fn close(&mut self, _: ConnectionId, _: CloseReason) {}
    pub(crate) fn resume(&mut self, _: ConnectionId) {}
    pub(crate) fn count_refused_publication(&mut self) {}
    pub(crate) fn record(&mut self, _: Stage, _: Duration) {}
    pub(crate) fn drain(&mut self, _: Duration) {}
    pub(crate) fn swap_report(&mut self, empty: Box<Report>) -> Box<Report> {
        empty
    }
}
