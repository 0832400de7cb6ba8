//! IQ4_NL: blocks of 32 nibbles that index a fixed table of 16 unevenly spaced levels; f16 scale, nibbles as in Q4_0.

use super::fit::{self, as_stored, inverse};
use super::legacy::pack_nibbles;
use crate::kernels::IQ4_NL_LEVELS as LEVELS;

/// `d · LEVELS[q]`.
pub(super) fn iq4_nl(x: &[f32], out: &mut [u8]) -> Option<()> {
    let d = as_stored(scale(x))?;
    out[..2].copy_from_slice(&d.to_le_bytes());
    let inverse = inverse(d.to_f32());
    let q: [u8; 32] = std::array::from_fn(|i| index(x[i] * inverse) as u8);
    pack_nibbles(&q, &mut out[2..18]);
    Some(())
}

/// The nearest level's index: how many midpoints between neighbours lie below.
fn index(x: f32) -> usize {
    LEVELS.windows(2).filter(|pair| x > (f32::from(pair[0]) + f32::from(pair[1])) / 2.0).count()
}

/// As [`fit::scale`], over the table: the largest element is mapped to between 80 % and 120 % of either end.
fn scale(x: &[f32]) -> f32 {
    let (_, peak) = fit::peak(x);
    let mut best = (0.0, 0.0);
    for step in -8..=8 {
        for end in [LEVELS[0], LEVELS[15]] {
            let inverse = f32::from(end) * (1.0 + 0.025 * step as f32) / peak;
            let (mut xq, mut qq) = (0.0, 0.0);
            for &x in x {
                let level = f32::from(LEVELS[index(x * inverse)]);
                xq += x * level;
                qq += level * level;
            }
            // No level is 0, so neither is the sum of their squares.
            if xq * xq / qq > best.0 {
                best = (xq * xq / qq, xq / qq);
            }
        }
    }
    best.1
}
