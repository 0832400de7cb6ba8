//! Blocks of 256 in groups of 16 with a signed scale and no offset: Q3_K and Q6_K.
//!
//! An element is `d·scale·q`; `d` is f16, one for the block, `scale` is a signed integer, one for a group, and `q` is a
//! signed integer, one more below zero than above.

use half::f16;

use super::fit::{self, as_stored, inverse, lane, refine, residual};

const LEN: usize = 256;
const GROUP: usize = 16;
const GROUPS: usize = LEN / GROUP;

/// Half the number of values of a lane (`q` in `[−half, half − 1]`) and of a scale.
struct Shape {
    lanes: f32,
    scales: f32,
}

/// Third bits in 32 bytes, 2-bit lanes in 64 bytes, 6-bit scales in 12 bytes, `d`; lanes are stored 4, scales 32 up.
pub(super) fn q3_k(x: &[f32], out: &mut [u8]) -> Option<()> {
    let block = Block::fit(x, &Shape { lanes: 4.0, scales: 32.0 })?;
    let q = block.q.map(|q| (q + 4) as u8);
    // Bit g of byte i is the third bit of element i of the g-th 32.
    for (i, byte) in out[..32].iter_mut().enumerate() {
        *byte = (0..8).fold(0, |bits, g| bits | (q[32 * g + i] >> 2) << g);
    }
    for (i, byte) in out[32..96].iter_mut().enumerate() {
        let at = i / 32 * 128 + i % 32;
        *byte = (0..4).fold(0, |bits, k| bits | (q[at + 32 * k] & 3) << (2 * k));
    }
    // Lower four bits in the nibbles of bytes 0..8, upper two in the pairs of bytes 8..12.
    let packed = &mut out[96..108];
    packed.fill(0);
    for (g, scale) in block.scales.iter().enumerate() {
        let scale = (scale + 32.0) as u8;
        packed[g % 8] |= (scale & 0x0f) << (4 * (g / 8));
        packed[8 + g % 4] |= (scale >> 4) << (2 * (g / 4));
    }
    out[108..110].copy_from_slice(&block.d.to_le_bytes());
    Some(())
}

/// Nibbles in 128 bytes, upper bit pairs in 64 bytes, signed scales in 16 bytes, `d`; lanes are stored 32 up.
pub(super) fn q6_k(x: &[f32], out: &mut [u8]) -> Option<()> {
    let block = Block::fit(x, &Shape { lanes: 32.0, scales: 128.0 })?;
    let q = block.q.map(|q| (q + 32) as u8);
    for (half, q) in q.chunks_exact(128).enumerate() {
        // A byte holds the nibbles of elements 64 apart, and the upper bits of four that are 32 apart.
        for (i, byte) in out[64 * half..][..64].iter_mut().enumerate() {
            *byte = q[i] & 0x0f | q[i + 64] << 4;
        }
        for (i, byte) in out[128 + 32 * half..][..32].iter_mut().enumerate() {
            *byte = (0..4).fold(0, |bits, k| bits | (q[i + 32 * k] >> 4) << (2 * k));
        }
    }
    for (byte, &scale) in out[192..208].iter_mut().zip(&block.scales) {
        *byte = scale as i8 as u8;
    }
    out[208..210].copy_from_slice(&block.d.to_le_bytes());
    Some(())
}

/// A block before it is packed. Scales are integers.
#[derive(Clone)]
struct Block {
    d: f16,
    scales: [f32; GROUPS],
    q: [i8; LEN],
}

impl Block {
    /// Fits every group alone, rounds the groups' scales to multiples of `d`, then moves both levels towards each
    /// other: integers one step either way, `d` by least squares.
    fn fit(x: &[f32], shape: &Shape) -> Option<Self> {
        let mut scales = [0.0f32; GROUPS];
        for (scale, x) in scales.iter_mut().zip(x.chunks_exact(GROUP)) {
            *scale = fit::scale(x, -shape.lanes, shape.lanes - 1.0);
        }
        // The largest scale takes the end of the range that is one longer.
        let d = as_stored(fit::peak(&scales).1 / -shape.scales)?;
        let inverse = inverse(d.to_f32());
        let scales = scales.map(|s| lane(s, inverse, -shape.scales, shape.scales - 1.0));
        let block = Self { d, scales, q: [0; LEN] };

        let mut block = refine(block, |block| block.round_groups(x, shape), |block| block.solve(x, shape));
        block.set_lanes(x, shape);
        Some(block)
    }

    /// Moves each group's scale by at most one to where the error is least, and gives the block's error.
    fn round_groups(&mut self, x: &[f32], shape: &Shape) -> f32 {
        let d = self.d.to_f32();
        let mut total = 0.0;
        for (scale, x) in self.scales.iter_mut().zip(x.chunks_exact(GROUP)) {
            let error = |s: f32| residual(x, d * s, 0.0, -shape.lanes, shape.lanes - 1.0);
            let middle = *scale;
            let mut best = error(middle);
            for s in [middle - 1.0, middle + 1.0] {
                if (-shape.scales..shape.scales).contains(&s) && error(s) < best {
                    (best, *scale) = (error(s), s);
                }
            }
            total += best;
        }
        total
    }

    fn set_lanes(&mut self, x: &[f32], shape: &Shape) {
        let groups = x.chunks_exact(GROUP).zip(self.q.chunks_exact_mut(GROUP));
        for ((x, q), scale) in groups.zip(self.scales) {
            let inverse = inverse(self.d.to_f32() * scale);
            for (q, &x) in q.iter_mut().zip(x) {
                *q = lane(x, inverse, -shape.lanes, shape.lanes - 1.0) as i8;
            }
        }
    }

    /// The `d` that is best for the integers as they are; `None` if all are zero or it does not fit.
    fn solve(&mut self, x: &[f32], shape: &Shape) -> Option<()> {
        self.set_lanes(x, shape);
        let (mut uu, mut xu) = (0.0f64, 0.0f64);
        for (i, (&x, &q)) in x.iter().zip(&self.q).enumerate() {
            let u = f64::from(self.scales[i / GROUP]) * f64::from(q);
            uu += u * u;
            xu += f64::from(x) * u;
        }
        if uu == 0.0 || xu == 0.0 {
            return None;
        }
        self.d = as_stored((xu / uu) as f32)?;
        Some(())
    }
}
