//! What the crate builds on in a model: the atomics of `loom`, and a queue that shows no more of
//! itself to the other thread than `crossbeam_queue::ArrayQueue` promises to.

use std::{
    collections::VecDeque,
    sync::{Mutex, PoisonError},
};

pub(crate) use loom::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering, fence};

/// A bounded queue for one producer and one consumer.
///
/// The letters lie in a mutex of `std`, which `loom` does not see: it orders nothing in the model.
/// What the consumer may know of the producer comes from `pushed` alone, and the other way round
/// from `popped`, as it comes from the stamps of the slots in the real queue.
#[derive(Debug)]
pub(crate) struct Queue<T> {
    elements: Mutex<VecDeque<T>>,
    capacity: usize,
    pushed: AtomicUsize,
    popped: AtomicUsize,
}

impl<T> Queue<T> {
    pub(crate) fn new(capacity: usize) -> Self {
        Self {
            elements: Mutex::new(VecDeque::with_capacity(capacity)),
            capacity,
            pushed: AtomicUsize::new(0),
            popped: AtomicUsize::new(0),
        }
    }

    pub(crate) fn capacity(&self) -> usize {
        self.capacity
    }

    pub(crate) fn push(&self, element: T) -> Result<(), T> {
        let pushed = self.pushed.load(Ordering::Relaxed);
        if pushed - self.popped.load(Ordering::Acquire) == self.capacity {
            return Err(element);
        }
        self.elements.lock().unwrap_or_else(PoisonError::into_inner).push_back(element);
        self.pushed.store(pushed + 1, Ordering::Release);
        Ok(())
    }

    pub(crate) fn pop(&self) -> Option<T> {
        let popped = self.popped.load(Ordering::Relaxed);
        if self.pushed.load(Ordering::Acquire) == popped {
            return None;
        }
        let element = self.elements.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
        self.popped.store(popped + 1, Ordering::Release);
        element
    }
}
