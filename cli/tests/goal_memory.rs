//! Gemma 3 with a context of 512 holds less than 80 MB of anonymous memory, at its peak too: the weights stay in the map.
#![cfg(any(target_os = "linux", target_os = "android"))]

mod common;

use common::{gemma3, timbre};

/// Of memory that is counted against a process.
const BUDGET: u64 = 80_000_000;

#[test]
fn gemma_3_takes_less_than_80_mb_of_anonymous_memory() {
    let model = gemma3();
    let args = ["bench", "--model", &model, "--ctx", "512", "-p", "128", "-g", "4", "-r", "1", "--json"];
    let memory = timbre(&args).json()["memory"].take();
    let bytes = |name: &str| memory[name].as_u64().unwrap();
    let mb = |name: &str| bytes(name) as f64 / 1e6;
    println!(
        "Gemma 3, context 512: {:.1} MB anonymous (peak {:.1}), of it KV cache {:.1}; {:.1} MB file-backed",
        mb("anon_bytes"),
        mb("peak_anon_bytes"),
        mb("kv_bytes"),
        mb("file_bytes")
    );
    assert!(bytes("anon_bytes") < BUDGET && bytes("peak_anon_bytes") < BUDGET, "{memory}");
    assert!(bytes("file_bytes") > 200_000_000, "the weights are in the map: {memory}");
}
