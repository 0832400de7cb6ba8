//! FourierFT's weights: `<module path>.fourierft_spectrum`, one per module, `[n]`.

use safetensors::SafeTensors;

use super::{PREFIX, common, module, selecting};
use crate::adapter::config::FourierMethod;
use crate::adapter::file::{FileEntries, FourierModule};
use crate::adapter::tensors::{Tensor, coefficients};
use crate::adapter::{AdapterError, AdapterFile, Method, PeftConfig, Selection};
use crate::spectral::EntrySource;

const SUFFIX: &str = ".fourierft_spectrum";

/// The modules that the tensors are of.
pub(super) fn parse(
    config: &PeftConfig,
    method: &FourierMethod,
    tensors: &SafeTensors<'_>,
) -> Result<Vec<FourierModule>, AdapterError> {
    let (selection, counts) = (Selection::new(config)?, method.n_frequencies()?);
    let mut modules = Vec::with_capacity(tensors.len());
    for (key, view) in tensors.iter() {
        let module =
            module(&selection, key, SUFFIX)?.ok_or_else(|| AdapterError::UnknownTensor { name: key.to_owned() })?;
        let coefficients = coefficients(module, &view)?;
        let (found, expected) = (coefficients.len(), counts.get(module)?);
        if found != expected {
            return Err(AdapterError::Count { module: module.to_owned(), expected, found });
        }
        modules.push(FourierModule {
            name: module.to_owned(),
            shape: None,
            alpha: method.scaling,
            coefficients,
            entries: FileEntries::Seeded { seed: method.random_loc_seed },
        });
    }
    Ok(modules)
}

/// The tensors of the modules.
pub(super) fn tensors(modules: &[FourierModule]) -> Vec<(String, Tensor)> {
    let tensor = |module: &FourierModule| {
        let tensor = Tensor::f32(vec![module.coefficients.len()], &module.coefficients);
        (format!("{PREFIX}{}{SUFFIX}", module.name), tensor)
    };
    modules.iter().map(tensor).collect()
}

/// The configuration that selects exactly these modules with their seed, α and numbers of coefficients.
pub(super) fn describe(file: &AdapterFile, modules: &[FourierModule]) -> Result<PeftConfig, AdapterError> {
    // A file has at least one module.
    let first = modules.first().ok_or(AdapterError::NoModules)?;
    let (scaling, random_loc_seed) = (first.alpha, seed_of(first)?);
    for module in modules {
        if module.alpha != scaling {
            return Err(AdapterError::NotPeft("modules differ in alpha".to_owned()));
        }
        if seed_of(module)? != random_loc_seed {
            return Err(AdapterError::NotPeft("modules differ in seed".to_owned()));
        }
    }
    let numbers = modules.iter().map(|module| module.coefficients.len());
    let (n_frequency, n_frequency_pattern) = common(numbers, modules.iter().map(|module| module.name.clone()), 1);
    let own = FourierMethod { n_frequency, scaling, random_loc_seed, n_frequency_pattern, init_weights: true };
    let known = match file.config.as_ref().map(|config| &config.method) {
        Some(Method::Fourier(known)) => Some(FourierMethod { scaling, random_loc_seed, ..known.clone() }),
        _ => None,
    };
    let methods: Vec<Method> = known.into_iter().chain([own]).map(Method::Fourier).collect();
    selecting(file, modules, &methods, |config| fits(config, modules))
}

/// The seed that PEFT draws the module's positions from.
fn seed_of(module: &FourierModule) -> Result<u64, AdapterError> {
    let name = &module.name;
    match module.entries.source() {
        EntrySource::Seeded { seed } => Ok(seed),
        other => Err(AdapterError::NotPeft(format!("the entries of {name} are not drawn by PEFT's rule: {other}"))),
    }
}

/// Whether the configuration gives every module its number of coefficients.
fn fits(config: &PeftConfig, modules: &[FourierModule]) -> Result<bool, AdapterError> {
    let Method::Fourier(method) = &config.method else { return Ok(false) };
    let counts = method.n_frequencies()?;
    for FourierModule { name, coefficients, .. } in modules {
        if counts.get(name)? != coefficients.len() {
            return Ok(false);
        }
    }
    Ok(true)
}
