//! The half spectrum of a real row by a complex transform of half its length, in both directions.
//!
//! Even and odd elements of a row of 2m are real and imaginary parts of m complex numbers z. With W, what an *inverse* transform
//! makes of the halves of conj z ([`pack`]), the row's spectrum X is
//!
//! ```text
//! X[k]   =       (conj W[k] + W[m−k]) + turn[k]·(conj W[k] − W[m−k])
//! X[m−k] = conj ((conj W[k] + W[m−k]) − turn[k]·(conj W[k] − W[m−k]))        turn[k] = −i·e^{−πi·k/m}
//! ```
//!
//! The way back is the same with conj X for conj W, its conjugate and without the halves, and an inverse transform of what it
//! gives is the row of numbers z: one table serves both directions, and the last step is the transform's. Pairs are computed in place,
//! four at a time where the CPU has AVX and FMA.

use num_complex::Complex32;

use super::circle::circle;

/// The factors of a row of 2m: those of k from 0 to m/2.
pub fn turns(m: usize) -> Box<[Complex32]> {
    (0..=m / 2).map(|k| Complex32::new(0.0, -1.0) * circle(k, 2 * m)).collect()
}

#[inline(always)]
fn pack_body<const FUSED: bool>(row: &[f32], halves: &mut [Complex32]) {
    let (pairs, odd) = row.as_chunks::<2>();
    assert!(odd.is_empty() && pairs.len() == halves.len(), "{} halves of a row of {}", halves.len(), row.len());
    for (half, &[re, im]) in halves.iter_mut().zip(pairs) {
        *half = Complex32::new(0.5 * re, -0.5 * im);
    }
}

multiversion! {
    /// The halves of conj z of a row.
    ///
    /// # Panics
    /// Unless `row` has two elements for each of `halves`.
    pack, pack_body(row: &[f32], halves: &mut [Complex32])
}

#[inline(always)]
fn conjugate_to_body<const FUSED: bool>(from: &[Complex32], to: &mut [Complex32]) {
    assert_eq!(from.len(), to.len(), "bins and conjugates");
    for (to, from) in to.iter_mut().zip(from) {
        *to = from.conj();
    }
}

multiversion! {
    /// The conjugate of each bin.
    ///
    /// # Panics
    /// Unless there are as many of both.
    conjugate_to, conjugate_to_body(from: &[Complex32], to: &mut [Complex32])
}

/// Makes X, m + 1 bins, of the W that the first m of `bins` hold.
///
/// # Panics
/// Unless `turns` are those of m ≥ 1.
pub fn split(turns: &[Complex32], bins: &mut [Complex32]) {
    let m = half_len(turns, bins);
    let Complex32 { re, im } = bins[0];
    (bins[0], bins[m]) = (Complex32::new(2.0 * (re - im), 0.0), Complex32::new(2.0 * (re + im), 0.0));
    pairs::<false>(turns, &mut bins[..m]);
}

/// Makes what an inverse transform turns into z, in the first m of `bins`, of the X that they hold, whose bins 0 and m have no imaginary
/// part.
///
/// # Panics
/// Unless `turns` are those of m ≥ 1.
pub fn join(turns: &[Complex32], bins: &mut [Complex32]) {
    let m = half_len(turns, bins);
    let (first, last) = (bins[0].re, bins[m].re);
    bins[0] = Complex32::new(first + last, first - last);
    pairs::<true>(turns, &mut bins[..m]);
}

fn half_len(turns: &[Complex32], bins: &[Complex32]) -> usize {
    let m = bins.len().saturating_sub(1);
    assert!(m > 0 && turns.len() == m / 2 + 1, "{} factors for {} bins", turns.len(), bins.len());
    m
}

/// Every pair but that of bin 0. `BACK`: the conjugate of what is made of the conjugates.
fn pairs<const BACK: bool>(turns: &[Complex32], bins: &mut [Complex32]) {
    let m = bins.len();
    #[cfg(target_arch = "x86_64")]
    let first = if is_x86_feature_detected!("avx") && is_x86_feature_detected!("fma") {
        // SAFETY: the CPU has both.
        unsafe { four_pairs::<BACK>(turns, bins) }
    } else {
        1
    };
    #[cfg(not(target_arch = "x86_64"))]
    let first = 1;
    for k in first..=m / 2 {
        let (a, b) = (bins[k].conj(), bins[m - k]);
        let (sum, turned) = (a + b, turns[k] * (a - b));
        let (near, far) = (sum + turned, sum - turned);
        (bins[k], bins[m - k]) = if BACK { (near.conj(), far) } else { (near, far.conj()) };
    }
}

/// The pairs from 1 on, four at a time, as long as the four and their mirrors do not meet; returns the first that is left.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx,fma")]
fn four_pairs<const BACK: bool>(turns: &[Complex32], bins: &mut [Complex32]) -> usize {
    use std::arch::x86_64::*;

    /// Complex numbers of a vector.
    const FOUR: usize = 4;
    let reversed = |v| _mm256_permute_pd::<0b0101>(_mm256_permute2f128_pd::<1>(v, v));
    let imaginary = _mm256_castsi256_ps(_mm256_set1_epi64x(i64::MIN));
    let conj = |v| _mm256_xor_ps(v, imaginary);
    let m = bins.len();
    let start = bins.as_mut_ptr();
    let mut k = 1;
    while 2 * (k + FOUR - 1) < m {
        // SAFETY: k + 3 is below m − k − 3, so that both fours lie inside the bins and apart, and k + 3 < m/2 has a factor.
        unsafe {
            let (near, far) = (start.add(k).cast::<f32>(), start.add(m - k - (FOUR - 1)).cast::<f64>());
            let (a, b) = (conj(_mm256_loadu_ps(near)), _mm256_castpd_ps(reversed(_mm256_loadu_pd(far))));
            let (sum, difference) = (_mm256_add_ps(a, b), _mm256_sub_ps(a, b));
            let turn = _mm256_loadu_ps(turns.as_ptr().add(k).cast());
            let crossed = _mm256_mul_ps(_mm256_movehdup_ps(turn), _mm256_permute_ps::<0b10_11_00_01>(difference));
            let turned = _mm256_fmaddsub_ps(_mm256_moveldup_ps(turn), difference, crossed);
            let (a, b) = (_mm256_add_ps(sum, turned), _mm256_sub_ps(sum, turned));
            let (a, b) = if BACK { (conj(a), b) } else { (a, conj(b)) };
            _mm256_storeu_ps(near, a);
            _mm256_storeu_pd(far, reversed(_mm256_castps_pd(b)));
        }
        k += FOUR;
    }
    k
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(i: usize) -> f32 {
        ((i as u32).wrapping_mul(2_654_435_761) >> 8) as f32 / 8_388_608.0 - 1.0
    }

    /// Σ x · e^{sign·2πi·j·k/len}, in f64.
    fn naive(x: &[Complex32], sign: f64) -> Vec<(f64, f64)> {
        let angle = |j: usize, k: usize| sign * std::f64::consts::TAU * (j * k % x.len()) as f64 / x.len() as f64;
        let term = |(j, z): (usize, &Complex32), k| {
            let ((sin, cos), re, im) = (angle(j, k).sin_cos(), f64::from(z.re), f64::from(z.im));
            (re * cos - im * sin, re * sin + im * cos)
        };
        let add = |a: (f64, f64), b: (f64, f64)| (a.0 + b.0, a.1 + b.1);
        (0..x.len()).map(|k| x.iter().enumerate().map(|z| term(z, k)).fold((0.0, 0.0), add)).collect()
    }

    fn assert_close(got: &[Complex32], want: &[(f64, f64)], what: &str) {
        for (k, (got, want)) in got.iter().zip(want).enumerate() {
            let error = (f64::from(got.re) - want.0).abs().max((f64::from(got.im) - want.1).abs());
            assert!(error < 2e-6 * (want.0.abs() + want.1.abs() + 4.0), "{what} bin {k}: {got} for {want:?}");
        }
    }

    fn narrowed(x: &[(f64, f64)]) -> Vec<Complex32> {
        x.iter().map(|z| Complex32::new(z.0 as f32, z.1 as f32)).collect()
    }

    #[test]
    fn halves_and_wholes_agree_in_both_directions() {
        for m in (1..40).chain([96, 97, 288]) {
            let row: Vec<f32> = (0..2 * m).map(noise).collect();
            let turns = turns(m);
            let real: Vec<Complex32> = row.iter().map(|&x| Complex32::new(x, 0.0)).collect();
            let whole = naive(&real, -1.0);
            let mut halves = vec![Complex32::default(); m];
            pack(&row, &mut halves);
            let mut bins = narrowed(&naive(&halves, 1.0));
            bins.push(Complex32::new(f32::NAN, f32::NAN));
            split(&turns, &mut bins);
            assert_close(&bins, &whole, &format!("half spectrum of {}", 2 * m));

            let mut bins = narrowed(&whole[..=m]);
            join(&turns, &mut bins);
            let back = naive(&bins[..m], 1.0);
            for (n, (got, want)) in back.iter().zip(row.as_chunks::<2>().0).enumerate() {
                let (re, im) = (got.0 / (2 * m) as f64, got.1 / (2 * m) as f64);
                let error = (re - f64::from(want[0])).abs().max((im - f64::from(want[1])).abs());
                assert!(error < 2e-6, "{m}: element {n} is {re} {im} for {want:?}");
            }
        }
    }
}
