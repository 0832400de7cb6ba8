//! What every module with the same entries shares: which half-spectrum bins each entry joins.

use std::sync::Arc;

use super::{Entries, Shape, SpectralError};

/// Entries prepared for [`transform`](super::transform), shared by all modules and adapters that have them.
///
/// An entry `(j, k)` multiplies frequency `k` of the input and adds to frequency `j` of the output. Real signals have
/// only half of each: a frequency above the half is the conjugate of its mirror. So an entry becomes a bin of the
/// output half, a bin of the input half, and whether the imaginary part keeps its sign between them. Entries are
/// *stored* in the order in which that is fastest (those that keep the sign first, then by input bin);
/// coefficients are brought into it once, by [`Plan::to_stored`].
#[derive(Debug)]
pub struct Plan {
    entries: Arc<Entries>,
    pub(super) bins: Bins,
    /// How many entries, the first ones in stored order, keep the sign of the imaginary part.
    pub(super) keep: usize,
    /// Stored position to entry number.
    order: Box<[u32]>,
}

/// Output (`rows`) and input (`cols`) bins in stored order. Two bytes do for sides up to 131 070.
#[derive(Debug)]
pub(super) enum Bins {
    Narrow { rows: Box<[u16]>, cols: Box<[u16]> },
    Wide { rows: Box<[u32]>, cols: Box<[u32]> },
}

impl Plan {
    /// Prepares `entries`. O(n log n).
    pub fn new(entries: Arc<Entries>) -> Self {
        let (d1, d2) = (entries.shape().rows() as u32, entries.shape().cols() as u32);
        let mut folded: Vec<(bool, u32, u32, u32)> = entries
            .rows()
            .iter()
            .zip(entries.cols())
            .zip(0u32..)
            .map(|((&j, &k), number)| {
                let (row, row_mirrored) = fold(j, d1);
                let (col, col_mirrored) = fold(k, d2);
                // The library's transform has the opposite sign in its exponent, so a bin of the input is the
                // conjugate of the frequency unless mirrored; mirroring an output frequency conjugates once more.
                (row_mirrored == col_mirrored, col, row, number)
            })
            .collect();
        // `false` sorts first: mirrored on one side only keeps the sign.
        folded.sort_unstable();
        let keep = folded.partition_point(|e| !e.0);
        let bins = if d1.max(d2) / 2 <= u32::from(u16::MAX) {
            // The test above is that both bins fit.
            let rows = folded.iter().map(|e| e.2 as u16).collect();
            let cols = folded.iter().map(|e| e.1 as u16).collect();
            Bins::Narrow { rows, cols }
        } else {
            let rows = folded.iter().map(|e| e.2).collect();
            let cols = folded.iter().map(|e| e.1).collect();
            Bins::Wide { rows, cols }
        };
        let order = folded.iter().map(|e| e.3).collect();
        Self { entries, bins, keep, order }
    }

    /// The positions, in entry order.
    pub fn entries(&self) -> &Arc<Entries> {
        &self.entries
    }

    /// The shape of the weight.
    pub fn shape(&self) -> Shape {
        self.entries.shape()
    }

    /// The number of entries, `n ≥ 1`.
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        self.order.len()
    }

    /// The entry number of each stored position.
    pub fn order(&self) -> &[u32] {
        &self.order
    }

    /// Coefficients from entry order (a file's) into stored order.
    ///
    /// # Errors
    /// [`SpectralError::Length`] unless there is one per entry.
    pub fn to_stored(&self, coefficients: &[f32]) -> Result<Box<[f32]>, SpectralError> {
        self.check(coefficients)?;
        Ok(self.order.iter().map(|&entry| coefficients[entry as usize]).collect())
    }

    /// Coefficients, or their gradient, from stored order into entry order.
    ///
    /// # Errors
    /// [`SpectralError::Length`] unless there is one per entry.
    pub fn to_entry_order(&self, stored: &[f32]) -> Result<Vec<f32>, SpectralError> {
        self.check(stored)?;
        let mut out = vec![0.0; stored.len()];
        for (&entry, &value) in self.order.iter().zip(stored) {
            out[entry as usize] = value;
        }
        Ok(out)
    }

    /// Bytes of heap this plan and its entries hold.
    pub fn bytes(&self) -> usize {
        let bin = match self.bins {
            Bins::Narrow { .. } => 2,
            Bins::Wide { .. } => 4,
        };
        // Rows and columns as entries, their bins, and the order.
        self.len() * (2 * 4 + 2 * bin + 4)
    }

    fn check(&self, values: &[f32]) -> Result<(), SpectralError> {
        if values.len() == self.len() {
            return Ok(());
        }
        Err(SpectralError::Length { what: "coefficients", expected: self.len(), found: values.len() })
    }
}

/// A frequency's bin in the half spectrum, and whether it is the mirror's.
pub(super) fn fold(frequency: u32, len: u32) -> (u32, bool) {
    if frequency > len / 2 { (len - frequency, true) } else { (frequency, false) }
}
