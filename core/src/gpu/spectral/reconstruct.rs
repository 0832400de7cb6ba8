//! ΔW on the device.

use std::sync::Arc;

use super::split::{LONGEST_AXIS, Split, roots};
use super::terms::Terms;
use super::{PACK, Positions, RECONSTRUCT};
use crate::gpu::{Access, Binding, Gpu, GpuBuffer, GpuError, Kernel, KernelSpec, Recorder, trials};

/// How numbers of a dense change are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Precision {
    /// 4 bytes.
    F32,
    /// 2 bytes, two to a word.
    F16,
}

/// Makes dense `ΔW = Σ c · Re(e^{2πi(pj/d1 + qk/d2)})`, row-major `[layers, d1, d2]`, for all modules that share their positions.
///
/// One pass: a workgroup folds the entries at the phase of its row, transforms, and writes the row and its mirror image,
/// so that nothing but the output grows with `d1·d2` (see `reconstruct.wgsl`). The first pass of a row–column transform,
/// over the rows that hold entries, would write and read an intermediate as large as the output for n of about d1 and more.
/// The work besides is about `5·d2·log2(d2)/4` operations and n folded entries a row.
#[derive(Debug)]
pub struct Reconstruct {
    gpu: Arc<Gpu>,
    d1: usize,
    d2: usize,
    entries: usize,
    split: Split,
    /// Whether a row makes its mirror's.
    mirrors: bool,
    f32: Kernel,
    /// Where f16 can be written directly.
    f16: Option<Kernel>,
    pack: Kernel,
    tables: GpuBuffer,
    bins: GpuBuffer,
    terms: GpuBuffer,
}

impl Reconstruct {
    /// Prepares `positions`.
    ///
    /// # Errors
    /// [`GpuError::Limit`] for sides past what 32-bit indices allow; [`GpuError::SelfTest`] if the kernels compute wrong
    /// numbers on this device; [`GpuError::Shader`], [`GpuError::OutOfMemory`], [`GpuError::DeviceLost`].
    pub fn new(gpu: &Arc<Gpu>, positions: &Positions<'_>) -> Result<Self, GpuError> {
        Self::of_lists(gpu, std::slice::from_ref(positions))
    }

    /// Prepares several lists of positions, whose changes add up; coefficients are then those of each list after the other.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    ///
    /// # Panics
    /// If there is no list, or their sides differ.
    pub fn of_lists(gpu: &Arc<Gpu>, lists: &[Positions<'_>]) -> Result<Self, GpuError> {
        gpu.trust(&trials::RECONSTRUCT)?;
        Self::untried(gpu, lists)
    }

    /// Without a trial of the kernels: for that trial.
    pub(in crate::gpu) fn untried(gpu: &Arc<Gpu>, lists: &[Positions<'_>]) -> Result<Self, GpuError> {
        let (d1, d2) = (lists[0].d1, lists[0].d2);
        assert!(lists.iter().all(|l| (l.d1, l.d2) == (d1, d2)), "changes of one linear differ in shape");
        let split = Split::of_output(d2, gpu.info())?;
        if d1 > LONGEST_AXIS {
            let what = "an axis of a weight change".to_owned();
            return Err(GpuError::Limit { what, needed: d1 as u64, max: LONGEST_AXIS as u64 });
        }
        let even = d2.is_multiple_of(2);
        // With more than two parts of an even length, half a word of a row's mirror is in another workgroup.
        let mirrors = !split.direct && (!even || split.parts == 2);
        let mut constants = split.constants();
        constants.push(("ACROSS", d1 as f64));
        constants.push(("MIRROR", f64::from(u8::from(mirrors))));
        let access = [Access::Read, Access::Read, Access::Read, Access::Read, Access::Write];
        let kernel = |entry| {
            let spec = KernelSpec { shader: RECONSTRUCT, entry, access: &access, params: true, constants: &constants };
            gpu.kernel(&spec)
        };
        let (f32, f16) = match (split.direct, even) {
            (true, _) => (kernel("direct")?, None),
            (false, false) => (kernel("write_single")?, None),
            (false, true) => (kernel("write_pair")?, Some(kernel("write_half")?)),
        };
        let access = &[Access::Read, Access::Write];
        let pack = gpu.kernel(&KernelSpec { shader: PACK, entry: "pack", access, params: false, constants: &[] })?;
        let mut tables = split.tables();
        tables.extend(roots(d1));
        let along: Vec<u32> = lists.iter().flat_map(|l| l.cols).copied().collect();
        let other: Vec<u32> = lists.iter().flat_map(|l| l.rows).copied().collect();
        let terms = Terms::new(&split, &along, &other);
        Ok(Self {
            d1,
            d2,
            entries: along.len(),
            mirrors,
            f32,
            f16,
            pack,
            tables: gpu.upload("roots of unity", &tables)?,
            bins: gpu.upload("bins", &terms.bins)?,
            terms: gpu.upload("terms", &terms.terms)?,
            split,
            gpu: Arc::clone(gpu),
        })
    }

    /// Bytes of one layer's output.
    pub fn bytes(&self, precision: Precision) -> u64 {
        let elements = self.d1 as u64 * self.d2 as u64;
        match precision {
            Precision::F32 => elements * 4,
            Precision::F16 => elements.div_ceil(2) * 4,
        }
    }

    /// Layers whose output one buffer can take on this device: what [`record`](Self::record) takes at most. 0 if not even one fits;
    /// [`read`](Self::read) still makes it in bands.
    pub fn layers_at_once(&self, precision: Precision) -> usize {
        let info = self.gpu.info();
        // Elements are counted in 32 bits.
        let most = info.max_buffer.min(info.max_binding).min(u64::from(u32::MAX) * 2);
        let elements = u64::from(u32::MAX) / (self.d1 as u64 * self.d2 as u64);
        (most / self.bytes(precision)).min(elements) as usize
    }

    /// Coefficients of layers, in entry order, and what multiplies each layer's (PEFT's `scaling` times a weight).
    ///
    /// # Errors
    /// As [`Gpu::upload`].
    ///
    /// # Panics
    /// If a layer does not have one coefficient per entry.
    pub fn coefficients(&self, layers: &[(&[f32], f64)]) -> Result<GpuBuffer, GpuError> {
        let mut all = Vec::with_capacity(layers.len() * self.entries);
        for (coefficients, alpha) in layers {
            assert_eq!(coefficients.len(), self.entries, "coefficients of a layer");
            let scale = self.scale(*alpha);
            all.extend(coefficients.iter().map(|c| (f64::from(*c) * scale) as f32));
        }
        self.gpu.upload("coefficients", &all)
    }

    /// Halved: see `reconstruct.wgsl`.
    fn scale(&self, alpha: f64) -> f64 {
        alpha / (2.0 * self.d1 as f64 * self.d2 as f64)
    }

    /// Records the making of `layers` changes into `out`, `[layers, d1, d2]`, from coefficients that begin at number `base`. An odd length of rows in f16 goes through f32
    /// scratch of twice the size.
    ///
    /// # Errors
    /// [`GpuError::Limit`] if that is more than [`layers_at_once`](Self::layers_at_once); as [`Kernel::bind`] and [`Gpu::scratch`].
    ///
    /// # Panics
    /// If `out` is not large enough.
    pub fn record<'a>(
        &self,
        recorder: &mut Recorder,
        coefficients: impl Into<Binding<'a>>,
        base: usize,
        layers: usize,
        precision: Precision,
        out: Binding<'_>,
    ) -> Result<(), GpuError> {
        let coefficients = coefficients.into();
        let needed = self.bytes(precision) * layers as u64;
        assert!(out.bytes() >= needed, "an output of {} bytes, {needed} are needed", out.bytes());
        match (precision, &self.f16) {
            (Precision::F32, _) => self.layers(recorder, &self.f32, coefficients, (base, layers), out),
            (Precision::F16, Some(kernel)) => self.layers(recorder, kernel, coefficients, (base, layers), out),
            (Precision::F16, None) => {
                let elements = self.d1 as u64 * self.d2 as u64;
                let whole = self.gpu.storage("a dense change in f32", elements * 4)?;
                for layer in 0..layers {
                    let offset = layer as u64 * self.bytes(precision);
                    let kernel = &self.f32;
                    self.all_rows(recorder, kernel, coefficients, (base + layer * self.entries, 1), whole.all())?;
                    let groups = elements.div_ceil(512);
                    let grid = [groups.min(65535) as u32, groups.div_ceil(65535) as u32, 1];
                    let packed = self.gpu.storage("a dense change in f16", self.bytes(precision))?;
                    recorder.dispatch(&self.pack, &[whole.part(0..elements * 4), packed.all()], &(), grid);
                    recorder.copy(&packed, 0, out.buffer(), out.offset() + offset, self.bytes(precision));
                }
                Ok(())
            }
        }
    }

    fn layers(
        &self,
        recorder: &mut Recorder,
        kernel: &Kernel,
        coefficients: Binding<'_>,
        (base, layers): (usize, usize),
        out: Binding<'_>,
    ) -> Result<(), GpuError> {
        if (self.d1 as u64 * self.d2 as u64).saturating_mul(layers as u64) > u64::from(u32::MAX) {
            let max = u64::from(u32::MAX) / (self.d1 as u64 * self.d2 as u64);
            return Err(GpuError::Limit { what: "layers of one output".into(), needed: layers as u64, max });
        }
        self.all_rows(recorder, kernel, coefficients, (base, layers), out)
    }

    /// Whole layers: those rows of which the others are mirrors. Coefficients begin at number `base`.
    fn all_rows(
        &self,
        recorder: &mut Recorder,
        kernel: &Kernel,
        coefficients: Binding<'_>,
        (base, layers): (usize, usize),
        out: Binding<'_>,
    ) -> Result<(), GpuError> {
        let rows = if self.mirrors { self.d1 / 2 + 1 } else { self.d1 };
        let mut params = self.split.params();
        params.coefficients = base as u32;
        params.entries = self.entries as u32;
        params.rows = self.d1 as u32;
        let arguments = [self.tables.all(), self.bins.all(), self.terms.all(), coefficients, out];
        let bound = kernel.bind(&self.gpu, &arguments)?;
        let most = self.gpu.info().max_groups as usize;
        for first in (0..rows).step_by(most) {
            params.first = first as u32;
            let groups = [(rows - first).min(most) as u32, self.groups_of_a_row(), layers as u32];
            recorder.run(&bound, &params.words(), groups);
        }
        Ok(())
    }

    fn groups_of_a_row(&self) -> u32 {
        match self.split.direct {
            true => (self.d2 as u32).div_ceil(self.split.threads),
            false => (self.split.parts as u32).div_ceil(2),
        }
    }

    /// One layer's change in f32, read back in bands that fit whatever the device can bind.
    ///
    /// # Errors
    /// [`GpuError::Limit`] if not even a row fits; as [`record`](Self::record), [`Recorder::submit`] and
    /// [`Readback::wait`](crate::gpu::Readback::wait).
    ///
    /// # Panics
    /// If there is not one coefficient per entry, or `out` is not of `d1·d2` values.
    pub fn read(&self, coefficients: &[f32], alpha: f64, out: &mut [f32]) -> Result<(), GpuError> {
        assert_eq!(out.len(), self.d1 * self.d2, "values of a dense change");
        let coefficients = self.coefficients(&[(coefficients, alpha)])?;
        if self.layers_at_once(Precision::F32) > 0 {
            let whole = self.gpu.scratch(self.bytes(Precision::F32))?;
            let mut recorder = Recorder::new(&self.gpu);
            self.all_rows(&mut recorder, &self.f32, coefficients.all(), (0, 1), whole.all())?;
            let readback = recorder.read(&whole, 0, size_of_val(out))?;
            recorder.submit()?;
            return readback.wait(out);
        }
        self.bands(&coefficients, out)
    }

    /// As many rows at a time as one binding takes. Mirrors are in other bands, so every row is made for itself.
    fn bands(&self, coefficients: &GpuBuffer, out: &mut [f32]) -> Result<(), GpuError> {
        let info = self.gpu.info();
        let row = self.d2 as u64 * 4;
        let rows = (info.max_buffer.min(info.max_binding) / row).min(u64::from(info.max_groups)) as usize;
        if rows == 0 {
            return Err(GpuError::Limit {
                what: "a row of a weight change".into(),
                needed: row,
                max: info.max_binding,
            });
        }
        let mut constants = self.split.constants();
        constants.push(("ACROSS", self.d1 as f64));
        constants.push(("MIRROR", 0.0));
        let access = [Access::Read, Access::Read, Access::Read, Access::Read, Access::Write];
        let entry = match (self.split.direct, self.d2.is_multiple_of(2)) {
            (true, _) => "direct",
            (false, true) => "write_pair",
            (false, false) => "write_single",
        };
        let spec = KernelSpec { shader: RECONSTRUCT, entry, access: &access, params: true, constants: &constants };
        let kernel = self.gpu.kernel(&spec)?;
        for (band, out) in out.chunks_mut(rows * self.d2).enumerate() {
            let here = out.len() / self.d2;
            let buffer = self.gpu.scratch(size_of_val(out) as u64)?;
            let mut params = self.split.params();
            params.entries = self.entries as u32;
            params.first = (band * rows) as u32;
            params.origin = params.first;
            params.rows = here as u32;
            let (tables, bins, terms) = (self.tables.all(), self.bins.all(), self.terms.all());
            let bound = kernel
                .bind(&self.gpu, &[tables, bins, terms, coefficients.all(), buffer.part(0..row * here as u64)])?;
            let mut recorder = Recorder::new(&self.gpu);
            recorder.run(&bound, &params.words(), [here as u32, self.groups_of_a_row(), 1]);
            let readback = recorder.read(&buffer, 0, size_of_val(out))?;
            recorder.submit()?;
            readback.wait(out)?;
        }
        Ok(())
    }
}
