//! Products of weight rows, where they lie, with one activation row.

use std::arch::x86_64::*;

use super::gemm::Repack;
use super::unpack::{Halves, Large, Small, four_halves, head, widen};
use super::{RUN, total};
use crate::kernels::activations::{COARSE, Row};
use crate::kernels::formats::{Format, GROUP, MAX_BLOCK};

/// Weight rows multiplied together: they share the loads of the activations and what a row costs beside its steps.
const TOGETHER: usize = 2;

/// See [`PanelFn`](crate::kernels::isa::PanelFn).
#[target_feature(enable = "avx2,fma,f16c")]
pub unsafe fn panel<F: Dot, const FINE: bool>(data: &[u8], row_bytes: usize, x: &[Row<'_>; 1], out: &mut [[f32; 1]]) {
    let [x] = x;
    let mut rows = data.chunks_exact(TOGETHER * row_bytes);
    let (outs, rest) = out.as_chunks_mut::<TOGETHER>();
    // SAFETY: by the caller's promise the rows are whole blocks and the activations have as many columns.
    unsafe {
        for (rows, out) in rows.by_ref().zip(outs) {
            *out = F::dots::<FINE, TOGETHER>(rows, row_bytes, x).map(|sum| [sum]);
        }
        for (row, out) in rows.remainder().chunks_exact(row_bytes).zip(rest) {
            *out = F::dots::<FINE, 1>(row, row_bytes, x);
        }
    }
}

/// The products of weight rows with an activation row.
pub trait Dot: Format {
    /// How panels are filled for products with the coarse plane alone.
    type Coarse: Repack;

    /// The products of `R` rows, with both planes, or the fine one left out, which is zero.
    ///
    /// # Safety
    /// The CPU runs the tier, `rows` are `R` times `row_bytes`, whole blocks, and the activations have at least as many elements as a
    /// row.
    unsafe fn dots<const FINE: bool, const R: usize>(rows: &[u8], row_bytes: usize, x: &Row<'_>) -> [f32; R];
}

/// Elements of a step: the four blocks whose halves share vectors in [`split`](crate::kernels::activations::split) order.
const STEP: usize = 4 * RUN;
/// Bytes ahead of the products that weights are asked for.
const AHEAD: usize = 2048;

/// What a row's products add up to.
#[derive(Clone, Copy)]
struct Sums {
    /// Of the steps' first and second pair of blocks.
    dots: [__m256; 2],
    /// Of the offsets.
    offsets: __m256,
}

/// Products with rows of 32-element blocks of few bits.
///
/// A vector holds the first or the second halves of two blocks, so that each block's integer sums fill one half of a vector:
/// two blocks share the sums, their conversion and a vector of scales. Lanes stay unsigned; what they are centred on is an offset.
///
/// # Safety
/// As [`Dot::dots`].
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub unsafe fn dots_split<F: Halves, const FINE: bool, const R: usize>(
    rows: &[u8],
    row_bytes: usize,
    x: &Row<'_>,
) -> [f32; R] {
    let zero = _mm256_setzero_ps();
    let mut sums = [Sums { dots: [zero; 2], offsets: zero }; R];
    let all = _mm256_set1_ps(1.0);
    let blocks = row_bytes / F::BYTES;
    let whole = blocks / 4;
    let start: [*const u8; R] = std::array::from_fn(|r| rows.as_ptr().wrapping_add(r * row_bytes));
    // SAFETY: the rows are whole blocks, and the activations have their elements, padded to whole steps, by the caller's promise.
    unsafe {
        for s in 0..whole {
            let p = start.map(|start| start.add(4 * s * F::BYTES));
            for p in p {
                for line in 0..(4 * F::BYTES).div_ceil(64) {
                    _mm_prefetch::<_MM_HINT_T0>(p.wrapping_add(AHEAD + 64 * line).cast());
                }
            }
            let at = s * STEP;
            step::<F, FINE, R>(p, x, at, at, all, &mut sums);
        }
        let rest = blocks % 4;
        if rest > 0 && blocks * RUN >= MAX_BLOCK {
            // A step that ends with the row; the blocks it shares with the one before it count nothing.
            let number = _mm256_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3);
            let keep = _mm256_cmpgt_epi32(number, _mm256_set1_epi32(3 - rest as i32));
            let keep = _mm256_and_ps(_mm256_castsi256_ps(keep), all);
            let p = start.map(|start| start.add((blocks - 4) * F::BYTES));
            let at = (blocks - 4) * RUN;
            step::<F, FINE, R>(p, x, at, x.split_lanes.len() - STEP, keep, &mut sums);
        } else if rest > 0 {
            // Rows too short for that are completed with blocks of zeros, whose scales are zero. No block is longer than 24 bytes.
            let mut bytes = [[0u8; 4 * 24]; R];
            for (bytes, row) in bytes.iter_mut().zip(rows.chunks_exact(row_bytes)) {
                let rest = &row[4 * whole * F::BYTES..];
                bytes[..rest.len()].copy_from_slice(rest);
            }
            let at = whole * STEP;
            step::<F, FINE, R>(bytes.each_ref().map(|bytes| bytes.as_ptr()), x, at, at, all, &mut sums);
        }
    }
    sums.map(|s| total(_mm256_fmadd_ps(s.offsets, _mm256_set1_ps(F::OFFSET), _mm256_add_ps(s.dots[0], s.dots[1]))))
}

/// Adds the products of the four blocks at each of `p` with the activations from `at` on, which begin at `split_at` in the split
/// planes.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn step<F: Halves, const FINE: bool, const R: usize>(
    p: [*const u8; R],
    x: &Row<'_>,
    at: usize,
    split_at: usize,
    keep: __m256,
    sums: &mut [Sums; R],
) {
    // SAFETY: the caller promises four blocks at each of `p` and 128 activations from `at` and `split_at` on.
    unsafe {
        let mut block_scales = [_mm256_setzero_ps(); R];
        let row_sums = _mm256_loadu_ps(x.sums.as_ptr().add(at / GROUP));
        let row_scales = _mm256_loadu_ps(x.scales.as_ptr().add(at / GROUP));
        for r in 0..R {
            let (scales, minima) = F::heads(p[r]);
            let scales = _mm256_mul_ps(scales, keep);
            let minima = if F::MINIMA { _mm256_mul_ps(minima, keep) } else { scales };
            sums[r].offsets = _mm256_fmadd_ps(minima, row_sums, sums[r].offsets);
            block_scales[r] = _mm256_mul_ps(scales, row_scales);
        }
        for i in 0..2 {
            let plane = |plane: &[i8], half: usize| {
                _mm256_loadu_si256(plane.as_ptr().add(split_at + RUN * (2 * half + i)).cast())
            };
            let coarse = [plane(x.split_lanes, 0), plane(x.split_lanes, 1)];
            for r in 0..R {
                let [low, high] = F::halves([p[r].add(i * F::BYTES), p[r].add((i + 2) * F::BYTES)]);
                let both = |x: [__m256i; 2]| {
                    _mm256_add_epi16(_mm256_maddubs_epi16(low, x[0]), _mm256_maddubs_epi16(high, x[1]))
                };
                let mut dots = _mm256_madd_epi16(both(coarse), _mm256_set1_epi16(COARSE as i16));
                if FINE {
                    let fine = [plane(x.split_fine, 0), plane(x.split_fine, 1)];
                    dots = _mm256_add_epi32(dots, _mm256_madd_epi16(both(fine), _mm256_set1_epi16(1)));
                }
                // Scales are those of blocks 0, 0, 1, 1 and 2, 2, 3, 3.
                let scales = block_scales[r];
                let scale = if i == 0 {
                    _mm256_shuffle_ps::<0b00_00_00_00>(scales, scales)
                } else {
                    _mm256_shuffle_ps::<0b10_10_10_10>(scales, scales)
                };
                sums[r].dots[i] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(dots), scale, sums[r].dots[i]);
            }
        }
    }
}

/// Products with rows of 32-element blocks of whole bytes, as 16-bit words, which hold both planes.
///
/// # Safety
/// As [`Dot::dots`].
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub unsafe fn dots_words<F: Small, const FINE: bool, const R: usize>(
    rows: &[u8],
    row_bytes: usize,
    x: &Row<'_>,
) -> [f32; R] {
    const { assert!(F::CENTRED) };
    // Rows are as fast one by one: a block has as many words of activations as of its own.
    std::array::from_fn(|r| {
        // SAFETY: as the caller promises; row `r` of its `R`.
        unsafe { dot_words::<F>(&rows[r * row_bytes..][..row_bytes], x) }
    })
}

/// One row of [`dots_words`].
///
/// # Safety
/// As [`Dot::dots`].
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn dot_words<F: Small>(row: &[u8], x: &Row<'_>) -> f32 {
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

/// Products with rows of 256-element blocks.
///
/// # Safety
/// As [`Dot::dots`].
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub unsafe fn dots_large<F: Large, const FINE: bool, const R: usize>(
    rows: &[u8],
    row_bytes: usize,
    x: &Row<'_>,
) -> [f32; R] {
    // Two chains of additions a row, or their latency would set the pace.
    let mut sums = [[_mm256_setzero_ps(); 2]; R];
    for b in 0..row_bytes / F::BYTES {
        // SAFETY: the rows are whole blocks, and the activations have their elements by the caller's promise.
        unsafe {
            let p: [*const u8; R] = std::array::from_fn(|r| rows.as_ptr().add(r * row_bytes + b * F::BYTES));
            let mut halves = [[(_mm256_setzero_ps(), _mm256_setzero_ps()); 2]; R];
            for r in 0..R {
                halves[r] = F::scales(p[r]);
            }
            for half in 0..2 {
                let at = b * F::LEN + half * (F::LEN / 2);
                let row_scales = _mm256_loadu_ps(x.scales.as_ptr().add(at / GROUP));
                let row_sums = _mm256_loadu_ps(x.sums.as_ptr().add(at / GROUP));
                let mut scales = [row_scales; R];
                for r in 0..R {
                    let (scale, offset) = halves[r][half];
                    scales[r] = _mm256_mul_ps(scale, row_scales);
                    sums[r][half] = _mm256_fmadd_ps(offset, row_sums, sums[r][half]);
                }
                for run in 0..4 {
                    let two = 2 * run as i32;
                    let spread = _mm256_setr_epi32(two, two, two, two, two + 1, two + 1, two + 1, two + 1);
                    let plane = |plane: &[i8]| _mm256_loadu_si256(plane.as_ptr().add(at + run * RUN).cast());
                    let (coarse, fine) = (plane(x.lanes), plane(x.fine));
                    for r in 0..R {
                        let lanes = F::lanes(p[r], 4 * half + run);
                        let dots = _mm256_maddubs_epi16(lanes, coarse);
                        let mut dots = _mm256_madd_epi16(dots, _mm256_set1_epi16(COARSE as i16));
                        if FINE {
                            let fine = _mm256_madd_epi16(_mm256_maddubs_epi16(lanes, fine), _mm256_set1_epi16(1));
                            dots = _mm256_add_epi32(dots, fine);
                        }
                        let scale = _mm256_permutevar8x32_ps(scales[r], spread);
                        sums[r][run % 2] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(dots), scale, sums[r][run % 2]);
                    }
                }
            }
        }
    }
    sums.map(|sums| total(_mm256_add_ps(sums[0], sums[1])))
}
