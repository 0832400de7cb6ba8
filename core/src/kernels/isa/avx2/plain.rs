//! Products with unquantised weights.

use std::arch::x86_64::*;

use super::total;
use crate::kernels::activations::Row;
use crate::kernels::formats::{Bf16, F16, F32, Plain};

/// How an unquantised format's elements become f32 vectors.
pub trait Load: Plain {
    /// Eight elements at `p`.
    ///
    /// # Safety
    /// The CPU runs the tier and eight elements may be read.
    unsafe fn load(p: *const u8) -> __m256;
}

impl Load for F32 {
    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn load(p: *const u8) -> __m256 {
        // SAFETY: as the caller promises.
        unsafe { _mm256_loadu_ps(p.cast()) }
    }
}

impl Load for F16 {
    #[inline]
    #[target_feature(enable = "avx2,f16c")]
    unsafe fn load(p: *const u8) -> __m256 {
        // SAFETY: as the caller promises.
        _mm256_cvtph_ps(unsafe { _mm_loadu_si128(p.cast()) })
    }
}

impl Load for Bf16 {
    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn load(p: *const u8) -> __m256 {
        // SAFETY: as the caller promises.
        let upper = _mm256_cvtepu16_epi32(unsafe { _mm_loadu_si128(p.cast()) });
        _mm256_castsi256_ps(_mm256_slli_epi32(upper, 16))
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
pub unsafe fn plain_panel<P: Load, const T: usize>(
    data: &[u8],
    row_bytes: usize,
    x: &[Row<'_>; T],
    out: &mut [[f32; T]],
) {
    let whole = row_bytes / P::BYTES / 8 * 8;
    for (row, out) in data.chunks_exact(row_bytes).zip(out) {
        let mut sums = [[_mm256_setzero_ps(); 2]; T];
        for at in (0..whole).step_by(8) {
            // SAFETY: both operands have elements `at..at + 8` by the caller's promise.
            unsafe {
                let w = P::load(row.as_ptr().add(at * P::BYTES));
                for t in 0..T {
                    let x = _mm256_loadu_ps(x[t].values.as_ptr().add(at));
                    let sum = &mut sums[t][at / 8 % 2];
                    *sum = _mm256_fmadd_ps(w, x, *sum);
                }
            }
        }
        let rest = row[whole * P::BYTES..].chunks_exact(P::BYTES);
        for t in 0..T {
            let products = rest.clone().zip(&x[t].values[whole..]);
            out[t] =
                total(_mm256_add_ps(sums[t][0], sums[t][1])) + products.map(|(w, x)| P::decode(w) * x).sum::<f32>();
        }
    }
}
