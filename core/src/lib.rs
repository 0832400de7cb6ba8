//! Timbre.
pub mod gguf;
pub mod kernels;
