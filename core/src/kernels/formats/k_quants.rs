//! The 256-element blocks with two levels of scales: Q2_K, Q3_K, Q4_K, Q5_K, Q6_K.
//!
//! An f16 `d` (and `dmin` where groups have an offset) multiplies small integer scales of groups of 16 or 32 elements.

use super::{Format, GROUP, Lanes, f16_at};
use crate::gguf::GgmlType;

/// 16 bytes of 4-bit scales and minima, 64 bytes of 2-bit lanes, f16 `d`, f16 `dmin`; groups of 16.
pub struct Q2K;
/// 32 bytes of third bits, 64 bytes of 2-bit lanes, 12 bytes of 6-bit scales, f16 `d`; groups of 16, centred on 4.
pub struct Q3K;
/// f16 `d`, f16 `dmin`, 12 bytes of 6-bit scales and minima, 128 bytes of nibbles; groups of 32.
pub struct Q4K;
/// As Q4_K with 32 bytes of fifth bits before the nibbles; groups of 32.
pub struct Q5K;
/// 128 bytes of nibbles, 64 bytes of upper bit pairs, 16 signed scales, f16 `d`; groups of 16, centred on 32.
pub struct Q6K;

/// Elements that share a shift: one bit position of 32 bytes.
const RUN: usize = 32;

/// The 6-bit scales of Q3_K before 32 is taken off, unpacked from their 12 bytes.
///
/// Nibbles of bytes 0..8 (low nibbles first) are the lower four bits; bytes 8..12 hold the upper bit pairs, four groups to
/// each pair position.
pub fn q3k_scales(packed: &[u8; 12]) -> [u8; 16] {
    std::array::from_fn(|i| {
        let low = packed[i % 8] >> (4 * (i / 8)) & 0x0f;
        let high = packed[8 + i % 4] >> (2 * (i / 4)) & 3;
        low | high << 4
    })
}

/// The eight 6-bit scales and eight 6-bit minima of Q4_K and Q5_K, unpacked from their 12 bytes.
///
/// Groups 0..4 use the lower six bits of bytes 0..4 (scales) and 4..8 (minima); groups 4..8 have their lower four
/// bits in the nibbles of bytes 8..12 and their upper two in the top bits of bytes 0..4 and 4..8.
#[inline]
pub fn q45k_scales(packed: &[u8; 12]) -> ([u8; 8], [u8; 8]) {
    let word = |i: usize| u32::from_le_bytes([packed[i], packed[i + 1], packed[i + 2], packed[i + 3]]);
    let (a, b, c) = (word(0), word(4), word(8));
    let top = |word: u32| (word >> 6 & 0x0303_0303) << 4;
    let join = |low: u32, high: u32| (u64::from(low) | u64::from(high) << 32).to_le_bytes();
    (join(a & 0x3f3f_3f3f, c & 0x0f0f_0f0f | top(a)), join(b & 0x3f3f_3f3f, c >> 4 & 0x0f0f_0f0f | top(b)))
}

/// The 12 bytes of packed scales at `at`.
#[inline(always)]
fn packed_scales(block: &[u8], at: usize) -> [u8; 12] {
    std::array::from_fn(|i| block[at + i])
}

/// Sets the groups of Q4_K and Q5_K: eight groups of 32.
#[inline(always)]
fn set_scales_and_minima(block: &[u8], lanes: &mut Lanes) {
    let (d, dmin) = (f16_at(block, 0), f16_at(block, 2));
    let (scales, minima) = q45k_scales(&packed_scales(block, 4));
    for (g, (scale, offset)) in lanes.scale.iter_mut().zip(&mut lanes.offset).enumerate() {
        *scale = d * f32::from(scales[g / 2]);
        *offset = -(dmin * f32::from(minima[g / 2]));
    }
}

/// The runs of 32 lanes of a block, each with its number.
#[inline(always)]
fn runs(lanes: &mut Lanes) -> impl Iterator<Item = (usize, &mut [i8])> {
    lanes.q.chunks_exact_mut(RUN).enumerate()
}

/// The bytes and the shift that hold run `r` of the 2-bit lanes: 32 bytes hold four runs, lowest bits first.
#[inline(always)]
fn pairs(bytes: &[u8], r: usize) -> (&[u8], usize) {
    (&bytes[r / 4 * RUN..][..RUN], r % 4 * 2)
}

/// The bytes and the shift that hold run `r` of the nibbles: 32 bytes hold two runs, low nibbles first.
#[inline(always)]
fn nibbles(bytes: &[u8], r: usize) -> (&[u8], usize) {
    (&bytes[r / 2 * RUN..][..RUN], r % 2 * 4)
}

impl Format for Q2K {
    const TYPE: GgmlType = GgmlType::Q2K;

    #[inline(always)]
    fn unpack(block: &[u8], lanes: &mut Lanes) {
        let (d, dmin) = (f16_at(block, 80), f16_at(block, 82));
        for (g, &packed) in block[..16].iter().enumerate() {
            lanes.scale[g] = d * f32::from(packed & 0x0f);
            lanes.offset[g] = -(dmin * f32::from(packed >> 4));
        }
        for (r, run) in runs(lanes) {
            let (low, shift) = pairs(&block[16..80], r);
            for (q, &low) in run.iter_mut().zip(low) {
                *q = (low >> shift & 3) as i8;
            }
        }
    }
}

impl Format for Q3K {
    const TYPE: GgmlType = GgmlType::Q3K;

    #[inline(always)]
    fn unpack(block: &[u8], lanes: &mut Lanes) {
        let d = f16_at(block, 108);
        let scales = q3k_scales(&packed_scales(block, 96));
        for (scale, packed) in lanes.scale.iter_mut().zip(scales) {
            *scale = d * f32::from(packed as i8 - 32);
        }
        lanes.offset = [0.0; 256 / GROUP];
        for (r, run) in runs(lanes) {
            let (low, shift) = pairs(&block[32..96], r);
            for ((q, &low), &high) in run.iter_mut().zip(low).zip(&block[..32]) {
                *q = (low >> shift & 3 | (high >> r & 1) << 2) as i8 - 4;
            }
        }
    }
}

impl Format for Q4K {
    const TYPE: GgmlType = GgmlType::Q4K;

    #[inline(always)]
    fn unpack(block: &[u8], lanes: &mut Lanes) {
        set_scales_and_minima(block, lanes);
        for (r, run) in runs(lanes) {
            let (low, shift) = nibbles(&block[16..144], r);
            for (q, &low) in run.iter_mut().zip(low) {
                *q = (low >> shift & 0x0f) as i8;
            }
        }
    }
}

impl Format for Q5K {
    const TYPE: GgmlType = GgmlType::Q5K;

    #[inline(always)]
    fn unpack(block: &[u8], lanes: &mut Lanes) {
        set_scales_and_minima(block, lanes);
        for (r, run) in runs(lanes) {
            let (low, shift) = nibbles(&block[48..176], r);
            for ((q, &low), &high) in run.iter_mut().zip(low).zip(&block[16..48]) {
                *q = (low >> shift & 0x0f | (high >> r & 1) << 4) as i8;
            }
        }
    }
}

impl Format for Q6K {
    const TYPE: GgmlType = GgmlType::Q6K;

    #[inline(always)]
    fn unpack(block: &[u8], lanes: &mut Lanes) {
        let d = f16_at(block, 208);
        for (scale, &packed) in lanes.scale.iter_mut().zip(&block[192..208]) {
            *scale = d * f32::from(packed as i8);
        }
        lanes.offset = [0.0; 256 / GROUP];
        for (r, run) in runs(lanes) {
            // Four runs share 64 bytes: the low nibbles are the first two, the high nibbles the last two.
            let low = &block[r / 4 * 64 + r % 2 * RUN..][..RUN];
            let low_shift = r % 4 / 2 * 4;
            let (high, shift) = pairs(&block[128..192], r);
            for ((q, &low), &high) in run.iter_mut().zip(low).zip(high) {
                *q = (low >> low_shift & 0x0f | (high >> shift & 3) << 4) as i8 - 32;
            }
        }
    }
}
