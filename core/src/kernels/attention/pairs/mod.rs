//! Both products over a tile for many queries, in pairs of 16-bit integers: a CPU does twice as many of them at a time as f32.
//!
//! A key or value becomes integers of up to 2¹⁴ times a power of two of its own, its *step*; half precision has 11 significant bits,
//! so that numbers above an eighth of its largest stay exact. Queries and weights are rounded to steps of their own, such that no sum can
//! leave 32 bits: the magnitudes of [`DEPTH`] of them add up to less than 2¹⁷. Integer sums are exact, so that a row does not depend
//! on what is computed beside it here either.

mod convert;
mod lanes;
mod product;
mod quantise;
mod weights;

use std::ops::Range;

use lanes::PairSet;
use quantise::quantise;
pub use weights::{PairWeights, Rounded};

use self::product::PairProduct;
use self::weights::ValueSteps;
use super::{BLOCK, CacheFormat, Keys, MAX_ROWS, TILE, Values};
use crate::kernels::{Aligned, Tier};

/// Elements, or positions, of which the products are added up in integers.
pub const DEPTH: usize = TILE;

/// What the magnitudes of integers that are added up may come to before they are rounded, which adds up to half of [`DEPTH`].
const MOST: f32 = ((1 << 17) - DEPTH) as f32;
/// The largest integer.
const LARGEST: f32 = i16::MAX as f32;

const ONES: [f32; MAX_ROWS] = [1.0; MAX_ROWS];

/// A tile's keys and values of one head as pairs of integers.
#[derive(Debug)]
pub struct PairTile {
    set: PairSet,
    /// \[record\]\[pair of elements\]\[position\]
    keys: Aligned<i32>,
    /// \[[`DEPTH`] elements\]\[position\]
    key_steps: Vec<[f32; TILE]>,
    /// \[16 elements\]\[pair of positions\]\[element\]
    values: Aligned<i32>,
    value_steps: ValueSteps,
}

/// Some queries as integers, whole rows: `dim` of them and `dim` / [`DEPTH`] steps each.
#[derive(Debug, Clone, Copy)]
pub struct PairQueries<'a> {
    /// Pairs of neighbouring elements.
    pub integers: &'a [i32],
    /// One for each [`DEPTH`] elements, or what is left of them.
    pub steps: &'a [f32],
}

impl<'a> PairQueries<'a> {
    /// Some of them.
    pub fn rows(self, dim: usize, rows: Range<usize>) -> PairQueries<'a> {
        let (pairs, chunks) = (dim / 2, dim.div_ceil(DEPTH));
        PairQueries {
            integers: &self.integers[rows.start * pairs..rows.end * pairs],
            steps: &self.steps[rows.start * chunks..rows.end * chunks],
        }
    }
}

impl PairTile {
    /// For heads of up to `dim` elements, as fast as the kernels of a tier; `None` where f32 is faster.
    pub fn new(tier: Tier, dim: usize) -> Option<Self> {
        PairSet::of(tier).map(|set| Self::with(set, dim))
    }

    fn with(set: PairSet, dim: usize) -> Self {
        let words = TILE * dim.next_multiple_of(BLOCK) / 2;
        Self {
            set,
            keys: Aligned::new(words),
            key_steps: vec![[0.0; TILE]; dim.div_ceil(DEPTH)],
            values: Aligned::new(words),
            value_steps: ValueSteps::default(),
        }
    }

    /// Whether heads of `dim` elements stored so can be taken.
    pub fn takes(format: CacheFormat, dim: usize) -> bool {
        format != CacheFormat::F32 && dim.is_multiple_of(BLOCK)
    }

    /// Takes the keys and values of `positions`, counted from the tile's first. A position whose numbers are not all finite has
    /// scores that are no numbers.
    ///
    /// # Panics
    /// If these positions do not lie in keys and values, or the heads are larger than planned for.
    pub fn load(&mut self, keys: &Keys<'_>, values: &Values<'_>, positions: Range<usize>) {
        let held = (keys.records().min(values.records()) * BLOCK).min(TILE);
        assert!(positions.end <= held && positions.start <= positions.end, "{positions:?} of {held} positions");
        assert!(keys.dim == values.dim && Self::takes(keys.format, keys.dim) && keys.format == values.format);
        assert!(keys.dim * TILE / 2 <= self.keys.len(), "heads of {} elements", keys.dim);
        convert::keys(self.set, keys, positions.clone(), &mut self.keys, &mut self.key_steps);
        convert::values(self.set, values, positions, &mut self.values, &mut self.value_steps);
    }

    /// Queries of `dim` elements as integers: `dim` / 2 pairs and `dim` / [`DEPTH`] steps, rounded up, each.
    ///
    /// # Panics
    /// If a length does not fit the others.
    pub fn queries(q: &[f32], dim: usize, integers: &mut [i32], steps: &mut [f32]) {
        let chunks = dim.div_ceil(DEPTH);
        assert!(integers.len() == q.len() / 2 && steps.len() == q.len() / dim * chunks);
        let rows = q.chunks_exact(dim).zip(integers.chunks_exact_mut(dim / 2));
        for ((q, integers), steps) in rows.zip(steps.chunks_exact_mut(chunks)) {
            for ((q, integers), step) in q.chunks(DEPTH).zip(integers.chunks_mut(DEPTH / 2)).zip(steps) {
                *step = quantise(q, integers);
            }
        }
    }

    /// As [`scores`](super::scores), of positions that were loaded; of others some number.
    ///
    /// # Panics
    /// If a length does not fit the others.
    pub fn scores(&self, dim: usize, q: PairQueries<'_>, blocks: Range<usize>, out: &mut [f32]) {
        let (rows, chunks) = (out.len() / TILE, dim.div_ceil(DEPTH));
        assert!(rows <= MAX_ROWS && q.integers.len() == rows * dim / 2 && q.steps.len() == rows * chunks);
        assert!(blocks.end * BLOCK <= TILE && dim * TILE / 2 <= self.keys.len(), "{blocks:?}");
        for chunk in 0..chunks {
            let depth = chunk * DEPTH / 2..((chunk + 1) * DEPTH).min(dim) / 2;
            let product = PairProduct {
                a: q.integers.as_ptr(),
                a_stride: dim / 2,
                a_steps: q.steps[chunk..].as_ptr(),
                a_steps_stride: chunks,
                rows,
                b: self.keys.as_ptr(),
                b_panel: dim / 2 * BLOCK,
                b_steps: Some(self.key_steps[chunk].as_ptr()),
                depth,
                panels: blocks.clone(),
                out: out.as_mut_ptr(),
                out_stride: TILE,
                keep: (chunk > 0).then_some(ONES.as_ptr()),
            };
            // SAFETY: the CPU has the set; rows, depth and panels lie in what was just checked.
            unsafe { product.run(self.set) };
        }
    }

    /// What rounds weights to what [`mix`](Self::mix) takes.
    pub fn rounded<'a>(&'a self, weights: &'a mut PairWeights) -> Rounded<'a> {
        Rounded { values: &self.value_steps, weights }
    }

    /// As [`mix`](super::mix), over positions that were loaded, of weights that are 0 elsewhere.
    ///
    /// # Panics
    /// If a length does not fit the others.
    pub fn mix(&self, dim: usize, weights: &PairWeights, positions: Range<usize>, keep: &[f32], out: &mut [f32]) {
        let rows = keep.len();
        assert!(rows <= MAX_ROWS && out.len() == rows * dim, "{rows} rows of {dim}");
        assert!(positions.end <= TILE && dim * TILE / 2 <= self.values.len(), "{positions:?}");
        let product = PairProduct {
            a: weights.integers.as_ptr().cast(),
            a_stride: DEPTH / 2,
            a_steps: weights.steps.as_ptr(),
            a_steps_stride: 1,
            rows,
            b: self.values.as_ptr(),
            b_panel: TILE / 2 * BLOCK,
            b_steps: None,
            depth: positions.start / 2..positions.end.div_ceil(2),
            panels: 0..dim / BLOCK,
            out: out.as_mut_ptr(),
            out_stride: dim,
            keep: Some(keep.as_ptr()),
        };
        // SAFETY: as for the scores.
        unsafe { product.run(self.set) };
    }
}

#[cfg(test)]
mod tests;
