//! Numbers in fixed point: 16 bits, and a step for all of a span.
//!
//! Where the CPU multiplies pairs of 16-bit numbers faster than f32, both sides of the product go through it. A span is
//! [`SPAN`] neighbours in the direction that is summed over: of one row of g, or of the 16 columns of a panel. Its largest number has 13
//! bits on the side of g and 12 on the side of the weights, with which a span's sum never leaves 32 bits.

use super::super::activations::ROUNDER;
use super::super::gemm::PANEL;
use super::super::{Widest, widest};

/// Numbers that share a step.
pub const SPAN: usize = 64;
/// The largest magnitudes.
const G_MAX: f32 = 8191.0;
const W_MAX: f32 = 4095.0;
const _: () = assert!(SPAN as i64 * G_MAX as i64 * W_MAX as i64 <= i32::MAX as i64);

/// `out[t · row + c] = Σ g[t, r] · w[r, c]` over `spans` spans, for t < `rows` and c < `cols`; with `accumulate`, added to what
/// is there.
pub struct FixedProduct {
    /// Numbers, and from row to row.
    pub g: (*const i16, usize),
    /// Steps, one a span, and from row to row.
    pub g_steps: (*const f32, usize),
    /// Panels of `spans` · SPAN / 2 words of [`PANEL`] lanes, two rows in each.
    pub w: *const i32,
    /// Steps: `spans` a panel.
    pub w_steps: *const f32,
    /// Numbers, and from row to row.
    pub out: (*mut f32, usize),
    pub rows: usize,
    pub cols: usize,
    pub spans: usize,
    pub accumulate: bool,
}

/// What the numbers of a span are multiplied with, and what one step is worth; NaN if a number is not finite.
#[inline(always)]
fn steps(largest: f32, poison: f32, max: f32) -> (f32, f32) {
    /// Spans no larger than this are zero: the reciprocal of their step would overflow.
    const TINY: f32 = 1e-33;
    let (inverse, step) = if largest > TINY { (max / largest, largest / max) } else { (0.0, 0.0) };
    (inverse, step + poison)
}

/// The nearest whole number of a product no larger than 2¹⁵.
#[inline(always)]
fn whole(x: f32, inverse: f32) -> i16 {
    (x * inverse + ROUNDER).to_bits() as i16
}

/// The largest magnitude, and zero, or NaN if a number is not finite.
#[inline(always)]
fn largest(values: &[f32]) -> (f32, f32) {
    let (mut max, mut poison) = ([0.0f32; PANEL], [0.0f32; PANEL]);
    let (chunks, rest) = values.as_chunks::<PANEL>();
    for chunk in chunks {
        for i in 0..PANEL {
            let magnitude = chunk[i].abs();
            max[i] = if magnitude > max[i] { magnitude } else { max[i] };
            poison[i] += chunk[i] * 0.0;
        }
    }
    for value in rest {
        max[0] = if value.abs() > max[0] { value.abs() } else { max[0] };
        poison[0] += value * 0.0;
    }
    let max = max.into_iter().fold(0.0, |a, b| if b > a { b } else { a });
    (max, poison.iter().sum())
}

/// A row of g in fixed point; numbers beyond it are zero.
pub(super) fn row(g: &[f32], numbers: &mut [i16], g_steps: &mut [f32]) {
    widest(Row { g, numbers, g_steps });
}

struct Row<'a> {
    g: &'a [f32],
    numbers: &'a mut [i16],
    g_steps: &'a mut [f32],
}

impl Widest for Row<'_> {
    type Out = ();

    #[inline(always)]
    fn run<const FUSED: bool>(self) {
        let Self { g, numbers, g_steps } = self;
        for ((g, numbers), step) in g.chunks(SPAN).zip(numbers.chunks_exact_mut(SPAN)).zip(g_steps) {
            let (max, poison) = largest(g);
            let inverse;
            (inverse, *step) = steps(max, poison, G_MAX);
            let (held, beyond) = numbers.split_at_mut(g.len());
            held.iter_mut().zip(g).for_each(|(number, &g)| *number = whole(g, inverse));
            beyond.fill(0);
        }
    }
}

/// Panels of f32, `depth` rows each, in fixed point: `spans` spans of them, of which the rows from `held` on are zero.
pub(super) fn panels(
    panels: &mut [f32],
    (depth, held, spans): (usize, usize, usize),
    words: &mut [i32],
    w_steps: &mut [f32],
) {
    widest(Panels { panels, sizes: (depth, held, spans), words, w_steps });
}

struct Panels<'a> {
    panels: &'a mut [f32],
    sizes: (usize, usize, usize),
    words: &'a mut [i32],
    w_steps: &'a mut [f32],
}

impl Widest for Panels<'_> {
    type Out = ();

    #[inline(always)]
    fn run<const FUSED: bool>(self) {
        let Self { panels, sizes: (depth, held, spans), words, w_steps } = self;
        let outputs = words.chunks_exact_mut(spans * SPAN / 2 * PANEL).zip(w_steps.chunks_exact_mut(spans));
        for (panel, (words, w_steps)) in panels.chunks_exact_mut(depth * PANEL).zip(outputs) {
            panel[held * PANEL..spans * SPAN * PANEL].fill(0.0);
            let words = words.chunks_exact_mut(SPAN / 2 * PANEL);
            for ((span, words), step) in panel.chunks_exact(SPAN * PANEL).zip(words).zip(w_steps) {
                let (max, poison) = largest(span);
                let inverse;
                (inverse, *step) = steps(max, poison, W_MAX);
                let pairs = span.as_chunks::<{ 2 * PANEL }>().0.iter().zip(words.as_chunks_mut::<PANEL>().0);
                for (pair, words) in pairs {
                    for i in 0..PANEL {
                        let (even, odd) = (whole(pair[i], inverse), whole(pair[PANEL + i], inverse));
                        words[i] = i32::from(even) & 0xffff | i32::from(odd) << 16;
                    }
                }
            }
        }
    }
}
