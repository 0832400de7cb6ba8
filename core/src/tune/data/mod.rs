//! Texts and chats as tokens with a mask: what a run learns from and what it is scored on.
//!
//! | file | holds |
//! |---|---|
//! | `jsonl` | lines of JSON as [`Record`]s |
//! | `encode` | [`Encoder`]: records through the model's chat template, texts in windows |
//! | `examples` | [`Examples`]: a file's sequences, truncated and counted |
//! | `given` | the same of records and texts that are in memory |
//! | `split` | setting a held-out part aside |
//! | `batches` | the order examples come in |
//! | `rng` | the random numbers of both |

mod batches;
mod encode;
mod examples;
mod given;
mod jsonl;
mod rng;
mod split;

use std::path::Path;

use crate::model::Model;
pub use crate::model::{Loss, Sequence};

use super::TuneError;

pub use batches::{Batches, Cursor};
pub use encode::Encoder;
pub use examples::{DataReport, Examples, target_count};
pub use jsonl::{LineError, Record};
pub use rng::Rng;
pub use split::{MAX_HELDOUT, split};

/// How data files are read.
#[derive(Debug, Clone, PartialEq)]
pub struct DataOptions {
    /// Tokens of the longest example, and of a text's windows; `None` for [`DataOptions::LINE`] of JSONL and
    /// [`DataOptions::WINDOW`] of text. Never more than the model's context.
    pub max_length: Option<usize>,
    /// Share of the examples held out where no file is, at most [`MAX_HELDOUT`] of them; 0 holds none out.
    pub heldout_share: f64,
    /// Seed of that choice.
    pub seed: u64,
}

impl DataOptions {
    /// Default longest example of JSONL, in tokens.
    pub const LINE: usize = 256;
    /// Default window of a text, in tokens.
    pub const WINDOW: usize = 128;
}

impl Default for DataOptions {
    fn default() -> Self {
        Self { max_length: None, heldout_share: 0.1, seed: 0 }
    }
}

/// What a run learns from and what it is scored on.
#[derive(Debug, Clone)]
pub struct Dataset {
    train: Examples,
    heldout: Option<Examples>,
}

impl Dataset {
    /// Reads `data` and sets a part aside, or reads `heldout` where it is given. Names that end in `.jsonl`, `.ndjson` or
    /// `.json` are lines of JSON, others are text.
    ///
    /// # Errors
    /// Everything [`Examples::load`] and [`Dataset::split`] find.
    pub fn load(model: &Model, data: &Path, heldout: Option<&Path>, options: &DataOptions) -> Result<Self, TuneError> {
        let encoder = Encoder::new(model)?;
        let load = |path| Examples::load(&encoder, path, options.max_length);
        let train = load(data)?;
        match heldout {
            Some(path) => Ok(Self::new(train, Some(load(path)?))),
            None => Self::split(train, options.heldout_share, options.seed),
        }
    }

    /// A dataset of these.
    pub fn new(train: Examples, heldout: Option<Examples>) -> Self {
        Self { train, heldout }
    }

    /// Sets a part of the examples aside.
    ///
    /// # Errors
    /// [`TuneError::Option`] for a share that is none; [`TuneError::NothingLeft`].
    pub fn split(examples: Examples, share: f64, seed: u64) -> Result<Self, TuneError> {
        if !(0.0..1.0).contains(&share) {
            return Err(TuneError::option("heldout share", share, "a number from 0 to below 1"));
        }
        let total = examples.sequences().len();
        let (train, heldout) = split(examples, share, seed);
        let held = heldout.as_ref().map_or(0, |h| h.sequences().len());
        if train.sequences().is_empty() {
            return Err(TuneError::NothingLeft { examples: total, heldout: held });
        }
        Ok(Self { train, heldout })
    }

    /// What is learnt from, at least one sequence.
    pub fn train(&self) -> &Examples {
        &self.train
    }

    /// What is scored, if anything.
    pub fn heldout(&self) -> Option<&Examples> {
        self.heldout.as_ref()
    }

    /// Tokens of the longest sequence.
    pub fn longest(&self) -> usize {
        self.train.longest().max(self.heldout.as_ref().map_or(0, Examples::longest))
    }

    /// An identity of every token and mask, in order.
    pub fn fingerprint(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        self.train.hash_into(&mut hasher);
        if let Some(heldout) = &self.heldout {
            heldout.hash_into(&mut hasher);
        }
        hasher.finalize().to_hex().to_string()
    }
}
