//! What is queued for a connection, reckoned apart from the worker that queues it: which messages
//! had been given to the worker at a moment at which it had nothing left to do, and how far the
//! socket was in what it had taken by then. Whatever of those messages the visitor receives behind
//! that was in the queue at that moment, in the encoding in which it comes.
//!
//! It is a lower bound: of a message that never comes it is not known whether it was still there. And
//! it is one of open connections only: of who is being closed, more than the bound may be queued that
//! may not be cut (`Limits::send_queue_bytes_max`).

use std::collections::BTreeMap;

use worker::{Limits, Time};

use crate::{ledger::Heard, link::LinkId};

/// So many moments of one connection are remembered at most.
const LOOKS_MAX: usize = 8;

/// Queues whose socket refuses bytes.
#[derive(Debug)]
pub(crate) struct Queues {
    bytes_max: u64,
    charge: u64,
    /// True exactly when no two publications are joined into one frame.
    are_apart: bool,
    looks: BTreeMap<LinkId, Vec<Look>>,
}

/// A moment at which a socket refused bytes, and what was queued then as far as it is known.
#[derive(Debug)]
struct Look {
    at: Time,
    /// How many bytes the socket had taken.
    taken: u64,
    /// When the worker was last put together again: what it owed then may have been joined.
    moved: Time,
    bytes: u64,
    frames: u64,
}

/// What a message that was received has shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shown {
    Nothing,
    /// With it a queue was half full.
    HalfFull,
}

impl Queues {
    pub(crate) fn new(limits: &Limits) -> Self {
        Self {
            bytes_max: limits.send_queue_bytes_max,
            charge: limits.send_queue_frame_charge_bytes.into(),
            are_apart: limits.coalesce_bytes_max <= 1,
            looks: BTreeMap::new(),
        }
    }

    /// A worker has nothing left to do, and this connection's socket, which has taken so many bytes,
    /// refuses more. `is_open`: the worker has not begun to close it.
    pub(crate) fn look(&mut self, link: LinkId, is_open: bool, at: Time, taken: u64, moved: Time) {
        if !is_open {
            return;
        }
        let looks = self.looks.entry(link).or_default();
        if let Some(last) = looks.last_mut().filter(|last| last.taken == taken) {
            // All that was queued then still is.
            (last.at, last.moved) = (at, moved);
        } else if looks.len() < LOOKS_MAX {
            looks.push(Look { at, taken, moved, bytes: 0, frames: 0 });
        }
    }

    /// A message has come, whose frame stands between these two places of all bytes.
    pub(crate) fn receive(
        &mut self,
        link: LinkId,
        (begin, end): (u64, u64),
        heard: &Heard,
    ) -> Result<Shown, String> {
        let Some(looks) = self.looks.get_mut(&link) else { return Ok(Shown::Nothing) };
        // Messages do not pass each other: with one that was sent later, all have come.
        looks.retain(|look| heard.sent < look.at);
        let mut shown = Shown::Nothing;
        for look in looks.iter_mut().filter(|look| heard.known < look.at && look.taken < end) {
            let before = look.bytes;
            look.bytes += end - begin.max(look.taken);
            look.frames += u64::from(self.are_apart && heard.sent >= look.moved);
            // The charge of one frame does not count (`Limits::send_queue_bytes_max`).
            let queued = look.bytes + self.charge * look.frames.saturating_sub(1);
            if queued > self.bytes_max {
                return Err(format!(
                    "{} bytes in {} frames or more were queued at {:?}, and at most {} may be",
                    look.bytes,
                    look.frames.max(1),
                    look.at,
                    self.bytes_max
                ));
            }
            let half = self.bytes_max / 2;
            if before < half && look.bytes >= half {
                shown = Shown::HalfFull;
            }
        }
        Ok(shown)
    }

    /// The connection has ended for its visitor.
    pub(crate) fn forget(&mut self, link: LinkId) {
        self.looks.remove(&link);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queues(coalesce_bytes_max: u32) -> Queues {
        Queues::new(&Limits {
            send_queue_bytes_max: 100,
            send_queue_frame_charge_bytes: 10,
            coalesce_bytes_max,
            ..Limits::default()
        })
    }

    /// Sent and known at these times.
    fn heard(sent: u64, known: u64) -> Heard {
        Heard { sent: Time(sent), known: Time(known), row: None }
    }

    #[test]
    fn what_comes_behind_what_was_taken_was_queued_if_it_was_known_by_then() {
        let mut queues = queues(1_000);
        queues.look(0, true, Time(50), 200, Time(0));
        // All but 30 bytes had been taken.
        assert_eq!(queues.receive(0, (130, 230), &heard(1, 2)), Ok(Shown::Nothing));
        assert_eq!(queues.receive(0, (230, 270), &heard(1, 50)), Ok(Shown::Nothing), "not known");
        assert_eq!(queues.receive(0, (270, 315), &heard(1, 2)), Ok(Shown::HalfFull), "75 of 100");
        assert_eq!(
            queues.receive(1, (0, 1_000), &heard(1, 2)),
            Ok(Shown::Nothing),
            "nobody looked"
        );
        assert_eq!(queues.receive(0, (315, 340), &heard(1, 2)), Ok(Shown::Nothing));
        queues.receive(0, (340, 341), &heard(1, 2)).unwrap_err();
    }

    #[test]
    fn behind_a_message_that_was_sent_later_nothing_was_queued() {
        let mut queues = queues(1_000);
        queues.look(0, true, Time(50), 0, Time(0));
        queues.receive(0, (0, 100), &heard(1, 2)).unwrap();
        queues.receive(0, (100, 200), &heard(50, 60)).unwrap();
        queues.receive(0, (200, 300), &heard(1, 2)).unwrap();
    }

    #[test]
    fn a_closing_connection_may_have_more_and_an_open_one_may_not_though_it_is_closed_later() {
        for (is_open_first, is_open_then, is_right) in
            [(false, false, true), (false, true, false), (true, false, false), (true, true, false)]
        {
            let mut queues = queues(1_000);
            queues.look(0, is_open_first, Time(50), 200, Time(0));
            queues.look(0, is_open_then, Time(60), 200, Time(0));
            let outcome = queues.receive(0, (200, 301), &heard(1, 2));
            assert_eq!(outcome.is_ok(), is_right, "{is_open_first} {is_open_then}");
        }
    }

    #[test]
    fn what_became_known_once_it_was_closing_was_not_queued_while_it_was_open() {
        let mut queues = queues(1_000);
        queues.look(0, true, Time(50), 0, Time(0));
        queues.look(0, false, Time(60), 0, Time(0));
        queues.receive(0, (0, 100), &heard(1, 2)).unwrap();
        queues.receive(0, (100, 200), &heard(1, 55)).unwrap();
        queues.receive(0, (200, 201), &heard(1, 49)).unwrap_err();
    }

    #[test]
    fn frames_that_were_not_joined_are_charged_all_but_one() {
        for (coalesce_bytes_max, moved, is_right) in
            [(1, 0, false), (1, 20, true), (1_000, 0, true)]
        {
            let mut queues = queues(coalesce_bytes_max);
            queues.look(0, true, Time(30), 0, Time(0));
            queues.look(0, true, Time(50), 0, Time(moved));
            for number in 0..3 {
                let place = (number * 27, (number + 1) * 27);
                let outcome = queues.receive(0, place, &heard(10, 40));
                assert_eq!(outcome.is_ok(), number < 2 || is_right, "{number}");
            }
        }
    }
}
