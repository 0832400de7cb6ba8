//! The 32-element blocks with one f16 scale: Q4_0, Q4_1, Q5_0, Q5_1, Q8_0.
//!
//! Nibble formats keep elements 0..16 in the low and 16..32 in the high halves of 16 bytes; the five-bit formats
//! keep bit 4 of element `i` in bit `i` of a 32-bit word before them. The `_1` formats carry an f16 offset
//! after the scale; the `_0` formats are centred on half their range.

use super::{Format, Lanes, f16_at};
use crate::gguf::GgmlType;

/// f16 scale, 16 bytes of nibbles; `d · (q − 8)`.
pub struct Q4_0;
/// f16 scale, f16 offset, 16 bytes of nibbles; `d · q + m`.
pub struct Q4_1;
/// f16 scale, 32 high bits, 16 bytes of nibbles; `d · (q − 16)`.
pub struct Q5_0;
/// f16 scale, f16 offset, 32 high bits, 16 bytes of nibbles; `d · q + m`.
pub struct Q5_1;
/// f16 scale, 32 signed bytes; `d · q`.
pub struct Q8_0;

/// Spreads 16 bytes of nibbles over 32 lanes, bit `i` of `high` adding 16 to lane `i`, less `zero`.
#[inline(always)]
fn nibbles(bytes: &[u8], high: u32, zero: i8, q: &mut [i8]) {
    let (low_lanes, high_lanes) = q[..32].split_at_mut(16);
    let lanes = low_lanes.iter_mut().zip(high_lanes);
    for (i, (&byte, (low, upper))) in bytes[..16].iter().zip(lanes).enumerate() {
        let bit = |i: usize| ((high >> i & 1) << 4) as u8;
        *low = (byte & 0x0f | bit(i)) as i8 - zero;
        *upper = (byte >> 4 | bit(i + 16)) as i8 - zero;
    }
}

#[inline(always)]
fn u32_at(block: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([block[at], block[at + 1], block[at + 2], block[at + 3]])
}

impl Format for Q4_0 {
    const TYPE: GgmlType = GgmlType::Q4_0;

    #[inline(always)]
    fn unpack(block: &[u8], lanes: &mut Lanes) {
        nibbles(&block[2..], 0, 8, &mut lanes.q);
        lanes.set_uniform(f16_at(block, 0), 0.0);
    }
}

impl Format for Q4_1 {
    const TYPE: GgmlType = GgmlType::Q4_1;

    #[inline(always)]
    fn unpack(block: &[u8], lanes: &mut Lanes) {
        nibbles(&block[4..], 0, 0, &mut lanes.q);
        lanes.set_uniform(f16_at(block, 0), f16_at(block, 2));
    }
}

impl Format for Q5_0 {
    const TYPE: GgmlType = GgmlType::Q5_0;

    #[inline(always)]
    fn unpack(block: &[u8], lanes: &mut Lanes) {
        nibbles(&block[6..], u32_at(block, 2), 16, &mut lanes.q);
        lanes.set_uniform(f16_at(block, 0), 0.0);
    }
}

impl Format for Q5_1 {
    const TYPE: GgmlType = GgmlType::Q5_1;

    #[inline(always)]
    fn unpack(block: &[u8], lanes: &mut Lanes) {
        nibbles(&block[8..], u32_at(block, 4), 0, &mut lanes.q);
        lanes.set_uniform(f16_at(block, 0), f16_at(block, 2));
    }
}

impl Format for Q8_0 {
    const TYPE: GgmlType = GgmlType::Q8_0;

    #[inline(always)]
    fn unpack(block: &[u8], lanes: &mut Lanes) {
        for (lane, &byte) in lanes.q.iter_mut().zip(&block[2..34]) {
            *lane = byte as i8;
        }
        lanes.set_uniform(f16_at(block, 0), 0.0);
    }
}
