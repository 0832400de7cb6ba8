//! What `inspect` shows.

use serde::Serialize;

use crate::spectral::EntrySource;

use super::Adapter;

/// An adapter in words and numbers, of a loaded one or of a file.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct AdapterSummary {
    /// The kind of its modules, `fourier`.
    pub kind: &'static str,
    /// The fingerprint of its base model, where known.
    pub base: Option<String>,
    /// The base model's name, where known.
    pub base_model: Option<String>,
    /// Trainable numbers.
    pub parameters: usize,
    /// Bytes of coefficients in memory.
    pub bytes: usize,
    /// Its modules.
    pub modules: Vec<ModuleSummary>,
}

/// One module of an [`AdapterSummary`].
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ModuleSummary {
    /// The module's path.
    pub name: String,
    /// Outputs and inputs, where the file says.
    pub shape: Option<(usize, usize)>,
    /// Coefficients.
    pub n: usize,
    /// α.
    pub alpha: f64,
    /// Where the positions come from.
    pub entries: EntrySource,
}

impl AdapterSummary {
    pub(super) fn new(base: Option<String>, base_model: Option<String>, modules: Vec<ModuleSummary>) -> Self {
        let parameters = modules.iter().map(|m| m.n).sum();
        Self { kind: "fourier", base, base_model, parameters, bytes: parameters * size_of::<f32>(), modules }
    }

    pub(super) fn of(adapter: &Adapter) -> Self {
        let modules = adapter.modules().filter_map(|(name, delta)| {
            let fourier = delta.as_fourier()?;
            Some(ModuleSummary {
                name: name.to_owned(),
                shape: Some((fourier.entries().shape().rows(), fourier.entries().shape().cols())),
                n: fourier.entries().len(),
                alpha: fourier.alpha(),
                entries: fourier.entries().source(),
            })
        });
        let base = adapter.base().map(str::to_owned);
        Self::new(base, adapter.origin().base_model.clone(), modules.collect())
    }
}
