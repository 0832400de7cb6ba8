//! What can be wrong with a row to be rounded.

use crate::gguf::GgmlType;

/// Why a row was not rounded. Indices count elements of the row.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum QuantizeError {
    /// The row is not a whole number of blocks.
    #[error("a row of {found} elements is not a whole number of {ty} blocks of {} elements", ty.block_len())]
    Row {
        /// The type asked for.
        ty: GgmlType,
        /// Elements of the row.
        found: usize,
    },
    /// The room for the result has the wrong size.
    #[error("{len} elements take {expected} bytes as {ty}, room for {found} was given")]
    Output {
        /// The type asked for.
        ty: GgmlType,
        /// Elements of the row.
        len: usize,
        /// Bytes they take.
        expected: usize,
        /// Bytes given.
        found: usize,
    },
    /// NaN or an infinity.
    #[error("element {index} is {value}, which cannot be stored")]
    NotFinite {
        /// Where.
        index: usize,
        /// What.
        value: f32,
    },
    /// A number past the range of the type.
    #[error("element {index} is {value:e}, past the range of {ty}")]
    Overflow {
        /// The type asked for.
        ty: GgmlType,
        /// Where: the largest element of the block that does not fit.
        index: usize,
        /// What.
        value: f32,
    },
}
