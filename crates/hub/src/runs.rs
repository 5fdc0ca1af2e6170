//! Short runs of small values, each without an allocation of its own. Runs of about the same length
//! stand side by side in one vector, so that a run costs its values and what its length is rounded
//! up by: nothing up to 8, and a quarter at most beyond. Whoever keeps a run keeps its place and
//! its length.

/// Runs of so many values at most are not rounded up.
const EXACT_LEN_MAX: usize = 8;

/// A vector that is full grows by one part in so many: half-empty memory is what it costs otherwise.
const GROWTH_SHARE: usize = 8;

/// Runs of all lengths.
#[derive(Debug)]
pub(crate) struct Runs<T> {
    /// By class; grown to the longest run that there ever was.
    classes: Vec<Class<T>>,
}

/// Runs of one class of lengths.
#[derive(Debug)]
struct Class<T> {
    /// The values of all places, one place behind the other.
    values: Vec<T>,
    /// Places without a run.
    vacant: Vec<u32>,
}

impl<T> Default for Runs<T> {
    fn default() -> Self {
        Self { classes: Vec::new() }
    }
}

impl<T: Copy> Runs<T> {
    /// Keeps a copy of these values, of which there is at least one. Returns their place.
    pub(crate) fn insert(&mut self, values: &[T]) -> u32 {
        let place = self.begin(values.len(), values[0]);
        self.get_mut(place, values.len()).copy_from_slice(values);
        place
    }

    /// The run of this length at this place.
    pub(crate) fn get(&self, place: u32, len: usize) -> &[T] {
        let (class, room) = class_of(len);
        let start = place as usize * room;
        &self.classes[class].values[start..start + len]
    }

    pub(crate) fn get_mut(&mut self, place: u32, len: usize) -> &mut [T] {
        let (class, room) = class_of(len);
        let start = place as usize * room;
        &mut self.classes[class].values[start..start + len]
    }

    /// Makes a run longer or shorter at its end, where it gets values of no meaning. Returns its new
    /// place.
    pub(crate) fn resize(&mut self, place: u32, len: usize, len_new: usize) -> u32 {
        let (from, room) = class_of(len);
        let (to, room_new) = class_of(len_new);
        if from == to {
            return place;
        }
        let place_new = self.begin(len_new, self.get(place, len)[0]);
        let kept = len.min(len_new);
        let [source, target] =
            self.classes.get_disjoint_mut([from, to]).expect("two classes that both have a run");
        let (start, start_new) = (place as usize * room, place_new as usize * room_new);
        target.values[start_new..start_new + kept]
            .copy_from_slice(&source.values[start..start + kept]);
        self.remove(place, len);
        place_new
    }

    /// Lets go of a run.
    pub(crate) fn remove(&mut self, place: u32, len: usize) {
        let (class, room) = class_of(len);
        let class = &mut self.classes[class];
        class.vacant.push(place);
        if class.vacant.len() * room == class.values.len() {
            *class = Class::new();
        }
    }

    /// A place for a run of this length, with values of no meaning.
    fn begin(&mut self, len: usize, filler: T) -> u32 {
        let (class, room) = class_of(len);
        if class >= self.classes.len() {
            self.classes.resize_with(class + 1, Class::new);
        }
        let class = &mut self.classes[class];
        class.vacant.pop().unwrap_or_else(|| {
            let start = class.values.len();
            reserve(&mut class.values, room);
            class.values.resize(start + room, filler);
            u32::try_from(start / room).expect("memory ends before 2^32 runs")
        })
    }
}

impl<T> Class<T> {
    const fn new() -> Self {
        Self { values: Vec::new(), vacant: Vec::new() }
    }
}

/// Which class runs of this length are in, and how many values each of its places has.
fn class_of(len: usize) -> (usize, usize) {
    debug_assert!(len > 0, "nothing is no run");
    if len <= EXACT_LEN_MAX {
        return (len - 1, len);
    }
    // Four steps from one power of two to the next: 10, 12, 14, 16, 20, 24, 28, 32, 40 and so on.
    let shift = (len - 1).ilog2() - 2;
    let quarters = ((len - 1) >> shift) + 1;
    (EXACT_LEN_MAX + (shift as usize - 1) * 4 + quarters - 5, quarters << shift)
}

/// Sees to it that there is room for so many more, without taking much more memory than that.
pub(crate) fn reserve<T>(values: &mut Vec<T>, more: usize) {
    if values.capacity() - values.len() < more {
        values.reserve_exact(more.max(values.len() / GROWTH_SHARE));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_length_has_its_class_and_little_more_room_than_it_needs() {
        let cases = [
            (1, (0, 1)),
            (5, (4, 5)),
            (8, (7, 8)),
            (9, (8, 10)),
            (10, (8, 10)),
            (11, (9, 12)),
            (16, (11, 16)),
            (17, (12, 20)),
            (64, (19, 64)),
            (65, (20, 80)),
            (255, (27, 256)),
        ];
        for (len, expected) in cases {
            assert_eq!(class_of(len), expected, "{len}");
        }
        let mut before = class_of(1);
        for len in 2..10_000 {
            let (class, room) = class_of(len);
            assert!(len <= room && (len <= 8 || room * 4 <= len * 5), "{len} in {room}");
            assert!((class, room) == before || class == before.0 + 1, "{len}");
            before = (class, room);
        }
    }

    #[test]
    fn a_run_keeps_its_values_while_it_is_made_longer_and_shorter_beside_others() {
        let mut runs = Runs::<u32>::default();
        let other = runs.insert(&[7, 8, 9]);
        let mut place = runs.insert(&[0]);
        for len in 1..200 {
            place = runs.resize(place, len, len + 1);
            let run = runs.get_mut(place, len + 1);
            run[len] = u32::try_from(len).unwrap();
            assert!((0..).zip(run.iter()).all(|(expected, value)| expected == *value));
        }
        for len in (1..200).rev() {
            place = runs.resize(place, len + 1, len);
            assert!((0..).zip(runs.get(place, len)).all(|(expected, value)| expected == *value));
        }
        assert_eq!(runs.get(other, 3), [7, 8, 9]);
    }

    #[test]
    fn a_place_is_used_again_and_a_class_without_runs_has_no_memory() {
        let mut runs = Runs::<u8>::default();
        let places = [b"abc", b"def", b"ghi"].map(|values| runs.insert(values));
        runs.remove(places[1], 3);
        assert_eq!(runs.insert(b"jkl"), places[1]);
        assert_eq!(runs.classes[2].values, b"abcjklghi");
        places.into_iter().for_each(|place| runs.remove(place, 3));
        assert_eq!(runs.classes[2].values.capacity(), 0);
        assert_eq!(runs.insert(b"mno"), 0);
    }

    #[test]
    fn a_full_vector_grows_by_an_eighth() {
        let mut values = vec![0_u8; 800];
        values.shrink_to_fit();
        reserve(&mut values, 1);
        assert_eq!(values.capacity(), 900);
        reserve(&mut values, 100);
        assert_eq!(values.capacity(), 900);
    }
}
