//! FourierFT's description.
//!
//! `entries` is a list of position sets, each with `out`, `in`, `n` and one of `{"source":"seeded","seed"}` (PEFT's rule),
//! `{"source":"biased","seed","center","bandwidth"}` (the paper's Eq. 5) or `{"source":"explicit"}`, whose positions are the tensor
//! `entries.<index>`, `[2, n]` of U32 or I32, rows then columns. `out` and `in`, the shape of the weights, go together; drawn
//! positions may lack them, and then the base model has to give the shape before they are drawn, as with PEFT. Where they
//! stand they must be the model's. `modules` is a list of `{"name","entries","alpha"}` where `entries` is an index into that list, and
//! each module's coefficients are the tensor `<name>.spectrum`, `[n]` of F32, F16 or BF16, in the order of the positions.
//! So a file with all its shapes needs neither a model nor a PEFT configuration.

use std::collections::HashSet;
use std::sync::Arc;

use safetensors::SafeTensors;
use serde::{Deserialize, Serialize};

use super::{Described, VERSION, Written, check_alpha, inconsistent, tensor};
use crate::adapter::file::{FileEntries, FileModules, FourierModule};
use crate::adapter::tensors::{self, Tensor};
use crate::adapter::value::check_name;
use crate::adapter::{AdapterError, AdapterFile, Origin};
use crate::spectral::{Entries, EntrySource, Shape};

pub(super) const KIND: &str = "fourier";

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    version: u64,
    kind: String,
    base: Option<String>,
    base_model: Option<String>,
    task_type: Option<String>,
    entries: Vec<EntrySet>,
    modules: Vec<ModuleRecord>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct EntrySet {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    out: Option<usize>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    r#in: Option<usize>,
    n: usize,
    source: SourceName,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    seed: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    center: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    bandwidth: Option<f64>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum SourceName {
    Seeded,
    Biased,
    Explicit,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ModuleRecord {
    name: String,
    entries: usize,
    alpha: f64,
}

/// What the description says.
pub(super) fn parse(text: &str, tensors: &SafeTensors<'_>) -> Result<Described, AdapterError> {
    let header: Header = serde_json::from_str(text).map_err(AdapterError::Json)?;
    // What the description accounts for; the rest does not belong here.
    let mut used = HashSet::new();
    let mut sets = Vec::with_capacity(header.entries.len());
    for (index, set) in header.entries.iter().enumerate() {
        let name = entries_tensor(index);
        sets.push(read_entries(set, &name, tensors)?);
        if matches!(set.source, SourceName::Explicit) {
            used.insert(name);
        }
    }
    let mut referenced = vec![false; sets.len()];
    let mut modules = Vec::with_capacity(header.modules.len());
    for record in &header.modules {
        check_name(&record.name)?;
        let unknown = || inconsistent(format!("{} has entries {}, of {}", record.name, record.entries, sets.len()));
        let (shape, n, entries) = sets.get(record.entries).ok_or_else(unknown)?;
        referenced[record.entries] = true;
        check_alpha(&record.name, record.alpha)?;
        let name = spectrum_tensor(&record.name);
        let view = tensors.tensor(&name).map_err(|_| AdapterError::MissingTensor { name: name.clone() })?;
        let coefficients = tensors::coefficients(&record.name, &view)?;
        if coefficients.len() != *n {
            let (module, found) = (record.name.clone(), coefficients.len());
            return Err(AdapterError::Count { module, expected: *n, found });
        }
        used.insert(name);
        modules.push(FourierModule {
            name: record.name.clone(),
            shape: *shape,
            alpha: record.alpha,
            coefficients,
            entries: entries.clone(),
        });
    }
    if let Some(index) = referenced.iter().position(|referenced| !referenced) {
        return Err(inconsistent(format!("no module has entries {index}")));
    }
    let origin = Origin { base_model: header.base_model, task_type: header.task_type };
    Ok(Described { modules: FileModules::Fourier(modules), base: header.base, origin, used })
}

/// A position set's shape, size and entries. Drawn ones are not drawn yet: a file's shape is not yet a model's.
fn read_entries(
    set: &EntrySet,
    name: &str,
    tensors: &SafeTensors<'_>,
) -> Result<(Option<Shape>, usize, FileEntries), AdapterError> {
    let refused = |source| AdapterError::Entries { module: name.to_owned(), source };
    let shape = match (set.out, set.r#in) {
        (Some(out), Some(r#in)) => Some(Shape::new(out, r#in).map_err(refused)?),
        (None, None) => None,
        _ => return Err(inconsistent(format!("{name}: out and in do not go without each other"))),
    };
    if set.n == 0 {
        return Err(inconsistent(format!("{name}: n is 0")));
    }
    let entries = match (&set.source, set.seed, set.center, set.bandwidth) {
        (SourceName::Seeded, Some(seed), None, None) => FileEntries::Seeded { seed },
        (SourceName::Biased, Some(seed), Some(center), Some(bandwidth)) => {
            FileEntries::Biased { seed, center, bandwidth }
        }
        (SourceName::Explicit, None, None, None) => {
            let shape = shape.ok_or_else(|| inconsistent(format!("{name}: explicit entries need out and in")))?;
            let view = tensors.tensor(name).map_err(|_| AdapterError::MissingTensor { name: name.to_owned() })?;
            let (rows, cols) = tensors::positions(name, &view)?;
            let entries = Entries::explicit(shape, rows, cols).map_err(refused)?;
            if entries.len() != set.n {
                return Err(inconsistent(format!("{name} lists {} positions, n is {}", entries.len(), set.n)));
            }
            FileEntries::Listed(Arc::new(entries))
        }
        _ => return Err(inconsistent(format!("{name}: seed, center and bandwidth do not go with its source"))),
    };
    Ok((shape, set.n, entries))
}

/// The description of a file's modules.
pub(super) fn describe(file: &AdapterFile, modules: &[FourierModule], f16: bool) -> Result<Written, AdapterError> {
    // The first module with each set of positions.
    let mut sets: Vec<&FourierModule> = Vec::new();
    let mut records = Vec::with_capacity(modules.len());
    let mut tensors = Vec::with_capacity(modules.len());
    for module in modules {
        let (name, coefficients) = (&module.name, &module.coefficients);
        let same = |set: &&FourierModule| {
            set.shape == module.shape
                && set.coefficients.len() == coefficients.len()
                && set.entries.same_draw(&module.entries)
        };
        let entries = sets.iter().position(same).unwrap_or(sets.len());
        if entries == sets.len() {
            sets.push(module);
        }
        let tensor = tensor(name, vec![coefficients.len()], coefficients, f16)?;
        tensors.push((spectrum_tensor(name), tensor));
        records.push(ModuleRecord { name: name.clone(), entries, alpha: module.alpha });
    }
    for (index, set) in sets.iter().enumerate() {
        if let FileEntries::Listed(entries) = &set.entries {
            tensors.push((entries_tensor(index), Tensor::positions(entries.rows(), entries.cols())));
        }
    }
    let header = Header {
        version: VERSION,
        kind: KIND.to_owned(),
        base: file.base.clone(),
        base_model: file.origin.base_model.clone(),
        task_type: file.origin.task_type.clone(),
        entries: sets.into_iter().map(entry_set).collect(),
        modules: records,
    };
    Ok((serde_json::to_string(&header).map_err(AdapterError::Json)?, tensors))
}

fn entry_set(module: &FourierModule) -> EntrySet {
    let (out, r#in) = module.shape.map(|shape| (shape.rows(), shape.cols())).unzip();
    let n = module.coefficients.len();
    let set = |source, seed, center, bandwidth| EntrySet { out, r#in, n, source, seed, center, bandwidth };
    match module.entries.source() {
        EntrySource::Seeded { seed } => set(SourceName::Seeded, Some(seed), None, None),
        EntrySource::Biased { seed, center, bandwidth } => {
            set(SourceName::Biased, Some(seed), Some(center), Some(bandwidth))
        }
        EntrySource::Explicit => set(SourceName::Explicit, None, None, None),
    }
}

fn spectrum_tensor(module: &str) -> String {
    format!("{module}.spectrum")
}

fn entries_tensor(index: usize) -> String {
    format!("entries.{index}")
}
