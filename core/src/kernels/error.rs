//! What can go wrong in the kernels room.

use super::Tier;
use crate::gguf::GgmlType;

/// A failure of the kernels room. None of them occurs once a [`Matrix`](super::Matrix) and a
/// [`Compute`](super::Compute) exist.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// A row of `cols` elements is not a whole number of blocks, or the matrix's size overflows.
    #[error("{ty} cannot store {rows} rows of {cols} columns: rows are whole blocks of {} elements", ty.block_len())]
    Shape {
        /// Storage type of the matrix.
        ty: GgmlType,
        /// Rows asked for.
        rows: usize,
        /// Columns asked for.
        cols: usize,
    },
    /// The bytes handed in are not the bytes the shape needs.
    #[error("{ty} data of {elements} elements takes {expected} bytes, found {found}")]
    Length {
        /// Storage type of the data.
        ty: GgmlType,
        /// Elements the caller expects in the data.
        elements: usize,
        /// Bytes those elements take.
        expected: usize,
        /// Bytes handed in.
        found: usize,
    },
    /// This CPU (or this build's architecture) cannot run the tier.
    #[error("this CPU cannot run the {tier} kernels")]
    TierUnavailable {
        /// The tier asked for.
        tier: Tier,
    },
    /// No tier has that name.
    #[error("unknown kernels {name:?}: expected auto, reference, scalar, avx2, avx512 or neon")]
    UnknownTier {
        /// The name given.
        name: String,
    },
    /// Activations are not quantised in that way.
    #[error("unknown activations {name:?}: expected int15 or int8")]
    UnknownActivations {
        /// The name given.
        name: String,
    },
    /// A pool needs at least one thread and at most [`Pool::MAX_THREADS`](super::Pool::MAX_THREADS).
    #[error("cannot compute on {threads} threads: between 1 and {} are possible", super::Pool::MAX_THREADS)]
    Threads {
        /// Threads asked for.
        threads: usize,
    },
    /// The system refused to start a worker thread.
    #[error("cannot start a worker thread: {0}")]
    Spawn(#[source] std::io::Error),
}
