//! `timbre logits` and `timbre perplexity`, against PEFT in f32.

use crate::common::{adapter, argmax, comma_separated, fixture_json, numbers, smollm2, text, timbre};

const VOCABULARY: usize = 49152;

#[test]
fn logits_of_the_last_position_and_of_all() {
    let model = smollm2();
    let expected = &fixture_json("smollm2.json")["prompts"][3];
    let tokens = comma_separated(&expected["ids"]);
    let args = ["logits", "--model", &model, "--tokens", &tokens];
    let last = numbers(&timbre(&[&args[..], &["--json"]].concat()).json()["logits"]);
    assert_eq!(last.len(), VOCABULARY);
    assert_eq!(argmax(&last) as u64, expected["outputs"]["base"]["argmax"].as_u64().unwrap());

    let all = timbre(&[&args[..], &["--json", "--all"]].concat()).json_lines();
    assert_eq!(all.len(), 3, "an object a position");
    let all: Vec<Vec<f64>> = all.iter().map(|line| numbers(&line["logits"])).collect();
    assert!(all.iter().all(|logits| logits.len() == VOCABULARY));
    assert_eq!(argmax(&all[2]), argmax(&last));
    assert_ne!(all[0], all[2]);

    let shown = timbre(&args).ok().out;
    assert_eq!(shown.lines().count(), 10, "{shown}");
    assert!(shown.starts_with(&format!("{}\t", argmax(&last))), "{shown}");
}

#[test]
fn reference_kernels_reproduce_the_reference() {
    let model = smollm2();
    let prompt = &fixture_json("smollm2.json")["prompts"][3];
    let tokens = comma_separated(&prompt["ids"]);
    let (devil, kjv) = (adapter("devil"), adapter("kjv"));
    for (name, adapters) in [("base", vec![]), ("devil+kjv", vec!["--adapter", &devil, "--adapter", &kjv])] {
        let args = ["logits", "--model", &model, "--tokens", &tokens, "--kernels", "reference", "--json"];
        let logits = numbers(&timbre(&[&args[..], &adapters].concat()).json()["logits"]);
        for (at, expected) in numbers(&prompt["outputs"][name]["first64"]).into_iter().enumerate() {
            assert!((logits[at] - expected).abs() < 2e-3, "{name}: logit {at} is {}, expected {expected}", logits[at]);
        }
    }
}

#[test]
fn perplexity_is_near_the_reference() {
    let model = smollm2();
    let texts = &fixture_json("smollm2.json")["texts"];
    let (devil, kjv) = (adapter("devil"), adapter("kjv"));
    for (at, name, adapters) in [
        (0, "base", vec![]),
        (1, "devil", vec!["--adapter", &devil]),
        (2, "devil+kjv", vec!["--adapter", &devil, "--adapter", &kjv]),
    ] {
        let tokens = comma_separated(&texts[at]["ids"]);
        let args = ["perplexity", "--model", &model, "--tokens", &tokens, "--ctx", "512", "--json"];
        let report = timbre(&[&args[..], &adapters].concat()).json();
        assert_eq!(crate::common::keys(&report), ["nll", "ppl", "tokens"]);
        assert_eq!(report["tokens"], 299);
        let nll = report["nll"].as_f64().unwrap();
        let expected = texts[at]["nll"][name].as_f64().unwrap();
        let off = (nll / expected - 1.0).abs();
        println!("{name}: {nll:.5}, reference {expected:.5}, {:.3} % off", off * 100.0);
        assert!(off < 0.005, "{name}: {nll}, expected {expected}");
        assert!((report["ppl"].as_f64().unwrap() / nll.exp() - 1.0).abs() < 1e-9);
    }
}

#[test]
fn a_file_is_scored_as_its_tokens_are() {
    let model = smollm2();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("psalm.txt");
    std::fs::write(&file, "The LORD is my shepherd; I shall not want.\n").unwrap();
    let file = text(&file);
    let ids = timbre(&["tokenize", "--model", &model, "--file", &file, "--json"]).json();
    let tokens = comma_separated(&ids["ids"]);
    let from_tokens = timbre(&["perplexity", "--model", &model, "--tokens", &tokens, "--json"]).json();
    let from_file = timbre(&["perplexity", "--model", &model, "--file", &file, "--json"]).json();
    assert_eq!(from_file, from_tokens);
    let shown = timbre(&["perplexity", "--model", &model, "--file", &file]).ok().out;
    assert!(shown.starts_with("nll ") && shown.contains("ppl "), "{shown}");
    timbre(&["perplexity", "--model", &model, "--tokens", "1", "--json"]).fails(1, "at least 2 tokens");
}
