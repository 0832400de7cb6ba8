//! The int8 instructions, and what becomes of their sums. Those beyond the baseline are inline assembly because their intrinsics are not stable.

use std::arch::aarch64::*;
use std::arch::asm;

use crate::kernels::activations::COARSE;

/// Adds the products of 16 lanes, by fours.
#[inline]
#[target_feature(enable = "neon,dotprod")]
pub fn sdot(mut sums: int32x4_t, a: int8x16_t, b: int8x16_t) -> int32x4_t {
    // SAFETY: reads and writes the named registers only; the instruction is part of the enabled features.
    unsafe {
        asm!(
            "sdot {sums:v}.4s, {a:v}.16b, {b:v}.16b",
            sums = inout(vreg) sums,
            a = in(vreg) a,
            b = in(vreg) b,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    sums
}

/// Adds the products of each four lanes of `a` with four `C` of `b`.
#[inline]
#[target_feature(enable = "neon,dotprod")]
pub fn sdot_lane<const C: usize>(mut sums: int32x4_t, a: int8x16_t, b: int8x16_t) -> int32x4_t {
    const { assert!(C < 4) };
    // SAFETY: as in `sdot`.
    unsafe {
        asm!(
            "sdot {sums:v}.4s, {a:v}.16b, {b:v}.4b[{c}]",
            sums = inout(vreg) sums,
            a = in(vreg) a,
            b = in(vreg) b,
            c = const C,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    sums
}

/// Adds to `sums[2i + j]` the products of lanes `8i..8i + 8` of `a` with lanes `8j..8j + 8` of `b`.
#[inline]
#[target_feature(enable = "neon,i8mm")]
pub fn smmla(mut sums: int32x4_t, a: int8x16_t, b: int8x16_t) -> int32x4_t {
    // SAFETY: as in `sdot`.
    unsafe {
        asm!(
            "smmla {sums:v}.4s, {a:v}.16b, {b:v}.16b",
            sums = inout(vreg) sums,
            a = in(vreg) a,
            b = in(vreg) b,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    sums
}

/// Adds the products of 16 lanes to four sums, by way of 16 bits, which two products of at most 128 · 127 fit.
#[inline]
#[target_feature(enable = "neon")]
pub fn widening_dot(sums: int32x4_t, a: int8x16_t, b: int8x16_t) -> int32x4_t {
    let low = vmull_s8(vget_low_s8(a), vget_low_s8(b));
    vpadalq_s16(sums, vmlal_high_s8(low, a, b))
}

/// What sums of the coarse plane are in fine steps.
#[inline]
#[target_feature(enable = "neon")]
pub fn in_fine_steps(sums: int32x4_t) -> int32x4_t {
    vshlq_n_s32::<{ COARSE.trailing_zeros() as i32 }>(sums)
}
