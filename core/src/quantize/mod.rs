//! Rounds rows of `f32` to a storage type of GGUF.
//!
//! Used where a tensor is written, as in a merge; never on the way to a token. Every format keeps the error
//! `Σ (x − x̂)²` of a block small with all elements weighted alike: scales are searched around the one that covers the
//! block and then solved for by least squares. Imports [`gguf`](crate::gguf) for the types and
//! [`kernels`](crate::kernels) for the level table of IQ4_NL.
//!
//! One file per block family: `plain` (F32, F16, BF16), `legacy` (Q4_0, Q4_1, Q5_0, Q5_1, Q8_0), `nonlinear` (IQ4_NL),
//! `k_affine` (Q2_K, Q4_K, Q5_K) and `k_centred` (Q3_K, Q6_K), over the searches in `fit`.
//!
//! Source of the layouts: the block structs of ggml's `ggml-common.h`; all numbers are little-endian.

mod error;
mod fit;
mod k_affine;
mod k_centred;
mod legacy;
mod nonlinear;
mod plain;
#[cfg(test)]
mod tests;

pub use error::QuantizeError;

use crate::gguf::GgmlType;

/// Rounds one block; `None` if it does not fit the type's range. Lengths are those of the type, or of any row for the
/// plain types.
type Encode = fn(&[f32], &mut [u8]) -> Option<()>;

/// No quantised format reaches this magnitude (Q6_K reaches 2.7e8), and squares of smaller numbers stay far from
/// overflow.
const OUT_OF_REACH: f32 = 1e9;

/// Rounds the row `x` to `ty` and writes its blocks to `out`.
///
/// `x.len()` is a whole number of blocks and `out.len()` is [`GgmlType::row_bytes`] of it.
///
/// # Errors
/// [`QuantizeError::Row`] and [`QuantizeError::Output`] for lengths, [`QuantizeError::NotFinite`] for NaN and
/// infinities, [`QuantizeError::Overflow`] for numbers past the type's range. What `out` holds then is unspecified.
pub fn quantize_row(ty: GgmlType, x: &[f32], out: &mut [u8]) -> Result<(), QuantizeError> {
    let expected = ty.row_bytes(x.len()).ok_or(QuantizeError::Row { ty, found: x.len() })?;
    if out.len() != expected {
        return Err(QuantizeError::Output { ty, len: x.len(), expected, found: out.len() });
    }
    if let Some(index) = x.iter().position(|v| !v.is_finite()) {
        return Err(QuantizeError::NotFinite { index, value: x[index] });
    }
    let encode: Encode = match ty {
        GgmlType::F32 => plain::f32,
        GgmlType::F16 => plain::f16,
        GgmlType::Bf16 => plain::bf16,
        GgmlType::Q4_0 => legacy::q4_0,
        GgmlType::Q4_1 => legacy::q4_1,
        GgmlType::Q5_0 => legacy::q5_0,
        GgmlType::Q5_1 => legacy::q5_1,
        GgmlType::Q8_0 => legacy::q8_0,
        GgmlType::Q2K => k_affine::q2_k,
        GgmlType::Q3K => k_centred::q3_k,
        GgmlType::Q4K => k_affine::q4_k,
        GgmlType::Q5K => k_affine::q5_k,
        GgmlType::Q6K => k_centred::q6_k,
        GgmlType::Iq4Nl => nonlinear::iq4_nl,
    };
    let quantised = ty.block_len() > 1;
    // A row of plain numbers is taken as one block.
    let (block_len, block_bytes) = match quantised {
        true => (ty.block_len(), ty.block_bytes()),
        false => (x.len().max(1), out.len().max(1)),
    };
    let blocks = x.chunks_exact(block_len).zip(out.chunks_exact_mut(block_bytes));
    for (i, (block, bytes)) in blocks.enumerate() {
        let (at, peak) = fit::peak(block);
        let done = match peak.abs() {
            // Below half of the smallest number any quantised format has beside zero, zero is the nearest.
            tiny if quantised && tiny < fit::SMALLEST_SCALE / 2.0 => {
                zero_block(ty, bytes);
                Some(())
            }
            huge if quantised && huge > OUT_OF_REACH => None,
            _ => encode(block, bytes),
        };
        done.ok_or(QuantizeError::Overflow { ty, index: i * block_len + at, value: peak })?;
    }
    Ok(())
}

/// The block that stands for zeros: its scales are zero, and so are its lanes after centring.
fn zero_block(ty: GgmlType, out: &mut [u8]) {
    out.fill(0);
    match ty {
        GgmlType::Q4_0 => out[2..].fill(0x88),
        GgmlType::Q5_0 => out[2..6].fill(0xff),
        _ => {}
    }
}
