//! Timbre.
pub mod gguf;
pub mod quantize;
