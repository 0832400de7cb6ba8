//! Keys and values as rows of panels of 16 lanes, whatever they are stored as.

use half::f16;

use super::lanes::Lanes;
use super::panels::{BLOCK, CacheFormat, Keys, Q8_GROUP, Values};

/// What is done with a [`Source`] whose kind the cache's format decides.
pub(super) trait Visitor {
    /// Does it.
    fn visit<S: Source>(self, source: S);
}

impl Keys<'_> {
    /// Rows are the elements of a head, panels the records.
    pub(super) fn visit(&self, visitor: impl Visitor) {
        let (base, dim) = (self.words.as_ptr(), self.dim);
        match self.format {
            CacheFormat::F32 => {
                visitor.visit(Plain { base, record: dim, next_record: 0, row: BLOCK, panel: self.stride });
            }
            CacheFormat::F16 => {
                let base = base.cast::<f16>();
                visitor.visit(Plain { base, record: dim, next_record: 0, row: BLOCK, panel: 2 * self.stride });
            }
            CacheFormat::Q8 => visitor.visit(Q8Keys { base: base.cast(), dim, panel: 4 * self.stride }),
        }
    }
}

impl Values<'_> {
    /// Rows are positions, panels 16 elements of a head each.
    pub(super) fn visit(&self, visitor: impl Visitor) {
        let (base, dim) = (self.words.as_ptr(), self.dim);
        match self.format {
            CacheFormat::F32 => {
                visitor.visit(Plain { base, record: BLOCK, next_record: self.stride, row: dim, panel: BLOCK });
            }
            CacheFormat::F16 => {
                let base = base.cast::<f16>();
                visitor.visit(Plain { base, record: BLOCK, next_record: 2 * self.stride, row: dim, panel: BLOCK });
            }
            CacheFormat::Q8 => visitor.visit(Q8Values { base: base.cast(), dim, next_record: 4 * self.stride }),
        }
    }
}

/// B: rows of panels of 16 lanes.
///
/// # Safety
/// Of every unsafe function: row and panel lie in B, and the CPU has the lanes' instruction set.
pub(super) trait Source: Copy {
    /// Consecutive rows, from a multiple of this on, that lie at equal distances and share a scale.
    fn run_length(self) -> usize;
    /// The scale of a run of rows.
    unsafe fn scale<L: Lanes>(self, row: usize, panel: usize) -> L;
    unsafe fn load<L: Lanes>(self, row: usize, panel: usize, scale: L) -> L;
    /// Where a row of a panel is.
    fn address(self, row: usize, panel: usize) -> *const u8;
}

/// Numbers as they are.
trait Element: Copy {
    unsafe fn load<L: Lanes>(at: *const Self) -> L;
}

impl Element for f32 {
    #[inline(always)]
    unsafe fn load<L: Lanes>(at: *const Self) -> L {
        // SAFETY: the caller's promise.
        unsafe { L::load(at) }
    }
}

impl Element for f16 {
    #[inline(always)]
    unsafe fn load<L: Lanes>(at: *const Self) -> L {
        // SAFETY: the caller's promise.
        unsafe { L::load_f16(at) }
    }
}

/// Keys or values without scales. Distances are in elements: records of `record` rows lie `next_record` apart.
#[derive(Clone, Copy)]
struct Plain<E> {
    base: *const E,
    record: usize,
    next_record: usize,
    row: usize,
    panel: usize,
}

impl<E: Element> Source for Plain<E> {
    #[inline(always)]
    fn run_length(self) -> usize {
        self.record
    }
    #[inline(always)]
    unsafe fn scale<L: Lanes>(self, _: usize, _: usize) -> L {
        // SAFETY: the caller's promise.
        unsafe { L::splat(1.0) }
    }
    #[inline(always)]
    unsafe fn load<L: Lanes>(self, row: usize, panel: usize, _: L) -> L {
        // SAFETY: the row and the panel lie in B.
        unsafe { E::load(self.address(row, panel).cast()) }
    }
    #[inline(always)]
    fn address(self, row: usize, panel: usize) -> *const u8 {
        let at = row / self.record * self.next_record + row % self.record * self.row + panel * self.panel;
        self.base.wrapping_add(at).cast()
    }
}

/// Keys in bytes: a panel is a record, its scales one a group of rows and lane. Distances are in bytes.
#[derive(Clone, Copy)]
struct Q8Keys {
    base: *const i8,
    dim: usize,
    panel: usize,
}

impl Source for Q8Keys {
    #[inline(always)]
    fn run_length(self) -> usize {
        Q8_GROUP
    }
    #[inline(always)]
    unsafe fn scale<L: Lanes>(self, row: usize, panel: usize) -> L {
        let at = panel * self.panel + self.dim * BLOCK + row / Q8_GROUP * BLOCK * 2;
        // SAFETY: the scales of the record follow its bytes.
        unsafe { L::load_f16(self.base.add(at).cast()) }
    }
    #[inline(always)]
    unsafe fn load<L: Lanes>(self, row: usize, panel: usize, scale: L) -> L {
        // SAFETY: the row and the panel lie in B.
        unsafe { L::load_i8(self.address(row, panel).cast()).mul(scale) }
    }
    #[inline(always)]
    fn address(self, row: usize, panel: usize) -> *const u8 {
        self.base.wrapping_add(panel * self.panel + row * BLOCK).cast()
    }
}

/// Values in bytes: the scales one a row and two panels. Distances are in bytes.
#[derive(Clone, Copy)]
struct Q8Values {
    base: *const i8,
    dim: usize,
    next_record: usize,
}

impl Source for Q8Values {
    #[inline(always)]
    fn run_length(self) -> usize {
        1
    }
    #[inline(always)]
    unsafe fn scale<L: Lanes>(self, row: usize, panel: usize) -> L {
        let group = row % BLOCK * (self.dim / Q8_GROUP) + panel * BLOCK / Q8_GROUP;
        let at = row / BLOCK * self.next_record + self.dim * BLOCK + group * 2;
        // SAFETY: the scales of the record follow its bytes.
        unsafe { L::splat_f16(self.base.add(at).cast()) }
    }
    #[inline(always)]
    unsafe fn load<L: Lanes>(self, row: usize, panel: usize, scale: L) -> L {
        // SAFETY: the row and the panel lie in B.
        unsafe { L::load_i8(self.address(row, panel).cast()).mul(scale) }
    }
    #[inline(always)]
    fn address(self, row: usize, panel: usize) -> *const u8 {
        self.base.wrapping_add(row / BLOCK * self.next_record + row % BLOCK * self.dim + panel * BLOCK).cast()
    }
}
