//! The tokens: their texts where the file has them, and their kinds.

use std::sync::Arc;

use super::TokenizerError;
use super::error::excerpt;
use super::index::TokenIndex;
use crate::gguf::{Gguf, StringArray};

pub(super) const TOKENS: &str = "tokenizer.ggml.tokens";
pub(super) const TOKEN_TYPE: &str = "tokenizer.ggml.token_type";

/// What a token is for (`tokenizer.ggml.token_type`; the numbers are SentencePiece's).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum TokenKind {
    /// A piece of text.
    Normal = 1,
    /// Stands for what the vocabulary cannot say.
    Unknown = 2,
    /// Steers the model and is not text: beginning, end, turns.
    Control = 3,
    /// Text that is always one token, whatever surrounds it.
    UserDefined = 4,
    /// A piece of text the model was not trained on.
    Unused = 5,
    /// One raw byte, for text no piece covers.
    Byte = 6,
}

impl TokenKind {
    fn from_i32(value: i32) -> Option<Self> {
        [Self::Normal, Self::Unknown, Self::Control, Self::UserDefined, Self::Unused, Self::Byte]
            .into_iter()
            .find(|kind| *kind as i32 == value)
    }

    /// Whether the token stands for text that other text merges with; the rest are found whole in a text.
    pub(super) fn is_text(self) -> bool {
        matches!(self, Self::Normal | Self::Unused | Self::Byte)
    }

    /// Whether ordinary text can become such a token by merging.
    pub(super) fn is_piece(self) -> bool {
        matches!(self, Self::Normal | Self::UserDefined | Self::Unused)
    }
}

/// An array of byte strings, wherever it lives.
#[derive(Debug, Clone, Copy)]
pub(super) enum Strings<'a> {
    Mapped(StringArray<'a>),
    Owned(&'a [Vec<u8>]),
}

impl<'a> Strings<'a> {
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Mapped(array) => array.len(),
            Self::Owned(array) => array.len(),
        }
    }

    /// String `index`, empty past the end.
    #[inline]
    pub(super) fn get(&self, index: usize) -> &'a [u8] {
        match self {
            Self::Mapped(array) => array.get(index),
            Self::Owned(array) => array.get(index).map(Vec::as_slice),
        }
        .unwrap_or_default()
    }
}

/// Who keeps the token texts alive.
#[derive(Debug)]
pub(super) enum Tokens {
    Mapped(Arc<Gguf>),
    Owned(Vec<Vec<u8>>),
}

impl Tokens {
    /// A view of the texts; take it once per call, it costs a look-up of the metadata key.
    pub(super) fn strings(&self) -> Result<Strings<'_>, TokenizerError> {
        Ok(match self {
            Self::Mapped(gguf) => Strings::Mapped(gguf.metadata().strings(TOKENS)?),
            Self::Owned(tokens) => Strings::Owned(tokens),
        })
    }
}

/// Texts, kinds and the index from text to id.
#[derive(Debug)]
pub(super) struct Vocab {
    tokens: Tokens,
    kinds: Box<[TokenKind]>,
    index: TokenIndex,
}

impl Vocab {
    /// `types` holds one `tokenizer.ggml.token_type` per token; without it every token is [`TokenKind::Normal`].
    pub(super) fn new(tokens: Tokens, types: Option<&[i32]>) -> Result<Self, TokenizerError> {
        let strings = tokens.strings()?;
        let len = strings.len();
        if len == 0 || len >= 1 << 31 {
            return Err(TokenizerError::VocabularySize { found: len });
        }
        let kinds = match types {
            None => vec![TokenKind::Normal; len].into_boxed_slice(),
            Some(types) if types.len() == len => (0u32..)
                .zip(types)
                .map(|(id, &found)| TokenKind::from_i32(found).ok_or(TokenizerError::TokenType { id, found }))
                .collect::<Result<_, _>>()?,
            Some(types) => {
                return Err(TokenizerError::ArrayLength { key: TOKEN_TYPE, expected: len, found: types.len() });
            }
        };
        let index = TokenIndex::new(strings);
        Ok(Self { tokens, kinds, index })
    }

    pub(super) fn len(&self) -> usize {
        self.kinds.len()
    }

    pub(super) fn kinds(&self) -> &[TokenKind] {
        &self.kinds
    }

    pub(super) fn set_kind(&mut self, id: u32, kind: TokenKind) {
        if let Some(slot) = self.kinds.get_mut(id as usize) {
            *slot = kind;
        }
    }

    pub(super) fn view(&self) -> Result<View<'_>, TokenizerError> {
        Ok(View { strings: self.tokens.strings()?, kinds: &self.kinds, index: &self.index })
    }

    pub(super) fn heap_bytes(&self) -> usize {
        let owned = match &self.tokens {
            Tokens::Mapped(_) => 0,
            Tokens::Owned(tokens) => tokens.iter().map(|text| size_of::<Vec<u8>>() + text.capacity()).sum(),
        };
        owned + size_of_val::<[TokenKind]>(&self.kinds) + self.index.heap_bytes()
    }
}

/// The vocabulary for the length of one call.
#[derive(Debug, Clone, Copy)]
pub(super) struct View<'a> {
    strings: Strings<'a>,
    kinds: &'a [TokenKind],
    index: &'a TokenIndex,
}

impl<'a> View<'a> {
    pub(super) fn len(&self) -> usize {
        self.kinds.len()
    }

    pub(super) fn text(&self, id: u32) -> &'a [u8] {
        self.strings.get(id as usize)
    }

    pub(super) fn kind(&self, id: u32) -> Option<TokenKind> {
        self.kinds.get(id as usize).copied()
    }

    /// The token with this text, of whatever kind.
    #[inline]
    pub(super) fn find(&self, text: &[u8]) -> Option<u32> {
        self.index.get(self.strings, text)
    }

    /// The token ordinary text of this spelling may become: never a control, unknown or byte token.
    #[inline]
    pub(super) fn find_piece(&self, text: &[u8]) -> Option<u32> {
        self.find(text).filter(|&id| self.kinds[id as usize].is_piece())
    }

    /// The byte that byte token `id` stands for.
    pub(super) fn byte(&self, id: u32) -> Result<u8, TokenizerError> {
        let text = self.text(id);
        let digits = match text {
            [b'<', b'0', b'x', high, low, b'>'] => Some([*high, *low]),
            _ => None,
        };
        // `from_str_radix` alone would take a sign.
        digits
            .filter(|pair| pair.iter().all(u8::is_ascii_hexdigit))
            .and_then(|pair| u8::from_str_radix(std::str::from_utf8(&pair).ok()?, 16).ok())
            .ok_or_else(|| TokenizerError::ByteToken { id, text: excerpt(text) })
    }
}
