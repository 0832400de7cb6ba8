//! F32, F16, BF16: any number of elements at once. Rounds to nearest, ties to even.

use half::{bf16, f16 as Half};

/// As it is.
pub(super) fn f32(x: &[f32], out: &mut [u8]) -> Option<()> {
    for (x, out) in x.iter().zip(out.chunks_exact_mut(4)) {
        out.copy_from_slice(&x.to_le_bytes());
    }
    Some(())
}

/// Fails from 65520 up, where the nearest f16 is an infinity.
pub(super) fn f16(x: &[f32], out: &mut [u8]) -> Option<()> {
    let mut finite = true;
    for (&x, out) in x.iter().zip(out.chunks_exact_mut(2)) {
        let rounded = Half::from_f32(x);
        finite &= rounded.is_finite();
        out.copy_from_slice(&rounded.to_le_bytes());
    }
    finite.then_some(())
}

/// Fails for the last numbers below `f32::MAX`, where the nearest bfloat16 is an infinity.
pub(super) fn bf16(x: &[f32], out: &mut [u8]) -> Option<()> {
    let mut finite = true;
    for (&x, out) in x.iter().zip(out.chunks_exact_mut(2)) {
        let rounded = bf16::from_f32(x);
        finite &= rounded.is_finite();
        out.copy_from_slice(&rounded.to_le_bytes());
    }
    finite.then_some(())
}
