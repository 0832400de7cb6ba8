//! `timbre tokenize`, against ids of llama.cpp's tokenizer.

use crate::common::{fixture_json, gemma3, numbers, smollm2, text, timbre};

#[test]
fn texts_have_the_expected_ids() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("text");
    let file_text = text(&file);
    let fixtures = fixture_json("tokens.json");
    for (name, model) in [("smollm2", smollm2()), ("gemma3", gemma3())] {
        for case in fixtures[name].as_array().unwrap() {
            let words = case["text"].as_str().unwrap();
            // As one argument, so that a text may begin with a dash.
            let argument = format!("--text={words}");
            let report = timbre(&["tokenize", "--model", &model, &argument, "--json"]).json();
            assert_eq!(report, serde_json::json!({ "ids": case["ids"] }), "{name}: {words:?}");
            std::fs::write(&file, words).unwrap();
            let report = timbre(&["tokenize", "--model", &model, "--file", &file_text, "--json"]).json();
            assert_eq!(report["ids"], case["ids"], "{name}: {words:?} from a file");
        }
    }
}

#[test]
fn without_json_there_is_a_line_a_token() {
    let model = smollm2();
    let ids = timbre(&["tokenize", "--model", &model, "--text", "Hello world", "--json"]).json();
    let shown = timbre(&["tokenize", "--model", &model, "--text", "Hello world"]).ok().out;
    let first: Vec<f64> = shown.lines().map(|line| line.split_once('\t').unwrap().0.parse().unwrap()).collect();
    assert_eq!(first, numbers(&ids["ids"]));
    assert!(shown.ends_with("\t\" world\"\n"), "{shown}");
    // Where a token is a part of a character, its bytes are shown.
    let shown = timbre(&["tokenize", "--model", &model, "--text", "한 é<|im_end|>"]).ok().out;
    let texts: Vec<&str> = shown.lines().map(|line| line.split_once('\t').unwrap().1).collect();
    assert_eq!(texts, [r#""\xed\x95""#, r#""\x9c""#, r#"" é""#, r#""<|im_end|>""#]);
}

#[test]
fn a_file_that_is_no_text_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("bytes");
    std::fs::write(&file, b"\xff\xfe\0").unwrap();
    let model = smollm2();
    let args = ["tokenize", "--model", &model, "--json", "--file"];
    timbre(&[&args[..], &[&text(&file)]].concat()).fails(1, "UTF-8");
    timbre(&[&args[..], &["nowhere.txt"]].concat()).fails(1, "nowhere.txt: ");
}
