//! The positions `E` of a sparse spectrum.

use std::collections::HashSet;
use std::fmt;

use serde::Serialize;

use super::{SpectralError, biased, randperm};

/// Longest side of an adapted weight, in features. Well past any vocabulary.
pub const MAX_SIDE: usize = 1 << 22;

/// Largest `rows · cols` of an adapted weight. Drawing entries can cost this many random numbers, so a file's shape must
/// not be able to ask for more.
pub const MAX_AREA: u64 = 1 << 31;

/// The shape of a weight `W ∈ R^{d1×d2}`: `rows` = d1 output features, `cols` = d2 input features.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct Shape {
    rows: u32,
    cols: u32,
}

impl Shape {
    /// A shape of `rows` outputs and `cols` inputs.
    ///
    /// # Errors
    /// [`SpectralError::Shape`] for a side of zero or past [`MAX_SIDE`], or an area past [`MAX_AREA`].
    pub fn new(rows: usize, cols: usize) -> Result<Self, SpectralError> {
        let refused = SpectralError::Shape { rows, cols, max_side: MAX_SIDE, max_area: MAX_AREA };
        match (u32::try_from(rows), u32::try_from(cols)) {
            (Ok(r), Ok(c))
                if (1..=MAX_SIDE).contains(&rows)
                    && (1..=MAX_SIDE).contains(&cols)
                    && u64::from(r) * u64::from(c) <= MAX_AREA =>
            {
                Ok(Self { rows: r, cols: c })
            }
            _ => Err(refused),
        }
    }

    /// Output features, d1.
    pub fn rows(self) -> usize {
        self.rows as usize
    }

    /// Input features, d2.
    pub fn cols(self) -> usize {
        self.cols as usize
    }

    /// `d1 · d2`.
    pub fn area(self) -> u64 {
        u64::from(self.rows) * u64::from(self.cols)
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}x{}", self.rows, self.cols)
    }
}

/// Where positions come from, which is all a file has to keep of drawn ones.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(tag = "source", rename_all = "lowercase")]
pub enum EntrySource {
    /// The first `n` of `torch.randperm(d1·d2)`, as PEFT draws them.
    Seeded {
        /// The generator's seed (`random_loc_seed`).
        seed: u64,
    },
    /// Drawn around a centre frequency (the paper's Eq. 5).
    Biased {
        /// Seed of the draw.
        seed: u64,
        /// `f_c`: the distance from the centre of the matrix that is most likely, in bins.
        center: f64,
        /// `W`: the bandwidth, in bins.
        bandwidth: f64,
    },
    /// Listed one by one.
    Explicit,
}

impl fmt::Display for EntrySource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Seeded { seed } => write!(f, "seed {seed}"),
            Self::Biased { seed, center, bandwidth } => write!(f, "seed {seed}, f_c {center}, W {bandwidth}"),
            Self::Explicit => f.write_str("explicit"),
        }
    }
}

/// `n` distinct positions `(row, col)` of a `d1 × d2` spectrum, in the order of the coefficients. Immutable.
#[derive(Debug, Clone, PartialEq)]
pub struct Entries {
    shape: Shape,
    rows: Box<[u32]>,
    cols: Box<[u32]>,
    source: EntrySource,
}

impl Entries {
    /// PEFT's positions: `torch.randperm(d1·d2, generator=manual_seed(seed))[:n]`, row-major.
    ///
    /// Costs `n` random numbers and O(n) memory below 214 748 364 positions, `d1·d2` random numbers from there up
    /// (see [`randperm_prefix`](super::randperm_prefix)).
    ///
    /// # Errors
    /// [`SpectralError::Count`] unless `1 ≤ n ≤ d1·d2`.
    pub fn seeded(shape: Shape, n: usize, seed: u64) -> Result<Self, SpectralError> {
        check_count(shape, n)?;
        let flat = randperm::randperm_prefix(shape.area(), n, seed);
        Ok(Self::from_flat(shape, &flat, EntrySource::Seeded { seed }))
    }

    /// Positions drawn without replacement with the probabilities of the paper's Eq. 5: most likely at distance
    /// `center` (`f_c`) from the centre of the matrix, within about `bandwidth` (`W`) of it; both in bins.
    ///
    /// The same arguments give the same positions on every platform, and a smaller `n` gives a prefix.
    /// Costs `d1·d2` random numbers and O(n) memory.
    ///
    /// # Errors
    /// [`SpectralError::Count`] unless `1 ≤ n ≤ d1·d2`; [`SpectralError::Band`] unless `0 ≤ center ≤ 1e9` and
    /// `1e-6 ≤ bandwidth ≤ 1e9`.
    pub fn biased(shape: Shape, n: usize, seed: u64, center: f64, bandwidth: f64) -> Result<Self, SpectralError> {
        check_count(shape, n)?;
        let flat = biased::draw(shape, n, seed, center, bandwidth)?;
        Ok(Self::from_flat(shape, &flat, EntrySource::Biased { seed, center, bandwidth }))
    }

    /// Positions listed by the caller: entry `l` is at `(rows[l], cols[l])`.
    ///
    /// # Errors
    /// [`SpectralError::Ragged`], [`SpectralError::Count`], [`SpectralError::OutOfRange`] or
    /// [`SpectralError::Duplicate`].
    pub fn explicit(shape: Shape, rows: Vec<u32>, cols: Vec<u32>) -> Result<Self, SpectralError> {
        if rows.len() != cols.len() {
            return Err(SpectralError::Ragged { rows: rows.len(), cols: cols.len() });
        }
        check_count(shape, rows.len())?;
        let mut seen = HashSet::with_capacity(rows.len());
        for (index, (&row, &col)) in rows.iter().zip(&cols).enumerate() {
            if row >= shape.rows || col >= shape.cols {
                let (rows, cols) = (shape.rows(), shape.cols());
                return Err(SpectralError::OutOfRange { index, row, col, rows, cols });
            }
            if !seen.insert((row, col)) {
                return Err(SpectralError::Duplicate { row, col });
            }
        }
        Ok(Self { shape, rows: rows.into(), cols: cols.into(), source: EntrySource::Explicit })
    }

    /// Flat row-major positions, known to be distinct and in range.
    fn from_flat(shape: Shape, flat: &[u32], source: EntrySource) -> Self {
        Self {
            shape,
            rows: flat.iter().map(|&f| f / shape.cols).collect(),
            cols: flat.iter().map(|&f| f % shape.cols).collect(),
            source,
        }
    }

    /// The shape of the weight.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// The number of entries, `n ≥ 1`.
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Row (output frequency `j`) of each entry.
    pub fn rows(&self) -> &[u32] {
        &self.rows
    }

    /// Column (input frequency `k`) of each entry.
    pub fn cols(&self) -> &[u32] {
        &self.cols
    }

    /// Where the positions came from.
    pub fn source(&self) -> EntrySource {
        self.source
    }

    /// Whether both have the same positions in the same order, however they came by them.
    pub fn same_positions(&self, other: &Self) -> bool {
        self.shape == other.shape && self.rows == other.rows && self.cols == other.cols
    }
}

/// Refuses `n = 0` and `n > d1·d2`.
pub(super) fn check_count(shape: Shape, n: usize) -> Result<(), SpectralError> {
    if n == 0 || n as u64 > shape.area() {
        return Err(SpectralError::Count { n, rows: shape.rows(), cols: shape.cols(), area: shape.area() });
    }
    Ok(())
}
