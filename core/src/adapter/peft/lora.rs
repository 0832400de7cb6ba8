//! LoRA's weights: `<module path>.lora_A.weight`, `[r, in]`, and `<module path>.lora_B.weight`, `[out, r]`.

use std::collections::HashSet;

use safetensors::SafeTensors;

use super::{PREFIX, common, module, selecting};
use crate::adapter::config::{LoraInit, LoraMethod};
use crate::adapter::file::LoraModule;
use crate::adapter::tensors::Tensor;
use crate::adapter::{AdapterError, AdapterFile, Delta, Method, PeftConfig, Selection, factors};

const A: &str = ".lora_A.weight";
const B: &str = ".lora_B.weight";

/// Tensors of methods within LoRA: what a name contains, and what it is of.
const METHODS: [(&str, &str); 4] = [
    (".lora_embedding_", "LoRA on an embedding"),
    (".lora_magnitude_vector", "DoRA"),
    (".lora_B.bias", "a bias of LoRA's own"),
    (".lora_diag", "KaSA"),
];

/// The modules that the tensors are of.
pub(super) fn parse(
    config: &PeftConfig,
    method: &LoraMethod,
    tensors: &SafeTensors<'_>,
) -> Result<Vec<LoraModule>, AdapterError> {
    let (selection, ranks, alphas) = (Selection::new(config)?, method.ranks()?, method.alphas()?);
    let mut modules = Vec::with_capacity(tensors.len() / 2);
    let mut without_a = HashSet::new();
    for (key, _) in tensors.iter() {
        if let Some(name) = module(&selection, key, A)? {
            let scale = method.scale(alphas.get(name)?);
            let delta = factors::read(tensors, [&format!("{PREFIX}{name}{A}"), &format!("{PREFIX}{name}{B}")], scale)?;
            let (found, expected) = (delta.rank(), ranks.get(name)?);
            if found != expected {
                return Err(AdapterError::RankMismatch { module: name.to_owned(), expected, found });
            }
            modules.push(LoraModule { name: name.to_owned(), delta });
        } else if let Some(name) = module(&selection, key, B)? {
            without_a.insert(name);
        } else if let Some((_, method)) = METHODS.iter().find(|(part, _)| key.contains(part)) {
            return Err(AdapterError::Method { name: key.to_owned(), method });
        } else {
            return Err(AdapterError::UnknownTensor { name: key.to_owned() });
        }
    }
    modules.iter().for_each(|module| _ = without_a.remove(module.name.as_str()));
    match without_a.into_iter().min() {
        None => Ok(modules),
        Some(name) => Err(AdapterError::MissingTensor { name: format!("{PREFIX}{name}{A}") }),
    }
}

/// The tensors of the modules.
pub(super) fn tensors(modules: &[LoraModule]) -> Vec<(String, Tensor)> {
    let factors = |LoraModule { name, delta }: &LoraModule| {
        let (shape, rank) = (delta.shape(), delta.rank());
        [
            (format!("{PREFIX}{name}{A}"), Tensor::f32(vec![rank, shape.cols()], delta.a())),
            (format!("{PREFIX}{name}{B}"), Tensor::f32(vec![shape.rows(), rank], &delta.b())),
        ]
    };
    modules.iter().flat_map(factors).collect()
}

/// The configuration that selects exactly these modules with their ranks and alphas.
pub(super) fn describe(file: &AdapterFile, modules: &[LoraModule]) -> Result<PeftConfig, AdapterError> {
    // A file has at least one module.
    let use_rslora = modules.first().ok_or(AdapterError::NoModules)?.delta.scale().rank_stabilized;
    if modules.iter().any(|module| module.delta.scale().rank_stabilized != use_rslora) {
        return Err(AdapterError::NotPeft("only some modules are rank-stabilized".to_owned()));
    }
    // PEFT takes a key for any ending of a name unless it says where the name begins.
    let keys = || modules.iter().map(|module| format!("^{}", module.name));
    let (r, rank_pattern) = common(modules.iter().map(|module| module.delta.rank()), keys(), 1);
    let (lora_alpha, alpha_pattern) = common(modules.iter().map(|module| module.delta.scale().alpha), keys(), 1.0);
    let (lora_dropout, init) = (0.0, LoraInit::Default);
    let own = LoraMethod { r, lora_alpha, use_rslora, rank_pattern, alpha_pattern, lora_dropout, init };
    let known = file.config.as_ref().map(|config| config.method.clone());
    let methods: Vec<Method> = known.into_iter().chain([Method::Lora(own)]).collect();
    selecting(file, modules, &methods, |config| fits(config, modules))
}

/// Whether the configuration gives every module its rank and its scale.
fn fits(config: &PeftConfig, modules: &[LoraModule]) -> Result<bool, AdapterError> {
    let Method::Lora(method) = &config.method else { return Ok(false) };
    let (ranks, alphas) = (method.ranks()?, method.alphas()?);
    for LoraModule { name, delta } in modules {
        if ranks.get(name)? != delta.rank() || method.scale(alphas.get(name)?) != delta.scale() {
            return Ok(false);
        }
    }
    Ok(true)
}
