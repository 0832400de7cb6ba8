//! Merging bound adapters into a file of its own.

use std::path::Path;

use crate::gguf::TensorInfo;
use crate::merge::{DenseDelta, MergeError, MergeOptions, MergeReport, merge};

use super::weights::LinearKind;
use super::{ActiveAdapters, Model};

impl Model {
    /// Writes `out`: this model with the adapters' changes added to its weights, a plain GGUF that any runtime loads.
    /// `progress(done, total)` counts bytes; returning `false` stops and leaves nothing behind.
    ///
    /// # Errors
    /// [`MergeError`]; `out` is then untouched.
    pub fn merge(
        &self,
        adapters: &ActiveAdapters,
        out: &Path,
        options: &MergeOptions,
        progress: impl FnMut(u64, u64) -> bool,
    ) -> Result<MergeReport, MergeError> {
        let places: Vec<(usize, LinearKind, &str)> = (0..self.decoder().layers.len())
            .flat_map(|layer| LinearKind::ALL.map(|kind| (layer, kind)))
            .filter(|&(layer, kind)| adapters.list().iter().any(|(b, _)| b.delta(layer, kind).is_some()))
            .filter_map(|(layer, kind)| Some((layer, kind, self.decoder().linear(layer, kind)?.name.as_str())))
            .collect();
        let names: Vec<&str> = places.iter().map(|&(_, _, name)| name).collect();
        let delta = |tensor: &TensorInfo| {
            let place = places.iter().find(|(_, _, name)| *name == tensor.name);
            let &(layer, kind, _) = place.ok_or("a tensor that no adapter changes was asked for")?;
            Ok(self.dense_delta(adapters, layer, kind, options.threads))
        };
        merge(self.gguf(), out, &names, delta, options, progress)
    }

    /// Σ weight · ΔW of one linear, its rows in the file's order.
    fn dense_delta(&self, adapters: &ActiveAdapters, layer: usize, kind: LinearKind, threads: usize) -> DenseDelta {
        let linear = self.decoder().layers[layer].linear(kind);
        let (rows, cols) = linear.shape();
        let mut data = vec![0.0; rows * cols];
        for (bound, weight) in adapters.list() {
            let Some(delta) = bound.delta(layer, kind) else { continue };
            let dense = delta.dense(self.transforms(), threads);
            for (row, values) in dense.chunks_exact(cols).enumerate() {
                let row = linear.row_order.as_ref().map_or(row, |order| order.to_file()[row] as usize);
                crate::kernels::vector::axpy(*weight, values, &mut data[row * cols..][..cols]);
            }
        }
        DenseDelta { rows, cols, data }
    }
}
