//! Few entries: every row from the entries themselves.
//!
//! ```text
//! ΔW[p, q] = α/(d1·d2) · Re Σ_l (c_l · e^{2πi·p·j_l/d1}) · e^{2πi·q·k_l/d2}
//! ```
//!
//! is, for one p, a real transform of length d2 of as many numbers as there are entries, folded onto the half spectrum. It goes
//! straight into the row, and backwards into row −p. There is no second pass, nothing is moved twice, and the only
//! memory beside the output is one spectrum and the entries for each thread.

use std::iter;

use num_complex::Complex32;

use super::for_each_part;
use crate::kernels::circle::circle;
use crate::spectral::plan::fold;
use crate::spectral::{Entries, RealFft, Transforms};

/// One entry on the half spectrum of a row.
struct Term {
    /// `α/(2·d1·d2) · c`: the half undoes the two of `twice_real`.
    coefficient: f32,
    bin: u32,
    /// j, or −j where k was folded: the phase is conjugated then. In `0..d1`.
    step: u32,
    /// `p·step mod d1` for the row p that is next.
    turn: u32,
}

/// Writes `ΔW` to `out`, for one coefficient per entry and `d1·d2` values. `O(d1·(n + d2·log d2))`.
pub(super) fn write(
    entries: &Entries,
    coefficients: &[f32],
    alpha: f64,
    transforms: &Transforms,
    threads: usize,
    out: &mut [f32],
) {
    let (d1, d2) = (entries.shape().rows(), entries.shape().cols());
    let rows = Rows { entries, coefficients, alpha, fft: transforms.real(d2), phases: phases(d1) };
    // Rows p and d1 − p are each other's mirror; row 0, and d1/2 of an even number, are their own.
    let (upper, lower) = out.split_at_mut((d1 / 2 + 1) * d2);
    let (zero, upper) = upper.split_at_mut(d2);
    rows.write_from(0, zero, &mut []);
    let share = (d1 / 2).div_ceil(threads).max(1);
    std::thread::scope(|scope| {
        let mirrors = lower.rchunks_mut(share * d2).chain(iter::repeat_with(Default::default));
        let parts = (1..).step_by(share).zip(upper.chunks_mut(share * d2)).zip(mirrors);
        for_each_part(scope, threads, parts, |((first, upper), lower)| rows.write_from(first, upper, lower));
    });
}

struct Rows<'a> {
    entries: &'a Entries,
    coefficients: &'a [f32],
    alpha: f64,
    fft: RealFft,
    /// `e^{2πi·t/d1}` for `t < d1`.
    phases: Vec<Complex32>,
}

impl Rows<'_> {
    /// The rows from `first` into `upper`, and their mirrors from the end of `lower` upwards, as far as it goes.
    fn write_from(&self, first: usize, upper: &mut [f32], lower: &mut [f32]) {
        let (d1, d2) = (self.phases.len(), self.fft.len());
        let mut terms = self.terms(first);
        let mut bins = vec![Complex32::default(); self.fft.bins()];
        let mut scratch = vec![Complex32::default(); self.fft.scratch_len()];
        let mut mirrors = lower.rchunks_exact_mut(d2);
        for row in upper.chunks_exact_mut(d2) {
            bins.fill(Complex32::default());
            for term in &mut terms {
                bins[term.bin as usize] += self.phases[term.turn as usize] * term.coefficient;
                let turn = term.turn + term.step;
                term.turn = if turn >= d1 as u32 { turn - d1 as u32 } else { turn };
            }
            self.fft.twice_real(&mut bins, row, &mut scratch);
            if let Some([mirror_first, mirror @ ..]) = mirrors.next() {
                *mirror_first = row[0];
                mirror.iter_mut().zip(row[1..].iter().rev()).for_each(|(to, &value)| *to = value);
            }
        }
    }

    /// The terms of row `p`, by bin.
    fn terms(&self, p: usize) -> Vec<Term> {
        let (d1, d2) = (self.entries.shape().rows() as u32, self.entries.shape().cols() as u32);
        let scale = (self.alpha / (2.0 * self.entries.shape().area() as f64)) as f32;
        let positions = self.entries.rows().iter().zip(self.entries.cols());
        let term = |((&j, &k), &c): ((&u32, &u32), &f32)| {
            let (bin, mirrored) = fold(k, d2);
            let step = if mirrored && j > 0 { d1 - j } else { j };
            let turn = (p as u64 * u64::from(step) % u64::from(d1)) as u32;
            Term { coefficient: c * scale, bin, step, turn }
        };
        let mut terms: Vec<Term> = positions.zip(self.coefficients).map(term).collect();
        terms.sort_unstable_by_key(|term| (term.bin, term.step));
        terms
    }
}

/// `e^{2πi·t/d}` for `t < d`.
fn phases(d: usize) -> Vec<Complex32> {
    (0..d).map(|t| circle(t, d).conj()).collect()
}
