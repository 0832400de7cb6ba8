//! A mapped GGUF file.
pub mod types;
pub use types::GgmlType;
