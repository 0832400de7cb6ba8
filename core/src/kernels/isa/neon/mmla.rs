//! Panel products by `smmla`: a vector of lanes is two weight rows × eight columns, one of activations two rows likewise, and an
//! instruction adds their four sums: `[row 0 · weight 0, row 0 · weight 1, row 1 · weight 0, row 1 · weight 1]`.

use std::arch::aarch64::*;

use super::Unpack;
use super::dot::{in_fine_steps, smmla};
use super::gemm::{HALF, Half, Layout, by_span, groups, operands};
use crate::kernels::formats::GROUP;
use crate::kernels::panel::{Batch, MultiplyFn, Panel, Target};

/// Pairs of weight rows.
const PAIRS: usize = HALF / 2;

/// `[2 eights of columns][8 pairs of rows][2][8]`.
pub struct Eights;

impl Layout for Eights {
    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn store(rows: [int8x16_t; 4], q: usize, out: *mut i8) {
        let wide = |r: usize| vreinterpretq_s64_s8(rows[r]);
        for pair in 0..2 {
            let eights =
                [vtrn1q_s64(wide(2 * pair), wide(2 * pair + 1)), vtrn2q_s64(wide(2 * pair), wide(2 * pair + 1))];
            for (i, eight) in eights.into_iter().enumerate() {
                // SAFETY: the caller promises 256 bytes and q < 4.
                unsafe { vst1q_s8(out.add(i * 8 * HALF + 32 * q + 16 * pair), vreinterpretq_s8_s64(eight)) };
            }
        }
    }
}

/// The product for panels of a format.
pub fn multiply_for<F: Unpack, const FINE: bool>() -> MultiplyFn {
    by_span!(F, FINE, multiply)
}

/// See [`MultiplyFn`]. `SPAN` columns share a scale; without `FINE` the fine plane is zero and not looked at.
#[target_feature(enable = "neon,i8mm")]
unsafe fn multiply<const SPAN: usize, const OFFSET: bool, const FINE: bool>(
    panel: &mut Panel,
    start: usize,
    cols: usize,
    x: &Batch<'_>,
    target: Target,
) {
    for (half, target) in Half::of(panel, start, cols, target) {
        let mut t = 0;
        // SAFETY: as the caller promises; the tiles start below `x.rows`.
        unsafe {
            while t + 2 < x.rows {
                tile::<SPAN, OFFSET, FINE, 2, 4>(&half, x, t, target);
                t += 4;
            }
            if t < x.rows {
                tile::<SPAN, OFFSET, FINE, 1, 2>(&half, x, t, target);
            }
        }
    }
}

type Tile<const K: usize> = [[int32x4_t; PAIRS]; K];

/// `K` pairs of activation rows, `T` rows, of which those that do not exist are copies of the last and go nowhere.
#[inline]
#[target_feature(enable = "neon,i8mm")]
unsafe fn tile<const SPAN: usize, const OFFSET: bool, const FINE: bool, const K: usize, const T: usize>(
    half: &Half,
    x: &Batch<'_>,
    t: usize,
    target: Target,
) {
    const { assert!(T == 2 * K) };
    let rows = T.min(x.rows - t);
    // SAFETY: the activations have rows t..t + rows, with the half's columns; the target has as many rows, and of each
    // `target.rows` are the caller's.
    unsafe {
        let mut sums = [[0.0f32; HALF]; T];
        let out = |k: usize| target.out.add((t + k) * target.stride);
        if target.accumulate {
            for (k, sums) in sums.iter_mut().take(rows).enumerate() {
                sums.as_mut_ptr().copy_from_nonoverlapping(out(k), target.rows);
            }
            exchange(&mut sums);
        }
        let (coarse, fine, row) = operands::<SPAN, T>(x, std::array::from_fn(|k| t + k.min(rows - 1)), half.start);
        let groups = groups::<SPAN>();
        for g in 0..half.cols / SPAN {
            let lanes = half.lanes.add(g * SPAN * HALF);
            let mut dots: Tile<K> = [[vdupq_n_s32(0); PAIRS]; K];
            for group in 0..groups {
                let column = group * GROUP;
                add_group::<K, T>(lanes.add(column * HALF), &coarse, g * SPAN + column, &mut dots);
            }
            if FINE {
                for dots in dots.as_flattened_mut() {
                    *dots = in_fine_steps(*dots);
                }
            }
            for group in 0..if FINE { groups } else { 0 } {
                let column = group * GROUP;
                add_group::<K, T>(lanes.add(column * HALF), &fine, g * SPAN + column, &mut dots);
            }
            let (mut row_scale, mut row_sum) = ([vdupq_n_f32(0.0); K], [vdupq_n_f32(0.0); K]);
            for k in 0..K {
                let at = g * (SPAN / GROUP);
                row_scale[k] = both_halves(row.scales[2 * k].add(at), row.scales[2 * k + 1].add(at));
                if OFFSET {
                    row_sum[k] = both_halves(row.sums[2 * k].add(g), row.sums[2 * k + 1].add(g));
                }
            }
            for p in 0..PAIRS {
                let scale = twice(half.scales.add(g * HALF + 2 * p));
                for k in 0..K {
                    let both = vmulq_f32(scale, row_scale[k]);
                    let sum = sums[2 * k + p % 2].as_mut_ptr().add(p / 2 * 4);
                    let mut total = vfmaq_f32(vld1q_f32(sum), vcvtq_f32_s32(dots[k][p]), both);
                    if OFFSET {
                        let offset = twice(half.offsets.add(g * HALF + 2 * p));
                        total = vfmaq_f32(total, offset, row_sum[k]);
                    }
                    vst1q_f32(sum, total);
                }
            }
        }
        exchange(&mut sums);
        for (k, sums) in sums.iter().take(rows).enumerate() {
            out(k).copy_from_nonoverlapping(sums.as_ptr(), target.rows);
        }
    }
}

/// Brings sums from rows into the order of the instruction's, and back: in each pair of rows the vectors of pairs of weight rows
/// `p` and `p + 1`, `p` even, stand below each other.
#[inline]
#[target_feature(enable = "neon")]
fn exchange<const T: usize>(sums: &mut [[f32; HALF]; T]) {
    for [first, second] in sums.as_chunks_mut::<2>().0 {
        for (a, b) in first.as_chunks_mut::<4>().0.iter_mut().zip(second.as_chunks_mut::<4>().0) {
            [*a, *b] = [[a[0], a[1], b[0], b[1]], [a[2], a[3], b[2], b[3]]];
        }
    }
}

/// The number at `low` twice, then that at `high` twice.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn both_halves(low: *const f32, high: *const f32) -> float32x4_t {
    // SAFETY: the caller promises a number at each.
    unsafe { vcombine_f32(vld1_dup_f32(low), vld1_dup_f32(high)) }
}

/// The two numbers at `p`, twice.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn twice(p: *const f32) -> float32x4_t {
    // SAFETY: the caller promises two numbers.
    vreinterpretq_f32_f64(unsafe { vld1q_dup_f64(p.cast()) })
}

/// Adds the products of 16 columns, from `column` on, with one plane of the activations.
#[inline]
#[target_feature(enable = "neon,i8mm")]
unsafe fn add_group<const K: usize, const T: usize>(
    lanes: *const i8,
    plane: &[*const i8; T],
    column: usize,
    dots: &mut Tile<K>,
) {
    // SAFETY: the caller promises 16 columns of the half and of the rows.
    unsafe {
        let mut x = [[vdupq_n_s8(0); 2]; K];
        for (k, x) in x.iter_mut().enumerate() {
            let row = |k: usize| vreinterpretq_s64_s8(vld1q_s8(plane[k].add(column)));
            let (first, second) = (row(2 * k), row(2 * k + 1));
            *x = [vreinterpretq_s8_s64(vtrn1q_s64(first, second)), vreinterpretq_s8_s64(vtrn2q_s64(first, second))];
        }
        for eight in 0..2 {
            for p in 0..PAIRS {
                let w = vld1q_s8(lanes.add(eight * 8 * HALF + 16 * p));
                for (dots, x) in dots.iter_mut().zip(&x) {
                    dots[p] = smmla(dots[p], x[eight], w);
                }
            }
        }
    }
}
