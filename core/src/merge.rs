//! Merging: ΔW added to the weights once and for all, into a GGUF that any runtime loads.
//!
//! The only place where a dense ΔW meets the base. Adapted tensors are decoded row by row, summed in `f32` and stored
//! as F16, or rounded back to the type they had; everything else is copied byte for byte by
//! [`Gguf::rewrite`]. What the rounding costs is measured against the `f32` sum and reported, because a small ΔW can
//! drown in it. Imports [`gguf`](crate::gguf), [`kernels`](crate::kernels) (decoding) and
//! [`quantize`](crate::quantize).

use std::collections::BTreeSet;
use std::error::Error;
use std::ops::Range;
use std::path::Path;

use serde::{Serialize, Serializer};

use crate::gguf::{GgmlType, Gguf, GgufError, Rewrite, TensorInfo};
use crate::kernels::{Cores, KernelError, dequantize};
use crate::quantize::{QuantizeError, quantize_row};

/// How adapted tensors are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Storage {
    /// As F16, whatever they were.
    #[default]
    F16,
    /// In the type they have in the base. The file keeps its size; the report says how much of ΔW is lost.
    Keep,
}

/// What a merge may be told.
#[derive(Debug, Clone, Copy)]
pub struct MergeOptions {
    /// How adapted tensors are stored.
    pub storage: Storage,
    /// Threads that round rows, at least one.
    pub threads: usize,
}

impl Default for MergeOptions {
    /// F16 on every core there is.
    fn default() -> Self {
        Self { storage: Storage::F16, threads: Cores::of_this_thread().threads() }
    }
}

/// A dense ΔW: `rows × cols`, row-major, rows in the order of the file's tensor (a permutation that the file applied
/// to the weights must have been applied), scaled.
#[derive(Debug, Clone)]
pub struct DenseDelta {
    /// Outputs.
    pub rows: usize,
    /// Inputs.
    pub cols: usize,
    /// `rows * cols` numbers.
    pub data: Vec<f32>,
}

/// What storing one tensor did, against `W + ΔW` in `f32`.
#[derive(Debug, Clone, Serialize)]
pub struct MergedTensor {
    /// Name in the file.
    pub name: String,
    /// Outputs.
    pub rows: usize,
    /// Inputs.
    pub cols: usize,
    /// Type in the base.
    #[serde(serialize_with = "by_name")]
    pub from: GgmlType,
    /// Type in the merged file.
    #[serde(serialize_with = "by_name")]
    pub to: GgmlType,
    /// Largest |stored − (W + ΔW)|.
    pub max_abs_error: f64,
    /// ‖stored − (W + ΔW)‖ / ‖W + ΔW‖ (Frobenius); 0 if the sum is 0.
    pub relative_error: f64,
    /// ‖stored − (W + ΔW)‖ / ‖ΔW‖: from 1 up the rounding is larger than what was merged. 0 if ΔW is 0.
    pub error_over_delta: f64,
}

/// What a merge did.
#[derive(Debug, Clone, Serialize)]
pub struct MergeReport {
    /// As asked for.
    pub storage: Storage,
    /// Adapted tensors, in the file's order.
    pub tensors: Vec<MergedTensor>,
}

impl MergeReport {
    /// The largest of the tensors' absolute errors.
    pub fn max_abs_error(&self) -> f64 {
        self.tensors.iter().fold(0.0, |a, t| t.max_abs_error.max(a))
    }

    /// The largest of the tensors' relative errors.
    pub fn max_relative_error(&self) -> f64 {
        self.tensors.iter().fold(0.0, |a, t| t.relative_error.max(a))
    }
}

fn by_name<S: Serializer>(ty: &GgmlType, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(ty.name())
}

/// Why a merge was given up. Nothing is written then.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MergeError {
    /// The base could not be read, lacks a tensor, or the merged file could not be written.
    #[error(transparent)]
    Gguf(#[from] GgufError),
    /// No tensor was to be adapted.
    #[error("nothing to merge: no tensor of the base is adapted")]
    Nothing,
    /// A ΔW could not be made.
    #[error("the delta of tensor {tensor:?}: {source}")]
    Delta {
        /// The tensor.
        tensor: String,
        /// What the maker said.
        source: Box<dyn Error + Send + Sync>,
    },
    /// A ΔW does not fit its tensor.
    #[error("the delta of tensor {tensor:?} is {found:?} with {len} numbers, expected {expected:?} (rows, columns)")]
    DeltaShape {
        /// The tensor.
        tensor: String,
        /// The tensor's rows and columns.
        expected: [usize; 2],
        /// The delta's.
        found: [usize; 2],
        /// Numbers in the delta.
        len: usize,
    },
    /// The base's blocks could not be decoded.
    #[error("tensor {tensor:?}: {source}")]
    Decode {
        /// The tensor.
        tensor: String,
        /// Why.
        source: KernelError,
    },
    /// A sum cannot be stored: past the type's range (F16 ends at 65504), NaN or infinite.
    #[error("tensor {tensor:?}, row {row}, W + ΔW: {source}")]
    Store {
        /// The tensor.
        tensor: String,
        /// The row; the source names the column.
        row: usize,
        /// Why.
        source: QuantizeError,
    },
}

/// Writes `gguf` to `out` with ΔW added to the tensors named in `adapted`.
///
/// `delta` is called once for each of them, in the file's order; one ΔW is alive at a time. `progress` hears how many of
/// the data's bytes are written and stops the merge by returning `false`.
///
/// # Errors
/// [`MergeError`]; the file at `out`, if there was one, then stays as it was.
pub fn merge<N: AsRef<str>>(
    gguf: &Gguf,
    out: impl AsRef<Path>,
    adapted: impl IntoIterator<Item = N>,
    delta: impl FnMut(&TensorInfo) -> Result<DenseDelta, Box<dyn Error + Send + Sync>>,
    options: &MergeOptions,
    progress: impl FnMut(u64, u64) -> bool,
) -> Result<MergeReport, MergeError> {
    let mut names = BTreeSet::new();
    for name in adapted {
        names.insert(gguf.tensor(name.as_ref())?.name.as_str());
    }
    if names.is_empty() {
        return Err(MergeError::Nothing);
    }
    let mut merger = Merger { gguf, names, delta, progress, options: *options, current: None, done: Vec::new() };
    gguf.rewrite(out, &mut merger)?;
    Ok(MergeReport { storage: options.storage, tensors: merger.done })
}

struct Merger<'a, D, P> {
    gguf: &'a Gguf,
    names: BTreeSet<&'a str>,
    delta: D,
    progress: P,
    options: MergeOptions,
    /// The ΔW of the tensor being written and what its rows came to.
    current: Option<(DenseDelta, Sums)>,
    done: Vec<MergedTensor>,
}

impl<D, P> Merger<'_, D, P> {
    fn target(&self, tensor: &TensorInfo) -> GgmlType {
        match self.options.storage {
            Storage::F16 => GgmlType::F16,
            Storage::Keep => tensor.ty,
        }
    }
}

impl<D, P> Rewrite for Merger<'_, D, P>
where
    D: FnMut(&TensorInfo) -> Result<DenseDelta, Box<dyn Error + Send + Sync>>,
    P: FnMut(u64, u64) -> bool,
{
    type Error = MergeError;

    fn storage(&mut self, tensor: &TensorInfo) -> Option<GgmlType> {
        self.names.contains(tensor.name.as_str()).then(|| self.target(tensor))
    }

    fn rows(&mut self, tensor: &TensorInfo, rows: Range<usize>, out: &mut [u8]) -> Result<(), MergeError> {
        let (delta, mut sums) = match self.current.take() {
            Some(current) => current,
            None => {
                let delta =
                    (self.delta)(tensor).map_err(|source| MergeError::Delta { tensor: tensor.name.clone(), source })?;
                check_shape(tensor, &delta)?;
                (delta, Sums::default())
            }
        };
        let panel = Panel { tensor, blocks: self.gguf.data(tensor), delta: &delta, to: self.target(tensor) };
        sums.add(&panel.store(rows.clone(), out, self.options.threads)?);
        if rows.end < tensor.rows() {
            self.current = Some((delta, sums));
        } else {
            self.done.push(sums.report(tensor, panel.to));
        }
        Ok(())
    }

    fn progress(&mut self, done: u64, total: u64) -> bool {
        (self.progress)(done, total)
    }
}

fn check_shape(tensor: &TensorInfo, delta: &DenseDelta) -> Result<(), MergeError> {
    let expected = [tensor.rows(), tensor.cols()];
    let found = [delta.rows, delta.cols];
    if found == expected && Some(delta.data.len()) == delta.rows.checked_mul(delta.cols) {
        return Ok(());
    }
    Err(MergeError::DeltaShape { tensor: tensor.name.clone(), expected, found, len: delta.data.len() })
}

/// Rows of one tensor on their way into the file.
struct Panel<'a> {
    tensor: &'a TensorInfo,
    blocks: &'a [u8],
    delta: &'a DenseDelta,
    to: GgmlType,
}

impl Panel<'_> {
    /// Stores `rows` to `out`, shared out to `threads`.
    fn store(&self, rows: Range<usize>, out: &mut [u8], threads: usize) -> Result<Sums, MergeError> {
        let share = rows.len().div_ceil(threads.max(1));
        let row_bytes = out.len() / rows.len();
        if share == rows.len() {
            return self.store_share(rows.start, row_bytes, out);
        }
        std::thread::scope(|scope| {
            let shares: Vec<_> = out
                .chunks_mut(share * row_bytes)
                .enumerate()
                .map(|(i, out)| scope.spawn(move || self.store_share(rows.start + i * share, row_bytes, out)))
                .collect();
            let mut sums = Sums::default();
            for share in shares {
                sums.add(&share.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?);
            }
            Ok(sums)
        })
    }

    /// Stores the rows from `first` that fill `out`.
    fn store_share(&self, first: usize, row_bytes: usize, out: &mut [u8]) -> Result<Sums, MergeError> {
        let name = || self.tensor.name.clone();
        let decode = |ty, blocks: &[u8], out: &mut [f32]| {
            dequantize(ty, blocks, out).map_err(|source| MergeError::Decode { tensor: name(), source })
        };
        let cols = self.tensor.cols();
        let source_bytes = self.blocks.len() / self.tensor.rows();
        let (mut sum, mut stored) = (vec![0.0; cols], vec![0.0; cols]);
        let mut sums = Sums::default();
        for (row, out) in (first..).zip(out.chunks_exact_mut(row_bytes)) {
            let delta = &self.delta.data[row * cols..][..cols];
            decode(self.tensor.ty, &self.blocks[row * source_bytes..][..source_bytes], &mut sum)?;
            sum.iter_mut().zip(delta).for_each(|(w, d)| *w += d);
            quantize_row(self.to, &sum, out).map_err(|source| MergeError::Store { tensor: name(), row, source })?;
            decode(self.to, out, &mut stored)?;
            sums.row(&sum, &stored, delta);
        }
        Ok(sums)
    }
}

/// Squares and the maximum that the report is made of.
#[derive(Default)]
struct Sums {
    error: f64,
    exact: f64,
    delta: f64,
    max: f64,
}

impl Sums {
    fn row(&mut self, exact: &[f32], stored: &[f32], delta: &[f32]) {
        for ((&exact, &stored), &delta) in exact.iter().zip(stored).zip(delta) {
            let (exact, delta) = (f64::from(exact), f64::from(delta));
            let error = f64::from(stored) - exact;
            self.error += error * error;
            self.exact += exact * exact;
            self.delta += delta * delta;
            self.max = self.max.max(error.abs());
        }
    }

    fn add(&mut self, other: &Self) {
        self.error += other.error;
        self.exact += other.exact;
        self.delta += other.delta;
        self.max = self.max.max(other.max);
    }

    fn report(&self, tensor: &TensorInfo, to: GgmlType) -> MergedTensor {
        let over = |norm: f64| if norm > 0.0 { (self.error / norm).sqrt() } else { 0.0 };
        MergedTensor {
            name: tensor.name.clone(),
            rows: tensor.rows(),
            cols: tensor.cols(),
            from: tensor.ty,
            to,
            max_abs_error: self.max,
            relative_error: over(self.exact),
            error_over_delta: over(self.delta),
        }
    }
}
