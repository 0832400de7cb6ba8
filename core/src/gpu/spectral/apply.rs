//! A change applied to rows of activations without being formed: a transform of the input, entries from bin to bin, and a
//! transform of the output.

use std::sync::Arc;

use super::split::Split;
use super::terms::{Terms, half_bin};
use super::{APPLY, FORWARD, Positions};
use crate::gpu::{Access, Binding, Bound, Gpu, GpuBuffer, GpuError, Kernel, KernelSpec, Recorder, trials};

/// The half spectra of rows of one length. What reads the same rows shares them.
#[derive(Debug)]
pub struct Forward {
    split: Split,
    kernel: Kernel,
    tables: GpuBuffer,
    /// Workgroups of a row.
    parts: u32,
}

impl Forward {
    /// Prepares rows of `len` values.
    ///
    /// # Errors
    /// [`GpuError::Limit`], [`GpuError::SelfTest`], [`GpuError::Shader`], [`GpuError::OutOfMemory`], [`GpuError::DeviceLost`].
    pub fn new(gpu: &Arc<Gpu>, len: usize) -> Result<Self, GpuError> {
        gpu.trust(&trials::APPLY)?;
        Self::untried(gpu, len)
    }

    /// Without a trial of the kernels: for that trial.
    pub(in crate::gpu) fn untried(gpu: &Gpu, len: usize) -> Result<Self, GpuError> {
        let split = Split::of_input(len, gpu.info())?;
        let packed = split.parts == 2 && len.is_multiple_of(2) && !split.direct;
        let (entry, parts) = match (split.direct, packed) {
            (true, _) => ("sums", (len as u32 / 2 + 1).div_ceil(split.threads)),
            (_, true) => ("packed", 1),
            // The other parts' bins are mirrors of these ones'.
            _ => ("part", split.parts as u32 / 2 + 1),
        };
        let access = &[Access::Read, Access::Read, Access::Write];
        let constants = split.constants();
        let spec = KernelSpec { shader: FORWARD, entry, access, params: true, constants: &constants };
        let kernel = gpu.kernel(&spec)?;
        let tables = gpu.upload("roots of unity", &split.tables())?;
        Ok(Self { split, kernel, tables, parts })
    }

    /// Values of a row.
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        self.split.len
    }

    /// Bytes of a row's half spectrum.
    pub fn bytes(&self) -> u64 {
        (self.split.len as u64 / 2 + 1) * 8
    }

    /// Rows `x`, f32 `[rows, len]`, and where their spectra go.
    ///
    /// # Errors
    /// As [`Kernel::bind`].
    pub fn bind(&self, gpu: &Gpu, x: Binding<'_>, spectra: Binding<'_>) -> Result<Bound, GpuError> {
        self.kernel.bind(gpu, &[self.tables.all(), x, spectra])
    }

    /// Transforms the first `rows` rows.
    pub fn run(&self, recorder: &mut Recorder, bound: &Bound, rows: usize) {
        let mut params = self.split.params();
        let most = recorder.gpu().info().max_groups as usize;
        for first in (0..rows).step_by(most) {
            params.first = first as u32;
            recorder.run(bound, &params.words(), [(rows - first).min(most) as u32, self.parts, 1]);
        }
    }
}

/// Changes with given positions, from the spectra of inputs to outputs. Several lists of positions add up.
#[derive(Debug)]
pub struct Inverse {
    d1: usize,
    d2: usize,
    entries: usize,
    split: Split,
    kernel: Kernel,
    tables: GpuBuffer,
    bins: GpuBuffer,
    terms: GpuBuffer,
}

impl Inverse {
    /// Prepares the lists of positions, which all have the same sides.
    ///
    /// # Errors
    /// [`GpuError::Limit`], [`GpuError::SelfTest`], [`GpuError::Shader`], [`GpuError::OutOfMemory`], [`GpuError::DeviceLost`].
    ///
    /// # Panics
    /// If there is no list, or their sides differ.
    pub fn new(gpu: &Arc<Gpu>, lists: &[Positions<'_>]) -> Result<Self, GpuError> {
        gpu.trust(&trials::APPLY)?;
        Self::untried(gpu, lists)
    }

    /// Without a trial of the kernels: for that trial.
    pub(in crate::gpu) fn untried(gpu: &Gpu, lists: &[Positions<'_>]) -> Result<Self, GpuError> {
        let (d1, d2) = (lists[0].d1, lists[0].d2);
        assert!(lists.iter().all(|l| (l.d1, l.d2) == (d1, d2)), "changes of one linear differ in shape");
        let split = Split::of_output(d1, gpu.info())?;
        let along: Vec<u32> = lists.iter().flat_map(|l| l.rows).copied().collect();
        let other: Vec<u32> = lists.iter().flat_map(|l| l.cols).map(|&k| half_bin(k, d2)).collect();
        let terms = Terms::new(&split, &along, &other);
        let mut constants = split.constants();
        constants.push(("BINS", (d2 / 2 + 1) as f64));
        let mut access = [Access::Read; 7];
        access[6] = Access::Write;
        let entry = if split.direct { "add_sums" } else { "add" };
        let spec = KernelSpec { shader: APPLY, entry, access: &access, params: true, constants: &constants };
        Ok(Self {
            d1,
            d2,
            entries: along.len(),
            kernel: gpu.kernel(&spec)?,
            tables: gpu.upload("roots of unity", &split.tables())?,
            bins: gpu.upload("bins", &terms.bins)?,
            terms: gpu.upload("terms", &terms.terms)?,
            split,
        })
    }

    /// Outputs and inputs.
    pub fn sides(&self) -> (usize, usize) {
        (self.d1, self.d2)
    }

    /// Coefficients it takes, those of each list after the other.
    pub fn entries(&self) -> usize {
        self.entries
    }

    /// What a coefficient is multiplied with before it goes to the device, for a change scaled by `alpha` in all.
    pub fn scale(&self, alpha: f64) -> f64 {
        // Half of it is the mirror image's.
        alpha / (2.0 * self.d1 as f64 * self.d2 as f64)
    }

    /// Scaled coefficients, spectra of the inputs, where each output goes, and the outputs, f32 `[rows, d1]`.
    ///
    /// # Errors
    /// As [`Kernel::bind`].
    pub fn bind(
        &self,
        gpu: &Gpu,
        coefficients: Binding<'_>,
        spectra: Binding<'_>,
        order: Binding<'_>,
        y: Binding<'_>,
    ) -> Result<Bound, GpuError> {
        let (tables, bins, terms) = (self.tables.all(), self.bins.all(), self.terms.all());
        self.kernel.bind(gpu, &[tables, bins, terms, coefficients, spectra, order, y])
    }

    /// Adds the change to the first `rows` rows; its coefficients begin at number `base`.
    pub fn run(&self, recorder: &mut Recorder, bound: &Bound, base: usize, rows: usize) {
        let mut params = self.split.params();
        params.coefficients = base as u32;
        params.entries = self.entries as u32;
        let groups = match self.split.direct {
            true => (self.d1 as u32).div_ceil(self.split.threads),
            false => (self.split.parts as u32).div_ceil(2),
        };
        let most = recorder.gpu().info().max_groups as usize;
        for first in (0..rows).step_by(most) {
            params.first = first as u32;
            recorder.run(bound, &params.words(), [(rows - first).min(most) as u32, groups, 1]);
        }
    }
}
