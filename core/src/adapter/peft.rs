//! A PEFT directory: `adapter_config.json` and `adapter_model.safetensors`.
//!
//! The weights are `base_model.model.<module path>.` and what the method calls its own. Nothing else in the directory is looked
//! at, except to say that a pickle is not read.

mod fourier;
mod lora;

use std::path::Path;
use std::sync::Arc;

use super::file::{FileModules, Named};
use super::tensors;
use super::value::check_name;
use super::{AdapterError, AdapterFile, Method, Names, Origin, PeftConfig, Selection, disk};

const CONFIG: &str = "adapter_config.json";
const WEIGHTS: &str = "adapter_model.safetensors";
const PICKLE: &str = "adapter_model.bin";
const PREFIX: &str = "base_model.model.";

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
    let tensors = tensors::parse(weights)?;
    let modules = match &config.method {
        Method::Fourier(method) => FileModules::Fourier(fourier::parse(config, method, &tensors)?),
        Method::Lora(method) => FileModules::Lora(lora::parse(config, method, &tensors)?),
    };
    let mut file = AdapterFile::new(modules)?;
    file.origin = Origin { base_model: config.base_model.clone(), task_type: config.task_type.clone() };
    file.config = Some(Arc::clone(config));
    Ok(file)
}

/// The module that a tensor named like this belongs to, which the configuration has to target.
fn module<'a>(selection: &Selection<'_>, key: &'a str, suffix: &str) -> Result<Option<&'a str>, AdapterError> {
    let Some(module) = key.strip_prefix(PREFIX).and_then(|rest| rest.strip_suffix(suffix)) else { return Ok(None) };
    check_name(module)?;
    match selection.selects(module)? {
        true => Ok(Some(module)),
        false => Err(AdapterError::NotTargeted { module: module.to_owned() }),
    }
}

/// The configuration that goes with a file.
pub(super) fn describe(file: &AdapterFile) -> Result<PeftConfig, AdapterError> {
    match &file.modules {
        FileModules::Fourier(modules) => fourier::describe(file, modules),
        FileModules::Lora(modules) => lora::describe(file, modules),
    }
}

/// Writes a directory.
pub(super) fn save(file: &AdapterFile, dir: &Path) -> Result<(), AdapterError> {
    let config = describe(file)?;
    let tensors = match &file.modules {
        FileModules::Fourier(modules) => fourier::tensors(modules),
        FileModules::Lora(modules) => lora::tensors(modules),
    };
    // PEFT's own writer marks its files so.
    let metadata = [("format".to_owned(), "pt".to_owned())].into();
    let weights = safetensors::serialize(tensors, Some(metadata)).map_err(AdapterError::Safetensors)?;
    disk::replace_folder(dir, &[(WEIGHTS, &weights), (CONFIG, config.to_json().as_bytes())])
}

/// The configuration that selects exactly these modules: the one they came with, if it still `fits` with this method's numbers,
/// or one that names them.
fn selecting<M: Named>(
    file: &AdapterFile,
    modules: &[M],
    methods: &[Method],
    fits: impl Fn(&PeftConfig) -> Result<bool, AdapterError>,
) -> Result<PeftConfig, AdapterError> {
    let named = PeftConfig {
        // A place for the method only: every candidate has its own.
        method: methods.last().ok_or(AdapterError::NoModules)?.clone(),
        // Whole names: an ending could also target modules that are not in the adapter.
        target_modules: Names::List(modules.iter().map(|module| module.name().to_owned()).collect()),
        exclude_modules: None,
        fan_in_fan_out: false,
        layers_to_transform: None,
        layers_pattern: Vec::new(),
        base_model: file.origin.base_model.clone(),
        task_type: file.origin.task_type.clone(),
    };
    for known in file.config.as_deref().into_iter().chain([&named]) {
        let selection = Selection::new(known)?;
        let selects = modules.iter().try_fold(true, |all, module| Ok(all && selection.selects(module.name())?));
        if !selects? {
            continue;
        }
        for method in methods {
            let config = PeftConfig { method: method.clone(), ..known.clone() };
            if fits(&config)? {
                return Ok(config);
            }
        }
    }
    Err(AdapterError::NotPeft("module names are ambiguous as patterns".to_owned()))
}

/// The most common number, and the other numbers, each with its name.
fn common<T: Copy + PartialEq>(
    numbers: impl Iterator<Item = T>,
    names: impl Iterator<Item = String>,
    otherwise: T,
) -> (T, Vec<(String, T)>) {
    let numbers: Vec<T> = numbers.collect();
    let mut tally: Vec<(T, usize)> = Vec::new();
    for number in &numbers {
        match tally.iter_mut().find(|(known, _)| known == number) {
            Some((_, times)) => *times += 1,
            None => tally.push((*number, 1)),
        }
    }
    let common = tally.iter().max_by_key(|(_, times)| *times).map_or(otherwise, |(number, _)| *number);
    let others = names.zip(numbers).filter(|(_, number)| *number != common);
    (common, others.collect())
}
