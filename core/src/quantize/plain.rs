//! F32, F16, BF16: an element is a block. Rounds to nearest, ties to even.

use half::{bf16, f16 as Half};

/// As it is.
pub(super) fn f32(x: &[f32], out: &mut [u8]) -> Option<()> {
    out.copy_from_slice(&x[0].to_le_bytes());
    Some(())
}

/// Fails from 65520 up, where the nearest f16 is an infinity.
pub(super) fn f16(x: &[f32], out: &mut [u8]) -> Option<()> {
    let rounded = Half::from_f32(x[0]);
    out.copy_from_slice(&rounded.to_le_bytes());
    rounded.is_finite().then_some(())
}

/// Fails for the last numbers below `f32::MAX`, where the nearest bfloat16 is an infinity.
pub(super) fn bf16(x: &[f32], out: &mut [u8]) -> Option<()> {
    let rounded = bf16::from_f32(x[0]);
    out.copy_from_slice(&rounded.to_le_bytes());
    rounded.is_finite().then_some(())
}
