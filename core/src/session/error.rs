//! What can go wrong while a session runs.

use crate::gguf::GgufError;
use crate::model::ModelError;
use crate::tokenizer::TokenizerError;

use super::{SamplerError, StreamError, TemplateError};

/// Why a session could not go on. What it held before the call still stands.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SessionError {
    /// The model could not be run.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The file's metadata cannot be used.
    #[error(transparent)]
    Gguf(#[from] GgufError),
    /// Text could not be turned into tokens or back.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// The chat template failed.
    #[error(transparent)]
    Template(#[from] TemplateError),
    /// Sampling options or logits are unusable.
    #[error(transparent)]
    Sampler(#[from] SamplerError),
    /// A stop text is unusable.
    #[error(transparent)]
    Stream(#[from] StreamError),
    /// Nothing to run: the prompt has no token.
    #[error("the prompt has no token")]
    EmptyPrompt,
    /// A text too short to score.
    #[error("at least 2 tokens are needed to score a text, found {found}")]
    TooShort {
        /// Tokens given.
        found: usize,
    },
    /// The caller cancelled.
    #[error("cancelled")]
    Cancelled,
}
