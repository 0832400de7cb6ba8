//! f32 rounded to bf16, in the pairs of neighbours along the summed dimension that a CPU with such an instruction multiplies at
//! twice the rate of f32. A pair lies in the place of one f32, the earlier number in its lower half.

use std::arch::x86_64::*;

use crate::kernels::gemm::{PANEL, Product};

/// f32 of a vector, and pairs.
const LANES: usize = PANEL;

/// Whether the CPU multiplies pairs.
pub fn available() -> bool {
    is_x86_feature_detected!("avx512bf16") && is_x86_feature_detected!("avx512bw")
}

/// Computes the product with both factors rounded: those of B in their place, `held`, those of A a number of rows at a time in
/// `rounded`.
///
/// # Safety
/// As for [`Product::run`], and the CPU multiplies pairs. The elements of a row of A lie together, the panels of B too; `held` is
/// all of B, and `rounded` has room for a row.
pub unsafe fn run(product: &Product, held: &mut [f32], rounded: &mut [f32]) {
    let (panels, pairs) = (product.cols.div_ceil(PANEL), product.depth.div_ceil(2));
    for panel in held.chunks_mut(product.b.2).take(panels) {
        // SAFETY: the caller's promise.
        unsafe { pair_rows(panel, product.depth) };
    }
    let rows_at_once = rounded.len() / pairs;
    for first in (0..product.rows).step_by(rows_at_once) {
        let rows = rows_at_once.min(product.rows - first);
        for (row, out) in rounded.chunks_mut(pairs).take(rows).enumerate() {
            // SAFETY: the caller's promise about A.
            unsafe {
                let row = std::slice::from_raw_parts(product.a.0.add((first + row) * product.a.1), product.depth);
                pair_elements(row, out);
            }
        }
        let part = Product {
            a: (rounded.as_ptr(), pairs, 1),
            b: (held.as_ptr(), product.b.1, product.b.2),
            out: (product.out.0.wrapping_add(first * product.out.1), product.out.1),
            rows,
            depth: pairs,
            ..*product
        };
        // SAFETY: the caller's promise; there are `rows` rounded rows, and the panels hold as many pairs as those.
        unsafe { part.run_pairs() };
    }
}

/// Turns `rows` rows of 16 f32 into rows of 16 pairs, of one row and the next each, in the first places of `panel`. The last of
/// an odd number is paired with zeros.
///
/// # Panics
/// If the panel is shorter.
///
/// # Safety
/// The CPU multiplies pairs.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
unsafe fn pair_rows(panel: &mut [f32], rows: usize) {
    let panel = &mut panel[..rows * LANES];
    // Word i of the first vector, then word i of the second.
    const TURNED: [i16; 2 * LANES] = {
        let mut turned = [0; 2 * LANES];
        let mut i = 0;
        while i < LANES {
            (turned[2 * i], turned[2 * i + 1]) = (i as i16, (LANES + i) as i16);
            i += 1;
        }
        turned
    };
    // SAFETY: the table is a vector long.
    let turned = unsafe { _mm512_loadu_si512(TURNED.as_ptr().cast()) };
    for pair in 0..rows.div_ceil(2) {
        let row = |r: usize| match panel.get(r * LANES..(r + 1) * LANES) {
            // SAFETY: the slice is a vector long.
            Some(row) => unsafe { _mm512_loadu_ps(row.as_ptr()) },
            None => _mm512_setzero_ps(),
        };
        let halves = _mm512_cvtne2ps_pbh(row(2 * pair + 1), row(2 * pair));
        let out = &mut panel[pair * LANES..][..LANES];
        // SAFETY: any bits are words and f32; the slice is a vector long, and lies before the rows that are still to be read.
        unsafe {
            let words = std::mem::transmute::<__m512bh, __m512i>(halves);
            _mm512_storeu_si512(out.as_mut_ptr().cast(), _mm512_permutexvar_epi16(turned, words));
        }
    }
}

/// out = the numbers of `x` in pairs, `x.len()` / 2 rounded up. The last of an odd number is paired with zero.
///
/// # Panics
/// If `out` is shorter.
///
/// # Safety
/// The CPU multiplies pairs.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
unsafe fn pair_elements(x: &[f32], out: &mut [f32]) {
    let out = &mut out[..x.len().div_ceil(2)];
    let (chunks, rest) = x.as_chunks::<{ 2 * LANES }>();
    let (outs, last) = out.split_at_mut(chunks.len() * LANES);
    for (x, out) in chunks.iter().zip(outs.as_chunks_mut::<LANES>().0) {
        // SAFETY: the arrays are two vectors and one vector long; any bits are f32.
        unsafe {
            let [low, high] = [x.as_ptr(), x.as_ptr().add(LANES)].map(|at| _mm512_loadu_ps(at));
            let pairs = std::mem::transmute::<__m512bh, __m512>(_mm512_cvtne2ps_pbh(high, low));
            _mm512_storeu_ps(out.as_mut_ptr(), pairs);
        }
    }
    if !rest.is_empty() {
        let mut padded = [0.0; 2 * LANES];
        padded[..rest.len()].copy_from_slice(rest);
        let mut pairs = [0.0; LANES];
        // SAFETY: the caller's promise.
        unsafe { pair_elements(&padded, &mut pairs) };
        last.copy_from_slice(&pairs[..last.len()]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a pair stands for.
    fn of(pair: f32) -> [f32; 2] {
        let bits = pair.to_bits();
        [bits << 16, bits & 0xffff_0000].map(f32::from_bits)
    }

    /// Numbers that bf16 holds.
    fn exact(i: usize) -> f32 {
        (i % 251) as f32 - 100.0
    }

    #[test]
    fn neighbours_are_paired_whatever_their_number() {
        if !available() {
            return;
        }
        for rows in [1, 2, 5, 8] {
            let mut panel: Vec<f32> = (0..rows * LANES).map(exact).collect();
            let before = panel.clone();
            // SAFETY: the CPU was asked.
            unsafe { pair_rows(&mut panel, rows) };
            for pair in 0..rows.div_ceil(2) {
                for lane in 0..LANES {
                    let row = |r: usize| before.get(r * LANES + lane).copied().unwrap_or(0.0);
                    assert_eq!(of(panel[pair * LANES + lane]), [row(2 * pair), row(2 * pair + 1)]);
                }
            }
        }
        for len in [1, 2, 15, 16, 17, 31, 32, 33, 100] {
            let x: Vec<f32> = (0..len).map(exact).collect();
            let mut out = vec![0.5; len.div_ceil(2) + 1];
            // SAFETY: as above.
            unsafe { pair_elements(&x, &mut out) };
            for (x, &pair) in x.chunks(2).zip(&out) {
                assert_eq!(of(pair), [x[0], x.get(1).copied().unwrap_or(0.0)]);
            }
            assert_eq!(out.last(), Some(&0.5), "beyond");
        }
    }

    #[test]
    fn numbers_are_rounded_to_nearest() {
        if !available() {
            return;
        }
        // Eight bits of mantissa: a tie goes to even, what is above it up.
        let x = [1.0 + 1.0 / 256.0, 1.0 + 1.5 / 256.0, f32::NAN, -3.0];
        let mut out = [0.0; 2];
        // SAFETY: the CPU was asked.
        unsafe { pair_elements(&x, &mut out) };
        assert_eq!(of(out[0]), [1.0, 1.0 + 2.0 / 256.0]);
        assert!(of(out[1])[0].is_nan() && of(out[1])[1] == -3.0);
    }
}
