//! Blocks of 32 with one f16 scale: Q4_0, Q4_1, Q5_0, Q5_1, Q8_0.
//!
//! Nibble formats keep elements 0..16 in the low and 16..32 in the high halves of 16 bytes; the five-bit formats keep
//! bit 4 of element `i` in bit `i` of a 32-bit word before them. The `_1` formats carry an f16 offset after the scale;
//! the `_0` formats store `q` above the middle of their range.

use super::fit::{self, as_stored, inverse, lane};

const LEN: usize = 32;

/// f16 scale, nibbles; `d · (q − 8)`.
pub(super) fn q4_0(x: &[f32], out: &mut [u8]) -> Option<()> {
    let q = centred(x, 8.0, out)?;
    pack_nibbles(&q, &mut out[2..18]);
    Some(())
}

/// f16 scale, fifth bits, nibbles; `d · (q − 16)`.
pub(super) fn q5_0(x: &[f32], out: &mut [u8]) -> Option<()> {
    let q = centred(x, 16.0, out)?;
    out[2..6].copy_from_slice(&fifth_bits(&q));
    pack_nibbles(&q, &mut out[6..22]);
    Some(())
}

/// f16 scale, f16 offset, nibbles; `d · q + m`.
pub(super) fn q4_1(x: &[f32], out: &mut [u8]) -> Option<()> {
    let q = affine(x, 15.0, out)?;
    pack_nibbles(&q, &mut out[4..20]);
    Some(())
}

/// f16 scale, f16 offset, fifth bits, nibbles; `d · q + m`.
pub(super) fn q5_1(x: &[f32], out: &mut [u8]) -> Option<()> {
    let q = affine(x, 31.0, out)?;
    out[4..8].copy_from_slice(&fifth_bits(&q));
    pack_nibbles(&q, &mut out[8..24]);
    Some(())
}

/// f16 scale, signed bytes; `d · q`. With so many levels the scale that just covers the block is as good as any.
pub(super) fn q8_0(x: &[f32], out: &mut [u8]) -> Option<()> {
    let (_, peak) = fit::peak(x);
    let d = as_stored(peak.abs() / 127.0)?;
    out[..2].copy_from_slice(&d.to_le_bytes());
    let inverse = inverse(d.to_f32());
    for (byte, &x) in out[2..].iter_mut().zip(x) {
        *byte = lane(x, inverse, -127.0, 127.0) as i8 as u8;
    }
    Some(())
}

/// Writes the scale and gives the lanes, raised by `half`.
fn centred(x: &[f32], half: f32, out: &mut [u8]) -> Option<[u8; LEN]> {
    let d = as_stored(fit::scale(x, -half, half - 1.0))?;
    out[..2].copy_from_slice(&d.to_le_bytes());
    let inverse = inverse(d.to_f32());
    Some(std::array::from_fn(|i| (lane(x[i], inverse, -half, half - 1.0) + half) as u8))
}

/// Writes the scale and the offset and gives the lanes.
fn affine(x: &[f32], levels: f32, out: &mut [u8]) -> Option<[u8; LEN]> {
    let fitted = fit::affine(x, levels, f32::INFINITY);
    let (d, m) = (as_stored(fitted.scale)?, as_stored(fitted.offset)?);
    out[..2].copy_from_slice(&d.to_le_bytes());
    out[2..4].copy_from_slice(&m.to_le_bytes());
    let (inverse, m) = (inverse(d.to_f32()), m.to_f32());
    Some(std::array::from_fn(|i| lane(x[i] - m, inverse, 0.0, levels) as u8))
}

fn fifth_bits(q: &[u8; LEN]) -> [u8; 4] {
    q.iter().enumerate().fold(0u32, |bits, (i, &q)| bits | u32::from(q >> 4 & 1) << i).to_le_bytes()
}

pub(super) fn pack_nibbles(q: &[u8; LEN], out: &mut [u8]) {
    let (low, high) = q.split_at(LEN / 2);
    for ((byte, &low), &high) in out.iter_mut().zip(low).zip(high) {
        *byte = low & 0x0f | high << 4;
    }
}
