//! A run's state in a file.
//!
//! The container is safetensors: tensors `parameters`, `mean`, `square`, `good` (`[parameters]`, F32) and `losses`
//! (`[steps]`, F32), and in its metadata under `timbre-tune` a JSON object with the rest of [`State`], the options it
//! belongs to and the BLAKE3 of everything. It is replaced whole ([`durable`](crate::durable)), so a kill at any time leaves
//! the last one; the hash tells a file that was damaged afterwards.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde::{Deserialize, Serialize};

use crate::durable::AtomicFile;

use super::TuneError;
use super::data::Cursor;
use super::optimiser::AdamW;
use super::state::{Best, State};
use super::watch::Watch;

const KEY: &str = "timbre-tune";
const HASH: &str = "blake3";
/// 2: parameters in the stored order of plans that have each output bin once.
const VERSION: u32 = 2;
/// Bytes of the largest checkpoint that is read: that of some hundred million parameters.
const MAX_FILE: u64 = 2 << 30;

/// What is wrong with a checkpoint.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CheckpointError {
    /// The file could not be read or written.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// Not a checkpoint, or one that was damaged.
    #[error("not a whole checkpoint: {reason}")]
    Damaged {
        /// What does not fit.
        reason: String,
    },
    /// Written by another version of this crate.
    #[error("checkpoint version {found}, expected {expected}")]
    Version {
        /// The file's.
        found: u32,
        /// This crate's.
        expected: u32,
    },
    /// Of a run with another base, data or options.
    #[error("the checkpoint belongs to another run: {what} was {found}, now it is {expected}")]
    Mismatch {
        /// What differs.
        what: String,
        /// In the checkpoint.
        found: String,
        /// In this run.
        expected: String,
    },
}

/// What a run's result depends on, by name: a checkpoint is continued only under the same.
pub type OptionRecord = BTreeMap<String, String>;

/// The checkpoint file of a run.
#[derive(Debug, Clone)]
pub struct Checkpoint {
    path: PathBuf,
    options: OptionRecord,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Record {
    options: OptionRecord,
    step: u64,
    adam_steps: u64,
    cursor: Cursor,
    elapsed: f64,
    evaluation_seconds: f64,
    tokens: u64,
    evaluations: Vec<(u64, f64)>,
    good_step: u64,
    good_loss: Option<f64>,
    stale: u32,
    watch: Watch,
}

/// Read first, so that a newer file is refused for its version and not for a field.
#[derive(Serialize, Deserialize)]
struct Versioned {
    version: u32,
    record: serde_json::Value,
}

impl Checkpoint {
    /// The checkpoint at `path` of a run under `options`.
    pub fn new(path: impl Into<PathBuf>, options: OptionRecord) -> Self {
        Self { path: path.into(), options }
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether there is one.
    pub fn exists(&self) -> bool {
        self.path.exists()
    }

    /// Replaces the file by this state.
    ///
    /// # Errors
    /// [`TuneError::Checkpoint`] if the disk is full or gone; the last checkpoint then stands.
    pub fn save(&self, state: &State) -> Result<(), TuneError> {
        self.write(state).map_err(|source| self.refused(source))
    }

    /// The state in the file, or `None` without a file.
    ///
    /// # Errors
    /// [`TuneError::Checkpoint`] for a damaged file or one of another run.
    pub fn load(&self) -> Result<Option<State>, TuneError> {
        self.read().map_err(|source| self.refused(source))
    }

    /// Removes the file, if there is one.
    ///
    /// # Errors
    /// [`TuneError::Checkpoint`].
    pub fn remove(&self) -> Result<(), TuneError> {
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(self.refused(error.into())),
            _ => Ok(()),
        }
    }

    fn refused(&self, source: CheckpointError) -> TuneError {
        TuneError::Checkpoint { path: self.path.clone(), source }
    }

    fn write(&self, state: &State) -> Result<(), CheckpointError> {
        let record = Record {
            options: self.options.clone(),
            step: state.step,
            adam_steps: state.adam.steps,
            cursor: state.cursor,
            elapsed: state.elapsed,
            evaluation_seconds: state.evaluation_seconds,
            tokens: state.tokens,
            evaluations: state.evaluations.clone(),
            good_step: state.good.step,
            good_loss: state.good.loss,
            stale: state.stale,
            watch: state.watch,
        };
        let unwritable = |error: serde_json::Error| damaged(error.to_string());
        let record = serde_json::to_value(record).map_err(unwritable)?;
        let text = serde_json::to_string(&Versioned { version: VERSION, record }).map_err(unwritable)?;
        let tensors = vectors(state).map(|(name, values)| (name, bytes(values)));
        let hash = hash(&text, tensors.iter().map(|(name, bytes)| (*name, bytes.as_slice())));
        let views = tensors.iter().map(|(name, bytes)| {
            TensorView::new(Dtype::F32, vec![bytes.len() / size_of::<f32>()], bytes).map(|view| (*name, view))
        });
        let views = views.collect::<Result<Vec<_>, _>>().map_err(|error| damaged(error.to_string()))?;
        let metadata = [(KEY.to_owned(), text), (HASH.to_owned(), hash)].into();
        let bytes = safetensors::serialize(views, Some(metadata)).map_err(|error| damaged(error.to_string()))?;
        let mut file = AtomicFile::create(&self.path)?;
        file.write_all(&bytes)?;
        Ok(file.commit()?)
    }

    fn read(&self) -> Result<Option<State>, CheckpointError> {
        let found = match fs::metadata(&self.path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            other => other?,
        };
        if !found.is_file() || found.len() > MAX_FILE {
            return Err(damaged(format!("no regular file of at most {MAX_FILE} bytes")));
        }
        let bytes = fs::read(&self.path)?;
        let container = |error: safetensors::SafeTensorError| damaged(error.to_string());
        let (_, metadata) = SafeTensors::read_metadata(&bytes).map_err(container)?;
        let field = |key: &str| metadata.metadata().as_ref().and_then(|m| m.get(key)).cloned();
        let text = field(KEY).ok_or_else(|| damaged(format!("no {KEY} in its metadata")))?;
        let versioned: Versioned = serde_json::from_str(&text).map_err(|error| damaged(error.to_string()))?;
        if versioned.version != VERSION {
            return Err(CheckpointError::Version { found: versioned.version, expected: VERSION });
        }
        let tensors = SafeTensors::deserialize(&bytes).map_err(container)?;
        let mut parts = Vec::with_capacity(NAMES.len());
        for name in NAMES {
            let view = tensors.tensor(name).map_err(container)?;
            if view.dtype() != Dtype::F32 || view.shape().len() != 1 {
                return Err(damaged(format!("{name} is no vector of F32")));
            }
            parts.push((name, view.data()));
        }
        if field(HASH).as_deref() != Some(&*hash(&text, parts.iter().copied())) || tensors.len() != NAMES.len() {
            return Err(damaged("its hash does not match".to_owned()));
        }
        let record: Record = serde_json::from_value(versioned.record).map_err(|error| damaged(error.to_string()))?;
        self.check(&record.options)?;
        let mut vectors = parts.into_iter().map(|(_, data)| floats(data));
        let mut next = || vectors.next().unwrap_or_default();
        let (parameters, mean, square, good, losses) = (next(), next(), next(), next(), next());
        if [&mean, &square, &good].iter().any(|v| v.len() != parameters.len()) || losses.len() as u64 != record.step {
            return Err(damaged("its tensors have different lengths".to_owned()));
        }
        Ok(Some(State {
            parameters,
            adam: AdamW { mean, square, steps: record.adam_steps },
            step: record.step,
            cursor: record.cursor,
            elapsed: record.elapsed,
            evaluation_seconds: record.evaluation_seconds,
            tokens: record.tokens,
            losses,
            evaluations: record.evaluations,
            good: Best { step: record.good_step, loss: record.good_loss, parameters: good },
            stale: record.stale,
            watch: record.watch,
        }))
    }

    fn check(&self, found: &OptionRecord) -> Result<(), CheckpointError> {
        let names = self.options.keys().chain(found.keys());
        for name in names {
            let (before, now) = (found.get(name), self.options.get(name));
            if before != now {
                let show = |value: Option<&String>| value.map_or("not set", String::as_str).to_owned();
                let (found, expected) = (show(before), show(now));
                return Err(CheckpointError::Mismatch { what: name.clone(), found, expected });
            }
        }
        Ok(())
    }
}

const NAMES: [&str; 5] = ["parameters", "mean", "square", "good", "losses"];

/// The state's vectors, in the order of [`NAMES`].
fn vectors(state: &State) -> [(&'static str, &[f32]); 5] {
    let [parameters, mean, square, good, losses] = NAMES;
    [
        (parameters, &state.parameters),
        (mean, &state.adam.mean),
        (square, &state.adam.square),
        (good, &state.good.parameters),
        (losses, &state.losses),
    ]
}

fn bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    let (values, _) = bytes.as_chunks();
    values.iter().map(|value| f32::from_le_bytes(*value)).collect()
}

fn hash<'a>(text: &str, tensors: impl Iterator<Item = (&'a str, &'a [u8])>) -> String {
    let mut hasher = blake3::Hasher::new();
    hasher.update(text.as_bytes());
    for (name, bytes) in tensors {
        hasher.update(name.as_bytes());
        hasher.update(&(bytes.len() as u64).to_le_bytes());
        hasher.update(bytes);
    }
    hasher.finalize().to_hex().to_string()
}

fn damaged(reason: String) -> CheckpointError {
    CheckpointError::Damaged { reason }
}
