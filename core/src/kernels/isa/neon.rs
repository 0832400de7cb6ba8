//! AArch64 with NEON; `sdot` does the int8 products where the CPU has it (ARMv8.2 dot product).
//!
//! Blocks are unpacked by the portable code of each format, which the compiler vectorises for this baseline, into 256 lanes on
//! the stack; the products are written by hand. `sdot` is inline assembly because its intrinsic is not stable.

use std::arch::aarch64::*;
use std::arch::{asm, is_aarch64_feature_detected};

use super::{Batched, Form, Kernel, Kernels};
use crate::kernels::activations::{COARSE, Row, quantise_row};
use crate::kernels::formats::{Bf16, F16, F32, Format, GROUP, Lanes, Plain, by_type};

/// The kernels for this CPU: with `sdot` or without.
pub(super) fn kernels() -> Kernels {
    Kernels {
        kernel: if is_aarch64_feature_detected!("dotprod") {
            |ty| by_type!(ty, with_sdot, plain)()
        } else {
            |ty| by_type!(ty, with_widening, plain)()
        },
        quantise: quantise_row,
    }
}

fn with_sdot<F: Format>() -> Kernel {
    Kernel { form: Form::Int8, one: sdot_panel::<F, 1>, batch: Batched::Four(sdot_panel::<F, 4>) }
}

fn with_widening<F: Format>() -> Kernel {
    Kernel { form: Form::Int8, one: widening_panel::<F, 1>, batch: Batched::Four(widening_panel::<F, 4>) }
}

fn plain<P: Load>() -> Kernel {
    Kernel { form: Form::F32, one: plain_panel::<P, 1>, batch: Batched::Four(plain_panel::<P, 4>) }
}

/// The panel function `$name` over the int8 dot product `$dot`, compiled for `$features`.
macro_rules! panel {
    ($name:ident, $features:literal, $dot:ident) => {
        #[target_feature(enable = $features)]
        unsafe fn $name<F: Format, const T: usize>(
            data: &[u8],
            row_bytes: usize,
            x: &[Row<'_>; T],
            out: &mut [[f32; T]],
        ) {
            let mut lanes = Lanes::new();
            for (row, out) in data.chunks_exact(row_bytes).zip(out) {
                let mut sums = [vdupq_n_f32(0.0); T];
                let mut offsets = [0.0; T];
                for (b, block) in row.chunks_exact(F::BYTES).enumerate() {
                    F::unpack(block, &mut lanes);
                    for g in 0..F::LEN / GROUP {
                        let at = b * (F::LEN / GROUP) + g;
                        // SAFETY: group `g` is one of the 16 of `lanes`.
                        let w = unsafe { vld1q_s8(lanes.q.as_ptr().add(g * GROUP)) };
                        for t in 0..T {
                            // SAFETY: by the caller's promise the activations have group `at`.
                            let (coarse, fine, scale, sum) = unsafe {
                                (
                                    vld1q_s8(x[t].lanes.as_ptr().add(at * GROUP)),
                                    vld1q_s8(x[t].fine.as_ptr().add(at * GROUP)),
                                    *x[t].scales.get_unchecked(at),
                                    *x[t].sums.get_unchecked(at),
                                )
                            };
                            let dots = vshlq_n_s32::<{ COARSE.trailing_zeros() as i32 }>($dot(w, coarse));
                            let dots = vcvtq_f32_s32(vaddq_s32(dots, $dot(w, fine)));
                            sums[t] = vfmaq_n_f32(sums[t], dots, lanes.scale[g] * scale);
                            offsets[t] += lanes.offset[g] * sum;
                        }
                    }
                }
                *out = std::array::from_fn(|t| vaddvq_f32(sums[t]) + offsets[t]);
            }
        }
    };
}

panel!(sdot_panel, "neon,dotprod", sdot);
panel!(widening_panel, "neon", widening_dot);

/// Products of 16 lanes, summed by fours.
#[inline]
#[target_feature(enable = "neon,dotprod")]
fn sdot(a: int8x16_t, b: int8x16_t) -> int32x4_t {
    let mut sums = vdupq_n_s32(0);
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

/// Products of 16 lanes in 16 bits, of which two at most 128 · 127 are added, summed to four.
#[inline]
#[target_feature(enable = "neon")]
fn widening_dot(a: int8x16_t, b: int8x16_t) -> int32x4_t {
    let low = vmull_s8(vget_low_s8(a), vget_low_s8(b));
    let high = vmull_high_s8(a, b);
    vaddq_s32(vpaddlq_s16(low), vpaddlq_s16(high))
}

/// How an unquantised format's elements become f32 vectors.
trait Load: Plain {
    /// Four elements at `p`.
    ///
    /// # Safety
    /// The CPU runs the tier and four elements may be read.
    unsafe fn load(p: *const u8) -> float32x4_t;
}

impl Load for F32 {
    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn load(p: *const u8) -> float32x4_t {
        // SAFETY: as the caller promises.
        unsafe { vreinterpretq_f32_u8(vld1q_u8(p)) }
    }
}

impl Load for F16 {
    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn load(p: *const u8) -> float32x4_t {
        // SAFETY: as the caller promises.
        let halves = unsafe { vld1_u8(p) };
        let wide: float32x4_t;
        // SAFETY: reads and writes the named registers only; the instruction is part of every AArch64 CPU with NEON.
        unsafe {
            asm!(
                "fcvtl {wide:v}.4s, {halves:v}.4h",
                wide = lateout(vreg) wide,
                halves = in(vreg) halves,
                options(pure, nomem, nostack, preserves_flags),
            );
        }
        wide
    }
}

impl Load for Bf16 {
    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn load(p: *const u8) -> float32x4_t {
        // SAFETY: as the caller promises.
        let upper = vreinterpret_u16_u8(unsafe { vld1_u8(p) });
        vreinterpretq_f32_u32(vshll_n_u16::<16>(upper))
    }
}

#[target_feature(enable = "neon")]
unsafe fn plain_panel<P: Load, const T: usize>(data: &[u8], row_bytes: usize, x: &[Row<'_>; T], out: &mut [[f32; T]]) {
    let whole = row_bytes / P::BYTES / 4 * 4;
    for (row, out) in data.chunks_exact(row_bytes).zip(out) {
        let mut sums = [[vdupq_n_f32(0.0); 2]; T];
        for at in (0..whole).step_by(4) {
            // SAFETY: both operands have elements `at..at + 4` by the caller's promise.
            unsafe {
                let w = P::load(row.as_ptr().add(at * P::BYTES));
                for t in 0..T {
                    let x = vld1q_f32(x[t].values.as_ptr().add(at));
                    let sum = &mut sums[t][at / 4 % 2];
                    *sum = vfmaq_f32(*sum, w, x);
                }
            }
        }
        let rest = row[whole * P::BYTES..].chunks_exact(P::BYTES);
        for t in 0..T {
            let products = rest.clone().zip(&x[t].values[whole..]);
            out[t] =
                vaddvq_f32(vaddq_f32(sums[t][0], sums[t][1])) + products.map(|(w, x)| P::decode(w) * x).sum::<f32>();
        }
    }
}
