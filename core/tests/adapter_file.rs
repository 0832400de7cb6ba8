//! What can be done to adapter files without a model: written in either form, mixed, compared with a model's modules.

mod adapter_support;

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use adapter_support::{coefficients, config, f32s, fixture, module, safetensors, seeded, shape, smollm2, weights};
use serde_json::{Value, json};
use timbre::adapter::{Adapter, AdapterError, AdapterFile, mix};
use timbre::spectral::{Entries, EntrySource, PlanCache};

fn load(path: impl AsRef<Path>) -> AdapterFile {
    AdapterFile::load(path.as_ref()).unwrap()
}

fn config_of(dir: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(dir.join("adapter_config.json")).unwrap()).unwrap()
}

/// Every spectrum of a PEFT directory is, byte for byte, in another.
fn same_spectra(ours: &Path, theirs: &Path) {
    let read = |dir: &Path| std::fs::read(dir.join("adapter_model.safetensors")).unwrap();
    let (ours, theirs) = (read(ours), read(theirs));
    let parse = |bytes| safetensors::SafeTensors::deserialize(bytes).unwrap();
    let (ours, theirs) = (parse(&ours), parse(&theirs));
    assert_eq!(ours.len(), theirs.len());
    for (name, tensor) in theirs.iter() {
        assert_eq!(ours.tensor(name).unwrap().data(), tensor.data(), "{name}");
    }
}

fn same_adapter(a: &Adapter, b: &Adapter) {
    assert_eq!(a.len(), b.len());
    for (name, delta) in a.modules() {
        let (x, y) = (delta.as_fourier().unwrap(), b.get(name).unwrap().as_fourier().unwrap());
        let bits = |c: Vec<f32>| c.into_iter().map(f32::to_bits).collect::<Vec<_>>();
        assert_eq!(bits(x.coefficients()), bits(y.coefficients()), "{name}");
        assert_eq!(x.entries(), y.entries(), "{name}");
        assert_eq!(x.alpha(), y.alpha(), "{name}");
    }
}

#[test]
fn a_peft_directory_is_written_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let (source, saved) = (fixture("adapters/devil"), folder.path().join("devil"));
    load(&source).save_peft(&saved).unwrap();
    same_spectra(&saved, &source);
    assert_eq!(config_of(&saved), config_of(&source));
}

#[test]
fn a_single_file_may_lack_shapes() {
    let folder = tempfile::tempdir().unwrap();
    let (single, peft) = (folder.path().join("a.safetensors"), folder.path().join("a"));
    let source = load(fixture("adapters/devil"));
    source.save_single(&single, false).unwrap();
    let file = load(&single);
    assert_eq!(file.shape_of("model.layers.3.self_attn.q_proj"), None);
    assert_eq!(file.summary(), source.summary());
    file.save_peft(&peft).unwrap();
    same_spectra(&peft, &fixture("adapters/devil"));

    let cache = PlanCache::new();
    let expected = source.resolve(&cache, smollm2).unwrap();
    same_adapter(&file.resolve(&cache, smollm2).unwrap(), &expected);
    assert!(matches!(file.resolve(&cache, |m| file.shape_of(m)), Err(AdapterError::UnknownModule { .. })));
    // Too small for its coefficients: known once the model is.
    let error = file.resolve(&cache, |_| Some((20, 20))).unwrap_err();
    assert!(matches!(&error, AdapterError::Entries { module, .. } if module.starts_with("model.layers.0")), "{error}");

    // Written again it is the same file.
    let again = folder.path().join("b.safetensors");
    file.save_single(&again, false).unwrap();
    assert_eq!(std::fs::read(&again).unwrap(), std::fs::read(&single).unwrap());
    file.save_single(&again, true).unwrap();
    let bytes = |path| std::fs::metadata(path).unwrap().len();
    assert!(bytes(&single) - bytes(&again) >= 2 * 60_000);
}

#[test]
fn a_model_gives_a_file_its_shapes() {
    let folder = tempfile::tempdir().unwrap();
    let (single, peft) = (folder.path().join("a.safetensors"), folder.path().join("a"));
    let cache = PlanCache::new();
    let adapter = load(fixture("adapters/kjv")).resolve(&cache, smollm2).unwrap().with_base("abc");
    let described = adapter.to_file().unwrap();
    described.save_single(&single, false).unwrap();
    described.save_peft(&peft).unwrap();
    same_spectra(&peft, &fixture("adapters/kjv"));
    assert_eq!(config_of(&peft), config_of(&fixture("adapters/kjv")));
    let file = load(&single);
    assert_eq!(file.shape_of("model.layers.3.self_attn.v_proj"), Some((192, 576)));
    let again = file.resolve(&cache, |m| file.shape_of(m)).unwrap();
    assert_eq!(again.base(), Some("abc"));
    same_adapter(&again, &adapter);
}

#[test]
fn mixing_files_is_mixing_adapters() {
    let folder = tempfile::tempdir().unwrap();
    let cache = PlanCache::new();
    let files = ["devil", "kjv"].map(|name| load(fixture(&format!("adapters/{name}"))));
    let adapters = files.each_ref().map(|file| Arc::new(file.resolve(&cache, smollm2).unwrap()));
    let expected = mix(&[(Arc::clone(&adapters[0]), 0.5), (Arc::clone(&adapters[1]), -0.25)]).unwrap();
    let [devil, kjv] = files;
    let mixed = AdapterFile::mix(&[(devil, 0.5), (kjv, -0.25)]).unwrap();
    same_adapter(&mixed.resolve(&cache, smollm2).unwrap(), &expected);

    let name = "model.layers.7.self_attn.q_proj";
    let c = |adapter: &Adapter| adapter.get(name).unwrap().as_fourier().unwrap().coefficients();
    let [a, b, sum] = [c(&adapters[0]), c(&adapters[1]), c(&expected)];
    for ((a, b), sum) in a.into_iter().zip(b).zip(sum) {
        assert_eq!((0.5 * f64::from(a) - 0.25 * f64::from(b)) as f32, sum);
    }

    let (peft, single) = (folder.path().join("mixed"), folder.path().join("mixed.safetensors"));
    mixed.save_peft(&peft).unwrap();
    mixed.save_single(&single, false).unwrap();
    assert_eq!(config_of(&peft), config_of(&fixture("adapters/devil")), "both have the same");
    for path in [peft, single] {
        same_adapter(&load(path).resolve(&cache, smollm2).unwrap(), &expected);
    }
}

#[test]
fn shorter_draws_are_beginnings() {
    let (short, long) = (coefficients(3, 1), coefficients(5, 2));
    let file = |n: usize, c: &[f32]| {
        AdapterFile::from_peft_bytes(&config(json!({ "n_frequency": n })), &weights(&[("m.q_proj", c)])).unwrap()
    };
    let mixed = AdapterFile::mix(&[(file(3, &short), 1.0), (file(5, &long), 1.0)]).unwrap();
    assert!(mixed.config().is_none(), "neither's count is the sum's");
    let adapter = mixed.resolve(&PlanCache::new(), |_| Some((6, 5))).unwrap();
    let fourier = adapter.get("m.q_proj").unwrap().as_fourier().unwrap();
    assert_eq!(*fourier.entries(), Entries::seeded(shape(6, 5), 5, 2024).unwrap());
    let at = |i: usize| (f64::from(long[i]) + short.get(i).map_or(0.0, |&c| f64::from(c))) as f32;
    assert_eq!(fourier.coefficients(), (0..5).map(at).collect::<Vec<_>>());
    let folder = tempfile::tempdir().unwrap();
    mixed.save_peft(&folder.path().join("a")).unwrap();
}

#[test]
fn a_union_needs_one_file_with_the_shape() {
    let peft = |seed: u64| {
        let changes = json!({ "random_loc_seed": seed });
        let modules = ["model.layers.0.q_proj", "model.layers.0.v_proj"];
        let c = coefficients(4, 9);
        AdapterFile::from_peft_bytes(&config(changes), &weights(&modules.map(|name| (name, &c[..])))).unwrap()
    };
    let error = AdapterFile::mix(&[(peft(1), 1.0), (peft(2), 1.0)]).unwrap_err();
    assert!(matches!(&error, AdapterError::ShapeUnknown { module } if module == "model.layers.0.q_proj"), "{error}");
    assert!(error.to_string().contains("base model's shapes"), "{error}");

    let cache = PlanCache::new();
    let known = seeded(&cache, 8, 1, 300.0, 1);
    let shapes = |m: &str| Some((if m.ends_with("q_proj") { 12 } else { 5 }, 10));
    let mixed = AdapterFile::mix(&[(peft(2), 1.0), (known.to_file().unwrap(), 2.0)]).unwrap();
    let other = Arc::new(peft(2).resolve(&cache, shapes).unwrap());
    let expected = mix(&[(other, 1.0), (Arc::new(known.clone()), 2.0)]).unwrap();
    let resolved = mixed.resolve(&cache, |m| mixed.shape_of(m)).unwrap();
    same_adapter(&resolved, &expected);
    let entries = resolved.get("model.layers.0.v_proj").unwrap().as_fourier().unwrap().entries();
    assert_eq!((entries.source(), entries.shape()), (EntrySource::Explicit, shape(5, 10)));
    let folder = tempfile::tempdir().unwrap();
    assert!(matches!(mixed.save_peft(&folder.path().join("a")), Err(AdapterError::NotPeft(_))));
    mixed.save_single(&folder.path().join("a.safetensors"), false).unwrap();
    let again = load(folder.path().join("a.safetensors"));
    same_adapter(&again.resolve(&cache, |m| again.shape_of(m)).unwrap(), &expected);

    // Where draws agree, one file's shape is the sum's.
    let mixed = AdapterFile::mix(&[(peft(1), 1.0), (known.to_file().unwrap(), 1.0)]).unwrap();
    assert_eq!(mixed.shape_of("model.layers.0.v_proj"), Some((5, 10)));
    // A union in a shape without room for a draw.
    let small = module("model.layers.0.q_proj", Entries::seeded(shape(1, 2), 2, 1).unwrap(), &[1.0, 2.0], 1.0);
    let small = Adapter::new(vec![small]).unwrap().to_file().unwrap();
    let error = AdapterFile::mix(&[(small.clone(), 1.0), (peft(2), 1.0)]).unwrap_err();
    assert!(matches!(&error, AdapterError::Entries { module, .. } if module == "model.layers.0.q_proj"), "{error}");
    let error = AdapterFile::mix(&[(small, 1.0), (known.to_file().unwrap(), 1.0)]).unwrap_err();
    assert!(matches!(error, AdapterError::ShapeMismatch { .. }), "{error}");
    assert!(matches!(AdapterFile::mix(&[]), Err(AdapterError::Mix(_))));
    assert!(matches!(AdapterFile::mix(&[(peft(1), f32::INFINITY)]), Err(AdapterError::Mix(_))));
}

#[test]
fn a_shape_is_whole_or_absent() {
    let described = |set: Value| {
        let header = json!({
            "version": 1, "kind": "fourier", "base": null, "base_model": null, "task_type": null,
            "entries": [set], "modules": [{"name": "m", "entries": 0, "alpha": 2.0}],
        });
        let spectrum = ("m.spectrum", "F32", vec![2], f32s(&[1.0, 2.0]));
        AdapterFile::from_single_bytes(&safetensors(Some(&header.to_string()), &[spectrum]))
    };
    let file = described(json!({"n": 2, "source": "biased", "seed": 1, "center": 1.0, "bandwidth": 2.0})).unwrap();
    let adapter = file.resolve(&PlanCache::new(), |_| Some((4, 6))).unwrap();
    let entries = adapter.get("m").unwrap().as_fourier().unwrap().entries().clone();
    assert_eq!(entries, Entries::biased(shape(4, 6), 2, 1, 1.0, 2.0).unwrap());
    for set in [
        json!({"out": 4, "n": 2, "source": "seeded", "seed": 1}),
        json!({"in": 4, "n": 2, "source": "seeded", "seed": 1}),
        json!({"n": 2, "source": "explicit"}),
        json!({"n": 0, "source": "seeded", "seed": 1}),
    ] {
        let error = described(set.clone()).unwrap_err();
        assert!(matches!(error, AdapterError::Inconsistent(_)), "{set}: {error}");
    }
}

#[test]
fn targets_without_a_spectrum_are_found() {
    let linears = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "mlp.gate_proj"];
    let names: Vec<String> = (0..30).flat_map(|i| linears.map(|linear| format!("model.layers.{i}.{linear}"))).collect();
    let model = || names.iter().map(String::as_str);
    let missing = |adapter: &Adapter| adapter.missing(model()).unwrap();
    let cache = PlanCache::new();
    let whole = load(fixture("adapters/devil")).resolve(&cache, smollm2).unwrap();
    assert!(missing(&whole).is_empty());

    let q0 = "model.layers.0.self_attn.q_proj";
    let part = |changes: Value| {
        let file = AdapterFile::from_peft_bytes(&config(changes), &weights(&[(q0, &coefficients(4, 1))])).unwrap();
        file.resolve(&cache, smollm2).unwrap()
    };
    let lacking = missing(&part(json!({})));
    assert_eq!((lacking.len(), lacking[0].as_str()), (59, "model.layers.0.self_attn.v_proj"));
    assert!(missing(&part(json!({"target_modules": [q0]}))).is_empty());
    assert!(missing(&part(json!({"target_modules": r".*\.0\.self_attn\.[qo]_proj"}))).is_empty());
    assert_eq!(missing(&part(json!({"layers_to_transform": [0]}))), ["model.layers.0.self_attn.v_proj"]);
    assert_eq!(missing(&part(json!({"exclude_modules": r".*\.v_proj"}))).len(), 29);
    assert_eq!(missing(&part(json!({"target_modules": "all-linear"}))).len(), 119);
    // Without a configuration nothing is promised.
    assert!(missing(&seeded(&cache, 4, 1, 1.0, 1)).is_empty());
    // Saved without a configuration, the selection is what is there.
    let folder = tempfile::tempdir().unwrap();
    let (single, peft) = (folder.path().join("a.safetensors"), folder.path().join("a"));
    part(json!({})).save_single(&single, false).unwrap();
    load(&single).save_peft(&peft).unwrap();
    assert!(missing(&load(&peft).resolve(&cache, smollm2).unwrap()).is_empty());

    // Asked at every swap, so it must not be felt; far below this bound, which allows for a loaded machine.
    let names: Vec<String> = (0..210).map(|i| format!("model.layers.{}.mlp.linear_{}", i / 7, i % 7)).collect();
    for adapter in [
        part(json!({"layers_to_transform": [0], "exclude_modules": r".*\.v_proj"})),
        part(json!({"target_modules": r".*\.(?:0|1)\.self_attn\.(q|o)_proj", "exclude_modules": "lm_head"})),
    ] {
        let begin = Instant::now();
        let missing = adapter.missing(names.iter().map(String::as_str)).unwrap();
        let took = begin.elapsed();
        println!("{} names in {took:?}", names.len());
        assert!(missing.is_empty() && took.as_millis() < 20, "{missing:?} in {took:?}");
    }
}
