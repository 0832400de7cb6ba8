//! `timbre params`.

use crate::common::{keys, smollm2, timbre};

#[test]
fn the_papers_table() {
    let rows = timbre(&["params", "--json"]).json_lines();
    assert_eq!(rows.len(), 16);
    let shown = timbre(&["params"]).ok().out;
    let row = |name: &str| -> Vec<Vec<&str>> {
        shown.lines().filter_map(|l| l.strip_prefix(name)).map(|l| l.split_whitespace().collect()).collect()
    };
    assert_eq!(row("RoBERTa Base")[1], ["8", "295K", "1.13MB", "1000", "24K", "94KB"]);
    assert_eq!(row("LLaMA-2 13B")[1], ["64", "52.4M", "204.8MB", "2000", "160K", "625KB"]);
    assert_eq!(row("ViT Large")[1], ["16", "1.57M", "6MB", "10000", "480K", "1.83MB"]);
}

#[test]
fn a_named_model_and_a_file() {
    let report = timbre(&["params", "--model", "llama2-7b", "-n", "1000", "--lora-rank", "64", "--json"]).json();
    assert_eq!(keys(&report), ["model", "layers", "n", "fourierft", "lora_rank", "lora"]);
    assert_eq!(report["fourierft"]["parameters"], 64_000);
    assert_eq!(report["lora"]["parameters"], 33_554_432);
    for name in [
        "roberta-base",
        "roberta-large",
        "gpt2-medium",
        "gpt2-large",
        "llama2-7b",
        "llama2-13b",
        "vit-base",
        "vit-large",
    ] {
        let shown = timbre(&["params", "--model", name, "-n", "1000"]).ok().out;
        assert!(
            shown.starts_with(name) && shown.contains("FourierFT n = 1000") && shown.contains("LoRA r = 8"),
            "{shown}"
        );
    }
    let report = timbre(&["params", "--model", &smollm2(), "-n", "1000", "--json"]).json();
    assert_eq!((report["layers"].as_u64(), report["fourierft"]["parameters"].as_u64()), (Some(60), Some(60_000)));
    // Rank 8 on 30 layers: q is 576 × 576, v is 192 × 576.
    assert_eq!(report["lora"]["parameters"], 30 * 8 * (576 + 576 + 192 + 576));
    timbre(&["params", "--model", "gpt5"]).fails(1, "roberta-base");
}
