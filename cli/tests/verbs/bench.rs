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
                "backend",
                "load_ms",
                "ttft_ms",
                "adapter_load_us",
                "swap_us",
                "pp",
                "tg",
                "memory"
            ]
        );
        assert_eq!((report["threads"].as_u64(), report["backend"].as_str()), (Some(2), Some("cpu")));
        for (name, n) in [("pp", 8), ("tg", 4)] {
            let rate = &report[name];
            assert_eq!(keys(rate), ["n", "tps_median", "tps_mean", "tps_sd"]);
            assert_eq!(rate["n"], n);
            positive(&rate["tps_median"]);
            positive(&rate["tps_mean"]);
            assert!(rate["tps_sd"].as_f64().unwrap() >= 0.0);
        }
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
            assert_eq!(keys(memory), ["anon_bytes", "file_bytes", "kv_bytes", "peak_anon_bytes"]);
            memory.as_object().unwrap().values().for_each(positive);
        }
    }
    let shown = timbre(&[&args[..], &["--adapter", &devil]].concat()).ok().out;
    for words in ["prefill  ", "decode   ", "ttft     ", "adapter  "] {
        assert!(shown.contains(words), "{shown}");
    }
}
