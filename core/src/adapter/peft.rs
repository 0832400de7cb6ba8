//! A PEFT directory: `adapter_config.json` and `adapter_model.safetensors`.
//!
//! The weights are `base_model.model.<module path>.fourierft_spectrum`, one per module, `[n]`. Nothing else in the
//! directory is looked at, except to say that a pickle is not read.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use super::file::{FileEntries, FileModule};
use super::tensors::{self, Tensor};
use super::{Adapter, AdapterError, AdapterFile, FourierDelta, Names, Origin, PeftConfig, Selection, disk};
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
pub(super) fn save(adapter: &Adapter, dir: &Path) -> Result<(), AdapterError> {
    let modules = fourier_modules(adapter)?;
    let config = describe(adapter, &modules)?;
    let tensors =
        modules.iter().map(|(name, delta)| (format!("{PREFIX}{name}{SUFFIX}"), Tensor::f32(&delta.coefficients())));
    // PEFT's own writer marks its files so.
    let metadata = [("format".to_owned(), "pt".to_owned())].into();
    let weights = safetensors::serialize(tensors, Some(metadata)).map_err(AdapterError::Safetensors)?;
    disk::replace_folder(dir, &[(WEIGHTS, &weights), (CONFIG, config.to_json().as_bytes())])
}

/// The modules as FourierFT, or which of them is not.
fn fourier_modules(adapter: &Adapter) -> Result<Vec<(&str, &FourierDelta)>, AdapterError> {
    adapter
        .modules()
        .map(|(name, delta)| {
            let fourier = delta.as_fourier();
            fourier.map(|f| (name, f)).ok_or_else(|| AdapterError::NotPeft(format!("{name} is not FourierFT")))
        })
        .collect()
}

/// The configuration that selects exactly these modules with their seed, α and numbers of coefficients.
fn describe(adapter: &Adapter, modules: &[(&str, &FourierDelta)]) -> Result<PeftConfig, AdapterError> {
    let scaling = adapter.alpha().ok_or_else(|| AdapterError::NotPeft("modules differ in alpha".to_owned()))?;
    let mut seeds = modules.iter().map(|(name, delta)| match delta.entries().source() {
        EntrySource::Seeded { seed } => Ok(seed),
        other => Err(AdapterError::NotPeft(format!("the entries of {name} are not drawn by PEFT's rule: {other}"))),
    });
    // An adapter has at least one module.
    let first = seeds.next().unwrap_or(Err(AdapterError::NoModules))?;
    for seed in seeds {
        if seed? != first {
            return Err(AdapterError::NotPeft("modules differ in seed".to_owned()));
        }
    }
    if let Some(known) = adapter.config() {
        let kept = PeftConfig { scaling, random_loc_seed: first, ..PeftConfig::clone(known) };
        if fits(&kept, modules)? {
            return Ok(kept);
        }
    }
    let (n_frequency, n_frequency_pattern) = counts(modules);
    let config = PeftConfig {
        n_frequency,
        scaling,
        random_loc_seed: first,
        // Whole names: an ending could also target modules that are not in the adapter.
        target_modules: Names::List(modules.iter().map(|(name, _)| (*name).to_owned()).collect()),
        exclude_modules: None,
        fan_in_fan_out: false,
        layers_to_transform: None,
        layers_pattern: Vec::new(),
        n_frequency_pattern,
        init_weights: true,
        base_model: adapter.origin().base_model.clone(),
        task_type: adapter.origin().task_type.clone(),
    };
    if !fits(&config, modules)? {
        return Err(AdapterError::NotPeft("module names are ambiguous as patterns".to_owned()));
    }
    Ok(config)
}

/// The most common number of coefficients, and the modules that have another.
fn counts(modules: &[(&str, &FourierDelta)]) -> (usize, Vec<(String, usize)>) {
    let mut tally = BTreeMap::new();
    for (_, delta) in modules {
        *tally.entry(delta.entries().len()).or_insert(0usize) += 1;
    }
    let common = tally.iter().max_by_key(|(_, times)| **times).map_or(1, |(n, _)| *n);
    let others = modules.iter().map(|(name, delta)| ((*name).to_owned(), delta.entries().len()));
    (common, others.filter(|(_, n)| *n != common).collect())
}

/// Whether the configuration targets every module with its number of coefficients.
fn fits(config: &PeftConfig, modules: &[(&str, &FourierDelta)]) -> Result<bool, AdapterError> {
    let selection = Selection::new(config)?;
    for (name, delta) in modules {
        if !selection.selects(name)? || selection.n_frequency(name)? != delta.entries().len() {
            return Ok(false);
        }
    }
    Ok(true)
}
