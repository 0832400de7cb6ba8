//! Blocks decoded to panels of f32.

use std::arch::x86_64::*;

use super::gemm::{Repack, Words};
use crate::kernels::formats::{Format, GROUP};
use crate::kernels::gemm::PANEL;

/// Lanes of a vector.
const LANES: usize = 8;
/// Rows that are asked for before they are needed.
const AHEAD: usize = 12;
/// Bytes of a cache line.
const LINE: usize = 64;

/// See [`DecodeFn`](crate::kernels::transposed::DecodeFn).
#[target_feature(enable = "avx2,fma,f16c")]
pub unsafe fn decode<F: Format + Repack<Unit = Words>>(
    data: &[u8],
    row_bytes: usize,
    (start, cols): (usize, usize),
    depth: usize,
    out: &mut [f32],
) {
    const { assert!(GROUP == PANEL) };
    for (k, row) in data.chunks_exact(row_bytes).enumerate() {
        let blocks = &row[start / F::LEN * F::BYTES..][..cols / F::LEN * F::BYTES];
        // Rows lie too far apart for the hardware to foresee. Prefetching reads nothing, wherever the address is.
        for line in (0..blocks.len()).step_by(LINE) {
            let ahead = blocks.as_ptr().wrapping_add(AHEAD * row_bytes + line);
            // SAFETY: prefetching reads nothing, wherever the address is. Newer compilers need not be told.
            #[allow(unused_unsafe)]
            unsafe {
                _mm_prefetch::<_MM_HINT_T0>(ahead.cast());
            }
        }
        for (b, block) in blocks.chunks_exact(F::BYTES).enumerate() {
            // SAFETY: the chunk is a whole block.
            let unpacked = unsafe { F::block(block.as_ptr()) };
            for (group, words) in unpacked.lanes.into_iter().enumerate().take(F::LEN / GROUP) {
                let (scale, offset) = (_mm256_set1_ps(unpacked.scales[group]), _mm256_set1_ps(unpacked.offsets[group]));
                let at = ((b * (F::LEN / GROUP) + group) * depth + k) * PANEL;
                let out = &mut out[at..at + PANEL];
                let halves = [_mm256_castsi256_si128(words), _mm256_extracti128_si256::<1>(words)];
                for (half, words) in halves.into_iter().enumerate() {
                    let values = _mm256_fmadd_ps(_mm256_cvtepi32_ps(_mm256_cvtepi16_epi32(words)), scale, offset);
                    // SAFETY: the slice has as many elements as two vectors.
                    unsafe { _mm256_storeu_ps(out.as_mut_ptr().add(half * LANES), values) };
                }
            }
        }
    }
}
