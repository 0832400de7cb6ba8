//! Timbre.
pub mod gguf;
pub mod kernels;
pub mod merge;
pub mod quantize;
