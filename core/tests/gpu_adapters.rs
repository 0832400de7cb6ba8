//! Adapters on the GPU against the CPU: both kinds on every linear, several at once, with weights, swapped, and over a lost device.

#![cfg(feature = "gpu")]

#[path = "adapter_support/mod.rs"]
mod adapter_support;
mod gpu_support;
mod model_support;

use std::sync::Arc;

use adapter_support::{planned, shape};
use gpu_support::gpu;
use model_support::{HIDDEN, INNER, LAYERS, Tiny, VOCAB, noise};
use timbre::adapter::{Adapter, Delta, LoraDelta, LoraScale, Module};
use timbre::gpu::{GpuChoice, GpuError};
use timbre::model::{ActiveAdapters, Backend, BoundAdapter, KvType, Model, ModelError};
use timbre::session::{CancelHandle, Session, SessionOptions, SwapPolicy};
use timbre::spectral::PlanCache;

/// f32 sums in another order through two layers; logits are of order 1.
const TOLERANCE: f32 = 5e-5;

const LINEARS: [(&str, (usize, usize)); 7] = [
    ("self_attn.q_proj", (64, HIDDEN)),
    ("self_attn.k_proj", (32, HIDDEN)),
    ("self_attn.v_proj", (32, HIDDEN)),
    ("self_attn.o_proj", (HIDDEN, 64)),
    ("mlp.gate_proj", (INNER, HIDDEN)),
    ("mlp.up_proj", (INNER, HIDDEN)),
    ("mlp.down_proj", (HIDDEN, INNER)),
];

/// A spectrum on every linear; `salt` makes other numbers, `seed` other positions.
fn spectral(model: &Model, plans: &PlanCache, seed: u64, salt: &str) -> Arc<BoundAdapter> {
    let module = |layer: usize, (linear, (rows, cols)): (&str, (usize, usize))| {
        let name = format!("model.layers.{layer}.{linear}");
        let n = 40;
        let plan = plans.seeded(shape(rows, cols), n, seed).unwrap();
        planned(&name, plan, &noise(&format!("{name} {salt}"), n, 0.5), 300.0)
    };
    let modules = (0..LAYERS).flat_map(|layer| LINEARS.map(|linear| module(layer, linear))).collect();
    model.bind(Arc::new(Adapter::new(modules).unwrap()), salt).unwrap()
}

/// A change of rank 3 on the linears that `which` picks.
fn low_rank(model: &Model, salt: &str, which: impl Fn(usize) -> bool) -> Arc<BoundAdapter> {
    let module = |layer: usize, (linear, (rows, cols)): (&str, (usize, usize))| {
        let name = format!("model.layers.{layer}.{linear}");
        let factor = |which: &str, len: usize| noise(&format!("{name} {salt} {which}"), len, 0.3);
        let (a, b) = (factor("A", 3 * cols), factor("B", rows * 3));
        let delta = LoraDelta::new(&a, &b, 3, shape(rows, cols), LoraScale::over_rank(2.0)).unwrap();
        Module { name: name.into(), delta: Arc::new(delta) as Arc<dyn Delta> }
    };
    let picked = LINEARS.into_iter().enumerate().filter(|(i, _)| which(*i)).map(|(_, linear)| linear);
    let picked: Vec<_> = picked.collect();
    let modules = (0..LAYERS).flat_map(|layer| picked.iter().map(move |linear| module(layer, *linear)));
    model.bind(Arc::new(Adapter::new(modules.collect()).unwrap()), salt).unwrap()
}

struct Both {
    on_gpu: Session,
    on_cpu: Session,
}

impl Both {
    fn new(model: &Arc<Model>) -> Self {
        let session = |backend| {
            let options = SessionOptions { backend, kv: Some(KvType::F32), ..SessionOptions::default() };
            Session::new(model.clone(), &options).unwrap()
        };
        Self { on_gpu: session(Backend::Gpu), on_cpu: session(Backend::Cpu) }
    }

    /// The logits of both after a prompt and two more tokens, which must agree; those of the GPU.
    fn run(&mut self, list: &[(&Arc<BoundAdapter>, f32)], label: &str) -> Vec<f32> {
        let active = || ActiveAdapters::new(list.iter().map(|(a, w)| (Arc::clone(a), *w)).collect()).unwrap();
        let mut rows = [&mut self.on_gpu, &mut self.on_cpu].map(|session| {
            session.set_adapters(active(), SwapPolicy::Recompute).unwrap();
            session.clear();
            let mut logits = Vec::new();
            for tokens in [&(0..23u32).map(|i| i * 7 % VOCAB as u32).collect::<Vec<_>>()[..], &[3], &[8]] {
                session.push(tokens);
                logits.extend_from_slice(session.logits(&CancelHandle::default()).unwrap());
            }
            logits
        });
        assert_eq!(self.on_gpu.backend(), Backend::Gpu, "{label}: {:?}", self.on_gpu.fallback());
        for (i, (got, want)) in rows[0].iter().zip(&rows[1]).enumerate() {
            assert!((got - want).abs() <= TOLERANCE, "{label}, {i}: {got} for {want}");
        }
        std::mem::take(&mut rows[0])
    }
}

fn differ(a: &[f32], b: &[f32]) -> bool {
    a.iter().zip(b).any(|(a, b)| (a - b).abs() > 100.0 * TOLERANCE)
}

#[test]
fn every_mix_of_adapters_is_the_cpus() {
    let Some(_) = gpu() else { return };
    for tiny in Tiny::both() {
        let model = tiny.open().unwrap();
        let plans = PlanCache::new();
        let (a, b) = (spectral(&model, &plans, 5, "a"), spectral(&model, &plans, 5, "b"));
        let other = spectral(&model, &plans, 6, "other positions");
        let (all, some) = (low_rank(&model, "all", |_| true), low_rank(&model, "some", |i| i % 2 == 0));
        let mut both = Both::new(&model);
        let of = tiny.architecture;
        let base = both.run(&[], &format!("{of}, base"));
        let first = both.run(&[(&a, 1.0)], &format!("{of}, one"));
        assert!(differ(&first, &base));
        let second = both.run(&[(&b, 1.0)], &format!("{of}, another of the same form"));
        assert!(differ(&second, &first));
        both.run(&[(&a, 0.5), (&b, -2.0)], &format!("{of}, two with shared positions"));
        both.run(&[(&a, 0.5), (&other, 1.5)], &format!("{of}, two with positions of their own"));
        both.run(&[(&all, 1.0)], &format!("{of}, low rank"));
        both.run(&[(&some, 0.7)], &format!("{of}, low rank on some"));
        both.run(&[(&all, 1.0), (&b, 0.3), (&some, 0.5)], &format!("{of}, both kinds"));
        // What was prepared before is found again, also past the number that is kept.
        assert_eq!(both.run(&[(&a, 1.0)], &format!("{of}, back")), first);
        // More forms than are kept.
        for i in (0..9).filter(|_| of == "llama") {
            let few = low_rank(&model, "few", |linear| linear <= i % 7);
            both.run(&[(&few, 1.0), (&few, i as f32)], &format!("{of}, many forms, {i}"));
        }
        assert_eq!(both.run(&[(&a, 1.0)], &format!("{of}, anew")), first);
        assert_eq!(both.run(&[], &format!("{of}, base again")), base);
        assert!(both.on_gpu.device_memory().unwrap().adapter_bytes > 0);
    }
}

#[test]
fn a_history_that_is_kept_over_a_swap_stays_as_it_was_read() {
    let Some(_) = gpu() else { return };
    let model = Tiny::llama().open().unwrap();
    let a = spectral(&model, &PlanCache::new(), 5, "a");
    let active = || ActiveAdapters::new(vec![(a.clone(), 1.0)]).unwrap();
    let Both { mut on_gpu, mut on_cpu } = Both::new(&model);
    let mut rows = Vec::new();
    for session in [&mut on_gpu, &mut on_cpu] {
        session.set_tokens(&[1, 4, 5, 6]);
        session.logits(&CancelHandle::default()).unwrap();
        session.set_adapters(active(), SwapPolicy::Keep).unwrap();
        assert_eq!(session.cached(), 4);
        session.push(&[7]);
        rows.push(session.logits(&CancelHandle::default()).unwrap().to_vec());
    }
    let close = |a: &[f32], b: &[f32]| a.iter().zip(b).all(|(a, b)| (a - b).abs() <= TOLERANCE);
    assert!(close(&rows[0], &rows[1]));
    on_gpu.set_adapters(ActiveAdapters::none(), SwapPolicy::Recompute).unwrap();
    on_gpu.set_adapters(active(), SwapPolicy::Recompute).unwrap();
    assert_eq!(on_gpu.cached(), 0);
    assert!(differ(on_gpu.logits(&CancelHandle::default()).unwrap(), &rows[0]));
}

#[test]
fn a_lost_device_keeps_the_voice() {
    let Some(_) = gpu() else { return };
    let model = Tiny::gemma3().open().unwrap();
    let adapter = spectral(&model, &PlanCache::new(), 5, "a");
    let mut both = Both::new(&model);
    both.run(&[(&adapter, 1.0)], "before");
    model.on_gpu(&GpuChoice::Auto).unwrap().gpu().destroy();
    let Both { on_gpu, on_cpu } = &mut both;
    let [got, want] = [on_gpu, on_cpu].map(|session| {
        session.push(&[4]);
        session.logits(&CancelHandle::default()).unwrap().to_vec()
    });
    // Both on the CPU now; one computed its cache anew in one batch.
    let close = |a: &[f32], b: &[f32]| a.iter().zip(b).all(|(a, b)| (a - b).abs() <= TOLERANCE);
    assert!(close(&got, &want), "{got:?} for {want:?}");
    assert_eq!(both.on_gpu.backend(), Backend::Cpu);
    // A swap while the device is gone.
    both.on_gpu.set_adapters(ActiveAdapters::none(), SwapPolicy::Recompute).unwrap();
    both.on_cpu.set_adapters(ActiveAdapters::none(), SwapPolicy::Recompute).unwrap();
    let [got, want] =
        [&mut both.on_gpu, &mut both.on_cpu].map(|session| session.logits(&CancelHandle::default()).unwrap().to_vec());
    assert!(close(&got, &want), "{got:?} for {want:?}");
}

#[test]
fn adapters_that_the_device_has_no_memory_for_speak_on_the_cpu() {
    let Some(_) = gpu() else { return };
    let model = Tiny::llama().open().unwrap();
    let adapter = spectral(&model, &PlanCache::new(), 5, "a");
    let active = || ActiveAdapters::new(vec![(adapter.clone(), 1.0)]).unwrap();
    let Both { mut on_gpu, mut on_cpu } = Both::new(&model);
    let device = model.on_gpu(&GpuChoice::Auto).unwrap().gpu().clone();
    device.set_budget(device.allocated_bytes());
    let [got, want] = [&mut on_gpu, &mut on_cpu].map(|session| {
        session.set_adapters(active(), SwapPolicy::Recompute).unwrap();
        session.set_tokens(&[1, 4, 5, 6]);
        session.logits(&CancelHandle::default()).unwrap().to_vec()
    });
    assert_eq!(got, want);
    assert_eq!(on_gpu.backend(), Backend::Cpu);
    let reason = on_gpu.fallback();
    assert!(matches!(reason, Some(ModelError::Gpu(GpuError::OutOfMemory { .. }))), "{reason:?}");
}
