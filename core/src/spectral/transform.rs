//! The change, its adjoint and its gradient, on half spectra; `ΔW` is never formed.
//!
//! With `X` and `G` the half spectra that [`RealFft::spectrum`](super::RealFft::spectrum) gives of the input and of the
//! upstream gradient, and `α` the adapter's scale:
//!
//! ```text
//! ΔWx      = twice_real(Z)         Z[row_l] += α/(2·d1·d2) · c_l · X[col_l]        apply
//! ΔWᵀg     = twice_real(Y)         Y[col_l] += α/(2·d1·d2) · c_l · G[row_l]        adjoint
//! ∂L/∂c_l += α/(d1·d2) · Re(G[row_l] · X[col_l])                                   gradient
//! ```
//!
//! where `row_l`, `col_l` are the entry's bins and the imaginary part changes sign for the entries
//! [`Plan`] says so of. All three share the bins and the sign, because conjugating both frequencies of an
//! entry is what both directions do. Several adapters add into one `Z` before a single inverse transform.
//! Coefficients and gradients are in the plan's stored order. Nothing here allocates.

use num_complex::Complex32;

use super::Plan;
use super::plan::Bins;

/// Adds the spectrum of `ΔWx` to `output`; `alpha` is the adapter's scale times the weight it is mixed in with.
///
/// `input` is the half spectrum of x (`d2/2 + 1` bins), `output` the one to be handed to
/// [`RealFft::twice_real`](super::RealFft::twice_real) (`d1/2 + 1` bins), `stored` the coefficients in stored order.
///
/// # Panics
/// If a slice is shorter than that.
pub fn apply(plan: &Plan, stored: &[f32], alpha: f64, input: &[Complex32], output: &mut [Complex32]) {
    let scale = half_scale(plan, alpha);
    match &plan.bins {
        Bins::Narrow { rows, cols } => scatter(cols, rows, plan.keep, stored, scale, input, output),
        Bins::Wide { rows, cols } => scatter(cols, rows, plan.keep, stored, scale, input, output),
    }
}

/// Adds the spectrum of `ΔWᵀg` to `output`: [`apply`] with the sides exchanged.
///
/// `upstream` is the half spectrum of g (`d1/2 + 1` bins), `output` has `d2/2 + 1`.
///
/// # Panics
/// If a slice is shorter than that.
pub fn adjoint(plan: &Plan, stored: &[f32], alpha: f64, upstream: &[Complex32], output: &mut [Complex32]) {
    let scale = half_scale(plan, alpha);
    match &plan.bins {
        Bins::Narrow { rows, cols } => scatter(rows, cols, plan.keep, stored, scale, upstream, output),
        Bins::Wide { rows, cols } => scatter(rows, cols, plan.keep, stored, scale, upstream, output),
    }
}

/// Adds one token's `∂L/∂c` to `gradient` (stored order).
///
/// `input` is the half spectrum of x (`d2/2 + 1` bins), `upstream` the one of `g = ∂L/∂h` (`d1/2 + 1` bins).
///
/// # Panics
/// If a slice is shorter than that.
pub fn gradient(plan: &Plan, alpha: f64, input: &[Complex32], upstream: &[Complex32], gradient: &mut [f32]) {
    let scale = (alpha / plan.shape().area() as f64) as f32;
    match &plan.bins {
        Bins::Narrow { rows, cols } => correlate(rows, cols, plan.keep, scale, upstream, input, gradient),
        Bins::Wide { rows, cols } => correlate(rows, cols, plan.keep, scale, upstream, input, gradient),
    }
}

/// `α/(2·d1·d2)`: the half undoes the two of `twice_real`.
fn half_scale(plan: &Plan, alpha: f64) -> f32 {
    (alpha / (2.0 * plan.shape().area() as f64)) as f32
}

/// A bin's index, two or four bytes wide.
trait Bin: Copy {
    fn at(self) -> usize;
}

impl Bin for u16 {
    fn at(self) -> usize {
        usize::from(self)
    }
}

impl Bin for u32 {
    fn at(self) -> usize {
        self as usize
    }
}

#[inline(always)]
fn scatter<B: Bin>(
    from: &[B],
    to: &[B],
    keep: usize,
    stored: &[f32],
    scale: f32,
    source: &[Complex32],
    target: &mut [Complex32],
) {
    let (c_keep, c_flip) = stored.split_at(keep);
    let (from_keep, from_flip) = from.split_at(keep);
    let (to_keep, to_flip) = to.split_at(keep);
    for ((&from, &to), &c) in from_keep.iter().zip(to_keep).zip(c_keep) {
        let (s, w) = (source[from.at()], c * scale);
        let t = &mut target[to.at()];
        t.re += w * s.re;
        t.im += w * s.im;
    }
    for ((&from, &to), &c) in from_flip.iter().zip(to_flip).zip(c_flip) {
        let (s, w) = (source[from.at()], c * scale);
        let t = &mut target[to.at()];
        t.re += w * s.re;
        t.im -= w * s.im;
    }
}

#[inline(always)]
fn correlate<B: Bin>(
    rows: &[B],
    cols: &[B],
    keep: usize,
    scale: f32,
    upstream: &[Complex32],
    input: &[Complex32],
    gradient: &mut [f32],
) {
    let (out_keep, out_flip) = gradient.split_at_mut(keep);
    let (rows_keep, rows_flip) = rows.split_at(keep);
    let (cols_keep, cols_flip) = cols.split_at(keep);
    for ((&row, &col), out) in rows_keep.iter().zip(cols_keep).zip(out_keep) {
        let (g, x) = (upstream[row.at()], input[col.at()]);
        *out += scale * (g.re * x.re + g.im * x.im);
    }
    for ((&row, &col), out) in rows_flip.iter().zip(cols_flip).zip(out_flip) {
        let (g, x) = (upstream[row.at()], input[col.at()]);
        *out += scale * (g.re * x.re - g.im * x.im);
    }
}
