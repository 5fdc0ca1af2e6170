//! The ring of the floor, and the only unsafe code here: entries that point at memory, and the
//! memory they point at. It offers just the operations that the loop needs, each with an index
//! that comes back in its completion.

use std::collections::VecDeque;
use std::io;
use std::os::fd::RawFd;
use std::time::Duration;

use io_uring::squeue::{Entry, Flags};
use io_uring::types::{DestinationSlot, Fd, Fixed, SubmitArgs, Timespec};
use io_uring::{CompletionQueue, IoUring, SubmissionQueue, Submitter, cqueue, opcode};

/// Sends of a fan-out that go into one enter.
pub(crate) const BATCH: u32 = 64;
/// Bytes of a lane's buffer: the longest publication with its header, or a request head.
pub(crate) const LANE_BYTES: usize = 80 * 1024;

const SUBMISSIONS: u32 = 1024;
const COMPLETIONS: u32 = 16_384;
/// What idle connections send (pongs) is read into here and forgotten.
const SCRATCH_BYTES: usize = 512;

/// A send that takes the whole frame now or says how much it took: never one that waits.
const INLINE_OR_FAIL: i32 = libc::MSG_DONTWAIT | libc::MSG_WAITALL | libc::MSG_NOSIGNAL;

/// Bytes of a huge page, and the frames that an arena has in one.
const HUGE_PAGE_BYTES: usize = 2 << 20;
const FRAME_BYTES: usize = 128 * 1024;
const FRAMES: usize = HUGE_PAGE_BYTES / FRAME_BYTES;

const _: () = assert!(LANE_BYTES <= FRAME_BYTES);

/// Asks that the notification of a SEND_ZC says whether the kernel has copied (io_uring_enter(2)).
const REPORT_USAGE: u16 = 1 << 3;
/// It has.
const COPIED: i32 = 1 << 31;

/// What completed. The index beside it is a lane's or a slot's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum What {
    /// A lane accepted; the result is the slot.
    Accepted,
    /// A lane received; the result is the number of bytes.
    Received,
    /// A lane's reply has left.
    Replied,
    /// A slot did not take the whole frame; the result is what it took or the reason.
    Refused,
    /// An idle slot has something to read.
    Readable,
    /// An idle slot was read from and the bytes were dropped.
    Dropped,
    /// A slot is free again.
    Closed,
    /// Another ring has something for this one.
    Woken,
    /// Another ring could not be woken; the result is the reason.
    NotWoken,
}

/// As a [`What`] that nobody is told of: a slot has taken of a frame of the arena, or the kernel reads
/// it no more.
const SENT_FROM_ARENA: u8 = 255;

/// One completion: what, of which lane or slot, and the kernel's result.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Completion {
    pub(crate) what: What,
    pub(crate) index: u32,
    pub(crate) result: i32,
}

/// A lane's buffer, and whether the kernel may be using it.
#[derive(Debug)]
struct Lane {
    /// Leaked: it outlives the ring, whatever is still armed when the loop ends.
    bytes: *mut [u8; LANE_BYTES],
    /// True exactly while an operation that points into `bytes` has not completed.
    busy: bool,
}

/// Frames in one huge page that the ring has registered. The kernel reads a frame until the last
/// notification of its sends.
#[derive(Debug)]
struct Arena {
    /// Mapped for ever.
    page: *mut u8,
    /// The frame that is being fanned out.
    current: usize,
    /// By frame: its length, and notifications that are still to come.
    frames: [(usize, u32); FRAMES],
    notified: u64,
    /// Notifications that report a copy.
    copied: u64,
}

/// The ring, its lanes and the frame that is being fanned out.
pub(crate) struct Queue<'ring> {
    submitter: Submitter<'ring>,
    submission: SubmissionQueue<'ring>,
    completion: CompletionQueue<'ring>,
    listener: Fd,
    lanes: Vec<Lane>,
    frame: Vec<u8>,
    /// Where frames are instead of `frame`, if they are to be sent without a copy.
    arena: Option<Arena>,
    /// Completions that came while a frame was waited for.
    held: VecDeque<Completion>,
    /// Sends that point at `frame` and that no enter has consumed yet.
    sends_waiting: u32,
    /// Leaked like the lanes; written by any number of reads at once and never read.
    scratch: *mut [u8; SCRATCH_BYTES],
}

/// Makes a ring for one thread that reaps its own completions.
pub(crate) fn ring() -> io::Result<IoUring> {
    IoUring::builder()
        .setup_single_issuer()
        .setup_defer_taskrun()
        .setup_taskrun_flag()
        .setup_submit_all()
        .setup_no_sqarray()
        .setup_cqsize(COMPLETIONS)
        .setup_clamp()
        .build(SUBMISSIONS)
}

impl<'ring> Queue<'ring> {
    /// Takes `ring` over with a table of `slots` direct descriptors and `lanes` handshake buffers.
    pub(crate) fn new(
        ring: &'ring mut IoUring,
        listener: i32,
        slots: u32,
        lanes: u32,
        zero_copy: bool,
    ) -> io::Result<Queue<'ring>> {
        let (mut submitter, submission, completion) = ring.split();
        submitter.register_files_sparse(slots)?;
        let arena = zero_copy.then(|| Arena::register(&submitter)).transpose()?;
        submitter.register_ring_fd()?;
        let lane = |_| Lane { bytes: Box::leak(Box::new([0; LANE_BYTES])), busy: false };
        Ok(Queue {
            submitter,
            submission,
            completion,
            listener: Fd(listener),
            lanes: (0..lanes).map(lane).collect(),
            frame: Vec::new(),
            arena,
            held: VecDeque::new(),
            sends_waiting: 0,
            scratch: Box::leak(Box::new([0; SCRATCH_BYTES])),
        })
    }

    /// Accepts one connection into a free slot, for `lane`.
    pub(crate) fn accept(&mut self, lane: u32) -> io::Result<()> {
        let entry = opcode::Accept::new(self.listener, std::ptr::null_mut(), std::ptr::null_mut())
            .file_index(Some(DestinationSlot::auto_target()))
            .build();
        self.push(entry, What::Accepted, lane)
    }

    /// Receives from `slot` into `lane`, behind its first `filled` bytes.
    pub(crate) fn receive(&mut self, lane: u32, slot: u32, filled: usize) -> io::Result<()> {
        let space = &mut self.lane_mut(lane)[filled..];
        let (start, length) = (space.as_mut_ptr(), length(space.len()));
        self.lanes[lane as usize].busy = true;
        self.push(opcode::Recv::new(Fixed(slot), start, length).build(), What::Received, lane)
    }

    /// Sends `reply` to `slot` from `lane`'s buffer, which it overwrites.
    pub(crate) fn reply(&mut self, lane: u32, slot: u32, reply: &[u8]) -> io::Result<()> {
        self.lane_mut(lane)[..reply.len()].copy_from_slice(reply);
        let start = self.lane_mut(lane).as_ptr();
        self.lanes[lane as usize].busy = true;
        let entry = opcode::Send::new(Fixed(slot), start, length(reply.len()))
            .flags(libc::MSG_NOSIGNAL | libc::MSG_WAITALL)
            .build();
        self.push(entry, What::Replied, lane)
    }

    /// Sets the frame that the next offers send.
    pub(crate) fn set_frame(&mut self, frame: &[u8]) -> io::Result<()> {
        if let Some(arena) = &mut self.arena {
            arena.current = (arena.current + 1) % FRAMES;
            while self.arena.as_ref().is_some_and(Arena::is_read) {
                self.enter(1, None)?;
                while let Some(completion) = self.reap() {
                    self.held.push_back(completion);
                }
            }
            if let Some(arena) = &mut self.arena {
                arena.set(frame);
            }
            return Ok(());
        }
        while self.sends_waiting > 0 {
            self.enter(0, None)?;
        }
        self.frame.clear();
        self.frame.extend_from_slice(frame);
        Ok(())
    }

    /// Sends the frame to `slot`, which says nothing when it takes it whole. Enters by itself
    /// after every [`BATCH`] of them.
    pub(crate) fn offer(&mut self, slot: u32) -> io::Result<()> {
        if let Some(arena) = &mut self.arena {
            let (entry, frame) = arena.send(slot);
            self.push_tagged(entry, SENT_FROM_ARENA, slot, frame)?;
            self.sends_waiting += 1;
            return if self.sends_waiting >= BATCH { self.enter(0, None) } else { Ok(()) };
        }
        let entry = opcode::Send::new(Fixed(slot), self.frame.as_ptr(), length(self.frame.len()))
            .flags(INLINE_OR_FAIL)
            .build()
            .flags(Flags::FIXED_FILE | Flags::SKIP_SUCCESS);
        self.push(entry, What::Refused, slot)?;
        self.sends_waiting += 1;
        if self.sends_waiting >= BATCH { self.enter(0, None) } else { Ok(()) }
    }

    /// Waits until `slot` has something to read; the result is the poll mask.
    pub(crate) fn poll(&mut self, slot: u32) -> io::Result<()> {
        let mask = (libc::POLLIN | libc::POLLRDHUP).unsigned_abs().into();
        self.push(opcode::PollAdd::new(Fixed(slot), mask).build(), What::Readable, slot)
    }

    /// Reads what `slot` has now and drops it.
    pub(crate) fn drop_bytes(&mut self, slot: u32) -> io::Result<()> {
        let entry = opcode::Recv::new(Fixed(slot), self.scratch.cast(), length(SCRATCH_BYTES))
            .flags(libc::MSG_DONTWAIT)
            .build();
        self.push(entry, What::Dropped, slot)
    }

    /// Closes `slot`; nothing may be armed on it.
    pub(crate) fn close(&mut self, slot: u32) -> io::Result<()> {
        self.push(opcode::Close::new(Fixed(slot)).build(), What::Closed, slot)
    }

    /// Tells the ring with this descriptor that there is something for it, at the next enter.
    pub(crate) fn wake(&mut self, ring: RawFd) -> io::Result<()> {
        let woken = u64::from(What::Woken as u8) << 32;
        let entry = opcode::MsgRingData::new(Fd(ring), 0, woken, None).build();
        self.push(entry.flags(Flags::SKIP_SUCCESS), What::NotWoken, 0)
    }

    /// Hands all entries over and waits for `want` completions, at most for `timeout`.
    pub(crate) fn enter(&mut self, want: usize, timeout: Option<Duration>) -> io::Result<()> {
        self.submission.sync();
        let result = match timeout {
            None => self.submitter.submit_and_wait(want),
            Some(timeout) => {
                let timeout = Timespec::from(timeout);
                self.submitter.submit_with_args(want, &SubmitArgs::new().timespec(&timeout))
            }
        };
        self.submission.sync();
        if self.submission.is_empty() {
            // Consumed, and an inline-or-fail send is over when the enter that consumed it returns.
            self.sends_waiting = 0;
        }
        match result {
            Err(error) if !matches!(error.raw_os_error(), Some(libc::EINTR | libc::ETIME)) => {
                Err(error)
            }
            _ => Ok(()),
        }
    }

    /// The next completion that has arrived.
    pub(crate) fn next(&mut self) -> Option<Completion> {
        self.held.pop_front().or_else(|| self.reap())
    }

    /// The next one in the queue that somebody is to be told of.
    fn reap(&mut self) -> Option<Completion> {
        loop {
            if self.completion.is_empty() {
                self.completion.sync();
            }
            let entry = self.completion.next()?;
            let [index @ .., what, frame, _, _] = entry.user_data().to_le_bytes();
            let index = u32::from_le_bytes(index);
            if what != SENT_FROM_ARENA {
                return Some(self.told(what, index, entry.result()));
            }
            let is_short = self
                .arena
                .as_mut()
                .is_some_and(|arena| arena.note(usize::from(frame), entry.result(), entry.flags()));
            if is_short {
                return Some(self.told(What::Refused as u8, index, entry.result()));
            }
        }
    }

    fn told(&mut self, what: u8, index: u32, result: i32) -> Completion {
        let what = match what {
            0 => What::Accepted,
            1 => What::Received,
            2 => What::Replied,
            3 => What::Refused,
            4 => What::Readable,
            5 => What::Dropped,
            6 => What::Closed,
            7 => What::Woken,
            _ => What::NotWoken,
        };
        if matches!(what, What::Received | What::Replied) {
            self.lanes[index as usize].busy = false;
        }
        Completion { what, index, result }
    }

    /// A lane's buffer, for as long as no operation uses it.
    ///
    /// # Panics
    ///
    /// When an operation on it has not completed.
    pub(crate) fn lane_mut(&mut self, lane: u32) -> &mut [u8; LANE_BYTES] {
        let lane = &mut self.lanes[lane as usize];
        assert!(!lane.busy, "a lane's buffer is looked at only between its operations");
        // SAFETY: `bytes` was leaked from a box, so it is valid for ever. It is unaliased: each
        // lane has a buffer of its own, `busy` was false, so no operation points into it, and the
        // reference borrows `self`, so `receive` and `reply` cannot start one while it lives.
        unsafe { &mut *lane.bytes }
    }

    fn push(&mut self, entry: Entry, what: What, index: u32) -> io::Result<()> {
        self.push_tagged(entry, what as u8, index, 0)
    }

    /// Pushes an entry whose completions name a frame of the arena too.
    fn push_tagged(&mut self, entry: Entry, what: u8, index: u32, frame: u8) -> io::Result<()> {
        if self.submission.is_full() {
            self.enter(0, None)?;
        }
        let tag = u64::from(index) | u64::from(what) << 32 | u64::from(frame) << 40;
        let entry = entry.user_data(tag);
        // SAFETY: an entry made here points at a lane's buffer or the scratch bytes, which are
        // leaked and therefore valid for ever, with a lane marked busy so that nobody reads it
        // meanwhile; or at a frame of the arena, mapped for ever and written only while no
        // notification of it is to come; or at `frame`, which only `set_frame` changes, after
        // `sends_waiting` fell to 0, and such a send is over when the enter that consumed it
        // returns. An entry that was never entered is never executed.
        let pushed = unsafe { self.submission.push(&entry) };
        pushed.map_err(|_| io::Error::other("the submission queue stayed full"))
    }
}

impl Arena {
    /// Maps a huge page, as far as the kernel has any, and registers it with a ring.
    fn register(submitter: &Submitter<'_>) -> io::Result<Arena> {
        let (protection, flags) =
            (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        // SAFETY: a new mapping of no file, at an address of the kernel's choice: nothing else of
        // this process is there.
        let mapped = unsafe {
            libc::mmap(std::ptr::null_mut(), 2 * HUGE_PAGE_BYTES, protection, flags, -1, 0)
        };
        if mapped == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        // Twice as much was mapped, so that a whole aligned page lies within.
        let page = mapped.cast::<u8>();
        let page = page.wrapping_add(page.align_offset(HUGE_PAGE_BYTES));
        // SAFETY: the page lies within the mapping above, of which nothing has been touched.
        let advised = unsafe { libc::madvise(page.cast(), HUGE_PAGE_BYTES, libc::MADV_HUGEPAGE) };
        if advised != 0 {
            return Err(io::Error::last_os_error());
        }
        let buffer = libc::iovec { iov_base: page.cast(), iov_len: HUGE_PAGE_BYTES };
        // SAFETY: the page is mapped for ever, writable, and as long as the buffer says.
        unsafe { submitter.register_buffers(&[buffer]) }?;
        Ok(Arena { page, current: 0, frames: [(0, 0); FRAMES], notified: 0, copied: 0 })
    }

    /// True exactly when the kernel may still read the current frame.
    fn is_read(&self) -> bool {
        self.frames[self.current].1 > 0
    }

    /// Writes the current frame.
    ///
    /// # Panics
    ///
    /// When the kernel may still read it, or when it is longer than any lane's.
    fn set(&mut self, frame: &[u8]) {
        assert!(!self.is_read() && frame.len() <= FRAME_BYTES);
        let place = self.page.wrapping_add(self.current * FRAME_BYTES);
        // SAFETY: the place is one of `FRAMES` in the page, long enough and this arena's own, which
        // no slice borrows; no send of it is without its last notification.
        unsafe { std::ptr::copy_nonoverlapping(frame.as_ptr(), place, frame.len()) };
        self.frames[self.current].0 = frame.len();
    }

    /// A send of the current frame, and its number.
    fn send(&mut self, slot: u32) -> (Entry, u8) {
        let (bytes, notifications) = &mut self.frames[self.current];
        *notifications += 1;
        let place = self.page.wrapping_add(self.current * FRAME_BYTES);
        let entry = opcode::SendZc::new(Fixed(slot), place, length(*bytes))
            .buf_index(Some(0))
            .flags(INLINE_OR_FAIL)
            .zc_flags(REPORT_USAGE)
            .build();
        (entry, u8::try_from(self.current).expect("there are few frames"))
    }

    /// Takes note of a completion of a send. True exactly when the slot did not take all.
    fn note(&mut self, frame: usize, result: i32, flags: u32) -> bool {
        let (bytes, notifications) = &mut self.frames[frame];
        // A send that has failed at once has no notification.
        *notifications -= u32::from(!cqueue::more(flags));
        if !cqueue::notif(flags) {
            return usize::try_from(result) != Ok(*bytes);
        }
        self.notified += 1;
        self.copied += u64::from(result & COPIED != 0);
        if self.notified.is_power_of_two() {
            let Arena { copied, notified, .. } = self;
            eprintln!("ringway-floor: {copied} of {notified} notifications report a copy");
        }
        false
    }
}

/// A length for an entry. Every buffer here is shorter than 4 GiB.
fn length(bytes: usize) -> u32 {
    u32::try_from(bytes).expect("buffers of the floor are short")
}
