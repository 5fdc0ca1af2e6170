//! The submission and completion queue: the one place where entries are given to the kernel. An
//! [`Entry`] either names no memory of ours, or was made where that memory is kept (`buffers.rs`,
//! `sends.rs`, `arena.rs`), whose author answers for it. So pushing one is safe, and everything above this file
//! is ordinary code.
#![expect(unsafe_code, reason = "the queues are memory that is shared with the kernel")]

use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd, RawFd},
    ptr::NonNull,
    time::Duration,
};

use io_uring::{
    EnterFlags, IoUring, Submitter, cqueue, opcode, squeue,
    types::{CancelBuilder, Fd, Fixed, SubmitArgs, Timespec},
};
use worker::Slot;

use crate::{
    descriptors::{Descriptors, File},
    tag::{Kind, Tag},
};

/// The group of the one provided-buffer ring.
pub(crate) const BUFFER_GROUP: u16 = 0;

/// A submission entry whose memory, if it names any, outlives its use by the kernel.
#[derive(Clone)]
pub(crate) struct Entry(squeue::Entry);

impl Entry {
    /// An entry that names memory.
    ///
    /// # Safety
    /// What `entry` points to must stay valid, and unused by anybody else in a way that conflicts
    /// with what the kernel does with it, until the entry has completed; for an entry whose
    /// success posts no completion, until the enter that consumed it has returned.
    pub(crate) unsafe fn with_memory(entry: squeue::Entry, tag: Tag) -> Self {
        Self(entry.user_data(tag.pack()))
    }

    /// Completes once, when one of `events` is true of the file.
    pub(crate) fn poll(file: File, events: i16, tag: Tag) -> Self {
        let events = u32::from(events.cast_unsigned());
        Self::of_file(opcode::PollAdd::new(file.number(), events).build(), file, tag)
    }

    /// Completes each time that the file becomes readable.
    pub(crate) fn poll_on_and_on(file: File, tag: Tag) -> Self {
        let events = u32::from(libc::POLLIN.cast_unsigned());
        let entry = opcode::PollAdd::new(file.number(), events).multi(true).build();
        Self::of_file(entry, file, tag)
    }

    /// Receives once what is there now, into a buffer that the kernel picks.
    pub(crate) fn receive(file: File, tag: Tag) -> Self {
        let entry = opcode::Recv::new(file.number(), std::ptr::null_mut(), 0)
            .flags(libc::MSG_DONTWAIT)
            .buf_group(BUFFER_GROUP)
            .build()
            .flags(squeue::Flags::BUFFER_SELECT);
        Self::of_file(entry, file, tag)
    }

    /// Receives again and again, each time into a buffer that the kernel picks.
    pub(crate) fn receive_on_and_on(file: File, tag: Tag) -> Self {
        Self::of_file(opcode::RecvMulti::new(file.number(), BUFFER_GROUP).build(), file, tag)
    }

    /// Cancels the entry with the tag `cancelled`. By `user_data`: by file the kernel walks
    /// everything that is armed.
    pub(crate) fn cancel(cancelled: Tag) -> Self {
        let tag = Tag { kind: Kind::Cancel, ..cancelled };
        let entry = opcode::AsyncCancel::new(cancelled.pack()).build();
        Self(entry.flags(squeue::Flags::SKIP_SUCCESS).user_data(tag.pack()))
    }

    /// Sends FIN, on a kernel worker thread.
    pub(crate) fn shutdown(file: File, tag: Tag) -> Self {
        Self::of_file(opcode::Shutdown::new(file.number(), libc::SHUT_WR).build(), file, tag)
    }

    /// Empties a place of the descriptor table.
    pub(crate) fn close_place(place: Slot, tag: Tag) -> Self {
        Self(opcode::Close::new(Fixed(place)).build().user_data(tag.pack()))
    }

    /// Closes a file of the process. It is the kernel's from now on, whatever the result.
    pub(crate) fn close_file(file: OwnedFd, tag: Tag) -> Self {
        Self(opcode::Close::new(Fd(file.into_raw_fd())).build().user_data(tag.pack()))
    }

    #[inline]
    fn of_file(entry: squeue::Entry, file: File, tag: Tag) -> Self {
        Self(entry.flags(file.flags()).user_data(tag.pack()))
    }

    /// Posts a [`Kind::Woken`] to another ring. Completes only when that fails.
    pub(crate) fn wake_ring(ring: RawFd, tag: Tag) -> Self {
        let woken = Tag::of_engine(Kind::Woken, 0).pack();
        let entry = opcode::MsgRingData::new(Fd(ring), 0, woken, None).build();
        Self(entry.flags(squeue::Flags::SKIP_SUCCESS).user_data(tag.pack()))
    }
}

/// What an accept has brought: `None` where the table has it, or else the errno.
pub(crate) fn accepted(
    completion: cqueue::Entry,
    descriptors: Descriptors,
) -> Result<Option<OwnedFd>, i32> {
    let result = completion.result();
    let is_accept = Tag::unpack(completion.user_data()).is_some_and(|tag| tag.kind == Kind::Accept);
    match descriptors {
        _ if result < 0 => Err(-result),
        Descriptors::Ordinary if is_accept => {
            // SAFETY: the kernel has opened it for this process and tells its number only here; a
            // completion is taken from the queue once and given up here. An accept into a table
            // says 0, and is not asked for its number.
            Ok(Some(unsafe { OwnedFd::from_raw_fd(result) }))
        }
        _ => Ok(None),
    }
}

/// How long an enter stays in the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stay {
    /// To consume the entries: deferred work is left alone.
    Submit,
    /// To consume the entries and run some deferred work.
    Reap,
    /// Also until something completes, for at most so long.
    Wait(Duration),
}

/// The queues of one ring.
pub(crate) struct Queue {
    /// From `Box::into_raw`, and freed by `drop` alone. Never borrowed mutably: `submitter`
    /// borrows it as long as it lives.
    ring: NonNull<IoUring>,
    /// Remembers the index under which the ring is registered with this thread.
    submitter: Submitter<'static>,
    wait_flags: EnterFlags,
}

impl Queue {
    /// Takes a ring. The thread that calls this is the one that uses it.
    pub(crate) fn new(ring: IoUring) -> Self {
        let mut wait_flags = EnterFlags::GETEVENTS | EnterFlags::EXT_ARG;
        // Else a worker that waits for clients looks like one that waits for a disk.
        if ring.params().is_feature_no_iowait() {
            wait_flags |= EnterFlags::NO_IOWAIT;
        }
        let ring = NonNull::from(Box::leak(Box::new(ring)));
        // SAFETY: `ring` stays allocated and shared until `drop`, which is after the last use of
        // `submitter`.
        let shared: &'static IoUring = unsafe { ring.as_ref() };
        Self { ring, submitter: shared.submitter(), wait_flags }
    }

    /// Spares every enter the look-up of the ring's descriptor. Optional.
    pub(crate) fn register_with_thread(&mut self) -> io::Result<()> {
        self.submitter.register_ring_fd()
    }

    /// The ring once more, by a descriptor of its own.
    pub(crate) fn duplicate(&self) -> io::Result<OwnedFd> {
        // SAFETY: the ring is open as long as it is borrowed here.
        let ring = unsafe { BorrowedFd::borrow_raw(self.ring().as_raw_fd()) };
        ring.try_clone_to_owned()
    }

    /// Bytes of both queues: 64 an entry to submit and 16 a completion.
    pub(crate) fn bytes(&self) -> usize {
        let parameters = self.ring().params();
        parameters.sq_entries() as usize * 64 + parameters.cq_entries() as usize * 16
    }

    /// For registrations.
    pub(crate) fn submitter(&self) -> &Submitter<'static> {
        &self.submitter
    }

    /// Cancels all that is armed. Fails where nothing is.
    pub(crate) fn cancel_all(&self) {
        let patience = Timespec::new().sec(1);
        let _ = self.submitter.register_sync_cancel(Some(patience), CancelBuilder::any().all());
    }

    /// Queues an entry; gives it back if there is no room.
    #[inline]
    pub(crate) fn push(&mut self, entry: &Entry) -> bool {
        let mut submission = self.submission();
        // SAFETY: an `Entry` is made in this file, and then names no memory, or by `with_memory`,
        // whose caller has promised what the kernel needs.
        unsafe { submission.push(&entry.0) }.is_ok()
    }

    /// True exactly when no entry waits to be handed to the kernel.
    #[inline]
    pub(crate) fn is_empty(&mut self) -> bool {
        self.submission().is_empty()
    }

    /// True exactly when the next push would fail.
    #[inline]
    pub(crate) fn is_full(&mut self) -> bool {
        self.submission().is_full()
    }

    /// True exactly when the kernel has deferred work for the next enter that reaps.
    pub(crate) fn has_deferred_work(&mut self) -> bool {
        self.submission().taskrun()
    }

    /// True exactly when completions did not fit and wait in the kernel.
    pub(crate) fn has_overflowed(&mut self) -> bool {
        self.submission().cq_overflow()
    }

    /// Hands the queued entries to the kernel.
    pub(crate) fn enter(&mut self, stay: Stay) -> io::Result<()> {
        let entries = u32::try_from(self.submission().len()).unwrap_or(u32::MAX);
        let consumed = match stay {
            Stay::Submit => self.enter_at_once(entries, EnterFlags::empty()),
            Stay::Reap => self.enter_at_once(entries, EnterFlags::GETEVENTS),
            Stay::Wait(span) => {
                let timespec = Timespec::from(span);
                let arguments = SubmitArgs::new().timespec(&timespec);
                let flags = self.wait_flags.bits();
                // SAFETY: `EXT_ARG` is set and the argument is what it announces, alive for the
                // length of the call.
                unsafe { self.submitter.enter(entries, 1, flags, Some(&arguments)) }
            }
        };
        consumed.map(drop)
    }

    fn enter_at_once(&mut self, entries: u32, flags: EnterFlags) -> io::Result<usize> {
        // SAFETY: no argument is passed, and the kernel is asked for no more entries than have
        // been pushed.
        unsafe { self.submitter.enter::<libc::sigset_t>(entries, 0, flags.bits(), None) }
    }

    /// Takes everything that has completed.
    #[inline]
    pub(crate) fn drain(&mut self, take: impl FnMut(cqueue::Entry)) {
        // SAFETY: the completion queue is borrowed here alone, and `&mut self` excludes a second
        // time.
        unsafe { self.ring().completion_shared() }.for_each(take);
    }

    #[inline]
    fn submission(&mut self) -> squeue::SubmissionQueue<'_> {
        // SAFETY: the submission queue is borrowed here alone, and `&mut self` excludes a second
        // time.
        unsafe { self.ring().submission_shared() }
    }

    #[inline]
    fn ring(&self) -> &IoUring {
        // SAFETY: allocated until `drop`, and never borrowed mutably.
        unsafe { self.ring.as_ref() }
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        // What is armed may still read and write the memory that the engine frees next.
        self.cancel_all();
        // Else the thread's table of rings would hold this one, and every connection of it, until
        // the thread ends. Fails where the ring was never registered.
        let _ = self.submitter.unregister_ring_fd();
        // SAFETY: it came from `Box::leak`, and what borrows it is used no more.
        drop(unsafe { Box::from_raw(self.ring.as_ptr()) });
    }
}

impl std::fmt::Debug for Queue {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Queue").field("parameters", self.ring().params()).finish()
    }
}
