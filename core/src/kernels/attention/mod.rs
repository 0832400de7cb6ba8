//! The two products of attention over one tile of the KV cache, and the running softmax between them.
//!
//! Both products have one form, C = A · B with B read straight from the cache, a register of 16 lanes at a time: for the
//! scores A holds queries, B's rows are the elements of a head and its lanes positions (keys are stored that way round); for
//! the mix A holds the softmax weights, B's rows are positions and its lanes elements. No sum runs across lanes, and every
//! element of C is one chain of multiply-adds in the order of B's rows, so that its value does not depend on what is computed
//! beside it. [`pairs`] has both in integers, for many queries.

// Register arrays of constant length: indices keep the unrolled loops over several of them in step.
#![allow(clippy::needless_range_loop)]

pub(super) mod lanes;
pub mod pairs;
mod panels;
mod product;
mod softmax;
mod source;
mod store;

pub use lanes::f16_from_f32;
pub use panels::{BLOCK, CacheFormat, Keys, Q8_GROUP, Values};
pub(super) use product::Set;
pub use product::{MAX_ROWS, mix, scores};
pub use softmax::{Running, fold_tile, merge};
pub use store::{store_key, store_value};

/// Positions of a tile: the scores of a few queries over it stay in registers.
pub const TILE: usize = 4 * BLOCK;
