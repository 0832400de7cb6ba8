//! `timbre run`.

use crate::common::{Ran, adapter, fixture_json, gemma3, keys, smollm2, timbre};

fn run(args: &[&str]) -> Ran {
    let model = smollm2();
    timbre(&[&["run", "--model", &model, "-t", "1"], args].concat())
}

#[test]
fn the_reply_goes_to_stdout_and_its_cost_to_stderr() {
    let args = ["--prompt", "Define: mobile phone", "-n", "12"];
    let report = run(&[&args[..], &["--json"]].concat()).json();
    assert_eq!(keys(&report), ["text", "ids", "prompt_ids", "finish", "stats"]);
    assert_eq!(
        keys(&report["stats"]),
        [
            "prompt_tokens",
            "cached_tokens",
            "prefill_tokens",
            "generated_tokens",
            "prefill_ms",
            "ttft_ms",
            "decode_ms",
            "swap_us",
            "backend",
            "fell_back",
            "prefill_tps",
            "decode_tps"
        ]
    );
    let expected = &fixture_json("smollm2.json")["prompts"][0];
    assert_eq!(report["prompt_ids"], expected["ids"], "the model's own chat template");
    assert_eq!(report["ids"][0], expected["outputs"]["base"]["argmax"]);
    assert_eq!(report["ids"].as_array().unwrap().len(), 12);
    assert_eq!(report["stats"]["generated_tokens"], 12);
    assert_eq!(report["finish"], "length");
    for name in ["prefill_ms", "ttft_ms", "decode_ms", "prefill_tps", "decode_tps"] {
        assert!(report["stats"][name].as_f64().unwrap() > 0.0, "{name}");
    }

    let shown = run(&[&args[..], &["--warm-up"]].concat()).ok();
    assert_eq!(shown.out, format!("{}\n", report["text"].as_str().unwrap()));
    assert!(shown.err.contains("34 prompt tokens") && shown.err.contains("12 generated"), "{}", shown.err);
}

#[test]
fn adapters_change_the_reply_by_their_weights() {
    let expected = &fixture_json("smollm2.json")["prompts"][2];
    let prompt = expected["prompt"].as_str().unwrap();
    let (devil, kjv) = (adapter("devil"), adapter("kjv"));
    let off = format!("{devil}=0");
    let one = format!("{kjv}=1.0");
    let reply = |adapters: &[&str]| {
        let named: Vec<&str> = adapters.iter().flat_map(|a| ["--adapter", a]).collect();
        run(&[&["--prompt", prompt, "-n", "4", "--json"], &named[..]].concat()).json()
    };
    let base = reply(&[]);
    assert_eq!(base["ids"][0], expected["outputs"]["base"]["argmax"]);
    let both = reply(&[&devil, &one]);
    assert_eq!(both["ids"][0], expected["outputs"]["devil+kjv"]["argmax"]);
    assert_ne!(both["text"], base["text"]);
    assert!(both["stats"]["swap_us"].as_f64().unwrap() > 0.0);
    assert_eq!(reply(&[&off])["ids"], base["ids"], "a weight of 0 changes nothing");
    assert_eq!(reply(&[&off, &kjv])["ids"], reply(&[&kjv])["ids"]);
}

#[test]
fn a_seed_gives_one_reply() {
    let draw = |seed| run(&["--prompt", "Tell me a story.", "-n", "16", "--temp", "1", "--seed", seed]).ok().out;
    assert_eq!(draw("7"), draw("7"));
    assert_ne!(draw("7"), draw("8"));
}

#[test]
fn a_reply_ends_before_a_stop_text() {
    let args = ["--prompt", "Define: mobile phone", "-n", "12", "--json"];
    let whole = run(&args).json();
    let text = whole["text"].as_str().unwrap();
    let word = text.split_whitespace().nth(3).unwrap();
    let stopped = run(&[&args[..], &["--stop", "never in there", "--stop", word]].concat()).json();
    assert_eq!(stopped["finish"], "stop_text");
    assert_eq!(stopped["text"], text[..text.find(word).unwrap()]);
}

#[test]
fn raw_text_is_continued_as_it_is() {
    let expected = &fixture_json("smollm2.json")["prompts"][3];
    let prompt = expected["prompt"].as_str().unwrap().trim_start_matches("<raw> ");
    let report = run(&["--raw", "--prompt", prompt, "-n", "1", "--json"]).json();
    assert_eq!(report["prompt_ids"], expected["ids"]);
    assert_eq!(report["ids"][0], expected["outputs"]["base"]["argmax"]);
}

#[test]
fn a_model_without_a_chat_template_continues_the_prompt_and_says_so() {
    let model = gemma3();
    let args = ["run", "--model", &model, "--ctx", "64", "--prompt", "The sea is", "-n", "3", "--json"];
    let plain = timbre(&args).ok();
    assert!(plain.err.contains("no chat template"), "{}", plain.err);
    let raw = timbre(&[&args[..], &["--raw"]].concat()).ok();
    assert!(!raw.err.contains("no chat template"), "{}", raw.err);
    let (plain, raw) = (plain.json(), raw.json());
    assert_eq!((&plain["prompt_ids"], &plain["ids"]), (&raw["prompt_ids"], &raw["ids"]));
}
