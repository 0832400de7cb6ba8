//! The adapter a run begins with.

use std::sync::Arc;

use crate::adapter::{Adapter, Delta, FourierDelta, LoraDelta, LoraScale, Module, Origin};
use crate::model::Model;
use crate::spectral::Shape;

use super::data::Rng;
use super::{Targets, TuneError};

/// Stream of [`Rng`] that parameters are drawn from.
const STREAM: u64 = 2;

/// What a new FourierFT adapter's coefficients begin as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Begin {
    /// 0: the run begins at the base model (PEFT's `init_weights=True`).
    #[default]
    Zeros,
    /// N(0, 1), as the paper and PEFT's default have it. The numbers are not PyTorch's.
    Normal,
}

/// The kind of a new adapter: the one place where it is chosen.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Method {
    /// `n` coefficients a module at the positions PEFT draws from `entries_seed`, scaled by `alpha`.
    Fourier {
        /// Coefficients a module, PEFT's `n_frequency`.
        n: usize,
        /// α, PEFT's `scaling`.
        alpha: f64,
        /// PEFT's `random_loc_seed`.
        entries_seed: u64,
        /// What they begin as.
        begin: Begin,
    },
    /// Products of two factors (Hu et al. 2022). A begins uniform in ±1/√d2 as in PEFT, B at 0: the run begins at the base model.
    Lora {
        /// Rank, PEFT's `r`.
        rank: usize,
        /// PEFT's `lora_alpha`; the change is scaled by this over the rank.
        alpha: f64,
    },
}

impl Default for Method {
    /// FourierFT with what PEFT trained well on small models: n = 1000, α = 300. The learning rate does not depend on
    /// either, see [`Rate`](super::Rate).
    fn default() -> Self {
        Self::Fourier { n: 1000, alpha: 300.0, entries_seed: 2024, begin: Begin::Zeros }
    }
}

impl Method {
    /// A module's change before the first step.
    fn delta(&self, model: &Model, shape: Shape, name: &str, rng: &mut Rng) -> Result<Arc<dyn Delta>, TuneError> {
        let entries = |source| TuneError::Entries { module: name.to_owned(), source };
        let (Self::Fourier { alpha, .. } | Self::Lora { alpha, .. }) = *self;
        if !alpha.is_finite() || alpha == 0.0 {
            return Err(TuneError::option("alpha", alpha, "a finite number other than 0"));
        }
        match *self {
            Self::Fourier { n, alpha, entries_seed, begin } => {
                let plan = model.plans().seeded(shape, n, entries_seed).map_err(entries)?;
                let coefficients: Vec<f32> = match begin {
                    Begin::Zeros => vec![0.0; n],
                    Begin::Normal => (0..n).map(|_| rng.normal() as f32).collect(),
                };
                Ok(Arc::new(FourierDelta::new(plan, &coefficients, alpha).map_err(entries)?))
            }
            Self::Lora { rank, alpha } => {
                let most = shape.rows().min(shape.cols());
                if rank == 0 || rank > most {
                    let expected = format!("from 1 to {most} for {name}, which is {shape}");
                    return Err(TuneError::option("rank", rank, expected));
                }
                let bound = 1.0 / (shape.cols() as f64).sqrt();
                let a: Vec<f32> = (0..rank * shape.cols()).map(|_| rng.symmetric(bound) as f32).collect();
                let b = vec![0.0; shape.rows() * rank];
                Ok(Arc::new(LoraDelta::new(&a, &b, rank, shape, LoraScale::over_rank(alpha))?))
            }
        }
    }
}

/// An adapter to be learnt from nothing.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct NewAdapter {
    /// Its kind.
    pub method: Method,
    /// The modules it changes.
    pub targets: Targets,
    /// Seed of what it begins as, where that is drawn.
    pub seed: u64,
    /// The base model's name on the Hugging Face hub, which PEFT's configuration carries; `None` for what the model file
    /// says of its source.
    pub base_name: Option<String>,
}

impl NewAdapter {
    /// Makes it for a model, whose fingerprint it carries.
    ///
    /// # Errors
    /// [`TuneError::Layer`], [`TuneError::Target`], [`TuneError::Option`]; [`TuneError::Entries`] where a module is too small for
    /// as many coefficients.
    pub fn build(&self, model: &Model) -> Result<Adapter, TuneError> {
        let mut rng = Rng::new(self.seed, STREAM);
        let mut modules = Vec::new();
        for (name, (rows, cols)) in self.targets.modules(model)? {
            let shape = Shape::new(rows, cols).map_err(|source| TuneError::Entries { module: name.clone(), source })?;
            let delta = self.method.delta(model, shape, &name, &mut rng)?;
            modules.push(Module { name: name.into(), delta });
        }
        let base_model = self.base_name.clone().or_else(|| source_name(model));
        let origin = Origin { base_model, task_type: Some("CAUSAL_LM".to_owned()) };
        let (names, layers) = self.targets.to_peft();
        let adapter = Adapter::new(modules)?.with_base(model.gguf().fingerprint()).with_origin(origin);
        Ok(adapter.with_targets(names, layers)?)
    }
}

/// The repository a model file says it was converted from.
fn source_name(model: &Model) -> Option<String> {
    let text = |key: &str| model.gguf().metadata().opt_str(key).ok().flatten().map(str::to_owned);
    let hub = |url: String| url.strip_prefix("https://huggingface.co/").map(str::to_owned);
    text("general.source.huggingface.repository").or_else(|| {
        ["general.source.repo_url", "general.source.url", "general.repo_url"]
            .into_iter()
            .find_map(|key| hub(text(key)?))
    })
}
