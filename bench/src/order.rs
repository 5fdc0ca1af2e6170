//! What the command tells its load processes and what they answer: one JSON value a line, on
//! their standard input and output.

use std::io::{self, Write};

use serde::{Deserialize, Serialize};

use crate::dialect::Dialect;
use crate::payload::Kind;
use crate::scenario::Traffic;
use crate::url::Url;

/// The part of a run that one process has, its first line of input.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Plan {
    pub(crate) url: Url,
    pub(crate) dialect: Dialect,
    /// True exactly when permessage-deflate is offered.
    pub(crate) compression: bool,
    pub(crate) traffic: Traffic,
    /// Number of its first connection among those of all processes.
    pub(crate) first: u32,
    /// Its connections, the publisher of a fan-out not counted.
    pub(crate) connections: u32,
    /// True exactly when it has the publisher of a fan-out, behind its other connections.
    pub(crate) publisher: bool,
    /// True exactly when the one group of a fan-out spans several processes.
    pub(crate) shared: bool,
    pub(crate) size: usize,
    pub(crate) payload: Kind,
    /// Publications, messages or reconnections per second of this process; 0: closed loop.
    pub(crate) rate: f64,
    pub(crate) room_members: u32,
    pub(crate) stalled_percent: f64,
    /// Messages to wait for before waking up, in a closed loop.
    pub(crate) batch: u32,
    /// True exactly when connections that are lost are opened again until they are open, which
    /// [`Note::Opened`] tells once all are.
    pub(crate) returns: bool,
    /// CPU to run on.
    pub(crate) core: Option<usize>,
}

impl Plan {
    /// The number of entries in its connection table.
    pub(crate) fn clients(&self) -> u32 {
        self.connections + u32::from(self.publisher)
    }
}

/// How many processes are waited for when this one has been told to open its connections. Those that
/// share a topic open one after another: otherwise how their connections lie among each other, and
/// with that how often a process is woken, would be another on each server.
pub(crate) fn awaited(plans: &[Plan], number: usize) -> usize {
    match plans[number].shared {
        true => 1,
        false if number + 1 == plans.len() => plans.len(),
        false => 0,
    }
}

/// What a process is told.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
pub(crate) enum Order {
    /// Open connections until this many have been tried; answered by [`Note::Opened`].
    Open { clients: u32 },
    /// Send for this long, then wait for what is under way, at most for the grace; answered by
    /// [`Note::Done`].
    Run { duration_ns: u64, grace_ns: u64, record: bool },
    /// Shared group: everybody has the last publication, send the next.
    Publish,
    /// Shared group: this many publications were sent since the start; finish when all arrived.
    Finish { published: u32 },
    /// Say Close on every connection; answered by [`Note::Ready`] when the server has ended them.
    Leave,
    /// Open pairs of connections within the process, so that their memory can be weighed;
    /// answered by [`Note::Ready`].
    Pairs { count: u32 },
    /// Arm a receive on one end of each pair; answered by [`Note::Ready`].
    ArmPairs,
    /// Close the pairs; answered by [`Note::Ready`].
    ClosePairs,
}

/// What happened in a run.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
pub(crate) struct Counts {
    /// Messages sent, or connections told to reconnect.
    pub(crate) published: u64,
    /// Whole messages received, each the next of its connection.
    pub(crate) delivered: u64,
    /// Bytes of data frames received, compressed as they came, headers included.
    pub(crate) frame_bytes: u64,
    /// Data frames that came compressed.
    pub(crate) compressed: u64,
    /// Messages that a reading subscriber never got.
    pub(crate) missing: u64,
    /// Messages received again or behind a later one.
    pub(crate) repeated: u64,
    /// Frames and payloads that were not what was sent.
    pub(crate) broken: u64,
    /// Connections that ended without being asked to.
    pub(crate) lost: u64,
    /// Pings answered.
    pub(crate) pings: u64,
    /// Connections opened again.
    pub(crate) reopened: u64,
}

impl Counts {
    /// Adds those of another process.
    pub(crate) fn add(&mut self, other: &Counts) {
        self.published += other.published;
        self.delivered += other.delivered;
        self.frame_bytes += other.frame_bytes;
        self.compressed += other.compressed;
        self.missing += other.missing;
        self.repeated += other.repeated;
        self.broken += other.broken;
        self.lost += other.lost;
        self.pings += other.pings;
        self.reopened += other.reopened;
    }

    /// True exactly when something went wrong.
    pub(crate) fn has_errors(&self) -> bool {
        self.missing + self.repeated + self.broken + self.lost > 0
    }

    /// True exactly when something was published, and each of so many subscribers has all of it.
    pub(crate) fn has_all(&self, subscribers: u32) -> bool {
        let wanted = self.published * u64::from(subscribers);
        !self.has_errors() && self.published > 0 && self.delivered >= wanted
    }
}

/// One histogram of an interval, V2 with DEFLATE in base64.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct Encoded {
    pub(crate) tag: String,
    pub(crate) histogram: String,
}

/// What a process answers.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) enum Note {
    /// All connections that were asked for are open or have failed.
    Opened { open: u32, failed: u32, why: Option<String> },
    /// How far it is, a few times per second.
    Progress { open: u32, delivered: u64 },
    /// What was recorded between two times of the monotonic clock.
    Interval { start_ns: u64, end_ns: u64, histograms: Vec<Encoded> },
    /// Shared group: all of this process's subscribers have a publication.
    Have { sequence: u32, latency_ns: u64 },
    /// Shared group: the publisher has sent its last; this many since the start.
    Published { published: u32 },
    /// The run is over.
    Done { counts: Counts, why: Option<String> },
    /// An order that has no other answer was carried out.
    Ready,
    /// The process ends with this error.
    Failed { why: String },
}

/// Writes one value as a line.
pub(crate) fn write_line(mut writer: impl Write, value: &impl Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(value)?;
    line.push(b'\n');
    writer.write_all(&line)?;
    writer.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everybody_has_all_or_something_is_missing() {
        let counts = Counts { published: 3, delivered: 6, ..Counts::default() };
        assert!(counts.has_all(2));
        assert!(!counts.has_all(3));
        assert!(!Counts { missing: 1, ..counts }.has_all(2));
        assert!(!Counts::default().has_all(2));
    }
}
