//! An adapter's file, read and checked, before it meets a model.

use std::path::Path;
use std::sync::Arc;

use crate::spectral::{Entries, EntrySource, Plan, PlanCache, Shape};

use super::value::check_name;
use super::{
    Adapter, AdapterError, AdapterSummary, FourierDelta, Module, ModuleSummary, Origin, PeftConfig, peft, single,
};

/// What a PEFT directory or a single file holds. A PEFT directory stores no shapes and no positions, so an
/// [`Adapter`] takes a second step: [`resolve`](Self::resolve).
#[derive(Debug)]
pub struct AdapterFile {
    /// Sorted by name.
    pub(super) modules: Vec<FileModule>,
    pub(super) base: Option<String>,
    pub(super) origin: Origin,
    pub(super) config: Option<Arc<PeftConfig>>,
}

/// A module as its file describes it.
#[derive(Debug)]
pub(super) struct FileModule {
    pub name: String,
    /// Where the file says.
    pub shape: Option<Shape>,
    pub alpha: f64,
    /// In entry order, finite.
    pub coefficients: Vec<f32>,
    pub entries: FileEntries,
}

/// A module's positions: how to draw them once the shape is known for certain, or the positions themselves.
#[derive(Debug, Clone)]
pub(super) enum FileEntries {
    Seeded { seed: u64 },
    Biased { seed: u64, center: f64, bandwidth: f64 },
    Listed(Arc<Entries>),
}

impl AdapterFile {
    /// Reads a PEFT directory (its `adapter_config.json` and `adapter_model.safetensors`, nothing else) or a single
    /// `.safetensors` file.
    ///
    /// # Errors
    /// Any of [`AdapterError`] that a file can cause, with the file's path.
    pub fn load(path: &Path) -> Result<Self, AdapterError> {
        let found = std::fs::metadata(path).map_err(|source| AdapterError::Io { path: path.to_owned(), source })?;
        if found.is_dir() {
            return peft::load(path);
        }
        let extension = path.extension().unwrap_or_default().to_ascii_lowercase();
        match extension.to_str() {
            Some("safetensors") => single::load(path),
            Some("bin" | "pt" | "pth" | "ckpt" | "pkl") => Err(AdapterError::Pickle.in_file(path)),
            _ => Err(AdapterError::Unrecognised.in_file(path)),
        }
    }

    /// Reads the bytes of a PEFT directory's `adapter_config.json` and `adapter_model.safetensors`.
    ///
    /// # Errors
    /// As [`load`](Self::load), but for the file system's.
    pub fn from_peft_bytes(config: &[u8], weights: &[u8]) -> Result<Self, AdapterError> {
        peft::parse(&peft::config(config)?, weights)
    }

    /// Reads the bytes of a single file.
    ///
    /// # Errors
    /// As [`load`](Self::load), but for the file system's.
    pub fn from_single_bytes(bytes: &[u8]) -> Result<Self, AdapterError> {
        single::parse(bytes)
    }

    /// A file's contents, checked for what every file must have.
    pub(super) fn new(mut modules: Vec<FileModule>) -> Result<Self, AdapterError> {
        if modules.is_empty() {
            return Err(AdapterError::NoModules);
        }
        for module in &modules {
            check_name(&module.name)?;
        }
        modules.sort_by(|a, b| a.name.cmp(&b.name));
        if let Some(pair) = modules.windows(2).find(|pair| pair[0].name == pair[1].name) {
            return Err(AdapterError::Duplicate { module: pair[0].name.clone() });
        }
        Ok(Self { modules, base: None, origin: Origin::default(), config: None })
    }

    /// The names of the modules, sorted.
    pub fn modules(&self) -> impl ExactSizeIterator<Item = &str> {
        self.modules.iter().map(|module| module.name.as_str())
    }

    /// `(outputs, inputs)` of a module, where the file says: a single file does, a PEFT directory does not.
    pub fn shape_of(&self, module: &str) -> Option<(usize, usize)> {
        let at = self.modules.binary_search_by(|known| known.name.as_str().cmp(module)).ok()?;
        self.modules[at].shape.map(|shape| (shape.rows(), shape.cols()))
    }

    /// The configuration of a PEFT directory.
    pub fn config(&self) -> Option<&PeftConfig> {
        self.config.as_deref()
    }

    /// What there is to tell about it without a model.
    pub fn summary(&self) -> AdapterSummary {
        let modules = self.modules.iter().map(|module| ModuleSummary {
            name: module.name.clone(),
            shape: module.shape.map(|shape| (shape.rows(), shape.cols())),
            n: module.coefficients.len(),
            alpha: module.alpha,
            entries: match module.entries {
                FileEntries::Seeded { seed } => EntrySource::Seeded { seed },
                FileEntries::Biased { seed, center, bandwidth } => EntrySource::Biased { seed, center, bandwidth },
                FileEntries::Listed(_) => EntrySource::Explicit,
            },
        });
        AdapterSummary::new(self.base.clone(), self.origin.base_model.clone(), modules.collect())
    }

    /// The adapter, with `shape_of` giving each module's `(outputs, inputs)` in the model, `None` for one it lacks.
    ///
    /// Positions are drawn once per shape, number and seed, and shared through `cache`. A file that carries shapes
    /// needs no model: `file.resolve(&cache, |module| file.shape_of(module))`.
    ///
    /// # Errors
    /// [`AdapterError::UnknownModule`], [`AdapterError::ShapeMismatch`] or [`AdapterError::Entries`], each naming the
    /// module. Nothing is yielded unless every module fits.
    pub fn resolve(
        &self,
        cache: &PlanCache,
        mut shape_of: impl FnMut(&str) -> Option<(usize, usize)>,
    ) -> Result<Adapter, AdapterError> {
        let mut listed = Vec::new();
        let mut modules = Vec::with_capacity(self.modules.len());
        for module in &self.modules {
            let (rows, cols) =
                shape_of(&module.name).ok_or_else(|| AdapterError::UnknownModule { module: module.name.clone() })?;
            let name = &module.name;
            let refused = |source| AdapterError::Entries { module: name.clone(), source };
            let shape = Shape::new(rows, cols).map_err(refused)?;
            if let Some(found) = module.shape.filter(|found| *found != shape) {
                return Err(AdapterError::ShapeMismatch { module: name.clone(), found, expected: shape });
            }
            let n = module.coefficients.len();
            let plan = match &module.entries {
                FileEntries::Seeded { seed } => cache.seeded(shape, n, *seed).map_err(refused)?,
                FileEntries::Biased { seed, center, bandwidth } => {
                    cache.biased(shape, n, *seed, *center, *bandwidth).map_err(refused)?
                }
                FileEntries::Listed(entries) => plan_of(cache, &mut listed, entries),
            };
            let delta = FourierDelta::new(plan, &module.coefficients, module.alpha).map_err(refused)?;
            modules.push(Module { name: name.as_str().into(), delta: Arc::new(delta) });
        }
        let mut adapter = Adapter::new(modules)?.with_origin(self.origin.clone()).with_config(self.config.clone());
        if let Some(base) = &self.base {
            adapter = adapter.with_base(base.clone());
        }
        Ok(adapter)
    }
}

/// The plan of listed entries, which several modules share: hashed once for all of them.
fn plan_of(cache: &PlanCache, known: &mut Vec<(Arc<Entries>, Arc<Plan>)>, entries: &Arc<Entries>) -> Arc<Plan> {
    if let Some((_, plan)) = known.iter().find(|(seen, _)| Arc::ptr_eq(seen, entries)) {
        return Arc::clone(plan);
    }
    let plan = cache.of(Entries::clone(entries));
    known.push((Arc::clone(entries), Arc::clone(&plan)));
    plan
}
