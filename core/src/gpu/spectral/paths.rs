//! Which way a spectral change is applied faster on a device: without forming it, or as a product with the dense change.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use super::{Forward, Inverse, Positions, Precision, Reconstruct};
use crate::gpu::{Gpu, GpuError, Product, Recorder};

/// Runs of a measurement.
const REPEATS: usize = 8;

/// Microseconds from which one run says enough.
const LONG: f64 = 5e3;

/// A way to apply a spectral change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ApplyPath {
    /// By transforms of input and output ([`Forward`], [`Inverse`]).
    Spectral,
    /// As a product with ΔW in f16 that is kept on the device ([`Reconstruct`], [`Product`]).
    Dense,
}

impl ApplyPath {
    /// What `timbre` prints.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Spectral => "spectral",
            Self::Dense => "dense",
        }
    }
}

/// How long both ways take for a change of one shape and `rows` rows of activations, and which is taken.
#[derive(Debug, Clone, PartialEq)]
pub struct PathTiming {
    /// Outputs.
    pub d1: usize,
    /// Inputs.
    pub d2: usize,
    /// Entries of all active adapters.
    pub entries: usize,
    /// Rows of activations.
    pub rows: usize,
    /// Microseconds without forming ΔW, with a forward transform that nothing shares.
    pub spectral_us: f64,
    /// Microseconds as a product with ΔW.
    pub dense_us: f64,
}

impl PathTiming {
    /// The faster way.
    pub fn faster(&self) -> ApplyPath {
        if self.dense_us < self.spectral_us { ApplyPath::Dense } else { ApplyPath::Spectral }
    }
}

impl fmt::Display for PathTiming {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { d1, d2, entries, rows, spectral_us, dense_us } = self;
        let path = self.faster().name();
        write!(
            f,
            "{d1}x{d2}, {entries} entries, {rows} rows: {path} (spectral {spectral_us:.1} µs, dense {dense_us:.1} µs)"
        )
    }
}

/// What was measured on a device.
#[derive(Debug, Default)]
pub(in crate::gpu) struct Paths {
    measured: Mutex<Vec<PathTiming>>,
    forced: Mutex<Option<ApplyPath>>,
}

impl Gpu {
    /// The way to apply changes with these positions to `rows` rows: the forced one; else, on a program on the CPU, the
    /// spectral; else the faster one, measured the first time that this shape, number of entries and rows is asked for.
    ///
    /// The two round differently. A choice by time can fall differently in two runs only where both take equally long.
    ///
    /// # Errors
    /// As [`measure_paths`](Self::measure_paths), but that a dense change for which there is no memory is not taken.
    pub fn apply_path(self: &Arc<Self>, lists: &[Positions<'_>], rows: usize) -> Result<ApplyPath, GpuError> {
        if let Some(path) = *self.paths.forced.lock().unwrap_or_else(PoisonError::into_inner) {
            return Ok(path);
        }
        if self.info().is_software() {
            return Ok(ApplyPath::Spectral);
        }
        let (d1, d2) = (lists[0].d1, lists[0].d2);
        let entries: usize = lists.iter().map(|list| list.rows.len()).sum();
        let same = |t: &&PathTiming| (t.d1, t.d2, t.entries, t.rows) == (d1, d2, entries, rows);
        if let Some(timing) = self.path_timings().iter().find(same) {
            return Ok(timing.faster());
        }
        match self.measure_paths(lists, rows) {
            Ok(timing) => Ok(timing.faster()),
            Err(GpuError::OutOfMemory { .. } | GpuError::Limit { .. }) => Ok(ApplyPath::Spectral),
            Err(error) => Err(error),
        }
    }

    /// Takes this way from now on, or the faster one again. What is prepared already stays as it is.
    pub fn force_apply_path(&self, path: Option<ApplyPath>) {
        *self.paths.forced.lock().unwrap_or_else(PoisonError::into_inner) = path;
    }

    /// What was measured on this device so far.
    pub fn path_timings(&self) -> Vec<PathTiming> {
        self.paths.measured.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Measures both ways, on the device's own clock where it has one.
    ///
    /// # Errors
    /// [`GpuError::SelfTest`], [`GpuError::Limit`], [`GpuError::OutOfMemory`], [`GpuError::DeviceLost`], [`GpuError::Timeout`].
    pub fn measure_paths(self: &Arc<Self>, lists: &[Positions<'_>], rows: usize) -> Result<PathTiming, GpuError> {
        let (d1, d2) = (lists[0].d1, lists[0].d2);
        let (forward, inverse) = (Forward::new(self, d2)?, Inverse::new(self, lists)?);
        let entries = inverse.entries();
        let coefficients = self.upload("coefficients", &vec![1e-3f32; entries])?;
        let order = self.upload("order of rows", &(0..d1 as u32).collect::<Vec<_>>())?;
        let x = self.upload("x", &vec![1.0f32; rows * d2])?;
        let y = self.storage("y", (rows * d1 * 4) as u64)?;
        let spectra = self.scratch(forward.bytes() * rows as u64)?;
        let there = forward.bind(self, x.all(), spectra.all())?;
        let back = inverse.bind(self, coefficients.all(), spectra.all(), order.all(), y.all())?;
        let spectral_us = self.time(|recorder| {
            forward.run(recorder, &there, rows);
            inverse.run(recorder, &back, 0, rows);
        })?;

        let plan = Reconstruct::of_lists(self, lists)?;
        let w = self.storage("a dense change", plan.bytes(Precision::F16))?;
        let mut recorder = Recorder::new(self);
        plan.record(&mut recorder, &coefficients, 0, 1, Precision::F16, w.all())?;
        recorder.submit()?;
        let product = Product::new(self, d1, d2, Precision::F16, true)?;
        let bound = product.bind(self, w.all(), x.all(), order.all(), y.all())?;
        let dense_us = self.time(|recorder| product.run(recorder, &bound, rows))?;

        let timing = PathTiming { d1, d2, entries, rows, spectral_us, dense_us };
        self.paths.measured.lock().unwrap_or_else(PoisonError::into_inner).push(timing.clone());
        Ok(timing)
    }

    /// Microseconds of what `record` records, from as many runs of it as take long enough to be measured.
    fn time(self: &Arc<Self>, record: impl Fn(&mut Recorder)) -> Result<f64, GpuError> {
        let run = |repeats: usize| {
            let mut recorder = Recorder::timed(self);
            (0..repeats).for_each(|_| record(&mut recorder));
            let begin = Instant::now();
            let timings = recorder.submit_timed()?;
            self.wait()?;
            let wall = begin.elapsed().as_secs_f64() * 1e6;
            let own = timings.map(|timings| timings.wait()).transpose()?;
            let us = own.map_or(wall, |own| own.sections.iter().map(|(_, ns)| ns / 1e3).sum());
            Ok::<f64, GpuError>(us / repeats as f64)
        };
        // The first run pays for what is compiled and mapped on first use.
        let once = run(1)?;
        run(if once > LONG { 1 } else { REPEATS })
    }
}
