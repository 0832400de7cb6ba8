//! Products with unquantised weights.

use std::arch::aarch64::*;

use super::half::widen;
use crate::kernels::activations::Row;
use crate::kernels::formats::{Bf16, F16, F32, Plain};

/// How an unquantised format's elements become f32 vectors.
pub trait Load: Plain {
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
        widen(vreinterpret_u16_u8(halves))
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

/// See [`PanelFn`](super::super::PanelFn).
#[target_feature(enable = "neon")]
pub unsafe fn plain_panel<P: Load, const T: usize>(
    data: &[u8],
    row_bytes: usize,
    x: &[Row<'_>; T],
    out: &mut [[f32; T]],
) {
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
