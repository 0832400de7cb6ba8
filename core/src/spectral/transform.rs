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
//! where `row_l`, `col_l` are the entry's bins, and `X[col_l]` its conjugate for the entries [`Plan`] says so of: spectra of
//! inputs hold their conjugates too, after the bins. All three share the bins and which of the two it is, because
//! conjugating both frequencies of an entry is what both directions do. Several adapters add into one `Z` before a single inverse
//! transform; the first writes it ([`Held`]).
//! Coefficients and gradients are in the plan's stored order. Nothing here allocates, but for many rows with a plan that is not prepared for them.
//!
//! The adjoint of one row is not compiled for wide vectors: with those at hand the compiler gathers from eight places in one
//! instruction, which takes longer than eight loads.

use num_complex::Complex32;

use super::lanes::{LANES, LaneBin};
use super::plan::Bins;
use super::{LaneSpectra, LaneSpectraMut, Plan, RealFft};
pub use crate::kernels::runs::Held;
use crate::kernels::runs::{Index, Runs, Slot};
use crate::kernels::vector::fma;
use crate::kernels::{Ahead, Widest, widest};

/// The plan's runs, with bins of either width.
macro_rules! with_runs {
    ($plan:expr, |$runs:ident| $body:expr) => {
        match &$plan.bins {
            Bins::Narrow { targets, sources } => {
                let $runs = Runs::new(&$plan.runs, targets, sources);
                $body
            }
            Bins::Wide { targets, sources } => {
                let $runs = Runs::new(&$plan.runs, targets, sources);
                $body
            }
        }
    };
}

/// A loop over the plan's runs.
macro_rules! for_runs {
    ($plan:expr, |$run:ident| $body:block) => {
        with_runs!($plan, |runs| for $run in runs $body)
    };
}

/// The spectrum of `ΔWx`, or that added to the sum that `output` holds; `alpha` is the adapter's scale times the weight it is mixed in with.
///
/// `input` is the half spectrum of x and its conjugate ([`RealFft::with_conjugate`]), `output` the one to be handed to [`RealFft::twice_real`] (`d1/2 + 1` bins), `stored` the
/// coefficients in stored order.
///
/// # Panics
/// If a slice is shorter than that.
pub fn apply(plan: &Plan, stored: &[f32], alpha: f64, input: &[Complex32], output: &mut [Complex32], held: Held) {
    apply_ahead(plan, stored, alpha, input, output, held, &mut Ahead::default());
}

/// [`apply`], asking for what comes next meanwhile.
pub(crate) fn apply_ahead(
    plan: &Plan,
    stored: &[f32],
    alpha: f64,
    input: &[Complex32],
    output: &mut [Complex32],
    held: Held,
    ahead: &mut Ahead,
) {
    let scale = half_scale(plan, alpha);
    with_runs!(plan, |runs| runs.sums(stored, scale, input, output, held, ahead));
}

/// [`apply_ahead`] of two changes with the same entries, which takes less than one after the other: each has coefficients, a scale and
/// an output of its own.
pub(crate) fn apply_two_ahead(
    plan: &Plan,
    stored: [&[f32]; 2],
    alpha: [f64; 2],
    input: &[Complex32],
    output: [&mut [Complex32]; 2],
    held: Held,
    ahead: &mut Ahead,
) {
    let scale = alpha.map(|alpha| half_scale(plan, alpha));
    with_runs!(plan, |runs| runs.two_sums(stored, scale, input, output, held, ahead));
}

/// [`apply`] on the spectra of as many rows as there are lanes.
///
/// # Panics
/// If the spectra are not of d2 and of d1 values, or there are fewer coefficients than entries.
pub fn apply_lanes(
    plan: &Plan,
    stored: &[f32],
    alpha: f64,
    input: LaneSpectra<'_>,
    output: LaneSpectraMut<'_>,
    held: Held,
) {
    let runs = plan.lane_runs(input.fft, output.fft);
    runs.lane_sums(stored, half_scale(plan, alpha), input.bins, output.bins, held);
}

/// The spectrum of `ΔWᵀg`, or that added to what `output` holds: [`apply`] with the sides exchanged.
///
/// `upstream` is the half spectrum of g (`d1/2 + 1` bins), `output` has `d2/2 + 1`.
///
/// # Panics
/// If a slice is shorter than that.
pub fn adjoint(plan: &Plan, stored: &[f32], alpha: f64, upstream: &[Complex32], output: &mut [Complex32], held: Held) {
    let output = &mut output[..plan.shape().cols() / 2 + 1];
    if held == Held::Nothing {
        output.fill(Complex32::default());
    }
    adjoint_row(plan, stored, half_scale(plan, alpha), upstream, output);
}

/// [`adjoint`] on the spectra of as many rows as there are lanes.
///
/// # Panics
/// If the spectra are not of d1 and of d2 values, or there are fewer coefficients than entries.
pub fn adjoint_lanes(
    plan: &Plan,
    stored: &[f32],
    alpha: f64,
    upstream: LaneSpectra<'_>,
    output: LaneSpectraMut<'_>,
    held: Held,
) {
    if held == Held::Nothing {
        output.bins.fill(LaneBin::ZERO);
    }
    let runs = plan.lane_runs(output.fft, upstream.fft);
    widest(AdjointLanes { runs, stored, scale: half_scale(plan, alpha), g: upstream.bins, y: output.bins });
}

/// Adds one token's `∂L/∂c` to `gradient` (stored order).
///
/// `input` is the half spectrum of x and its conjugate, as for [`apply`], `upstream` the half spectrum of `g = ∂L/∂h` (`d1/2 + 1` bins).
///
/// # Panics
/// If a slice is shorter than that.
pub fn gradient(plan: &Plan, alpha: f64, input: &[Complex32], upstream: &[Complex32], gradient: &mut [f32]) {
    let scale = (alpha / plan.shape().area() as f64) as f32;
    gradient_row(plan, scale, input, upstream, gradient);
}

/// [`gradient`] of as many rows as there are lanes; lanes without a row hold zero spectra and add nothing.
///
/// # Panics
/// If the spectra are not of d2 and of d1 values, or `gradient` is shorter than the entries.
pub fn gradient_lanes(
    plan: &Plan,
    alpha: f64,
    input: LaneSpectra<'_>,
    upstream: LaneSpectra<'_>,
    gradient: &mut [f32],
) {
    let scale = (alpha / plan.shape().area() as f64) as f32;
    let runs = plan.lane_runs(input.fft, upstream.fft);
    widest(GradientLanes { runs, scale, x: input.bins, g: upstream.bins, gradient });
}

/// `α/(2·d1·d2)`: the half undoes the two of `twice_real`.
fn half_scale(plan: &Plan, alpha: f64) -> f32 {
    (alpha / (2.0 * plan.shape().area() as f64)) as f32
}

fn adjoint_row(plan: &Plan, stored: &[f32], scale: f32, upstream: &[Complex32], output: &mut [Complex32]) {
    let conjugates = RealFft::conjugates(plan.shape().cols());
    for_runs!(plan, |run| {
        for (target, (sources, stored)) in run.targets().iter().zip(run.sources().zip(run.factors(stored))) {
            let g = upstream[target.at()] * scale;
            for (source, &c) in sources.iter().zip(stored) {
                let (bin, im) =
                    if source.at() < conjugates { (source.at(), g.im) } else { (source.at() - conjugates, -g.im) };
                output[bin] += Complex32::new(g.re, im) * c;
            }
        }
    });
}

struct AdjointLanes<'a> {
    runs: Runs<'a, Slot>,
    stored: &'a [f32],
    scale: f32,
    g: &'a [LaneBin],
    y: &'a mut [LaneBin],
}

impl Widest for AdjointLanes<'_> {
    type Out = ();

    #[inline(always)]
    fn run<const F: bool>(self) {
        let Self { runs, stored, scale, g, y } = self;
        for run in runs {
            for (target, (sources, stored)) in run.targets().iter().zip(run.sources().zip(run.factors(stored))) {
                let g = scaled_bin(&g[target.at()], scale);
                for (source, &c) in sources.iter().zip(stored) {
                    let (y, signed) = (&mut y[source.at()], source.sign() * c);
                    for l in 0..LANES {
                        y.re[l] = fma::<F>(c, g.re[l], y.re[l]);
                        y.im[l] = fma::<F>(signed, g.im[l], y.im[l]);
                    }
                }
            }
        }
    }
}

struct GradientLanes<'a> {
    runs: Runs<'a, Slot>,
    scale: f32,
    x: &'a [LaneBin],
    g: &'a [LaneBin],
    gradient: &'a mut [f32],
}

impl Widest for GradientLanes<'_> {
    type Out = ();

    #[inline(always)]
    fn run<const F: bool>(self) {
        let Self { runs, scale, x, g, gradient } = self;
        for run in runs {
            for (target, (sources, out)) in run.targets().iter().zip(run.sources().zip(run.factors_mut(gradient))) {
                let g = scaled_bin(&g[target.at()], scale);
                for (source, out) in sources.iter().zip(out) {
                    let (x, sign) = (&x[source.at()], source.sign());
                    *out += total(std::array::from_fn(|l| fma::<F>(g.re[l], x.re[l], sign * g.im[l] * x.im[l])));
                }
            }
        }
    }
}

/// A bin times a scale.
#[inline(always)]
fn scaled_bin(bin: &LaneBin, scale: f32) -> LaneBin {
    let mut out = LaneBin::ZERO;
    for l in 0..LANES {
        out.re[l] = scale * bin.re[l];
        out.im[l] = scale * bin.im[l];
    }
    out
}

/// The sum over the lanes, pairwise, so that its order does not depend on the instruction set.
#[inline(always)]
fn total(mut lanes: [f32; LANES]) -> f32 {
    let mut width = LANES / 2;
    while width > 0 {
        for l in 0..width {
            lanes[l] += lanes[l + width];
        }
        width /= 2;
    }
    lanes[0]
}

fn gradient_row(plan: &Plan, scale: f32, input: &[Complex32], upstream: &[Complex32], gradient: &mut [f32]) {
    for_runs!(plan, |run| {
        for (target, (sources, out)) in run.targets().iter().zip(run.sources().zip(run.factors_mut(gradient))) {
            let g = upstream[target.at()] * scale;
            for (source, out) in sources.iter().zip(out) {
                let x = input[source.at()];
                *out += g.re * x.re + g.im * x.im;
            }
        }
    });
}
