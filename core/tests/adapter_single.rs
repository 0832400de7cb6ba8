//! The single file: round trips, and everything a description can get wrong.

mod adapter_support;

use std::path::Path;
use std::sync::Arc;

use adapter_support::{cause, coefficients, f32s, module, planned, safetensors, seeded, shape};
use proptest::prelude::*;
use serde_json::{Value, json};
use timbre::adapter::{Adapter, AdapterError, AdapterFile, Origin};
use timbre::spectral::{Entries, EntrySource, PlanCache, SpectralError};

fn load(path: &Path) -> Adapter {
    let file = AdapterFile::load(path).unwrap();
    file.resolve(&PlanCache::new(), |module| file.shape_of(module)).unwrap()
}

fn bits(adapter: &Adapter, name: &str) -> Vec<u32> {
    adapter.get(name).unwrap().as_fourier().unwrap().coefficients().into_iter().map(f32::to_bits).collect()
}

/// One module of each kind of entries, two of which share one set.
fn assorted() -> Adapter {
    let s = shape(9, 11);
    let plan = PlanCache::new().biased(s, 20, 5, 3.5, 0.1 + 0.2).unwrap();
    let listed = Entries::explicit(s, vec![8, 0, 3], vec![10, 2, 0]).unwrap();
    Adapter::new(vec![
        module("m.seeded", Entries::seeded(s, 15, u64::MAX).unwrap(), &coefficients(15, 1), 0.1),
        planned("m.biased", Arc::clone(&plan), &coefficients(20, 2), -3.0),
        planned("m.again", plan, &coefficients(20, 3), 1.0 / 3.0),
        module("m.listed", listed, &[f32::MIN_POSITIVE / 2.0, -0.0, 6.5e4], 0.0),
    ])
    .unwrap()
    .with_base("0123456789abcdef")
    .with_origin(Origin { base_model: Some("a/b".to_owned()), task_type: Some("CAUSAL_LM".to_owned()) })
}

#[test]
fn every_kind_of_entries_survives() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.safetensors");
    let adapter = assorted();
    adapter.save_single(&path, false).unwrap();
    let again = load(&path);
    assert_eq!((again.base(), again.origin()), (adapter.base(), adapter.origin()));
    assert_eq!(again.summary(), adapter.summary());
    for (name, delta) in adapter.modules() {
        let (a, b) = (delta.as_fourier().unwrap(), again.get(name).unwrap().as_fourier().unwrap());
        assert_eq!(bits(&adapter, name), bits(&again, name), "{name}");
        assert_eq!(a.entries(), b.entries(), "{name}");
        assert_eq!(a.alpha().to_bits(), b.alpha().to_bits(), "{name}");
    }
    let plan = |name| again.get(name).unwrap().as_fourier().unwrap().plan();
    assert!(Arc::ptr_eq(plan("m.biased"), plan("m.again")));
    // Written again it is the same file: nothing in it depends on a map's order.
    let before = std::fs::read(&path).unwrap();
    again.save_single(&path, false).unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), before);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "nothing temporary is left");
    // The same bytes where there is no file.
    let bytes = adapter.to_file().unwrap().to_single_bytes(false).unwrap();
    assert_eq!(bytes, before);
    assert_eq!(AdapterFile::from_single_bytes(&bytes).unwrap().summary(), adapter.summary());
}

#[test]
fn half_precision_halves_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let (full, half) = (folder.path().join("32.safetensors"), folder.path().join("16.safetensors"));
    let adapter = seeded(&PlanCache::new(), 40, 3, 300.0, 7);
    adapter.save_single(&full, false).unwrap();
    adapter.save_single(&half, true).unwrap();
    let len = |path| std::fs::metadata(path).unwrap().len();
    assert_eq!(len(&full) - len(&half), 2 * 80);
    let again = load(&half);
    for (name, delta) in adapter.modules() {
        let rounded: Vec<f32> =
            delta.as_fourier().unwrap().coefficients().into_iter().map(|v| half::f16::from_f32(v).to_f32()).collect();
        assert_eq!(again.get(name).unwrap().as_fourier().unwrap().coefficients(), rounded);
    }
    let large = module("m", Entries::seeded(shape(2, 2), 2, 1).unwrap(), &[1.0, 65_520.0], 1.0);
    let error = Adapter::new(vec![large]).unwrap().save_single(&half, true).unwrap_err();
    assert!(matches!(error, AdapterError::F16Range { index: 1, .. }), "{error}");
    assert_eq!(load(&half).len(), 2, "a refused save leaves the old file");
}

#[test]
fn a_peft_directory_becomes_a_single_file_and_back() {
    let folder = tempfile::tempdir().unwrap();
    let cache = PlanCache::new();
    let source = adapter_support::fixture("adapters/kjv");
    let adapter = AdapterFile::load(&source).unwrap().resolve(&cache, adapter_support::smollm2).unwrap();
    let (single, peft) = (folder.path().join("kjv.safetensors"), folder.path().join("kjv"));
    adapter.save_single(&single, false).unwrap();
    load(&single).save_peft(&peft).unwrap();
    let back = AdapterFile::load(&peft).unwrap().resolve(&cache, adapter_support::smollm2).unwrap();
    assert_eq!(back.alpha(), Some(300.0));
    for (name, _) in adapter.modules() {
        assert_eq!(bits(&adapter, name), bits(&back, name));
    }
}

/// A file with one seeded module, `m`, with `changes` (a JSON pointer and a value each) made to its description.
fn described(changes: &[(&str, Value)]) -> Result<AdapterFile, AdapterError> {
    let mut header = json!({
        "version": 1, "kind": "fourier", "base": null, "base_model": null, "task_type": null,
        "entries": [{"out": 4, "in": 6, "n": 3, "source": "seeded", "seed": 1}],
        "modules": [{"name": "m", "entries": 0, "alpha": 2.0}],
    });
    for (pointer, value) in changes {
        match header.pointer_mut(pointer) {
            Some(place) => *place = value.clone(),
            None => {
                let (parent, field) = pointer.rsplit_once('/').unwrap();
                header.pointer_mut(parent).unwrap()[field] = value.clone();
            }
        }
    }
    let tensors = [("m.spectrum", "F32", vec![3], f32s(&[1.0, 2.0, 3.0]))];
    AdapterFile::from_single_bytes(&safetensors(Some(&header.to_string()), &tensors))
}

#[test]
fn a_description_must_be_whole_and_true() {
    described(&[]).unwrap();
    let version = described(&[("/version", json!(2)), ("/extra", json!(1))]).unwrap_err();
    assert!(matches!(version, AdapterError::Version { found: 2, expected: 1 }), "{version}");
    let kind = described(&[("/kind", json!("wave"))]).unwrap_err();
    assert!(matches!(&kind, AdapterError::Unsupported { found, .. } if found == "wave"), "{kind}");
    for (pointer, value) in [
        ("/extra", json!(1)),
        ("/modules/0/rank", json!(8)),
        ("/entries/0/shift", json!(true)),
        ("/entries/0/source", json!("magic")),
        ("/entries/0/out", json!(-4)),
        ("/modules/0/alpha", json!(null)),
        ("/modules", json!({})),
    ] {
        let error = described(&[(pointer, value)]).unwrap_err();
        assert!(matches!(error, AdapterError::Json(_)), "{pointer}: {error}");
    }
    for changes in [
        vec![("/modules/0/entries", json!(1))],
        vec![("/entries/0/center", json!(1.0))],
        vec![("/entries/0/source", json!("biased"))],
        vec![("/entries/0/seed", json!(null))],
    ] {
        let error = described(&changes).unwrap_err();
        assert!(matches!(error, AdapterError::Inconsistent(_)), "{changes:?}: {error}");
    }
    let set = json!({"out": 4, "in": 6, "n": 3, "source": "seeded", "seed": 1});
    let error = described(&[("/entries", json!([set, set]))]).unwrap_err();
    assert!(matches!(error, AdapterError::Inconsistent(_)), "an unused set: {error}");
    let twice = json!({"name": "m", "entries": 0, "alpha": 2.0});
    let error = described(&[("/modules", json!([twice, twice]))]).unwrap_err();
    assert!(matches!(error, AdapterError::Duplicate { .. }), "{error}");
    let error = described(&[("/modules", json!([])), ("/entries", json!([]))]).unwrap_err();
    assert!(matches!(error, AdapterError::UnknownTensor { .. }), "{error}");
    let error = described(&[("/modules/0/name", json!("other"))]).unwrap_err();
    assert!(matches!(&error, AdapterError::MissingTensor { name } if name == "other.spectrum"), "{error}");
    let error = described(&[("/entries/0/n", json!(4))]).unwrap_err();
    assert!(matches!(error, AdapterError::Count { expected: 4, found: 3, .. }), "{error}");
    for side in [0u64, 1 << 23, u64::MAX] {
        let error = described(&[("/entries/0/out", json!(side))]).unwrap_err();
        assert!(matches!(error, AdapterError::Entries { source: SpectralError::Shape { .. }, .. }), "{error}");
    }
    // More entries than positions, or no band: known only when positions are drawn, and still refused by name.
    for changes in [
        vec![("/entries/0/out", json!(1)), ("/entries/0/in", json!(2))],
        vec![
            ("/entries/0/source", json!("biased")),
            ("/entries/0/center", json!(1.0)),
            ("/entries/0/bandwidth", json!(0.0)),
        ],
    ] {
        let file = described(&changes).unwrap();
        let error = file.resolve(&PlanCache::new(), |m| file.shape_of(m)).unwrap_err();
        assert!(matches!(&error, AdapterError::Entries { module, .. } if module == "m"), "{error}");
    }
}

#[test]
fn a_single_file_must_match_the_model() {
    let file = described(&[]).unwrap();
    let error = file.resolve(&PlanCache::new(), |_| Some((6, 4))).unwrap_err();
    assert!(matches!(&error, AdapterError::ShapeMismatch { module, .. } if module == "m"), "{error}");
    assert_eq!(error.to_string(), "m: made for a 4x6 weight, the model's is 6x4");
    let error = file.resolve(&PlanCache::new(), |_| None).unwrap_err();
    assert!(matches!(error, AdapterError::UnknownModule { .. }), "{error}");
}

/// A file with one module whose positions are the tensor given.
fn listed(dtype: &str, dims: Vec<usize>, positions: &[i32]) -> Result<AdapterFile, AdapterError> {
    let header = json!({
        "version": 1, "kind": "fourier", "base": null, "base_model": null, "task_type": null,
        "entries": [{"out": 4, "in": 6, "n": 3, "source": "explicit"}],
        "modules": [{"name": "m", "entries": 0, "alpha": 2.0}],
    });
    let data = positions.iter().flat_map(|p| p.to_le_bytes()).collect();
    let tensors = [("m.spectrum", "F32", vec![3], f32s(&[1.0, 2.0, 3.0])), ("entries.0", dtype, dims, data)];
    AdapterFile::from_single_bytes(&safetensors(Some(&header.to_string()), &tensors))
}

#[test]
fn listed_positions_are_checked() {
    for dtype in ["I32", "U32"] {
        let file = listed(dtype, vec![2, 3], &[3, 0, 1, 5, 0, 2]).unwrap();
        let adapter = file.resolve(&PlanCache::new(), |m| file.shape_of(m)).unwrap();
        let delta = adapter.get("m").unwrap().as_fourier().unwrap();
        assert_eq!((delta.entries().rows(), delta.entries().cols()), (&[3, 0, 1][..], &[5, 0, 2][..]));
        assert_eq!(delta.entries().source(), EntrySource::Explicit);
    }
    let source = |error| match error {
        AdapterError::Entries { source, .. } => source,
        other => panic!("{other}"),
    };
    let twice = listed("I32", vec![2, 3], &[3, 0, 3, 5, 0, 5]).unwrap_err();
    assert_eq!(source(twice), SpectralError::Duplicate { row: 3, col: 5 });
    for positions in [[4, 0, 1, 5, 0, 2], [3, 0, 1, 6, 0, 2], [-1, 0, 1, 5, 0, 2], [i32::MIN, 0, 1, 5, 0, 2]] {
        let outside = listed("I32", vec![2, 3], &positions).unwrap_err();
        assert!(matches!(source(outside), SpectralError::OutOfRange { index: 0, .. }), "{positions:?}");
    }
    assert!(matches!(listed("F32", vec![2, 3], &[0; 6]), Err(AdapterError::Dtype { .. })));
    assert!(matches!(listed("I32", vec![6], &[0; 6]), Err(AdapterError::TensorShape { .. })));
    assert!(matches!(listed("I32", vec![3, 2], &[0; 6]), Err(AdapterError::TensorShape { .. })));
    assert!(matches!(listed("I32", vec![2, 2], &[0, 1, 0, 1]), Err(AdapterError::Inconsistent(_))));
}

#[test]
fn other_safetensors_files_are_not_adapters() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    std::fs::copy(adapter_support::fixture("adapters/devil/adapter_model.safetensors"), &path).unwrap();
    let error = cause(AdapterFile::load(&path).unwrap_err());
    assert!(matches!(error, AdapterError::NotAnAdapter), "{error}");
}

proptest! {
    #[test]
    fn a_saved_file_is_the_adapter(
        n in 1usize..50, seed: u64, alpha in proptest::num::f64::NORMAL, values in proptest::collection::vec(
            any::<f32>().prop_filter("finite", |v| v.is_finite()), 50),
    ) {
        let s = shape(7, 9);
        let adapter = Adapter::new(vec![
            module("a", Entries::seeded(s, n, seed).unwrap(), &values[..n], alpha),
            module("b", Entries::biased(s, n, seed, alpha.abs() % 9.0, 2.0).unwrap(), &values[..n], alpha),
        ]).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.safetensors");
        adapter.save_single(&path, false).unwrap();
        let again = load(&path);
        for name in ["a", "b"] {
            let (x, y) = (adapter.get(name).unwrap().as_fourier().unwrap(), again.get(name).unwrap().as_fourier().unwrap());
            prop_assert_eq!(bits(&adapter, name), bits(&again, name));
            prop_assert_eq!(x.entries(), y.entries());
            prop_assert_eq!(x.alpha().to_bits(), y.alpha().to_bits());
        }
    }

    #[test]
    fn damaged_files_are_refused_or_read(at in 0usize..2000, byte: u8, cut in 0usize..2000) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.safetensors");
        assorted().save_single(&path, false).unwrap();
        let mut bytes = std::fs::read(&path).unwrap();
        let len = bytes.len();
        prop_assert!(AdapterFile::from_single_bytes(&bytes[..cut.min(len - 1)]).is_err());
        bytes[at % len] ^= byte;
        // Whatever it says now, it is an answer.
        if let Ok(file) = AdapterFile::from_single_bytes(&bytes) {
            let small = |m: &str| file.shape_of(m).filter(|(r, c)| r * c < 1 << 20);
            let _ = file.resolve(&PlanCache::new(), small);
        }
    }
}
