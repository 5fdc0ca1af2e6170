//! The subscribers of topics, in slot order whatever their number: one in place, a few in a run
//! among others, more in a list, many in a bitmap. A cursor is a slot, so it stays good while
//! subscribers come and go and while one form turns into another.

use slab::Slab;
use worker::{Chunk, Slot, SlotSet};

use crate::runs::Runs;

/// More subscribers than this have memory of their own.
const RUN_LEN_MAX: u32 = 64;

/// A list becomes a bitmap at so many subscribers for each of the bitmap's 64-bit words. There both
/// have the same size and, as soon as anyone is busy, the same speed (examples/figures.rs); beyond,
/// only the list's insertions get slower.
const BITMAP_SLOTS_PER_WORD_MIN: usize = 2;

/// The subscribers of one topic, as its record has them: the length says which form they have.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Members {
    pub(crate) len: u32,
    /// Of one the slot, of a few the place of their run, of more the key of their set.
    at: u32,
}

/// Where the subscribers of all topics stand.
#[derive(Debug, Default)]
pub(crate) struct MemberTable {
    runs: Runs<Slot>,
    sets: Slab<Set>,
}

/// More than `RUN_LEN_MAX` subscribers.
#[derive(Debug)]
pub(crate) enum Set {
    List(Vec<Slot>),
    Bitmap(SlotSet),
}

/// A set of slots with a fan-out.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Subscribers<'a> {
    List(&'a [Slot]),
    Bitmap(&'a SlotSet),
}

impl MemberTable {
    #[inline]
    pub(crate) fn get<'a>(&'a self, members: &'a Members) -> Subscribers<'a> {
        // Asked for at every step of a fan-out, of which only the large have many.
        if members.len > RUN_LEN_MAX {
            return self.sets[members.at as usize].subscribers();
        }
        Subscribers::List(match members.len {
            0 => &[],
            1 => std::slice::from_ref(&members.at),
            len => self.runs.get(members.at, len as usize),
        })
    }

    /// Adds a slot that is not there.
    pub(crate) fn insert(&mut self, members: &mut Members, slot: Slot) {
        let len = members.len as usize;
        members.at = match members.len {
            0 => slot,
            1 => self.runs.insert(&[members.at.min(slot), members.at.max(slot)]),
            2..RUN_LEN_MAX => {
                let place = self.runs.resize(members.at, len, len + 1);
                let run = self.runs.get_mut(place, len + 1);
                let at = run[..len].partition_point(|&other| other < slot);
                run.copy_within(at..len, at + 1);
                run[at] = slot;
                place
            }
            RUN_LEN_MAX => {
                let mut list = Vec::with_capacity(2 * len);
                list.extend_from_slice(self.runs.get(members.at, len));
                self.runs.remove(members.at, len);
                let mut set = Set::List(list);
                set.insert(slot);
                u32::try_from(self.sets.insert(set)).expect("far fewer than subscriptions")
            }
            _ => {
                self.sets[members.at as usize].insert(slot);
                members.at
            }
        };
        members.len += 1;
    }

    /// Takes a slot out that is there.
    pub(crate) fn remove(&mut self, members: &mut Members, slot: Slot) {
        let len = members.len as usize;
        members.at = match members.len {
            0 | 1 => 0,
            2 => {
                let run = self.runs.get(members.at, len);
                let left = if run[0] == slot { run[1] } else { run[0] };
                self.runs.remove(members.at, len);
                left
            }
            3..=RUN_LEN_MAX => {
                let run = self.runs.get_mut(members.at, len);
                let at = run.partition_point(|&other| other < slot);
                debug_assert_eq!(run[at], slot, "a subscriber is taken out");
                run.copy_within(at + 1.., at);
                self.runs.resize(members.at, len, len - 1)
            }
            _ => {
                let set = &mut self.sets[members.at as usize];
                set.remove(slot);
                if members.len == RUN_LEN_MAX + 1 {
                    let set = self.sets.remove(members.at as usize);
                    self.runs.insert(&set.into_list())
                } else {
                    members.at
                }
            }
        };
        members.len -= 1;
    }
}

impl Set {
    #[inline]
    pub(crate) fn subscribers(&self) -> Subscribers<'_> {
        match self {
            Self::List(slots) => Subscribers::List(slots),
            Self::Bitmap(set) => Subscribers::Bitmap(set),
        }
    }

    fn insert(&mut self, slot: Slot) {
        match self {
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

    fn remove(&mut self, slot: Slot) {
        match self {
            Self::List(slots) => {
                if let Ok(at) = slots.binary_search(&slot) {
                    slots.remove(at);
                }
            }
            Self::Bitmap(set) => {
                set.remove(slot);
                // Half of what became a bitmap: nobody can turn this over and over.
                if set.len() < set.words() * BITMAP_SLOTS_PER_WORD_MIN / 2 {
                    *self = Self::List(set.iter().collect());
                }
            }
        }
    }

    fn into_list(self) -> Vec<Slot> {
        match self {
            Self::List(slots) => slots,
            Self::Bitmap(set) => set.iter().collect(),
        }
    }
}

impl Subscribers<'_> {
    /// The first subscriber at or behind `from`.
    pub(crate) fn next(self, from: Slot) -> Option<Slot> {
        match self {
            Self::List(slots) => slots.get(slots.partition_point(|&slot| slot < from)).copied(),
            Self::Bitmap(set) => set.next(from),
        }
    }

    /// One step of a fan-out, as [`worker::Handler::fill`] has it.
    #[inline]
    pub(crate) fn fill(self, from: Slot, busy: &SlotSet, chunk: &mut Chunk) -> Option<Slot> {
        match self {
            Self::List(slots) => fill_from_list(slots, from, busy, chunk),
            Self::Bitmap(set) => fill_from_set(set, from, busy, chunk),
        }
    }
}

/// From how many slots on a list with this last slot is better a bitmap.
fn bitmap_len_min(slots: &[Slot]) -> usize {
    let words = slots.last().map_or(0, |&slot| slot as usize / 64 + 1);
    words * BITMAP_SLOTS_PER_WORD_MIN
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
    use std::collections::BTreeSet;

    use rand::{Rng, SeedableRng, rngs::StdRng};

    use super::*;

    /// The subscribers of one topic, alone in their table.
    struct Alone {
        table: MemberTable,
        members: Members,
    }

    impl Alone {
        fn new(slots: impl IntoIterator<Item = Slot>) -> Self {
            let mut alone = Self { table: MemberTable::default(), members: Members::default() };
            slots.into_iter().for_each(|slot| alone.insert(slot));
            alone
        }

        fn insert(&mut self, slot: Slot) {
            self.table.insert(&mut self.members, slot);
        }

        fn remove(&mut self, slot: Slot) {
            self.table.remove(&mut self.members, slot);
        }

        fn get(&self) -> Subscribers<'_> {
            self.table.get(&self.members)
        }

        fn filled(&self, from: Slot, room: usize) -> (Vec<Slot>, Option<Slot>) {
            let mut chunk = Chunk::new(room);
            let next = self.get().fill(from, &SlotSet::new(), &mut chunk);
            (chunk.targets, next)
        }

        /// What they stand in: nothing of their own, a run, a list or a bitmap.
        fn form(&self) -> &'static str {
            match (self.members.len, self.get()) {
                (0 | 1, _) => "in place",
                (2..=RUN_LEN_MAX, _) => "run",
                (_, Subscribers::List(_)) => "list",
                (_, Subscribers::Bitmap(_)) => "bitmap",
            }
        }
    }

    #[test]
    fn a_bitmap_that_is_emptied_one_by_one_ends_as_nobody() {
        let mut alone = Alone::new(0..100);
        for slot in 0..100 {
            alone.remove(slot);
            assert_eq!(alone.filled(0, 128).0, (slot + 1..100).collect::<Vec<_>>());
        }
        assert!(alone.table.sets.is_empty());
    }

    #[test]
    fn one_stands_in_place_a_few_in_a_run_more_in_a_list_many_in_a_bitmap_and_back() {
        // The last slot is in the fiftieth word.
        let mut alone = Alone::new([3_199]);
        assert_eq!(alone.form(), "in place");
        let mut forms = vec![];
        for slot in 0..99 {
            alone.insert(slot);
            forms.push(alone.form());
        }
        assert_eq!(forms[..63], ["run"; 63]);
        assert_eq!(forms[63..98], ["list"; 35]);
        assert_eq!(forms[98..], ["bitmap"]);
        assert_eq!(alone.filled(0, 128), ((0..99).chain([3_199]).collect(), None));
        forms.clear();
        for slot in 0..99 {
            alone.remove(slot);
            forms.push(alone.form());
        }
        assert_eq!(forms[..35], ["bitmap"; 35]);
        assert_eq!(forms[35..98], ["run"; 63]);
        assert_eq!(forms[98..], ["in place"]);
        assert_eq!(alone.filled(0, 64), (vec![3_199], None));
    }

    #[test]
    fn a_bitmap_of_which_half_has_gone_becomes_a_list() {
        // The last slot is in the hundredth word.
        let mut alone = Alone::new((0..199).chain([6_399]));
        assert_eq!(alone.form(), "bitmap");
        (0..100).for_each(|slot| alone.remove(slot));
        assert_eq!(alone.form(), "bitmap");
        alone.remove(100);
        assert_eq!(alone.form(), "list");
        assert_eq!(alone.filled(0, 128), ((101..199).chain([6_399]).collect(), None));
    }

    #[test]
    fn a_chunk_ends_where_it_is_full_and_names_the_next_member() {
        let alone = Alone::new(0..200);
        assert_eq!(alone.form(), "bitmap");
        assert_eq!(alone.filled(0, 64), ((0..64).collect(), Some(64)));
        assert_eq!(alone.filled(64, 64), ((64..128).collect(), Some(128)));
        assert_eq!(alone.filled(70, 3), ((70..73).collect(), Some(73)));
        assert_eq!(alone.filled(190, 64), ((190..200).collect(), None));
        assert_eq!(alone.filled(200, 64), (vec![], None));
        assert_eq!(alone.filled(Slot::MAX, 64), (vec![], None));
    }

    #[test]
    fn busy_members_are_told_apart_in_every_form() {
        let mut busy = SlotSet::new();
        [2, 5, 300].iter().for_each(|&slot| _ = busy.insert(slot));
        for members in [2, 9, 200] {
            let alone = Alone::new(1..=members);
            let mut chunk = Chunk::new(256);
            assert_eq!(alone.get().fill(0, &busy, &mut chunk), None);
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
            let (mut alone, mut model) = (Alone::new([]), BTreeSet::new());
            let mut cursor = 0;
            for step in 0..4_000 {
                let form = alone.form();
                let grows = random.random_bool(if step / 500 % 2 == 0 { 0.9 } else { 0.1 });
                let slot = random.random_range(0..slots);
                if grows && model.insert(slot) {
                    alone.insert(slot);
                } else if let Some(&slot) = model.range(slot..).next().filter(|_| !grows) {
                    model.remove(&slot);
                    alone.remove(slot);
                }
                assert_eq!(alone.members.len as usize, model.len());
                form_changes += u32::from(alone.form() != form);

                let mut chunk = Chunk::new(random.random_range(0..100));
                let room = chunk.room();
                let next = alone.get().fill(cursor, &busy, &mut chunk);
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
