//! Products of weight rows, where they lie, with one activation row.

use std::arch::x86_64::*;

use super::gemm::Repack;
use super::unpack::{Halves, Large, Small, four_halves, head, widen};
use super::{RUN, total};
use crate::kernels::activations::{COARSE, Row};
use crate::kernels::formats::{Format, GROUP, MAX_BLOCK};

/// See [`PanelFn`](crate::kernels::isa::PanelFn).
#[target_feature(enable = "avx2,fma,f16c")]
pub unsafe fn panel<F: Dot, const FINE: bool>(data: &[u8], row_bytes: usize, x: &[Row<'_>; 1], out: &mut [[f32; 1]]) {
    for (row, out) in data.chunks_exact(row_bytes).zip(out) {
        // SAFETY: by the caller's promise `row` is whole blocks and the activations have as many columns.
        *out = [unsafe { F::dot::<FINE>(row, &x[0]) }];
    }
}

/// The product of a weight row with an activation row.
pub trait Dot: Format {
    /// How panels are filled for products with the coarse plane alone.
    type Coarse: Repack;

    /// With both planes, or the fine one left out, which is zero.
    ///
    /// # Safety
    /// The CPU runs the tier, `row` is whole blocks, and the activations have at least as many elements.
    unsafe fn dot<const FINE: bool>(row: &[u8], x: &Row<'_>) -> f32;
}

/// Elements of a step: the four blocks whose halves share vectors in the order of [`Split::Fours`](crate::kernels::activations::Split).
const STEP: usize = 4 * RUN;
/// Bytes ahead of the products that weights are asked for.
const AHEAD: usize = 2048;

/// What a coarse step is of those that scales are of.
const fn steps<const FINE: bool>() -> i16 {
    if FINE { COARSE as i16 } else { 1 }
}

/// The product with a row of 32-element blocks of few bits.
///
/// A vector holds the first or the second halves of two blocks, so that each block's integer sums fill one half of a vector:
/// two blocks share the sums, their conversion and a vector of scales. Lanes stay unsigned; what they are centred on is an offset.
///
/// # Safety
/// As [`Dot::dot`].
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub unsafe fn dot_split<F: Halves, const FINE: bool>(row: &[u8], x: &Row<'_>) -> f32 {
    let mut sums = [_mm256_setzero_ps(); 2];
    let mut offsets = _mm256_setzero_ps();
    let blocks = row.len() / F::BYTES;
    let whole = blocks / 4;
    // SAFETY: the row is whole blocks, and the activations have its elements, padded to whole steps, by the caller's promise.
    unsafe {
        for s in 0..whole {
            let p = row.as_ptr().add(4 * s * F::BYTES);
            for line in 0..(4 * F::BYTES).div_ceil(64) {
                _mm_prefetch::<_MM_HINT_T0>(p.wrapping_add(AHEAD + 64 * line).cast());
            }
            let at = s * STEP;
            step::<F, FINE>(p, x, at, at, _mm256_set1_ps(1.0), &mut sums, &mut offsets);
        }
        let rest = blocks % 4;
        if rest > 0 && blocks * RUN >= MAX_BLOCK {
            // A step that ends with the row; the blocks it shares with the one before it count nothing.
            let number = _mm256_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3);
            let keep = _mm256_cmpgt_epi32(number, _mm256_set1_epi32(3 - rest as i32));
            let keep = _mm256_and_ps(_mm256_castsi256_ps(keep), _mm256_set1_ps(1.0));
            let p = row.as_ptr().add((blocks - 4) * F::BYTES);
            let at = (blocks - 4) * RUN;
            step::<F, FINE>(p, x, at, x.split_lanes.len() - STEP, keep, &mut sums, &mut offsets);
        } else if rest > 0 {
            // Rows too short for that are completed with blocks of zeros, whose scales are zero. No block is longer than 24 bytes.
            let mut bytes = [0u8; 4 * 24];
            let rest = &row[4 * whole * F::BYTES..];
            bytes[..rest.len()].copy_from_slice(rest);
            let at = whole * STEP;
            step::<F, FINE>(bytes.as_ptr(), x, at, at, _mm256_set1_ps(1.0), &mut sums, &mut offsets);
        }
    }
    total(_mm256_fmadd_ps(offsets, _mm256_set1_ps(F::OFFSET), _mm256_add_ps(sums[0], sums[1])))
}

/// Adds the products of the four blocks at `p` with the activations from `at` on, which begin at `split_at` in the split planes.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn step<F: Halves, const FINE: bool>(
    p: *const u8,
    x: &Row<'_>,
    at: usize,
    split_at: usize,
    keep: __m256,
    sums: &mut [__m256; 2],
    offsets: &mut __m256,
) {
    // SAFETY: the caller promises four blocks at `p` and 128 activations from `at` and `split_at` on.
    unsafe {
        let (scales, minima) = F::heads(p);
        let scales = _mm256_mul_ps(scales, keep);
        let minima = if F::MINIMA { _mm256_mul_ps(minima, keep) } else { scales };
        *offsets = _mm256_fmadd_ps(minima, _mm256_loadu_ps(x.sums.as_ptr().add(at / GROUP)), *offsets);
        let scales = _mm256_mul_ps(scales, _mm256_loadu_ps(x.scales.as_ptr().add(at / GROUP)));
        // Scales are those of blocks 0, 0, 1, 1 and 2, 2, 3, 3.
        let scales =
            [_mm256_shuffle_ps::<0b00_00_00_00>(scales, scales), _mm256_shuffle_ps::<0b10_10_10_10>(scales, scales)];
        for i in 0..2 {
            let [low, high] = F::halves([p.add(i * F::BYTES), p.add((i + 2) * F::BYTES)]);
            let plane = |plane: &[i8], half: usize| {
                _mm256_loadu_si256(plane.as_ptr().add(split_at + RUN * (2 * half + i)).cast())
            };
            let both = |plane_of: &[i8]| {
                let low = _mm256_maddubs_epi16(low, plane(plane_of, 0));
                _mm256_add_epi16(low, _mm256_maddubs_epi16(high, plane(plane_of, 1)))
            };
            let mut dots = _mm256_madd_epi16(both(x.split_lanes), _mm256_set1_epi16(steps::<FINE>()));
            if FINE {
                let fine = _mm256_madd_epi16(both(x.split_fine), _mm256_set1_epi16(1));
                dots = _mm256_add_epi32(dots, fine);
            }
            sums[i] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(dots), scales[i], sums[i]);
        }
    }
}

/// The product with a row of 32-element blocks of whole bytes, as 16-bit words, which hold both planes.
///
/// # Safety
/// As [`Dot::dot`].
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub unsafe fn dot_words<F: Small, const FINE: bool>(row: &[u8], x: &Row<'_>) -> f32 {
    const { assert!(F::CENTRED) };
    let mut sums = [_mm256_setzero_ps(); 2];
    let blocks = row.len() / F::BYTES;
    // SAFETY: the row is whole blocks, and the activations have its elements by the caller's promise.
    unsafe {
        let dots = |b: usize| {
            let lanes = widen(F::lanes(row.as_ptr().add(b * F::BYTES)));
            let words = |i: usize| _mm256_loadu_si256(x.words.as_ptr().add(b * RUN + 16 * i).cast());
            let both = _mm256_add_epi32(_mm256_madd_epi16(lanes[0], words(0)), _mm256_madd_epi16(lanes[1], words(1)));
            _mm256_cvtepi32_ps(both)
        };
        let scale = |b: usize| x.scales.as_ptr().add(b * (RUN / GROUP));
        for b in (0..blocks / 4 * 4).step_by(4) {
            let p = row.as_ptr().add(b * F::BYTES);
            for line in 0..(4 * F::BYTES).div_ceil(64) {
                _mm_prefetch::<_MM_HINT_T0>(p.wrapping_add(AHEAD + 64 * line).cast());
            }
            let row_scales = _mm_shuffle_ps::<0b10_00_10_00>(_mm_loadu_ps(scale(b)), _mm_loadu_ps(scale(b + 2)));
            let scales = _mm_mul_ps(_mm_cvtph_ps(four_halves(p, F::BYTES)), row_scales);
            let scales = _mm256_set_m128(scales, scales);
            sums[0] = _mm256_fmadd_ps(dots(b), _mm256_shuffle_ps::<0b00_00_00_00>(scales, scales), sums[0]);
            sums[1] = _mm256_fmadd_ps(dots(b + 1), _mm256_shuffle_ps::<0b01_01_01_01>(scales, scales), sums[1]);
            sums[0] = _mm256_fmadd_ps(dots(b + 2), _mm256_shuffle_ps::<0b10_10_10_10>(scales, scales), sums[0]);
            sums[1] = _mm256_fmadd_ps(dots(b + 3), _mm256_shuffle_ps::<0b11_11_11_11>(scales, scales), sums[1]);
        }
        for b in blocks / 4 * 4..blocks {
            let scale = _mm_cvtss_f32(head(row.as_ptr().add(b * F::BYTES))) * scale(b).read();
            sums[0] = _mm256_fmadd_ps(dots(b), _mm256_set1_ps(scale), sums[0]);
        }
    }
    total(_mm256_add_ps(sums[0], sums[1]))
}

/// The product with a row of 256-element blocks.
///
/// # Safety
/// As [`Dot::dot`].
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub unsafe fn dot_large<F: Large, const FINE: bool>(row: &[u8], x: &Row<'_>) -> f32 {
    // Two chains of additions, or their latency would set the pace.
    let mut sums = [_mm256_setzero_ps(); 2];
    for (b, block) in row.chunks_exact(F::BYTES).enumerate() {
        let p = block.as_ptr();
        // SAFETY: `p` is a whole block, and the activations have its elements by the caller's promise.
        unsafe {
            for (half, (scale, offset)) in F::scales(p).into_iter().enumerate() {
                let at = b * F::LEN + half * (F::LEN / 2);
                let scales = _mm256_mul_ps(scale, _mm256_loadu_ps(x.scales.as_ptr().add(at / GROUP)));
                sums[half] = _mm256_fmadd_ps(offset, _mm256_loadu_ps(x.sums.as_ptr().add(at / GROUP)), sums[half]);
                for r in 0..4 {
                    let two = 2 * r as i32;
                    let spread = _mm256_setr_epi32(two, two, two, two, two + 1, two + 1, two + 1, two + 1);
                    let plane = |plane: &[i8]| _mm256_loadu_si256(plane.as_ptr().add(at + r * RUN).cast());
                    let lanes = F::lanes(p, 4 * half + r);
                    let coarse = _mm256_maddubs_epi16(lanes, plane(x.lanes));
                    let mut dots = _mm256_madd_epi16(coarse, _mm256_set1_epi16(steps::<FINE>()));
                    if FINE {
                        let fine = _mm256_maddubs_epi16(lanes, plane(x.fine));
                        dots = _mm256_add_epi32(dots, _mm256_madd_epi16(fine, _mm256_set1_epi16(1)));
                    }
                    let dots = _mm256_cvtepi32_ps(dots);
                    sums[r % 2] = _mm256_fmadd_ps(dots, _mm256_permutevar8x32_ps(scales, spread), sums[r % 2]);
                }
            }
        }
    }
    total(_mm256_add_ps(sums[0], sums[1]))
}
