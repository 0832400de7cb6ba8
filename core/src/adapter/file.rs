//! An adapter's file, read and checked, before it meets a model.

use std::path::Path;
use std::sync::Arc;

use crate::spectral::{Entries, EntrySource, PlanCache, Shape};

use super::plans::Plans;
use super::value::check_name;
use super::{
    Adapter, AdapterError, AdapterSummary, ChangeSummary, Delta, FourierDelta, LoraDelta, Module, ModuleSummary,
    Origin, PeftConfig, mix, peft, single,
};

/// What a PEFT directory or a single file holds, and what can be written as either. A PEFT directory of FourierFT stores no
/// shapes and no positions, so an [`Adapter`] takes a second step: [`resolve`](Self::resolve). Saving and, as long as positions
/// are drawn alike, mixing do not.
#[derive(Debug, Clone)]
pub struct AdapterFile {
    pub(super) modules: FileModules,
    pub(super) base: Option<String>,
    pub(super) origin: Origin,
    pub(super) config: Option<Arc<PeftConfig>>,
}

/// The modules of a file, all of one kind, sorted by name.
#[derive(Debug, Clone)]
pub(super) enum FileModules {
    Fourier(Vec<FourierModule>),
    Lora(Vec<LoraModule>),
}

/// A module of either kind.
pub(super) trait Named {
    fn name(&self) -> &str;
}

/// A FourierFT module as its file describes it.
#[derive(Debug, Clone)]
pub(super) struct FourierModule {
    pub name: String,
    /// Where the file says.
    pub shape: Option<Shape>,
    pub alpha: f64,
    /// In entry order, finite.
    pub coefficients: Vec<f32>,
    pub entries: FileEntries,
}

/// A LoRA module: its file says all there is.
#[derive(Debug, Clone)]
pub(super) struct LoraModule {
    pub name: String,
    pub delta: LoraDelta,
}

impl Named for FourierModule {
    fn name(&self) -> &str {
        &self.name
    }
}

impl Named for LoraModule {
    fn name(&self) -> &str {
        &self.name
    }
}

impl FileModules {
    fn iter(&self) -> Box<dyn ExactSizeIterator<Item = &dyn Named> + '_> {
        match self {
            Self::Fourier(modules) => Box::new(modules.iter().map(|module| module as &dyn Named)),
            Self::Lora(modules) => Box::new(modules.iter().map(|module| module as &dyn Named)),
        }
    }

    /// Sorted, each named as a module can be and but once, at least one.
    fn checked(self) -> Result<Self, AdapterError> {
        fn check<M: Named>(mut modules: Vec<M>) -> Result<Vec<M>, AdapterError> {
            if modules.is_empty() {
                return Err(AdapterError::NoModules);
            }
            modules.iter().try_for_each(|module| check_name(module.name()))?;
            modules.sort_by(|a, b| a.name().cmp(b.name()));
            match modules.windows(2).find(|pair| pair[0].name() == pair[1].name()) {
                Some(pair) => Err(AdapterError::Duplicate { module: pair[0].name().to_owned() }),
                None => Ok(modules),
            }
        }
        Ok(match self {
            Self::Fourier(modules) => Self::Fourier(check(modules)?),
            Self::Lora(modules) => Self::Lora(check(modules)?),
        })
    }
}

/// A module's positions: how to draw them once the shape is known for certain, or the positions themselves.
#[derive(Debug, Clone)]
pub(super) enum FileEntries {
    Seeded { seed: u64 },
    Biased { seed: u64, center: f64, bandwidth: f64 },
    Listed(Arc<Entries>),
}

impl FileEntries {
    /// How to come by `entries` again.
    pub(super) fn of(entries: &Arc<Entries>) -> Self {
        match entries.source() {
            EntrySource::Seeded { seed } => Self::Seeded { seed },
            EntrySource::Biased { seed, center, bandwidth } => Self::Biased { seed, center, bandwidth },
            EntrySource::Explicit => Self::Listed(Arc::clone(entries)),
        }
    }

    pub(super) fn source(&self) -> EntrySource {
        match *self {
            Self::Seeded { seed } => EntrySource::Seeded { seed },
            Self::Biased { seed, center, bandwidth } => EntrySource::Biased { seed, center, bandwidth },
            Self::Listed(_) => EntrySource::Explicit,
        }
    }

    /// Whether the same number of entries in the same shape has the same positions in the same order.
    pub(super) fn same_draw(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Listed(a), Self::Listed(b)) => Arc::ptr_eq(a, b) || a.same_positions(b),
            _ => self.source() == other.source() && self.source() != EntrySource::Explicit,
        }
    }
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
    pub(super) fn new(modules: FileModules) -> Result<Self, AdapterError> {
        Ok(Self { modules: modules.checked()?, base: None, origin: Origin::default(), config: None })
    }

    /// The names of the modules, sorted.
    pub fn modules(&self) -> impl ExactSizeIterator<Item = &str> {
        self.modules.iter().map(Named::name)
    }

    /// `(outputs, inputs)` of a module, where the file says: a single file may, a PEFT directory does where it is of LoRA.
    pub fn shape_of(&self, module: &str) -> Option<(usize, usize)> {
        fn find<'a, M: Named>(modules: &'a [M], name: &str) -> Option<&'a M> {
            modules.binary_search_by(|known| known.name().cmp(name)).ok().map(|at| &modules[at])
        }
        let shape = match &self.modules {
            FileModules::Fourier(modules) => find(modules, module)?.shape?,
            FileModules::Lora(modules) => find(modules, module)?.delta.shape(),
        };
        Some((shape.rows(), shape.cols()))
    }

    /// The configuration of a PEFT directory.
    pub fn config(&self) -> Option<&PeftConfig> {
        self.config.as_deref()
    }

    /// What there is to tell about it without a model.
    pub fn summary(&self) -> AdapterSummary {
        let modules = match &self.modules {
            FileModules::Fourier(modules) => modules
                .iter()
                .map(|module| ModuleSummary {
                    name: module.name.clone(),
                    shape: module.shape.map(|shape| (shape.rows(), shape.cols())),
                    change: ChangeSummary::Fourier {
                        n: module.coefficients.len(),
                        alpha: module.alpha,
                        entries: module.entries.source(),
                    },
                })
                .collect(),
            FileModules::Lora(modules) => {
                modules.iter().map(|module| ModuleSummary::of_lora(&module.name, &module.delta)).collect()
            }
        };
        AdapterSummary::new(self.base.clone(), self.origin.base_model.clone(), modules)
    }

    /// The adapter, with `shape_of` giving each module's `(outputs, inputs)` in the model, `None` for one it lacks.
    ///
    /// Positions are drawn once per shape, number and seed, and shared through `cache`. A file that carries all its shapes
    /// needs no model: `file.resolve(&cache, |module| file.shape_of(module))`.
    ///
    /// # Errors
    /// [`AdapterError::UnknownModule`], [`AdapterError::ShapeMismatch`] or [`AdapterError::Entries`], each naming the
    /// module. Nothing is yielded unless every module fits.
    pub fn resolve(
        &self,
        cache: &PlanCache,
        shape_of: impl FnMut(&str) -> Option<(usize, usize)>,
    ) -> Result<Adapter, AdapterError> {
        self.resolve_with(&mut Plans::new(cache), shape_of)
    }

    /// [`resolve`](Self::resolve) with plans that may be at hand already.
    pub(super) fn resolve_with(
        &self,
        plans: &mut Plans<'_>,
        mut shape_of: impl FnMut(&str) -> Option<(usize, usize)>,
    ) -> Result<Adapter, AdapterError> {
        let mut shape_of = |name: &str| {
            let (rows, cols) = shape_of(name).ok_or_else(|| AdapterError::UnknownModule { module: name.to_owned() })?;
            Shape::new(rows, cols).map_err(|source| AdapterError::Entries { module: name.to_owned(), source })
        };
        let same = |name: &str, found: Shape, expected: Shape| match found == expected {
            true => Ok(()),
            false => Err(AdapterError::ShapeMismatch { module: name.to_owned(), found, expected }),
        };
        let mut resolved = Vec::with_capacity(self.modules.iter().len());
        match &self.modules {
            FileModules::Fourier(modules) => {
                for FourierModule { name, shape, alpha, coefficients, entries } in modules {
                    let refused = |source| AdapterError::Entries { module: name.clone(), source };
                    let expected = shape_of(name)?;
                    shape.map_or(Ok(()), |found| same(name, found, expected))?;
                    let plan = plans.get(expected, coefficients.len(), entries).map_err(refused)?;
                    let delta = FourierDelta::new(plan, coefficients, *alpha).map_err(refused)?;
                    resolved.push(Module { name: name.as_str().into(), delta: Arc::new(delta) });
                }
            }
            FileModules::Lora(modules) => {
                for LoraModule { name, delta } in modules {
                    same(name, delta.shape(), shape_of(name)?)?;
                    resolved.push(Module { name: name.as_str().into(), delta: Arc::new(delta.clone()) });
                }
            }
        }
        let mut adapter = Adapter::new(resolved)?.with_origin(self.origin.clone()).with_config(self.config.clone());
        if let Some(base) = &self.base {
            adapter = adapter.with_base(base.clone());
        }
        Ok(adapter)
    }

    /// `Σ weight · ΔW` over the files, module by module; a module only some of them have is changed by those.
    ///
    /// Where files draw a module's positions alike, coefficients add, whatever the shape. Where they do not, the result
    /// has the union of the positions, listed one by one, which takes the module's shape from one of the files. All
    /// modules of the result have the same α, the largest that went in. LoRA's factors are put beside each other, so that
    /// ranks add, with weights and scales in B.
    ///
    /// # Errors
    /// [`AdapterError::Mix`] for no files or a weight that is not finite; [`AdapterError::ShapeUnknown`] where a union
    /// is needed and no file carries the shape; [`AdapterError::MixedKinds`] for FourierFT and LoRA, which can only be run at
    /// once; [`AdapterError::BaseMismatch`] for files of different bases;
    /// [`AdapterError::ShapeMismatch`]; [`AdapterError::Entries`]; [`AdapterError::NonFinite`] where a sum overflows.
    pub fn mix(parts: &[(AdapterFile, f32)]) -> Result<AdapterFile, AdapterError> {
        mix::files(parts, &mut Plans::new(&PlanCache::new()))
    }

    /// Writes a directory that PEFT loads: `adapter_config.json` with every field of `FourierFTConfig` or
    /// `LoraConfig`, and `adapter_model.safetensors` with the numbers in f32, bit for bit. What came from such a directory keeps its
    /// configuration.
    ///
    /// A new directory appears whole or not at all; in an existing one each file is replaced whole, weights first.
    ///
    /// # Errors
    /// [`AdapterError::NotPeft`] where PEFT has no way to say it: entries that are not drawn from one seed, more
    /// than one α, ranks scaled in two ways; [`AdapterError::Io`].
    pub fn save_peft(&self, dir: &Path) -> Result<(), AdapterError> {
        peft::save(self, dir)
    }

    /// Writes a single `.safetensors` file with the numbers in f32, bit for bit, or in `f16`. Shapes are written
    /// where they are known.
    ///
    /// # Errors
    /// [`AdapterError::F16Range`]; [`AdapterError::Io`].
    pub fn save_single(&self, path: &Path, f16: bool) -> Result<(), AdapterError> {
        single::save(self, path, f16)
    }

    /// The bytes of a single file, which [`from_single_bytes`](Self::from_single_bytes) reads: for a place that is no file.
    ///
    /// # Errors
    /// As [`save_single`](Self::save_single), but for the file system's.
    pub fn to_single_bytes(&self, f16: bool) -> Result<Vec<u8>, AdapterError> {
        single::serialise(self, f16)
    }
}
