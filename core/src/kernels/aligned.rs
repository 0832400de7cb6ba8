//! Zeroed storage of numbers that starts on a cache line.

use std::ops::{Deref, DerefMut};

use bytemuck::Pod;
use memmap2::MmapMut;

/// Bytes of a cache line, and of the widest register.
const LINE: usize = 64;
/// Bytes from which [`Aligned::zeroed`] asks the system itself: a few pages, whatever their size.
const MAPPED: usize = 64 << 10;

/// A slice of numbers whose address is a multiple of 64, so that no register load of it straddles two cache lines.
///
/// The memory is zeroed by the system, page by page when first touched; asking the allocator for the alignment instead would
/// have it write the zeros.
#[derive(Debug)]
pub struct Aligned<T = f32> {
    /// The first element, inside `owner`: kernels ask for it too often to look for it each time.
    start: *mut T,
    len: usize,
    #[allow(dead_code)]
    owner: Owner<T>,
}

// SAFETY: it is an exclusive owner of plain numbers.
unsafe impl<T: Send> Send for Aligned<T> {}
// SAFETY: as above; through a shared borrow they are only read.
unsafe impl<T: Sync> Sync for Aligned<T> {}

#[derive(Debug)]
#[allow(dead_code)]
enum Owner<T> {
    Heap(Vec<T>),
    Map(MmapMut),
}

impl<T: Pod> Aligned<T> {
    /// Elements that reaching the next line may skip.
    const SLACK: usize = LINE / size_of::<T>();

    /// For buffers whose size is the program's own choice: stops the process where memory is out, as `vec!` does.
    pub fn new(len: usize) -> Self {
        Self::over(vec![T::zeroed(); len + Self::SLACK], len)
    }

    /// `None` if the system does not give that much memory. What is large is a mapping of its own, whose pages go back to the
    /// system when it is dropped; an allocator may keep them for itself, and on a phone they count against the process.
    pub fn zeroed(len: usize) -> Option<Self> {
        let bytes = len.checked_mul(size_of::<T>())?;
        if bytes >= MAPPED {
            let mut map = MmapMut::map_anon(bytes).ok()?;
            return Some(Self { start: map.as_mut_ptr().cast(), len, owner: Owner::Map(map) });
        }
        Some(Self::over(bytemuck::allocation::try_zeroed_vec(len + Self::SLACK).ok()?, len))
    }

    /// As [`zeroed`](Self::zeroed), in huge pages where the system has them (Linux), which come whole with the first touch.
    pub fn huge(len: usize) -> Option<Self> {
        let aligned = Self::zeroed(len)?;
        #[cfg(target_os = "linux")]
        if let Owner::Map(map) = &aligned.owner {
            // A refused hint changes nothing but speed.
            let _ = map.advise(memmap2::Advice::HugePage);
        }
        Some(aligned)
    }

    /// Makes it `len` long unless it is longer, with zeros at its end; as [`new`](Self::new).
    pub fn grow(&mut self, len: usize) {
        if self.len < len {
            let mut grown = Self::new(len);
            grown[..self.len].copy_from_slice(self);
            *self = grown;
        }
    }

    fn over(mut data: Vec<T>, len: usize) -> Self {
        // Where `align_offset` cannot tell, any place will do.
        let start = data.as_ptr().align_offset(LINE).min(Self::SLACK);
        Self { start: data[start..start + len].as_mut_ptr(), len, owner: Owner::Heap(data) }
    }
}

impl<T: Pod> Default for Aligned<T> {
    fn default() -> Self {
        Self::new(0)
    }
}

impl<T: Pod> Deref for Aligned<T> {
    type Target = [T];

    #[inline]
    fn deref(&self) -> &[T] {
        // SAFETY: `len` elements from `start` on lie in the owner, which neither moves nor resizes what it owns.
        unsafe { std::slice::from_raw_parts(self.start, self.len) }
    }
}

impl<T: Pod> DerefMut for Aligned<T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as for `deref`, and exclusive through the borrow.
        unsafe { std::slice::from_raw_parts_mut(self.start, self.len) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_kinds_of_memory_are_zero_and_aligned() {
        for len in [0, 1, 1000, MAPPED / 4 - 1, MAPPED / 4, 100_003] {
            for mut aligned in [Aligned::zeroed(len).unwrap(), Aligned::huge(len).unwrap(), Aligned::new(len)] {
                assert_eq!((aligned.len(), aligned.as_ptr() as usize % LINE), (len, 0));
                assert!(aligned.iter().all(|value| *value == 0.0));
                aligned.fill(1.0);
                assert_eq!(aligned.iter().sum::<f32>(), len as f32);
            }
        }
        let mut grown = Aligned::<f32>::default();
        grown.grow(3);
        grown.fill(2.0);
        grown.grow(2);
        grown.grow(20);
        assert_eq!((&grown[..3], &grown[3..], grown.as_ptr() as usize % LINE), (&[2.0; 3][..], &[0.0; 17][..], 0));
        assert!(Aligned::<f32>::zeroed(usize::MAX).is_none() && Aligned::<i8>::zeroed(usize::MAX / 8).is_none());
    }
}
