//! LoRA's files: what PEFT's configuration means, what is refused, and every form written and read again.

mod adapter_support;

use std::path::Path;

use adapter_support::{cause, coefficients, f32s, fixture, safetensors, smollm2};
use proptest::prelude::*;
use serde_json::{Value, json};
use timbre::adapter::{Adapter, AdapterError, AdapterFile, LoraInit, LoraMethod, Method, PeftConfig};
use timbre::spectral::PlanCache;

const M: &str = "model.layers.0.q_proj";

/// PEFT's own configuration with `changes` applied: rank 2, alpha 8.
fn config(changes: Value) -> Vec<u8> {
    let path = fixture("adapters/devil-lora").join("adapter_config.json");
    let mut config: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    config["r"] = json!(2);
    config["lora_alpha"] = json!(8);
    for (name, value) in changes.as_object().unwrap() {
        config[name] = value.clone();
    }
    config.to_string().into_bytes()
}

fn read(changes: Value) -> Result<PeftConfig, AdapterError> {
    PeftConfig::from_json(&config(changes))
}

fn method(config: &PeftConfig) -> &LoraMethod {
    match &config.method {
        Method::Lora(method) => method,
        Method::Fourier(_) => panic!("not LoRA's"),
    }
}

fn key(module: &str, factor: &str) -> String {
    format!("base_model.model.{module}.lora_{factor}.weight")
}

/// Weights with both factors of each module, `(name, out, in, rank)`.
fn weights(modules: &[(&str, usize, usize, usize)]) -> Vec<u8> {
    let mut tensors = Vec::new();
    for (i, &(name, out, inputs, rank)) in (0u32..).zip(modules) {
        tensors.push((key(name, "A"), vec![rank, inputs], f32s(&coefficients(rank * inputs, i))));
        tensors.push((key(name, "B"), vec![out, rank], f32s(&coefficients(out * rank, i + 100))));
    }
    let tensors: Vec<_> = tensors.iter().map(|(n, s, d)| (n.as_str(), "F32", s.clone(), d.clone())).collect();
    safetensors(None, &tensors)
}

fn parse(changes: Value, weights: &[u8]) -> Result<AdapterFile, AdapterError> {
    AdapterFile::from_peft_bytes(&config(changes), weights)
}

/// The adapter of a file that carries its shapes.
fn resolved(file: &AdapterFile) -> Adapter {
    file.resolve(&PlanCache::new(), |module| file.shape_of(module)).unwrap()
}

/// A module's factors, bit for bit, and what they are multiplied with.
fn bits(adapter: &Adapter, name: &str) -> (Vec<u32>, Vec<u32>, f64) {
    let delta = adapter.get(name).unwrap().as_lora().unwrap();
    let bits = |values: &[f32]| values.iter().map(|v| v.to_bits()).collect();
    (bits(delta.a()), bits(&delta.b()), delta.scale().factor(delta.rank()))
}

#[test]
fn a_real_adapter_loads() {
    let path = fixture("adapters/devil-lora");
    let file = AdapterFile::load(&path).unwrap();
    let adapter = file.resolve(&PlanCache::new(), smollm2).unwrap();
    assert_eq!((adapter.len(), adapter.parameters(), adapter.alpha()), (60, 460_800, Some(16.0)));
    let q = adapter.get("model.layers.3.self_attn.q_proj").unwrap().as_lora().unwrap();
    assert_eq!((q.rank(), q.scale().factor(8), q.scale().rank_stabilized), (8, 2.0, false));
    let size = std::fs::metadata(path.join("adapter_model.safetensors")).unwrap().len();
    assert!(adapter.bytes() as f64 <= 1.02 * size as f64, "{} bytes for a file of {size}", adapter.bytes());
    // A PEFT directory of LoRA says the shapes itself.
    assert_eq!(file.shape_of("model.layers.3.self_attn.v_proj"), Some((192, 576)));
    let summary = serde_json::to_value(file.summary()).unwrap();
    assert_eq!((&summary["kind"], &summary["parameters"]), (&json!("lora"), &json!(460_800)));
    let module = json!({
        "name": "model.layers.0.self_attn.q_proj", "shape": [576, 576], "rank": 8, "alpha": 16.0,
        "rank_stabilized": false, "parameters": 8 * (576 + 576),
    });
    assert_eq!(summary["modules"][0], module);
    assert_eq!(adapter.summary(), file.summary());
}

#[test]
fn from_peft_to_our_form_and_back_nothing_changes() {
    let folder = tempfile::tempdir().unwrap();
    let source = fixture("adapters/devil-lora");
    let (single, back, again) =
        (folder.path().join("a.safetensors"), folder.path().join("back"), folder.path().join("again"));
    let file = AdapterFile::load(&source).unwrap();
    file.save_single(&single, false).unwrap();
    AdapterFile::load(&single).unwrap().save_peft(&back).unwrap();
    file.save_peft(&again).unwrap();
    let tensors = |dir: &Path| std::fs::read(dir.join("adapter_model.safetensors")).unwrap();
    let theirs = tensors(&source);
    let theirs = safetensors::SafeTensors::deserialize(&theirs).unwrap();
    for dir in [&back, &again] {
        let ours = tensors(dir);
        let ours = safetensors::SafeTensors::deserialize(&ours).unwrap();
        assert_eq!(ours.len(), theirs.len());
        for (name, tensor) in theirs.iter() {
            let own = ours.tensor(name).unwrap();
            assert_eq!((own.dtype(), own.shape(), own.data()), (tensor.dtype(), tensor.shape(), tensor.data()));
        }
    }
    let json = |dir: &Path| -> Value {
        serde_json::from_slice(&std::fs::read(dir.join("adapter_config.json")).unwrap()).unwrap()
    };
    assert_eq!(json(&again), json(&source), "every field, as PEFT wrote it");
    // Through the single file only the selection is said in other words.
    let (mut ours, mut theirs) = (json(&back), json(&source));
    assert_eq!(ours["target_modules"].as_array().unwrap().len(), 60);
    (ours["target_modules"], theirs["target_modules"]) = (Value::Null, Value::Null);
    assert_eq!(ours, theirs);
}

#[test]
fn ranks_and_alphas_follow_the_first_pattern_that_matches() {
    let numbers = |changes: Value, module: &str| {
        let config = read(changes).unwrap();
        let method = method(&config);
        (method.ranks().unwrap().get(module).unwrap(), method.alphas().unwrap().get(module).unwrap())
    };
    let q3 = "model.layers.3.self_attn.q_proj";
    assert_eq!(numbers(json!({}), q3), (2, 8.0));
    assert_eq!(numbers(json!({"rank_pattern": {"q_proj": 5}, "alpha_pattern": {"v_proj": 1}}), q3), (5, 8.0));
    assert_eq!(numbers(json!({"rank_pattern": {"q_proj": 5}}), "q_proj").0, 5, "the whole name needs no dot");
    assert_eq!(numbers(json!({"rank_pattern": {"_proj": 5}}), q3).0, 2, "an ending begins after a dot");
    assert_eq!(numbers(json!({"rank_pattern": {"self_attn": 5}}), q3).0, 2, "the middle of a name is no match");
    assert_eq!(numbers(json!({"rank_pattern": {format!("^{q3}"): 5}}), q3).0, 5);
    assert_eq!(numbers(json!({"rank_pattern": {"^q_proj": 5}}), q3).0, 2);
    assert_eq!(numbers(json!({"rank_pattern": {"v_proj|q_proj": 5}}), q3).0, 5, "PEFT puts brackets around a key");
    let order = json!({"rank_pattern": {r"layers\.[0-4]\..*": 7, "q_proj": 5}});
    assert_eq!(numbers(order, q3).0, 7);
    let order = json!({"alpha_pattern": {"q_proj": 0.5, r"layers\.[0-4]\..*": 7}});
    assert_eq!(numbers(order, q3).1, 0.5);
}

#[test]
fn the_scale_is_pefts() {
    let factor = |changes: Value| bits(&resolved(&parse(changes, &weights(&[(M, 3, 4, 2)])).unwrap()), M).2;
    assert_eq!(factor(json!({})), 4.0);
    assert_eq!(factor(json!({"use_rslora": true})), 8.0 / 2f64.sqrt());
    assert_eq!(factor(json!({"alpha_pattern": {"q_proj": -1.5}})), -0.75);
    assert_eq!(factor(json!({"lora_alpha": 0})), 0.0);
    let wide = parse(json!({"rank_pattern": {"q_proj": 9}}), &weights(&[(M, 3, 4, 9)])).unwrap();
    assert_eq!(bits(&resolved(&wide), M).2, 8.0 / 9.0, "a rank above both sides is a rank");
}

#[test]
fn every_field_is_honoured_or_refused_by_name() {
    let field = |changes: Value, name: &str| {
        let error = read(changes.clone()).unwrap_err();
        assert!(
            matches!(&error, AdapterError::Field { field, .. } | AdapterError::Unsupported { field, .. } if field == name),
            "{changes}: {error}"
        );
    };
    for value in [json!(0), json!(-1), json!(1.5), json!("4"), json!(null)] {
        field(json!({ "r": value }), "r");
        field(json!({ "rank_pattern": {"q_proj": value} }), "rank_pattern");
    }
    for value in [json!("8"), json!(null), json!(true)] {
        field(json!({ "lora_alpha": value }), "lora_alpha");
        field(json!({ "alpha_pattern": {"q_proj": value} }), "alpha_pattern");
    }
    field(json!({"rank_pattern": ["q"]}), "rank_pattern");
    let many: serde_json::Map<String, Value> = (0..5000).map(|i| (format!("m{i}"), json!(4))).collect();
    field(json!({ "rank_pattern": many }), "rank_pattern");
    field(json!({"use_rslora": 1}), "use_rslora");
    field(json!({"lora_dropout": "0"}), "lora_dropout");
    field(json!({"bias": "all"}), "bias");
    field(json!({"bias": "lora_only"}), "bias");
    field(json!({"modules_to_save": ["lm_head"]}), "modules_to_save");
    field(json!({"target_modules": null}), "target_modules");
    field(json!({"target_modules": []}), "target_modules");
    // What makes another method of it.
    for (name, value) in [
        ("use_dora", json!(true)),
        ("use_qalora", json!(true)),
        ("lora_bias", json!(true)),
        ("layer_replication", json!([[0, 4], [2, 5]])),
        ("trainable_token_indices", json!([1, 2])),
        ("trainable_token_indices", json!({"embed_tokens": [1]})),
        ("target_parameters", json!(["mlp.experts.gate_up_proj"])),
        ("megatron_config", json!({"hidden_size": 1})),
        ("alora_invocation_tokens", json!([1, 2])),
        ("ensure_weight_tying", json!(true)),
        ("arrow_config", json!({"top_k": 3})),
        ("eva_config", json!({"rho": 2.0})),
        ("corda_config", json!({"corda_method": "ipm"})),
        ("lora_ga_config", json!({"direction": "ArB2r"})),
        ("loftq_config", json!({"loftq_bits": 4})),
        ("kasa_config", json!({"beta": 1e-4})),
        ("monteclora_config", json!({"num_samples": 8})),
        ("use_bdlora", json!({"nblocks": 2})),
        ("velora_config", json!({"num_groups": 2})),
        // Read by PEFT as the method with its defaults.
        ("arrow_config", json!({})),
        ("kasa_config", json!({})),
        ("monteclora_config", json!({})),
        ("use_bdlora", json!({})),
        ("velora_config", json!({})),
        ("init_lora_weights", json!("pissa")),
        ("init_lora_weights", json!("pissa_niter_16")),
        ("init_lora_weights", json!("olora")),
        ("init_lora_weights", json!("corda")),
        ("init_lora_weights", json!("loftq")),
        ("init_lora_weights", json!("lora_ga")),
        ("init_lora_weights", json!("eva")),
        ("init_lora_weights", json!("mica")),
        ("init_lora_weights", json!(null)),
        ("n_frequency", json!(1000)),
        ("use_something_new", json!(true)),
        ("use_something_new", json!(0)),
    ] {
        let error = read(json!({ name: value })).unwrap_err();
        assert!(matches!(&error, AdapterError::Unsupported { field, .. } if field == name), "{name}: {error}");
    }
    for value in [json!(null), json!(false), json!(""), json!([]), json!({})] {
        read(json!({ "use_something_new": value })).unwrap();
    }
    // Without effect on a trained adapter.
    let harmless = json!({
        "lora_dropout": 0.25, "megatron_core": "other.core", "qalora_group_size": 32, "inference_mode": false,
        "revision": "main", "auto_mapping": {"base_model_class": "X"}, "runtime_config": {"a": 1}, "peft_version": "9",
        "fan_in_fan_out": true, "init_lora_weights": "gaussian", "layer_replication": [], "eva_config": null,
    });
    let kept = read(harmless).unwrap();
    assert!(kept.fan_in_fan_out && method(&kept).init == LoraInit::Gaussian && method(&kept).lora_dropout == 0.25);
    assert_eq!(PeftConfig::from_json(kept.to_json().as_bytes()).unwrap(), kept, "and kept");
    for (value, init) in [(json!(false), LoraInit::Random), (json!("orthogonal"), LoraInit::Orthogonal)] {
        assert_eq!(method(&read(json!({ "init_lora_weights": value })).unwrap()).init, init);
    }
}

#[test]
fn absent_fields_have_pefts_defaults() {
    let read = PeftConfig::from_json(br#"{"peft_type": "LORA", "target_modules": ["q"]}"#).unwrap();
    let method = method(&read);
    assert_eq!((method.r, method.lora_alpha, method.use_rslora, method.init), (8, 8.0, false, LoraInit::Default));
    assert_eq!(PeftConfig::from_json(read.to_json().as_bytes()).unwrap(), read);
}

#[test]
fn half_precision_is_read() {
    let (a, b) = ([1.0f32, -0.5, 0.25, 3.0], [2.0f32, -8.0]);
    let halves = |of: fn(f32) -> [u8; 2], values: &[f32]| values.iter().flat_map(|v| of(*v)).collect::<Vec<u8>>();
    let f16 = |v: f32| half::f16::from_f32(v).to_le_bytes();
    let bf16 = |v: f32| half::bf16::from_f32(v).to_le_bytes();
    for (dtype, of) in [("F16", f16 as fn(f32) -> [u8; 2]), ("BF16", bf16)] {
        let (key_a, key_b) = (key(M, "A"), key(M, "B"));
        let tensors =
            [(key_a.as_str(), dtype, vec![1, 4], halves(of, &a)), (&key_b, dtype, vec![2, 1], halves(of, &b))];
        let file = parse(json!({"r": 1}), &safetensors(None, &tensors)).unwrap();
        let adapter = resolved(&file);
        let delta = adapter.get(M).unwrap().as_lora().unwrap();
        assert_eq!((delta.a(), delta.b()), (&a[..], b.to_vec()));
    }
}

#[test]
fn factors_must_be_whole_and_agree() {
    let both = |a: (&str, Vec<usize>, Vec<u8>), b: (&str, Vec<usize>, Vec<u8>)| {
        let (key_a, key_b) = (key(M, "A"), key(M, "B"));
        parse(json!({}), &safetensors(None, &[(&key_a, a.0, a.1, a.2), (&key_b, b.0, b.1, b.2)]))
    };
    let f32_of = |shape: Vec<usize>| {
        let len = shape.iter().product::<usize>();
        ("F32", shape, f32s(&coefficients(len, 1)))
    };
    both(f32_of(vec![2, 4]), f32_of(vec![3, 2])).unwrap();
    // A rank other than the configuration's, in both or in one.
    let error = both(f32_of(vec![3, 4]), f32_of(vec![3, 3])).unwrap_err();
    assert!(matches!(&error, AdapterError::RankMismatch { module, expected: 2, found: 3 } if module == M), "{error}");
    for (a, b) in [
        (vec![2, 4], vec![3, 3]),
        (vec![3, 4], vec![3, 2]),
        (vec![2, 4], vec![6]),
        (vec![8], vec![3, 2]),
        (vec![2, 4, 1], vec![3, 2]),
        (vec![2, 2, 1, 1], vec![3, 2, 1, 1]),
        (vec![0, 4], vec![3, 0]),
        (vec![2, 0], vec![3, 2]),
        (vec![2, 4], vec![0, 2]),
        (vec![4, 2], vec![2, 3]),
    ] {
        let error = both(f32_of(a.clone()), f32_of(b.clone())).unwrap_err();
        assert!(matches!(error, AdapterError::TensorShape { .. }), "{a:?} {b:?}: {error}");
    }
    for (dtype, width) in [("F64", 8), ("I32", 4), ("U8", 1), ("BOOL", 1)] {
        let error = both((dtype, vec![2, 4], vec![0; 8 * width]), f32_of(vec![3, 2])).unwrap_err();
        assert!(matches!(&error, AdapterError::Dtype { found, .. } if found == dtype), "{error}");
        let error = both(f32_of(vec![2, 4]), (dtype, vec![3, 2], vec![0; 6 * width])).unwrap_err();
        assert!(matches!(&error, AdapterError::Dtype { name, .. } if *name == key(M, "B")), "{error}");
    }
    for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let mut a = coefficients(8, 1);
        a[5] = value;
        let error = both(("F32", vec![2, 4], f32s(&a)), f32_of(vec![3, 2])).unwrap_err();
        assert!(
            matches!(&error, AdapterError::NonFinite { module, index: 5, .. } if *module == key(M, "A")),
            "{error}"
        );
        let mut b = coefficients(6, 1);
        b[0] = value;
        let error = both(f32_of(vec![2, 4]), ("F32", vec![3, 2], f32s(&b))).unwrap_err();
        assert!(
            matches!(&error, AdapterError::NonFinite { module, index: 0, .. } if *module == key(M, "B")),
            "{error}"
        );
    }
    for missing in ["A", "B"] {
        let other = key(M, if missing == "A" { "B" } else { "A" });
        let shape = if missing == "A" { vec![3, 2] } else { vec![2, 4] };
        let (dtype, shape, data) = f32_of(shape);
        let error = parse(json!({}), &safetensors(None, &[(&other, dtype, shape, data)])).unwrap_err();
        assert!(matches!(&error, AdapterError::MissingTensor { name } if *name == key(M, missing)), "{error}");
    }
    let tall = (1usize << 23, 1usize);
    let error = both(f32_of(vec![2, 4]), ("F16", vec![tall.0, 2], vec![0; 4 << 23])).unwrap_err();
    assert!(matches!(error, AdapterError::Entries { .. }), "{error}");
}

#[test]
fn only_targeted_factors_belong_in_the_file() {
    let error = parse(json!({}), &weights(&[(M, 3, 4, 2), ("model.layers.0.k_proj", 3, 4, 2)])).unwrap_err();
    assert!(matches!(&error, AdapterError::NotTargeted { module } if module == "model.layers.0.k_proj"), "{error}");
    let named =
        |name: &str| parse(json!({}), &safetensors(None, &[(name, "F32", vec![2, 4], vec![0; 32])])).unwrap_err();
    for name in [
        "base_model.model.lm_head.weight",
        "model.layers.0.q_proj.lora_A.weight",
        "base_model.model.q_proj.lora_A.default.weight",
        "base_model.model.q_proj.fourierft_spectrum",
        "base_model.model.q_proj.lora_A",
        "",
    ] {
        let error = named(name);
        assert!(matches!(&error, AdapterError::UnknownTensor { name: n } if n == name), "{error}");
    }
    for (name, words) in [
        ("base_model.model.model.embed_tokens.lora_embedding_A", "LoRA on an embedding"),
        ("base_model.model.q_proj.lora_magnitude_vector.weight", "DoRA"),
        ("base_model.model.q_proj.lora_B.bias", "bias"),
    ] {
        let error = named(name);
        assert!(matches!(&error, AdapterError::Method { name: n, .. } if n == name), "{error}");
        assert!(error.to_string().contains(words), "{error}");
    }
    for name in ["", "a\u{1b}[2Jq_proj", &"x".repeat(600)] {
        let error = named(&key(name, "A"));
        assert!(matches!(error, AdapterError::ModuleName { .. }), "{error}");
    }
    assert!(matches!(parse(json!({}), &safetensors(None, &[])), Err(AdapterError::NoModules)));
    // A header that lies is refused for either kind by the same reader.
    let good = weights(&[(M, 3, 4, 2)]);
    for cut in [0, 4, 8, 20, good.len() - 1] {
        assert!(matches!(parse(json!({}), &good[..cut]), Err(AdapterError::Safetensors(_))));
    }
    assert!(matches!(parse(json!({}), &[&good[..], &[0]].concat()), Err(AdapterError::Safetensors(_))));
    let pattern = |changes| parse(changes, &good).unwrap_err();
    for changes in [json!({"rank_pattern": {"[": 2}}), json!({"alpha_pattern": {"(": 2}})] {
        assert!(matches!(pattern(changes), AdapterError::Pattern { .. }));
    }
    let slow = json!({"rank_pattern": {r"(?:(?=(\w|\.)+)(?:\w|\.)+)+(?=!)x": 2}});
    let start = std::time::Instant::now();
    let _ = parse(slow, &good);
    assert!(start.elapsed().as_secs() < 5);
}

#[cfg(unix)]
#[test]
fn a_folder_holds_two_regular_files() {
    use std::os::unix::fs::symlink;
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("adapter_config.json"), config(json!({}))).unwrap();
    let path = dir.path().join("adapter_model.safetensors");
    let load = || cause(AdapterFile::load(dir.path()).unwrap_err());
    assert!(matches!(load(), AdapterError::Missing { file: "adapter_model.safetensors" }));
    for target in ["/dev/zero", "/"] {
        symlink(target, &path).unwrap();
        assert!(matches!(load(), AdapterError::NotRegular), "{target}");
        std::fs::remove_file(&path).unwrap();
    }
    std::fs::write(&path, weights(&[(M, 3, 4, 2)])).unwrap();
    AdapterFile::load(dir.path()).unwrap();
}

#[test]
fn a_model_that_does_not_fit_is_refused_whole() {
    let file = parse(json!({}), &weights(&[(M, 3, 4, 2), ("model.layers.0.v_proj", 5, 4, 2)])).unwrap();
    let cache = PlanCache::new();
    let error = file.resolve(&cache, |m| (m == M).then_some((3, 4))).unwrap_err();
    assert!(matches!(&error, AdapterError::UnknownModule { module } if module == "model.layers.0.v_proj"), "{error}");
    let error = file.resolve(&cache, |_| Some((3, 4))).unwrap_err();
    assert_eq!(error.to_string(), "model.layers.0.v_proj: made for a 5x4 weight, the model's is 3x4");
    assert!(matches!(file.resolve(&cache, |_| Some((0, 4))), Err(AdapterError::Entries { .. })));
    let based = resolved(&file).with_base("abc");
    assert!(matches!(based.check_base("def"), Err(AdapterError::BaseMismatch { .. })));
}

#[test]
fn modules_with_their_own_ranks_and_alphas_are_saved_by_pattern() {
    let folder = tempfile::tempdir().unwrap();
    let changes = json!({
        "rank_pattern": {"layers.0.q_proj": 3, "v_proj": 5}, "alpha_pattern": {"layers.1.q_proj": 0.3},
        "use_rslora": true, "lora_dropout": 0.5, "layers_to_transform": [0, 1],
    });
    let names = ["model.layers.0.q_proj", "model.layers.0.v_proj", "model.layers.1.q_proj", "model.layers.1.v_proj"];
    let sizes = [(4, 6, 3), (2, 6, 5), (4, 6, 2), (2, 6, 5)];
    let modules: Vec<_> = names.iter().zip(sizes).map(|(name, (out, i, r))| (*name, out, i, r)).collect();
    let file = parse(changes, &weights(&modules)).unwrap();
    let adapter = resolved(&file);
    let (peft, single, back) =
        (folder.path().join("peft"), folder.path().join("a.safetensors"), folder.path().join("back"));
    adapter.save_peft(&peft).unwrap();
    assert_eq!(AdapterFile::load(&peft).unwrap().config(), file.config(), "the selection is the same");
    adapter.save_single(&single, false).unwrap();
    let one = AdapterFile::load(&single).unwrap();
    assert_eq!(one.summary(), adapter.summary());
    // The single file has no configuration: what is written names every module.
    one.save_peft(&back).unwrap();
    for path in [&peft, &single, &back] {
        let again = resolved(&AdapterFile::load(path).unwrap());
        assert!(again.modules().map(|(name, _)| name).eq(names));
        for name in names {
            assert_eq!(bits(&again, name), bits(&adapter, name), "{}", path.display());
        }
    }
    // Written again it is the same file.
    let before = std::fs::read(&single).unwrap();
    one.save_single(&single, false).unwrap();
    assert_eq!(std::fs::read(&single).unwrap(), before);
}

#[test]
fn what_peft_cannot_say_is_not_saved() {
    let folder = tempfile::tempdir().unwrap();
    let header = json!({
        "version": 1, "kind": "lora", "base": null, "base_model": null, "task_type": null,
        "modules": [
            {"name": "m.a", "alpha": 1.0, "rank_stabilized": true}, {"name": "m.b", "alpha": 1.0, "rank_stabilized": false},
        ],
    });
    let tensors =
        ["m.a.lora_A", "m.a.lora_B", "m.b.lora_A", "m.b.lora_B"].map(|n| (n, "F32", vec![1, 1], f32s(&[1.0])));
    let file = AdapterFile::from_single_bytes(&safetensors(Some(&header.to_string()), &tensors)).unwrap();
    let error = file.save_peft(&folder.path().join("a")).unwrap_err();
    assert!(matches!(error, AdapterError::NotPeft(_)), "{error}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

/// A single file with one module `m`, `changes` (a JSON pointer and a value each) made to its description.
fn described(changes: &[(&str, Value)], b: Vec<usize>) -> Result<AdapterFile, AdapterError> {
    let mut header = json!({
        "version": 1, "kind": "lora", "base": null, "base_model": null, "task_type": null,
        "modules": [{"name": "m", "alpha": 2.0, "rank_stabilized": false}],
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
    let values = f32s(&coefficients(b.iter().product(), 1));
    let tensors = [("m.lora_A", "F32", vec![2, 3], f32s(&coefficients(6, 1))), ("m.lora_B", "F32", b, values)];
    AdapterFile::from_single_bytes(&safetensors(Some(&header.to_string()), &tensors))
}

#[test]
fn a_description_must_be_whole_and_true() {
    let good = || vec![4, 2];
    assert_eq!(described(&[], good()).unwrap().shape_of("m"), Some((4, 3)));
    let version = described(&[("/version", json!(2)), ("/extra", json!(1))], good()).unwrap_err();
    assert!(matches!(version, AdapterError::Version { found: 2, expected: 1 }), "{version}");
    let kind = described(&[("/kind", json!("loha"))], good()).unwrap_err();
    assert!(matches!(&kind, AdapterError::Unsupported { found, .. } if found == "loha"), "{kind}");
    for (pointer, value) in [
        ("/kind", json!("fourier")),
        ("/extra", json!(1)),
        ("/entries", json!([])),
        ("/modules/0/rank", json!(2)),
        ("/modules/0/alpha", json!(null)),
        ("/modules/0/rank_stabilized", json!(null)),
        ("/modules", json!({})),
    ] {
        let error = described(&[(pointer, value)], good()).unwrap_err();
        assert!(matches!(error, AdapterError::Json(_)), "{pointer}: {error}");
    }
    let module = json!({"name": "m", "alpha": 2.0, "rank_stabilized": false});
    let error = described(&[("/modules", json!([module, module]))], good()).unwrap_err();
    assert!(matches!(error, AdapterError::Duplicate { .. }), "{error}");
    let error = described(&[("/modules", json!([]))], good()).unwrap_err();
    assert!(matches!(error, AdapterError::UnknownTensor { .. }), "{error}");
    let error = described(&[("/modules/0/name", json!("other"))], good()).unwrap_err();
    assert!(matches!(&error, AdapterError::MissingTensor { name } if name == "other.lora_A"), "{error}");
    let error = described(&[("/modules/0/name", json!("a\nb"))], good()).unwrap_err();
    assert!(matches!(error, AdapterError::ModuleName { .. }), "{error}");
    for b in [vec![4, 3], vec![8], vec![4, 2, 1], vec![0, 2]] {
        let error = described(&[], b.clone()).unwrap_err();
        assert!(matches!(error, AdapterError::TensorShape { .. }), "{b:?}: {error}");
    }
}

#[test]
fn half_precision_halves_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let [full, half] = ["32.safetensors", "16.safetensors"].map(|name| folder.path().join(name));
    let adapter = resolved(&parse(json!({}), &weights(&[(M, 30, 40, 2)])).unwrap());
    adapter.save_single(&full, false).unwrap();
    adapter.save_single(&half, true).unwrap();
    let len = |path| std::fs::metadata(path).unwrap().len();
    assert_eq!(len(&full) - len(&half), 2 * 140);
    let rounded = resolved(&AdapterFile::load(&half).unwrap());
    let (a, b) = (adapter.get(M).unwrap().as_lora().unwrap(), rounded.get(M).unwrap().as_lora().unwrap());
    assert!(a.a().iter().zip(b.a()).all(|(a, b)| half::f16::from_f32(*a).to_f32() == *b));
    let (key_a, key_b) = (key(M, "A"), key(M, "B"));
    let tensors = [
        (key_a.as_str(), "F32", vec![2, 1], f32s(&[1.0, 1.0])),
        (key_b.as_str(), "F32", vec![1, 2], f32s(&[1.0, 65_520.0])),
    ];
    let large = parse(json!({}), &safetensors(None, &tensors)).unwrap();
    let error = large.save_single(&half, true).unwrap_err();
    assert!(matches!(error, AdapterError::F16Range { index: 1, .. }), "{error}");
}

proptest! {
    #[test]
    fn a_damaged_file_is_an_answer(in_config in any::<proptest::sample::Index>(), in_weights in any::<proptest::sample::Index>(), a: u8, b: u8) {
        let (mut config, mut weights) = (config(json!({})), weights(&[(M, 3, 4, 2)]));
        *in_config.get_mut(&mut config) ^= a;
        *in_weights.get_mut(&mut weights) ^= b;
        if let Ok(file) = AdapterFile::from_peft_bytes(&config, &weights) {
            let _ = (file.summary(), file.resolve(&PlanCache::new(), |m| file.shape_of(m)));
        }
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.safetensors");
        described(&[], vec![4, 2]).unwrap().save_single(&path, false).unwrap();
        let mut bytes = std::fs::read(&path).unwrap();
        *in_weights.get_mut(&mut bytes) ^= b;
        if let Ok(file) = AdapterFile::from_single_bytes(&bytes) {
            let _ = (file.summary(), file.resolve(&PlanCache::new(), |m| file.shape_of(m)));
        }
    }
}
