//! Blocks of 256 in groups with a scale and a minimum: Q2_K (groups of 16), Q4_K and Q5_K (groups of 32).
//!
//! An element is `d·scale·q − dmin·minimum`; `d` and `dmin` are f16, one each for the block, `scale` and `minimum` are
//! small integers, one each for a group.

use half::f16;

use super::fit::{self, as_stored, inverse, lane, refine, residual};

const LEN: usize = 256;
const MAX_GROUPS: usize = 16;

/// What differs between the formats.
struct Shape {
    /// Elements of a group.
    group: usize,
    /// Largest `q`.
    levels: f32,
    /// Largest scale and minimum of a group.
    top: f32,
}

/// 4-bit scales and minima in 16 bytes, 2-bit lanes in 64 bytes, `d`, `dmin`.
pub(super) fn q2_k(x: &[f32], out: &mut [u8]) -> Option<()> {
    let block = Block::fit(x, &Shape { group: 16, levels: 3.0, top: 15.0 })?;
    for (byte, (&scale, &minimum)) in out.iter_mut().zip(block.scales.iter().zip(&block.minima)) {
        *byte = scale as u8 | (minimum as u8) << 4;
    }
    // A byte holds four elements, 32 apart, of one half of the block.
    for (i, byte) in out[16..80].iter_mut().enumerate() {
        let at = i / 32 * 128 + i % 32;
        *byte = (0..4).fold(0, |bits, k| bits | block.q[at + 32 * k] << (2 * k));
    }
    out[80..82].copy_from_slice(&block.d.to_le_bytes());
    out[82..84].copy_from_slice(&block.dmin.to_le_bytes());
    Some(())
}

/// `d`, `dmin`, 6-bit scales and minima in 12 bytes, nibbles.
pub(super) fn q4_k(x: &[f32], out: &mut [u8]) -> Option<()> {
    let block = Block::fit(x, &Shape { group: 32, levels: 15.0, top: 63.0 })?;
    block.pack_head(out);
    block.pack_nibbles(&mut out[16..]);
    Some(())
}

/// As Q4_K with the fifth bits, in 32 bytes, before the nibbles: bit `g` of byte `i` belongs to element `i` of group `g`.
pub(super) fn q5_k(x: &[f32], out: &mut [u8]) -> Option<()> {
    let block = Block::fit(x, &Shape { group: 32, levels: 31.0, top: 63.0 })?;
    block.pack_head(out);
    for (i, byte) in out[16..48].iter_mut().enumerate() {
        *byte = (0..8).fold(0, |bits, g| bits | (block.q[g * 32 + i] >> 4 & 1) << g);
    }
    block.pack_nibbles(&mut out[48..]);
    Some(())
}

/// A block before it is packed. Scales and minima are integers.
#[derive(Clone)]
struct Block {
    d: f16,
    dmin: f16,
    scales: [f32; MAX_GROUPS],
    minima: [f32; MAX_GROUPS],
    q: [u8; LEN],
}

impl Block {
    /// Fits every group alone, rounds the groups' scales and minima to multiples of the block's, then moves both levels
    /// towards each other: integers one step either way, `d` and `dmin` by least squares.
    fn fit(x: &[f32], shape: &Shape) -> Option<Self> {
        let (mut scales, mut minima) = ([0.0f32; MAX_GROUPS], [0.0f32; MAX_GROUPS]);
        for ((scale, minimum), x) in scales.iter_mut().zip(&mut minima).zip(x.chunks_exact(shape.group)) {
            let fitted = fit::affine(x, shape.levels, 0.0);
            (*scale, *minimum) = (fitted.scale.max(0.0), -fitted.offset);
        }
        let stored = |values: &[f32]| as_stored(values.iter().fold(0.0, |a: f32, &b| a.max(b)) / shape.top);
        let (d, dmin) = (stored(&scales)?, stored(&minima)?);
        let whole = |values: [f32; MAX_GROUPS], d: f16| values.map(|v| lane(v, inverse(d.to_f32()), 0.0, shape.top));
        let block = Self { d, dmin, scales: whole(scales, d), minima: whole(minima, dmin), q: [0; LEN] };

        let mut block = refine(block, |block| block.round_groups(x, shape), |block| block.solve(x, shape));
        block.set_lanes(x, shape);
        Some(block)
    }

    /// What `q` is multiplied by, and what is added, in group `g`.
    fn line(&self, g: usize) -> (f32, f32) {
        (self.d.to_f32() * self.scales[g], -self.dmin.to_f32() * self.minima[g])
    }

    /// Moves each group's scale and minimum by at most one to where the error is least, and gives the block's error.
    fn round_groups(&mut self, x: &[f32], shape: &Shape) -> f32 {
        let (d, dmin) = (self.d.to_f32(), self.dmin.to_f32());
        let mut total = 0.0;
        for (g, x) in x.chunks_exact(shape.group).enumerate() {
            let (scale, minimum) = (self.scales[g], self.minima[g]);
            let mut best = f32::INFINITY;
            for s in [scale, scale - 1.0, scale + 1.0] {
                for m in [minimum, minimum - 1.0, minimum + 1.0] {
                    let possible = 0.0..=shape.top;
                    if !possible.contains(&s) || !possible.contains(&m) {
                        continue;
                    }
                    let error = residual(x, d * s, -dmin * m, 0.0, shape.levels);
                    if error < best {
                        best = error;
                        (self.scales[g], self.minima[g]) = (s, m);
                    }
                }
            }
            total += best;
        }
        total
    }

    fn set_lanes(&mut self, x: &[f32], shape: &Shape) {
        let mut q = [0; LEN];
        let groups = x.chunks_exact(shape.group).zip(q.chunks_exact_mut(shape.group));
        for (g, (x, q)) in groups.enumerate() {
            let (scale, offset) = self.line(g);
            let inverse = inverse(scale);
            for (q, &x) in q.iter_mut().zip(x) {
                *q = lane(x - offset, inverse, 0.0, shape.levels) as u8;
            }
        }
        self.q = q;
    }

    /// The `d` and `dmin` that are best for the integers as they are; `None` if there are no better ones.
    fn solve(&mut self, x: &[f32], shape: &Shape) -> Option<()> {
        self.set_lanes(x, shape);
        // x ≈ d·u − dmin·v with u = scale·q and v = minimum.
        let (mut uu, mut uv, mut vv, mut xu, mut xv) = (0.0f64, 0.0f64, 0.0f64, 0.0f64, 0.0f64);
        let groups = x.chunks_exact(shape.group).zip(self.q.chunks_exact(shape.group));
        for (g, (x, q)) in groups.enumerate() {
            let v = f64::from(self.minima[g]);
            for (&x, &q) in x.iter().zip(q) {
                let (x, u) = (f64::from(x), f64::from(self.scales[g]) * f64::from(q));
                uu += u * u;
                uv += u * v;
                vv += v * v;
                xu += x * u;
                xv += x * v;
            }
        }
        let det = uu * vv - uv * uv;
        let (d, dmin) = match det > 0.0 {
            true => ((xu * vv - xv * uv) / det, (xu * uv - xv * uu) / det),
            false if uu > 0.0 => (xu / uu, f64::from(self.dmin)),
            false => return None,
        };
        if d <= 0.0 || dmin < 0.0 {
            return None;
        }
        self.d = as_stored(d as f32)?;
        self.dmin = as_stored(dmin as f32)?;
        Some(())
    }

    /// Q4_K and Q5_K: groups 0..4 have the lower six bits of bytes 0..4 (scales) and 4..8 (minima); groups 4..8 have
    /// their lower four bits in the nibbles of bytes 8..12 and their upper two in the top bits of bytes 0..8.
    fn pack_head(&self, out: &mut [u8]) {
        out[..2].copy_from_slice(&self.d.to_le_bytes());
        out[2..4].copy_from_slice(&self.dmin.to_le_bytes());
        let packed = &mut out[4..16];
        for g in 0..4 {
            let byte = |value: f32| value as u8;
            let (scale, minimum) = (byte(self.scales[g + 4]), byte(self.minima[g + 4]));
            packed[g] = byte(self.scales[g]) | scale >> 4 << 6;
            packed[g + 4] = byte(self.minima[g]) | minimum >> 4 << 6;
            packed[g + 8] = scale & 0x0f | minimum << 4;
        }
    }

    /// Q4_K and Q5_K: a byte holds elements 32 apart.
    fn pack_nibbles(&self, out: &mut [u8]) {
        for (i, byte) in out.iter_mut().enumerate() {
            let at = i / 32 * 64 + i % 32;
            *byte = self.q[at] & 0x0f | self.q[at + 32] << 4;
        }
    }
}
