//! Timbre.
pub mod gguf;
pub mod kernels;
pub mod quantize;
