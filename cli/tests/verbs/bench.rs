//! `timbre bench`.

use serde_json::Value;

use crate::common::{adapter, keys, smollm2, timbre};

#[track_caller]
fn positive(value: &Value) {
    assert!(value.as_f64().is_some_and(|v| v > 0.0), "{value}");
}

#[test]
fn one_object_with_the_agreed_keys() {
    let (model, devil) = (smollm2(), adapter("devil"));
    let args = ["bench", "--model", &model, "-p", "8", "-g", "4", "-r", "2", "-t", "2"];
    for adapters in [&["--adapter", &devil][..], &[]] {
        let report = timbre(&[&args[..], &["--json"], adapters].concat()).json();
        assert_eq!(
            keys(&report),
            [
                "model",
                "adapter",
                "threads",
                "kernels",
                "activations",
                "backend",
                "load_ms",
                "ttft_ms",
                "adapter_load_us",
                "swap_us",
                "pp",
                "tg",
                "memory",
                "weight_bytes_per_token"
            ]
        );
        assert_eq!((report["threads"].as_u64(), report["backend"].as_str()), (Some(2), Some("cpu")));
        assert_eq!(report["activations"], "int15");
        for (name, n) in [("pp", 8), ("tg", 4)] {
            let rate = &report[name];
            assert_eq!(keys(rate), ["n", "tps_median", "tps_mean", "tps_sd"]);
            assert_eq!(rate["n"], n);
            positive(&rate["tps_median"]);
            positive(&rate["tps_mean"]);
            assert!(rate["tps_sd"].as_f64().unwrap() >= 0.0);
        }
        // Q4_1 of 134.5 million parameters is 5 bits each; the file's tied embedding is the head.
        let weights = report["weight_bytes_per_token"].as_u64().unwrap();
        assert!((84_000_000..98_000_000).contains(&weights), "{weights}");
        positive(&report["load_ms"]);
        positive(&report["ttft_ms"]);
        if adapters.is_empty() {
            assert!([&report["adapter"], &report["adapter_load_us"], &report["swap_us"]].iter().all(|v| v.is_null()));
        } else {
            assert_eq!(report["adapter"], devil);
            positive(&report["adapter_load_us"]);
            positive(&report["swap_us"]);
        }
        if cfg!(any(target_os = "linux", target_os = "android")) {
            let memory = &report["memory"];
            assert_eq!(keys(memory), ["anon_bytes", "file_bytes", "huge_bytes", "kv_bytes", "peak_anon_bytes"]);
            ["anon_bytes", "file_bytes", "kv_bytes", "peak_anon_bytes"].iter().for_each(|key| positive(&memory[key]));
            // None where the system has no huge pages for files, or holds this one in small pages.
            assert!(memory["huge_bytes"].as_u64().unwrap() <= memory["file_bytes"].as_u64().unwrap(), "{memory}");
        }
    }
    let shown = timbre(&[&args[..], &["--adapter", &devil]].concat()).ok().out;
    for words in ["prefill  ", "decode   ", "ttft     ", "adapter  "] {
        assert!(shown.contains(words), "{shown}");
    }
}

#[test]
fn what_an_adapter_costs_by_turns() {
    let (model, devil) = (smollm2(), adapter("devil"));
    let args = ["bench", "--model", &model, "-p", "8", "-g", "4", "-r", "1", "-t", "1", "--turns", "10"];
    let with = [&args[..], &["--adapter", &devil]].concat();
    let report = timbre(&[&with[..], &["--json"]].concat()).json();
    let cost = &report["adapter_cost"];
    let expected = [
        "tokens",
        "token_us",
        "token_more_us",
        "token_share",
        "prompts",
        "prompt_us",
        "prompt_more_us",
        "prompt_share",
    ];
    assert_eq!(keys(cost), expected);
    assert_eq!((cost["tokens"].as_u64(), cost["prompts"].as_u64()), (Some(10), Some(1)));
    for kind in ["token", "prompt"] {
        let number = |what: &str| cost[format!("{kind}_{what}")].as_f64().unwrap();
        assert!(number("us") > 0.0);
        assert!((number("more_us") / number("us") - number("share")).abs() < 1e-9);
    }
    assert!(timbre(&with).ok().out.contains("costs    "));
    timbre(&args).fails(2, "--adapter");
}

#[test]
fn ceilings_on_request() {
    let model = smollm2();
    let args = ["bench", "--model", &model, "-p", "8", "-g", "4", "-r", "1", "-t", "2", "--ceilings"];
    let report = timbre(&[&args[..], &["--json"]].concat()).json();
    let ceilings = &report["ceilings"];
    assert_eq!(
        keys(ceilings),
        ["read_bytes_per_s", "decode_read_share", "int8_ops_per_s", "prefill_ops_per_s", "prefill_int8_share"]
    );
    ceilings.as_object().unwrap().values().for_each(positive);
    let number = |value: &Value| value.as_f64().unwrap();
    // What the shares are of.
    let read = number(&report["weight_bytes_per_token"]) * number(&report["tg"]["tps_median"]);
    let share = number(&ceilings["decode_read_share"]);
    assert!((read / number(&ceilings["read_bytes_per_s"]) / share - 1.0).abs() < 1e-9, "{report}");
    // Two operations for each of the layers' 106.2 million weights, and an eighth of the head's 28.3 million.
    let operations = number(&ceilings["prefill_ops_per_s"]) / number(&report["pp"]["tps_median"]);
    assert!((operations / (2.0 * (106_168_320.0 + 28_311_552.0 / 8.0)) - 1.0).abs() < 1e-9, "{operations}");
    assert!(number(&ceilings["prefill_int8_share"]) < 1.0, "{report}");

    let shown = timbre(&args).ok().out;
    for words in ["weights  ", " GB/s that this machine reads", " GOP/s of its int8 instructions"] {
        assert!(shown.contains(words), "{shown}");
    }
}

#[test]
fn a_gpu_is_named_and_its_memory_counted() {
    let model = smollm2();
    let args = ["bench", "--model", &model, "-p", "3", "-g", "2", "-r", "1", "--backend", "gpu", "--json"];
    let ran = timbre(&args);
    if ran.code != 0 && ran.err.contains("no GPU") {
        assert!(std::env::var_os("CI").is_none(), "GPU tests must run under CI: {}", ran.err);
        eprintln!("\n*** SKIPPED: this test needs a GPU or a software Vulkan device: {} ***\n", ran.err);
        return;
    }
    let report = ran.json();
    assert_eq!(report["backend"], "gpu");
    assert!(report["gpu"].as_str().is_some_and(|name| !name.is_empty()));
    let memory = &report["device_memory"];
    assert_eq!(keys(memory), ["weights_bytes", "kv_bytes", "scratch_bytes", "adapter_bytes"]);
    // The blocks as the file has them, the norms, and a few bytes a matrix.
    let weights = memory["weights_bytes"].as_u64().unwrap();
    assert!((96_000_000..98_500_000).contains(&weights), "{weights}");
    positive(&memory["kv_bytes"]);
    positive(&memory["scratch_bytes"]);
    positive(&report["tg"]["tps_median"]);
}
