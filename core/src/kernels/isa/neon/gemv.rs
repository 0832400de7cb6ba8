//! Products of weight rows, where they lie, with one activation row, or four without panels.
//!
//! Blocks are unpacked in registers, 128 columns of two weight rows at a time, which share the activations. Columns that share a
//! scale share their integer sums: the coarse plane's are shifted up by the plane's worth and the fine plane's added on top. The sums of
//! four runs are then converted and scaled together, a run in each lane.

use std::arch::aarch64::*;

use super::dot::{in_fine_steps, sdot, widening_dot};
use super::spans::{RowSpans, STEP, Spans, Sums};
use super::unpack::{RUN, Scales, Unpack};
use crate::kernels::activations::Row;
use crate::kernels::prefetch::Span;

/// Weight rows taken together.
const ROWS: usize = 2;

/// The product `$name` over the int8 dot product `$dot`, compiled for `$features`; see [`PanelFn`](super::super::PanelFn).
macro_rules! product {
    ($name:ident, $pair:ident, $rows:ident, $step:ident, $features:literal, $dot:ident) => {
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
            const HALF: usize = STEP / 2;
            let mut sums = [[Sums::new(); T]; R];
            let (blocks, mut block) = (row_bytes / F::BYTES, 0);
            // SAFETY: the caller promises R rows of whole blocks, and activations for as many runs.
            unsafe {
                let block_of = |block: usize| start.map(|start| start.add(block * F::BYTES));
                if F::LEN == RUN {
                    while block + STEP <= blocks {
                        let spans = block_of(block).map(|p| Spans::of_blocks::<F, STEP>(p));
                        $step::<F, FINE, T, R, STEP>(block_of(block), &spans, 0, x, block, &mut sums);
                        block += STEP;
                    }
                    if block + HALF <= blocks {
                        let spans = block_of(block).map(|p| Spans::of_blocks::<F, HALF>(p));
                        $step::<F, FINE, T, R, HALF>(block_of(block), &spans, 0, x, block, &mut sums);
                        block += HALF;
                    }
                    if block < blocks {
                        let spans = block_of(block).map(|p| Spans::of_blocks::<F, 1>(p));
                        $step::<F, FINE, T, R, 1>(block_of(block), &spans, 0, x, block, &mut sums);
                    }
                } else {
                    let mut scales = [const { Scales::new() }; R];
                    for block in 0..blocks {
                        for (p, scales) in block_of(block).into_iter().zip(&mut scales) {
                            F::scales(p, scales);
                        }
                        for run in (0..F::LEN / RUN).step_by(STEP) {
                            let spans = scales.each_ref().map(|scales| Spans::of_runs::<F>(scales, run));
                            let at = block * (F::LEN / RUN) + run;
                            $step::<F, FINE, T, R, STEP>(block_of(block), &spans, run, x, at, &mut sums);
                        }
                    }
                }
            }
            sums.map(|sums| sums.map(|sums| sums.total()))
        }

        /// Adds the products of `N` runs of each row, whose `spans` these are, with those of the activations from run `at` on: of blocks of one run
        /// so many from `p` on, of longer ones the runs from `run` on of the one at `p`. (Spans come before, and all lanes before all products: in
        /// other orders compilers found no registers for the sums.)
        ///
        /// # Safety
        /// The CPU has the features, and there are as many runs.
        #[inline]
        #[target_feature(enable = $features)]
        unsafe fn $step<F: Unpack, const FINE: bool, const T: usize, const R: usize, const N: usize>(
            p: [*const u8; R],
            spans: &[Spans; R],
            run: usize,
            x: &[Row<'_>; T],
            at: usize,
            sums: &mut [[Sums; T]; R],
        ) {
            // Where the halves of a run share a scale, they share sums.
            let group = |half: usize| if F::SPAN == RUN { 0 } else { half };
            let zero = vdupq_n_s32(0);
            let mut w = [[[vdupq_n_s8(0); 2]; N]; R];
            // SAFETY: the caller's promise.
            unsafe {
                for r in 0..R {
                    for n in 0..N {
                        w[r][n] =
                            if F::LEN == RUN { F::lanes(p[r].add(n * F::BYTES), 0) } else { F::lanes(p[r], run + n) };
                    }
                }
                for t in 0..T {
                    let vector = |plane: &[i8], n: usize, half: usize| {
                        vld1q_s8(plane.as_ptr().add((at + n) * RUN + half * (RUN / 2)))
                    };
                    let mut dots = [[[zero; STEP]; 2]; R];
                    // Two runs of R rows at a time: so many products that none waits for the one before it.
                    for first in (0..N).step_by(2) {
                        let runs = first..N.min(first + 2);
                        for half in 0..2 {
                            for n in runs.clone() {
                                let coarse = vector(x[t].lanes, n, half);
                                for r in 0..R {
                                    dots[r][group(half)][n] = $dot(dots[r][group(half)][n], w[r][n][half], coarse);
                                }
                            }
                        }
                        if !FINE {
                            continue;
                        }
                        for half in 0..=group(1) {
                            for n in runs.clone() {
                                for dots in &mut dots {
                                    dots[half][n] = in_fine_steps(dots[half][n]);
                                }
                            }
                        }
                        for half in 0..2 {
                            for n in runs.clone() {
                                let fine = vector(x[t].fine, n, half);
                                for r in 0..R {
                                    dots[r][group(half)][n] = $dot(dots[r][group(half)][n], w[r][n][half], fine);
                                }
                            }
                        }
                    }
                    let row = RowSpans::of::<F, N>(&x[t], at);
                    for r in 0..R {
                        sums[r][t].add::<F>(&spans[r], &row, dots[r]);
                    }
                }
            }
        }
    };
}

product!(with_sdot, pair_with_sdot, sdot_rows, sdot_step, "neon,dotprod", sdot);
product!(with_widening, pair_with_widening, widening_rows, widening_step, "neon", widening_dot);
