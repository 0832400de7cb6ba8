//! Entries that prefer a frequency: the paper's Eq. 5.
//!
//! `p(u,v) = exp(−((D² − f_c²) / (D·W))²)`, where `D` is the distance of `(u, v)` from the centre `(d1/2, d2/2)` of the
//! matrix as it is stored. That is the paper's wording and its authors' code; neither shifts the spectrum, so the
//! transform's zero frequency is at the corners (large `D`) and the centre is the highest frequency.
//! At the centre itself the limit is taken: 1 for `f_c = 0`, else 0, which makes it the last choice.
//!
//! Sampling without replacement: position `i` (row-major) gets an exponential variate `E_i` of rate `p_i`, and the `n`
//! smallest, in order, are the draw (Efraimidis & Spirakis, 2006, in logarithms: `ln E_i = ln(−ln U_i) + a_i` with
//! `p_i = e^{−a_i}`). `U_i = (k + ½)/2^52`, `k` the top 52 bits of output `i` of SplitMix64 started at the seed.
//!
//! Every platform draws the same: `4D²` is an integer, `a_i` takes only IEEE basic operations, which are exactly rounded
//! everywhere, no `exp` is needed, and the logarithm is the one below, not the platform's. Ties go to the lower position.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use super::{Shape, SpectralError};

/// No `ln(−ln U)` is below this: the largest `U` is `1 − 2^-53`, whose `−ln` is about `e^{-36.7}`.
const LEAST_KEY: f64 = -37.0;

/// Flat row-major positions of `n ≤ d1·d2` entries.
pub(super) fn draw(shape: Shape, n: usize, seed: u64, center: f64, bandwidth: f64) -> Result<Vec<u32>, SpectralError> {
    if !(0.0..=1e9).contains(&center) {
        return Err(SpectralError::Band { name: "centre frequency", value: center, expected: "0 to 1e9" });
    }
    if !(1e-6..=1e9).contains(&bandwidth) {
        return Err(SpectralError::Band { name: "bandwidth", value: bandwidth, expected: "1e-6 to 1e9" });
    }
    let (rows, cols) = (shape.rows() as i64, shape.cols() as i64);
    let mut best: BinaryHeap<Draw> = BinaryHeap::new();
    let mut position = 0u32;
    for u in 0..rows {
        let du = (2 * u - rows) * (2 * u - rows);
        for v in 0..cols {
            let d4 = du + (2 * v - cols) * (2 * v - cols);
            let cost = minus_ln_probability(d4, center, bandwidth);
            // Cheap test first: most positions cannot beat the worst kept one whatever they draw.
            let worst = if best.len() < n { f64::INFINITY } else { best.peek().map_or(f64::INFINITY, |d| d.key) };
            if best.len() < n || cost + LEAST_KEY <= worst {
                let key = ln(-ln(uniform(seed, position))) + cost;
                let draw = Draw { key, position };
                if best.len() < n {
                    best.push(draw);
                } else if best.peek().is_some_and(|last| draw < *last) {
                    best.pop();
                    best.push(draw);
                }
            }
            // The area is at most 2^31, so this does not wrap.
            position = position.wrapping_add(1);
        }
    }
    Ok(best.into_sorted_vec().into_iter().map(|d| d.position).collect())
}

/// `a = ((D² − f_c²)/(D·W))²` for `4D² = d4`, so that `p = e^{−a}`.
fn minus_ln_probability(d4: i64, center: f64, bandwidth: f64) -> f64 {
    let d2 = d4 as f64 * 0.25;
    if d4 == 0 {
        return if center == 0.0 { 0.0 } else { f64::INFINITY };
    }
    let off = d2 - center * center;
    (off * off) / (d2 * (bandwidth * bandwidth))
}

/// Number `index` of the SplitMix64 sequence that starts at `seed`, in (0, 1).
fn uniform(seed: u64, index: u32) -> f64 {
    let mut z = seed.wrapping_add((u64::from(index) + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^= z >> 31;
    ((z >> 12) as f64 + 0.5) * (1.0 / (1u64 << 52) as f64)
}

/// The natural logarithm of a positive normal number from basic operations alone: `x = m·2^e` with `m` near 1,
/// `ln m = 2·artanh((m−1)/(m+1))` by its series.
fn ln(x: f64) -> f64 {
    let bits = x.to_bits();
    let mut exponent = ((bits >> 52) & 0x7ff) as i64 - 1023;
    let mut m = f64::from_bits((bits & ((1 << 52) - 1)) | (1023 << 52));
    if m > std::f64::consts::SQRT_2 {
        m *= 0.5;
        exponent += 1;
    }
    let s = (m - 1.0) / (m + 1.0);
    let s2 = s * s;
    let series = (0..13u32).rev().fold(0.0, |sum, k| sum * s2 + 1.0 / f64::from(2 * k + 1));
    exponent as f64 * std::f64::consts::LN_2 + 2.0 * s * series
}

/// A position and its key; ordered by key, then position.
struct Draw {
    key: f64,
    position: u32,
}

impl Ord for Draw {
    fn cmp(&self, other: &Self) -> Ordering {
        self.key.total_cmp(&other.key).then(self.position.cmp(&other.position))
    }
}

impl PartialOrd for Draw {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Draw {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Draw {}

#[cfg(test)]
mod tests {
    use super::{ln, minus_ln_probability, uniform};

    #[test]
    fn the_logarithm_is_one() {
        for x in [1e-16, 0.1, 0.5, 0.70710678, 0.999_999, 1.0, 1.4142136, 2.0, 36.7, 1e300] {
            let (got, want) = (ln(x), f64::ln(x));
            assert!((got - want).abs() <= 1e-14 * want.abs().max(1e-2), "ln({x}) = {got}, expected {want}");
        }
    }

    #[test]
    fn eq_5_by_hand() {
        // D² = 4 (4D² = 16), f_c = 1, W = 3: ((4 − 1)/(2·3))² = 1/4.
        assert_eq!(minus_ln_probability(16, 1.0, 3.0), 0.25);
        assert_eq!(minus_ln_probability(4, 1.0, 3.0), 0.0, "certain at the centre frequency");
        assert_eq!(minus_ln_probability(0, 0.0, 3.0), 0.0);
        assert_eq!(minus_ln_probability(0, 1.0, 3.0), f64::INFINITY);
    }

    #[test]
    fn uniform_is_splitmix64() {
        // First outputs of SplitMix64 from seed 0 (Vigna's reference): e220a8397b1dcdaf, 6e789e6aa1b965f4.
        let top = |z: u64| ((z >> 12) as f64 + 0.5) / (1u64 << 52) as f64;
        assert_eq!(uniform(0, 0), top(0xe220_a839_7b1d_cdaf));
        assert_eq!(uniform(0, 1), top(0x6e78_9e6a_a1b9_65f4));
    }
}
