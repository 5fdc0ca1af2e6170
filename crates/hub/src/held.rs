//! What has had no room yet: publications of clients that wait for the mesh or the fan-out, and
//! answers that wait for their way back. Each goes out in the order in which it came.

use std::{
    collections::{BTreeMap, VecDeque},
    mem,
    sync::Arc,
};

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
    /// So many of the first were held before all connections were last forgotten: they name their
    /// publishers as they were called then.
    renamed: usize,
    /// How those that have come back since are called now. Empty where none is held.
    names: BTreeMap<ConnectionId, ConnectionId>,
}

/// One of them.
#[derive(Debug)]
pub(crate) struct HeldPublication {
    pub(crate) publication: Arc<Publication>,
    /// Paused until the publication is out. It may be gone: the message was accepted and is
    /// published all the same.
    pub(crate) publisher: Option<ConnectionId>,
}

/// Letters to guests that had no room. A guest bounds what it has outstanding by the capacity of
/// the queue back to it, so this is empty but for a moment, and bounded by the guest.
pub(crate) type HeldLetters = VecDeque<(Member, Letter)>;

impl HeldPublications {
    pub(crate) fn new(bytes_max: u64) -> Self {
        Self {
            publications: VecDeque::new(),
            bytes: 0,
            bytes_max,
            renamed: 0,
            names: BTreeMap::new(),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.publications.is_empty()
    }

    /// Bytes of what is held, with what it is charged.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Whether there is room to hold this one too.
    pub(crate) fn has_room(&self, publication: &Publication) -> bool {
        self.bytes + charge(publication) <= self.bytes_max
    }

    pub(crate) fn push(&mut self, held: HeldPublication) {
        self.bytes += charge(&held.publication);
        self.publications.push_back(held);
    }

    /// The first, which must have room to go out.
    pub(crate) fn first(&self) -> Option<&Publication> {
        self.publications.front().map(|held| &*held.publication)
    }

    /// Takes the first out. `here` is the worker whose clients have sent them.
    pub(crate) fn pop(&mut self, here: Member) -> Option<HeldPublication> {
        let mut held = self.publications.pop_front()?;
        self.bytes -= charge(&held.publication);
        if let Some(renamed) = self.renamed.checked_sub(1) {
            self.renamed = renamed;
            held.rename(here, &self.names);
        }
        if self.renamed == 0 {
            self.names.clear();
        }
        Some(held)
    }

    /// All connections are forgotten, and will come back by other names, or not at all.
    pub(crate) fn forget_names(&mut self, here: Member) {
        let names = mem::take(&mut self.names);
        self.publications.iter_mut().take(self.renamed).for_each(|held| held.rename(here, &names));
        self.renamed = self.publications.len();
    }

    /// One of them has come back.
    pub(crate) fn rename(&mut self, from: ConnectionId, to: ConnectionId) {
        if self.renamed > 0 {
            self.names.insert(from, to);
        }
    }
}

impl HeldPublication {
    /// Its publisher is called otherwise now, or has not come back. Who wants none of its own
    /// messages must not get this one by its new name, and nobody else be taken for it.
    fn rename(&mut self, here: Member, names: &BTreeMap<ConnectionId, ConnectionId>) {
        let before = self.publisher;
        self.publisher = before.and_then(|publisher| names.get(&publisher).copied());
        let publication = &self.publication;
        if self.publisher != before && publication.excluded(here).is_some() {
            self.publication = Arc::new(Publication::new(
                publication.topic().map(Into::into),
                publication.opcode(),
                publication.payload(),
                self.publisher.map(|publisher| (here, publisher)),
                publication.received_at(),
            ));
        }
    }
}

fn charge(publication: &Publication) -> u64 {
    publication.frame().len() as u64 + PUBLICATION_CHARGE_BYTES
}

#[cfg(test)]
mod tests {
    use wire::DataOpcode;
    use worker::Time;

    use super::*;

    const HERE: Member = Member(0);

    fn connection(slot: u32) -> ConnectionId {
        ConnectionId { slot, generation: 1 }
    }

    fn held(publisher: ConnectionId) -> HeldPublication {
        let own = Some((HERE, publisher));
        let publication = Publication::new(None, DataOpcode::Text, b"one", own, Time(0));
        HeldPublication { publication: Arc::new(publication), publisher: Some(publisher) }
    }

    #[test]
    fn names_are_kept_only_for_what_was_held_before_the_move() {
        let mut publications = HeldPublications::new(1_000);
        publications.forget_names(HERE);
        publications.rename(connection(1), connection(2));
        assert!(publications.names.is_empty(), "nothing was held");
        publications.push(held(connection(2)));
        publications.forget_names(HERE);
        publications.rename(connection(2), connection(3));
        // Held since, by its name of now, which somebody else had before.
        publications.push(held(connection(2)));
        let names = [3, 2].map(|slot| Some(connection(slot)));
        assert_eq!(publications.pop(HERE).unwrap().publisher, names[0]);
        assert!(publications.names.is_empty(), "all that it was for is out");
        assert_eq!(publications.pop(HERE).unwrap().publisher, names[1]);
    }

    #[test]
    fn what_is_held_is_its_frame_and_256_bytes() {
        let mut publications = HeldPublications::new(1_000);
        for slot in [1, 2] {
            publications.push(held(connection(slot)));
        }
        assert_eq!(publications.bytes(), 2 * (2 + 3 + 256));
        publications.pop(HERE).unwrap();
        assert_eq!(publications.bytes(), 261);
    }
}
