//! The memory that the kernel writes: the receive buffers that it picks by itself, and the cells
//! into which it writes the address of who was accepted. Both are plain allocations that are
//! reached by pointer only, since the kernel writes to them behind the compiler's back; a reference
//! exists only to a part that the kernel has handed over.
#![expect(unsafe_code, reason = "the kernel writes to this memory")]

use std::{
    alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error},
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6},
    ptr::NonNull,
    sync::atomic::{AtomicU16, Ordering},
};

use io_uring::{
    Submitter, opcode,
    types::{BufRingEntry, DestinationSlot},
};
use worker::Slot;

use crate::{
    descriptors::File,
    queue::{BUFFER_GROUP, Entry},
    tag::Tag,
};

/// The alignment that the kernel wants of the ring of buffers.
const PAGE_BYTES: usize = 4096;

/// The most buffers that the kernel takes in one ring.
pub(crate) const RECEIVE_BUFFERS_MAX: u32 = 1 << 15;

/// The receive buffers of one engine. Each is with the kernel or here, never both.
#[derive(Debug)]
pub(crate) struct ReceiveBuffers {
    /// The ring of entries, and behind it the buffers. Zeroed by the allocator: a page is not
    /// resident before it is used.
    memory: NonNull<u8>,
    layout: Layout,
    /// Where the buffers begin.
    buffers_at: usize,
    buffer_bytes: u32,
    /// Entries of the ring, a power of two.
    entries: u16,
    /// The number of entries given to the kernel so far, modulo 2^16.
    tail: u16,
    /// Per buffer: true exactly when it is with the kernel.
    lent: Vec<bool>,
}

impl ReceiveBuffers {
    /// Allocates `count` buffers. They are the kernel's after [`register`](Self::register).
    ///
    /// # Errors
    /// More buffers or bytes than there can be.
    pub(crate) fn new(count: u32, buffer_bytes: u32) -> io::Result<Self> {
        let count = count.clamp(1, RECEIVE_BUFFERS_MAX);
        let entries = u16::try_from(count.next_power_of_two()).map_err(io::Error::other)?;
        let ring_bytes = usize::from(entries) * size_of::<BufRingEntry>();
        let buffers_at = ring_bytes.next_multiple_of(PAGE_BYTES);
        let bytes = (buffer_bytes as usize)
            .checked_mul(count as usize)
            .and_then(|bytes| bytes.checked_add(buffers_at))
            .ok_or_else(|| io::Error::other("the receive buffers do not fit the address space"))?;
        let layout = Layout::from_size_align(bytes, PAGE_BYTES).map_err(io::Error::other)?;
        // SAFETY: the layout is not empty: it holds at least one ring entry.
        let memory = unsafe { alloc_zeroed(layout) };
        let memory = NonNull::new(memory).unwrap_or_else(|| handle_alloc_error(layout));
        let lent = vec![false; count as usize];
        Ok(Self { memory, layout, buffers_at, buffer_bytes, entries, tail: 0, lent })
    }

    /// Gives all buffers to the kernel.
    pub(crate) fn register(&mut self, submitter: &Submitter<'_>) -> io::Result<()> {
        let address = self.memory.as_ptr() as u64;
        let entries = self.entries;
        // SAFETY: the ring is `entries` long, page-aligned, and freed only after the queue that
        // it is registered with (the order of the engine's fields).
        unsafe { submitter.register_buf_ring_with_flags(address, entries, BUFFER_GROUP, 0) }?;
        for buffer in 0..self.lent.len() {
            self.give_back(u16::try_from(buffer).map_err(io::Error::other)?);
        }
        self.publish();
        Ok(())
    }

    /// Bytes of the whole allocation.
    pub(crate) fn bytes(&self) -> usize {
        self.layout.size()
    }

    /// Takes over a buffer that the kernel has filled with `length` bytes. `None`: it is not the
    /// kernel's to hand over. Follow with [`give_back`](Self::give_back).
    pub(crate) fn take(&mut self, buffer: u16, length: usize) -> Option<&mut [u8]> {
        let lent = self.lent.get_mut(usize::from(buffer)).filter(|lent| **lent)?;
        *lent = false;
        let start = self.address(buffer);
        let length = length.min(self.buffer_bytes as usize);
        // SAFETY: the buffer lies within the allocation, was initialised by the allocator, and is
        // ours from the completion that named it (`lent` was true and now is not) until it is
        // given back, which takes `&mut self` and so ends this borrow.
        Some(unsafe { std::slice::from_raw_parts_mut(start.as_ptr(), length) })
    }

    /// Queues a buffer for the kernel, which sees it after the next [`publish`](Self::publish).
    pub(crate) fn give_back(&mut self, buffer: u16) {
        let address = self.address(buffer).as_ptr() as u64;
        let length = self.buffer_bytes;
        let Some(lent) = self.lent.get_mut(usize::from(buffer)).filter(|lent| !**lent) else {
            return;
        };
        *lent = true;
        let index = usize::from(self.tail % self.entries);
        let ring = self.memory.cast::<BufRingEntry>();
        // SAFETY: `index` is less than `entries`, the length of the ring.
        let mut entry = unsafe { ring.add(index) };
        // SAFETY: the entry is not the kernel's: there are at most `entries` buffers and each is
        // lent at most once, so the kernel has consumed what stood here. The tail, which the
        // kernel reads meanwhile, lies in a part of the first entry that the setters leave alone.
        let entry = unsafe { entry.as_mut() };
        entry.set_addr(address);
        entry.set_len(length);
        entry.set_bid(buffer);
        self.tail = self.tail.wrapping_add(1);
    }

    /// Lets the kernel see the buffers that were given back. Once per turn.
    pub(crate) fn publish(&mut self) {
        let ring = self.memory.cast::<BufRingEntry>();
        // SAFETY: `ring` is the first entry of the ring, zeroed by the allocator.
        let tail = unsafe { BufRingEntry::tail(ring.as_ptr()) };
        // SAFETY: the tail lies in the allocation, is aligned, and is written only here; the
        // kernel reads it atomically.
        let tail = unsafe { AtomicU16::from_ptr(tail.cast_mut()) };
        tail.store(self.tail, Ordering::Release);
    }

    fn address(&self, buffer: u16) -> NonNull<u8> {
        let offset = usize::from(buffer).min(self.lent.len() - 1) * self.buffer_bytes as usize;
        // SAFETY: `new` has allocated `lent.len()` buffers of `buffer_bytes` from `buffers_at` on.
        unsafe { self.memory.add(self.buffers_at + offset) }
    }
}

impl Drop for ReceiveBuffers {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with this layout; the queue that lent it to the kernel is
        // gone (the order of the engine's fields).
        unsafe { dealloc(self.memory.as_ptr(), self.layout) };
    }
}

/// The length of the longest address that is accepted from, a `sockaddr_in6`.
const SOCKADDR_BYTES: u32 = 28;

const _: () = assert!(size_of::<libc::sockaddr_in6>() == SOCKADDR_BYTES as usize);

/// Where the kernel writes one peer's address: a `sockaddr_in` or `sockaddr_in6`, and its length.
#[derive(Debug, Default)]
#[repr(C, align(8))]
struct Address {
    sockaddr: [u8; SOCKADDR_BYTES as usize],
    length: libc::socklen_t,
}

/// One cell for each accept that may be armed.
#[derive(Debug)]
pub(crate) struct Addresses {
    /// A boxed slice of `count` cells.
    cells: NonNull<Address>,
    count: usize,
}

impl Addresses {
    pub(crate) fn new(count: usize) -> Self {
        let cells: Box<[Address]> = (0..count).map(|_| Address::default()).collect();
        Self { cells: NonNull::from(Box::leak(cells)).cast(), count }
    }

    /// Bytes of all cells.
    pub(crate) fn bytes(&self) -> usize {
        self.count * size_of::<Address>()
    }

    /// An accept from `listener` into this place of the table, if there is one, whose peer's address
    /// goes to `cell`. Only for a cell whose last accept has completed.
    pub(crate) fn accept(
        &mut self,
        listener: File,
        place: Option<Slot>,
        cell: usize,
        tag: Tag,
    ) -> Entry {
        let cell = self.cell(cell);
        // SAFETY: the cell is allocated, and the kernel's accept into it has completed.
        unsafe { cell.write(Address { length: SOCKADDR_BYTES, ..Address::default() }) };
        // SAFETY: the field lies within the cell; no reference is made.
        let length = unsafe { &raw mut (*cell.as_ptr()).length };
        let accept = opcode::Accept::new(listener.number(), cell.as_ptr().cast(), length);
        let accept = match place {
            // With SOCK_CLOEXEC the kernel refuses: what stands in a table is not inherited anyway.
            Some(place) => accept.file_index(DestinationSlot::try_from_slot_target(place).ok()),
            None => accept.flags(libc::SOCK_CLOEXEC),
        };
        let entry = accept.build().flags(listener.flags());
        // SAFETY: the cells are freed after the queue (the order of the engine's fields) and read
        // or written only while no accept is armed with them (`accept.rs` gives a cell to one
        // accept at a time).
        unsafe { Entry::with_memory(entry, tag) }
    }

    /// The peer of the accept that has completed in this cell. `None`: neither IPv4 nor IPv6.
    pub(crate) fn peer(&mut self, cell: usize) -> Option<SocketAddr> {
        // SAFETY: the cell is allocated and initialised, and its accept has completed.
        unsafe { self.cell(cell).read() }.parse()
    }

    fn cell(&self, cell: usize) -> NonNull<Address> {
        assert!(cell < self.count, "accept.rs numbers the cells");
        // SAFETY: the slice has `count` cells.
        unsafe { self.cells.add(cell) }
    }
}

impl Drop for Addresses {
    fn drop(&mut self) {
        let cells = NonNull::slice_from_raw_parts(self.cells, self.count);
        // SAFETY: it came from `Box::leak` with this length; the queue whose accepts named it is
        // gone (the order of the engine's fields).
        drop(unsafe { Box::from_raw(cells.as_ptr()) });
    }
}

impl Address {
    /// Reads a `sockaddr_in` or `sockaddr_in6` (ip(7), ipv6(7)): family in the machine's order,
    /// port in the network's. An IPv4 peer of an IPv6 socket is an IPv4 peer.
    fn parse(&self) -> Option<SocketAddr> {
        let bytes = &self.sockaddr;
        let family = i32::from(u16::from_ne_bytes([bytes[0], bytes[1]]));
        let port = u16::from_be_bytes([bytes[2], bytes[3]]);
        match family {
            libc::AF_INET => {
                let address: [u8; 4] = bytes[4..8].try_into().ok()?;
                Some(SocketAddr::from((Ipv4Addr::from(address), port)))
            }
            libc::AF_INET6 => {
                let flow = u32::from_ne_bytes(bytes[4..8].try_into().ok()?);
                let address: [u8; 16] = bytes[8..24].try_into().ok()?;
                let scope = u32::from_ne_bytes(bytes[24..28].try_into().ok()?);
                let address = Ipv6Addr::from(address);
                match address.to_canonical() {
                    IpAddr::V4(address) => Some(SocketAddr::from((address, port))),
                    IpAddr::V6(_) => Some(SocketAddrV6::new(address, port, flow, scope).into()),
                }
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(bytes: &[u8]) -> Address {
        let mut address = Address::default();
        address.sockaddr[..bytes.len()].copy_from_slice(bytes);
        address
    }

    #[test]
    fn an_ipv4_address_is_read() {
        let parsed = address(&[2, 0, 0x23, 0x28, 192, 0, 2, 7]).parse();
        assert_eq!(parsed, Some("192.0.2.7:9000".parse().unwrap()));
    }

    #[test]
    fn an_ipv6_address_is_read() {
        let mut bytes = [0; 28];
        bytes[..4].copy_from_slice(&[10, 0, 0x23, 0x28]);
        bytes[8..12].copy_from_slice(&[0x20, 0x01, 0x0d, 0xb8]);
        bytes[23] = 1;
        assert_eq!(address(&bytes).parse(), Some("[2001:db8::1]:9000".parse().unwrap()));
    }

    #[test]
    fn an_ipv4_peer_of_an_ipv6_socket_is_an_ipv4_peer() {
        let mut bytes = [0; 28];
        bytes[..4].copy_from_slice(&[10, 0, 0x23, 0x28]);
        bytes[18..24].copy_from_slice(&[0xff, 0xff, 192, 0, 2, 7]);
        assert_eq!(address(&bytes).parse(), Some("192.0.2.7:9000".parse().unwrap()));
    }

    #[test]
    fn another_family_is_none() {
        assert_eq!(address(&[1, 0]).parse(), None);
    }

    #[test]
    fn a_buffer_that_is_not_with_the_kernel_is_not_taken() {
        let mut buffers = ReceiveBuffers::new(4, 64).unwrap();
        assert!(buffers.take(0, 1).is_none());
        buffers.give_back(0);
        assert_eq!(buffers.take(0, 3), Some(&mut [0, 0, 0][..]));
        assert!(buffers.take(0, 1).is_none(), "it is already here");
        assert!(buffers.take(4, 1).is_none(), "there are four");
    }
}
