//! What every module with the same entries shares: which half-spectrum bins each entry joins.

use std::sync::{Arc, OnceLock};

use super::{Entries, LaneFft, RealFft, Shape, SpectralError, Transforms};
use crate::kernels::runs::{Below, Index, Run, Runs, Slot};

/// Entries prepared for [`transform`](super::transform), shared by all modules and adapters that have them.
///
/// An entry `(j, k)` multiplies frequency `k` of the input and adds to frequency `j` of the output. Real signals have
/// only half of each: a frequency above the half is the conjugate of its mirror. So an entry becomes a bin of the
/// output half, and a bin of the input half or of that half's conjugate. Entries are *stored* by output bin, so that a bin's sum
/// stays in registers, and bins with equally many entries stand together, so that how often the loop over them runs can be
/// predicted. Coefficients are brought into this order once, by [`Plan::to_stored`].
#[derive(Debug)]
pub struct Plan {
    entries: Arc<Entries>,
    pub(super) bins: Bins,
    pub(super) runs: Box<[Run]>,
    /// Stored position to entry number.
    order: Box<[u32]>,
    in_lanes: OnceLock<LaneBins>,
}

/// All output bins, and the source of each entry in stored order: bin b of the input as b, its conjugate from
/// [`RealFft::conjugates`] on.
/// Two bytes do for sides up to 65 535.
#[derive(Debug)]
pub(super) enum Bins {
    Narrow { targets: Below<u16>, sources: Below<u16> },
    Wide { targets: Below<u32>, sources: Below<u32> },
}

/// [`Bins`] where the transforms of many rows have them: looking that up at each entry took a quarter of the time.
#[derive(Debug)]
struct LaneBins {
    targets: Below<Slot>,
    sources: Below<Slot>,
}

impl LaneBins {
    /// Of targets and of sources, and the places of either.
    fn new<B: Index>((targets, sources): (&[B], &[B]), (of_targets, of_sources): (&[Slot], &[Slot])) -> Self {
        let placed = |bins: &[B], slots: &[Slot]| Below::new(bins.iter().map(|bin| slots[bin.at()]).collect());
        Self { targets: placed(targets, of_targets), sources: placed(sources, of_sources) }
    }
}

impl Plan {
    /// Prepares `entries`. O(n log n + d1).
    pub fn new(entries: Arc<Entries>) -> Self {
        let (d1, d2) = (entries.shape().rows() as u32, entries.shape().cols() as u32);
        let conjugates = RealFft::conjugates(d2 as usize) as u32;
        let mut folded: Vec<Folded> = entries
            .rows()
            .iter()
            .zip(entries.cols())
            .zip(0u32..)
            .map(|((&j, &k), number)| {
                let (target, target_mirrored) = fold(j, d1);
                let (bin, source_mirrored) = fold(k, d2);
                // The library's transform has the opposite sign in its exponent, so a bin of the input is the
                // conjugate of the frequency unless mirrored; mirroring an output frequency conjugates once more.
                let conjugate = target_mirrored == source_mirrored;
                Folded { target, source: if conjugate { conjugates + bin } else { bin }, number }
            })
            .collect();
        folded.sort_unstable();
        let mut of_target = vec![0u32; d1 as usize / 2 + 1];
        folded.iter().for_each(|e| of_target[e.target as usize] += 1);
        folded.sort_by_key(|e| of_target[e.target as usize]);
        let mut targets: Vec<u32> = (0..=d1 / 2).collect();
        targets.sort_by_key(|&target| of_target[target as usize]);

        let same = |a: &u32, b: &u32| of_target[*a as usize] == of_target[*b as usize];
        let run = |targets: &[u32]| Run { targets: targets.len(), entries: of_target[targets[0] as usize] as usize };
        let runs = targets.chunk_by(same).map(run).collect();
        let bins = if (conjugates + d2 / 2).max(d1 / 2) <= u32::from(u16::MAX) {
            // The test above is that both bins fit.
            Bins::Narrow {
                targets: Below::new(targets.iter().map(|&bin| bin as u16).collect()),
                sources: Below::new(folded.iter().map(|e| e.source as u16).collect()),
            }
        } else {
            Bins::Wide {
                targets: Below::new(targets.into()),
                sources: Below::new(folded.iter().map(|e| e.source).collect()),
            }
        };
        let order = folded.iter().map(|e| e.number).collect();
        Self { entries, bins, runs, order, in_lanes: OnceLock::new() }
    }

    /// Finds out where the transforms of many rows have the entries' bins, if there are such transforms.
    pub(crate) fn prepare_lanes(&self, transforms: &Transforms) {
        if self.in_lanes.get().is_none()
            && let (Some(of_inputs), Some(of_outputs)) =
                (transforms.lanes(self.shape().cols()), transforms.lanes(self.shape().rows()))
        {
            self.lane_runs(&of_inputs, &of_outputs);
        }
    }

    /// The runs over the bins of these transforms, of d2 and of d1 values. The first call allocates what all later ones share: every transform
    /// of a length has its bins in the same places.
    ///
    /// # Panics
    /// If they are of other lengths.
    pub(super) fn lane_runs(&self, of_inputs: &LaneFft, of_outputs: &LaneFft) -> Runs<'_, Slot> {
        let shape = self.shape();
        assert!(
            of_inputs.len() == shape.cols() && of_outputs.len() == shape.rows(),
            "spectra of other lengths than {shape}"
        );
        let slots = (of_outputs.sources(), of_inputs.sources());
        let LaneBins { targets, sources } = self.in_lanes.get_or_init(|| match &self.bins {
            Bins::Narrow { targets, sources } => LaneBins::new((targets, sources), slots),
            Bins::Wide { targets, sources } => LaneBins::new((targets, sources), slots),
        });
        Runs::new(&self.runs, targets, sources)
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
        let in_lanes = self.in_lanes.get().map_or(0, |bins| size_of_val(&*bins.targets) + size_of_val(&*bins.sources));
        // Rows and columns as entries, and the order.
        self.len() * (2 * 4 + 4) + bins + in_lanes + size_of_val(&*self.runs)
    }

    fn check(&self, values: &[f32]) -> Result<(), SpectralError> {
        if values.len() == self.len() {
            return Ok(());
        }
        Err(SpectralError::Length { what: "coefficients", expected: self.len(), found: values.len() })
    }
}

/// An entry on half spectra.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Folded {
    target: u32,
    source: u32,
    number: u32,
}

/// A frequency's bin in the half spectrum, and whether it is the mirror's.
pub(super) fn fold(frequency: u32, len: u32) -> (u32, bool) {
    if frequency > len / 2 { (len - frequency, true) } else { (frequency, false) }
}
