//! What goes wrong ends with 1, what cannot be meant with 2; either way with words on standard error and nothing else.

use std::process::Stdio;

use crate::common::{adapter, command, fixture, smollm2, text, timbre};

#[test]
fn a_model_that_is_none() {
    let folder = tempfile::tempdir().unwrap();
    let path = text(&folder.path().join("model.gguf"));
    for verb in [
        &["run", "--prompt", "x", "--json"][..],
        &["chat"],
        &["tokenize", "--text", "x", "--json"],
        &["logits", "--tokens", "1", "--json"],
        &["perplexity", "--tokens", "1,2", "--json"],
        &["bench", "--json"],
    ] {
        timbre(&[verb, &["--model", &path]].concat()).fails(1, "model.gguf: ");
    }
    std::fs::write(&path, "[package]\nname = \"not a model\"\n").unwrap();
    timbre(&["run", "--prompt", "x", "--model", &path, "--json"]).fails(1, "not a GGUF file");
    std::fs::write(&path, b"GGUF").unwrap();
    timbre(&["tokenize", "--text", "x", "--model", &path, "--json"]).fails(1, "model.gguf: ");
    timbre(&["run", "--prompt", "x", "--model", &text(folder.path())]).fails(1, &text(folder.path()));
}

#[test]
fn an_adapter_that_is_none() {
    let model = smollm2();
    let folder = tempfile::tempdir().unwrap();
    // A method within LoRA that is not done.
    let dora = folder.path().join("dora");
    std::fs::create_dir(&dora).unwrap();
    for file in ["adapter_config.json", "adapter_model.safetensors"] {
        std::fs::copy(std::path::Path::new(&fixture("adapters/devil-lora")).join(file), dora.join(file)).unwrap();
    }
    let config = std::fs::read_to_string(dora.join("adapter_config.json")).unwrap();
    std::fs::write(dora.join("adapter_config.json"), config.replace("\"use_dora\": false", "\"use_dora\": true"))
        .unwrap();
    let dora = text(&dora);
    let empty = text(folder.path());
    let pickle = folder.path().join("adapter.bin");
    std::fs::write(&pickle, b"\x80\x02").unwrap();
    let damaged = folder.path().join("adapter.safetensors");
    std::fs::write(&damaged, [0xff; 64]).unwrap();
    for (path, words) in [
        (dora.as_str(), "use_dora = true is not supported"),
        (&empty, "no adapter_config.json"),
        (&text(&pickle), "Python pickle"),
        (&text(&damaged), "safetensors"),
        ("nowhere", "nowhere: "),
    ] {
        timbre(&["run", "--model", &model, "--adapter", path, "--prompt", "x", "--json"]).fails(1, words);
        timbre(&["adapter", "inspect", path, "--json"]).fails(1, words);
    }
    let overwritten = text(&folder.path().join("out.gguf"));
    timbre(&["merge", "--model", &model, "--adapter", &dora, "--out", &overwritten]).fails(1, "use_dora");
    assert!(!std::path::Path::new(&overwritten).exists());
}

#[test]
fn what_a_model_cannot_do() {
    let model = smollm2();
    let logits = |args: &[&str]| timbre(&[&["logits", "--model", &model, "--json"], args].concat());
    logits(&["--tokens", "49152"]).fails(1, "49152");
    logits(&["--tokens", "1,2,3", "--ctx", "2"]).fails(1, "context");
    logits(&["--tokens", "1", "--backend", "gpu", "--gpu-adapter", "no such device"]).fails(1, "no GPU");
    logits(&["--tokens", "1", "--backend", "gpu", "--kv", "q8_0"]).fails(1, "GPU");
    let foreign = if cfg!(target_arch = "aarch64") { "avx2" } else { "neon" };
    logits(&["--tokens", "1", "--kernels", foreign]).fails(1, foreign);
    timbre(&["run", "--model", &model, "--raw", "--prompt", ""]).fails(1, "no token");
}

#[test]
fn what_cannot_be_meant() {
    let model = smollm2();
    let (devil, nan) = (adapter("devil"), format!("{}=nan", adapter("devil")));
    let run = ["run", "--model", &model, "--prompt", "x"];
    for (args, words) in [
        (&["--bogus"][..], "--bogus"),
        (&["--temp=-1"], "temperature"),
        (&["--top-p", "2"], "top_p"),
        (&["--seed", "x"], "--seed"),
        (&["--stop", ""], "--stop"),
        (&["--kernels", "sse9"], "--kernels"),
        (&["--kv", "q3"], "--kv"),
        (&["--ctx", "0"], "--ctx"),
        (&["-t", "0"], "--threads"),
        (&["--adapter", &nan], "not finite"),
        (&["--adapter", "=1"], "no path"),
    ] {
        timbre(&[&run[..], args].concat()).fails(2, words);
    }
    timbre(&["run", "--prompt", "x"]).fails(2, "--model");
    timbre(&["logits", "--model", &model, "--tokens", "1,x"]).fails(2, "not a token id");
    timbre(&["perplexity", "--model", &model]).fails(2, "--file");
    timbre(&["perplexity", "--model", &model, "--tokens", "1", "--file", "x"]).fails(2, "--file");
    timbre(&["tokenize", "--model", &model]).fails(2, "--text");
    timbre(&["adapter", "mix", &devil]).fails(2, "OUT");
    timbre(&["adapter", "mix", "=1", "out"]).fails(2, "no path");
    timbre(&["bench", "--model", &model, "-r", "0"]).fails(2, "is not a count");
    timbre(&["sing"]).fails(2, "sing");
}

#[test]
fn a_reader_that_has_seen_enough_is_no_failure() {
    let model = smollm2();
    let mut command = command(&["logits", "--model", &model, "--tokens", "1,2,3", "--all", "--json"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), output.stderr.as_slice()), (Some(0), &b""[..]));
}
