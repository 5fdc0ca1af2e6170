//! The ring of a load process, and the only unsafe code of this crate: entries that point at
//! memory, that memory, and one socket option that no safe crate sets. Receives are multishot into
//! a pool of provided buffers; a send owns its bytes until it completes.
//!
//! A ring is made once for a process and never dropped, so nothing here is freed while the
//! kernel may still use it.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use io_uring::squeue::{Entry, Flags};
use io_uring::types::{BufRingEntry, Fd, SubmitArgs, Timespec};
use io_uring::{IoUring, cqueue, opcode};
use socket2::SockAddr;

const SUBMISSIONS: u32 = 1024;
const COMPLETIONS: u32 = 16_384;
/// Buffers of the pool; a power of two, because the kernel masks the ring's indices.
const BUFFERS: u16 = 4096;
/// Sends at once: their index has 24 bits in an entry's user data.
const SENDS_MAX: usize = 1 << 24;
const GROUP: u16 = 0;
const PAGE_BYTES: usize = 4096;

/// Whom an operation is for: a connection's index, and its generation so that a completion which
/// arrives after the connection was replaced is known by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Token {
    pub(crate) index: u32,
    pub(crate) generation: u8,
}

impl Token {
    /// Of no connection.
    pub(crate) const NOBODY: Token = Token { index: u32::MAX, generation: 0 };
}

/// A filled buffer of the pool. It must go back by [`Ring::give_back`], once.
#[derive(Debug)]
pub(crate) struct Buffer {
    id: u16,
    length: usize,
}

/// What completed.
#[derive(Debug)]
pub(crate) enum Event {
    /// A connect ended.
    Connected { token: Token, error: Option<i32> },
    /// Bytes arrived, the peer finished (no buffer, no error), or receiving failed.
    Received {
        token: Token,
        buffer: Option<Buffer>,
        error: Option<i32>,
        /// True exactly when the receive goes on by itself.
        armed: bool,
    },
    /// All bytes were sent, or an error came first. The bytes come back to be used again.
    Sent { token: Token, bytes: Vec<u8>, error: Option<i32> },
    /// The descriptor given to [`Ring::poll`] has something to read.
    Readable,
}

const CONNECTED: u8 = 0;
const RECEIVED: u8 = 1;
const SENT: u8 = 2;
const READABLE: u8 = 3;

#[repr(C, align(4096))]
struct Page([u8; PAGE_BYTES]);

/// Buffer ring and buffers as the kernel sees them.
struct Pool {
    /// `BUFFERS` entries of 16 bytes, page-aligned.
    entries: *mut BufRingEntry,
    /// `BUFFERS` times `buffer_bytes`.
    bytes: *mut u8,
    buffer_bytes: usize,
    tail: u16,
}

struct Send {
    token: Token,
    bytes: Vec<u8>,
    /// Bytes that the kernel has taken.
    sent: usize,
}

/// Lets `socket` be bound to an address and get its port only when it connects
/// (IP_BIND_ADDRESS_NO_PORT, ip(7)). A port that bind chose is closed to every connect of the
/// machine that is not bound, whatever its address.
pub(crate) fn bind_without_port(socket: BorrowedFd<'_>) -> io::Result<()> {
    let on: libc::c_int = 1;
    let length = libc::socklen_t::try_from(size_of_val(&on)).map_err(io::Error::other)?;
    // SAFETY: the pointer is that of a live integer of the length given, which the kernel reads
    // before the call returns; the descriptor is borrowed, so it is open.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_IP,
            libc::IP_BIND_ADDRESS_NO_PORT,
            (&raw const on).cast(),
            length,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// See the module.
pub(crate) struct Ring {
    ring: IoUring,
    pool: Pool,
    destination: SockAddr,
    sends: Vec<Option<Send>>,
    sends_free: Vec<u32>,
}

impl Ring {
    /// A ring whose connects go to `destination` and whose buffers hold `buffer_bytes` each.
    pub(crate) fn leaked(
        destination: SockAddr,
        buffer_bytes: usize,
    ) -> io::Result<&'static mut Ring> {
        let ring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_taskrun_flag()
            .setup_submit_all()
            .setup_cqsize(COMPLETIONS)
            .setup_clamp()
            .build(SUBMISSIONS)?;
        let pool = Pool::leaked(buffer_bytes);
        // SAFETY: the entries are leaked, so they stay valid as long as the ring; they are
        // `BUFFERS` in number, and page-aligned because `Page` is.
        let registered = unsafe {
            ring.submitter().register_buf_ring_with_flags(pool.entries as u64, BUFFERS, GROUP, 0)
        };
        registered?;
        let ring = Ring { ring, pool, destination, sends: Vec::new(), sends_free: Vec::new() };
        let ring = Box::leak(Box::new(ring));
        for id in 0..BUFFERS {
            ring.pool.add(id);
        }
        ring.pool.publish();
        Ok(ring)
    }

    /// Connects `socket` to the destination.
    pub(crate) fn connect(&mut self, token: Token, socket: BorrowedFd<'_>) -> io::Result<()> {
        let address = self.destination.as_ptr().cast();
        let entry = opcode::Connect::new(Fd(socket.as_raw_fd()), address, self.destination.len());
        self.push(&entry.build().user_data(user_data(
            CONNECTED,
            token.generation.into(),
            token.index,
        )))
    }

    /// Receives from `socket` until its peer finishes or the pool is empty.
    pub(crate) fn receive(&mut self, token: Token, socket: BorrowedFd<'_>) -> io::Result<()> {
        let entry = opcode::RecvMulti::new(Fd(socket.as_raw_fd()), GROUP).build();
        self.push(&entry.user_data(user_data(RECEIVED, token.generation.into(), token.index)))
    }

    /// Receives from `socket` once.
    pub(crate) fn receive_once(&mut self, token: Token, socket: BorrowedFd<'_>) -> io::Result<()> {
        let entry = opcode::Recv::new(Fd(socket.as_raw_fd()), std::ptr::null_mut(), 0)
            .buf_group(GROUP)
            .build()
            .flags(Flags::BUFFER_SELECT);
        self.push(&entry.user_data(user_data(RECEIVED, token.generation.into(), token.index)))
    }

    /// Sends all of `bytes`. A connection may have one send at a time, or their bytes could mix.
    pub(crate) fn send(
        &mut self,
        token: Token,
        socket: BorrowedFd<'_>,
        bytes: Vec<u8>,
    ) -> io::Result<()> {
        let length = u32::try_from(bytes.len()).map_err(io::Error::other)?;
        let (start, send) = (bytes.as_ptr(), Some(Send { token, bytes, sent: 0 }));
        let index = match self.sends_free.pop() {
            Some(index) => {
                self.sends[index as usize] = send;
                index
            }
            None if self.sends.len() < SENDS_MAX => {
                self.sends.push(send);
                u32::try_from(self.sends.len() - 1).map_err(io::Error::other)?
            }
            None => return Err(io::Error::other("too many sends at once")),
        };
        let entry = opcode::Send::new(Fd(socket.as_raw_fd()), start, length)
            .flags(libc::MSG_NOSIGNAL | libc::MSG_WAITALL)
            .build();
        self.push(&entry.user_data(user_data(SENT, index, token.index)))
    }

    /// Completes [`Event::Readable`] once, when `file` has something to read.
    pub(crate) fn poll(&mut self, file: BorrowedFd<'_>) -> io::Result<()> {
        let mask = libc::POLLIN.unsigned_abs().into();
        let entry = opcode::PollAdd::new(Fd(file.as_raw_fd()), mask).build();
        self.push(&entry.user_data(user_data(READABLE, 0, 0)))
    }

    /// Hands all entries over, waits for `want` completions, at most for `timeout`, and appends
    /// those that have arrived to `events`.
    pub(crate) fn wait(
        &mut self,
        want: usize,
        timeout: Duration,
        events: &mut Vec<Event>,
    ) -> io::Result<()> {
        self.pool.publish();
        let timeout = Timespec::from(timeout);
        let args = SubmitArgs::new().timespec(&timeout);
        match self.ring.submitter().submit_with_args(want, &args) {
            Ok(_) => {}
            Err(error)
                if matches!(
                    error.raw_os_error(),
                    Some(libc::ETIME | libc::EINTR | libc::EBUSY | libc::EAGAIN)
                ) => {}
            Err(error) => return Err(error),
        }
        for entry in self.ring.completion() {
            if let Some(event) = decode(&entry, &mut self.sends, &mut self.sends_free) {
                events.push(event);
            }
        }
        Ok(())
    }

    /// The bytes in a buffer.
    pub(crate) fn bytes(&self, buffer: &Buffer) -> &[u8] {
        // `min`: a kernel that reports more than a buffer holds must not make us read past it.
        let length = buffer.length.min(self.pool.buffer_bytes);
        let start = self.pool.start(buffer.id);
        // SAFETY: `start` is that of one of the pool's buffers, which are leaked and hold
        // `buffer_bytes`. The kernel does not write to it: it took this id out of the ring when
        // it completed the receive, and only `give_back`, which consumes the `Buffer` that is
        // borrowed here, puts the id in again.
        unsafe { std::slice::from_raw_parts(start, length) }
    }

    /// Returns a buffer to the pool; the kernel sees it at the next wait.
    #[expect(clippy::needless_pass_by_value, reason = "who gives a buffer back may not read it")]
    pub(crate) fn give_back(&mut self, buffer: Buffer) {
        self.pool.add(buffer.id);
    }

    fn push(&mut self, entry: &Entry) -> io::Result<()> {
        if self.ring.submission().is_full() {
            self.ring.submit()?;
        }
        // SAFETY: an entry made in this file points at the destination, or at a send's bytes.
        // The ring is leaked, so neither is freed with it; the destination never changes, and a
        // send's bytes stay in `sends`, where nobody touches them, until its completion.
        let pushed = unsafe { self.ring.submission().push(entry) };
        pushed.map_err(|_| io::Error::other("the submission queue stayed full"))
    }
}

impl Pool {
    fn leaked(buffer_bytes: usize) -> Pool {
        let pages = |bytes: usize| -> *mut Page {
            let pages = (0..bytes.div_ceil(PAGE_BYTES)).map(|_| Page([0; PAGE_BYTES])).collect();
            Box::<[Page]>::leak(pages).as_mut_ptr()
        };
        let entry_bytes = usize::from(BUFFERS) * size_of::<BufRingEntry>();
        Pool {
            entries: pages(entry_bytes).cast(),
            bytes: pages(usize::from(BUFFERS) * buffer_bytes).cast(),
            buffer_bytes,
            tail: 0,
        }
    }

    fn start(&self, id: u16) -> *mut u8 {
        assert!(id < BUFFERS, "the kernel names only buffers that it was given");
        self.bytes.wrapping_add(usize::from(id) * self.buffer_bytes)
    }

    /// Puts buffer `id` behind the ring's tail.
    fn add(&mut self, id: u16) {
        let start = self.start(id) as u64;
        let place = self.entries.wrapping_add(usize::from(self.tail % BUFFERS));
        // SAFETY: `place` is one of the `BUFFERS` leaked entries, aligned like the first. The
        // kernel reads entries only between its head and the published tail, and this one lies
        // behind the tail: there are as many entries as buffers, so a free buffer has a free entry.
        let entry = unsafe { &mut *place };
        entry.set_addr(start);
        entry.set_len(u32::try_from(self.buffer_bytes).expect("buffers are below 4 GiB"));
        entry.set_bid(id);
        self.tail = self.tail.wrapping_add(1);
    }

    /// Shows the kernel all buffers added so far.
    fn publish(&mut self) {
        // SAFETY: `entries` is the address of the first entry of the buffer ring, whose memory
        // is initialised and leaked.
        let tail = unsafe { BufRingEntry::tail(self.entries) };
        // SAFETY: the tail is 2 bytes inside the leaked entries and aligned to 2; the kernel only
        // reads it, and this process writes it nowhere else (`set_addr`, `set_len` and `set_bid`
        // leave that field of the first entry alone).
        let tail = unsafe { AtomicU16::from_ptr(tail.cast_mut()) };
        tail.store(self.tail, Ordering::Release);
    }
}

fn user_data(kind: u8, detail: u32, index: u32) -> u64 {
    u64::from(kind) << 56 | u64::from(detail) << 32 | u64::from(index)
}

fn decode(
    entry: &cqueue::Entry,
    sends: &mut [Option<Send>],
    sends_free: &mut Vec<u32>,
) -> Option<Event> {
    let [b0, b1, b2, b3, d0, d1, d2, kind] = entry.user_data().to_le_bytes();
    let token = Token { index: u32::from_le_bytes([b0, b1, b2, b3]), generation: d0 };
    let error = (entry.result() < 0).then(|| -entry.result());
    let length = usize::try_from(entry.result()).unwrap_or(0);
    match kind {
        CONNECTED => Some(Event::Connected { token, error }),
        RECEIVED => {
            let buffer = cqueue::buffer_select(entry.flags()).map(|id| Buffer { id, length });
            Some(Event::Received { token, buffer, error, armed: cqueue::more(entry.flags()) })
        }
        SENT => {
            let index = u32::from_le_bytes([d0, d1, d2, 0]);
            let mut send = sends.get_mut(index as usize)?.take()?;
            sends_free.push(index);
            send.sent += length;
            // With MSG_WAITALL the kernel goes on by itself; it stops short only at an error.
            let cut = send.sent < send.bytes.len();
            let error = error.or(cut.then_some(libc::EPIPE));
            Some(Event::Sent { token: send.token, bytes: send.bytes, error })
        }
        _ => Some(Event::Readable),
    }
}
