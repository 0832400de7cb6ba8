//! F32, F16 and BF16: numbers as they are.

use super::Plain;
use crate::gguf::GgmlType;

/// IEEE single precision.
pub struct F32;
/// IEEE half precision.
pub struct F16;
/// The upper half of a single-precision number.
pub struct Bf16;

impl Plain for F32 {
    const TYPE: GgmlType = GgmlType::F32;

    fn decode(b: &[u8]) -> f32 {
        f32::from_le_bytes([b[0], b[1], b[2], b[3]])
    }
}

impl Plain for F16 {
    const TYPE: GgmlType = GgmlType::F16;

    fn decode(b: &[u8]) -> f32 {
        super::f16_at(b, 0)
    }
}

impl Plain for Bf16 {
    const TYPE: GgmlType = GgmlType::Bf16;

    fn decode(b: &[u8]) -> f32 {
        f32::from_le_bytes([0, 0, b[0], b[1]])
    }
}
