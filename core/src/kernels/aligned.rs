//! Zeroed f32 storage that starts on a cache line.

use std::ops::{Deref, DerefMut};

/// Bytes of a cache line, and of the widest register.
const LINE: usize = 64;
/// Elements that reaching the next line may skip.
const SLACK: usize = LINE / size_of::<f32>();

/// A slice of f32 whose address is a multiple of 64, so that no register load of it straddles two cache lines.
///
/// The memory is zeroed by the system, page by page when first touched; asking the allocator for the alignment instead would
/// have it write the zeros.
#[derive(Debug)]
pub struct Aligned {
    data: Vec<f32>,
    start: usize,
    len: usize,
}

impl Aligned {
    /// For buffers whose size is the program's own choice: stops the process where memory is out, as `vec!` does.
    pub fn new(len: usize) -> Self {
        Self::over(vec![0.0; len + SLACK], len)
    }

    /// `None` if the system does not give that much memory.
    pub fn zeroed(len: usize) -> Option<Self> {
        let with_slack = len.checked_add(SLACK)?;
        // Asked first, because the call below takes a size past the address space for a mistake of its caller.
        std::alloc::Layout::array::<f32>(with_slack).ok()?;
        let data: Vec<f32> = bytemuck::allocation::try_zeroed_vec(with_slack).ok()?;
        Some(Self::over(data, len))
    }

    fn over(data: Vec<f32>, len: usize) -> Self {
        // Where `align_offset` cannot tell, any place will do.
        let start = data.as_ptr().align_offset(LINE).min(SLACK);
        Self { data, start, len }
    }
}

impl Deref for Aligned {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &self.data[self.start..self.start + self.len]
    }
}

impl DerefMut for Aligned {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.data[self.start..self.start + self.len]
    }
}
