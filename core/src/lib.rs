//! Timbre.
pub mod adapter;
pub mod gguf;
pub mod spectral;
