//! F32, F16 and BF16: numbers as they are.

use super::Plain;
use crate::gguf::GgmlType;

/// IEEE single precision.
pub struct F32;
/// IEEE half precision.
pub struct F16;
/// The upper half of a single-precision number.
pub struct Bf16;

/// Exactly the value of a half-precision number. Without branches, so that loops over it vectorise.
#[inline(always)]
pub(super) fn f16_to_f32(half: u16) -> f32 {
    /// The exponent fields of the two formats differ by 112 for equal values.
    const REBIAS: f32 = f32::from_bits((127 + 112) << 23);
    let magnitude = u32::from(half & 0x7fff) << 13;
    // The product also normalises subnormal halves; infinities and NaNs need their exponent filled up instead.
    let finite = (f32::from_bits(magnitude) * REBIAS).to_bits();
    let special = magnitude | 0x7f80_0000;
    let bits = if half & 0x7c00 == 0x7c00 { special } else { finite };
    f32::from_bits(bits | u32::from(half & 0x8000) << 16)
}

impl Plain for F32 {
    const TYPE: GgmlType = GgmlType::F32;

    #[inline(always)]
    fn decode(b: &[u8]) -> f32 {
        f32::from_le_bytes([b[0], b[1], b[2], b[3]])
    }
}

impl Plain for F16 {
    const TYPE: GgmlType = GgmlType::F16;

    #[inline(always)]
    fn decode(b: &[u8]) -> f32 {
        super::f16_at(b, 0)
    }
}

impl Plain for Bf16 {
    const TYPE: GgmlType = GgmlType::Bf16;

    #[inline(always)]
    fn decode(b: &[u8]) -> f32 {
        f32::from_le_bytes([0, 0, b[0], b[1]])
    }
}
