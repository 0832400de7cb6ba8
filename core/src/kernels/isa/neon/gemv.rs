//! Products of weight rows, where they lie, with one activation row, or four without panels.
//!
//! Blocks are unpacked in registers, 32 columns of two weight rows at a time, which share the activations. Columns that share a
//! scale share their integer sums: the coarse plane's are shifted up by the plane's worth and the fine plane's added on top.

use std::arch::aarch64::*;

use super::dot::{sdot, widening_dot};
use super::unpack::{RUN, Scales, Unpack};
use crate::kernels::activations::{COARSE, Row};
use crate::kernels::prefetch::Span;

/// Weight rows taken together.
const ROWS: usize = 2;

/// The product `$name` over the int8 dot product `$dot`, compiled for `$features`; see [`PanelFn`](super::super::PanelFn).
macro_rules! product {
    ($name:ident, $pair:ident, $rows:ident, $features:literal, $dot:ident) => {
        #[target_feature(enable = $features)]
        pub unsafe fn $name<F: Unpack, const FINE: bool, const T: usize>(
            data: &[u8],
            row_bytes: usize,
            x: &[Row<'_>; T],
            out: &mut [[f32; T]],
        ) {
            let half = out.len() / ROWS;
            let row = |r: usize| data[r * row_bytes..][..row_bytes].as_ptr();
            let (first, rest) = out.split_at_mut(half);
            let (second, last) = rest.split_at_mut(half);
            for (r, (first, second)) in first.iter_mut().zip(second).enumerate() {
                // SAFETY: as the caller promises; whole rows.
                [*first, *second] = unsafe { $rows::<F, FINE, T, ROWS>([row(r), row(half + r)], row_bytes, x) };
            }
            if let [last] = last {
                // SAFETY: as above.
                [*last] = unsafe { $rows::<F, FINE, T, 1>([row(ROWS * half)], row_bytes, x) };
            }
        }

        /// See [`PairFn`](super::super::PairFn).
        #[target_feature(enable = $features)]
        pub unsafe fn $pair<F: Unpack, const FINE: bool>(
            data: [&[u8]; ROWS],
            row_bytes: usize,
            x: &Row<'_>,
            [first, second]: [&mut [f32]; ROWS],
            _: [Span; ROWS],
        ) {
            let x = std::array::from_ref(x);
            for (r, (first, second)) in first.iter_mut().zip(second).enumerate() {
                let rows = data.map(|rows| rows[r * row_bytes..][..row_bytes].as_ptr());
                // SAFETY: as the caller promises; whole rows.
                [[*first], [*second]] = unsafe { $rows::<F, FINE, 1, ROWS>(rows, row_bytes, x) };
            }
        }

        /// The products of the rows that begin at `start`.
        ///
        /// # Safety
        /// The CPU has the features; every row has `row_bytes` bytes of whole blocks, and the activations have as many columns.
        #[inline]
        #[target_feature(enable = $features)]
        unsafe fn $rows<F: Unpack, const FINE: bool, const T: usize, const R: usize>(
            start: [*const u8; R],
            row_bytes: usize,
            x: &[Row<'_>; T],
        ) -> [[f32; T]; R] {
            let zero = vdupq_n_s32(0);
            let mut sums = [[vdupq_n_f32(0.0); T]; R];
            let mut offsets = [[vdup_n_f32(0.0); T]; R];
            let mut scales = [const { Scales::new() }; R];
            for block in 0..row_bytes / F::BYTES {
                // SAFETY: the caller promises R rows of whole blocks, and activations with a group of 16 for each of
                // theirs, hence two groups for run `at`.
                unsafe {
                    let block_of = |r: usize| start[r].add(block * F::BYTES);
                    for r in 0..R {
                        F::scales(block_of(r), &mut scales[r]);
                    }
                    for run in 0..F::LEN / RUN {
                        let at = block * (F::LEN / RUN) + run;
                        let mut w = [[vdupq_n_s8(0); 2]; R];
                        for r in 0..R {
                            w[r] = F::lanes(block_of(r), run);
                        }
                        for t in 0..T {
                            let (coarse, fine) = (x[t].lanes.as_ptr().add(at * RUN), x[t].fine.as_ptr().add(at * RUN));
                            let coarse = [vld1q_s8(coarse), vld1q_s8(coarse.add(16))];
                            let fine = [vld1q_s8(fine), vld1q_s8(fine.add(16))];
                            // Both groups of a run have the same.
                            let row_scale = *x[t].scales.get_unchecked(2 * at);
                            for r in 0..R {
                                if F::SPAN == RUN {
                                    let dots = $dot($dot(zero, w[r][0], coarse[0]), w[r][1], coarse[1]);
                                    let mut dots = vshlq_n_s32::<{ COARSE.trailing_zeros() as i32 }>(dots);
                                    if FINE {
                                        dots = $dot($dot(dots, w[r][0], fine[0]), w[r][1], fine[1]);
                                    }
                                    let both = scales[r].scale[run] * row_scale;
                                    sums[r][t] = vfmaq_n_f32(sums[r][t], vcvtq_f32_s32(dots), both);
                                } else {
                                    for half in 0..2 {
                                        let dots = $dot(zero, w[r][half], coarse[half]);
                                        let mut dots = vshlq_n_s32::<{ COARSE.trailing_zeros() as i32 }>(dots);
                                        if FINE {
                                            dots = $dot(dots, w[r][half], fine[half]);
                                        }
                                        let both = scales[r].scale[2 * run + half] * row_scale;
                                        sums[r][t] = vfmaq_n_f32(sums[r][t], vcvtq_f32_s32(dots), both);
                                    }
                                }
                                if F::OFFSET {
                                    let group_sums = vld1_f32(x[t].sums.as_ptr().add(2 * at));
                                    let offset = if F::SPAN == RUN {
                                        vdup_n_f32(scales[r].offset[run])
                                    } else {
                                        vld1_f32(scales[r].offset.as_ptr().add(2 * run))
                                    };
                                    offsets[r][t] = vfma_f32(offsets[r][t], offset, group_sums);
                                }
                            }
                        }
                    }
                }
            }
            let mut totals = [[0.0; T]; R];
            for r in 0..R {
                for t in 0..T {
                    totals[r][t] = vaddvq_f32(sums[r][t]) + vaddv_f32(offsets[r][t]);
                }
            }
            totals
        }
    };
}

product!(with_sdot, pair_with_sdot, sdot_rows, "neon,dotprod", sdot);
product!(with_widening, pair_with_widening, widening_rows, "neon", widening_dot);
