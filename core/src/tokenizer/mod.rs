//! Text to token ids and back, straight from the mapped GGUF vocabulary.
//!
//! Token texts stay in the file mapping; what is built here is flat: one `u32` slot table over the token texts, one
//! byte of kind per token, and either the merges as ids (BPE) or the scores (SentencePiece). That is about 4 MB for the
//! 262,144 tokens of Gemma 3.
//!
//! | file | holds |
//! |---|---|
//! | `tokenizer` | [`Tokenizer`]: loading, encoding, decoding |
//! | `bpe` | `tokenizer.ggml.model = gpt2`: byte-level BPE by merge rank |
//! | `spm` | `tokenizer.ggml.model = llama`: SentencePiece pieces merged by score |
//! | `merge` | the pair-merging loop both share |
//! | `split`, `unicode` | pre-tokenizers, and the character classes they are written in |
//! | `special` | special tokens inside text, and which tokens end a reply |
//! | `vocab`, `index` | token texts and kinds, and the way from a text to its id |
//!
//! This room imports from [`crate::gguf`] only.

mod alphabet;
mod bpe;
mod error;
mod index;
mod merge;
mod special;
mod split;
mod spm;
#[cfg(test)]
mod tests;
#[allow(clippy::module_inception)]
mod tokenizer;
mod unicode;
mod vocab;

pub use error::TokenizerError;
pub use tokenizer::{EncodeOptions, Settings, SpecialText, Tokenizer};
pub use vocab::TokenKind;
