//! The sum as the paper writes it, in f64: slow, and what everything else is measured against.

use super::{Entries, SpectralError};

/// `ΔW[p,q] = α/(d1·d2) · Σ_l c_l · cos(2π(p·j_l/d1 + q·k_l/d2))`, row-major `[d1, d2]`, in O(n·d1·d2).
///
/// # Errors
/// [`SpectralError::Length`] unless there is one coefficient per entry.
pub fn delta(entries: &Entries, coefficients: &[f32], alpha: f64) -> Result<Vec<f64>, SpectralError> {
    if coefficients.len() != entries.len() {
        let (expected, found) = (entries.len(), coefficients.len());
        return Err(SpectralError::Length { what: "coefficients", expected, found });
    }
    let (d1, d2) = (entries.shape().rows(), entries.shape().cols());
    let scale = alpha / entries.shape().area() as f64;
    let (down, across) = (circle(d1), circle(d2));
    let mut out = vec![0.0; d1 * d2];
    for ((&j, &k), &c) in entries.rows().iter().zip(entries.cols()).zip(coefficients) {
        let c = f64::from(c) * scale;
        for (p, row) in out.chunks_exact_mut(d2).enumerate() {
            // Angles are reduced as integers, so that no phase loses digits.
            let (cos_a, sin_a) = down[p * j as usize % d1];
            let mut turn = 0;
            for value in row {
                let (cos_b, sin_b) = across[turn];
                *value += c * (cos_a * cos_b - sin_a * sin_b);
                turn += k as usize;
                if turn >= d2 {
                    turn -= d2;
                }
            }
        }
    }
    Ok(out)
}

/// `(cos, sin)` of `2π·i/d` for `i < d`.
fn circle(d: usize) -> Vec<(f64, f64)> {
    (0..d).map(|i| (std::f64::consts::TAU * i as f64 / d as f64).sin_cos()).map(|(s, c)| (c, s)).collect()
}
