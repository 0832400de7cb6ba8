//! `timbre tune`: what it prints, what it leaves, and what stops it.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::Stdio;

use serde_json::{Value, json};

use crate::common::{Ran, command, fixture, keys, smollm2, text, timbre};

/// A run on forty entries of a dictionary, or on the `--data` among the arguments `more`.
fn tune(out: &Path, more: &[&str]) -> Vec<String> {
    let (model, data) = (smollm2(), fixture("train/first20.jsonl"));
    let out = text(out);
    let fixed = ["tune", "--model", &model, "--out", &out, "-t", "2"];
    let data = if more.contains(&"--data") { &[][..] } else { &["--data", &data] };
    fixed.iter().chain(data).chain(more).map(|argument| (*argument).to_owned()).collect()
}

fn run(out: &Path, more: &[&str]) -> Ran {
    let arguments = tune(out, more);
    timbre(&arguments.iter().map(String::as_str).collect::<Vec<_>>())
}

/// Few modules and short examples, so that a step takes a fraction of a second.
const SMALL: [&str; 8] = ["--layers", "28-29", "-n", "200", "--max-length", "48", "--batch", "2"];

fn losses(lines: &[Value]) -> Vec<f64> {
    lines.iter().filter_map(|line| line["loss"].as_f64()).collect()
}

#[test]
fn a_run_tells_every_step_and_leaves_an_adapter_that_loads() {
    let folder = tempfile::tempdir().unwrap();
    let (out, svg) = (folder.path().join("mine"), folder.path().join("loss.svg"));
    let curve = text(&svg);
    let lines = run(&out, &[&SMALL[..], &["--steps", "6", "--evaluations", "1", "--json", "--curve", &curve]].concat())
        .json_lines();
    let (done, before) = lines.split_last().unwrap();
    let steps: Vec<&Value> = before.iter().filter(|line| line.get("loss").is_some()).collect();
    assert_eq!(steps.iter().map(|line| line["step"].as_u64().unwrap()).collect::<Vec<_>>(), [1, 2, 3, 4, 5, 6]);
    for step in steps {
        assert_eq!(keys(step)[..4], ["step", "loss", "lr", "ms"]);
    }
    let scored: Vec<&Value> = before.iter().filter(|line| line.get("heldout_loss").is_some()).collect();
    assert_eq!(scored.iter().map(|line| line["step"].as_u64().unwrap()).collect::<Vec<_>>(), [0, 3, 6]);
    assert_eq!(keys(scored[0]), ["step", "heldout_loss"]);
    assert_eq!(keys(done)[..6], ["done", "steps", "heldout_before", "heldout_after", "peak_anon_bytes", "adapter"]);
    assert_eq!((&done["done"], &done["steps"], &done["stop"]), (&json!(true), &json!(6), &json!("budget")));
    assert!(done["heldout_after"].as_f64().unwrap() < done["heldout_before"].as_f64().unwrap(), "{done}");
    assert!(done["peak_anon_bytes"].as_u64().unwrap() > 1 << 20);
    assert!(std::fs::read_to_string(&svg).unwrap().contains("</svg>"));

    let mut files: Vec<_> =
        std::fs::read_dir(&out).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    files.sort();
    assert_eq!(files, ["adapter_config.json", "adapter_model.safetensors"], "no checkpoint of a run that ended");
    let config: Value = serde_json::from_slice(&std::fs::read(out.join("adapter_config.json")).unwrap()).unwrap();
    for (key, value) in [
        ("peft_type", json!("FOURIERFT")),
        ("n_frequency", json!(200)),
        ("scaling", json!(300.0)),
        ("random_loc_seed", json!(2024)),
        ("target_modules", json!(["q_proj", "v_proj"])),
        ("layers_to_transform", json!([28, 29])),
        ("task_type", json!("CAUSAL_LM")),
    ] {
        assert_eq!(config[key], value, "{key}");
    }
    let adapter = text(&out);
    let report = timbre(&["adapter", "inspect", &adapter, "--json"]).json();
    assert_eq!((&report["parameters"], report["modules"].as_array().unwrap().len()), (&json!(800), 4));
    let logits = |more: &[&str]| {
        timbre(&[&["logits", "--model", &smollm2(), "--tokens", "1,2,3", "--json"], more].concat()).json()["logits"]
            .clone()
    };
    assert_ne!(logits(&["--adapter", &adapter]), logits(&[]));
}

#[test]
fn a_seed_gives_one_adapter_and_an_interrupted_run_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let [a, b, c] = ["a.safetensors", "b.safetensors", "c.safetensors"].map(|name| folder.path().join(name));
    let arguments = [&SMALL[..], &["--steps", "8", "--seed", "3", "--checkpoint-every", "1", "--json"]].concat();
    let first = run(&a, &arguments).json_lines();
    let second = run(&b, &arguments).json_lines();
    assert_eq!(losses(&first), losses(&second));
    assert_eq!(std::fs::read(&a).unwrap(), std::fs::read(&b).unwrap());

    // Killed after its second step, whatever it is at by then.
    let list = tune(&c, &arguments);
    let list: Vec<&str> = list.iter().map(String::as_str).collect();
    let mut process = command(&list).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let lines = BufReader::new(process.stdout.take().unwrap()).lines();
    let seen = lines.map_while(Result::ok).filter(|line| line.contains("\"loss\"")).take(2).count();
    process.kill().unwrap();
    process.wait().unwrap();
    assert_eq!((seen, c.exists()), (2, false));
    let checkpoint = folder.path().join("c.checkpoint");
    assert!(checkpoint.exists());
    run(&c, &arguments).fails(2, "--resume goes on with it");
    let other =
        [&SMALL[..], &["--steps", "9", "--seed", "3", "--checkpoint-every", "1", "--json", "--resume"]].concat();
    run(&c, &other).fails(1, "budget was 8 steps, now it is 9 steps");
    let rest = run(&c, &[&arguments[..], &["--resume"]].concat()).json_lines();
    assert!((1..8).contains(&losses(&rest).len()));
    assert_eq!(losses(&first)[8 - losses(&rest).len()..], losses(&rest));
    assert_eq!(std::fs::read(&a).unwrap(), std::fs::read(&c).unwrap());
    assert!(!checkpoint.exists());
}

#[cfg(unix)]
#[test]
fn an_interrupt_stops_within_a_step_and_saves() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("mine");
    let list = tune(&out, &[&SMALL[..], &["--steps", "10000", "--json"]].concat());
    let list: Vec<&str> = list.iter().map(String::as_str).collect();
    let mut process = command(&list).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
    let step = |line: &str| serde_json::from_str::<Value>(line).unwrap();
    loop {
        let line = step(&lines.next().unwrap().unwrap());
        if line["step"] == 3 && line.get("loss").is_some() {
            break;
        }
    }
    let pid = process.id().to_string();
    assert!(std::process::Command::new("kill").args(["-INT", &pid]).status().unwrap().success());
    let last = step(&lines.map_while(Result::ok).last().unwrap());
    assert!(process.wait().unwrap().success());
    assert_eq!((&last["done"], &last["stop"]), (&json!(true), &json!("cancelled")));
    let steps = last["steps"].as_u64().unwrap();
    assert!((3..=6).contains(&steps) && last["adapter_step"] == steps, "{last}");
    assert!(out.join("adapter_model.safetensors").exists() && out.join("checkpoint.safetensors").exists());
}

#[test]
fn what_cannot_be_meant_is_a_usage_error() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    for (arguments, words) in [
        (&["--steps", "0"][..], "steps is 0"),
        (&["--seconds", "0"], "seconds is 0"),
        (&["--lr", "0"], "learning rate is 0"),
        (&["--batch", "0"], "batch is 0"),
        (&["--warmup", "1"], "warmup is 1"),
        (&["--heldout-share", "1"], "heldout share is 1"),
        (&["--target", "qq"], "target \"qq\" is no linear layer"),
        (&["--layers", "30"], "layer 30 is not in this model"),
        (&["--alpha", "0"], "alpha is 0"),
        (&["--max-length", "2"], "maximum length is 2"),
        (&["--ctx", "64"], "--ctx and --kv do not apply"),
    ] {
        run(&out, arguments).fails(2, words);
    }
    for arguments in
        [&["--steps", "1", "--seconds", "1"][..], &["--lr", "1", "--coefficient-lr", "1"], &["--from", "x", "-n", "5"]]
    {
        assert_eq!(run(&out, arguments).code, 2, "{arguments:?}");
    }
    assert!(!out.exists(), "nothing is made for a run that cannot be");
}

#[test]
fn data_that_is_none_is_a_failure() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let file = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        text(&path)
    };
    for (path, words) in [
        (file("a.jsonl", b"{\"prompt\":\"a\",\"completion\":\"b\"}\n{\"prompt\":1}\n"), "a.jsonl, line 2: "),
        (file("b.txt", b"\xff\xfe"), "b.txt, line 1: not UTF-8"),
        (file("c.txt", b""), "c.txt: no examples"),
        (text(&folder.path().join("nowhere.txt")), "nowhere.txt: "),
    ] {
        run(&out, &["--data", &path]).fails(1, words);
    }
}
