//! Panel products by `sdot`: a vector of lanes is four weight rows × four columns, and each instruction takes the four columns
//! of one activation row from a vector of 16.

use std::arch::aarch64::*;

use super::Unpack;
use super::dot::{in_fine_steps, sdot_lane};
use super::gemm::{HALF, Half, Layout, by_span, groups, operands};
use crate::kernels::formats::GROUP;
use crate::kernels::panel::{Batch, MultiplyFn, Panel, Target};

/// Activation rows of a tile.
const TILE: usize = 4;
/// Vectors of sums for the weight rows.
const VECTORS: usize = HALF / 4;

/// `[4 fours of columns][16 rows][4]`.
pub struct Fours;

impl Layout for Fours {
    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn store(rows: [int8x16_t; 4], q: usize, out: *mut i8) {
        let word = |r: usize| vreinterpretq_s32_s8(rows[r]);
        let (even, odd) = (vtrn1q_s32(word(0), word(1)), vtrn2q_s32(word(0), word(1)));
        let (even_2, odd_2) = (vtrn1q_s32(word(2), word(3)), vtrn2q_s32(word(2), word(3)));
        let wide = vreinterpretq_s64_s32;
        let fours = [
            vtrn1q_s64(wide(even), wide(even_2)),
            vtrn1q_s64(wide(odd), wide(odd_2)),
            vtrn2q_s64(wide(even), wide(even_2)),
            vtrn2q_s64(wide(odd), wide(odd_2)),
        ];
        for (i, four) in fours.into_iter().enumerate() {
            // SAFETY: the caller promises 256 bytes and q < 4.
            unsafe { vst1q_s8(out.add(i * 4 * HALF + 16 * q), vreinterpretq_s8_s64(four)) };
        }
    }
}

/// The product for panels of a format.
pub fn multiply_for<F: Unpack, const FINE: bool>() -> MultiplyFn {
    by_span!(F, FINE, multiply)
}

/// See [`MultiplyFn`]. `SPAN` columns share a scale; without `FINE` the fine plane is zero and not looked at.
#[target_feature(enable = "neon,dotprod")]
unsafe fn multiply<const SPAN: usize, const OFFSET: bool, const FINE: bool>(
    panel: &mut Panel,
    start: usize,
    cols: usize,
    x: &Batch<'_>,
    target: Target,
) {
    for (half, target) in Half::of(panel, start, cols, target) {
        let mut t = 0;
        // SAFETY: as the caller promises; the tiles' rows are below `x.rows`.
        unsafe {
            while t + TILE <= x.rows {
                tile::<SPAN, OFFSET, FINE, TILE>(&half, x, t, target);
                t += TILE;
            }
            if t + 2 <= x.rows {
                tile::<SPAN, OFFSET, FINE, 2>(&half, x, t, target);
                t += 2;
            }
            if t < x.rows {
                tile::<SPAN, OFFSET, FINE, 1>(&half, x, t, target);
            }
        }
    }
}

type Tile<const T: usize> = [[int32x4_t; VECTORS]; T];

#[inline]
#[target_feature(enable = "neon,dotprod")]
unsafe fn tile<const SPAN: usize, const OFFSET: bool, const FINE: bool, const T: usize>(
    half: &Half,
    x: &Batch<'_>,
    t: usize,
    target: Target,
) {
    // SAFETY: the activations have rows t..t + T, with the half's columns; the target has as many rows, and of each
    // `target.rows` are the caller's, which are no more than the sums have.
    unsafe {
        let mut sums = [[0.0f32; HALF]; T];
        let out = |k: usize| target.out.add((t + k) * target.stride);
        if target.accumulate {
            for (k, sums) in sums.iter_mut().enumerate() {
                sums.as_mut_ptr().copy_from_nonoverlapping(out(k), target.rows);
            }
        }
        let (coarse, fine, row) = operands::<SPAN, T>(x, std::array::from_fn(|k| t + k), half.start);
        let groups = groups::<SPAN>();
        for g in 0..half.cols / SPAN {
            let lanes = half.lanes.add(g * SPAN * HALF);
            let mut dots: Tile<T> = [[vdupq_n_s32(0); VECTORS]; T];
            for group in 0..groups {
                let column = group * GROUP;
                add_group::<T>(lanes.add(column * HALF), &coarse, g * SPAN + column, &mut dots);
            }
            if FINE {
                for dots in dots.as_flattened_mut() {
                    *dots = in_fine_steps(*dots);
                }
            }
            for group in 0..if FINE { groups } else { 0 } {
                let column = group * GROUP;
                add_group::<T>(lanes.add(column * HALF), &fine, g * SPAN + column, &mut dots);
            }
            for v in 0..VECTORS {
                let scale = vld1q_f32(half.scales.add(g * HALF + 4 * v));
                for (k, dots) in dots.iter().enumerate() {
                    let both = vmulq_n_f32(scale, *row.scales[k].add(g * (SPAN / GROUP)));
                    let sum = sums[k].as_mut_ptr().add(4 * v);
                    let mut total = vfmaq_f32(vld1q_f32(sum), vcvtq_f32_s32(dots[v]), both);
                    if OFFSET {
                        let offset = vld1q_f32(half.offsets.add(g * HALF + 4 * v));
                        total = vfmaq_n_f32(total, offset, *row.sums[k].add(g));
                    }
                    vst1q_f32(sum, total);
                }
            }
        }
        for (k, sums) in sums.iter().enumerate() {
            out(k).copy_from_nonoverlapping(sums.as_ptr(), target.rows);
        }
    }
}

/// Adds the products of 16 columns, from `column` on, with one plane of the activations.
#[inline]
#[target_feature(enable = "neon,dotprod")]
unsafe fn add_group<const T: usize>(lanes: *const i8, plane: &[*const i8; T], column: usize, dots: &mut Tile<T>) {
    // SAFETY: the caller promises 16 columns of the half and of the rows.
    unsafe {
        let mut x = [vdupq_n_s8(0); T];
        for k in 0..T {
            x[k] = vld1q_s8(plane[k].add(column));
        }
        add_four::<0, T>(lanes, &x, dots);
        add_four::<1, T>(lanes, &x, dots);
        add_four::<2, T>(lanes, &x, dots);
        add_four::<3, T>(lanes, &x, dots);
    }
}

/// Adds the products of four `C` of the columns at `lanes` and in `x`.
#[inline]
#[target_feature(enable = "neon,dotprod")]
unsafe fn add_four<const C: usize, const T: usize>(lanes: *const i8, x: &[int8x16_t; T], dots: &mut Tile<T>) {
    for v in 0..VECTORS {
        // SAFETY: the caller promises 16 columns of the half.
        let w = unsafe { vld1q_s8(lanes.add(C * 4 * HALF + 16 * v)) };
        for (dots, &x) in dots.iter_mut().zip(x) {
            dots[v] = sdot_lane::<C>(dots[v], w, x);
        }
    }
}
