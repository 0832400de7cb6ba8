//! [`Tokenizer`]: loading, encoding, decoding.

use std::sync::Arc;

use super::TokenizerError;
use super::bpe::Bpe;
use super::merge::Merger;
use super::special::{Meanings, Part, SpecialMatcher};
use super::split::PreTokenizer;
use super::spm::{SCORES, Spm};
use super::vocab::{Strings, TOKEN_TYPE, TokenKind, Tokens, View, Vocab};
use crate::gguf::Gguf;

/// What a vocabulary says of itself besides its tokens: the `tokenizer.ggml.*` keys of a GGUF file.
#[derive(Debug, Clone, Default)]
#[allow(missing_docs)]
pub struct Settings {
    /// `model`: `gpt2` (byte-level BPE) or `llama` (SentencePiece by score).
    pub model: String,
    /// `pre`: which pre-tokenizer, for `gpt2`.
    pub pre: Option<String>,
    /// `scores`: one per token, for `llama`.
    pub scores: Option<Vec<f32>>,
    /// `token_type`: one per token, the numbers of [`TokenKind`].
    pub token_types: Option<Vec<i32>>,
    pub bos: Option<u32>,
    pub eos: Option<u32>,
    pub eot: Option<u32>,
    pub eom: Option<u32>,
    pub unknown: Option<u32>,
    pub padding: Option<u32>,
    /// `add_bos_token`; without it `llama` and the Llama 3 family add one.
    pub add_bos: Option<bool>,
    /// `add_space_prefix`, for `llama`, which does so without it.
    pub add_space_prefix: Option<bool>,
}

impl Settings {
    fn from_gguf(gguf: &Gguf) -> Result<Self, TokenizerError> {
        let metadata = gguf.metadata();
        Ok(Self {
            model: metadata.str("tokenizer.ggml.model")?.to_owned(),
            pre: metadata.opt_str("tokenizer.ggml.pre")?.map(str::to_owned),
            scores: metadata.opt_f32s(SCORES)?,
            token_types: metadata.opt_i32s(TOKEN_TYPE)?,
            bos: metadata.opt_u32("tokenizer.ggml.bos_token_id")?,
            eos: metadata.opt_u32("tokenizer.ggml.eos_token_id")?,
            eot: metadata.opt_u32("tokenizer.ggml.eot_token_id")?,
            eom: metadata.opt_u32("tokenizer.ggml.eom_token_id")?,
            unknown: metadata.opt_u32("tokenizer.ggml.unknown_token_id")?,
            padding: metadata.opt_u32("tokenizer.ggml.padding_token_id")?,
            add_bos: metadata.opt_bool("tokenizer.ggml.add_bos_token")?,
            add_space_prefix: metadata.opt_bool("tokenizer.ggml.add_space_prefix")?,
        })
    }
}

/// How to read a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct EncodeOptions {
    /// Special tokens written out in the text become those tokens. For text that is not the program's own, leave it
    /// off: then no text becomes a control token. User-defined tokens are text, and are found either way.
    pub parse_special: bool,
    /// Puts the beginning-of-sequence token first; see [`Tokenizer::adds_bos`].
    pub add_bos: bool,
}

/// What becomes of control tokens and the unknown token when ids turn into text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SpecialText {
    /// They are written as the vocabulary spells them.
    Keep,
    /// They are left out.
    Skip,
}

#[derive(Debug)]
enum Algorithm {
    Bpe(Bpe),
    Spm(Spm),
}

/// Text to token ids and back. Immutable, `Send` and `Sync`; keeps the file it came from mapped.
#[derive(Debug)]
pub struct Tokenizer {
    vocab: Vocab,
    algorithm: Algorithm,
    specials: SpecialMatcher,
    meanings: Meanings,
    adds_bos: bool,
}

impl Tokenizer {
    /// Reads the vocabulary of a model file. The texts of the tokens stay in its mapping.
    ///
    /// # Errors
    /// [`TokenizerError`] names what the file lacks or has wrong.
    pub fn from_gguf(gguf: Arc<Gguf>) -> Result<Self, TokenizerError> {
        let settings = Settings::from_gguf(&gguf)?;
        let merges = gguf.metadata().opt_strings("tokenizer.ggml.merges")?;
        let merges = merges.map_or(Strings::Owned(&[]), Strings::Mapped);
        Self::build(Tokens::Mapped(gguf.clone()), merges, settings)
    }

    /// A tokenizer of parts that are not in a file. `merges` are `left right`, best first, for `gpt2`.
    ///
    /// # Errors
    /// As [`Self::from_gguf`].
    pub fn from_parts(tokens: Vec<Vec<u8>>, merges: &[Vec<u8>], settings: Settings) -> Result<Self, TokenizerError> {
        Self::build(Tokens::Owned(tokens), Strings::Owned(merges), settings)
    }

    fn build(tokens: Tokens, merges: Strings<'_>, settings: Settings) -> Result<Self, TokenizerError> {
        let mut vocab = Vocab::new(tokens, settings.token_types.as_deref())?;
        let meanings = Meanings::new(&mut vocab, &settings)?;
        let view = vocab.view()?;
        let (algorithm, adds_bos) = match settings.model.as_str() {
            "gpt2" => {
                let name = settings.pre.as_deref().unwrap_or("default");
                let pre = PreTokenizer::from_name(name)
                    .ok_or_else(|| TokenizerError::UnknownPreTokenizer { found: name.to_owned() })?;
                (Algorithm::Bpe(Bpe::new(view, merges, pre)?), pre.ignore_merges)
            }
            "llama" => {
                let scores = settings.scores.ok_or_else(|| TokenizerError::ArrayLength {
                    key: SCORES,
                    expected: view.len(),
                    found: 0,
                })?;
                let add_space_prefix = settings.add_space_prefix.unwrap_or(true);
                (Algorithm::Spm(Spm::new(view, scores, meanings.unknown, add_space_prefix)?), true)
            }
            found => return Err(TokenizerError::UnsupportedModel { found: found.to_owned() }),
        };
        let adds_bos = match settings.add_bos {
            Some(true) if meanings.bos.is_none() => return Err(TokenizerError::NoBos),
            Some(adds) => adds,
            None => adds_bos && meanings.bos.is_some(),
        };
        let specials = SpecialMatcher::new(view);
        Ok(Self { vocab, algorithm, specials, meanings, adds_bos })
    }

    /// The ids of `text`.
    ///
    /// A byte of a byte-level vocabulary that has no token for it (SmolLM2 lacks a few control characters) has no id
    /// and is left out.
    ///
    /// # Errors
    /// [`TokenizerError::TextTooLong`]; [`TokenizerError::NoBos`] if one is asked for and there is none.
    pub fn encode(&self, text: &str, options: EncodeOptions) -> Result<Vec<u32>, TokenizerError> {
        let longest = match self.algorithm {
            Algorithm::Bpe(_) => Some(text.len()),
            Algorithm::Spm(_) => Spm::escaped_len(text.len()),
        };
        const MAX: usize = u32::MAX as usize - 1;
        if longest.is_none_or(|bytes| bytes > MAX) {
            return Err(TokenizerError::TextTooLong { bytes: text.len(), max: MAX });
        }
        let view = self.vocab.view()?;
        let mut ids = Vec::new();
        if options.add_bos {
            ids.push(self.meanings.bos.ok_or(TokenizerError::NoBos)?);
        }
        let mut merger = Merger::default();
        let mut starts = true;
        for part in self.specials.parts(view, text, options.parse_special) {
            match part {
                Part::Special(id) => ids.push(id),
                Part::Text(text) => match &self.algorithm {
                    Algorithm::Bpe(bpe) => bpe.encode(view, text, &mut merger, &mut ids),
                    Algorithm::Spm(spm) => spm.encode(view, text, starts, &mut merger, &mut ids),
                },
            }
            starts = matches!(part, Part::Special(_));
        }
        Ok(ids)
    }

    /// The text of `ids`; bytes that are not UTF-8 become U+FFFD.
    ///
    /// Undoes [`Self::encode`] for every text whose bytes all have tokens, with one exception: pieces of a `llama`
    /// vocabulary spell a space as U+2581, so that a U+2581 of the text comes back as a space. The space such a
    /// vocabulary may put before text (`add_space_prefix`) is taken off again.
    ///
    /// # Errors
    /// [`TokenizerError::UnknownToken`].
    pub fn decode(&self, ids: &[u32], special: SpecialText) -> Result<String, TokenizerError> {
        let view = self.vocab.view()?;
        let prefixed = matches!(&self.algorithm, Algorithm::Spm(spm) if spm.add_space_prefix);
        let mut bytes = Vec::new();
        let mut starts = true;
        for &id in ids {
            let before = bytes.len();
            let kind = self.append(view, id, special, &mut bytes)?;
            let is_text = kind.is_text();
            if prefixed && starts && is_text && bytes.get(before) == Some(&b' ') {
                bytes.remove(before);
            }
            starts = !is_text;
        }
        Ok(match String::from_utf8(bytes) {
            Ok(text) => text,
            Err(error) => String::from_utf8_lossy(error.as_bytes()).into_owned(),
        })
    }

    /// Appends the bytes of one token, for streaming; they need not be whole characters.
    ///
    /// # Errors
    /// [`TokenizerError::UnknownToken`].
    pub fn token_bytes(&self, id: u32, special: SpecialText, out: &mut Vec<u8>) -> Result<(), TokenizerError> {
        self.append(self.vocab.view()?, id, special, out).map(drop)
    }

    fn append(
        &self,
        view: View<'_>,
        id: u32,
        special: SpecialText,
        out: &mut Vec<u8>,
    ) -> Result<TokenKind, TokenizerError> {
        let kind = view.kind(id).ok_or(TokenizerError::UnknownToken { id, len: view.len() })?;
        if special == SpecialText::Keep || !matches!(kind, TokenKind::Control | TokenKind::Unknown) {
            match self.algorithm {
                Algorithm::Bpe(_) => Bpe::decode(kind, view.text(id), out),
                Algorithm::Spm(_) => Spm::decode(view, id, kind, out)?,
            }
        }
        Ok(kind)
    }

    /// The token spelled exactly so in the vocabulary, of whatever kind.
    ///
    /// # Errors
    /// None for a file that loaded.
    pub fn token_id(&self, text: &[u8]) -> Result<Option<u32>, TokenizerError> {
        Ok(self.vocab.view()?.find(text))
    }

    /// The token as the vocabulary spells it.
    ///
    /// # Errors
    /// [`TokenizerError::UnknownToken`].
    pub fn token_text(&self, id: u32) -> Result<&[u8], TokenizerError> {
        let view = self.vocab.view()?;
        view.kind(id).ok_or(TokenizerError::UnknownToken { id, len: view.len() })?;
        Ok(view.text(id))
    }

    /// Number of tokens, at least one.
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        self.vocab.len()
    }

    /// What a token is for, `None` past the end.
    pub fn kind(&self, id: u32) -> Option<TokenKind> {
        self.vocab.kinds().get(id as usize).copied()
    }

    /// The beginning-of-sequence token.
    pub fn bos(&self) -> Option<u32> {
        self.meanings.bos
    }

    /// The end-of-sequence token.
    pub fn eos(&self) -> Option<u32> {
        self.meanings.eos
    }

    /// The end-of-turn token: the one the file names, else the first well-known one in the vocabulary.
    pub fn eot(&self) -> Option<u32> {
        self.meanings.eot
    }

    /// The unknown token.
    pub fn unknown(&self) -> Option<u32> {
        self.meanings.unknown
    }

    /// The padding token.
    pub fn padding(&self) -> Option<u32> {
        self.meanings.padding
    }

    /// Whether the model expects prompts to begin with [`Self::bos`].
    pub fn adds_bos(&self) -> bool {
        self.adds_bos
    }

    /// Whether the model is done when it writes `id`: end of sequence, of turn, of message, or a well-known relative.
    pub fn is_end_of_generation(&self, id: u32) -> bool {
        self.meanings.ends.binary_search(&id).is_ok()
    }

    /// Bytes on the heap; the file mapping is not counted.
    pub fn heap_bytes(&self) -> usize {
        let algorithm = match &self.algorithm {
            Algorithm::Bpe(bpe) => bpe.heap_bytes(),
            Algorithm::Spm(spm) => spm.heap_bytes(),
        };
        self.vocab.heap_bytes() + algorithm + self.specials.heap_bytes() + size_of_val(&*self.meanings.ends)
    }
}
