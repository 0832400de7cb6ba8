//! The product of a few rows of pairs with panels of them.

use std::ops::Range;

use super::super::lanes::{Lanes, Sums};
use super::super::panels::BLOCK;
use super::super::product::{Tiled, compiled};
#[cfg(target_arch = "x86_64")]
use super::lanes::{Avx2Pairs, Avx512Pairs};
use super::lanes::{PairSet, Pairs, PortablePairs};

/// out\[m, panels\] = keep\[m\] · out\[m, panels\] + a_steps\[m\] · b_steps\[panels\] · Σ over `depth` of a\[m, k\] · b\[k, panels\], in pairs; without `keep`
/// nothing is kept, without `b_steps` these are 1. The pointers cover what these index, `out` exclusively.
pub(super) struct PairProduct {
    pub a: *const i32,
    pub a_stride: usize,
    pub a_steps: *const f32,
    pub a_steps_stride: usize,
    pub rows: usize,
    pub b: *const i32,
    /// From a panel to the next.
    pub b_panel: usize,
    pub b_steps: Option<*const f32>,
    pub depth: Range<usize>,
    pub panels: Range<usize>,
    pub out: *mut f32,
    pub out_stride: usize,
    pub keep: Option<*const f32>,
}

impl PairProduct {
    /// Computes it; the set is one that [`PairSet::of`] found, or a narrower one.
    ///
    /// # Safety
    /// The pointers are as promised.
    pub(super) unsafe fn run(&self, set: PairSet) {
        // SAFETY: the CPU has the instruction set; the rest is the caller's promise.
        unsafe {
            match set {
                PairSet::Portable => portable::product(self),
                #[cfg(target_arch = "x86_64")]
                PairSet::Avx2 => avx2::product(self),
                #[cfg(target_arch = "x86_64")]
                PairSet::Avx512 => avx512::product(self),
            }
        }
    }
}

impl<W: Pairs> Tiled<W> for PairProduct {
    fn rows(&self) -> usize {
        self.rows
    }

    fn panels(&self) -> Range<usize> {
        self.panels.clone()
    }

    #[inline(always)]
    unsafe fn block<const M: usize, const P: usize>(&self, row: usize, panel: usize) {
        // SAFETY: the caller's promise, and the product's about its pointers.
        unsafe {
            let (a, b) = (self.a.add(row * self.a_stride), self.b.add(panel * self.b_panel));
            let mut sums = [[W::splat(0); P]; M];
            for k in self.depth.clone() {
                let mut pairs = [W::splat(0); P];
                for p in 0..P {
                    pairs[p] = W::load(b.add(p * self.b_panel + k * BLOCK));
                }
                for m in 0..M {
                    let x = W::splat(*a.add(m * self.a_stride + k));
                    for p in 0..P {
                        sums[m][p] = sums[m][p].add_products(x, pairs[p]);
                    }
                }
            }
            for m in 0..M {
                let step = W::Floats::splat(*self.a_steps.add((row + m) * self.a_steps_stride));
                for p in 0..P {
                    let out = self.out.add((row + m) * self.out_stride + (panel + p) * BLOCK);
                    let kept = match self.keep {
                        Some(keep) => W::Floats::load(out).mul(W::Floats::splat(*keep.add(row + m))),
                        None => W::Floats::splat(0.0),
                    };
                    let step = match self.b_steps {
                        Some(steps) => W::Floats::load(steps.add((panel + p) * BLOCK)).mul(step),
                        None => step,
                    };
                    sums[m][p].floats().mul_add(step, kept).store(out);
                }
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
compiled!(avx512, Avx512Pairs, 4, "avx512f,avx512bw,avx512vnni,avx2,fma,f16c");
compiled!(portable, PortablePairs, 1);
#[cfg(target_arch = "x86_64")]
compiled!(avx2, Avx2Pairs, 1, "avx2,fma,f16c");
