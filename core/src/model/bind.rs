//! Adapters bound to a model: module names turned into places in the decoder, everything checked, nothing copied.

use std::ops::Range;
use std::sync::{Arc, Weak};

use crate::adapter::{Adapter, AdapterError, Delta};
use crate::gguf::Gguf;
use crate::spectral::Transforms;

use super::weights::LinearKind;
use super::{Decoder, ModelError};

/// Missing modules named in an error; an adapter for another model would list hundreds.
const NAMED_MISSING: usize = 4;

/// What a Hugging Face wrapper calls the parts of a decoder.
struct Wrapper {
    /// What stands before a layer's number.
    layers: &'static str,
    /// The output head.
    head: &'static str,
}

/// Causal models, and Gemma 3 inside its multimodal wrapper, by its present and its former names.
const WRAPPERS: [Wrapper; 3] = [
    Wrapper { layers: "model.layers.", head: "lm_head" },
    Wrapper { layers: "model.language_model.layers.", head: "lm_head" },
    Wrapper { layers: "language_model.model.layers.", head: "language_model.lm_head" },
];

/// The layer and linear a Hugging Face module path names, `model.layers.3.self_attn.q_proj` for one.
pub(super) fn parse_module(module: &str) -> Option<(usize, LinearKind)> {
    let rest = WRAPPERS.iter().find_map(|w| module.strip_prefix(w.layers))?;
    let (layer, name) = rest.split_once('.')?;
    let kind = LinearKind::ALL.into_iter().find(|k| k.hf_name() == name)?;
    // `parse` alone would take a sign.
    let layer = layer.bytes().all(|b| b.is_ascii_digit()).then(|| layer.parse().ok())??;
    Some((layer, kind))
}

/// Every linear that a PEFT configuration could target in a decoder of `layers` layers, by the names of the wrappers that
/// the adapter's own modules are in.
fn candidates(adapter: &Adapter, layers: usize) -> Vec<String> {
    let uses = |w: &&Wrapper| adapter.modules().any(|(module, _)| module.starts_with(w.layers));
    let mut names = Vec::new();
    for wrapper in WRAPPERS.iter().filter(uses) {
        for layer in 0..layers {
            names.extend(LinearKind::ALL.map(|kind| format!("{}{layer}.{}", wrapper.layers, kind.hf_name())));
        }
        names.push(wrapper.head.to_owned());
    }
    names
}

/// An adapter and where each of its deltas goes in one model. Immutable; a running generation keeps its `Arc`.
pub struct BoundAdapter {
    adapter: Arc<Adapter>,
    name: String,
    /// The model's file: an adapter that is kept does not keep the model.
    base: Weak<Gguf>,
    /// Per layer, by `LinearKind`.
    layers: Vec<[Option<Arc<dyn Delta>>; LinearKind::ALL.len()]>,
    /// Where each delta's parameters begin among all of them, likewise.
    offsets: Vec<[usize; LinearKind::ALL.len()]>,
    modules: usize,
    parameters: usize,
}

impl std::fmt::Debug for BoundAdapter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BoundAdapter").field("name", &self.name).field("modules", &self.modules).finish()
    }
}

impl BoundAdapter {
    /// Binds whole or not at all.
    pub(super) fn new(
        adapter: Arc<Adapter>,
        name: String,
        decoder: &Decoder,
        base: &Arc<Gguf>,
        transforms: &Transforms,
    ) -> Result<Self, ModelError> {
        // The fingerprint touches pages all over the file, so that nobody asks for it who need not.
        if adapter.base().is_some() {
            adapter.check_base(base.fingerprint())?;
        }
        let mut layers = vec![[const { None }; LinearKind::ALL.len()]; decoder.layers.len()];
        let mut offsets = vec![[0; LinearKind::ALL.len()]; decoder.layers.len()];
        let (mut matched, mut total, mut missing, mut parameters) = (0, 0, Vec::new(), 0);
        for (module, delta) in adapter.modules() {
            total += 1;
            let place = parse_module(module).and_then(|(i, kind)| Some((i, kind, decoder.linear(i, kind)?)));
            let Some((layer, kind, linear)) = place else {
                missing.push(module.to_owned());
                continue;
            };
            let (expected, found) = (linear.shape(), (delta.shape().rows(), delta.shape().cols()));
            if found != expected {
                return Err(ModelError::ModuleShape { adapter: name, module: module.into(), expected, found });
            }
            matched += 1;
            offsets[layer][kind as usize] = parameters;
            parameters += delta.parameters();
            delta.prepare_rows(transforms);
            if layers[layer][kind as usize].replace(delta.clone()).is_some() {
                // The same linear by the names of two wrappers: neither change may silently win.
                return Err(AdapterError::Duplicate { module: module.to_owned() }.into());
            }
        }
        if matched == 0 || !missing.is_empty() {
            missing.truncate(NAMED_MISSING);
            return Err(ModelError::Modules { adapter: name, matched, total, missing });
        }
        let mut missing = adapter.missing(candidates(&adapter, layers.len()).iter().map(String::as_str))?;
        if !missing.is_empty() {
            let count = missing.len();
            missing.truncate(NAMED_MISSING);
            return Err(ModelError::MissingModules { adapter: name, count, missing });
        }
        Ok(Self { adapter, name, base: Arc::downgrade(base), layers, offsets, modules: matched, parameters })
    }

    /// The adapter itself.
    pub fn adapter(&self) -> &Arc<Adapter> {
        &self.adapter
    }

    /// What errors call it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Modules it changes.
    pub fn modules(&self) -> usize {
        self.modules
    }

    /// Trainable numbers in all modules.
    pub fn parameters(&self) -> usize {
        self.parameters
    }

    /// Writes all parameters: those of every module in order of name, each in its kind's own order.
    ///
    /// # Panics
    /// If `out` does not have [`parameters`](Self::parameters) elements.
    pub fn read_parameters(&self, out: &mut [f32]) {
        assert_eq!(out.len(), self.parameters, "parameters of an adapter");
        let mut rest = out;
        for (_, delta) in self.adapter.modules() {
            let own;
            (own, rest) = rest.split_at_mut(delta.parameters());
            delta.read_parameters(own);
        }
    }

    /// The same changes in the same places with other parameters, in the order of [`read_parameters`](Self::read_parameters).
    ///
    /// # Errors
    /// [`ModelError::Parameters`] if there are more or fewer than [`parameters`](Self::parameters).
    pub fn with_parameters(&self, parameters: &[f32]) -> Result<Arc<Self>, ModelError> {
        if parameters.len() != self.parameters {
            let (adapter, expected, found) = (self.name.clone(), self.parameters, parameters.len());
            return Err(ModelError::Parameters { adapter, expected, found });
        }
        let adapter = Arc::new(self.adapter.with_parameters(parameters));
        let mut layers = vec![[const { None }; LinearKind::ALL.len()]; self.layers.len()];
        for (module, delta) in adapter.modules() {
            // Every name was understood when the adapter was bound.
            if let Some((layer, kind)) = parse_module(module) {
                layers[layer][kind as usize] = Some(Arc::clone(delta));
            }
        }
        let (name, base, offsets) = (self.name.clone(), self.base.clone(), self.offsets.clone());
        let (modules, parameters) = (self.modules, self.parameters);
        Ok(Arc::new(Self { adapter, name, base, layers, offsets, modules, parameters }))
    }

    /// Where the parameters of a linear's delta are among all of them, if the adapter targets it.
    pub(super) fn place(&self, layer: usize, kind: LinearKind) -> Option<Range<usize>> {
        let start = self.offsets.get(layer)?[kind as usize];
        Some(start..start + self.delta(layer, kind)?.parameters())
    }

    /// Whether it is bound to the model of this file, or of another copy that is open too.
    pub fn is_for(&self, base: &Arc<Gguf>) -> bool {
        std::ptr::eq(self.base.as_ptr(), Arc::as_ptr(base))
            || self.base.upgrade().is_some_and(|own| own.fingerprint() == base.fingerprint())
    }

    /// The delta on a linear, if the adapter targets it.
    pub fn delta(&self, layer: usize, kind: LinearKind) -> Option<&Arc<dyn Delta>> {
        self.layers.get(layer)?[kind as usize].as_ref()
    }
}

/// The adapters a forward pass runs with, and their weights. A value: cloning shares the adapters.
#[derive(Debug, Clone, Default)]
pub struct ActiveAdapters {
    list: Vec<(Arc<BoundAdapter>, f32)>,
}

impl ActiveAdapters {
    /// No adapter: the base model.
    pub fn none() -> Self {
        Self::default()
    }

    /// Several adapters add up, each times its weight.
    ///
    /// # Errors
    /// [`ModelError::Weight`] if a weight is not finite, [`ModelError::ForeignAdapter`] if they are bound to different models.
    pub fn new(list: Vec<(Arc<BoundAdapter>, f32)>) -> Result<Self, ModelError> {
        if let Some((bound, weight)) = list.iter().find(|(_, w)| !w.is_finite()) {
            return Err(ModelError::Weight { adapter: bound.name.clone(), found: *weight });
        }
        if let Some((first, _)) = list.first() {
            let together = |other: &BoundAdapter| {
                Weak::ptr_eq(&first.base, &other.base) || other.base.upgrade().is_some_and(|base| first.is_for(&base))
            };
            if let Some((stray, _)) = list.iter().find(|(bound, _)| !together(bound)) {
                return Err(ModelError::ForeignAdapter { adapter: stray.name.clone() });
            }
        }
        Ok(Self { list })
    }

    /// The adapters and their weights.
    pub fn list(&self) -> &[(Arc<BoundAdapter>, f32)] {
        &self.list
    }

    /// Whether the base runs alone.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Whether two sets compute the same: the same generations in the same order with the same weights.
    pub fn same(&self, other: &Self) -> bool {
        self.list.len() == other.list.len()
            && self.list.iter().zip(&other.list).all(|(a, b)| Arc::ptr_eq(&a.0, &b.0) && a.1 == b.1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn module_names_of_each_wrapper_are_understood() {
        for Wrapper { layers, .. } in WRAPPERS {
            let module = format!("{layers}12.mlp.gate_proj");
            assert_eq!(parse_module(&module), Some((12, LinearKind::Gate)));
        }
        for stray in [
            "model.layers.x.self_attn.q_proj",
            "model.layers.+1.self_attn.q_proj",
            "model.layers..self_attn.q_proj",
            "model.layers.1.self_attn.qkv",
            "layers",
            "",
            "model.layers.",
        ] {
            assert_eq!(parse_module(stray), None, "{stray}");
        }
    }
}
