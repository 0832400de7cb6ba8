//! How many parameters an adapter has and how many bytes they take: the arithmetic behind the paper's Table 1.
//!
//! For an adapter over layers of `out × in`, each adapted layer costs
//!
//! * FourierFT: `n` coefficients, whatever the layer's size, so `n · L` for `L` layers. Positions are shared and
//!   redrawn from a seed: they are not parameters and are not stored.
//! * LoRA of rank `r`: the factors `r × in` and `out × r`, so `r · Σ (out + in)`.
//!
//! Every parameter is counted as one f32, four bytes, as in the paper and in a PEFT file.
//!
//! [`shapes`] knows the layers the paper adapts (query and value of every attention block) for the models of its
//! table, and reads the same layers out of a GGUF file. [`mod@table1`] is the table itself, computed, beside what the paper
//! prints. [`units`] is the paper's way of writing a count. This room imports [`crate::gguf`] only.

pub mod shapes;
pub mod table1;
pub mod units;

use serde::Serialize;

pub use shapes::{BaseModel, LayerShape};
pub use table1::{Cell, Row, table1};

/// Bytes of one stored parameter: an f32.
pub const BYTES_PER_PARAMETER: u64 = 4;

/// Why a count could not be given.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum ParamsError {
    /// A layer has fewer positions than the spectrum has entries, so `n` different ones cannot be drawn.
    #[error("{n} spectral entries do not fit a layer of {out} × {inp}, which has {} positions", u128::from(*out) * u128::from(*inp))]
    TooManyEntries {
        /// Entries asked for per layer.
        n: u64,
        /// Rows of the layer.
        out: u64,
        /// Columns of the layer.
        inp: u64,
    },
    /// The count does not fit 64 bits.
    #[error("the parameter count of this adapter does not fit 64 bits")]
    Overflow,
    /// The name is none of the models of the paper's table.
    #[error("no model is called {name:?} here; known are {}", BaseModel::names().join(", "))]
    UnknownModel {
        /// The name given.
        name: String,
    },
    /// A GGUF file has no attention query and value matrices by their usual names.
    #[error("{path}: no tensor is called blk.<i>.attn_q.weight or blk.<i>.attn_v.weight, so there is nothing to count")]
    NoLayers {
        /// The file looked in.
        path: std::path::PathBuf,
    },
}

/// The size of one adapter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Count {
    /// Trainable parameters.
    pub parameters: u64,
    /// Bytes they take as f32.
    pub bytes: u64,
}

impl Count {
    fn of(parameters: u64) -> Result<Self, ParamsError> {
        let bytes = parameters.checked_mul(BYTES_PER_PARAMETER).ok_or(ParamsError::Overflow)?;
        Ok(Self { parameters, bytes })
    }
}

/// The size of a FourierFT adapter with `n` coefficients on each of `layers`: `n · L`.
///
/// # Errors
/// [`ParamsError::TooManyEntries`] where a layer has fewer than `n` positions, [`ParamsError::Overflow`].
pub fn fourierft(layers: &[LayerShape], n: u64) -> Result<Count, ParamsError> {
    let mut parameters = 0u64;
    for layer in layers {
        if u128::from(n) > u128::from(layer.out) * u128::from(layer.inp) {
            return Err(ParamsError::TooManyEntries { n, out: layer.out, inp: layer.inp });
        }
        parameters = parameters.checked_add(n).ok_or(ParamsError::Overflow)?;
    }
    Count::of(parameters)
}

/// The size of a LoRA adapter of `rank` on each of `layers`: `r · Σ (out + in)`.
///
/// # Errors
/// [`ParamsError::Overflow`].
pub fn lora(layers: &[LayerShape], rank: u64) -> Result<Count, ParamsError> {
    let mut sides = 0u64;
    for layer in layers {
        let layer_sides = layer.out.checked_add(layer.inp).ok_or(ParamsError::Overflow)?;
        sides = sides.checked_add(layer_sides).ok_or(ParamsError::Overflow)?;
    }
    Count::of(sides.checked_mul(rank).ok_or(ParamsError::Overflow)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_of_unequal_layers() {
        let layers = [LayerShape { out: 576, inp: 576 }, LayerShape { out: 192, inp: 576 }];
        assert_eq!(fourierft(&layers, 1000), Ok(Count { parameters: 2000, bytes: 8000 }));
        assert_eq!(lora(&layers, 8), Ok(Count { parameters: 8 * (1152 + 768), bytes: 4 * 8 * (1152 + 768) }));
        assert_eq!(fourierft(&[], 1000), Ok(Count { parameters: 0, bytes: 0 }));
    }

    #[test]
    fn more_entries_than_positions_are_refused() {
        let layers = [LayerShape { out: 3, inp: 5 }];
        assert_eq!(fourierft(&layers, 15).map(|c| c.parameters), Ok(15));
        assert_eq!(fourierft(&layers, 16), Err(ParamsError::TooManyEntries { n: 16, out: 3, inp: 5 }));
    }

    #[test]
    fn overflow_is_an_error() {
        let huge = [LayerShape { out: u64::MAX, inp: u64::MAX }];
        assert_eq!(lora(&huge, 1), Err(ParamsError::Overflow));
        assert_eq!(fourierft(&huge, u64::MAX / 2), Err(ParamsError::Overflow));
        let wide = [LayerShape { out: 1 << 40, inp: 1 << 40 }];
        assert_eq!(lora(&wide, 1 << 40), Err(ParamsError::Overflow));
    }
}
