//! What is read after products with one row of activations.

use super::{Matrix, Span};

/// Told to products with one row, whose last rows then leave memory no pause: what comes next is asked for while they are multiplied.
#[derive(Debug, Clone, Copy, Default)]
pub struct Next<'a> {
    /// The products that follow.
    pub products: &'a [Matrix<'a>],
    /// Two streams that the calling thread reads before these, if the first is not empty.
    pub first: [Span; 2],
    /// What else the calling thread reads before these, met once a token and so far away.
    pub between: [Span; 4],
}
