//! A buffer that several tasks fill.

use std::ops::Range;

use crate::kernels::prefetch::ask_to_write;

/// A buffer whose equal parts are written by different tasks.
pub(super) struct Parts<'a, T> {
    start: *mut T,
    len: usize,
    buffer: std::marker::PhantomData<&'a mut [T]>,
}

// SAFETY: it stands for an exclusive borrow of a buffer of plain numbers, and its only access states who may use it.
unsafe impl<T: Send> Sync for Parts<'_, T> {}

impl<'a, T> Parts<'a, T> {
    pub fn new(buffer: &'a mut [T]) -> Self {
        Self { start: buffer.as_mut_ptr(), len: buffer.len(), buffer: std::marker::PhantomData }
    }

    /// Part `i` of `len` elements.
    ///
    /// # Safety
    /// No two parts handed out at the same time may overlap.
    #[allow(clippy::mut_from_ref)]
    pub unsafe fn part(&self, i: usize, len: usize) -> &mut [T] {
        // SAFETY: the caller's promise.
        unsafe { self.rows(i..i + 1, len) }
    }

    /// Parts `range` of `len` elements.
    ///
    /// # Safety
    /// As of [`part`](Self::part).
    #[allow(clippy::mut_from_ref)]
    pub unsafe fn rows(&self, range: Range<usize>, len: usize) -> &mut [T] {
        assert!(range.start <= range.end && range.end * len <= self.len, "part outside its buffer");
        // SAFETY: inside the borrowed buffer by the check above; exclusive by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(range.start * len), range.len() * len) }
    }

    /// Asks for the lines of part `i` of `len` elements, which need not be one: it is written soon.
    pub fn expect(&self, i: usize, len: usize) {
        ask_to_write(self.start.wrapping_add(i * len).cast(), len * size_of::<T>());
    }
}
