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

use super::lanes::{LANES, LaneBin, fma};
use super::plan::{Run, Source, Sources};
use super::{LaneSpectra, LaneSpectraMut, Plan};
use crate::kernels::{Widest, widest};

/// Adds the spectrum of `ΔWx` to `output`; `alpha` is the adapter's scale times the weight it is mixed in with.
///
/// `input` is the half spectrum of x (`d2/2 + 1` bins), `output` the one to be handed to
/// [`RealFft::twice_real`](super::RealFft::twice_real) (`d1/2 + 1` bins), `stored` the coefficients in stored order.
///
/// # Panics
/// If a slice is shorter than that.
pub fn apply(plan: &Plan, stored: &[f32], alpha: f64, input: &[Complex32], output: &mut [Complex32]) {
    widest(Apply { plan, stored, scale: half_scale(plan, alpha), input, output });
}

/// [`apply`] on the spectra of as many rows as there are lanes. A row's sums are made in the same order as there.
///
/// # Panics
/// If the spectra are not of d2 and of d1 values, or there are fewer coefficients than entries.
pub fn apply_lanes(plan: &Plan, stored: &[f32], alpha: f64, input: LaneSpectra<'_>, output: LaneSpectraMut<'_>) {
    widest(ApplyLanes { plan, stored, scale: half_scale(plan, alpha), input, output });
}

/// Adds the spectrum of `ΔWᵀg` to `output`: [`apply`] with the sides exchanged.
///
/// `upstream` is the half spectrum of g (`d1/2 + 1` bins), `output` has `d2/2 + 1`.
///
/// # Panics
/// If a slice is shorter than that.
pub fn adjoint(plan: &Plan, stored: &[f32], alpha: f64, upstream: &[Complex32], output: &mut [Complex32]) {
    widest(Adjoint { plan, stored, scale: half_scale(plan, alpha), upstream, output });
}

/// Adds one token's `∂L/∂c` to `gradient` (stored order).
///
/// `input` is the half spectrum of x (`d2/2 + 1` bins), `upstream` the one of `g = ∂L/∂h` (`d1/2 + 1` bins).
///
/// # Panics
/// If a slice is shorter than that.
pub fn gradient(plan: &Plan, alpha: f64, input: &[Complex32], upstream: &[Complex32], gradient: &mut [f32]) {
    let scale = (alpha / plan.shape().area() as f64) as f32;
    widest(Gradient { plan, scale, input, upstream, gradient });
}

/// `α/(2·d1·d2)`: the half undoes the two of `twice_real`.
fn half_scale(plan: &Plan, alpha: f64) -> f32 {
    (alpha / (2.0 * plan.shape().area() as f64)) as f32
}

/// Runs an expression for sources of either width.
macro_rules! for_width {
    ($plan:expr, |$sources:ident| $body:expr) => {
        match &$plan.sources {
            Sources::Narrow($sources) => $body,
            Sources::Wide($sources) => $body,
        }
    };
}

/// Calls `f` for every output bin that has entries, with where these stand in stored order.
#[inline(always)]
fn for_each_target(plan: &Plan, mut f: impl FnMut(usize, std::ops::Range<usize>)) {
    let (mut targets, mut at) = (&*plan.targets, 0);
    for &Run { targets: count, entries } in &plan.runs {
        let (now, rest) = targets.split_at(count);
        targets = rest;
        for &target in now {
            f(target as usize, at..at + entries);
            at += entries;
        }
    }
}

struct Apply<'a> {
    plan: &'a Plan,
    stored: &'a [f32],
    scale: f32,
    input: &'a [Complex32],
    output: &'a mut [Complex32],
}

impl Widest for Apply<'_> {
    type Out = ();

    #[inline(always)]
    fn run<const F: bool>(self) {
        let Self { plan, stored, scale, input, output } = self;
        for_width!(plan, |sources| for_each_target(plan, |target, at| {
            let (mut re, mut im) = (0.0, 0.0);
            for (&source, &c) in sources[at.clone()].iter().zip(&stored[at]) {
                let x = input[source.bin()];
                re = fma::<F>(c, x.re, re);
                im = fma::<F>(source.signed(c), x.im, im);
            }
            let z = &mut output[target];
            z.re = fma::<F>(scale, re, z.re);
            z.im = fma::<F>(scale, im, z.im);
        }));
    }
}

struct ApplyLanes<'a> {
    plan: &'a Plan,
    stored: &'a [f32],
    scale: f32,
    input: LaneSpectra<'a>,
    output: LaneSpectraMut<'a>,
}

impl Widest for ApplyLanes<'_> {
    type Out = ();

    #[inline(always)]
    fn run<const F: bool>(self) {
        let Self { plan, stored, scale, input, output } = self;
        let (from, to) = (input.fft.slots(), output.fft.slots());
        for_width!(plan, |sources| for_each_target(plan, |target, at| {
            let mut sum = LaneBin::ZERO;
            for (&source, &c) in sources[at.clone()].iter().zip(&stored[at]) {
                let x = &input.bins[from[source.bin()] as usize];
                let signed = source.signed(c);
                for l in 0..LANES {
                    sum.re[l] = fma::<F>(c, x.re[l], sum.re[l]);
                    sum.im[l] = fma::<F>(signed, x.im[l], sum.im[l]);
                }
            }
            let z = &mut output.bins[to[target] as usize];
            for l in 0..LANES {
                z.re[l] = fma::<F>(scale, sum.re[l], z.re[l]);
                z.im[l] = fma::<F>(scale, sum.im[l], z.im[l]);
            }
        }));
    }
}

struct Adjoint<'a> {
    plan: &'a Plan,
    stored: &'a [f32],
    scale: f32,
    upstream: &'a [Complex32],
    output: &'a mut [Complex32],
}

impl Widest for Adjoint<'_> {
    type Out = ();

    #[inline(always)]
    fn run<const F: bool>(self) {
        let Self { plan, stored, scale, upstream, output } = self;
        for_width!(plan, |sources| for_each_target(plan, |target, at| {
            let g = upstream[target] * scale;
            for (&source, &c) in sources[at.clone()].iter().zip(&stored[at]) {
                let y = &mut output[source.bin()];
                y.re = fma::<F>(c, g.re, y.re);
                y.im = fma::<F>(source.signed(c), g.im, y.im);
            }
        }));
    }
}

struct Gradient<'a> {
    plan: &'a Plan,
    scale: f32,
    input: &'a [Complex32],
    upstream: &'a [Complex32],
    gradient: &'a mut [f32],
}

impl Widest for Gradient<'_> {
    type Out = ();

    #[inline(always)]
    fn run<const F: bool>(self) {
        let Self { plan, scale, input, upstream, gradient } = self;
        for_width!(plan, |sources| for_each_target(plan, |target, at| {
            let g = upstream[target] * scale;
            for (&source, out) in sources[at.clone()].iter().zip(&mut gradient[at]) {
                let x = input[source.bin()];
                *out += fma::<F>(g.re, x.re, source.signed(g.im) * x.im);
            }
        }));
    }
}
