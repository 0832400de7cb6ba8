//! Examples that an application has in memory.

use crate::tune::TuneError;

use super::examples::limit;
use super::{DataOptions, Encoder, Examples, Record, Sequence};

impl Examples {
    /// Of these records; `max_length` is that of [`DataOptions`], with [`DataOptions::LINE`] in place of `None`.
    ///
    /// # Errors
    /// [`TuneError::Example`] for the first that is none; [`TuneError::NothingGiven`] where there is nothing to learn;
    /// [`TuneError::Option`] for a length that no example can have.
    pub fn of_records(encoder: &Encoder, records: &[Record], max_length: Option<usize>) -> Result<Self, TuneError> {
        let length = limit(encoder, max_length, DataOptions::LINE)?;
        let sequences = records.iter().enumerate().map(|(index, record)| {
            encoder.record(record).map_err(|source| TuneError::Example { number: index + 1, source })
        });
        Self::given(sequences.collect::<Result<_, _>>()?, records.len(), length)
    }

    /// Of these texts; `max_length` is that of [`DataOptions`], with [`DataOptions::WINDOW`] in place of `None`. A text that is
    /// no longer is one example ([`Encoder::whole`]), a longer one has windows of its own ([`Encoder::text`]). Blank ones are
    /// passed over.
    ///
    /// # Errors
    /// As [`Self::of_records`]; [`TuneError::Tokenizer`].
    pub fn of_texts(
        encoder: &Encoder,
        texts: &[impl AsRef<str>],
        max_length: Option<usize>,
    ) -> Result<Self, TuneError> {
        let length = limit(encoder, max_length, DataOptions::WINDOW)?;
        let mut sequences = Vec::new();
        for text in texts.iter().map(AsRef::as_ref).filter(|text| !text.trim().is_empty()) {
            let whole = encoder.whole(text)?;
            match whole.tokens.len() <= length {
                true => sequences.push(whole),
                false => sequences.extend(encoder.text(text, length)?),
            }
        }
        Self::given(sequences, texts.len(), length)
    }

    fn given(sequences: Vec<Sequence>, examples: usize, length: usize) -> Result<Self, TuneError> {
        let kept = Self::cut(sequences, length);
        match kept.sequences().is_empty() {
            true => Err(TuneError::NothingGiven { examples, max_length: length }),
            false => Ok(kept),
        }
    }
}
