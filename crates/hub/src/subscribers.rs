//! The subscribers of one topic, in slot order whatever their number: a few in place, more in a
//! short ordered list, many in a bitmap. A cursor is a slot, so it stays good while subscribers
//! come and go and while one form turns into another.

use worker::{Chunk, Slot, SlotSet};

/// How many subscribers need no memory of their own.
const FEW_MAX: u8 = 5;

/// Where they stand.
type Few = [Slot; FEW_MAX as usize];

/// A list with fewer subscribers gives its memory back: one less than what became a list, so that
/// nobody can turn it over and over.
const LIST_LEN_MIN: usize = FEW_MAX as usize;

/// A list becomes a bitmap at so many subscribers for each of the bitmap's 64-bit words. There both
/// have the same size and, as soon as anyone is busy, the same speed (examples/figures.rs); beyond,
/// only the list's insertions get slower.
const BITMAP_SLOTS_PER_WORD_MIN: usize = 2;

/// A set of slots with a fan-out.
#[derive(Debug)]
pub(crate) enum Subscribers {
    /// The first `count` places are taken.
    Few {
        count: u8,
        slots: Few,
    },
    List(Vec<Slot>),
    Bitmap(SlotSet),
}

const _: () = assert!(size_of::<Subscribers>() <= 32, "a form of every topic, most of them small");

impl Subscribers {
    pub(crate) const fn new() -> Self {
        Self::Few { count: 0, slots: [0; FEW_MAX as usize] }
    }

    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Few { count, .. } => usize::from(*count),
            Self::List(slots) => slots.len(),
            Self::Bitmap(set) => set.len(),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Adds a slot that is not there.
    pub(crate) fn insert(&mut self, slot: Slot) {
        match self {
            Self::Few { count, slots } if *count < FEW_MAX => {
                let end = usize::from(*count);
                let at = slots[..end].partition_point(|&other| other < slot);
                slots.copy_within(at..end, at + 1);
                slots[at] = slot;
                *count += 1;
            }
            Self::Few { slots, .. } => {
                let mut list = Vec::with_capacity(LIST_LEN_MIN * 2);
                list.extend_from_slice(slots);
                *self = Self::List(list);
                self.insert(slot);
            }
            Self::List(slots) => {
                let at = slots.partition_point(|&other| other < slot);
                slots.insert(at, slot);
                if slots.len() >= bitmap_len_min(slots) {
                    let mut set = SlotSet::new();
                    // From the last on, so that the bitmap grows once.
                    slots.iter().rev().for_each(|&slot| _ = set.insert(slot));
                    *self = Self::Bitmap(set);
                }
            }
            Self::Bitmap(set) => _ = set.insert(slot),
        }
    }

    /// Takes a slot out that is there.
    pub(crate) fn remove(&mut self, slot: Slot) {
        match self {
            Self::Few { count, slots } => {
                let end = usize::from(*count);
                if let Ok(at) = slots[..end].binary_search(&slot) {
                    slots.copy_within(at + 1..end, at);
                    *count -= 1;
                }
            }
            Self::List(slots) => {
                if let Ok(at) = slots.binary_search(&slot) {
                    slots.remove(at);
                }
                if slots.len() < LIST_LEN_MIN {
                    let mut few: Few = [0; FEW_MAX as usize];
                    few[..slots.len()].copy_from_slice(slots);
                    let count = u8::try_from(slots.len()).expect("a short list has few slots");
                    *self = Self::Few { count, slots: few };
                }
            }
            Self::Bitmap(set) => {
                set.remove(slot);
                // Half of what became a bitmap: nobody can turn this over and over either.
                if set.len() < (set.words() * BITMAP_SLOTS_PER_WORD_MIN / 2).max(LIST_LEN_MIN + 1) {
                    *self = Self::List(set.iter().collect());
                }
            }
        }
    }

    /// One step of a fan-out, as [`worker::Handler::fill`] has it.
    pub(crate) fn fill(&self, from: Slot, busy: &SlotSet, chunk: &mut Chunk) -> Option<Slot> {
        match self {
            Self::Few { count, slots } => {
                fill_from_list(&slots[..usize::from(*count)], from, busy, chunk)
            }
            Self::List(slots) => fill_from_list(slots, from, busy, chunk),
            Self::Bitmap(set) => fill_from_set(set, from, busy, chunk),
        }
    }
}

/// From how many slots on a list with this last slot is better a bitmap.
fn bitmap_len_min(slots: &[Slot]) -> usize {
    let words = slots.last().map_or(0, |&slot| slot as usize / 64 + 1);
    (words * BITMAP_SLOTS_PER_WORD_MIN).max(2 * LIST_LEN_MIN)
}

fn fill_from_list(slots: &[Slot], from: Slot, busy: &SlotSet, chunk: &mut Chunk) -> Option<Slot> {
    let rest = &slots[slots.partition_point(|&slot| slot < from)..];
    let (taken, rest) = rest.split_at(rest.len().min(chunk.room()));
    if busy.is_empty() {
        chunk.targets.extend_from_slice(taken);
    } else {
        for &slot in taken {
            let to = if busy.contains(slot) { &mut chunk.busy } else { &mut chunk.targets };
            to.push(slot);
        }
    }
    rest.first().copied()
}

/// One step of a fan-out to a bitmap's slots, a word at a time.
pub(crate) fn fill_from_set(
    set: &SlotSet,
    from: Slot,
    busy: &SlotSet,
    chunk: &mut Chunk,
) -> Option<Slot> {
    let first = from as usize / 64;
    let mut mask = u64::MAX << (from % 64);
    let mut base = from - from % 64;
    for index in first..set.words() {
        let members = set.word(index) & mask;
        mask = u64::MAX;
        if members != 0 {
            let taken = if members.count_ones() as usize <= chunk.room() {
                members
            } else {
                lowest(members, chunk.room())
            };
            let busy = taken & busy.word(index);
            push_slots(base, taken & !busy, &mut chunk.targets);
            push_slots(base, busy, &mut chunk.busy);
            if taken != members {
                return Some(base + (members & !taken).trailing_zeros());
            }
        }
        base += 64;
    }
    None
}

/// The lowest `count` of more than `count` bits.
fn lowest(bits: u64, count: usize) -> u64 {
    let rest = (0..count).fold(bits, |rest, _| rest & (rest - 1));
    bits & !rest
}

fn push_slots(base: Slot, mut bits: u64, slots: &mut Vec<Slot>) {
    // Whole words are what a broadcast to everyone consists of.
    if bits == u64::MAX {
        slots.extend(base..base + 64);
        return;
    }
    while bits != 0 {
        slots.push(base + bits.trailing_zeros());
        bits &= bits - 1;
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, mem::discriminant};

    use rand::{Rng, SeedableRng, rngs::StdRng};

    use super::*;

    fn filled(subscribers: &Subscribers, from: Slot, room: usize) -> (Vec<Slot>, Option<Slot>) {
        let mut chunk = Chunk::new(room);
        let next = subscribers.fill(from, &SlotSet::new(), &mut chunk);
        (chunk.targets, next)
    }

    #[test]
    fn a_bitmap_that_is_emptied_one_by_one_ends_as_nobody() {
        let mut subscribers = Subscribers::new();
        (0..20).for_each(|slot| subscribers.insert(slot));
        for slot in 0..20 {
            subscribers.remove(slot);
            assert_eq!(filled(&subscribers, 0, 64).0, (slot + 1..20).collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_few_stand_in_place_more_in_a_list_many_in_a_bitmap_and_back() {
        let mut subscribers = Subscribers::new();
        for slot in [640, 3, 9, 1, 7] {
            subscribers.insert(slot);
        }
        assert!(matches!(subscribers, Subscribers::Few { count: 5, .. }));
        subscribers.insert(5);
        assert!(matches!(subscribers, Subscribers::List(_)));
        // The last slot is in the eleventh word.
        [2, 4, 6, 8].into_iter().chain(10..21).for_each(|slot| subscribers.insert(slot));
        assert!(matches!(subscribers, Subscribers::List(_)));
        assert_eq!(subscribers.len(), 21);
        subscribers.insert(21);
        assert!(matches!(subscribers, Subscribers::Bitmap(_)));
        assert_eq!(filled(&subscribers, 0, 64), ((1..=21).chain([640]).collect(), None));
        (1..=11).for_each(|slot| subscribers.remove(slot));
        assert!(matches!(subscribers, Subscribers::Bitmap(_)));
        subscribers.remove(12);
        assert!(matches!(subscribers, Subscribers::List(_)));
        (13..=17).for_each(|slot| subscribers.remove(slot));
        assert!(matches!(subscribers, Subscribers::List(_)));
        subscribers.remove(18);
        assert!(matches!(subscribers, Subscribers::Few { count: 4, .. }));
        assert_eq!(filled(&subscribers, 0, 64), (vec![19, 20, 21, 640], None));
    }

    #[test]
    fn a_chunk_ends_where_it_is_full_and_names_the_next_member() {
        let mut subscribers = Subscribers::new();
        (0..200).for_each(|slot| subscribers.insert(slot));
        assert!(matches!(subscribers, Subscribers::Bitmap(_)));
        assert_eq!(filled(&subscribers, 0, 64), ((0..64).collect(), Some(64)));
        assert_eq!(filled(&subscribers, 64, 64), ((64..128).collect(), Some(128)));
        assert_eq!(filled(&subscribers, 70, 3), ((70..73).collect(), Some(73)));
        assert_eq!(filled(&subscribers, 190, 64), ((190..200).collect(), None));
        assert_eq!(filled(&subscribers, 200, 64), (vec![], None));
        assert_eq!(filled(&subscribers, Slot::MAX, 64), (vec![], None));
    }

    #[test]
    fn busy_members_are_told_apart_in_every_form() {
        let mut busy = SlotSet::new();
        [2, 5, 300].iter().for_each(|&slot| _ = busy.insert(slot));
        for members in [3, 9, 200] {
            let mut subscribers = Subscribers::new();
            (1..=members).for_each(|slot| subscribers.insert(slot));
            let mut chunk = Chunk::new(256);
            assert_eq!(subscribers.fill(0, &busy, &mut chunk), None);
            let (of_busy, targets): (Vec<Slot>, Vec<Slot>) =
                (1..=members).partition(|slot| [2, 5].contains(slot));
            assert_eq!((chunk.targets, chunk.busy), (targets, of_busy));
        }
    }

    /// Random walks with their size going up and down, so that every form turns into its
    /// neighbours while a fan-out is under way.
    #[test]
    fn it_fills_like_an_ordered_set_while_members_come_and_go_under_the_cursor() {
        let mut form_changes = 0;
        for seed in 0..30 {
            let mut random = StdRng::seed_from_u64(seed);
            let slots = [40, 700, 20_000][random.random_range(0..3)];
            let mut busy = SlotSet::new();
            for _ in 0..random.random_range(0..slots / 2) {
                busy.insert(random.random_range(0..slots));
            }
            let (mut subscribers, mut model) = (Subscribers::new(), BTreeSet::new());
            let mut cursor = 0;
            for step in 0..4_000 {
                let form = discriminant(&subscribers);
                let grows = random.random_bool(if step / 500 % 2 == 0 { 0.9 } else { 0.1 });
                let slot = random.random_range(0..slots);
                if grows && model.insert(slot) {
                    subscribers.insert(slot);
                } else if let Some(&slot) = model.range(slot..).next().filter(|_| !grows) {
                    model.remove(&slot);
                    subscribers.remove(slot);
                }
                assert_eq!(subscribers.len(), model.len());
                form_changes += u32::from(discriminant(&subscribers) != form);

                let mut chunk = Chunk::new(random.random_range(0..100));
                let room = chunk.room();
                let next = subscribers.fill(cursor, &busy, &mut chunk);
                let mut members = model.range(cursor..).copied();
                let (of_busy, targets): (Vec<Slot>, Vec<Slot>) =
                    members.by_ref().take(room).partition(|slot| busy.contains(*slot));
                assert_eq!((chunk.targets, chunk.busy), (targets, of_busy), "seed {seed}");
                assert_eq!(next, members.next(), "seed {seed}");
                cursor = next.unwrap_or(0);
            }
        }
        assert!(form_changes > 100, "{form_changes}");
    }
}
