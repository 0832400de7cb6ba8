//! The adapter itself: an immutable value.

use std::path::Path;
use std::sync::Arc;

use super::file::{FileEntries, FileModules, FourierModule, LoraModule};
use super::{AdapterError, AdapterFile, AdapterSummary, Delta, Names, PeftConfig, Selection, peft};

/// A set of changes to a model's modules. Immutable and cheap to share: hold it in an `Arc`.
#[derive(Debug, Clone)]
pub struct Adapter {
    /// Sorted by name, distinct, at least one.
    modules: Vec<Module>,
    base: Option<String>,
    origin: Origin,
    config: Option<Arc<PeftConfig>>,
}

/// One module's change.
#[derive(Debug, Clone)]
pub struct Module {
    /// The module's path in the Hugging Face model, `model.layers.3.self_attn.q_proj`.
    pub name: Box<str>,
    /// The change.
    pub delta: Arc<dyn Delta>,
}

/// What a PEFT configuration tells of where an adapter comes from. None of it changes the numbers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Origin {
    /// `base_model_name_or_path`.
    pub base_model: Option<String>,
    /// `task_type`.
    pub task_type: Option<String>,
}

impl Adapter {
    /// An adapter of `modules`, in any order.
    ///
    /// # Errors
    /// [`AdapterError::NoModules`], [`AdapterError::ModuleName`] or [`AdapterError::Duplicate`].
    pub fn new(mut modules: Vec<Module>) -> Result<Self, AdapterError> {
        if modules.is_empty() {
            return Err(AdapterError::NoModules);
        }
        for module in &modules {
            check_name(&module.name)?;
        }
        modules.sort_by(|a, b| a.name.cmp(&b.name));
        if let Some(pair) = modules.windows(2).find(|pair| pair[0].name == pair[1].name) {
            return Err(AdapterError::Duplicate { module: pair[0].name.to_string() });
        }
        modules.shrink_to_fit();
        Ok(Self { modules, base: None, origin: Origin::default(), config: None })
    }

    /// The same adapter, made for the base model with this fingerprint.
    pub fn with_base(mut self, fingerprint: impl Into<String>) -> Self {
        self.base = Some(fingerprint.into());
        self
    }

    /// The same adapter with this origin.
    pub fn with_origin(mut self, origin: Origin) -> Self {
        self.origin = origin;
        self
    }

    /// Remembers the configuration the modules came with, so that saving writes the same selection.
    pub(super) fn with_config(mut self, config: Option<Arc<PeftConfig>>) -> Self {
        self.config = config;
        self
    }

    /// The modules, by name.
    pub fn modules(&self) -> impl ExactSizeIterator<Item = (&str, &Arc<dyn Delta>)> {
        self.modules.iter().map(|module| (&*module.name, &module.delta))
    }

    /// The change to one module.
    pub fn get(&self, module: &str) -> Option<&Arc<dyn Delta>> {
        let at = self.modules.binary_search_by(|known| (*known.name).cmp(module)).ok()?;
        Some(&self.modules[at].delta)
    }

    /// The number of modules, at least one.
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        self.modules.len()
    }

    /// α, where all modules have the same: FourierFT's `scaling`, LoRA's `lora_alpha`.
    pub fn alpha(&self) -> Option<f64> {
        let alpha = |delta: &dyn Delta| match delta.as_fourier() {
            Some(fourier) => Some(fourier.alpha()),
            None => delta.as_lora().map(|lora| lora.scale().alpha),
        };
        let mut alphas = self.modules.iter().map(|module| alpha(&*module.delta));
        let first = alphas.next()??;
        alphas.all(|alpha| alpha == Some(first)).then_some(first)
    }

    /// Trainable numbers in all modules.
    pub fn parameters(&self) -> usize {
        self.modules.iter().map(|m| m.delta.parameters()).sum()
    }

    /// The same adapter with other parameters: those of every module in order of name, each in its kind's own order.
    ///
    /// # Panics
    /// If there are not [`parameters`](Self::parameters) of them.
    pub fn with_parameters(&self, parameters: &[f32]) -> Self {
        let mut rest = parameters;
        let modules = self.modules.iter().map(|module| {
            let own;
            (own, rest) = rest.split_at(module.delta.parameters());
            Module { name: module.name.clone(), delta: module.delta.with_parameters(own) }
        });
        let modules = modules.collect();
        assert!(rest.is_empty(), "{} parameters too many", rest.len());
        Self { modules, ..self.clone() }
    }

    /// Bytes of memory the adapter costs by itself. Plans, which adapters with the same entries share, are
    /// counted by [`PlanCache::bytes`](crate::spectral::PlanCache::bytes).
    pub fn bytes(&self) -> usize {
        let modules = self.modules.iter().map(|m| size_of::<Module>() + m.name.len() + m.delta.bytes());
        size_of::<Self>() + modules.sum::<usize>()
    }

    /// The fingerprint of the base model it was made for, where the file says.
    pub fn base(&self) -> Option<&str> {
        self.base.as_deref()
    }

    /// Where it comes from.
    pub fn origin(&self) -> &Origin {
        &self.origin
    }

    /// Refuses a base model other than the one it was made for. One that names no base goes with any.
    ///
    /// # Errors
    /// [`AdapterError::BaseMismatch`].
    pub fn check_base(&self, fingerprint: &str) -> Result<(), AdapterError> {
        match &self.base {
            Some(base) if base != fingerprint => {
                Err(AdapterError::BaseMismatch { found: base.clone(), expected: fingerprint.to_owned() })
            }
            _ => Ok(()),
        }
    }

    /// What there is to tell about it.
    pub fn summary(&self) -> AdapterSummary {
        AdapterSummary::of(self)
    }

    /// Those of `modules`, the model's linear layers by the names this adapter would have for them, that the adapter's
    /// PEFT configuration targets and the adapter does not change. PEFT runs such an adapter, with those layers as
    /// training began; here there is nothing to run. Empty for an adapter without a configuration.
    ///
    /// # Errors
    /// [`AdapterError::Pattern`] if an expression takes too long on a name.
    pub fn missing<'a>(&self, modules: impl Iterator<Item = &'a str>) -> Result<Vec<String>, AdapterError> {
        let Some(config) = &self.config else { return Ok(Vec::new()) };
        let selection = Selection::new(config)?;
        let mut missing = Vec::new();
        for module in modules {
            if self.get(module).is_none() && selection.selects(module)? {
                missing.push(module.to_owned());
            }
        }
        Ok(missing)
    }

    /// The same adapter, to be saved as a PEFT directory whose configuration selects its modules so: `target_modules` and
    /// `layers_to_transform`. A selection that does not fit the modules is not kept; they are then named one by one.
    ///
    /// # Errors
    /// As [`save_peft`](Self::save_peft), but for the file system's.
    pub fn with_targets(self, targets: Names, layers: Option<Vec<i64>>) -> Result<Self, AdapterError> {
        let described = peft::describe(&self.to_file()?)?;
        let config = PeftConfig { target_modules: targets, layers_to_transform: layers, ..described };
        Ok(self.with_config(Some(Arc::new(config))))
    }

    /// The adapter as a file would hold it, with every shape.
    ///
    /// # Errors
    /// [`AdapterError::Kind`]; [`AdapterError::MixedKinds`].
    pub fn to_file(&self) -> Result<AdapterFile, AdapterError> {
        let (mut spectral, mut low_rank) = (Vec::new(), Vec::new());
        for (name, delta) in self.modules() {
            let name = name.to_owned();
            if let Some(fourier) = delta.as_fourier() {
                spectral.push(FourierModule {
                    name,
                    shape: Some(fourier.entries().shape()),
                    alpha: fourier.alpha(),
                    coefficients: fourier.coefficients(),
                    entries: FileEntries::of(fourier.plan().entries()),
                });
            } else if let Some(lora) = delta.as_lora() {
                low_rank.push(LoraModule { name, delta: lora.clone() });
            } else {
                return Err(AdapterError::Kind { module: name });
            }
        }
        let modules = match (spectral.is_empty(), low_rank.is_empty()) {
            (false, false) => return Err(AdapterError::MixedKinds),
            (true, _) => FileModules::Lora(low_rank),
            (_, true) => FileModules::Fourier(spectral),
        };
        let (base, origin, config) = (self.base.clone(), self.origin.clone(), self.config.clone());
        Ok(AdapterFile { modules, base, origin, config })
    }

    /// [`AdapterFile::save_peft`].
    ///
    /// # Errors
    /// As [`AdapterFile::save_peft`]; as [`to_file`](Self::to_file).
    pub fn save_peft(&self, dir: &Path) -> Result<(), AdapterError> {
        self.to_file()?.save_peft(dir)
    }

    /// [`AdapterFile::save_single`], with every shape.
    ///
    /// # Errors
    /// As [`AdapterFile::save_single`]; as [`to_file`](Self::to_file).
    pub fn save_single(&self, path: &Path, f16: bool) -> Result<(), AdapterError> {
        self.to_file()?.save_single(path, f16)
    }
}

/// Longest module name, in bytes.
const MAX_NAME: usize = 512;

/// Refuses names that no module has and that would not print.
pub(super) fn check_name(name: &str) -> Result<(), AdapterError> {
    if name.is_empty() || name.len() > MAX_NAME || name.chars().any(char::is_control) {
        let name = name.chars().take(MAX_NAME).collect();
        return Err(AdapterError::ModuleName { name });
    }
    Ok(())
}
