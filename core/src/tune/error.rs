//! What can go wrong in a fine-tune.

use std::path::PathBuf;

use crate::adapter::AdapterError;
use crate::gguf::GgufError;
use crate::model::ModelError;
use crate::session::TemplateError;
use crate::spectral::SpectralError;
use crate::tokenizer::TokenizerError;

use super::CheckpointError;
use super::data::LineError;

/// Why a fine-tune could not begin or go on. A run that was under way leaves its last checkpoint as it was.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TuneError {
    /// The model could not be run.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The adapter to begin with is wrong, or the result could not be saved.
    #[error(transparent)]
    Adapter(#[from] AdapterError),
    /// The model file's metadata cannot be used.
    #[error(transparent)]
    Gguf(#[from] GgufError),
    /// Text could not be turned into tokens.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// The model's chat template cannot be used.
    #[error(transparent)]
    Template(#[from] TemplateError),
    /// Positions could not be drawn.
    #[error("{module}: {source}")]
    Entries {
        /// The module.
        module: String,
        /// What is wrong.
        source: SpectralError,
    },

    /// A data file could not be read.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// A data file larger than is read.
    #[error("{path}: {bytes} bytes, at most {limit} are read")]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its size.
        bytes: u64,
        /// The cap.
        limit: u64,
    },
    /// A data file that is not UTF-8.
    #[error("{path}, line {line}: not UTF-8")]
    NotUtf8 {
        /// The file.
        path: PathBuf,
        /// The line of the first byte that is not.
        line: usize,
    },
    /// A line of a JSONL file that is no example.
    #[error("{path}, line {line}: {source}")]
    Line {
        /// The file.
        path: PathBuf,
        /// Its line, from 1.
        line: usize,
        /// What is wrong with it.
        source: LineError,
    },
    /// A data file with nothing in it.
    #[error("{path}: no examples")]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// A text too short to learn from.
    #[error("{path}: the text has {tokens} tokens, at least {needed} are needed")]
    TooShort {
        /// The file.
        path: PathBuf,
        /// Tokens it has.
        tokens: usize,
        /// Tokens that are needed.
        needed: usize,
    },
    /// Examples, but none with a token to learn.
    #[error(
        "{path}: none of {examples} examples has a token to learn; {truncated} were cut off at {max_length} tokens before one"
    )]
    NoTargets {
        /// The file.
        path: PathBuf,
        /// Examples it has.
        examples: usize,
        /// Those that are longer than the limit and have their targets behind it.
        truncated: usize,
        /// The limit, in tokens.
        max_length: usize,
    },
    /// One of the examples that were handed over is none.
    #[error("example {number}: {source}")]
    Example {
        /// Which, from 1.
        number: usize,
        /// What is wrong with it.
        source: LineError,
    },
    /// No examples were handed over, or none with a token to learn.
    #[error("none of {examples} examples has a token to learn within its first {max_length}")]
    NothingGiven {
        /// Examples there were.
        examples: usize,
        /// The limit, in tokens.
        max_length: usize,
    },
    /// Setting the held-out part aside leaves nothing to learn from.
    #[error("{examples} examples, of which {heldout} are held out, leave none to learn from")]
    NothingLeft {
        /// Examples there are.
        examples: usize,
        /// Examples held out.
        heldout: usize,
    },

    /// An option out of its range, or one that contradicts another.
    #[error("{name} is {found}, expected {expected}")]
    Option {
        /// The option.
        name: &'static str,
        /// Its value.
        found: String,
        /// What is possible.
        expected: String,
    },
    /// A target that names no linear layer of the model.
    #[error("target {found:?} is no linear layer of this model, expected all-linear or some of {known:?}")]
    Target {
        /// The name.
        found: String,
        /// The names there are.
        known: Vec<&'static str>,
    },
    /// A layer number past the model's last.
    #[error("layer {found} is not in this model, which has layers 0 to {last}")]
    Layer {
        /// The number.
        found: usize,
        /// The last there is.
        last: usize,
    },

    /// A checkpoint that cannot be read, written or continued.
    #[error("{path}: {source}")]
    Checkpoint {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: CheckpointError,
    },
}

impl TuneError {
    pub(super) fn option(name: &'static str, found: impl ToString, expected: impl Into<String>) -> Self {
        Self::Option { name, found: found.to_string(), expected: expected.into() }
    }
}
