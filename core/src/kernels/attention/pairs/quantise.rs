//! Queries as integers.

use super::{DEPTH, LARGEST, MOST};
use crate::kernels::vector::{LANES, ROUND};
use crate::kernels::vectors::{Vector, Vectorised, vectorised};

/// out = x / step, rounded to nearest; returns the step. x is at most [`DEPTH`] long and a multiple of [`LANES`]; what is no
/// number makes the step none.
///
/// # Panics
/// If a length does not fit the others.
pub fn quantise(x: &[f32], out: &mut [i32]) -> f32 {
    assert!(x.len() <= DEPTH && x.len().is_multiple_of(LANES) && out.len() == x.len() / 2);
    let mut step = 0.0;
    vectorised(Quantise { x, out: bytemuck::cast_slice_mut(out), step: &mut step });
    step
}

struct Quantise<'a> {
    x: &'a [f32],
    out: &'a mut [i16],
    step: &'a mut f32,
}

impl Vectorised for Quantise<'_> {
    #[inline(always)]
    fn run<V: Vector>(self) {
        let Self { x, out, step } = self;
        let x = x.as_chunks::<LANES>().0;
        let (mut largest, mut sum) = (V::splat(0.0), V::splat(0.0));
        for x in x {
            for l in (0..LANES).step_by(V::WIDTH) {
                let x = V::load(x, l);
                let magnitude = x.max(V::splat(0.0).sub(x));
                largest = magnitude.max(largest);
                sum = sum.add(magnitude);
            }
        }
        // The sum is no number where one of its terms is none.
        *step = (sum.total() / MOST).max(largest.largest() / LARGEST).max(f32::MIN_POSITIVE) + 0.0 * sum.total();
        let factor = V::splat(1.0 / *step);
        for (x, out) in x.iter().zip(out.as_chunks_mut::<LANES>().0) {
            for l in (0..LANES).step_by(V::WIDTH) {
                V::load(x, l).mul_add(factor, V::splat(ROUND)).store_low_halves(out, l);
            }
        }
    }
}
