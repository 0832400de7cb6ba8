//! Timbre.
pub mod gguf;
pub mod memory;
pub mod params;
