//! PEFT directories: what is read, how fast, what every field of the configuration does, and what is written.

mod adapter_support;
mod spectral_support;

use std::path::Path;
use std::sync::Arc;

use adapter_support::{coefficients, config, fixture, module, planned, seeded, shape, smollm2, weights};
use proptest::prelude::*;
use serde_json::{Value, json};
use timbre::adapter::{Adapter, AdapterError, AdapterFile, FourierMethod, Method, Names, PeftConfig, Selection};
use timbre::spectral::{Entries, EntrySource, PlanCache};

fn load(dir: &Path, cache: &PlanCache) -> Adapter {
    AdapterFile::load(dir).unwrap().resolve(cache, smollm2).unwrap()
}

#[test]
fn a_real_adapter_loads() {
    let cache = PlanCache::new();
    let path = fixture("adapters/devil");
    let adapter = load(&path, &cache);
    assert_eq!(adapter.len(), 60);
    assert_eq!(adapter.parameters(), 60_000);
    assert_eq!(adapter.alpha(), Some(300.0));
    assert_eq!(adapter.origin().base_model.as_deref(), Some("HuggingFaceTB/SmolLM2-135M-Instruct"));
    assert_eq!(adapter.base(), None);
    let q = adapter.get("model.layers.3.self_attn.q_proj").unwrap();
    assert_eq!((q.shape().rows(), q.shape().cols()), (576, 576));
    assert_eq!(q.as_fourier().unwrap().entries().source(), EntrySource::Seeded { seed: 2024 });
    assert!(adapter.get("model.layers.3.self_attn.k_proj").is_none());
    // The file's own bytes and 10 %, which is what a thousand loaded adapters may cost each.
    let bytes: u64 = ["adapter_config.json", "adapter_model.safetensors"]
        .iter()
        .map(|f| std::fs::metadata(path.join(f)).unwrap().len())
        .sum();
    assert!(adapter.bytes() as f64 <= 1.1 * bytes as f64, "{} bytes for a file of {bytes}", adapter.bytes());

    // Another adapter of the same shape shares every plan.
    let other = load(&fixture("adapters/kjv"), &cache);
    let plan = |a: &Adapter| Arc::clone(a.get("model.layers.0.self_attn.q_proj").unwrap().as_fourier().unwrap().plan());
    assert!(Arc::ptr_eq(&plan(&adapter), &plan(&other)));

    let summary = serde_json::to_value(adapter.summary()).unwrap();
    assert_eq!(summary["parameters"], 60_000);
    assert_eq!(summary["modules"][0]["shape"], json!([576, 576]));
    assert_eq!(summary["modules"][0]["entries"], json!({"source": "seeded", "seed": 2024}));
    let unresolved = serde_json::to_value(AdapterFile::load(&path).unwrap().summary()).unwrap();
    assert_eq!(unresolved["modules"][0]["shape"], Value::Null);
}

#[test]
fn saving_is_bit_identical() {
    let folder = tempfile::tempdir().unwrap();
    let cache = PlanCache::new();
    let source = fixture("adapters/devil");
    let adapter = load(&source, &cache);
    let saved = folder.path().join("new/devil");
    adapter.save_peft(&saved).unwrap();
    let read = |dir: &Path| std::fs::read(dir.join("adapter_model.safetensors")).unwrap();
    let (ours, theirs) = (read(&saved), read(&source));
    let (ours, theirs) = (
        safetensors::SafeTensors::deserialize(&ours).unwrap(),
        safetensors::SafeTensors::deserialize(&theirs).unwrap(),
    );
    assert_eq!(ours.len(), theirs.len());
    for (name, tensor) in theirs.iter() {
        assert_eq!(ours.tensor(name).unwrap().data(), tensor.data(), "{name}");
    }
    let json = |dir: &Path| -> Value {
        serde_json::from_slice(&std::fs::read(dir.join("adapter_config.json")).unwrap()).unwrap()
    };
    let (ours, theirs) = (json(&saved), json(&source));
    assert_eq!(ours.as_object().unwrap().len(), theirs.as_object().unwrap().len());
    for (field, value) in theirs.as_object().unwrap() {
        assert_eq!(&ours[field], value, "{field}");
    }
    // Over an existing directory, other files stay.
    std::fs::write(saved.join("README.md"), "mine").unwrap();
    load(&fixture("adapters/kjv"), &cache).save_peft(&saved).unwrap();
    assert_eq!(read(&saved).len(), ours_len(&fixture("adapters/kjv"), &cache));
    assert_eq!(std::fs::read_dir(&saved).unwrap().count(), 3, "nothing temporary is left");
    assert_eq!(std::fs::read_dir(folder.path().join("new")).unwrap().count(), 1);
}

fn ours_len(source: &Path, cache: &PlanCache) -> usize {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("a");
    load(source, cache).save_peft(&dir).unwrap();
    std::fs::read(dir.join("adapter_model.safetensors")).unwrap().len()
}

#[test]
fn what_peft_cannot_say_is_not_saved() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("a");
    let refused = |modules| {
        let error = Adapter::new(modules).unwrap().save_peft(&dir).unwrap_err();
        assert!(matches!(error, AdapterError::NotPeft(_)), "{error}");
        assert!(!dir.exists());
    };
    let s = shape(6, 5);
    let drawn = |seed| Entries::seeded(s, 4, seed).unwrap();
    let c = coefficients(4, 1);
    refused(vec![module("m.a", Entries::biased(s, 4, 1, 2.0, 1.0).unwrap(), &c, 1.0)]);
    refused(vec![module("m.a", Entries::explicit(s, vec![0, 1, 2, 3], vec![0, 1, 2, 3]).unwrap(), &c, 1.0)]);
    refused(vec![module("m.a", drawn(1), &c, 1.0), module("m.b", drawn(2), &c, 1.0)]);
    refused(vec![module("m.a", drawn(1), &c, 1.0), module("m.b", drawn(1), &c, 2.0)]);
}

#[test]
fn modules_with_their_own_counts_are_saved_by_pattern() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("a");
    let s = shape(6, 5);
    let drawn = |name, n| module(name, Entries::seeded(s, n, u64::MAX).unwrap(), &coefficients(n, n as u32), 0.1);
    let modules = vec![drawn("model.a.q", 4), drawn("model.a.k", 7), drawn("model.b.q", 4), drawn("lone", 9)];
    Adapter::new(modules).unwrap().save_peft(&dir).unwrap();
    let file = AdapterFile::load(&dir).unwrap();
    let config = file.config().unwrap();
    let method = fourier(config);
    assert_eq!((method.n_frequency, method.scaling, method.random_loc_seed), (4, 0.1, u64::MAX));
    let again = file.resolve(&PlanCache::new(), |_| Some((6, 5))).unwrap();
    assert_eq!(again.get("model.a.k").unwrap().as_fourier().unwrap().coefficients(), coefficients(7, 7));
    assert_eq!(again.get("lone").unwrap().parameters(), 9);
}

/// Whether a configuration with these changes takes a module, and with how many coefficients.
fn selects(changes: Value, module: &str) -> (bool, usize) {
    let config = PeftConfig::from_json(&config(changes)).unwrap();
    let selection = Selection::new(&config).unwrap();
    (selection.selects(module).unwrap(), fourier(&config).n_frequencies().unwrap().get(module).unwrap())
}

fn fourier(config: &PeftConfig) -> &FourierMethod {
    match &config.method {
        Method::Fourier(method) => method,
        Method::Lora(_) => panic!("not FourierFT's"),
    }
}

#[test]
fn modules_are_selected_as_peft_selects_them() {
    let q3 = "model.layers.3.self_attn.q_proj";
    let yes = |changes: Value, module: &str| assert!(selects(changes.clone(), module).0, "{changes} {module}");
    let no = |changes: Value, module: &str| assert!(!selects(changes.clone(), module).0, "{changes} {module}");
    yes(json!({}), q3);
    no(json!({}), "model.layers.3.self_attn.k_proj");
    no(json!({}), "model.layers.3.self_attn.eq_proj");
    yes(json!({}), "q_proj");
    // A string is a regular expression for the whole name.
    yes(json!({"target_modules": r".*\.[35]\.self_attn\.(q|v)_proj"}), q3);
    no(json!({"target_modules": r".*\.[45]\.self_attn\.(q|v)_proj"}), q3);
    no(json!({"target_modules": "model|q_proj"}), q3);
    yes(json!({"target_modules": r"(?P<a>.*)q_proj(?<!k_proj)"}), q3);
    yes(json!({"target_modules": "ALL-linear"}), q3);
    no(json!({"target_modules": "all-linear"}), "lm_head");
    // Exclusion wins, by name, ending or expression.
    no(json!({"exclude_modules": ["q_proj"]}), q3);
    no(json!({"exclude_modules": [q3]}), q3);
    yes(json!({"exclude_modules": ["3.self_attn"]}), q3);
    no(json!({"exclude_modules": ".*layers.3.*"}), q3);
    yes(json!({"exclude_modules": "layers.3"}), q3);
    // Layers count where the module is named by its ending, not where it is named whole.
    yes(json!({"layers_to_transform": [1, 3]}), q3);
    no(json!({"layers_to_transform": [1, 2]}), q3);
    yes(json!({"layers_to_transform": 3}), q3);
    no(json!({"layers_to_transform": 4}), q3);
    yes(json!({"layers_to_transform": []}), q3);
    yes(json!({"layers_to_transform": [1], "target_modules": [q3]}), q3);
    yes(json!({"layers_to_transform": [3], "layers_pattern": "layers"}), q3);
    yes(json!({"layers_to_transform": [3], "layers_pattern": ["h", "layers"]}), q3);
    no(json!({"layers_to_transform": [3], "layers_pattern": "h"}), q3);
    // The first number is the layer, not an expert within it.
    yes(json!({"layers_to_transform": [1]}), "model.layers.1.experts.0.q_proj");
    no(json!({"layers_to_transform": [0]}), "model.layers.1.experts.0.q_proj");
}

#[test]
fn counts_follow_the_first_pattern_that_matches() {
    let q3 = "model.layers.3.self_attn.q_proj";
    let n = |pattern: Value| selects(json!({ "n_frequency_pattern": pattern }), q3).1;
    assert_eq!(n(json!({})), 4);
    assert_eq!(n(json!({"q_proj": 9})), 9);
    assert_eq!(n(json!({"_proj": 9})), 4, "a dot comes before the pattern");
    assert_eq!(n(json!({"v_proj": 9, r"[0-4]\.self_attn\.q_proj": 8, "q_proj": 7})), 8);
    assert_eq!(n(json!({"q_proj": 7, r"[0-4]\.self_attn\.q_proj": 8})), 7);
    // The whole name matches no expression, for want of the dot; PEFT then looks it up as it is.
    assert_eq!(n(json!({"model.layers.3.self_attn.q_proj": 6})), 6);
}

#[test]
fn every_field_is_honoured_or_refused_by_name() {
    let field = |changes: Value, name: &str| {
        let error = PeftConfig::from_json(&config(changes.clone())).unwrap_err();
        assert!(
            matches!(&error, AdapterError::Field { field, .. } | AdapterError::Unsupported { field, .. } if field == name),
            "{changes}: {error}"
        );
        assert!(error.to_string().contains(name));
    };
    for value in [json!(0), json!(-1), json!(1.5), json!("4"), json!(null), json!(true)] {
        field(json!({ "n_frequency": value }), "n_frequency");
    }
    field(json!({"scaling": null}), "scaling");
    field(json!({"scaling": "300"}), "scaling");
    field(json!({"random_loc_seed": null}), "random_loc_seed");
    field(json!({"random_loc_seed": 1.5}), "random_loc_seed");
    field(json!({"target_modules": null}), "target_modules");
    field(json!({"target_modules": []}), "target_modules");
    field(json!({"target_modules": [1]}), "target_modules");
    field(json!({"target_modules": {}}), "target_modules");
    field(json!({"exclude_modules": 3}), "exclude_modules");
    field(json!({"fan_in_fan_out": null}), "fan_in_fan_out");
    field(json!({"bias": "all"}), "bias");
    field(json!({"bias": "fourier_only"}), "bias");
    field(json!({"bias": null}), "bias");
    field(json!({"modules_to_save": ["lm_head"]}), "modules_to_save");
    field(json!({"layers_to_transform": ["a"]}), "layers_to_transform");
    field(json!({"layers_to_transform": [1], "target_modules": "q"}), "layers_to_transform");
    field(json!({"layers_pattern": "h"}), "layers_pattern");
    field(json!({"layers_pattern": "h", "target_modules": "q"}), "layers_pattern");
    field(json!({"n_frequency_pattern": {"q": 0}}), "n_frequency_pattern");
    field(json!({"n_frequency_pattern": ["q"]}), "n_frequency_pattern");
    field(json!({"init_weights": "ones"}), "init_weights");
    field(json!({"peft_type": null}), "peft_type");
    // Fields that are not FourierFT's: harmless while they ask for nothing.
    for value in [json!(null), json!(false), json!(""), json!([]), json!({})] {
        PeftConfig::from_json(&config(json!({ "use_something_new": value }))).unwrap();
    }
    for value in [json!(true), json!(0), json!(2), json!("x"), json!(["x"]), json!({"a": 1})] {
        field(json!({ "use_something_new": value }), "use_something_new");
    }
    let kept = json!({
        "auto_mapping": {"base_model_class": "X"}, "inference_mode": false, "peft_version": "9",
        "revision": "main", "runtime_config": {"a": 1}, "fan_in_fan_out": true, "init_weights": false,
        "random_loc_seed": -1, "modules_to_save": [], "scaling": 2,
    });
    let read = PeftConfig::from_json(&config(kept)).unwrap();
    assert!(read.fan_in_fan_out && !fourier(&read).init_weights);
    assert_eq!((fourier(&read).random_loc_seed, fourier(&read).scaling), (u64::MAX, 2.0));
    let many: serde_json::Map<String, Value> = (0..5000).map(|i| (format!("m{i}"), json!(4))).collect();
    field(json!({ "n_frequency_pattern": many }), "n_frequency_pattern");

    for found in ["LOHA", "ADALORA", "fourierft", "lora"] {
        let error = PeftConfig::from_json(&config(json!({ "peft_type": found }))).unwrap_err();
        assert!(matches!(&error, AdapterError::PeftType { found: f } if f == found), "{error}");
    }
}

#[test]
fn absent_fields_have_pefts_defaults() {
    let read = PeftConfig::from_json(br#"{"peft_type": "FOURIERFT", "target_modules": ["q"]}"#).unwrap();
    let method = fourier(&read);
    assert_eq!((method.n_frequency, method.scaling, method.random_loc_seed), (1000, 150.0, 777));
    assert_eq!(read.target_modules, Names::List(vec!["q".to_owned()]));
    assert!(!read.fan_in_fan_out && !method.init_weights && read.exclude_modules.is_none());
    assert_eq!(PeftConfig::from_json(read.to_json().as_bytes()).unwrap(), read);
}

#[test]
fn half_precision_spectra_are_read() {
    let values = [1.0f32, -0.5, 0.25, 3.0];
    let key = adapter_support::key("model.q_proj");
    let f16: Vec<u8> = values.iter().flat_map(|v| half::f16::from_f32(*v).to_le_bytes()).collect();
    let bf16: Vec<u8> = values.iter().flat_map(|v| half::bf16::from_f32(*v).to_le_bytes()).collect();
    for (dtype, data) in [("F16", f16), ("BF16", bf16)] {
        let bytes = adapter_support::safetensors(None, &[(&key, dtype, vec![4], data)]);
        let file = AdapterFile::from_peft_bytes(&config(json!({})), &bytes).unwrap();
        let adapter = file.resolve(&PlanCache::new(), |_| Some((8, 8))).unwrap();
        assert_eq!(adapter.get("model.q_proj").unwrap().as_fourier().unwrap().coefficients(), values);
    }
}

#[test]
fn a_model_that_does_not_fit_is_refused_whole() {
    let file = AdapterFile::from_peft_bytes(
        &config(json!({})),
        &weights(&[("model.q_proj", &[1., 2., 3., 4.]), ("model.v_proj", &[1., 2., 3., 4.])]),
    )
    .unwrap();
    let cache = PlanCache::new();
    let unknown = file.resolve(&cache, |m| (m == "model.q_proj").then_some((8, 8))).unwrap_err();
    assert!(matches!(unknown, AdapterError::UnknownModule { module } if module == "model.v_proj"));
    let small = file.resolve(&cache, |_| Some((1, 3))).unwrap_err();
    assert!(matches!(&small, AdapterError::Entries { module, .. } if module == "model.q_proj"), "{small}");
    assert!(matches!(file.resolve(&cache, |_| Some((0, 3))), Err(AdapterError::Entries { .. })));
    assert!(matches!(file.resolve(&cache, |_| Some((usize::MAX, 3))), Err(AdapterError::Entries { .. })));
}

proptest! {
    #[test]
    fn a_saved_directory_is_the_adapter(n in 1usize..40, seed: u64, alpha in -1e3f64..1e3, salt in 0u32..1000) {
        let cache = PlanCache::new();
        let adapter = seeded(&cache, n, seed, alpha, salt);
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().join("adapter");
        adapter.save_peft(&dir).unwrap();
        let again = AdapterFile::load(&dir).unwrap();
        let again = again.resolve(&cache, |m| Some((if m.ends_with('q') || m.contains("q_proj") { 12 } else { 5 }, 10)));
        let again = again.unwrap();
        prop_assert_eq!(again.alpha(), Some(alpha));
        for (name, delta) in adapter.modules() {
            let (a, b) = (delta.as_fourier().unwrap(), again.get(name).unwrap().as_fourier().unwrap());
            let bits = |c: Vec<f32>| c.into_iter().map(f32::to_bits).collect::<Vec<_>>();
            prop_assert_eq!(bits(a.coefficients()), bits(b.coefficients()));
            prop_assert!(a.entries().same_positions(b.entries()));
        }
    }
}

#[test]
fn planned_modules_are_found_by_name() {
    let cache = PlanCache::new();
    let plan = cache.seeded(shape(4, 4), 3, 1).unwrap();
    let named = |name: &str| planned(name, Arc::clone(&plan), &[1.0, 2.0, 3.0], 1.0);
    let adapter = Adapter::new(vec![named("b"), named("a.c"), named("a")]).unwrap();
    assert_eq!(adapter.modules().map(|(name, _)| name).collect::<Vec<_>>(), ["a", "a.c", "b"]);
    assert!(adapter.get("a.c").is_some() && adapter.get("c").is_none());
    assert!(matches!(Adapter::new(vec![]), Err(AdapterError::NoModules)));
    assert!(matches!(Adapter::new(vec![named("a"), named("a")]), Err(AdapterError::Duplicate { .. })));
    assert!(matches!(Adapter::new(vec![named("a\nb")]), Err(AdapterError::ModuleName { .. })));
    let adapter = adapter.with_base("abc");
    adapter.check_base("abc").unwrap();
    let wrong = adapter.check_base("def").unwrap_err();
    assert!(matches!(&wrong, AdapterError::BaseMismatch { found, expected } if found == "abc" && expected == "def"));
}
