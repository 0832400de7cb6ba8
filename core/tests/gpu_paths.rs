//! The two ways of applying a spectral change on a GPU: both are measured, both give the CPU's logits, and the choice is kept.

#![cfg(feature = "gpu")]

#[path = "adapter_support/mod.rs"]
mod adapter_support;
mod gpu_support;
mod model_support;

use std::sync::Arc;

use adapter_support::{planned, shape};
use gpu_support::gpu;
use model_support::{HIDDEN, INNER, LAYERS, Tiny, VOCAB, noise};
use timbre::adapter::Adapter;
use timbre::gpu::{ApplyPath, GpuChoice, Positions};
use timbre::model::{ActiveAdapters, Backend, BoundAdapter, KvType, Model};
use timbre::session::{CancelHandle, Session, SessionOptions, SwapPolicy};
use timbre::spectral::PlanCache;

/// f32 sums in another order; and a dense change's rounding to f16.
const SPECTRAL: f32 = 5e-5;
const DENSE: f32 = 5e-3;

/// q and down: a permuted output in llama, an input of another length.
fn adapter(model: &Model, plans: &PlanCache, seed: u64, salt: &str) -> Arc<BoundAdapter> {
    let linears = [("self_attn.q_proj", 64, HIDDEN), ("mlp.down_proj", HIDDEN, INNER)];
    let modules = (0..LAYERS).flat_map(|layer| {
        linears.map(|(linear, rows, cols)| {
            let name = format!("model.layers.{layer}.{linear}");
            let plan = plans.seeded(shape(rows, cols), 40, seed).unwrap();
            planned(&name, plan, &noise(&format!("{name} {salt}"), 40, 0.5), 300.0)
        })
    });
    model.bind(Arc::new(Adapter::new(modules.collect()).unwrap()), salt).unwrap()
}

fn logits(model: &Arc<Model>, backend: Backend, sets: &[ActiveAdapters]) -> Vec<Vec<f32>> {
    let options = SessionOptions { backend, kv: Some(KvType::F32), ..SessionOptions::default() };
    let mut session = Session::new(model.clone(), &options).unwrap();
    let of = |active: &ActiveAdapters| {
        session.set_adapters(active.clone(), SwapPolicy::Recompute).unwrap();
        session.clear();
        session.push(&(0..11u32).map(|i| i * 7 % VOCAB as u32).collect::<Vec<_>>());
        let mut logits = session.logits(&CancelHandle::default()).unwrap().to_vec();
        session.push(&[3]);
        logits.extend_from_slice(session.logits(&CancelHandle::default()).unwrap());
        assert_eq!(session.backend(), backend, "{:?}", session.fallback());
        logits
    };
    sets.iter().map(of).collect()
}

fn worst(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).fold(0.0, |m, (a, b)| m.max((a - b).abs()))
}

#[test]
fn both_ways_give_the_cpus_logits_over_swaps() {
    let Some(_) = gpu() else { return };
    for tiny in Tiny::both() {
        let model = tiny.open().unwrap();
        let plans = PlanCache::new();
        let [a, b, other] = [(5, "a"), (5, "b"), (6, "other")].map(|(seed, salt)| adapter(&model, &plans, seed, salt));
        let sets = [vec![(a.clone(), 1.0)], vec![(b, 1.0)], vec![], vec![(a, 0.5), (other, -1.5)]];
        let sets = sets.map(|list| ActiveAdapters::new(list).unwrap());
        let expected = logits(&model, Backend::Cpu, &sets);
        let device = Arc::clone(model.on_gpu(&GpuChoice::Auto).unwrap().gpu());
        let mut seen = Vec::new();
        for (path, budget) in [(ApplyPath::Spectral, SPECTRAL), (ApplyPath::Dense, DENSE)] {
            device.force_apply_path(Some(path));
            let found = logits(&model, Backend::Gpu, &sets);
            for (i, (found, expected)) in found.iter().zip(&expected).enumerate() {
                let error = worst(found, expected);
                assert!(error <= budget, "{}, {}, set {i}: {error}", tiny.architecture, path.name());
            }
            // The adapters do something that the budget would not hide.
            assert!(worst(&found[0], &found[2]) > 10.0 * budget);
            assert!(worst(&found[0], &found[1]) > 10.0 * budget);
            seen.push(found);
        }
        // They were two ways: f16 shows.
        assert_ne!(seen[0][0], seen[1][0]);
        assert_eq!(seen[0][2], seen[1][2]);
    }
}

#[test]
fn ways_are_measured_and_what_was_measured_can_be_asked_for() {
    let Some(gpu) = gpu() else { return };
    let (rows, cols) = ([1, 5, 9], [4, 4, 100]);
    let lists = [Positions { d1: 96, d2: 128, rows: &rows, cols: &cols }];
    let timing = gpu.measure_paths(&lists, 3).unwrap();
    assert_eq!((timing.d1, timing.d2, timing.entries, timing.rows), (96, 128, 3, 3));
    assert!(timing.spectral_us > 0.0 && timing.dense_us > 0.0, "{timing:?}");
    assert_eq!(timing.faster() == ApplyPath::Dense, timing.dense_us < timing.spectral_us);
    assert!(timing.to_string().contains(timing.faster().name()), "{timing}");
    assert_eq!(gpu.path_timings(), std::slice::from_ref(&timing));
    if gpu.info().is_software() {
        // What a program on the CPU takes says nothing.
        assert_eq!(gpu.apply_path(&lists, 3).unwrap(), ApplyPath::Spectral);
    } else {
        assert_eq!(gpu.apply_path(&lists, 3).unwrap(), timing.faster());
        assert_eq!(gpu.path_timings().len(), 1, "measured once");
    }
    gpu.force_apply_path(Some(ApplyPath::Dense));
    assert_eq!(gpu.apply_path(&lists, 3).unwrap(), ApplyPath::Dense);
}
