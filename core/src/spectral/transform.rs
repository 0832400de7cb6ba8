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

/// The output bins that have entries, and where these stand in stored order. An iterator, not a callback: the body of the
/// loop over it is compiled where [`Widest`] wants it.
struct Targets<'a> {
    runs: std::slice::Iter<'a, Run>,
    targets: std::slice::Iter<'a, u32>,
    /// Targets left of the run, and entries of each.
    left: usize,
    entries: usize,
    at: usize,
}

impl<'a> Targets<'a> {
    #[inline(always)]
    fn of(plan: &'a Plan) -> Self {
        Self { runs: plan.runs.iter(), targets: plan.targets.iter(), left: 0, entries: 0, at: 0 }
    }
}

impl Iterator for Targets<'_> {
    type Item = (usize, std::ops::Range<usize>);

    #[inline(always)]
    fn next(&mut self) -> Option<Self::Item> {
        if self.left == 0 {
            let run = self.runs.next()?;
            (self.left, self.entries) = (run.targets, run.entries);
        }
        let target = *self.targets.next()? as usize;
        self.left -= 1;
        let start = self.at;
        self.at += self.entries;
        Some((target, start..self.at))
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
        for_width!(plan, |sources| {
            let (mut targets, mut sources, mut stored) = (&*plan.targets, &**sources, stored);
            for &Run { targets: count, entries } in &plan.runs {
                let now = (take(&mut targets, count), take(&mut sources, count * entries));
                let run = Bins { targets: now.0, sources: now.1, stored: take(&mut stored, count * entries), scale };
                match entries {
                    1 => run.apply::<F, 1>(input, output),
                    2 => run.apply::<F, 2>(input, output),
                    3 => run.apply::<F, 3>(input, output),
                    4 => run.apply::<F, 4>(input, output),
                    5 => run.apply::<F, 5>(input, output),
                    6 => run.apply::<F, 6>(input, output),
                    7 => run.apply::<F, 7>(input, output),
                    8 => run.apply::<F, 8>(input, output),
                    many => run.apply_many::<F>(many, input, output),
                }
            }
        });
    }
}

/// Output bins with equally many entries each.
struct Bins<'a, S> {
    targets: &'a [u32],
    sources: &'a [S],
    stored: &'a [f32],
    scale: f32,
}

impl<S: Source> Bins<'_, S> {
    /// With the number of entries known, there is no loop over them.
    #[inline(always)]
    fn apply<const F: bool, const N: usize>(&self, input: &[Complex32], output: &mut [Complex32]) {
        let entries = self.sources.as_chunks::<N>().0.iter().zip(self.stored.as_chunks::<N>().0);
        for (&target, (sources, stored)) in self.targets.iter().zip(entries) {
            add_bin::<F, S>(sources, stored, self.scale, input, &mut output[target as usize]);
        }
    }

    #[inline(always)]
    fn apply_many<const F: bool>(&self, n: usize, input: &[Complex32], output: &mut [Complex32]) {
        let entries = self.sources.chunks_exact(n).zip(self.stored.chunks_exact(n));
        for (&target, (sources, stored)) in self.targets.iter().zip(entries) {
            add_bin::<F, S>(sources, stored, self.scale, input, &mut output[target as usize]);
        }
    }
}

#[inline(always)]
fn add_bin<const F: bool, S: Source>(
    sources: &[S],
    stored: &[f32],
    scale: f32,
    input: &[Complex32],
    z: &mut Complex32,
) {
    let (mut re, mut im) = (0.0, 0.0);
    for (&source, &c) in sources.iter().zip(stored) {
        let x = input[source.bin()];
        re = fma::<F>(c, x.re, re);
        im = fma::<F>(source.signed(c), x.im, im);
    }
    z.re = fma::<F>(scale, re, z.re);
    z.im = fma::<F>(scale, im, z.im);
}

/// The first `n` elements of `slice`, which keeps the others.
#[inline(always)]
fn take<'s, T>(slice: &mut &'s [T], n: usize) -> &'s [T] {
    let (first, rest) = slice.split_at(n);
    *slice = rest;
    first
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
        for_width!(plan, |sources| for (target, at) in Targets::of(plan) {
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
        });
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
        for_width!(plan, |sources| for (target, at) in Targets::of(plan) {
            let g = upstream[target] * scale;
            for (&source, &c) in sources[at.clone()].iter().zip(&stored[at]) {
                let y = &mut output[source.bin()];
                y.re = fma::<F>(c, g.re, y.re);
                y.im = fma::<F>(source.signed(c), g.im, y.im);
            }
        });
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
        for_width!(plan, |sources| for (target, at) in Targets::of(plan) {
            let g = upstream[target] * scale;
            for (&source, out) in sources[at.clone()].iter().zip(&mut gradient[at]) {
                let x = input[source.bin()];
                *out += fma::<F>(g.re, x.re, source.signed(g.im) * x.im);
            }
        });
    }
}
