//! What `inspect` shows.

use serde::Serialize;

use crate::spectral::EntrySource;

use super::{Adapter, Delta, LoraDelta};

/// An adapter in words and numbers, of a loaded one or of a file.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct AdapterSummary {
    /// The kind of its modules: `fourier`, `lora`, or `mixed`.
    pub kind: &'static str,
    /// The fingerprint of its base model, where known.
    pub base: Option<String>,
    /// The base model's name, where known.
    pub base_model: Option<String>,
    /// Trainable numbers.
    pub parameters: usize,
    /// Bytes of those numbers in memory.
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
    /// What its change is made of.
    #[serde(flatten)]
    pub change: ChangeSummary,
}

/// What a module's change is made of.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum ChangeSummary {
    /// FourierFT.
    Fourier {
        /// Coefficients.
        n: usize,
        /// α.
        alpha: f64,
        /// Where the positions come from.
        entries: EntrySource,
    },
    /// LoRA.
    Lora {
        /// r.
        rank: usize,
        /// `lora_alpha`.
        alpha: f64,
        /// Whether alpha is divided by the root of the rank and not by the rank.
        rank_stabilized: bool,
        /// Trainable numbers, of both factors.
        parameters: usize,
    },
}

impl ModuleSummary {
    pub(super) fn of_lora(name: &str, delta: &LoraDelta) -> Self {
        let (shape, scale) = (delta.shape(), delta.scale());
        Self {
            name: name.to_owned(),
            shape: Some((shape.rows(), shape.cols())),
            change: ChangeSummary::Lora {
                rank: delta.rank(),
                alpha: scale.alpha,
                rank_stabilized: scale.rank_stabilized,
                parameters: delta.parameters(),
            },
        }
    }

    fn parameters(&self) -> usize {
        match self.change {
            ChangeSummary::Fourier { n, .. } => n,
            ChangeSummary::Lora { parameters, .. } => parameters,
        }
    }
}

impl AdapterSummary {
    pub(super) fn new(base: Option<String>, base_model: Option<String>, modules: Vec<ModuleSummary>) -> Self {
        let parameters = modules.iter().map(ModuleSummary::parameters).sum();
        let lora = |module: &ModuleSummary| matches!(module.change, ChangeSummary::Lora { .. });
        let kind = match (modules.iter().any(lora), modules.iter().all(lora)) {
            (false, _) => "fourier",
            (true, true) => "lora",
            (true, false) => "mixed",
        };
        Self { kind, base, base_model, parameters, bytes: parameters * size_of::<f32>(), modules }
    }

    pub(super) fn of(adapter: &Adapter) -> Self {
        let modules = adapter.modules().filter_map(|(name, delta)| {
            if let Some(lora) = delta.as_lora() {
                return Some(ModuleSummary::of_lora(name, lora));
            }
            let fourier = delta.as_fourier()?;
            Some(ModuleSummary {
                name: name.to_owned(),
                shape: Some((fourier.entries().shape().rows(), fourier.entries().shape().cols())),
                change: ChangeSummary::Fourier {
                    n: fourier.entries().len(),
                    alpha: fourier.alpha(),
                    entries: fourier.entries().source(),
                },
            })
        });
        let base = adapter.base().map(str::to_owned);
        Self::new(base, adapter.origin().base_model.clone(), modules.collect())
    }
}
