//! What the loops of several rings know of each other: the table of direct descriptors of one ring
//! has RLIMIT_NOFILE entries, so that more connections need more rings. A publication is put into
//! the box of each other ring, and a message on that ring says so.

use std::os::fd::RawFd;
use std::sync::{Arc, Barrier, Mutex, OnceLock, PoisonError};

/// A frame that all rings send.
pub(crate) type Shared = Arc<[u8]>;

/// The rings of a floor, by their number.
#[derive(Debug)]
pub(crate) struct Rings {
    boxes: Vec<Letterbox>,
    started: Barrier,
}

#[derive(Debug, Default)]
struct Letterbox {
    ring: OnceLock<RawFd>,
    frames: Mutex<Vec<Shared>>,
}

impl Rings {
    /// `count` rings, none of which has started.
    pub(crate) fn new(count: usize) -> Rings {
        Rings {
            boxes: (0..count).map(|_| Letterbox::default()).collect(),
            started: Barrier::new(count),
        }
    }

    /// Makes the descriptor of ring `number` known, and waits until those of all others are.
    pub(crate) fn start(&self, number: usize, ring: RawFd) {
        // Nobody else sets it, and each ring starts once.
        let _ = self.boxes[number].ring.set(ring);
        self.started.wait();
    }

    /// Puts `frame` into the boxes of all but `from`, whose rings are then to be woken.
    pub(crate) fn post(&self, from: usize, frame: &Shared) -> impl Iterator<Item = RawFd> + '_ {
        let others = move || self.boxes.iter().enumerate().filter(move |(to, _)| *to != from);
        for (_, to) in others() {
            to.frames.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(frame));
        }
        others().filter_map(|(_, to)| to.ring.get().copied())
    }

    /// Takes what lies in the box of ring `number`, oldest first.
    pub(crate) fn take(&self, number: usize) -> Vec<Shared> {
        let frames = &self.boxes[number].frames;
        std::mem::take(&mut *frames.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_one_ring_posts_lies_in_the_boxes_of_the_others() {
        let rings = Rings::new(3);
        for (number, fd) in [7, 8, 9].into_iter().enumerate() {
            rings.boxes[number].ring.set(fd).unwrap();
        }
        let frame: Shared = Arc::from([1, 2]);
        assert_eq!(rings.post(1, &frame).collect::<Vec<_>>(), [7, 9]);
        assert_eq!(rings.take(0), [Arc::clone(&frame)]);
        assert!(rings.take(0).is_empty() && rings.take(1).is_empty());
        assert_eq!(rings.take(2).len(), 1);
    }
}
