//! Timbre.
pub mod gguf;
pub mod session;
pub mod tokenizer;
