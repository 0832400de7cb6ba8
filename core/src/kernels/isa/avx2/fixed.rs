//! Products of numbers in fixed point: two 16-bit products and their sum in one `vpmaddwd`.

use std::arch::x86_64::*;

use crate::kernels::gemm::PANEL;
use crate::kernels::transposed::{FixedProduct, SPAN};

/// Lanes of a vector.
const LANES: usize = 8;
/// Vectors of a panel.
const HALVES: usize = PANEL / LANES;

/// See [`FixedFn`](crate::kernels::isa::FixedFn).
#[target_feature(enable = "avx2,fma")]
pub unsafe fn multiply(product: &FixedProduct) {
    for panel in 0..product.cols.div_ceil(PANEL) {
        let mut t = 0;
        while t < product.rows {
            // SAFETY: as the caller promises; rows and panel lie in the product.
            t += unsafe {
                match product.rows - t {
                    1 => tile::<1>(product, panel, t),
                    2 => tile::<2>(product, panel, t),
                    3 => tile::<3>(product, panel, t),
                    4 | 8 => tile::<4>(product, panel, t),
                    5 => tile::<5>(product, panel, t),
                    _ => tile::<6>(product, panel, t),
                }
            };
        }
    }
}

/// `T` rows from `t` on times a panel; returns how many rows.
#[inline]
#[target_feature(enable = "avx2,fma")]
unsafe fn tile<const T: usize>(product: &FixedProduct, panel: usize, t: usize) -> usize {
    // SAFETY: as the caller promises, all that is read and written lies in the product.
    unsafe {
        let (g, g_row) = (product.g.0.add(t * product.g.1), product.g.1);
        let (g_steps, g_steps_row) = (product.g_steps.0.add(t * product.g_steps.1), product.g_steps.1);
        let w = product.w.add(panel * product.spans * (SPAN / 2) * PANEL);
        let w_steps = product.w_steps.add(panel * product.spans);
        let mut sums = [[_mm256_setzero_ps(); HALVES]; T];
        for span in 0..product.spans {
            let mut dots = [[_mm256_setzero_si256(); HALVES]; T];
            let (g, w) = (g.add(span * SPAN), w.add(span * (SPAN / 2) * PANEL));
            for pair in 0..SPAN / 2 {
                let w: [__m256i; HALVES] =
                    std::array::from_fn(|h| _mm256_loadu_si256(w.add(pair * PANEL + LANES * h).cast()));
                for (k, dots) in dots.iter_mut().enumerate() {
                    let g = _mm256_set1_epi32(g.add(k * g_row + 2 * pair).cast::<i32>().read_unaligned());
                    for (dot, w) in dots.iter_mut().zip(w) {
                        *dot = _mm256_add_epi32(*dot, _mm256_madd_epi16(w, g));
                    }
                }
            }
            let w_step = *w_steps.add(span);
            for k in 0..T {
                let step = _mm256_set1_ps(w_step * *g_steps.add(k * g_steps_row + span));
                for h in 0..HALVES {
                    sums[k][h] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(dots[k][h]), step, sums[k][h]);
                }
            }
        }
        for (k, sums) in sums.iter().enumerate() {
            for (h, sum) in sums.iter().enumerate() {
                let column = panel * PANEL + LANES * h;
                let out = product.out.0.add((t + k) * product.out.1 + column);
                let width = product.cols.saturating_sub(column).min(LANES);
                if width == LANES {
                    let before = if product.accumulate { _mm256_loadu_ps(out) } else { _mm256_setzero_ps() };
                    _mm256_storeu_ps(out, _mm256_add_ps(before, *sum));
                    continue;
                }
                let mut values = [0.0; LANES];
                if product.accumulate {
                    std::ptr::copy_nonoverlapping(out, values.as_mut_ptr(), width);
                }
                let all = _mm256_add_ps(_mm256_loadu_ps(values.as_ptr()), *sum);
                _mm256_storeu_ps(values.as_mut_ptr(), all);
                std::ptr::copy_nonoverlapping(values.as_ptr(), out, width);
            }
        }
    }
    T
}
