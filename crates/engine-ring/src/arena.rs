//! The memory that the kernel reads for longer than a batch: large frames that are sent without a
//! copy being asked for (SEND_ZC), out of huge pages that are registered with the ring. A frame is
//! copied here once, for all targets of one offer and of those that follow with the same frame, and
//! its place is free again when the kernel has notified of every send from it. Which frames come
//! here, and what happens where there is no room, is decided in `zero_copy.rs`.
#![expect(unsafe_code, reason = "the kernel reads this memory")]

use std::{io, mem, ptr, ptr::NonNull};

use bytes::Bytes;
use io_uring::{Submitter, opcode};
use worker::Slot;

use crate::{
    descriptors::File,
    queue::Entry,
    sends::FrameMark,
    tag::{Kind, MARK_MAX, Tag},
};

/// What places are rounded up to.
const PAGE_BYTES: usize = 4096;

/// Bytes of a huge page where pages have 4 KiB.
const HUGE_PAGE_BYTES: usize = 2 << 20;

/// Bits of a mark for the page at which a place begins; the rest are of the slot's generation.
const PAGE_BITS: u32 = 18;

/// The largest arena: what one registered buffer may have.
const ARENA_BYTES_MAX: usize = PAGE_BYTES << PAGE_BITS;

const _: () = assert!(ARENA_BYTES_MAX == 1 << 30 && (1 << PAGE_BITS) - 1 < MARK_MAX);

/// IORING_SEND_ZC_REPORT_USAGE (linux/io_uring.h, Linux 6.2): the notification says whether the
/// kernel has copied.
const REPORT_USAGE: u16 = 1 << 3;

/// The pages behind an arena.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pages {
    /// Huge ones, set aside by `vm.nr_hugepages`.
    Huge,
    /// Ordinary ones, for which the kernel was asked to take huge ones where it has them.
    Advised,
    /// Ordinary ones: the kernel has no transparent huge pages.
    Ordinary,
}

/// Where a frame lies in the arena: the number of its first page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place(usize);

/// What lies at a place, if anything.
#[derive(Clone, Copy, Debug, Default)]
struct Held {
    /// Bytes of the frame; 0 where no place begins.
    bytes: usize,
    /// Sends from it of which the kernel has not notified.
    sends: u32,
    /// The frame itself, in the batch that is being queued or was decided last.
    mark: FrameMark,
}

/// The frames of one ring.
#[derive(Debug)]
pub(crate) struct Arena {
    /// A mapping, from its first huge page on.
    memory: NonNull<u8>,
    /// The mapping as it was made, and its bytes.
    mapped: (NonNull<u8>, usize),
    pages: Pages,
    /// By page: what begins there.
    held: Vec<Held>,
    /// Where the next place is looked for first: never within one.
    next: usize,
    /// So many pages in a row, or more, were not to be had, and none has become free since.
    refused: usize,
    /// The frame that was copied last, and its place. It is kept, so that nobody else's bytes come
    /// to have its address, for as long as somebody may offer it again.
    current: Option<(Bytes, Place)>,
}

impl Arena {
    /// Maps so many bytes, rounded up to huge pages, and has them registered. Ordinary pages are taken
    /// where there are no huge ones, and where those are not for us: of the limit of a cgroup one hears
    /// only when they are registered.
    ///
    /// # Errors
    /// More than one registered buffer may have, no such memory, or what `register` says.
    pub(crate) fn new(bytes: u32, register: impl Fn(&Self) -> io::Result<()>) -> io::Result<Self> {
        let bytes = Self::bytes_of_frames(bytes);
        if bytes > ARENA_BYTES_MAX {
            return Err(io::Error::from_raw_os_error(libc::EFBIG));
        }
        huge_first(|pages| {
            let arena = Self::of(bytes, pages)?;
            register(&arena)?;
            Ok(arena)
        })
    }

    /// Bytes for frames, where so many are asked for.
    pub(crate) fn bytes_of_frames(asked: u32) -> usize {
        (asked as usize).max(1).next_multiple_of(HUGE_PAGE_BYTES)
    }

    /// So many bytes, of huge pages or of others.
    fn of(bytes: usize, pages: Pages) -> io::Result<Self> {
        let mapped = if pages == Pages::Huge {
            (map(bytes, libc::MAP_HUGETLB)?, bytes)
        } else {
            // A huge page more, so that whole aligned ones lie within.
            let bytes = bytes + HUGE_PAGE_BYTES;
            (map(bytes, 0)?, bytes)
        };
        let skipped = mapped.0.align_offset(HUGE_PAGE_BYTES);
        // SAFETY: at most a huge page is skipped, and by so much the mapping is longer where it is
        // not made of huge pages, which are aligned.
        let memory = unsafe { mapped.0.add(skipped) };
        let held = vec![Held::default(); bytes / PAGE_BYTES];
        let mut arena =
            Self { memory, mapped, pages, held, next: 0, refused: usize::MAX, current: None };
        if pages == Pages::Advised && !arena.advise() {
            arena.pages = Pages::Ordinary;
        }
        Ok(arena)
    }

    /// Asks for huge pages. Says whether the kernel knows them.
    fn advise(&self) -> bool {
        let (memory, bytes) = (self.memory.as_ptr().cast(), self.frames_bytes());
        // SAFETY: the range lies within the mapping, of which nothing has been touched.
        unsafe { libc::madvise(memory, bytes, libc::MADV_HUGEPAGE) == 0 }
    }

    /// Makes it the ring's first registered buffer.
    pub(crate) fn register(&self, submitter: &Submitter<'_>) -> io::Result<()> {
        let (iov_base, iov_len) = (self.memory.as_ptr().cast(), self.frames_bytes());
        // SAFETY: the range is mapped, and once it is registered it is unmapped only after the queue is
        // gone (the order of the engine's fields, and of the variables of its start), or when it has
        // been given back.
        unsafe { submitter.register_buffers(&[libc::iovec { iov_base, iov_len }]) }
    }

    /// Takes it from the ring again, unless a send from it is out. Says whether it did.
    pub(crate) fn give_back(&self, submitter: &Submitter<'_>) -> bool {
        self.outstanding() == 0 && submitter.unregister_buffers().is_ok()
    }

    /// What it is made of.
    pub(crate) fn pages(&self) -> Pages {
        self.pages
    }

    /// Bytes of the frames and of the table.
    pub(crate) fn bytes(&self) -> usize {
        self.frames_bytes() + self.held.len() * size_of::<Held>()
    }

    fn frames_bytes(&self) -> usize {
        self.held.len() * PAGE_BYTES
    }

    /// Sends of which the kernel has not notified.
    pub(crate) fn outstanding(&self) -> u64 {
        self.held.iter().map(|held| u64::from(held.sends)).sum()
    }

    /// The place of a frame of at least a byte; it is copied there unless it is the last one that was.
    /// `None`: there is no room.
    pub(crate) fn hold(&mut self, frame: &Bytes) -> Option<Place> {
        if let Some((held, place)) = &self.current
            && held.as_ptr() == frame.as_ptr()
            && held.len() == frame.len()
        {
            return Some(*place);
        }
        self.let_go();
        let pages = frame.len().div_ceil(PAGE_BYTES);
        if pages >= self.refused {
            return None;
        }
        let Some(page) = self.find(self.next, pages).or_else(|| self.find(0, pages)) else {
            self.refused = pages;
            return None;
        };
        self.held[page] = Held { bytes: frame.len(), ..Held::default() };
        self.next = page + pages;
        let place = self.address(Place(page));
        // SAFETY: `find` has seen that so many pages from here on are within the arena and hold
        // nothing that a send reads, and no reference to the arena is ever made.
        unsafe { ptr::copy_nonoverlapping(frame.as_ptr(), place.as_ptr(), frame.len()) };
        self.current = Some((frame.clone(), Place(page)));
        Some(Place(page))
    }

    /// The first of so many free pages in a row, from a page on that is not within a place.
    fn find(&self, from: usize, pages: usize) -> Option<usize> {
        let (mut first, mut page) = (from, from);
        while let Some(held) = self.held.get(page) {
            if held.bytes > 0 {
                page += held.bytes.div_ceil(PAGE_BYTES);
                first = page;
                continue;
            }
            page += 1;
            if page - first == pages {
                return Some(first);
            }
        }
        None
    }

    /// A send from a place that is held, to a slot in this generation. It completes, and then the
    /// kernel notifies. `mark` is the frame in this batch.
    pub(crate) fn send(
        &mut self,
        place: Place,
        mark: FrameMark,
        (slot, generation): (Slot, u32),
        file: File,
    ) -> Entry {
        let address = self.address(place);
        let held = &mut self.held[place.0];
        held.sends += 1;
        held.mark = mark;
        let length = u32::try_from(held.bytes).expect("an arena has at most 1 GiB");
        let entry = opcode::SendZc::new(file.number(), address.as_ptr(), length)
            .buf_index(Some(0))
            // As for other sends: all or what there is room for, at once.
            .flags(libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL | libc::MSG_WAITALL)
            .zc_flags(REPORT_USAGE)
            .build()
            .flags(file.flags());
        let page = u32::try_from(place.0).expect("an arena has at most 2^18 pages");
        let mark = page | (generation << PAGE_BITS & MARK_MAX);
        // SAFETY: the bytes are in the arena, which outlives the queue, and are written only by
        // `hold`, which finds no page of a place whose `sends` are not all notified of.
        unsafe { Entry::with_memory(entry, Tag { kind: Kind::ZeroCopy, mark, slot }) }
    }

    /// Takes the completion of a send, or its notification, and says which frame it was. `is_last`:
    /// no notification follows. `None`: no send is out from there.
    pub(crate) fn complete(&mut self, tag: Tag, is_last: bool) -> Option<FrameMark> {
        let page = (tag.mark & ((1 << PAGE_BITS) - 1)) as usize;
        let held = self.held.get_mut(page).filter(|held| held.sends > 0)?;
        let mark = held.mark;
        if is_last {
            held.sends -= 1;
            self.free_if_unused(page);
        }
        Some(mark)
    }

    /// An enter has consumed every entry: a frame that nobody else has will not be offered again.
    pub(crate) fn settle(&mut self) {
        if self.current.as_ref().is_some_and(|(frame, _)| frame.is_unique()) {
            self.let_go();
        }
    }

    fn let_go(&mut self) {
        if let Some((_, Place(page))) = mem::take(&mut self.current) {
            self.free_if_unused(page);
        }
    }

    fn free_if_unused(&mut self, page: usize) {
        let is_current = self.current.as_ref().is_some_and(|(_, place)| place.0 == page);
        if self.held[page].sends == 0 && !is_current {
            self.held[page] = Held::default();
            self.refused = usize::MAX;
        }
    }

    fn address(&self, place: Place) -> NonNull<u8> {
        assert!(place.0 < self.held.len(), "places are made by `hold`");
        // SAFETY: so many pages are mapped from here on.
        unsafe { self.memory.add(place.0 * PAGE_BYTES) }
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        let (memory, bytes) = self.mapped;
        // SAFETY: mapped in `of`, with this length. No queue has it registered (see `register`); what
        // sockets have not sent yet keeps its pages by itself, since registering has pinned them and
        // each send holds the registration.
        unsafe { libc::munmap(memory.as_ptr().cast(), bytes) };
    }
}

/// The generation of a slot, as far as a tag of an arena's send has it.
pub(crate) fn is_of_generation(tag: Tag, generation: u32) -> bool {
    tag.mark >> PAGE_BITS == (generation << PAGE_BITS & MARK_MAX) >> PAGE_BITS
}

/// Huge pages, or where they fail for whatever reason others.
fn huge_first<T>(mut make: impl FnMut(Pages) -> io::Result<T>) -> io::Result<T> {
    make(Pages::Huge).or_else(|_| make(Pages::Advised))
}

/// Memory of the process's own at an address of the kernel's choice.
fn map(bytes: usize, flags: i32) -> io::Result<NonNull<u8>> {
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | flags;
    // SAFETY: a new mapping of no file replaces nothing.
    let memory = unsafe { libc::mmap(ptr::null_mut(), bytes, protection, flags, -1, 0) };
    if memory == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    NonNull::new(memory.cast()).ok_or_else(|| io::Error::other("memory was mapped at address 0"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HALF: usize = HUGE_PAGE_BYTES / 2;

    /// One of a huge page, of no ring.
    fn arena() -> Arena {
        Arena::new(1, |_| Ok(())).unwrap()
    }

    fn frame(byte: u8, bytes: usize) -> Bytes {
        Bytes::from(vec![byte; bytes])
    }

    fn send(arena: &mut Arena, place: Place) -> Tag {
        let _entry = arena.send(place, FrameMark::default(), (3, 5), File::direct(3));
        let page = u32::try_from(place.0).unwrap();
        Tag { kind: Kind::ZeroCopy, mark: page | 5 << PAGE_BITS, slot: 3 }
    }

    #[test]
    fn the_same_frame_is_copied_once_and_another_of_the_same_bytes_again() {
        let mut arena = arena();
        let (first, second) = (frame(b'a', 5000), frame(b'a', 5000));
        assert_eq!(arena.hold(&first), Some(Place(0)));
        assert_eq!(arena.hold(&first.clone()), Some(Place(0)));
        let tag = send(&mut arena, Place(0));
        assert_eq!(arena.hold(&second), Some(Place(2)));
        assert_eq!(arena.hold(&second.slice(..4999)), Some(Place(4)), "a shorter one");
        assert!(arena.complete(tag, true).is_some());
        assert!(arena.complete(tag, true).is_none(), "it was the last");
    }

    #[test]
    fn a_place_is_free_when_every_send_was_notified_of_and_not_before() {
        let mut arena = arena();
        let (first, second) = (frame(b'a', HALF), frame(b'b', HALF));
        let place = arena.hold(&first).unwrap();
        let tags = [send(&mut arena, place), send(&mut arena, place)];
        let other = arena.hold(&second).unwrap();
        let other = send(&mut arena, other);
        assert_eq!((arena.hold(&first), arena.outstanding()), (None, 3));
        assert!(arena.complete(tags[0], true).is_some());
        assert!(arena.complete(tags[1], false).is_some(), "its notification follows");
        assert_eq!(arena.hold(&first), None);
        assert!(arena.complete(tags[1], true).is_some());
        assert_eq!(arena.hold(&first), Some(place));
        assert!(arena.complete(other, true).is_some());
    }

    #[test]
    fn a_frame_is_kept_as_long_as_somebody_may_offer_it_again() {
        let mut arena = arena();
        let whole = frame(b'a', HUGE_PAGE_BYTES);
        let other = whole.clone();
        assert_eq!(arena.hold(&whole), Some(Place(0)));
        drop(whole);
        arena.settle();
        assert!(!other.is_unique());
        drop(other);
        arena.settle();
        assert!(arena.current.is_none());
        assert_eq!(arena.hold(&frame(b'b', HUGE_PAGE_BYTES)), Some(Place(0)));
    }

    #[test]
    fn free_pages_are_found_between_places_and_before_them() {
        let mut arena = arena();
        let pages = |count: usize| frame(b'x', count * PAGE_BYTES);
        let tags: Vec<Tag> = [100, 50, 100, 262]
            .into_iter()
            .map(|count| {
                let place = arena.hold(&pages(count)).unwrap();
                send(&mut arena, place)
            })
            .collect();
        assert_eq!(arena.hold(&pages(1)), None, "512 pages are taken");
        assert!(arena.complete(tags[1], true).is_some());
        assert_eq!(arena.hold(&pages(51)), None);
        assert_eq!(arena.hold(&pages(50)), Some(Place(100)));
        assert!(arena.complete(tags[0], true).is_some());
        assert!(arena.complete(tags[2], true).is_some());
        // What is current has no sends, and makes room for the next.
        assert_eq!(arena.hold(&pages(250)), Some(Place(0)));
    }

    #[test]
    fn a_frame_longer_than_the_arena_has_no_place() {
        let mut arena = arena();
        assert_eq!(arena.hold(&frame(b'x', HUGE_PAGE_BYTES + 1)), None);
        assert_eq!(Arena::new(u32::MAX, |_| Ok(())).unwrap_err().raw_os_error(), Some(libc::EFBIG));
    }

    #[test]
    fn what_found_no_place_is_not_looked_for_again_until_one_is_free() {
        let mut arena = arena();
        let place = arena.hold(&frame(b'a', HALF)).unwrap();
        let tag = send(&mut arena, place);
        let other = arena.hold(&frame(b'b', HALF - 4 * PAGE_BYTES)).unwrap();
        let _kept = send(&mut arena, other);
        assert_eq!((arena.hold(&frame(b'c', 5 * PAGE_BYTES)), arena.refused), (None, 5));
        assert_eq!((arena.hold(&frame(b'd', 8 * PAGE_BYTES)), arena.refused), (None, 5));
        assert_eq!(
            arena.hold(&frame(b'e', 4 * PAGE_BYTES)),
            Some(Place(508)),
            "a shorter one fits"
        );
        assert!(arena.complete(tag, true).is_some());
        assert_eq!(arena.hold(&frame(b'f', 5 * PAGE_BYTES)), Some(place));
    }

    #[test]
    fn where_huge_pages_cannot_be_registered_others_are() {
        let refused = || io::Error::from_raw_os_error(libc::EFAULT);
        let made =
            huge_first(|pages| if pages == Pages::Huge { Err(refused()) } else { Ok(pages) });
        assert_eq!(made.unwrap(), Pages::Advised);
        assert_eq!(huge_first(Ok).unwrap(), Pages::Huge);
        let never = huge_first::<()>(|_| Err(refused()));
        assert_eq!(never.unwrap_err().raw_os_error(), Some(libc::EFAULT));
    }

    #[test]
    fn a_tag_tells_neighbouring_generations_apart() {
        let tag = Tag { kind: Kind::ZeroCopy, mark: 7 | 5 << PAGE_BITS, slot: 3 };
        assert!(is_of_generation(tag, 5) && is_of_generation(tag, 5 + 64));
        assert!(!is_of_generation(tag, 4) && !is_of_generation(tag, 6));
    }
}
