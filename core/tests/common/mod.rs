//! Where tests find the model files and the fixtures.
#![allow(dead_code)]

mod fixtures;

use std::path::PathBuf;
use std::sync::Arc;

use timbre::gguf::Gguf;

pub use fixtures::fixture_path;

/// SmolLM2-135M-Instruct, Q4_1: `llama` architecture, byte-level BPE vocabulary.
pub const SMOLLM2: &str = "SmolLM2-135M-Instruct.Q4_1.gguf";
/// Gemma 3 270M, Q4_K_M: `gemma3` architecture, SentencePiece vocabulary.
pub const GEMMA3: &str = "gemma-3-270m-Q4_K_M.gguf";

/// The path of a model file: in the folder `TIMBRE_TEST_MODELS`, by default `target/models` of the repository.
pub fn model_path(file: &str) -> PathBuf {
    let folder = std::env::var_os("TIMBRE_TEST_MODELS")
        .map_or_else(|| PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../target/models")), PathBuf::from);
    let path = folder.join(file);
    assert!(
        path.is_file(),
        "{} is missing: `just models` fetches the test models (or point TIMBRE_TEST_MODELS at a folder that has them)",
        path.display()
    );
    path
}

/// Opens a model file.
pub fn model(file: &str) -> Arc<Gguf> {
    Gguf::open(model_path(file)).unwrap()
}

/// A fixture that is JSON.
pub fn fixture_json(name: &str) -> serde_json::Value {
    let path = fixture_path(name);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_str(&text).unwrap()
}
