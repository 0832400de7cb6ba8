//! Mixing: the result acts as the weighted sum does.

mod adapter_support;
mod spectral_support;

use std::sync::Arc;

use adapter_support::{coefficients, module, seeded, shape};
use proptest::prelude::*;
use spectral_support::relative_error;
use timbre::adapter::{Adapter, AdapterError, Delta, LoraDelta, LoraScale, Module, mix};
use timbre::spectral::{Entries, EntrySource, PlanCache, Transforms};

fn dense(adapter: &Adapter, name: &str) -> Vec<f64> {
    match adapter.get(name) {
        Some(delta) => delta.dense(&Transforms::new(), 1).into_iter().map(f64::from).collect(),
        None => Vec::new(),
    }
}

/// `Σ weight·ΔW` of one module.
fn sum(parts: &[(Arc<Adapter>, f32)], name: &str) -> Vec<f64> {
    let mut total: Vec<f64> = Vec::new();
    for (adapter, weight) in parts {
        let part = dense(adapter, name);
        total.resize(total.len().max(part.len()), 0.0);
        total.iter_mut().zip(part).for_each(|(t, v)| *t += f64::from(*weight) * v);
    }
    total
}

fn check(parts: &[(Arc<Adapter>, f32)]) -> Adapter {
    let mixed = mix(parts).unwrap();
    for (name, _) in mixed.modules() {
        let error = relative_error(&dense(&mixed, name), &sum(parts, name));
        assert!(error < 1e-5, "{name}: {error:e}");
    }
    mixed
}

#[test]
fn shared_entries_add_coefficients() {
    let cache = PlanCache::new();
    let a = Arc::new(seeded(&cache, 8, 3, 300.0, 1));
    let b = Arc::new(seeded(&cache, 8, 3, 100.0, 50));
    let mixed = check(&[(Arc::clone(&a), 0.5), (Arc::clone(&b), 1.5)]);
    let delta = |x: &Adapter| Arc::clone(x.get("model.layers.0.q_proj").unwrap());
    let (plan, own) = (delta(&a), delta(&mixed));
    assert!(Arc::ptr_eq(own.as_fourier().unwrap().plan(), plan.as_fourier().unwrap().plan()));
    assert_eq!(mixed.alpha(), Some(300.0));
    // Still drawn from one seed, so still a PEFT adapter.
    let folder = tempfile::tempdir().unwrap();
    mixed.save_peft(&folder.path().join("mixed")).unwrap();
}

#[test]
fn one_adapter_at_full_weight_is_itself() {
    let a = Arc::new(seeded(&PlanCache::new(), 8, 3, 0.1, 1));
    let mixed = mix(&[(Arc::clone(&a), 1.0)]).unwrap();
    for (name, delta) in a.modules() {
        let own = mixed.get(name).unwrap().as_fourier().unwrap().coefficients();
        assert_eq!(own, delta.as_fourier().unwrap().coefficients());
    }
}

#[test]
fn different_entries_are_united() {
    let cache = PlanCache::new();
    let a = Arc::new(seeded(&cache, 30, 3, 300.0, 1));
    let b = Arc::new(seeded(&cache, 20, 4, -20.0, 50));
    let mixed = check(&[(a, 1.0), (b, 2.0)]);
    let v = mixed.get("model.layers.0.v_proj").unwrap();
    let entries = v.as_fourier().unwrap().entries();
    assert_eq!(entries.source(), EntrySource::Explicit);
    assert!((30..50).contains(&entries.len()), "30 and 20 of 50 positions overlap");
}

#[test]
fn modules_of_some_are_kept() {
    let s = shape(6, 4);
    let one = |name, seed| {
        let m = module(name, Entries::seeded(s, 5, seed).unwrap(), &coefficients(5, 1), 2.0);
        Arc::new(Adapter::new(vec![m]).unwrap())
    };
    let mixed = check(&[(one("a", 1), 1.0), (one("b", 1), 0.25), (one("a", 2), 1.0)]);
    assert_eq!(mixed.modules().map(|(name, _)| name).collect::<Vec<_>>(), ["a", "b"]);
}

#[test]
fn what_cannot_be_mixed_is_refused() {
    let cache = PlanCache::new();
    let a = Arc::new(seeded(&cache, 8, 3, 300.0, 1));
    assert!(matches!(mix(&[]), Err(AdapterError::Mix(_))));
    assert!(matches!(mix(&[(Arc::clone(&a), f32::NAN)]), Err(AdapterError::Mix(_))));
    let based = |base: &str| (Arc::new(Adapter::clone(&a).with_base(base)), 1.0);
    assert!(matches!(mix(&[based("x"), based("y")]), Err(AdapterError::BaseMismatch { .. })));
    assert_eq!(mix(&[based("x"), (Arc::clone(&a), 1.0)]).unwrap().base(), Some("x"));
    let other = module("model.layers.0.q_proj", Entries::seeded(shape(3, 3), 2, 1).unwrap(), &[1.0, 2.0], 1.0);
    let other = Arc::new(Adapter::new(vec![other]).unwrap());
    let error = mix(&[(a, 1.0), (other, 1.0)]).unwrap_err();
    assert!(matches!(&error, AdapterError::ShapeMismatch { module, .. } if module == "model.layers.0.q_proj"));
    let huge = module("m", Entries::seeded(shape(3, 3), 1, 1).unwrap(), &[f32::MAX], 1.0);
    let huge = Arc::new(Adapter::new(vec![huge]).unwrap());
    assert!(matches!(mix(&[(huge, 2.0)]), Err(AdapterError::NonFinite { .. })));
    let none = module("m", Entries::seeded(shape(3, 3), 1, 1).unwrap(), &[5.0], 0.0);
    let none = Arc::new(Adapter::new(vec![none]).unwrap());
    assert_eq!(mix(&[(none, 2.0)]).unwrap().alpha(), Some(0.0));
}

fn low_rank(name: &str, rank: usize, scale: LoraScale, salt: u32) -> Module {
    let (a, b) = (coefficients(rank * 7, salt), coefficients(5 * rank, salt + 1));
    let delta: Arc<dyn Delta> = Arc::new(LoraDelta::new(&a, &b, rank, shape(5, 7), scale).unwrap());
    Module { name: name.into(), delta }
}

#[test]
fn low_ranks_add_up() {
    let adapter = |modules| Arc::new(Adapter::new(modules).unwrap());
    let stabilized = LoraScale { alpha: -3.0, rank_stabilized: true };
    let a = adapter(vec![low_rank("m", 2, LoraScale::over_rank(16.0), 1), low_rank("n", 1, stabilized, 3)]);
    let b = adapter(vec![low_rank("m", 3, stabilized, 5)]);
    let mixed = check(&[(Arc::clone(&a), 0.5), (Arc::clone(&b), -2.0), (Arc::clone(&a), 0.25)]);
    let rank = |name: &str| mixed.get(name).unwrap().as_lora().unwrap().rank();
    assert_eq!((rank("m"), rank("n")), (2 + 3 + 2, 1 + 1));
    // Alone with weight 1 nothing is rounded: the numbers are the same, and so is what they do.
    let alone = check(&[(Arc::clone(&b), 1.0)]);
    let (one, same) = (b.get("m").unwrap().as_lora().unwrap(), alone.get("m").unwrap().as_lora().unwrap());
    assert_eq!((one.a(), one.b()), (same.a(), same.b()));
    // The part with the largest scale keeps its numbers, the others shrink.
    let largest = a.get("m").unwrap().as_lora().unwrap();
    assert!(mixed.get("m").unwrap().as_lora().unwrap().a().starts_with(largest.a()));
    let nothing = mix(&[(a, 0.0), (b, 0.0)]).unwrap();
    assert!(dense(&nothing, "m").iter().all(|v| *v == 0.0));
}

#[test]
fn kinds_do_not_mix_and_shapes_must_agree() {
    let adapter = |modules| (Arc::new(Adapter::new(modules).unwrap()), 1.0);
    let lora = low_rank("m", 2, LoraScale::over_rank(1.0), 1);
    let spectral = module("m", Entries::seeded(shape(5, 7), 2, 1).unwrap(), &[1.0, 2.0], 1.0);
    let other = module("n", Entries::seeded(shape(5, 7), 2, 1).unwrap(), &[1.0, 2.0], 1.0);
    let error = mix(&[adapter(vec![lora.clone()]), adapter(vec![spectral])]).unwrap_err();
    assert!(matches!(error, AdapterError::MixedKinds), "{error}");
    // Both may be in memory side by side, but go into no file.
    let both = adapter(vec![lora.clone(), other]).0;
    assert_eq!(both.summary().kind, "mixed");
    assert!(matches!(both.to_file(), Err(AdapterError::MixedKinds)));
    let wide: Arc<dyn Delta> =
        Arc::new(LoraDelta::new(&[1.0; 8], &[1.0; 5], 1, shape(5, 8), LoraScale::over_rank(1.0)).unwrap());
    let wide = adapter(vec![Module { name: "m".into(), delta: wide }]);
    let error = mix(&[adapter(vec![lora]), wide]).unwrap_err();
    assert!(matches!(&error, AdapterError::ShapeMismatch { module, .. } if module == "m"), "{error}");
    let huge: Arc<dyn Delta> =
        Arc::new(LoraDelta::new(&[1.0], &[1.0], 1, shape(1, 1), LoraScale::over_rank(f64::MAX)).unwrap());
    let huge = Arc::new(Adapter::new(vec![Module { name: "m".into(), delta: huge }]).unwrap());
    assert!(matches!(mix(&[(huge, 4.0)]), Err(AdapterError::Mix(_))));
}

proptest! {
    #[test]
    fn any_mix_acts_as_the_sum(
        picks in proptest::collection::vec((0u64..3, 1usize..30, -300.0f64..300.0, -2.0f32..2.0), 1..5),
    ) {
        let cache = PlanCache::new();
        let parts: Vec<_> = picks
            .iter()
            .zip(0u32..)
            .map(|((seed, n, alpha, weight), salt)| (Arc::new(seeded(&cache, *n, *seed, *alpha, salt)), *weight))
            .collect();
        let mixed = mix(&parts).unwrap();
        for (name, _) in mixed.modules() {
            let expected = sum(&parts, name);
            // Measured against what went in: parts may cancel.
            let size: f64 = parts.iter()
                .flat_map(|(a, w)| dense(a, name).into_iter().map(move |v| (v * f64::from(*w)).powi(2)))
                .sum::<f64>().sqrt();
            let found = dense(&mixed, name);
            let off: f64 = found.iter().zip(&expected).map(|(a, b)| (a - b).powi(2)).sum::<f64>().sqrt();
            prop_assert!(off <= 1e-5 * size, "{name}: {off:e} of {size:e}");
        }
    }
}
