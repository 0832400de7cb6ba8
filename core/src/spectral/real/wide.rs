//! Real transforms of one row with AVX-512, for lengths `32·P` with `P ≥ 8` of factors 2, 3, 5 and 7.
//!
//! The row's halves are P lines of 16 complex numbers ([`lines`]). Passes take each lane through the transform of P, as those of
//! 16 rows do, and the sums over lines follow; on the way back they come first. With fewer lines, what is done for each transform
//! outweighs what is done for each line, and the library's is as fast.

use num_complex::Complex32;

use super::Real;
use crate::kernels::lines::{self, Avx512, FEWEST, Factors};
use crate::kernels::{LANES, LaneBin, Vector, Vectorised, vectorised};
use crate::spectral::passes::{Last, Stage, place, stages};

/// The last pass is as any other.
const LAST: Last = |_| Some(0.0);

/// Both transforms of one length.
pub(super) struct Wide {
    cpu: Avx512,
    /// Of the transform of P.
    stages: Box<[Stage]>,
    /// Where element p of that is before and bin p after it, in the order that its passes need.
    places: Box<[u32]>,
    factors: Box<[Factors]>,
    turns: Box<[LaneBin]>,
}

impl Wide {
    /// Plans `len`, if it is one of these and the CPU has what it takes.
    pub(super) fn new(len: usize) -> Option<Self> {
        let count = len / (2 * LANES);
        if count < FEWEST || !len.is_multiple_of(2 * LANES) {
            return None;
        }
        let (cpu, stages) = (Avx512::detect()?, stages(count, LAST)?);
        let places = (0..count).map(|p| place(&stages, p)).collect();
        Some(Self { cpu, stages: stages.into(), places, factors: Factors::of(count), turns: lines::turns(count) })
    }

    fn buffers<'a>(&self, scratch: &'a mut [Complex32]) -> (&'a mut [LaneBin], [&'a mut [f32]; 2]) {
        let count = self.places.len();
        let (_, bins, _) = bytemuck::pod_align_to_mut::<Complex32, LaneBin>(scratch);
        let (lines, parts) = bins[..2 * count].split_at_mut(count);
        (lines, LaneBin::lines_mut(parts).as_flattened_mut().split_at_mut(count * LANES).into())
    }
}

impl Real for Wide {
    /// Complex numbers of scratch: lines, as many numbers in order, and what may lie before the first line.
    fn scratch_len(&self) -> usize {
        2 * self.places.len() * LANES + size_of::<LaneBin>() / size_of::<Complex32>()
    }

    fn spectrum(
        &self,
        row: &[f32],
        spectrum: &mut [Complex32],
        conjugate: Option<&mut [Complex32]>,
        scratch: &mut [Complex32],
    ) {
        let (lines, [re, im]) = self.buffers(scratch);
        self.cpu.take(row, &self.places, lines);
        vectorised(Passes::<true> { stages: &self.stages, lines });
        self.cpu.sixteens(lines, &self.factors, [re, im]);
        self.cpu.split([re, im], &self.turns, spectrum, conjugate);
    }

    fn twice_real(&self, folded: &mut [Complex32], row: &mut [f32], scratch: &mut [Complex32]) {
        let (lines, [re, im]) = self.buffers(scratch);
        self.cpu.join(folded, &self.turns, [re, im]);
        self.cpu.sixteens_back([re, im], &self.factors, lines);
        vectorised(Passes::<false> { stages: &self.stages, lines });
        self.cpu.put(lines, &self.places, row);
    }
}

/// `NATURAL`: the transform's bins, else its elements, are in their natural order.
struct Passes<'a, const NATURAL: bool> {
    stages: &'a [Stage],
    lines: &'a mut [LaneBin],
}

impl<const NATURAL: bool> Vectorised for Passes<'_, NATURAL> {
    #[inline(always)]
    fn run<V: Vector>(self) {
        if NATURAL {
            for stage in self.stages.iter().rev() {
                stage.up::<V>(self.lines);
            }
        } else {
            for stage in self.stages {
                stage.down::<V>(self.lines, 0);
            }
        }
    }
}
