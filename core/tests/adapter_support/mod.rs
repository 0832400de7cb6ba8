//! Shared by the tests of `adapter`: adapters in memory, and files made byte by byte.
// Each test takes what it needs, and one that includes two of these modules has the fixtures' place twice.
#![allow(dead_code, unused_imports, clippy::duplicate_mod)]

#[path = "../common/fixtures.rs"]
mod fixtures;

use std::sync::Arc;

use serde_json::{Map, Value, json};
use timbre::adapter::{Adapter, AdapterError, Delta, FourierDelta, Module};
use timbre::spectral::{Entries, Plan, PlanCache, Shape};

pub use fixtures::fixture_path as fixture;

/// Shapes of SmolLM2-135M's attention.
pub fn smollm2(module: &str) -> Option<(usize, usize)> {
    let layer: usize = module.strip_prefix("model.layers.")?.split('.').next()?.parse().ok()?;
    match module.rsplit('.').next()? {
        "q_proj" if layer < 30 => Some((576, 576)),
        "v_proj" if layer < 30 => Some((192, 576)),
        _ => None,
    }
}

/// Coefficients that differ in every place.
pub fn coefficients(n: usize, seed: u32) -> Vec<f32> {
    (0..n as u32)
        .map(|i| {
            (i.wrapping_mul(2_654_435_761u32.wrapping_add(seed.wrapping_mul(40_503))) as f32 / u32::MAX as f32) - 0.5
        })
        .collect()
}

pub fn shape(rows: usize, cols: usize) -> Shape {
    Shape::new(rows, cols).unwrap()
}

/// A FourierFT module.
pub fn module(name: &str, entries: Entries, c: &[f32], alpha: f64) -> Module {
    let plan = Arc::new(Plan::new(Arc::new(entries)));
    planned(name, plan, c, alpha)
}

pub fn planned(name: &str, plan: Arc<Plan>, c: &[f32], alpha: f64) -> Module {
    let delta: Arc<dyn Delta> = Arc::new(FourierDelta::new(plan, c, alpha).unwrap());
    Module { name: name.into(), delta }
}

/// An adapter of two seeded modules of different shapes.
pub fn seeded(cache: &PlanCache, n: usize, seed: u64, alpha: f64, salt: u32) -> Adapter {
    let q =
        planned("model.layers.0.q_proj", cache.seeded(shape(12, 10), n, seed).unwrap(), &coefficients(n, salt), alpha);
    let v = planned(
        "model.layers.0.v_proj",
        cache.seeded(shape(5, 10), n, seed).unwrap(),
        &coefficients(n, salt + 1),
        alpha,
    );
    Adapter::new(vec![q, v]).unwrap()
}

/// The failure without the file it happened in.
pub fn cause(error: AdapterError) -> AdapterError {
    match error {
        AdapterError::InFile { source, .. } => *source,
        other => other,
    }
}

/// A safetensors file: `(name, dtype, shape, data)`.
pub fn safetensors(metadata: Option<&str>, tensors: &[(&str, &str, Vec<usize>, Vec<u8>)]) -> Vec<u8> {
    let mut header = Map::new();
    if let Some(text) = metadata {
        header.insert("__metadata__".into(), json!({ "timbre": text }));
    }
    let mut data = Vec::new();
    for (name, dtype, shape, bytes) in tensors {
        let start = data.len();
        data.extend_from_slice(bytes);
        header.insert((*name).into(), json!({"dtype": dtype, "shape": shape, "data_offsets": [start, data.len()]}));
    }
    with_header(&Value::Object(header).to_string(), &data)
}

/// A safetensors file with this header, however false.
pub fn with_header(header: &str, data: &[u8]) -> Vec<u8> {
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend_from_slice(header.as_bytes());
    file.extend_from_slice(data);
    file
}

pub fn f32s(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

/// A PEFT spectrum's key.
pub fn key(module: &str) -> String {
    format!("base_model.model.{module}.fourierft_spectrum")
}

/// The weights of a PEFT directory: one F32 spectrum per module.
pub fn weights(modules: &[(&str, &[f32])]) -> Vec<u8> {
    let keys: Vec<String> = modules.iter().map(|(name, _)| key(name)).collect();
    let tensors: Vec<_> =
        keys.iter().zip(modules).map(|(key, (_, c))| (key.as_str(), "F32", vec![c.len()], f32s(c))).collect();
    safetensors(None, &tensors)
}

/// A configuration: PEFT's with `changes` applied.
pub fn config(changes: Value) -> Vec<u8> {
    let mut config = json!({
        "auto_mapping": null, "base_model_name_or_path": "base", "bias": "none", "exclude_modules": null,
        "fan_in_fan_out": false, "inference_mode": true, "init_weights": true, "layers_pattern": null,
        "layers_to_transform": null, "modules_to_save": null, "n_frequency": 4, "n_frequency_pattern": {},
        "peft_type": "FOURIERFT", "peft_version": "0.21.2", "random_loc_seed": 2024, "revision": null,
        "scaling": 300.0, "target_modules": ["q_proj", "v_proj"], "task_type": "CAUSAL_LM",
    });
    for (name, value) in changes.as_object().unwrap() {
        config[name] = value.clone();
    }
    config.to_string().into_bytes()
}
