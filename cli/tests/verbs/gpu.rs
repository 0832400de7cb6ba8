//! What the verbs make of a GPU, and of one that computes wrong numbers.

use std::path::Path;

use crate::common::{Ran, adapter, command, keys, run, smollm2, text};

/// A verb with a cache folder of its own, as what is found out about a GPU is kept there.
fn timbre(cache: &Path, args: &[&str]) -> Ran {
    let mut command = command(args);
    command.env("TIMBRE_CACHE", cache);
    run(command, "")
}

/// The first GPU `devices` reports; `None` where there is none, which is a failure under `CI`.
fn first_gpu(cache: &Path) -> Option<serde_json::Value> {
    let report = timbre(cache, &["devices", "--json"]).json();
    let gpu = report["gpus"].as_array().unwrap().first().cloned();
    if gpu.is_none() {
        assert!(std::env::var_os("CI").is_none(), "GPU tests must run under CI: {report}");
        eprintln!("\n*** SKIPPED: this test needs a GPU or a software Vulkan device ***\n");
    }
    gpu
}

#[test]
fn a_gpu_is_described_tried_and_used_until_a_kernel_fails() {
    let folder = tempfile::tempdir().unwrap();
    let cache = folder.path();
    let Some(gpu) = first_gpu(cache) else { return };
    assert_eq!(
        keys(&gpu),
        [
            "name",
            "backend",
            "kind",
            "driver",
            "f16",
            "subgroup",
            "timestamps",
            "max_buffer",
            "max_binding",
            "max_shared",
            "max_threads",
            "uses",
            "kernels"
        ]
    );
    for (kernel, verdict) in gpu["kernels"].as_object().unwrap() {
        assert_eq!(verdict, "passed", "{kernel}");
    }
    let uses = gpu["uses"].as_array().unwrap();
    assert_eq!(uses.contains(&"subgroups".into()), !gpu["subgroup"].is_null(), "{gpu}");
    assert_eq!(uses.contains(&"timestamps".into()), gpu["timestamps"] == true, "{gpu}");
    let shown = timbre(cache, &["devices"]).ok().out;
    assert!(uses.iter().all(|used| shown.contains(used.as_str().unwrap())), "{shown}");
    let name = gpu["name"].as_str().unwrap();
    assert!(shown.contains(name) && shown.contains("reconstruct") && shown.contains("right"), "{shown}");

    let (devil, model, out) = (adapter("devil"), smollm2(), text(&cache.join("delta.npy")));
    let delta = |backend: &[&str]| {
        let args = ["delta", "--adapter", &devil, "--model", &model, "--out", &out, "--json"];
        let module = ["--module", "model.layers.3.self_attn.q_proj"];
        let ran = timbre(cache, &[&args[..], &module, backend].concat());
        let told = ran.err.clone();
        (ran.json()["frobenius"].as_f64().unwrap(), told)
    };
    let (cpu, _) = delta(&[]);
    let (on_gpu, told) = delta(&["--backend", "gpu", "--gpu-adapter", &name[..4.min(name.len())]]);
    assert!((on_gpu / cpu - 1.0).abs() < 1e-6, "{on_gpu} for {cpu}");
    assert!(told.contains("computed on ") && told.contains(name), "{told}");

    // A verdict as a driver would get it that miscomputes one kernel.
    let file = cache.join("gpu-verdicts.json");
    let mut verdicts: serde_json::Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    for entry in verdicts["verdicts"].as_array_mut().unwrap() {
        if entry["kernel"] == "reconstruct" {
            entry["verdict"] = "failed".into();
            entry["detail"] = "number 7 is 0, expected 1".into();
        }
    }
    std::fs::write(&file, verdicts.to_string()).unwrap();
    let shown = timbre(cache, &["devices"]).ok().out;
    assert!(shown.contains("reconstruct: the CPU takes its place (number 7 is 0, expected 1)"), "{shown}");
    let (instead, told) = delta(&["--backend", "gpu"]);
    assert_eq!(instead, cpu);
    assert!(told.contains("computed on the CPU") && told.contains("self-test"), "{told}");
}
