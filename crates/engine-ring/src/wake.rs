//! Ending a wait from elsewhere. Another ring does it with one entry of its own, any thread with a
//! write to an eventfd that the ring polls; and a guest of the mesh, which waits on an eventfd, is
//! woken by a write through the ring.

use std::{
    os::fd::{AsRawFd, OwnedFd},
    sync::{Arc, Weak},
};

use mesh::Member;
use worker::{Completion, Time};

use crate::{
    engine::{BACK_OFF, RingEngine},
    queue::Entry,
    sends,
    tag::{Kind, Tag},
};

/// How a member of the mesh is woken by a ring.
#[derive(Clone, Debug)]
pub struct WakeTarget(Target);

#[derive(Clone, Debug)]
enum Target {
    /// A ring. Weak: its engine may end while others still know of it, and must then take its
    /// connections with it.
    Ring(Weak<OwnedFd>),
    /// A guest's eventfd.
    Event(Arc<OwnedFd>),
}

impl From<Arc<OwnedFd>> for WakeTarget {
    /// A guest, which waits on this eventfd.
    fn from(event: Arc<OwnedFd>) -> Self {
        Self(Target::Event(event))
    }
}

impl WakeTarget {
    pub(crate) fn ring(ring: &Arc<OwnedFd>) -> Self {
        Self(Target::Ring(Arc::downgrade(ring)))
    }
}

/// The members that this engine can wake.
#[derive(Debug, Default)]
pub(crate) struct Wakes {
    /// By member.
    targets: Vec<Option<WakeTarget>>,
    /// Descriptors named by entries of the current batch.
    held: Vec<Arc<OwnedFd>>,
    /// Members whose wake failed for want of memory, each once.
    again: Vec<Member>,
    /// When to try those again.
    again_at: Time,
}

impl Wakes {
    /// When there is a wake to repeat.
    pub(crate) fn due(&self) -> Time {
        if self.again.is_empty() { Time::NEVER } else { self.again_at }
    }

    /// The kernel has consumed every entry of the batch.
    pub(crate) fn settle(&mut self) {
        self.held.clear();
    }
}

impl RingEngine {
    /// Says how a member of the mesh is woken. Before the first `Wake` of it.
    pub fn connect(&mut self, member: Member, target: WakeTarget) {
        let index = usize::from(member.0);
        if self.wakes.targets.len() <= index {
            self.wakes.targets.resize(index + 1, None);
        }
        self.wakes.targets[index] = Some(target);
    }

    /// Queues the entry that wakes a member. One that is not connected, or gone, is not woken.
    pub(crate) fn wake(&mut self, member: Member) {
        self.make_room();
        let tag = Tag::of_engine(Kind::Wake, member.0.into());
        let Some(Some(WakeTarget(target))) = self.wakes.targets.get(usize::from(member.0)) else {
            return;
        };
        let (descriptor, entry) = match target {
            Target::Ring(ring) => {
                let Some(ring) = ring.upgrade() else { return };
                let entry = Entry::wake_ring(ring.as_raw_fd(), tag);
                (ring, entry)
            }
            Target::Event(event) => (Arc::clone(event), sends::wake_event(event.as_raw_fd(), tag)),
        };
        self.wakes.held.push(descriptor);
        self.push(&entry);
    }

    /// A wake failed: tries again where the kernel had no memory, which is its only passing reason.
    pub(crate) fn on_wake_failed(&mut self, now: Time, tag: Tag, result: i32) {
        let passing = matches!(-result, libc::ENOMEM | libc::EAGAIN | libc::EINTR);
        let Ok(member) = u16::try_from(tag.slot).map(Member) else { return };
        if passing && !self.wakes.again.contains(&member) {
            self.wakes.again.push(member);
            self.wakes.again_at = now + BACK_OFF;
        }
    }

    /// Repeats wakes that failed.
    pub(crate) fn wake_again(&mut self, now: Time) {
        if now >= self.wakes.due() {
            for member in std::mem::take(&mut self.wakes.again) {
                self.wake(member);
            }
        }
    }

    /// Somebody has called; told once however many have.
    pub(crate) fn deliver_woken(
        &mut self,
        now: Time,
        on_completion: &mut impl FnMut(Time, Completion<'_>),
    ) {
        if std::mem::take(&mut self.woken) {
            on_completion(now, Completion::Woken);
        }
    }

    /// The waker's eventfd was written to. It is not read: each write completes the poll again.
    pub(crate) fn on_wake_poll(&mut self, more: bool) {
        self.woken = true;
        if !more {
            self.poll_wakes();
        }
    }

    /// Arms the poll of the waker's eventfd.
    pub(crate) fn poll_wakes(&mut self) {
        let tag = Tag::of_engine(Kind::WakePoll, 0);
        let file = self.places.file(self.places.waker(), self.waker.event());
        let entry = Entry::poll_on_and_on(file, tag);
        self.push(&entry);
    }
}
