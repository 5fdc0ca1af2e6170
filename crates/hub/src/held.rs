//! What has had no room yet: publications of clients that wait for the mesh or the fan-out, and
//! answers that wait for their way back. Each goes out in the order in which it came.

use std::{collections::VecDeque, sync::Arc};

use mesh::Member;
use worker::{ConnectionId, Publication};

use crate::letter::Letter;

/// What a held publication is charged beside its frame.
const PUBLICATION_CHARGE_BYTES: u64 = 256;

/// Publications that were accepted from clients and are still to be published.
#[derive(Debug)]
pub(crate) struct HeldPublications {
    publications: VecDeque<HeldPublication>,
    bytes: u64,
    bytes_max: u64,
}

/// One of them. Its publisher may be gone: the message was accepted and is published all the same.
#[derive(Debug)]
pub(crate) struct HeldPublication {
    pub(crate) publication: Arc<Publication>,
    /// Paused until the publication is out.
    pub(crate) publisher: ConnectionId,
}

/// Letters to guests that had no room. A guest bounds what it has outstanding by the capacity of
/// the queue back to it, so this is empty but for a moment, and bounded by the guest.
pub(crate) type HeldLetters = VecDeque<(Member, Letter)>;

impl HeldPublications {
    pub(crate) fn new(bytes_max: u64) -> Self {
        Self { publications: VecDeque::new(), bytes: 0, bytes_max }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.publications.is_empty()
    }

    /// Whether there is room to hold this one too.
    pub(crate) fn has_room(&self, publication: &Publication) -> bool {
        self.bytes + charge(publication) <= self.bytes_max
    }

    pub(crate) fn push(&mut self, held: HeldPublication) {
        self.bytes += charge(&held.publication);
        self.publications.push_back(held);
    }

    pub(crate) fn first(&self) -> Option<&HeldPublication> {
        self.publications.front()
    }

    pub(crate) fn pop(&mut self) -> Option<HeldPublication> {
        let held = self.publications.pop_front()?;
        self.bytes -= charge(&held.publication);
        Some(held)
    }
}

fn charge(publication: &Publication) -> u64 {
    publication.frame().len() as u64 + PUBLICATION_CHARGE_BYTES
}
