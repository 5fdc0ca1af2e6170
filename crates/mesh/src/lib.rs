//! Bounded single-producer single-consumer queues between the members of a mesh: one per ordered
//! pair. Letters go through memory; who waits is woken by its engine. This crate decides when a
//! member must be woken; it wakes nobody itself, and it never blocks, spins or grows.

/// A worker or a guest of the mesh. Workers come first, from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Member(pub u16);

/// A letter as it arrives.
#[derive(Debug, PartialEq, Eq)]
pub struct Delivery<L> {
    /// Who posted it.
    pub from: Member,
    /// What was posted.
    pub letter: L,
    /// The stamp that the sender gave it.
    pub posted_at: u64,
}

/// The queue to a member has no room: the letter back.
#[derive(Debug, PartialEq, Eq)]
pub struct Full<L>(pub L);

/// One member's ends of all its queues.
#[derive(Debug)]
pub struct Endpoint<L> {
    letters: std::marker::PhantomData<L>,
}

/// Joins `members` by queues of `letters_max(from, to)` letters each.
pub fn join<L>(members: u16, letters_max: impl Fn(Member, Member) -> usize) -> Vec<Endpoint<L>> {
    let _ = (members, letters_max);
    unimplemented!()
}

impl<L> Endpoint<L> {
    /// Who this is.
    #[must_use]
    pub fn member(&self) -> Member {
        unimplemented!()
    }

    /// How many members there are, this one included.
    #[must_use]
    pub fn members(&self) -> u16 {
        unimplemented!()
    }

    /// How many letters to `to` have room. Only this endpoint can make it less. Zero for itself.
    #[must_use]
    pub fn room(&self, to: Member) -> usize {
        let _ = to;
        unimplemented!()
    }

    /// Posts a letter.
    ///
    /// # Errors
    /// The queue is full: the letter comes back.
    pub fn post(&mut self, to: Member, letter: L, now: u64) -> Result<(), Full<L>> {
        let _ = (to, letter, now);
        unimplemented!()
    }

    /// A member that was posted to since the last call and was parked: wake it, once per batch.
    pub fn poll_wake(&mut self) -> Option<Member> {
        unimplemented!()
    }

    /// The next letter, from one sender after the other.
    pub fn take(&mut self) -> Option<Delivery<L>> {
        unimplemented!()
    }

    /// How many letters wait to be taken.
    #[must_use]
    pub fn waiting(&self) -> usize {
        unimplemented!()
    }

    /// Declares that this member is about to wait. `false`: a letter is there, do not wait.
    pub fn park(&mut self) -> bool {
        unimplemented!()
    }

    /// Declares that the wait is over.
    pub fn unpark(&mut self) {
        unimplemented!()
    }
}
