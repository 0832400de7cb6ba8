//! `timbre adapter inspect`, `convert` and `mix`.

use std::path::Path;

use crate::common::{adapter, fixture, keys, max_difference, numbers, smollm2, text, timbre};

/// Some tokens, and what the adapters make of them. The reference kernels round nothing that would hide a difference.
fn logits(adapters: &[&str]) -> Vec<f64> {
    let model = smollm2();
    let args = ["logits", "--model", &model, "--tokens", "504,2086,314", "--kernels", "reference", "--json"];
    let named: Vec<&str> = adapters.iter().flat_map(|a| ["--adapter", a]).collect();
    numbers(&timbre(&[&args[..], &named].concat()).json()["logits"])
}

/// A copy of an adapter whose positions are drawn from another seed.
fn reseeded(name: &str, folder: &Path) -> String {
    let source = adapter(name);
    let copy = folder.join(format!("{name}-reseeded"));
    std::fs::create_dir(&copy).unwrap();
    let file = "adapter_model.safetensors";
    std::fs::copy(Path::new(&source).join(file), copy.join(file)).unwrap();
    let config = std::fs::read_to_string(Path::new(&source).join("adapter_config.json")).unwrap();
    let other = config.replace("\"random_loc_seed\": 2024", "\"random_loc_seed\": 777");
    assert_ne!(config, other);
    std::fs::write(copy.join("adapter_config.json"), other).unwrap();
    text(&copy)
}

#[test]
fn inspect_tells_what_a_file_holds() {
    let devil = adapter("devil");
    let report = timbre(&["adapter", "inspect", &devil, "--json"]).json();
    assert_eq!(keys(&report), ["kind", "base", "base_model", "parameters", "bytes", "modules"]);
    assert_eq!((report["parameters"].as_u64(), report["bytes"].as_u64()), (Some(60_000), Some(240_000)));
    assert_eq!(report["modules"].as_array().unwrap().len(), 60);
    let module = &report["modules"][0];
    assert_eq!(module["name"], "model.layers.0.self_attn.q_proj");
    assert_eq!((module["n"].as_u64(), module["alpha"].as_f64()), (Some(1000), Some(300.0)));
    assert_eq!(module["entries"], serde_json::json!({ "source": "seeded", "seed": 2024 }));
    let shown = timbre(&["adapter", "inspect", &devil]).ok().out;
    assert!(shown.contains("parameters  60000") && shown.contains("modules     60"), "{shown}");
}

#[test]
fn every_form_of_an_adapter_does_the_same() {
    let (devil, model) = (adapter("devil"), smollm2());
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| text(&folder.path().join(name));
    let (bare, full, half, back) =
        (path("bare.safetensors"), path("full.safetensors"), path("half.safetensors"), path("back"));
    timbre(&["adapter", "convert", &devil, &bare]).ok();
    timbre(&["adapter", "convert", &devil, &full, "--model", &model]).ok();
    timbre(&["adapter", "convert", &full, &half, "--f16"]).ok();
    timbre(&["adapter", "convert", &full, &back]).ok();

    let inspect = |path: &str| timbre(&["adapter", "inspect", path, "--json"]).json();
    assert!(inspect(&bare)["modules"][0]["shape"].is_null() && inspect(&bare)["base"].is_null());
    let described = inspect(&full);
    assert_eq!(described["modules"][0]["shape"], serde_json::json!([576, 576]));
    assert!(described["base"].as_str().is_some_and(|fingerprint| !fingerprint.is_empty()));
    let weights = |path: &str| std::fs::metadata(path).unwrap().len();
    assert!(weights(&half) < weights(&full) * 6 / 10);

    let expected = logits(&[&devil]);
    assert_ne!(expected, logits(&[]));
    for path in [&bare, &full, &back] {
        assert_eq!(logits(&[path]), expected, "{path}");
    }
    let rounded = max_difference(&logits(&[&half]), &expected);
    assert!(rounded > 0.0 && rounded < 0.1, "{rounded}");
}

#[test]
fn f16_is_for_single_files() {
    let (devil, kjv) = (adapter("devil"), adapter("kjv"));
    let folder = tempfile::tempdir().unwrap();
    let out = text(&folder.path().join("out"));
    timbre(&["adapter", "convert", &devil, &out, "--f16"]).fails(2, "--f16");
    timbre(&["adapter", "mix", &devil, &kjv, &out, "--f16"]).fails(2, "--f16");
    assert!(!Path::new(&out).exists());
}

#[test]
fn a_mix_is_the_weighted_sum() {
    let (devil, kjv) = (adapter("devil"), adapter("kjv"));
    let folder = tempfile::tempdir().unwrap();
    let weighted = [format!("{devil}=0.5"), format!("{kjv}=-0.25")];
    let [a, b] = weighted.each_ref().map(String::as_str);
    let expected = logits(&[a, b]);
    for name in ["mixed.safetensors", "mixed"] {
        let out = text(&folder.path().join(name));
        timbre(&["adapter", "mix", a, b, &out]).ok();
        let difference = max_difference(&logits(&[&out]), &expected);
        assert!(difference < 1e-3, "{name}: {difference}");
    }
}

#[test]
fn a_mix_that_needs_shapes_asks_for_the_base() {
    let (devil, model) = (adapter("devil"), smollm2());
    let folder = tempfile::tempdir().unwrap();
    let kjv = reseeded("kjv", folder.path());
    let weighted = [format!("{devil}=0.5"), format!("{kjv}=0.5")];
    let [a, b] = weighted.each_ref().map(String::as_str);
    let out = text(&folder.path().join("mixed.safetensors"));
    timbre(&["adapter", "mix", a, b, &out]).fails(1, "--model");
    assert!(!Path::new(&out).exists());
    timbre(&["adapter", "mix", a, b, &out, "--model", &model]).ok();
    let difference = max_difference(&logits(&[&out]), &logits(&[a, b]));
    assert!(difference < 1e-3, "{difference}");
    // PEFT draws positions from one seed: a union of two draws cannot be said in its form.
    timbre(&["adapter", "convert", &out, &text(&folder.path().join("peft"))]).fails(1, "PEFT");
}

#[test]
fn a_lora_is_an_adapter_in_every_verb() {
    let (lora, devil, model) = (fixture("adapters/devil-lora"), adapter("devil"), smollm2());
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| text(&folder.path().join(name));
    let report = timbre(&["adapter", "inspect", &lora, "--json"]).json();
    assert_eq!(keys(&report), ["kind", "base", "base_model", "parameters", "bytes", "modules"]);
    assert_eq!((report["kind"].as_str(), report["parameters"].as_u64()), (Some("lora"), Some(460_800)));
    let module = &report["modules"][0];
    assert_eq!(keys(module), ["name", "shape", "rank", "alpha", "rank_stabilized", "parameters"]);
    assert_eq!((module["rank"].as_u64(), module["alpha"].as_f64()), (Some(8), Some(16.0)));
    let shown = timbre(&["adapter", "inspect", &lora]).ok().out;
    assert!(shown.contains("kind        lora") && shown.contains("576 × 576, rank 8, α 16"), "{shown}");

    // Every form does the same.
    let expected = logits(&[&lora]);
    assert_ne!(expected, logits(&[]));
    let (single, half, back) = (path("a.safetensors"), path("half.safetensors"), path("back"));
    timbre(&["adapter", "convert", &lora, &single, "--model", &model]).ok();
    timbre(&["adapter", "convert", &lora, &half, "--f16"]).ok();
    timbre(&["adapter", "convert", &single, &back]).ok();
    for path in [&single, &back] {
        assert_eq!(logits(&[path]), expected, "{path}");
    }
    let rounded = max_difference(&logits(&[&half]), &expected);
    assert!(rounded > 0.0 && rounded < 0.1, "{rounded}");

    // A mix has both ranks; of two kinds there is none, but both run at once.
    let weighted = [format!("{lora}=0.5"), format!("{half}=0.25")];
    let [a, b] = weighted.each_ref().map(String::as_str);
    for out in [path("mixed"), path("mixed.safetensors")] {
        timbre(&["adapter", "mix", a, b, &out]).ok();
        assert_eq!(timbre(&["adapter", "inspect", &out, "--json"]).json()["modules"][0]["rank"], 16);
        let difference = max_difference(&logits(&[&out]), &logits(&[a, b]));
        assert!(difference < 1e-3, "{out}: {difference}");
    }
    let neither = path("neither.safetensors");
    timbre(&["adapter", "mix", &lora, &devil, &neither]).fails(1, "run both at once");
    assert!(!Path::new(&neither).exists());
    assert_ne!(logits(&[&lora, &devil]), expected);

    // Its dense change needs no model, and is the defining sum.
    let module = "model.layers.3.self_attn.q_proj";
    let frobenius = |backend: &str| {
        let out = path("delta.npy");
        let args = ["delta", "--adapter", &lora, "--module", module, "--backend", backend, "--out", &out, "--json"];
        timbre(&args).json()["frobenius"].as_f64().unwrap()
    };
    assert!((frobenius("cpu") / frobenius("naive") - 1.0).abs() < 1e-6);

    // Merged into the model it stays what it was.
    let merged = path("merged.gguf");
    timbre(&["merge", "--model", &model, "--adapter", &lora, "--out", &merged]).ok();
    let args = ["logits", "--model", &merged, "--tokens", "504,2086,314", "--kernels", "reference", "--json"];
    let difference = max_difference(&numbers(&timbre(&args).json()["logits"]), &expected);
    assert!(difference < 0.05, "{difference}");
}
