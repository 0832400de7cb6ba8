//! The storage formats of GGUF weights, one file per block family, decoded in portable code.
//!
//! Every quantised format is the same thing: integer lanes `q` in groups of 16 (a group of 32 is two equal groups of 16), each
//! group with a scale and an offset, an element being `scale · q + offset`. [`Format::unpack`] brings a block into that form. It
//! is the definition of the format for the reference tier, [`dequantize`] and the portable int8 tier; the ISA
//! files unpack the same bytes their own way and are tested against it.
//!
//! Source: the block structs of ggml's `ggml-common.h`; all numbers are little-endian.

mod k_quants;
mod legacy;
mod nonlinear;
mod plain;

use super::KernelError;
use crate::gguf::GgmlType;

pub use k_quants::{Q2K, Q3K, Q4K, Q5K, Q6K};
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
pub(super) use k_quants::{q3k_scales, q45k_scales};
pub use legacy::{Q4_0, Q4_1, Q5_0, Q5_1, Q8_0};
pub use nonlinear::Iq4Nl;
pub(crate) use nonlinear::LEVELS;
pub use plain::{Bf16, F16, F32};

/// The function generic over the format that `$ty` names: `$quantised` or `$plain`, instantiated for its marker type.
macro_rules! by_type {
    ($ty:expr, $quantised:ident, $plain:ident) => {{
        use $crate::gguf::GgmlType;
        use $crate::kernels::formats::*;
        match $ty {
            GgmlType::F32 => $plain::<F32>,
            GgmlType::F16 => $plain::<F16>,
            GgmlType::Bf16 => $plain::<Bf16>,
            GgmlType::Q4_0 => $quantised::<Q4_0>,
            GgmlType::Q4_1 => $quantised::<Q4_1>,
            GgmlType::Q5_0 => $quantised::<Q5_0>,
            GgmlType::Q5_1 => $quantised::<Q5_1>,
            GgmlType::Q8_0 => $quantised::<Q8_0>,
            GgmlType::Q2K => $quantised::<Q2K>,
            GgmlType::Q3K => $quantised::<Q3K>,
            GgmlType::Q4K => $quantised::<Q4K>,
            GgmlType::Q5K => $quantised::<Q5K>,
            GgmlType::Q6K => $quantised::<Q6K>,
            GgmlType::Iq4Nl => $quantised::<Iq4Nl>,
        }
    }};
}
pub(super) use by_type;

/// Elements per group: the finest grain at which any format changes its scale.
pub const GROUP: usize = 16;
/// Elements of the longest block.
pub const MAX_BLOCK: usize = 256;

/// An unpacked block: element `i` is `scale[i / 16] · q[i] + offset[i / 16]`.
pub struct Lanes {
    /// Integer lanes.
    pub q: [i8; MAX_BLOCK],
    /// Scale of each group.
    pub scale: [f32; MAX_BLOCK / GROUP],
    /// Offset of each group; 0 for formats whose lanes are centred.
    pub offset: [f32; MAX_BLOCK / GROUP],
}

impl Lanes {
    /// All zero.
    pub const fn new() -> Self {
        Self { q: [0; MAX_BLOCK], scale: [0.0; MAX_BLOCK / GROUP], offset: [0.0; MAX_BLOCK / GROUP] }
    }

    /// One scale and offset for the 32 lanes of a small block.
    #[inline(always)]
    fn set_uniform(&mut self, scale: f32, offset: f32) {
        self.scale[..2].fill(scale);
        self.offset[..2].fill(offset);
    }
}

/// A quantised storage format.
pub trait Format {
    /// Its number in a GGUF file.
    const TYPE: GgmlType;
    /// Elements of a block: 32 or 256.
    const LEN: usize = Self::TYPE.block_len();
    /// Bytes of a block.
    const BYTES: usize = Self::TYPE.block_bytes();

    /// Unpacks one block of [`BYTES`](Self::BYTES) bytes into the first [`LEN`](Self::LEN) lanes and their groups.
    fn unpack(block: &[u8], lanes: &mut Lanes);
}

/// An unquantised storage format.
pub trait Plain {
    /// Its number in a GGUF file.
    const TYPE: GgmlType;
    /// Bytes of an element.
    const BYTES: usize = Self::TYPE.block_bytes();

    /// Decodes one element of [`BYTES`](Self::BYTES) bytes.
    fn decode(bytes: &[u8]) -> f32;
}

/// Decodes `blocks`, the storage of `out.len()` elements of type `ty`, to f32 as ggml's reference decoder does.
///
/// # Errors
/// [`KernelError::Shape`] if `out` is not a whole number of blocks, [`KernelError::Length`] if `blocks` is not exactly its storage.
pub fn dequantize(ty: GgmlType, blocks: &[u8], out: &mut [f32]) -> Result<(), KernelError> {
    let elements = out.len();
    let Some(expected) = ty.row_bytes(elements) else {
        return Err(KernelError::Shape { ty, rows: 1, cols: elements });
    };
    if blocks.len() != expected {
        return Err(KernelError::Length { ty, elements, expected, found: blocks.len() });
    }
    let decode: fn(&[u8], &mut [f32]) = by_type!(ty, decode_blocks, decode_plain);
    decode(blocks, out);
    Ok(())
}

/// Decodes whole blocks of a quantised format; stops at the shorter of the two.
pub(super) fn decode_blocks<F: Format>(blocks: &[u8], out: &mut [f32]) {
    let mut lanes = Lanes::new();
    for (block, out) in blocks.chunks_exact(F::BYTES).zip(out.chunks_exact_mut(F::LEN)) {
        F::unpack(block, &mut lanes);
        let groups = out.chunks_exact_mut(GROUP).zip(lanes.q.chunks_exact(GROUP));
        for (g, (out, q)) in groups.enumerate() {
            let (scale, offset) = (lanes.scale[g], lanes.offset[g]);
            for (out, &q) in out.iter_mut().zip(q) {
                *out = scale * f32::from(q) + offset;
            }
        }
    }
}

/// Decodes elements of an unquantised format; stops at the shorter of the two.
pub(super) fn decode_plain<P: Plain>(bytes: &[u8], out: &mut [f32]) {
    for (bytes, out) in bytes.chunks_exact(P::BYTES).zip(out) {
        *out = P::decode(bytes);
    }
}

/// The half-precision number at byte `at`.
#[inline(always)]
fn f16_at(block: &[u8], at: usize) -> f32 {
    plain::f16_to_f32(u16::from_le_bytes([block[at], block[at + 1]]))
}

#[cfg(test)]
mod tests;
