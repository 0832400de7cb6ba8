//! A PEFT directory: `adapter_config.json` and `adapter_model.safetensors`.
//!
//! The weights are `base_model.model.<module path>.fourierft_spectrum`, one per module, `[n]`. Nothing else in the
//! directory is looked at, except to say that a pickle is not read.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use super::file::{FileEntries, FileModule};
use super::tensors::{self, Tensor};
use super::{AdapterError, AdapterFile, Names, Origin, PeftConfig, Selection, disk};
use crate::spectral::EntrySource;

const CONFIG: &str = "adapter_config.json";
const WEIGHTS: &str = "adapter_model.safetensors";
const PICKLE: &str = "adapter_model.bin";
const PREFIX: &str = "base_model.model.";
const SUFFIX: &str = ".fourierft_spectrum";

/// Caps on what is read: a configuration with every module named takes tens of KB, a large adapter tens of MB.
const MAX_CONFIG: u64 = 1 << 20;
pub(super) const MAX_WEIGHTS: u64 = 1 << 30;

/// Reads a directory.
pub(super) fn load(dir: &Path) -> Result<AdapterFile, AdapterError> {
    let missing = |file: &'static str| AdapterError::Missing { file }.in_file(dir);
    let config_path = dir.join(CONFIG);
    if !config_path.exists() {
        return Err(missing(CONFIG));
    }
    let config = config(&disk::read(&config_path, MAX_CONFIG)?).map_err(|e| e.in_file(&config_path))?;
    let weights_path = dir.join(WEIGHTS);
    if !weights_path.exists() {
        let pickle = dir.join(PICKLE);
        return Err(if pickle.exists() { AdapterError::Pickle.in_file(&pickle) } else { missing(WEIGHTS) });
    }
    parse(&config, &disk::read(&weights_path, MAX_WEIGHTS)?).map_err(|e| e.in_file(&weights_path))
}

/// Reads a configuration.
pub(super) fn config(bytes: &[u8]) -> Result<Arc<PeftConfig>, AdapterError> {
    PeftConfig::from_json(bytes).map(Arc::new)
}

/// Reads the weights that go with a configuration.
pub(super) fn parse(config: &Arc<PeftConfig>, weights: &[u8]) -> Result<AdapterFile, AdapterError> {
    let selection = Selection::new(config)?;
    let tensors = tensors::parse(weights)?;
    let mut modules = Vec::with_capacity(tensors.len());
    for (key, view) in tensors.iter() {
        let module = key
            .strip_prefix(PREFIX)
            .and_then(|rest| rest.strip_suffix(SUFFIX))
            .ok_or_else(|| AdapterError::UnknownTensor { name: key.to_owned() })?;
        super::value::check_name(module)?;
        if !selection.selects(module)? {
            return Err(AdapterError::NotTargeted { module: module.to_owned() });
        }
        let coefficients = tensors::coefficients(module, &view)?;
        let (found, expected) = (coefficients.len(), selection.n_frequency(module)?);
        if found != expected {
            return Err(AdapterError::Count { module: module.to_owned(), expected, found });
        }
        modules.push(FileModule {
            name: module.to_owned(),
            shape: None,
            alpha: config.scaling,
            coefficients,
            entries: FileEntries::Seeded { seed: config.random_loc_seed },
        });
    }
    let mut file = AdapterFile::new(modules)?;
    file.origin = Origin { base_model: config.base_model.clone(), task_type: config.task_type.clone() };
    file.config = Some(Arc::clone(config));
    Ok(file)
}

/// Writes a directory.
pub(super) fn save(file: &AdapterFile, dir: &Path) -> Result<(), AdapterError> {
    let config = describe(file)?;
    let spectrum =
        |module: &FileModule| (format!("{PREFIX}{}{SUFFIX}", module.name), Tensor::f32(&module.coefficients));
    let tensors = file.modules.iter().map(spectrum);
    // PEFT's own writer marks its files so.
    let metadata = [("format".to_owned(), "pt".to_owned())].into();
    let weights = safetensors::serialize(tensors, Some(metadata)).map_err(AdapterError::Safetensors)?;
    disk::replace_folder(dir, &[(WEIGHTS, &weights), (CONFIG, config.to_json().as_bytes())])
}

/// The configuration that selects exactly these modules with their seed, α and numbers of coefficients.
pub(super) fn describe(file: &AdapterFile) -> Result<PeftConfig, AdapterError> {
    let modules = &file.modules;
    // A file has at least one module.
    let first = modules.first().ok_or(AdapterError::NoModules)?;
    let seed = seed_of(first)?;
    for module in modules {
        if module.alpha != first.alpha {
            return Err(AdapterError::NotPeft("modules differ in alpha".to_owned()));
        }
        if seed_of(module)? != seed {
            return Err(AdapterError::NotPeft("modules differ in seed".to_owned()));
        }
    }
    if let Some(known) = &file.config {
        let kept = PeftConfig { scaling: first.alpha, random_loc_seed: seed, ..PeftConfig::clone(known) };
        if fits(&kept, modules)? {
            return Ok(kept);
        }
    }
    let (n_frequency, n_frequency_pattern) = counts(modules);
    let config = PeftConfig {
        n_frequency,
        scaling: first.alpha,
        random_loc_seed: seed,
        // Whole names: an ending could also target modules that are not in the adapter.
        target_modules: Names::List(modules.iter().map(|module| module.name.clone()).collect()),
        exclude_modules: None,
        fan_in_fan_out: false,
        layers_to_transform: None,
        layers_pattern: Vec::new(),
        n_frequency_pattern,
        init_weights: true,
        base_model: file.origin.base_model.clone(),
        task_type: file.origin.task_type.clone(),
    };
    if !fits(&config, modules)? {
        return Err(AdapterError::NotPeft("module names are ambiguous as patterns".to_owned()));
    }
    Ok(config)
}

/// The seed that PEFT draws the module's positions from.
fn seed_of(module: &FileModule) -> Result<u64, AdapterError> {
    let name = &module.name;
    match module.entries.source() {
        EntrySource::Seeded { seed } => Ok(seed),
        other => Err(AdapterError::NotPeft(format!("the entries of {name} are not drawn by PEFT's rule: {other}"))),
    }
}

/// The most common number of coefficients, and the modules that have another.
fn counts(modules: &[FileModule]) -> (usize, Vec<(String, usize)>) {
    let mut tally = BTreeMap::new();
    for module in modules {
        *tally.entry(module.coefficients.len()).or_insert(0usize) += 1;
    }
    let common = tally.iter().max_by_key(|(_, times)| **times).map_or(1, |(n, _)| *n);
    let others = modules.iter().map(|module| (module.name.clone(), module.coefficients.len()));
    (common, others.filter(|(_, n)| *n != common).collect())
}

/// Whether the configuration targets every module with its number of coefficients.
fn fits(config: &PeftConfig, modules: &[FileModule]) -> Result<bool, AdapterError> {
    let selection = Selection::new(config)?;
    for FileModule { name, coefficients, .. } in modules {
        if !selection.selects(name)? || selection.n_frequency(name)? != coefficients.len() {
            return Ok(false);
        }
    }
    Ok(true)
}
