//! What every module with the same entries shares: which half-spectrum bins each entry joins.

use std::sync::Arc;

use super::{Entries, Shape, SpectralError};
use crate::kernels::Ahead;
use crate::kernels::runs::{Below, Index, Run};

/// Entries prepared for [`transform`](super::transform), shared by all modules and adapters that have them.
///
/// An entry `(j, k)` multiplies frequency `k` of the input and adds to frequency `j` of the output. Real signals have
/// only half of each: a frequency above the half is the conjugate of its mirror. So an entry becomes a bin of the
/// output half, a bin of the input half, and whether the imaginary part keeps its sign between them. Entries are
/// *stored* in two parts, those that keep the sign first. Within a part they are stored by output bin, so that a bin's sum
/// stays in registers, and bins with equally many entries stand together, so that how often the loop over them runs can be
/// predicted. Coefficients are brought into this order once, by [`Plan::to_stored`].
#[derive(Debug)]
pub struct Plan {
    entries: Arc<Entries>,
    pub(super) bins: Bins,
    /// Both parts, of the entries that keep the sign of the imaginary part and of those that change it.
    pub(super) parts: [Box<[Run]>; 2],
    /// Stored position to entry number.
    order: Box<[u32]>,
}

/// Output bins that have entries, once in each part that they have any in, and the input bin of each entry, in stored order.
/// Two bytes do for sides up to 131 070.
#[derive(Debug)]
pub(super) enum Bins {
    Narrow { targets: Below<u16>, sources: Below<u16> },
    Wide { targets: Below<u32>, sources: Below<u32> },
}

impl Plan {
    /// Prepares `entries`. O(n log n).
    pub fn new(entries: Arc<Entries>) -> Self {
        let (d1, d2) = (entries.shape().rows() as u32, entries.shape().cols() as u32);
        let mut folded: Vec<Folded> = entries
            .rows()
            .iter()
            .zip(entries.cols())
            .zip(0u32..)
            .map(|((&j, &k), number)| {
                let (target, target_mirrored) = fold(j, d1);
                let (source, source_mirrored) = fold(k, d2);
                // The library's transform has the opposite sign in its exponent, so a bin of the input is the
                // conjugate of the frequency unless mirrored; mirroring an output frequency conjugates once more.
                Folded { flips: target_mirrored == source_mirrored, of_target: 0, target, source, number }
            })
            .collect();
        let same_bin = |a: &Folded, b: &Folded| (a.flips, a.target) == (b.flips, b.target);
        folded.sort_unstable_by_key(|e| (e.flips, e.target));
        for bin in folded.chunk_by_mut(same_bin) {
            let of_target = bin.len() as u32;
            bin.iter_mut().for_each(|e| e.of_target = of_target);
        }
        folded.sort_unstable();

        let mut targets = Vec::new();
        let mut parts = [Vec::<Run>::new(), Vec::new()];
        for bin in folded.chunk_by(same_bin) {
            targets.push(bin[0].target);
            let runs = &mut parts[usize::from(bin[0].flips)];
            match runs.last_mut() {
                Some(run) if run.entries == bin.len() => run.targets += 1,
                _ => runs.push(Run { targets: 1, entries: bin.len() }),
            }
        }
        let bins = if d1.max(d2) / 2 <= u32::from(u16::MAX) {
            // The test above is that both bins fit.
            Bins::Narrow {
                targets: Below::new(targets.into_iter().map(|bin| bin as u16).collect()),
                sources: Below::new(folded.iter().map(|e| e.source as u16).collect()),
            }
        } else {
            Bins::Wide {
                targets: Below::new(targets.into()),
                sources: Below::new(folded.iter().map(|e| e.source).collect()),
            }
        };
        let order = folded.iter().map(|e| e.number).collect();
        Self { entries, bins, parts: parts.map(Into::into), order }
    }

    /// Adds the bins to what will be read soon.
    pub(crate) fn expect(&self, ahead: &mut Ahead) {
        fn both<B: Index>(targets: &[B], sources: &[B], ahead: &mut Ahead) {
            ahead.add(bytemuck::cast_slice(sources));
            ahead.add(bytemuck::cast_slice(targets));
        }
        match &self.bins {
            Bins::Narrow { targets, sources } => both(targets, sources, ahead),
            Bins::Wide { targets, sources } => both(targets, sources, ahead),
        }
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
        let bins = match &self.bins {
            Bins::Narrow { targets, sources } => size_of_val(&**targets) + size_of_val(&**sources),
            Bins::Wide { targets, sources } => size_of_val(&**targets) + size_of_val(&**sources),
        };
        let runs: usize = self.parts.iter().map(|runs| size_of_val(&**runs)).sum();
        // Rows and columns as entries, and the order.
        self.len() * (2 * 4 + 4) + bins + runs
    }

    fn check(&self, values: &[f32]) -> Result<(), SpectralError> {
        if values.len() == self.len() {
            return Ok(());
        }
        Err(SpectralError::Length { what: "coefficients", expected: self.len(), found: values.len() })
    }
}

/// An entry on half spectra, in stored order.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Folded {
    flips: bool,
    /// Entries of the same part and target.
    of_target: u32,
    target: u32,
    source: u32,
    number: u32,
}

/// A frequency's bin in the half spectrum, and whether it is the mirror's.
pub(super) fn fold(frequency: u32, len: u32) -> (u32, bool) {
    if frequency > len / 2 { (len - frequency, true) } else { (frequency, false) }
}
