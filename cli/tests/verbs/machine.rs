//! `timbre devices`, `timbre demo` and `timbre fetch`.

use crate::common::{adapter, command, gemma3, keys, models, run, smollm2, timbre};

#[test]
fn devices_name_the_kernels() {
    let report = timbre(&["devices", "--json"]).json();
    assert_eq!(keys(&report), ["architecture", "cores", "threads", "features", "tiers", "kernels", "gpus"]);
    assert!(report["tiers"].as_array().unwrap().contains(&report["kernels"]), "{report}");
    let shown = timbre(&["devices"]).ok().out;
    for words in ["CPU ", "kernels ", "GPU "] {
        assert!(shown.contains(words), "{shown}");
    }
}

/// What the demo shows, wherever its model comes from.
#[track_caller]
fn shows_everything(shown: &str) {
    for words in [
        "adapter devil: 60 modules",
        "adapter kjv: 60 modules",
        "\n[base] ",
        "\n[devil] ",
        "\n[kjv] ",
        "word for word",
        "µs",
        "tok/s",
    ] {
        assert!(shown.contains(words), "{shown:?} lacks {words:?}");
    }
    if cfg!(any(target_os = "linux", target_os = "android")) {
        assert!(shown.contains(" anonymous") && shown.contains(" file-backed"), "{shown}");
    }
}

#[test]
fn the_demo_runs_on_a_model_of_the_users() {
    let mut demo = command(&["demo", "-n", "5"]);
    demo.env("TIMBRE_MODEL", smollm2());
    shows_everything(&run(demo, "").ok().out);
}

#[test]
fn an_empty_variable_names_no_model() {
    let mut demo = command(&["demo", "-n", "5"]);
    // The model that would be fetched is in the cache already.
    demo.env("TIMBRE_MODEL", "").env("TIMBRE_CACHE", models());
    shows_everything(&run(demo, "").ok().out);
}

#[test]
fn the_demos_adapters_fit_one_model() {
    let mut demo = command(&["demo", "-n", "5"]);
    demo.env("TIMBRE_MODEL", gemma3());
    let ran = run(demo, "");
    assert_eq!(ran.code, 1);
    assert!(ran.err.contains("SmolLM2"), "{}", ran.err);
    let devil = adapter("devil");
    timbre(&["run", "--model", &gemma3(), "--adapter", &devil, "--prompt", "x", "--json"])
        .fails(1, "the model has no such module");
}

#[test]
fn fetch_finds_what_is_there() {
    let folder = models();
    let folder = folder.to_str().unwrap();
    assert_eq!(timbre(&["fetch", "smollm2", "--dir", folder]).ok().out.trim_end(), smollm2());
    let report = timbre(&["fetch", "smollm2", "--dir", folder, "--json"]).json();
    assert_eq!(keys(&report), ["path", "bytes", "sha256", "licence"]);
    timbre(&["fetch"]).fails(2, "<MODEL>");
    timbre(&["fetch", "gpt5"]).fails(2, "possible values: smollm2, gemma3-270m, all");
}
