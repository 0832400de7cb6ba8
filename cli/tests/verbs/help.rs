//! Help texts.

use crate::common::timbre;

#[test]
fn every_verb_has_an_example() {
    for verb in [
        &[][..],
        &["demo"],
        &["run"],
        &["chat"],
        &["tokenize"],
        &["logits"],
        &["perplexity"],
        &["adapter"],
        &["adapter", "inspect"],
        &["adapter", "convert"],
        &["adapter", "mix"],
        &["delta"],
        &["merge"],
        &["tune"],
        &["params"],
        &["bench"],
        &["devices"],
        &["fetch"],
    ] {
        let help = timbre(&[verb, &["--help"]].concat()).ok().out;
        let (_, example) = help.split_once("Example").unwrap_or_else(|| panic!("{verb:?}: {help}"));
        let command = ["timbre"].iter().chain(verb).copied().collect::<Vec<_>>().join(" ");
        assert!(example.contains(&command), "{verb:?}: {example}");
    }
}

#[test]
fn the_help_lists_every_verb() {
    let help = timbre(&["--help"]).ok().out;
    for verb in [
        "demo",
        "run",
        "chat",
        "tokenize",
        "logits",
        "perplexity",
        "adapter",
        "delta",
        "merge",
        "tune",
        "params",
        "bench",
        "devices",
        "fetch",
    ] {
        assert!(help.lines().any(|line| line.trim_start().starts_with(&format!("{verb} "))), "{verb}: {help}");
    }
    assert_eq!(timbre(&["--version"]).ok().out, concat!("timbre ", env!("CARGO_PKG_VERSION"), "\n"));
    // Without a verb there is nothing to do: the help, as an error.
    let none = timbre(&[]);
    assert_eq!((none.code, none.out.as_str()), (2, ""));
    assert!(none.err.contains("Usage: timbre"), "{}", none.err);
}
