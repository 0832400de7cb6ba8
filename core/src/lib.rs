//! Timbre.
pub mod gguf;
pub mod spectral;
