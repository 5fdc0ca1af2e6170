//! Bounded single-producer single-consumer queues between the members of a mesh: one per ordered
//! pair. Letters go through memory; who waits is woken by its engine. This crate decides when a
//! member must be woken; it wakes nobody itself, and it never blocks, spins or grows.
//!
//! # Using it
//!
//! [`join`] makes one [`Endpoint`] for each member, which goes to that member's thread. What is
//! for several members is all or nothing without a lock: an endpoint is the only producer of its
//! queues, so once [`Endpoint::room`] has been seen it stays, and the posts that follow succeed.
//! After a batch of posts the member calls [`Endpoint::poll_wake`] until it says `None`, and wakes
//! whom it names. A member that has nothing to do calls [`Endpoint::park`], waits when that says
//! `true`, and calls [`Endpoint::unpark`] when it goes on for whatever reason.
//!
//! A member whose endpoint is gone takes nothing any more: posts to it go on until its queue is
//! full. It is not named by `poll_wake`.
//!
//! # Order
//!
//! Letters from one member to another arrive in the order of posting. A member with mail from
//! several takes one letter from each in turn, so nobody who posts much holds up the others.
//!
//! # Wake rule
//!
//! The consumer sets its parked flag, looks for letters again, and only then waits. The producer
//! puts its letters into the queues and then looks at the parked flags. Both have a
//! sequentially consistent fence in between, so at least one of them sees the other: no letter
//! waits beside a parked member that nobody has undertaken to wake. Who finds the flag set clears
//! it by a swap, so there is at most one wake per parking, however many post.
//!
//! A member can be named by `poll_wake` although it goes on by itself at that moment: wakes may
//! come to a member that does not wait, and mean nothing then.
#![forbid(unsafe_code)]

mod line;
mod mailbox;
mod pair;
mod set;
#[cfg(not(loom))]
mod sync;
#[cfg(loom)]
#[path = "sync_loom.rs"]
mod sync;

#[cfg(all(test, loom))]
mod model;
#[cfg(all(test, not(loom)))]
mod tests;

use std::{fmt, sync::Arc};

use crate::{
    mailbox::{Mailbox, order_letters_before_looks},
    pair::{Inbox, Outbox, Posted, pair},
    set::MemberSet,
};

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

/// One member's ends of all its queues. It cannot be cloned, and what posts or takes needs it
/// exclusively: so every queue has one producer and one consumer.
pub struct Endpoint<L> {
    member: Member,
    /// By member. `None` for itself, and for a queue that was made to hold nothing.
    outboxes: Box<[Option<Outbox<L>>]>,
    /// By member, likewise.
    inboxes: Box<[Option<Inbox<L>>]>,
    /// By member, shared by all.
    mailboxes: Arc<[Mailbox]>,
    /// Senders that may have mail for this member. All others are in its mailbox, or have none.
    with_mail: MemberSet,
    /// The member whose turn it is to have a letter taken, if it is in `with_mail`.
    next_from: usize,
    /// Members posted to since, whose parked flag is still to be looked at.
    posted_to: MemberSet,
    /// True exactly when every letter to a member of `posted_to` comes before the next look at a
    /// parked flag in the order of fences.
    ordered: bool,
}

/// Joins `members` by queues of `letters_max(from, to)` letters each. Where that is zero there is
/// no queue: it never has room.
pub fn join<L>(members: u16, letters_max: impl Fn(Member, Member) -> usize) -> Vec<Endpoint<L>> {
    let count = usize::from(members);
    let mailboxes: Arc<[Mailbox]> = (0..members).map(|_| Mailbox::new(count)).collect();
    let mut endpoints: Vec<_> = (0..members)
        .map(|member| Endpoint {
            member: Member(member),
            outboxes: (0..members).map(|_| None).collect(),
            inboxes: (0..members).map(|_| None).collect(),
            mailboxes: Arc::clone(&mailboxes),
            with_mail: MemberSet::new(count),
            next_from: 0,
            posted_to: MemberSet::new(count),
            ordered: true,
        })
        .collect();
    for from in 0..members {
        for to in (0..members).filter(|to| *to != from) {
            let letters_max = letters_max(Member(from), Member(to));
            if letters_max > 0 {
                let (outbox, inbox) = pair(letters_max);
                endpoints[usize::from(from)].outboxes[usize::from(to)] = Some(outbox);
                endpoints[usize::from(to)].inboxes[usize::from(from)] = Some(inbox);
            }
        }
    }
    endpoints
}

impl<L> Endpoint<L> {
    /// Who this is.
    #[must_use]
    pub fn member(&self) -> Member {
        self.member
    }

    /// How many members there are, this one included.
    #[must_use]
    pub fn members(&self) -> u16 {
        u16::try_from(self.mailboxes.len()).expect("members are counted by a u16")
    }

    /// How many letters to `to` have room. Only this endpoint can make it less. Zero for itself
    /// and for nobody.
    #[must_use]
    pub fn room(&self, to: Member) -> usize {
        self.outboxes.get(usize::from(to.0)).and_then(Option::as_ref).map_or(0, Outbox::room)
    }

    /// Posts a letter. It can be taken at once; a member that waits learns of it by the
    /// [`poll_wake`](Self::poll_wake) that must follow.
    ///
    /// # Errors
    /// The queue is full: the letter comes back.
    pub fn post(&mut self, to: Member, letter: L, now: u64) -> Result<(), Full<L>> {
        let to = usize::from(to.0);
        let Some(outbox) = self.outboxes.get_mut(to).and_then(Option::as_mut) else {
            return Err(Full(letter));
        };
        outbox.post(Posted { letter, posted_at: now }).map_err(Full)?;
        self.mailboxes[to].announce(usize::from(self.member.0));
        self.posted_to.insert(to);
        self.ordered = false;
        Ok(())
    }

    /// A member that was posted to since the last call and was parked: wake it, once per batch.
    /// To be called until it says `None`. Who is named is no longer parked: the wake must be done.
    pub fn poll_wake(&mut self) -> Option<Member> {
        while let Some(to) = self.posted_to.first_from(0) {
            if !self.ordered {
                order_letters_before_looks();
                self.ordered = true;
            }
            self.posted_to.remove(to);
            if self.mailboxes[to].must_wake() {
                return Some(named(to));
            }
        }
        None
    }

    /// The next letter, from one sender after the other.
    pub fn take(&mut self) -> Option<Delivery<L>> {
        let from = self.next_sender()?;
        self.next_from = from + 1;
        let Posted { letter, posted_at } = self.inboxes[from].as_mut()?.take()?;
        Some(Delivery { from: named(from), letter, posted_at })
    }

    /// How many letters wait to be taken. Looks at every queue: a gauge, not a test for each turn.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.inboxes.iter().flatten().map(Inbox::waiting).sum()
    }

    /// Declares that this member is about to wait. `false`: a letter is there, do not wait; then
    /// the member is not parked, though a wake may be on its way.
    pub fn park(&mut self) -> bool {
        self.mailbox().park();
        // A new round begins wherever the last one stopped, so the look costs nobody its turn.
        let must_wait = self.next_sender().is_none();
        if !must_wait {
            self.unpark();
        }
        must_wait
    }

    /// Declares that the wait is over.
    pub fn unpark(&mut self) {
        self.mailbox().unpark();
    }

    /// How many letters the queue from `from` to this member holds at most. Zero from itself and
    /// from nobody.
    #[must_use]
    pub fn letters_max(&self, from: Member) -> usize {
        let inbox = self.inboxes.get(usize::from(from.0)).and_then(Option::as_ref);
        inbox.map_or(0, Inbox::letters_max)
    }

    /// How much memory the queues to this member take, in bytes. It does not change.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        self.inboxes.iter().flatten().map(Inbox::memory_bytes).sum()
    }

    /// The sender whose letter is taken next, if any letter is there.
    ///
    /// A round goes once over the senders that had mail when it began; only then are those that
    /// have come since collected. So a sender waits for at most two letters of every other.
    ///
    /// The loop ends: a round that finds no letter removes all its senders. Such a sender had
    /// counted its letter, and the letter was taken, before it was announced; its next announcement
    /// is of a letter that is found here. So there are at most as many rounds as members, and one.
    fn next_sender(&mut self) -> Option<usize> {
        loop {
            while let Some(from) = self.with_mail.first_from(self.next_from) {
                if self.inboxes[from].as_mut().is_some_and(Inbox::has_letter) {
                    self.next_from = from;
                    return Some(from);
                }
                self.with_mail.remove(from);
            }
            self.next_from = 0;
            self.mailboxes[usize::from(self.member.0)].collect(&mut self.with_mail);
            if self.with_mail.is_empty() {
                return None;
            }
        }
    }

    fn mailbox(&self) -> &Mailbox {
        &self.mailboxes[usize::from(self.member.0)]
    }
}

/// The member of that number.
fn named(index: usize) -> Member {
    Member(u16::try_from(index).expect("members are counted by a u16"))
}

impl<L> fmt::Debug for Endpoint<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Endpoint")
            .field("member", &self.member)
            .field("members", &self.members())
            .finish_non_exhaustive()
    }
}

impl<L> Drop for Endpoint<L> {
    /// Nobody is left to be woken.
    fn drop(&mut self) {
        self.unpark();
    }
}
