//! What can be wrong with a set of spectral entries.

/// Why entries, or a request on them, were refused.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum SpectralError {
    /// A side of the shape is zero or too long, or the area passes [`MAX_AREA`](super::MAX_AREA).
    #[error("a {rows} x {cols} weight is not supported: sides are 1 to {max_side}, their product at most {max_area}")]
    Shape {
        /// Output features.
        rows: usize,
        /// Input features.
        cols: usize,
        /// Longest side.
        max_side: usize,
        /// Largest product of the sides.
        max_area: u64,
    },
    /// The number of entries is zero or larger than the spectrum.
    #[error("{n} entries do not fit a {rows} x {cols} spectrum: 1 to {area} are possible")]
    Count {
        /// Entries asked for.
        n: usize,
        /// Output features.
        rows: usize,
        /// Input features.
        cols: usize,
        /// `rows · cols`.
        area: u64,
    },
    /// Explicit rows and columns differ in number.
    #[error("{rows} row indices but {cols} column indices")]
    Ragged {
        /// Row indices given.
        rows: usize,
        /// Column indices given.
        cols: usize,
    },
    /// A position outside the spectrum.
    #[error("entry {index} is at ({row}, {col}), outside a {rows} x {cols} spectrum")]
    OutOfRange {
        /// Which entry.
        index: usize,
        /// Its row.
        row: u32,
        /// Its column.
        col: u32,
        /// Output features.
        rows: usize,
        /// Input features.
        cols: usize,
    },
    /// Two entries at one position.
    #[error("two entries are at ({row}, {col})")]
    Duplicate {
        /// Their row.
        row: u32,
        /// Their column.
        col: u32,
    },
    /// A band of Eq. 5 that is no band.
    #[error("{name} is {value}, expected {expected}")]
    Band {
        /// `centre frequency` or `bandwidth`.
        name: &'static str,
        /// The value.
        value: f64,
        /// What is possible.
        expected: &'static str,
    },
    /// A number of coefficients that is not the number of entries, or an output of the wrong size.
    #[error("{what}: {found} values, expected {expected}")]
    Length {
        /// What was too long or short.
        what: &'static str,
        /// Values needed.
        expected: usize,
        /// Values given.
        found: usize,
    },
}
