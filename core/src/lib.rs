//! Timbre.
pub mod gguf;
