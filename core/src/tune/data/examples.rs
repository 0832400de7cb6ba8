//! [`Examples`]: a file's sequences, truncated and counted.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use crate::tune::TuneError;

use super::{DataOptions, Encoder, Record, Sequence};

/// Bytes of the largest file that is read: some hundred million tokens, more than an adapter can learn in a month.
const MAX_FILE: u64 = 256 << 20;

/// Sequences with at least one target each.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Examples {
    sequences: Vec<Sequence>,
    truncated: usize,
    dropped: usize,
}

/// What there is in some examples.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct DataReport {
    /// Sequences.
    pub examples: usize,
    /// Their tokens.
    pub tokens: usize,
    /// Those that are learnt or scored.
    pub targets: usize,
    /// Sequences that were longer than the limit and lost their end.
    pub truncated: usize,
    /// Sequences without a target within the limit, which are left out.
    pub dropped: usize,
}

impl Examples {
    /// Of these sequences, as they are; those without a target are left out.
    pub fn new(sequences: Vec<Sequence>) -> Self {
        Self::cut(sequences, usize::MAX)
    }

    /// Reads a file: lines of JSON where its name ends in `.jsonl`, `.ndjson` or `.json`, else text.
    ///
    /// # Errors
    /// [`TuneError::Io`], [`TuneError::TooLarge`], [`TuneError::NotUtf8`] for the file, [`TuneError::Line`] for one of its
    /// lines; [`TuneError::Empty`], [`TuneError::TooShort`] and [`TuneError::NoTargets`] where there is nothing to learn;
    /// [`TuneError::Option`] for a length that no example can have.
    pub fn load(encoder: &Encoder, path: &Path, max_length: Option<usize>) -> Result<Self, TuneError> {
        let extension = path.extension().unwrap_or_default().to_ascii_lowercase();
        let lines = matches!(extension.to_str(), Some("jsonl" | "ndjson" | "json"));
        let length = limit(encoder, max_length, if lines { DataOptions::LINE } else { DataOptions::WINDOW })?;
        let text = read(path)?;
        // Some editors begin a file with a mark of its encoding.
        let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
        let sequences = if lines { parse(encoder, path, text)? } else { windows(encoder, path, text, length)? };
        let examples = sequences.len();
        let kept = Self::cut(sequences, length);
        if kept.sequences.is_empty() {
            let truncated = kept.truncated;
            return Err(TuneError::NoTargets { path: path.to_owned(), examples, truncated, max_length: length });
        }
        Ok(kept)
    }

    /// The sequences.
    pub fn sequences(&self) -> &[Sequence] {
        &self.sequences
    }

    /// Tokens of the longest.
    pub fn longest(&self) -> usize {
        self.sequences.iter().map(|s| s.tokens.len()).max().unwrap_or(0)
    }

    /// What there is.
    pub fn report(&self) -> DataReport {
        DataReport {
            examples: self.sequences.len(),
            tokens: self.sequences.iter().map(|s| s.tokens.len()).sum(),
            targets: self.sequences.iter().map(target_count).sum(),
            truncated: self.truncated,
            dropped: self.dropped,
        }
    }

    /// Those not marked, with the counts of the file, and those that are.
    pub(super) fn partition(self, marked: &[bool]) -> (Self, Self) {
        let (mut rest, mut part) = (Vec::new(), Vec::new());
        for (sequence, marked) in self.sequences.into_iter().zip(marked) {
            if *marked { &mut part } else { &mut rest }.push(sequence);
        }
        (Self { sequences: rest, ..self }, Self { sequences: part, truncated: 0, dropped: 0 })
    }

    pub(super) fn hash_into(&self, hasher: &mut blake3::Hasher) {
        hasher.update(&(self.sequences.len() as u64).to_le_bytes());
        for sequence in &self.sequences {
            hasher.update(&(sequence.tokens.len() as u64).to_le_bytes());
            for (token, target) in sequence.tokens.iter().zip(&sequence.targets) {
                hasher.update(&token.to_le_bytes());
                hasher.update(&[u8::from(*target)]);
            }
        }
    }

    pub(super) fn cut(mut sequences: Vec<Sequence>, length: usize) -> Self {
        let mut truncated = 0;
        for sequence in &mut sequences {
            truncated += usize::from(sequence.tokens.len() > length);
            sequence.tokens.truncate(length);
            sequence.targets.truncate(length);
        }
        let all = sequences.len();
        sequences.retain(|sequence| target_count(sequence) > 0);
        sequences.shrink_to_fit();
        Self { truncated, dropped: all - sequences.len(), sequences }
    }
}

/// Tokens that count.
pub fn target_count(sequence: &Sequence) -> usize {
    sequence.targets.iter().filter(|target| **target).count()
}

/// Tokens of the longest example: what was asked for, else the default, and never more than the model can run.
pub(super) fn limit(encoder: &Encoder, asked: Option<usize>, default: usize) -> Result<usize, TuneError> {
    let length = asked.unwrap_or(default);
    if length < Encoder::MIN_WINDOW {
        let least = format!("at least {} tokens", Encoder::MIN_WINDOW);
        return Err(TuneError::option("maximum length", length, least));
    }
    Ok(length.min(encoder.context()))
}

fn parse(encoder: &Encoder, path: &Path, text: &str) -> Result<Vec<Sequence>, TuneError> {
    let mut sequences = Vec::new();
    for (index, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let sequence = Record::parse(line).and_then(|record| encoder.record(&record));
        sequences.push(sequence.map_err(|source| TuneError::Line {
            path: path.to_owned(),
            line: index + 1,
            source,
        })?);
    }
    if sequences.is_empty() {
        return Err(TuneError::Empty { path: path.to_owned() });
    }
    Ok(sequences)
}

fn windows(encoder: &Encoder, path: &Path, text: &str, length: usize) -> Result<Vec<Sequence>, TuneError> {
    if text.trim().is_empty() {
        return Err(TuneError::Empty { path: path.to_owned() });
    }
    let sequences = encoder.text(text, length)?;
    if sequences.is_empty() {
        let (tokens, needed) = (encoder.count(text)?, Encoder::MIN_WINDOW);
        return Err(TuneError::TooShort { path: path.to_owned(), tokens, needed });
    }
    Ok(sequences)
}

/// The text of a regular file.
fn read(path: &Path) -> Result<String, TuneError> {
    let io = |source| TuneError::Io { path: path.to_owned(), source };
    let found = std::fs::metadata(path).map_err(io)?;
    if !found.is_file() {
        // Opening a pipe waits for a writer; a device may never end.
        return Err(io(std::io::Error::new(std::io::ErrorKind::InvalidInput, "not a regular file")));
    }
    if found.len() > MAX_FILE {
        return Err(TuneError::TooLarge { path: path.to_owned(), bytes: found.len(), limit: MAX_FILE });
    }
    let mut bytes = Vec::new();
    File::open(path).map_err(io)?.take(MAX_FILE).read_to_end(&mut bytes).map_err(io)?;
    String::from_utf8(bytes).map_err(|error| {
        let good = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = good.iter().filter(|byte| **byte == b'\n').count() + 1;
        TuneError::NotUtf8 { path: path.to_owned(), line }
    })
}
