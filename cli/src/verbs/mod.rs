//! One file per verb.

pub mod adapter;
pub mod bench;
pub mod chat;
pub mod delta;
pub mod demo;
pub mod devices;
pub mod logits;
pub mod merge;
pub mod params;
pub mod perplexity;
pub mod run;
pub mod tokenize;
pub mod tune;

use std::path::Path;

use crate::output::Outcome;

/// A UTF-8 file, whole.
fn read_text(path: &Path) -> Outcome<String> {
    Ok(std::fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?)
}
