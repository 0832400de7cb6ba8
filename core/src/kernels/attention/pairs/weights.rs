//! Softmax weights as integers.

use super::super::{MAX_ROWS, TILE};
use super::{DEPTH, LARGEST, MOST};
use crate::kernels::vector::{LANES, ROUND};
use crate::kernels::vectors::Vector;

/// Weights of some rows, each times the step of its position's value, as integers.
#[derive(Debug)]
pub struct PairWeights {
    /// \[row\]\[pair of positions\]
    pub(super) integers: [[i32; DEPTH / 2]; MAX_ROWS],
    pub(super) steps: [f32; MAX_ROWS],
}

impl Default for PairWeights {
    fn default() -> Self {
        Self { integers: [[0; DEPTH / 2]; MAX_ROWS], steps: [0.0; MAX_ROWS] }
    }
}

/// The steps of a tile's values.
#[derive(Debug)]
pub(super) struct ValueSteps {
    pub each: [f32; TILE],
    /// The largest up to each position.
    pub most: [f32; TILE],
}

impl Default for ValueSteps {
    fn default() -> Self {
        Self { each: [0.0; TILE], most: [0.0; TILE] }
    }
}

/// What makes integers of weights.
#[derive(Debug)]
pub struct Rounded<'a> {
    pub(super) values: &'a ValueSteps,
    pub(super) weights: &'a mut PairWeights,
}

impl Rounded<'_> {
    /// The weights of a row, none of them above 1, with their `sum`; `last` is the last position that is not 0. No later one changes
    /// anything.
    #[inline(always)]
    pub(in super::super) fn round<V: Vector>(&mut self, row: usize, p: &[f32; TILE], sum: f32, last: usize) {
        let largest = (sum * (1.0 / MOST)).max(1.0 / LARGEST) + 0.0 * sum;
        let step = largest * self.values.most[last];
        self.weights.steps[row] = step;
        let factor = V::splat(1.0 / step);
        let out: &mut [i16] = bytemuck::cast_slice_mut(&mut self.weights.integers[row]);
        let chunks = p.as_chunks::<LANES>().0.iter().zip(self.values.each.as_chunks::<LANES>().0);
        for ((p, steps), out) in chunks.zip(out.as_chunks_mut::<LANES>().0) {
            for l in (0..LANES).step_by(V::WIDTH) {
                let p = V::load(p, l).mul(V::load(steps, l));
                p.mul_add(factor, V::splat(ROUND)).store_low_halves(out, l);
            }
        }
    }

    /// A row without weights.
    pub(in super::super) fn clear(&mut self, row: usize) {
        (self.weights.integers[row], self.weights.steps[row]) = ([0; DEPTH / 2], 0.0);
    }
}
