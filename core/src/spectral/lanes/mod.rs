//! Real transforms of 16 rows at a time: one row a lane.
//!
//! A prompt runs many rows through the same transforms. With a row in each lane
//! of a vector every instruction works on 16 of them, and nothing is ever turned round within a row: 576 values take 0.10 µs a row and
//! direction on Zen 5, the way between rows and lanes included, where one row alone takes 0.16. Lanes never mix, so a row's result does not depend on the other rows. Lengths
//! `2·2^a·3^b·5^c·7^d` are covered; others go row by row.
//!
//! A real transform of length N is a complex one of `M = N/2`, of even elements as real and odd ones as imaginary parts,
//! and a last step over pairs of bins (`ends`). The complex one is in place, so its bins come out in an order of its own;
//! [`LaneFft::slots`] says where each is, and nothing ever sorts them.

mod ends;
mod rows;

use super::RealFft;
use super::passes::{Stage, place, stages};
use crate::kernels::runs::{Held, Slot};
pub use crate::kernels::{LANES, LaneBin};
use crate::kernels::{Vector, Vectorised, vectorised};
use ends::{ENDS, Ends};

/// Elements whose passes stay in a first-level cache of 32 KB, with room for what else is touched.
const CACHED: usize = (16 << 10) / size_of::<LaneBin>();

/// Spectra that a [`LaneFft`] made.
#[derive(Debug, Clone, Copy)]
pub struct LaneSpectra<'a> {
    /// The transform.
    pub fft: &'a LaneFft,
    /// Its bins, in its order.
    pub bins: &'a [LaneBin],
}

/// Spectra to be handed to a [`LaneFft`].
#[derive(Debug)]
pub struct LaneSpectraMut<'a> {
    /// The transform.
    pub fft: &'a LaneFft,
    /// Its bins, in its order.
    pub bins: &'a mut [LaneBin],
}

/// The two real transforms of one length, of [`LANES`] rows.
#[derive(Debug)]
pub struct LaneFft {
    /// M.
    half: usize,
    /// All passes of the complex transform but the last.
    stages: Box<[Stage]>,
    ends: Ends,
    sources: Box<[Slot]>,
}

impl LaneFft {
    /// Plans `len`, if it is even and its half has no prime factor beyond 7.
    pub fn new(len: usize) -> Option<Self> {
        if len == 0 || !len.is_multiple_of(2) {
            return None;
        }
        let half = len / 2;
        let mut stages = stages(half, ENDS)?;
        // Bin M has no place in the complex transform, and gets the one after it.
        let slots: Vec<u32> = (0..half).map(|bin| place(&stages, bin)).chain([half as u32]).collect();
        let ends = Ends::new(half, stages.pop(), &slots);
        let bins = || slots.iter().map(|slot| Slot::of(*slot));
        // Nothing is read from between bins and conjugates.
        let between = std::iter::repeat_n(Slot::of(0), RealFft::conjugates(len) - slots.len());
        let sources = bins().chain(between).chain(bins().map(Slot::conjugate)).collect();
        Some(Self { half, stages: stages.into(), ends, sources })
    }

    /// Number of real values of a row, N.
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        2 * self.half
    }

    /// Number of bins, `N/2 + 1`.
    pub fn bins(&self) -> usize {
        self.half + 1
    }

    /// Where the bins are: bin b at `slots()[b]`.
    pub fn slots(&self) -> &[Slot] {
        &self.sources[..self.bins()]
    }

    /// [`slots`](Self::slots), and from [`RealFft::conjugates`] on those of the conjugates: what [`Plan`](super::Plan)'s entries read.
    pub fn sources(&self) -> &[Slot] {
        &self.sources
    }

    /// `spectra[slots[b]] = Σ_q row[q] · e^{−2πi·q·b/N}` for `b ≤ N/2`, of every row of `rows` (row-major, N columns, at
    /// most [`LANES`] rows; lanes without one hold zero).
    ///
    /// # Panics
    /// Unless `spectra` has `bins` elements and `rows` 1 to `LANES` rows.
    pub fn spectra(&self, rows: &[f32], spectra: &mut [LaneBin]) {
        self.check(rows.len(), spectra.len());
        vectorised(Forward { fft: self, rows, spectra });
    }

    /// `row[i] = 2 · Re Σ_b folded[slots[b]] · e^{+2πi·p·b/N}` over the bins `b ≤ N/2`, with `p = order[i]` (or i, without
    /// an order), for every row of `rows`, or that added to the sums that they hold. Overwrites `folded`. As
    /// [`RealFft::twice_real`](super::RealFft::twice_real).
    ///
    /// # Panics
    /// Unless `folded` has `bins` elements, `rows` 1 to `LANES` rows and `order` N elements below N.
    pub fn twice_real(&self, folded: &mut [LaneBin], rows: &mut [f32], held: Held, order: Option<&[u32]>) {
        self.check(rows.len(), folded.len());
        assert!(order.is_none_or(|order| order.len() == self.len()), "an order of {} rows", self.len());
        vectorised(Inverse { fft: self, folded, rows, held, order });
    }

    fn check(&self, values: usize, bins: usize) {
        let rows = values / self.len();
        assert!(
            bins == self.bins() && (1..=LANES).contains(&rows) && values.is_multiple_of(self.len()),
            "{values} values and {bins} bins for transforms of length {}",
            self.len(),
        );
    }

    /// The passes over all elements, and those that then go through one block after the other, each of so many elements
    /// that it stays in the first-level cache meanwhile.
    fn passes(&self) -> (&[Stage], &[Stage], usize) {
        let wide = self.stages.iter().take_while(|stage| stage.block() > CACHED).count();
        let (wide, narrow) = self.stages.split_at(wide);
        (wide, narrow, narrow.first().map_or(self.half, Stage::block))
    }
}

struct Forward<'a> {
    fft: &'a LaneFft,
    rows: &'a [f32],
    spectra: &'a mut [LaneBin],
}

impl Vectorised for Forward<'_> {
    #[inline(always)]
    fn run<V: Vector>(self) {
        let Self { fft, rows, spectra } = self;
        let complex = &mut spectra[..fft.half];
        rows::load(rows, fft.len(), complex);
        let (wide, narrow, block) = fft.passes();
        for stage in wide {
            stage.down::<V>(complex, 0);
        }
        for (start, block) in (0..).step_by(block).zip(complex.chunks_exact_mut(block)) {
            for stage in narrow {
                stage.down::<V>(block, start);
            }
        }
        fft.ends.down::<V>(spectra);
    }
}

struct Inverse<'a> {
    fft: &'a LaneFft,
    folded: &'a mut [LaneBin],
    rows: &'a mut [f32],
    held: Held,
    order: Option<&'a [u32]>,
}

impl Vectorised for Inverse<'_> {
    #[inline(always)]
    fn run<V: Vector>(self) {
        let Self { fft, folded, rows, held, order } = self;
        fft.ends.up::<V>(folded);
        let complex = &mut folded[..fft.half];
        let (wide, narrow, block) = fft.passes();
        for block in complex.chunks_exact_mut(block) {
            for stage in narrow.iter().rev() {
                stage.up::<V>(block);
            }
        }
        for stage in wide.iter().rev() {
            stage.up::<V>(complex);
        }
        rows::store(complex, fft.len(), rows, held, order);
    }
}
