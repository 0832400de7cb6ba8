//! LoRA's description.
//!
//! `modules` is a list of `{"name","alpha","rank_stabilized"}`: alpha over the rank is the scale, or over the rank's root where it is
//! rank-stabilized. A module's factors are the tensors `<name>.lora_A`, `[rank, in]`, and `<name>.lora_B`, `[out, rank]`, of F32,
//! F16 or BF16; their shapes are the module's and its rank.

use std::collections::HashSet;

use safetensors::SafeTensors;
use serde::{Deserialize, Serialize};

use super::{Described, VERSION, Written, check_alpha, tensor};
use crate::adapter::file::{FileModules, LoraModule};
use crate::adapter::value::check_name;
use crate::adapter::{AdapterError, AdapterFile, Delta, LoraScale, Origin, factors};

pub(super) const KIND: &str = "lora";

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    version: u64,
    kind: String,
    base: Option<String>,
    base_model: Option<String>,
    task_type: Option<String>,
    modules: Vec<ModuleRecord>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ModuleRecord {
    name: String,
    alpha: f64,
    rank_stabilized: bool,
}

/// What the description says.
pub(super) fn parse(text: &str, tensors: &SafeTensors<'_>) -> Result<Described, AdapterError> {
    let header: Header = serde_json::from_str(text).map_err(AdapterError::Json)?;
    let mut used = HashSet::new();
    let mut modules = Vec::with_capacity(header.modules.len());
    for ModuleRecord { name, alpha, rank_stabilized } in header.modules {
        check_name(&name)?;
        check_alpha(&name, alpha)?;
        let [a, b] = factor_tensors(&name);
        let delta = factors::read(tensors, [&a, &b], LoraScale { alpha, rank_stabilized })?;
        used.extend([a, b]);
        modules.push(LoraModule { name, delta });
    }
    let origin = Origin { base_model: header.base_model, task_type: header.task_type };
    Ok(Described { modules: FileModules::Lora(modules), base: header.base, origin, used })
}

/// The description of a file's modules.
pub(super) fn describe(file: &AdapterFile, modules: &[LoraModule], f16: bool) -> Result<Written, AdapterError> {
    let mut records = Vec::with_capacity(modules.len());
    let mut tensors = Vec::with_capacity(2 * modules.len());
    for LoraModule { name, delta } in modules {
        let (shape, rank, scale) = (delta.shape(), delta.rank(), delta.scale());
        let [a, b] = factor_tensors(name);
        let (in_a, in_b) = (vec![rank, shape.cols()], vec![shape.rows(), rank]);
        let written = [tensor(&a, in_a, delta.a(), f16)?, tensor(&b, in_b, &delta.b(), f16)?];
        tensors.extend([a, b].into_iter().zip(written));
        let LoraScale { alpha, rank_stabilized } = scale;
        records.push(ModuleRecord { name: name.clone(), alpha, rank_stabilized });
    }
    let header = Header {
        version: VERSION,
        kind: KIND.to_owned(),
        base: file.base.clone(),
        base_model: file.origin.base_model.clone(),
        task_type: file.origin.task_type.clone(),
        modules: records,
    };
    Ok((serde_json::to_string(&header).map_err(AdapterError::Json)?, tensors))
}

fn factor_tensors(module: &str) -> [String; 2] {
    ["A", "B"].map(|factor| format!("{module}.lora_{factor}"))
}
