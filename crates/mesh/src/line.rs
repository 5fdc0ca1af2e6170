//! A value alone on its cache lines.

use std::ops::Deref;

/// Keeps what different threads write apart. Two lines of 64 bytes, because the hardware fetches
/// neighbouring lines in pairs.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct Line<T>(pub(crate) T);

impl<T> Deref for Line<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}
