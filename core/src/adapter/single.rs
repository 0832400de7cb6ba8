//! An adapter in one `.safetensors` file.
//!
//! The container's `__metadata__` has one key, `timbre`, whose value is a JSON object: `version` (1), `kind` (`"fourier"` or
//! `"lora"`), `base` (the base model's fingerprint or null), `base_model` and `task_type` (names or null), and what the kind
//! says of its `modules`, see [`fourier`] and [`lora`]. Everything must be used, nothing may be missing, no field may be
//! unknown: a file that says less or more than this is refused whole.

mod fourier;
mod lora;

use std::collections::HashSet;
use std::path::Path;

use safetensors::SafeTensors;
use serde::Deserialize;

use super::file::FileModules;
use super::peft::MAX_WEIGHTS;
use super::tensors::{self, Tensor};
use super::{AdapterError, AdapterFile, Origin, disk};

const KEY: &str = "timbre";
const VERSION: u64 = 1;

/// Read first, so that a newer file is refused for its version and not for a field.
#[derive(Deserialize)]
struct Preamble {
    version: u64,
    kind: String,
}

/// What a description says of a file: its modules, where it comes from, and the tensors that it accounts for.
struct Described {
    modules: FileModules,
    base: Option<String>,
    origin: Origin,
    used: HashSet<String>,
}

/// Reads a file.
pub(super) fn load(path: &Path) -> Result<AdapterFile, AdapterError> {
    parse(&disk::read(path, MAX_WEIGHTS)?).map_err(|e| e.in_file(path))
}

/// Reads a file's bytes.
pub(super) fn parse(bytes: &[u8]) -> Result<AdapterFile, AdapterError> {
    tensors::check_header(bytes)?;
    let (_, metadata) = SafeTensors::read_metadata(bytes).map_err(AdapterError::Safetensors)?;
    let text = metadata.metadata().as_ref().and_then(|m| m.get(KEY)).ok_or(AdapterError::NotAnAdapter)?;
    let preamble: Preamble = serde_json::from_str(text).map_err(AdapterError::Json)?;
    if preamble.version != VERSION {
        return Err(AdapterError::Version { found: preamble.version, expected: VERSION });
    }
    let read: fn(&str, &SafeTensors<'_>) -> Result<Described, AdapterError> = match preamble.kind.as_str() {
        fourier::KIND => fourier::parse,
        lora::KIND => lora::parse,
        _ => return Err(AdapterError::Unsupported { field: "kind".to_owned(), found: preamble.kind }),
    };
    let tensors = tensors::parse(bytes)?;
    let described = read(text, &tensors)?;
    if let Some(name) = tensors.names().into_iter().find(|name| !described.used.contains(*name)) {
        return Err(AdapterError::UnknownTensor { name: name.to_owned() });
    }
    let mut file = AdapterFile::new(described.modules)?;
    (file.base, file.origin) = (described.base, described.origin);
    Ok(file)
}

/// Writes a file.
pub(super) fn save(file: &AdapterFile, path: &Path, f16: bool) -> Result<(), AdapterError> {
    disk::replace(path, &serialise(file, f16)?)
}

/// A file's bytes.
pub(super) fn serialise(file: &AdapterFile, f16: bool) -> Result<Vec<u8>, AdapterError> {
    let (header, tensors) = match &file.modules {
        FileModules::Fourier(modules) => fourier::describe(file, modules, f16)?,
        FileModules::Lora(modules) => lora::describe(file, modules, f16)?,
    };
    safetensors::serialize(tensors, Some([(KEY.to_owned(), header)].into())).map_err(AdapterError::Safetensors)
}

/// A description, and the tensors that go with it.
type Written = (String, Vec<(String, Tensor)>);

/// Numbers in f32 or in f16.
fn tensor(name: &str, shape: Vec<usize>, values: &[f32], f16: bool) -> Result<Tensor, AdapterError> {
    if f16 { Tensor::f16(name, shape, values) } else { Ok(Tensor::f32(shape, values)) }
}

fn check_alpha(name: &str, alpha: f64) -> Result<(), AdapterError> {
    match alpha.is_finite() {
        true => Ok(()),
        false => Err(inconsistent(format!("{name} has alpha {alpha}"))),
    }
}

fn inconsistent(what: String) -> AdapterError {
    AdapterError::Inconsistent(what)
}
