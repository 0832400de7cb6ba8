//! `timbre merge`.

use crate::common::{adapter, argmax, comma_separated, fixture_json, max_difference, numbers, smollm2, text, timbre};

fn logits(model: &str, tokens: &str, adapters: &[&str]) -> Vec<f64> {
    let args = ["logits", "--model", model, "--tokens", tokens, "--kernels", "reference", "--json"];
    numbers(&timbre(&[&args[..], adapters].concat()).json()["logits"])
}

#[test]
fn a_merged_file_answers_as_base_and_adapter_do() {
    let (model, devil) = (smollm2(), adapter("devil"));
    let folder = tempfile::tempdir().unwrap();
    let [plain, kept] = ["f16.gguf", "kept.gguf"].map(|name| text(&folder.path().join(name)));
    let args = ["merge", "--model", &model, "--adapter", &devil, "--out"];
    let report = timbre(&[&args[..], &[&plain, "--json"]].concat()).json();
    assert_eq!(report["storage"], "f16");
    let tensors = report["tensors"].as_array().unwrap();
    assert_eq!(tensors.len(), 60);
    assert!(tensors.iter().all(|t| t["to"] == "F16" && t["relative_error"].as_f64().unwrap() < 1e-3));
    let shown = timbre(&[&args[..], &[&kept, "--keep-type"]].concat()).ok().out;
    assert!(shown.contains("60 tensors adapted") && shown.contains("rounding error"), "{shown}");
    let bytes = |path: &str| std::fs::metadata(path).unwrap().len();
    assert_eq!(bytes(&kept), bytes(&model), "--keep-type keeps the size");
    assert!(bytes(&plain) > bytes(&model));

    let tokens = comma_separated(&fixture_json("smollm2.json")["prompts"][0]["ids"]);
    let base = logits(&model, &tokens, &[]);
    let spectral = logits(&model, &tokens, &["--adapter", &devil]);
    let change = max_difference(&spectral, &base);
    let f16 = max_difference(&logits(&plain, &tokens, &[]), &spectral);
    let keep = max_difference(&logits(&kept, &tokens, &[]), &spectral);
    println!(
        "logits of the adapter are up to {change:.2} from the base's; merged as F16 {f16:.4} from the adapter's, rounded back to Q4_1 {keep:.2}"
    );
    assert!(f16 < 0.05, "{f16}");
    assert_eq!(argmax(&logits(&plain, &tokens, &[])), argmax(&spectral));
    assert!(keep < change, "{keep}: rounding to 4 bits costs, but less than the adapter gives");
}

#[test]
fn the_base_is_not_overwritten() {
    let (model, devil) = (smollm2(), adapter("devil"));
    timbre(&["merge", "--model", &model, "--adapter", &devil, "--out", &model]).fails(1, "write to another path");
    let folder = tempfile::tempdir().unwrap();
    let link = folder.path().join("link.gguf");
    if std::fs::hard_link(std::fs::canonicalize(&model).unwrap(), &link).is_ok() {
        timbre(&["merge", "--model", &model, "--adapter", &devil, "--out", &text(&link)])
            .fails(1, "write to another path");
    }
    let out = text(&folder.path().join("out.gguf"));
    timbre(&["merge", "--model", &model, "--out", &out]).fails(2, "--adapter");
    assert!(!std::path::Path::new(&out).exists());
}
