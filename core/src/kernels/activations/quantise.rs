//! What rounding a row to 15 bits is: the definition that each tier's own version agrees with.

use super::{BLOCK, COARSE, Q_MAX};
use crate::kernels::formats::GROUP;
use crate::kernels::vector::ROUND;

/// Blocks no larger than this are zero: the reciprocal of their scale would overflow.
pub(in crate::kernels) const TINY: f32 = 1e-33;

/// What a block with largest magnitude `amax` is multiplied with to give fine steps, and what one of those is worth.
#[inline]
pub(in crate::kernels) fn steps(amax: f32) -> (f32, f32) {
    if amax > TINY { (Q_MAX / amax, amax / Q_MAX) } else { (0.0, 0.0) }
}

/// Quantises one row: both planes, and for each group of 16 the scale and the sum of its steps. What lies
/// beyond the row is set to zero.
///
/// This is the definition; a tier that has its own version must agree with it to the last bit.
pub(in crate::kernels) fn quantise_row(
    x: &[f32],
    lanes: &mut [i8],
    fine: &mut [i8],
    scales: &mut [f32],
    totals: &mut [i32],
) {
    let (x, rest) = x.as_chunks::<BLOCK>();
    let planes = lanes.as_chunks_mut::<BLOCK>().0.iter_mut().zip(fine.as_chunks_mut::<BLOCK>().0);
    let scales = scales.as_chunks_mut::<{ BLOCK / GROUP }>().0.iter_mut();
    let totals = totals.as_chunks_mut::<{ BLOCK / GROUP }>().0.iter_mut();
    let mut blocks = planes.zip(scales).zip(totals);
    for (x, ((planes, scales), totals)) in x.iter().zip(&mut blocks) {
        quantise_block(x, planes, scales, totals);
    }
    if !rest.is_empty()
        && let Some(((planes, scales), totals)) = blocks.next()
    {
        let mut last = [0.0; BLOCK];
        last[..rest.len()].copy_from_slice(rest);
        quantise_block(&last, planes, scales, totals);
    }
    for (((lanes, fine), scales), totals) in blocks {
        (*lanes, *fine) = ([0; BLOCK], [0; BLOCK]);
        (*scales, *totals) = ([0.0; BLOCK / GROUP], [0; BLOCK / GROUP]);
    }
}

fn quantise_block(
    x: &[f32; BLOCK],
    (lanes, fine): (&mut [i8; BLOCK], &mut [i8; BLOCK]),
    scales: &mut [f32; BLOCK / GROUP],
    totals: &mut [i32; BLOCK / GROUP],
) {
    /// Independent partial results, which a compiler can keep in vector registers.
    const WIDTH: usize = BLOCK / 2;
    let (low, high) = x.split_at(WIDTH);
    let mut amax = [0.0f32; WIDTH];
    let mut poison = [0.0f32; WIDTH];
    for i in 0..WIDTH {
        let (a, b) = (low[i].abs(), high[i].abs());
        amax[i] = if a > b { a } else { b };
        // Zero for finite numbers, NaN for the others.
        poison[i] = low[i] * 0.0 + high[i] * 0.0;
    }
    let mut width = WIDTH / 2;
    while width > 0 {
        for i in 0..width {
            let (a, b) = (amax[i], amax[i + width]);
            amax[i] = if a > b { a } else { b };
            poison[i] += poison[i + width];
        }
        width /= 2;
    }
    let (amax, poison) = (amax[0], poison[0]);
    let (inverse, scale) = steps(amax);
    let scale = scale + poison;
    let mut steps = [0i32; BLOCK];
    for i in 0..BLOCK {
        steps[i] = i32::from((x[i] * inverse + ROUND).to_bits() as i16);
        let coarse = (steps[i] + COARSE / 2).div_euclid(COARSE);
        lanes[i] = coarse as i8;
        fine[i] = (steps[i] - coarse * COARSE) as i8;
    }
    for (g, group) in steps.as_chunks::<GROUP>().0.iter().enumerate() {
        scales[g] = scale;
        totals[g] = group.iter().sum();
    }
}
