//! Scales and offsets of a few runs at a time, and what is added up with them.
//!
//! Each vector has one lane a run: of formats whose spans are whole runs of 32 columns there is one vector, of those with spans of 16 there are two,
//! of first and of second halves of runs.

use std::arch::aarch64::*;

use super::half::{half_word, widen, word};
use super::unpack::{RUN, Scales, Unpack};
use crate::kernels::activations::Row;

/// Runs taken together.
pub const STEP: usize = 4;

/// Scales and offsets of the weights of a step.
pub struct Spans {
    scale: [float32x4_t; 2],
    offset: [float32x4_t; 2],
}

impl Spans {
    /// Zeros.
    #[inline]
    #[target_feature(enable = "neon")]
    fn new() -> Self {
        Self { scale: [vdupq_n_f32(0.0); 2], offset: [vdupq_n_f32(0.0); 2] }
    }

    /// Of `N` blocks of one run each, which begin with a scale, and with an offset after it if there are offsets; zero in the lanes of others.
    ///
    /// # Safety
    /// The CPU runs the tier, and as many blocks may be read.
    #[inline]
    #[target_feature(enable = "neon")]
    pub unsafe fn of_blocks<F: Unpack, const N: usize>(p: *const u8) -> Self {
        const { assert!(N <= STEP) };
        let mut spans = Self::new();
        // SAFETY: the caller promises N blocks.
        unsafe {
            let p = |n: usize| p.add(n * F::BYTES);
            if F::OFFSET {
                let both = |n: usize| if n < N { word(p(n)) } else { vdup_n_u32(0) };
                let pairs = [vzip1_u32(both(0), both(1)), vzip1_u32(both(2), both(3))];
                let [ab, cd] = pairs.map(|pair| vreinterpret_u16_u32(pair));
                spans.scale[0] = widen(vuzp1_u16(ab, cd));
                spans.offset[0] = widen(vuzp2_u16(ab, cd));
            } else {
                let scale = |n: usize| if n < N { half_word(p(n)) } else { vdup_n_u16(0) };
                let pairs = [vzip1_u16(scale(0), scale(1)), vzip1_u16(scale(2), scale(3))];
                let [ab, cd] = pairs.map(|pair| vreinterpret_u32_u16(pair));
                spans.scale[0] = widen(vreinterpret_u16_u32(vzip1_u32(ab, cd)));
            }
        }
        spans
    }

    /// Of [`STEP`] runs of a block, from `run` on.
    ///
    /// # Panics
    /// If a block has no more runs.
    #[inline]
    #[target_feature(enable = "neon")]
    pub fn of_runs<F: Unpack>(scales: &Scales, run: usize) -> Self {
        let of = |spans: &[f32]| {
            let spans = &spans[run * RUN / F::SPAN..][..STEP * RUN / F::SPAN];
            // SAFETY: the slice has four spans, or eight where a run has two.
            unsafe {
                let first = vld1q_f32(spans.as_ptr());
                if F::SPAN == RUN { [first; 2] } else { apart(first, vld1q_f32(spans.as_ptr().add(4))) }
            }
        };
        Self { scale: of(&scales.scale), offset: if F::OFFSET { of(&scales.offset) } else { [vdupq_n_f32(0.0); 2] } }
    }
}

/// The same of a row of activations.
pub struct RowSpans {
    /// Both halves of a run have the same.
    scale: float32x4_t,
    /// The sums of spans.
    sums: [float32x4_t; 2],
}

impl RowSpans {
    /// Of `N` runs, from run `at` on; zero in the lanes of others.
    ///
    /// # Safety
    /// The CPU runs the tier, and the row has as many runs.
    #[inline]
    #[target_feature(enable = "neon")]
    pub unsafe fn of<F: Unpack, const N: usize>(x: &Row<'_>, at: usize) -> Self {
        let groups = |groups: &[f32]| {
            let (first, zero) = (groups.as_ptr().wrapping_add(2 * at), vdupq_n_f32(0.0));
            // SAFETY: the caller promises N runs of two groups each.
            unsafe {
                match N {
                    STEP => [vld1q_f32(first), vld1q_f32(first.add(4))],
                    2 => [vld1q_f32(first), zero],
                    _ => [vcombine_f32(vld1_f32(first), vget_low_f32(zero)), zero],
                }
            }
        };
        let [first, second] = groups(x.scales);
        let scale = vuzp1q_f32(first, second);
        let [first, second] = if F::OFFSET { groups(x.sums) } else { [scale; 2] };
        Self { scale, sums: if F::SPAN == RUN { [vpaddq_f32(first, second); 2] } else { apart(first, second) } }
    }
}

/// What one row's products add up to.
#[derive(Clone, Copy)]
pub struct Sums {
    products: float32x4_t,
    offsets: float32x4_t,
}

impl Sums {
    /// Nothing yet.
    #[inline]
    #[target_feature(enable = "neon")]
    pub fn new() -> Self {
        Self { products: vdupq_n_f32(0.0), offsets: vdupq_n_f32(0.0) }
    }

    /// Adds the products of a step: the integer sums of each run, of each half of one in turn where these have scales of their own.
    #[inline]
    #[target_feature(enable = "neon")]
    pub fn add<F: Unpack>(&mut self, spans: &Spans, row: &RowSpans, dots: [[int32x4_t; STEP]; 2]) {
        for (half, [a, b, c, d]) in dots.into_iter().enumerate().take(RUN / F::SPAN) {
            let dots = vpaddq_s32(vpaddq_s32(a, b), vpaddq_s32(c, d));
            let both = vmulq_f32(spans.scale[half], row.scale);
            self.products = vfmaq_f32(self.products, vcvtq_f32_s32(dots), both);
            if F::OFFSET {
                self.offsets = vfmaq_f32(self.offsets, spans.offset[half], row.sums[half]);
            }
        }
    }

    /// All of it.
    #[inline]
    #[target_feature(enable = "neon")]
    pub fn total(self) -> f32 {
        vaddvq_f32(vaddq_f32(self.products, self.offsets))
    }
}

/// Numbers at even places, and at odd ones.
#[inline]
#[target_feature(enable = "neon")]
fn apart(first: float32x4_t, second: float32x4_t) -> [float32x4_t; 2] {
    [vuzp1q_f32(first, second), vuzp2q_f32(first, second)]
}
