//! NEON, which every AArch64 CPU has.

use std::arch::aarch64::*;

use super::Vector;

#[derive(Clone, Copy)]
pub(super) struct Neon(float32x4_t);

impl Vector for Neon {
    const WIDTH: usize = 4;

    #[inline(always)]
    fn splat(x: f32) -> Self {
        // SAFETY: NEON belongs to the architecture; so in all of them.
        Self(unsafe { vdupq_n_f32(x) })
    }
    #[inline(always)]
    fn load(from: &[f32; 16], start: usize) -> Self {
        let from = &from[start..start + 4];
        // SAFETY: as above; the slice has as many elements.
        Self(unsafe { vld1q_f32(from.as_ptr()) })
    }
    #[inline(always)]
    fn store(self, to: &mut [f32; 16], start: usize) {
        let to = &mut to[start..start + 4];
        // SAFETY: as above; the slice has as many elements.
        unsafe { vst1q_f32(to.as_mut_ptr(), self.0) }
    }
    #[inline(always)]
    fn add(self, b: Self) -> Self {
        // SAFETY: as in `splat`.
        Self(unsafe { vaddq_f32(self.0, b.0) })
    }
    #[inline(always)]
    fn sub(self, b: Self) -> Self {
        // SAFETY: as in `splat`.
        Self(unsafe { vsubq_f32(self.0, b.0) })
    }
    #[inline(always)]
    fn mul(self, b: Self) -> Self {
        // SAFETY: as in `splat`.
        Self(unsafe { vmulq_f32(self.0, b.0) })
    }
    #[inline(always)]
    fn mul_add(self, b: Self, c: Self) -> Self {
        // SAFETY: as in `splat`.
        Self(unsafe { vfmaq_f32(c.0, self.0, b.0) })
    }
    #[inline(always)]
    fn mul_sub(self, b: Self, c: Self) -> Self {
        // SAFETY: as in `splat`.
        Self(unsafe { vfmaq_f32(vnegq_f32(c.0), self.0, b.0) })
    }
    #[inline(always)]
    fn neg_mul_add(self, b: Self, c: Self) -> Self {
        // SAFETY: as in `splat`.
        Self(unsafe { vfmsq_f32(c.0, self.0, b.0) })
    }
}
