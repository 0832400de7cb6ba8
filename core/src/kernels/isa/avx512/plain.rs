//! Products with unquantised weights.

use std::arch::x86_64::*;

use crate::kernels::activations::Row;
use crate::kernels::formats::{Bf16, F16, F32, Plain};

/// How an unquantised format's elements become f32 vectors.
pub trait Load: Plain {
    /// The first elements at `p` that `keep` selects, zero elsewhere.
    ///
    /// # Safety
    /// The CPU runs the tier and the selected elements may be read.
    unsafe fn load(p: *const u8, keep: __mmask16) -> __m512;
}

impl Load for F32 {
    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn load(p: *const u8, keep: __mmask16) -> __m512 {
        // SAFETY: as the caller promises.
        unsafe { _mm512_maskz_loadu_ps(keep, p.cast()) }
    }
}

impl Load for F16 {
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    unsafe fn load(p: *const u8, keep: __mmask16) -> __m512 {
        // SAFETY: as the caller promises.
        _mm512_cvtph_ps(unsafe { _mm256_maskz_loadu_epi16(keep, p.cast()) })
    }
}

impl Load for Bf16 {
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    unsafe fn load(p: *const u8, keep: __mmask16) -> __m512 {
        // SAFETY: as the caller promises.
        let upper = unsafe { _mm256_maskz_loadu_epi16(keep, p.cast()) };
        _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(upper), 16))
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
pub unsafe fn plain_panel<P: Load, const T: usize>(
    data: &[u8],
    row_bytes: usize,
    x: &[Row<'_>; T],
    out: &mut [[f32; T]],
) {
    let cols = row_bytes / P::BYTES;
    for (row, out) in data.chunks_exact(row_bytes).zip(out) {
        let mut sums: [[__m512; 2]; T] = [[_mm512_setzero_ps(); 2]; T];
        let mut add = |at: usize, keep: __mmask16| {
            // SAFETY: `keep` selects elements below `cols` only, and both operands have as many by the caller's promise.
            unsafe {
                let w = P::load(row.as_ptr().add(at * P::BYTES), keep);
                for t in 0..T {
                    let x = _mm512_maskz_loadu_ps(keep, x[t].values.as_ptr().add(at));
                    let sum = &mut sums[t][at / 16 % 2];
                    *sum = _mm512_fmadd_ps(w, x, *sum);
                }
            }
        };
        let whole = cols / 16 * 16;
        for at in (0..whole).step_by(16) {
            add(at, !0);
        }
        if whole < cols {
            add(whole, !(!0 << (cols - whole)));
        }
        *out = std::array::from_fn(|t| _mm512_reduce_add_ps(_mm512_add_ps(sums[t][0], sums[t][1])));
    }
}
