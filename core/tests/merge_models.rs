//! Merging whole tiny models: every kind of linear, the permuted rows of q and k, and a file that exists in memory only.

#[path = "adapter_support/mod.rs"]
mod adapter_support;
mod model_support;

use std::sync::Arc;

use adapter_support::{planned, shape};
use model_support::{HEAD_DIM, HEADS, HIDDEN, INNER, KV_HEADS, LAYERS, Tiny, noise};
use timbre::adapter::Adapter;
use timbre::gguf::GgmlType;
use timbre::kernels::{KernelChoice, Tier};
use timbre::merge::{MergeError, MergeOptions, Storage};
use timbre::model::{ActiveAdapters, Model, ModelOptions};
use timbre::session::{CancelHandle, Session, SessionOptions, SwapPolicy};
use timbre::spectral::PlanCache;

const LINEARS: [(&str, usize, usize); 7] = [
    ("self_attn.q_proj", HEADS * HEAD_DIM, HIDDEN),
    ("self_attn.k_proj", KV_HEADS * HEAD_DIM, HIDDEN),
    ("self_attn.v_proj", KV_HEADS * HEAD_DIM, HIDDEN),
    ("self_attn.o_proj", HIDDEN, HEADS * HEAD_DIM),
    ("mlp.gate_proj", INNER, HIDDEN),
    ("mlp.up_proj", INNER, HIDDEN),
    ("mlp.down_proj", HIDDEN, INNER),
];

/// An adapter of one linear in every layer, or of all of them.
fn adapter(model: &Model, only: Option<&str>) -> ActiveAdapters {
    let plans = PlanCache::new();
    let mut modules = Vec::new();
    for layer in 0..LAYERS {
        for (name, rows, cols) in LINEARS.into_iter().filter(|(name, ..)| only.is_none_or(|o| o == *name)) {
            let plan = plans.seeded(shape(rows, cols), 50, 7).unwrap();
            let module = format!("model.layers.{layer}.{name}");
            modules.push(planned(&module, plan, &noise(&module, 50, 0.5), 40.0));
        }
    }
    let bound = model.bind(Arc::new(Adapter::new(modules).unwrap()), "a").unwrap();
    ActiveAdapters::new(vec![(bound, 0.75)]).unwrap()
}

fn logits(model: &Arc<Model>, adapters: &ActiveAdapters) -> Vec<f32> {
    let mut session = Session::new(model.clone(), &SessionOptions::default()).unwrap();
    session.set_adapters(adapters.clone(), SwapPolicy::Recompute).unwrap();
    session.set_tokens(&[1, 4, 9, 10, 3, 11]);
    session.logits(&CancelHandle::default()).unwrap().to_vec()
}

fn distance(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).fold(0.0, |most, (a, b)| most.max((a - b).abs()))
}

#[test]
fn every_linear_of_both_architectures() {
    let folder = tempfile::tempdir().unwrap();
    let reference =
        ModelOptions { kernels: KernelChoice::Only(Tier::Reference), threads: Some(2), ..ModelOptions::default() };
    for tiny in Tiny::both() {
        let model = tiny.open().unwrap();
        let base = logits(&model, &ActiveAdapters::none());
        for only in LINEARS.iter().map(|(name, ..)| Some(*name)).chain([None]) {
            let out = folder.path().join("merged.gguf");
            let adapters = adapter(&model, only);
            let options = MergeOptions { storage: Storage::F16, threads: 2 };
            let report = model.merge(&adapters, &out, &options, |_, _| true).unwrap();
            assert_eq!(report.tensors.len(), if only.is_some() { LAYERS } else { 7 * LAYERS });
            assert!(report.tensors.iter().all(|t| t.to == GgmlType::F16 && t.relative_error < 5e-4), "{report:?}");
            let spectral = logits(&model, &adapters);
            let merged = logits(&Model::open(&out, &reference).unwrap(), &ActiveAdapters::none());
            let (moved, off) = (distance(&spectral, &base), distance(&merged, &spectral));
            println!("{} {only:?}: the adapter moves logits by {moved:.4}, the merge by {off:.1e}", tiny.architecture);
            assert!(moved > 0.02 && off < 3e-3 && off < moved / 10.0, "{only:?}: {moved} {off}");
        }
    }
}

#[test]
fn nothing_to_merge_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("merged.gguf");
    let model = Tiny::llama().open().unwrap();
    let error = model.merge(&ActiveAdapters::none(), &out, &MergeOptions::default(), |_, _| true).unwrap_err();
    assert!(matches!(error, MergeError::Nothing) && !out.exists(), "{error}");
    // A ΔW past F16's range stops the merge before a file appears.
    let adapters = adapter(&model, None);
    let huge = ActiveAdapters::new(vec![(adapters.list()[0].0.clone(), 1e9)]).unwrap();
    let error = model.merge(&huge, &out, &MergeOptions::default(), |_, _| true).unwrap_err();
    assert!(matches!(error, MergeError::Store { .. }) && !out.exists(), "{error}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "and no half of one is left");
}
