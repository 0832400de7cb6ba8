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
    fn store_low_halves(self, to: &mut [i16; 16], start: usize) {
        let to = &mut to[start..start + 4];
        // SAFETY: as in `splat`; the slice has as many elements.
        unsafe { vst1_s16(to.as_mut_ptr(), vmovn_s32(vreinterpretq_s32_f32(self.0))) }
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
    #[inline(always)]
    fn max(self, b: Self) -> Self {
        // SAFETY: as in `splat`.
        Self(unsafe { vbslq_f32(vcgtq_f32(self.0, b.0), self.0, b.0) })
    }
    #[inline(always)]
    fn min(self, b: Self) -> Self {
        // SAFETY: as in `splat`.
        Self(unsafe { vbslq_f32(vcltq_f32(self.0, b.0), self.0, b.0) })
    }
    #[inline(always)]
    fn power_of_two(self) -> Self {
        // SAFETY: as in `splat`.
        Self(unsafe {
            let exponents = vaddq_u32(vreinterpretq_u32_f32(self.0), vdupq_n_u32(127));
            vreinterpretq_f32_u32(vshlq_n_u32::<23>(exponents))
        })
    }
    #[inline(always)]
    fn total(self) -> f32 {
        // SAFETY: as in `splat`.
        unsafe { vpadds_f32(vadd_f32(vget_low_f32(self.0), vget_high_f32(self.0))) }
    }
    #[inline(always)]
    fn largest(self) -> f32 {
        // SAFETY: as in `splat`.
        let halves = self.max(Self(unsafe { vextq_f32::<2>(self.0, self.0) }));
        // SAFETY: as in `splat`.
        let one = halves.max(Self(unsafe { vextq_f32::<1>(halves.0, halves.0) }));
        // SAFETY: as in `splat`.
        unsafe { vgetq_lane_f32::<0>(one.0) }
    }
}
