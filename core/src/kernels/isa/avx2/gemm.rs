//! Products of a repacked panel with many activation rows.
//!
//! A tile is 16 weight rows, the lanes of two vectors, times two activation rows, whose bytes are broadcast four at a time.
//! `vpmaddubsw` sums pairs of products in 16 bits; as many of those as cannot overflow are added there before `vpmaddwd`
//! widens them. Lanes that use all 8 bits are signed: their magnitudes are multiplied with activations that take their sign.

use std::arch::x86_64::*;

use crate::kernels::activations::COARSE;
use crate::kernels::formats::{Format, GROUP};
use crate::kernels::panel::{Batch, MultiplyFn, PANEL_ROWS, Panel, Target};

/// Activation rows of a tile.
const TILE: usize = 2;
/// Vectors of weight rows in a tile.
const HALVES: usize = 2;
/// Weight rows of a vector.
const LANES: usize = 8;
/// Lanes that a format unpacks at a time.
const RUN: usize = super::RUN;
/// Runs of the longest block.
const RUNS: usize = crate::kernels::formats::MAX_BLOCK / RUN;

/// How a format fills a panel.
pub trait Repack: Format {
    /// Columns that share a scale: 16 or 32.
    const SPAN: usize;
    /// Whether lanes are signed; otherwise they are unsigned.
    const SIGNED: bool;
    /// Largest magnitude of a lane.
    const LARGEST: i32;
    /// Pairs of products with a coarse lane of ±127 that fit 16 bits.
    const DEPTH: usize = (i16::MAX as i32 / (2 * 127 * Self::LARGEST)) as usize;

    /// Lanes of the block at `p`, its scales and its offsets by groups of 16; entries past the block's end are not looked at.
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
                for (word, columns) in transpose(turned).into_iter().enumerate() {
                    let four = (block * F::LEN + i * RUN) / 4 + word;
                    // SAFETY: as above.
                    unsafe {
                        let to = lanes.add(four * 4 * PANEL_ROWS + 4 * LANES * eight);
                        _mm256_store_si256(to.cast(), columns);
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
    match (F::SPAN == GROUP, F::SIGNED, F::DEPTH) {
        (true, _, 2..) => multiply::<GROUP, false, 2>,
        (true, _, _) => multiply::<GROUP, false, 1>,
        (false, true, 4..) => multiply::<{ 2 * GROUP }, true, 4>,
        (false, true, _) => multiply::<{ 2 * GROUP }, true, 1>,
        (false, false, 4..) => multiply::<{ 2 * GROUP }, false, 4>,
        (false, false, _) => multiply::<{ 2 * GROUP }, false, 1>,
    }
}

/// See [`MultiplyFn`]. `SPAN` columns share a scale, and `DEPTH` pairs of products fit 16 bits.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn multiply<const SPAN: usize, const SIGNED: bool, const DEPTH: usize>(
    panel: &mut Panel,
    start: usize,
    cols: usize,
    x: &Batch<'_>,
    target: Target,
) {
    for first in (0..target.rows).step_by(HALVES * LANES) {
        let mut t = 0;
        // SAFETY: as the caller promises; the tiles' rows are below `x.rows`, their weight rows inside the panel.
        unsafe {
            while t + TILE <= x.rows {
                tile::<SPAN, SIGNED, DEPTH, TILE>(panel, (start, cols), x, (t, first), target);
                t += TILE;
            }
            if t < x.rows {
                tile::<SPAN, SIGNED, DEPTH, 1>(panel, (start, cols), x, (t, first), target);
            }
        }
    }
}

type Tile<V, const T: usize> = [[V; HALVES]; T];

/// Activation rows from `t` on times weight rows from `first` on.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn tile<const SPAN: usize, const SIGNED: bool, const DEPTH: usize, const T: usize>(
    panel: &mut Panel,
    (start, cols): (usize, usize),
    x: &Batch<'_>,
    (t, first): (usize, usize),
    target: Target,
) {
    // SAFETY: the activations have rows t..t + T, padded to whole blocks of 256 from `start` on; the panel holds the columns;
    // the target's rows below `target.rows` are the caller's.
    unsafe {
        let mut sums: Tile<__m256, T> = [[_mm256_setzero_ps(); HALVES]; T];
        let coarse = x.lanes.as_ptr().add(t * x.stride + start);
        let fine = x.fine.as_ptr().add(t * x.stride + start);
        let scale = x.scales.as_ptr().add((t * x.stride + start) / GROUP);
        let sum = if SPAN == GROUP { x.sums } else { x.block_sums };
        let sum = sum.as_ptr().add((t * x.stride + start) / SPAN);
        let lanes = panel.lanes().add(4 * first);
        let (scales, offsets) = (panel.scales().add(first), panel.offsets().add(first));
        for g in 0..cols / SPAN {
            let lanes = lanes.add(g * SPAN * PANEL_ROWS);
            let mut dots: Tile<__m256i, T> = [[_mm256_setzero_si256(); HALVES]; T];
            add_plane::<SPAN, SIGNED, DEPTH, T>(lanes, coarse.add(g * SPAN), x.stride, &mut dots);
            for dot in dots.as_flattened_mut() {
                *dot = _mm256_slli_epi32::<{ COARSE.trailing_zeros() as i32 }>(*dot);
            }
            add_plane::<SPAN, SIGNED, DEPTH, T>(lanes, fine.add(g * SPAN), x.stride, &mut dots);
            for h in 0..HALVES {
                let weight_scale = _mm256_load_ps(scales.add(g * PANEL_ROWS + LANES * h));
                let offset = _mm256_load_ps(offsets.add(g * PANEL_ROWS + LANES * h));
                for k in 0..T {
                    let row_scale = _mm256_set1_ps(*scale.add((k * x.stride + g * SPAN) / GROUP));
                    let both = _mm256_mul_ps(weight_scale, row_scale);
                    sums[k][h] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(dots[k][h]), both, sums[k][h]);
                    if !SIGNED {
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
}

/// Adds the products of `SPAN` columns with one plane of the activations.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn add_plane<const SPAN: usize, const SIGNED: bool, const DEPTH: usize, const T: usize>(
    lanes: *mut u8,
    plane: *const i8,
    stride: usize,
    dots: &mut Tile<__m256i, T>,
) {
    for deep in (0..SPAN / 4).step_by(DEPTH) {
        let mut pairs: Tile<__m256i, T> = [[_mm256_setzero_si256(); HALVES]; T];
        for four in deep..deep + DEPTH {
            // SAFETY: the caller promises `SPAN` columns of the panel and of T rows of the plane.
            unsafe {
                let w: [__m256i; HALVES] =
                    std::array::from_fn(|h| _mm256_load_si256(lanes.add(four * 4 * PANEL_ROWS + 4 * LANES * h).cast()));
                for (k, pairs) in pairs.iter_mut().enumerate() {
                    let x = _mm256_set1_epi32(plane.add(k * stride + 4 * four).cast::<i32>().read_unaligned());
                    for (pair, w) in pairs.iter_mut().zip(w) {
                        let products = if SIGNED {
                            _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(x, w))
                        } else {
                            _mm256_maddubs_epi16(w, x)
                        };
                        *pair = _mm256_add_epi16(*pair, products);
                    }
                }
            }
        }
        for (dot, pair) in dots.as_flattened_mut().iter_mut().zip(pairs.as_flattened()) {
            *dot = _mm256_add_epi32(*dot, _mm256_madd_epi16(*pair, _mm256_set1_epi16(1)));
        }
    }
}
