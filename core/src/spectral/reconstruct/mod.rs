//! The change as a dense matrix.
//!
//! An adapter's spectrum is sparse, so every row of `ΔW` is made on its own (`rows`) from the entries, by one
//! transform straight into its place. Where entries are so many that going through them for every row would be most of
//! the work, a row–column transform (`panels`) is the shorter way. Both use that `ΔW` is real twice over: half spectra, and
//! `ΔW[p, q] = ΔW[−p, −q]`.

mod panels;
mod rows;

use super::{Entries, SpectralError, Transforms};

/// Elements of the output for each thread beyond the first.
const THREAD_SHARE: usize = 1 << 20;

/// Entries, per column of the output, from which panels are faster than rows.
const DENSE: usize = 8;

/// Elements of the output for each entry and thread, so that what rows keep per entry stays a twentieth of the output.
const ENTRY_SHARE: usize = 80;

/// `ΔW` in f32, row-major `[d1, d2]`: see [`reconstruct_into`].
///
/// # Errors
/// As [`reconstruct_into`].
pub fn reconstruct(
    entries: &Entries,
    coefficients: &[f32],
    alpha: f64,
    transforms: &Transforms,
    threads: usize,
) -> Result<Vec<f32>, SpectralError> {
    let mut out = vec![0.0; entries.shape().rows() * entries.shape().cols()];
    reconstruct_into(entries, coefficients, alpha, transforms, threads, &mut out)?;
    Ok(out)
}

/// Writes `ΔW = α · Re(IDFT2(F))` to `out`, row-major `[d1, d2]`, with `coefficients` in entry order, on up to
/// `threads` threads (0 and 1 both mean the caller's own). From 256 inputs up it needs less than 10 % of
/// the output's size besides it.
///
/// # Errors
/// [`SpectralError::Length`] unless there is one coefficient per entry and `out` holds `d1·d2` values.
pub fn reconstruct_into(
    entries: &Entries,
    coefficients: &[f32],
    alpha: f64,
    transforms: &Transforms,
    threads: usize,
    out: &mut [f32],
) -> Result<(), SpectralError> {
    let (d1, d2) = (entries.shape().rows(), entries.shape().cols());
    check("coefficients", entries.len(), coefficients.len())?;
    check("output", d1 * d2, out.len())?;
    // A small weight is done before threads would be started.
    let threads = threads.min(1 + d1 * d2 / THREAD_SHARE).max(1);
    if entries.len() <= DENSE * d2 && entries.len() * threads * ENTRY_SHARE <= d1 * d2 {
        rows::write(entries, coefficients, alpha, transforms, threads, out);
    } else {
        panels::write(entries, coefficients, alpha, transforms, threads, out);
    }
    Ok(())
}

fn check(what: &'static str, expected: usize, found: usize) -> Result<(), SpectralError> {
    if expected == found { Ok(()) } else { Err(SpectralError::Length { what, expected, found }) }
}

/// Runs `work` on each part: on a thread each, or on this one when there is to be only one.
fn for_each_part<'scope, 'env, T: Send + 'scope>(
    scope: &'scope std::thread::Scope<'scope, 'env>,
    threads: usize,
    parts: impl Iterator<Item = T>,
    work: impl Fn(T) + Copy + Send + 'scope,
) {
    for part in parts {
        if threads == 1 {
            work(part);
        } else {
            scope.spawn(move || work(part));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spectral::{Shape, naive};

    type Write = fn(&Entries, &[f32], f64, &Transforms, usize, &mut [f32]);

    fn worst(found: &[f32], expected: &[f64]) -> f64 {
        let largest = expected.iter().fold(0.0f64, |m, v| m.max(v.abs()));
        found.iter().zip(expected).fold(0.0f64, |m, (&a, b)| m.max((f64::from(a) - b).abs())) / largest
    }

    #[test]
    fn rows_and_panels_are_the_naive_sum_for_sides_of_every_kind() {
        let transforms = Transforms::new();
        for (d1, d2) in [(1, 1), (1, 6), (2, 5), (3, 4), (4, 1), (7, 9), (12, 30), (31, 16), (64, 48), (45, 77)] {
            for n in [1, d1 * d2 / 3, d1 * d2] {
                let entries = Entries::seeded(Shape::new(d1, d2).unwrap(), n.max(1), 7).unwrap();
                let coefficients: Vec<f32> =
                    (0..entries.len()).map(|i| (i * 7919 % 2003) as f32 / 1000.0 - 1.0).collect();
                let expected = naive::delta(&entries, &coefficients, 300.0).unwrap();
                for (name, write) in [("rows", rows::write as Write), ("panels", panels::write)] {
                    for threads in [1, 3] {
                        // What was there before must not show.
                        let mut out = vec![f32::NAN; d1 * d2];
                        write(&entries, &coefficients, 300.0, &transforms, threads, &mut out);
                        let error = worst(&out, &expected);
                        assert!(error < 1e-5, "{name}, {d1}x{d2}, {n} entries, {threads} threads: {error:e}");
                    }
                }
            }
        }
    }
}
