//! Products of a repacked panel with many activation rows.
//!
//! A tile is 16 weight rows, the lanes of two vectors, times six activation rows, whose numbers, 15 bits each, are broadcast two
//! at a time. Weights are widened to 16 bits when a panel is filled, so that one `vpmaddwd` multiplies both planes of an
//! activation at once and its sums of two products, and all that share a scale, are exact in 32 bits.

use std::arch::x86_64::*;

use crate::kernels::formats::{Format, GROUP};
use crate::kernels::panel::{Batch, MultiplyFn, PANEL_ROWS, Panel, Target};

/// Activation rows of a tile.
const TILE: usize = 6;
/// Vectors of weight rows in a tile.
const HALVES: usize = 2;
/// Weight rows of a vector.
const LANES: usize = 8;
/// Lanes that a format unpacks at a time.
const RUN: usize = super::RUN;
/// Bytes of two columns of a panel.
const PAIR_BYTES: usize = 2 * size_of::<i16>() * PANEL_ROWS;
/// Runs of the longest block.
const RUNS: usize = crate::kernels::formats::MAX_BLOCK / RUN;

/// How a format fills a panel.
pub trait Repack: Format {
    /// Columns that share a scale: 16 or 32.
    const SPAN: usize;
    /// Whether there are offsets.
    const OFFSETS: bool;

    /// Signed lanes of the block at `p`, its scales and its offsets by groups of 16; entries past the block's end are not looked at.
    ///
    /// # Safety
    /// The CPU runs the tier and `p` is followed by a whole block.
    unsafe fn block(p: *const u8) -> ([__m256i; RUNS], [f32; 16], [f32; 16]);
}

/// Unpacks and turns round the columns of a panel; see [`UnpackFn`](crate::kernels::panel::UnpackFn).
#[target_feature(enable = "avx2,fma,f16c")]
pub unsafe fn unpack<F: Repack>(data: &[u8], row_bytes: usize, start: usize, cols: usize, panel: &mut Panel) {
    let rows = data.len() / row_bytes;
    let (lanes, scales, offsets) = (panel.lanes(), panel.scales(), panel.offsets());
    let (runs, groups) = (F::LEN / RUN, F::LEN / F::SPAN);
    for eight in 0..PANEL_ROWS / LANES {
        for block in 0..cols / F::LEN {
            let mut turned = [[_mm256_setzero_si256(); LANES]; RUNS];
            for r in 0..LANES {
                let row = (LANES * eight + r).min(rows - 1);
                let at = row * row_bytes + (start / F::LEN + block) * F::BYTES;
                let bytes = &data[at..at + F::BYTES];
                // SAFETY: the slice is a whole block; the panel holds the block's columns of every row, as the caller promises.
                unsafe {
                    let (run, scale, offset) = F::block(bytes.as_ptr());
                    for (turned, run) in turned.iter_mut().zip(run) {
                        turned[r] = run;
                    }
                    for g in 0..groups {
                        let to = (block * groups + g) * PANEL_ROWS + LANES * eight + r;
                        scales.add(to).write(scale[g * F::SPAN / GROUP]);
                        offsets.add(to).write(offset[g * F::SPAN / GROUP]);
                    }
                }
            }
            for (i, turned) in turned.into_iter().enumerate().take(runs) {
                let halves = [
                    turned.map(|run| _mm256_castsi256_si128(run)),
                    turned.map(|run| _mm256_extracti128_si256::<1>(run)),
                ];
                for (half, bytes) in halves.into_iter().enumerate() {
                    let wide = bytes.map(|bytes| _mm256_cvtepi8_epi16(bytes));
                    for (word, columns) in transpose(wide).into_iter().enumerate() {
                        let pair = (block * F::LEN + i * RUN + half * RUN / 2) / 2 + word;
                        // SAFETY: as above.
                        unsafe {
                            let to = lanes.add(pair * PAIR_BYTES + 4 * LANES * eight);
                            _mm256_store_si256(to.cast(), columns);
                        }
                    }
                }
            }
        }
    }
}

/// Turns round 8 × 8 words of 32 bits.
#[inline]
#[target_feature(enable = "avx2")]
fn transpose(rows: [__m256i; 8]) -> [__m256i; 8] {
    let mut pairs = rows;
    for i in 0..4 {
        pairs[2 * i] = _mm256_unpacklo_epi32(rows[2 * i], rows[2 * i + 1]);
        pairs[2 * i + 1] = _mm256_unpackhi_epi32(rows[2 * i], rows[2 * i + 1]);
    }
    // fours[4q + c] holds word c of both halves, of rows 4q..4q + 4.
    let mut fours = pairs;
    for q in 0..2 {
        let [a, b, c, d] = [pairs[4 * q], pairs[4 * q + 1], pairs[4 * q + 2], pairs[4 * q + 3]];
        fours[4 * q] = _mm256_unpacklo_epi64(a, c);
        fours[4 * q + 1] = _mm256_unpackhi_epi64(a, c);
        fours[4 * q + 2] = _mm256_unpacklo_epi64(b, d);
        fours[4 * q + 3] = _mm256_unpackhi_epi64(b, d);
    }
    let mut out = fours;
    for c in 0..4 {
        out[c] = _mm256_permute2x128_si256::<0x20>(fours[c], fours[4 + c]);
        out[4 + c] = _mm256_permute2x128_si256::<0x31>(fours[c], fours[4 + c]);
    }
    out
}

/// The product for panels of a format.
pub fn multiply_for<F: Repack>() -> MultiplyFn {
    const { assert!(F::SPAN == GROUP || F::SPAN == 2 * GROUP) };
    match (F::SPAN == GROUP, F::OFFSETS) {
        (true, _) => multiply::<GROUP, true>,
        (false, true) => multiply::<{ 2 * GROUP }, true>,
        (false, false) => multiply::<{ 2 * GROUP }, false>,
    }
}

/// See [`MultiplyFn`]. `SPAN` columns share a scale.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn multiply<const SPAN: usize, const OFFSETS: bool>(
    panel: &mut Panel,
    start: usize,
    cols: usize,
    x: &Batch<'_>,
    target: Target,
) {
    for first in (0..target.rows).step_by(HALVES * LANES) {
        let mut t = 0;
        while t < x.rows {
            let at = (t, first);
            // SAFETY: as the caller promises; the tiles' rows are below `x.rows`, their weight rows inside the panel.
            t += unsafe {
                match x.rows - t {
                    1 => tile::<SPAN, OFFSETS, 1>(panel, (start, cols), x, at, target),
                    2 => tile::<SPAN, OFFSETS, 2>(panel, (start, cols), x, at, target),
                    3 => tile::<SPAN, OFFSETS, 3>(panel, (start, cols), x, at, target),
                    4 | 8 => tile::<SPAN, OFFSETS, 4>(panel, (start, cols), x, at, target),
                    5 => tile::<SPAN, OFFSETS, 5>(panel, (start, cols), x, at, target),
                    _ => tile::<SPAN, OFFSETS, TILE>(panel, (start, cols), x, at, target),
                }
            };
        }
    }
}

type Tile<V, const T: usize> = [[V; HALVES]; T];

/// Activation rows from `t` on times weight rows from `first` on; returns how many activation rows.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn tile<const SPAN: usize, const OFFSETS: bool, const T: usize>(
    panel: &mut Panel,
    (start, cols): (usize, usize),
    x: &Batch<'_>,
    (t, first): (usize, usize),
    target: Target,
) -> usize {
    // SAFETY: the activations have rows t..t + T, padded to whole blocks of 256 from `start` on; the panel holds the columns;
    // the target's rows below `target.rows` are the caller's.
    unsafe {
        let mut sums: Tile<__m256, T> = [[_mm256_setzero_ps(); HALVES]; T];
        let values = x.wide.as_ptr().add(t * x.stride + start);
        let scale = x.scales.as_ptr().add((t * x.stride + start) / GROUP);
        let sum = if SPAN == GROUP { x.sums } else { x.block_sums };
        let sum = sum.as_ptr().add((t * x.stride + start) / SPAN);
        let lanes = panel.lanes().add(4 * first);
        let (scales, offsets) = (panel.scales().add(first), panel.offsets().add(first));
        for g in 0..cols / SPAN {
            let mut dots: Tile<__m256i, T> = [[_mm256_setzero_si256(); HALVES]; T];
            let lanes = lanes.add(g * SPAN / 2 * PAIR_BYTES);
            let values = values.add(g * SPAN);
            for pair in 0..SPAN / 2 {
                let w: [__m256i; HALVES] =
                    std::array::from_fn(|h| _mm256_load_si256(lanes.add(pair * PAIR_BYTES + 4 * LANES * h).cast()));
                for (k, dots) in dots.iter_mut().enumerate() {
                    let x = _mm256_set1_epi32(values.add(k * x.stride + 2 * pair).cast::<i32>().read_unaligned());
                    for (dot, w) in dots.iter_mut().zip(w) {
                        *dot = _mm256_add_epi32(*dot, _mm256_madd_epi16(w, x));
                    }
                }
            }
            for h in 0..HALVES {
                let weight_scale = _mm256_load_ps(scales.add(g * PANEL_ROWS + LANES * h));
                let offset = _mm256_load_ps(offsets.add(g * PANEL_ROWS + LANES * h));
                for k in 0..T {
                    let row_scale = _mm256_set1_ps(*scale.add((k * x.stride + g * SPAN) / GROUP));
                    let both = _mm256_mul_ps(weight_scale, row_scale);
                    sums[k][h] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(dots[k][h]), both, sums[k][h]);
                    if OFFSETS {
                        let row_sum = _mm256_set1_ps(*sum.add(k * (x.stride / SPAN) + g));
                        sums[k][h] = _mm256_fmadd_ps(offset, row_sum, sums[k][h]);
                    }
                }
            }
        }
        for (k, sums) in sums.iter().enumerate() {
            for (h, sum) in sums.iter().enumerate() {
                let rows = target.rows.saturating_sub(first + LANES * h).min(LANES);
                let out = target.out.add((t + k) * target.stride + first + LANES * h);
                if rows == LANES {
                    let before = if target.accumulate { _mm256_loadu_ps(out) } else { _mm256_setzero_ps() };
                    _mm256_storeu_ps(out, _mm256_add_ps(before, *sum));
                    continue;
                }
                let mut values = [0.0; LANES];
                if target.accumulate {
                    std::ptr::copy_nonoverlapping(out, values.as_mut_ptr(), rows);
                }
                let all = _mm256_add_ps(_mm256_loadu_ps(values.as_ptr()), *sum);
                _mm256_storeu_ps(values.as_mut_ptr(), all);
                std::ptr::copy_nonoverlapping(values.as_ptr(), out, rows);
            }
        }
    }
    T
}
