//! What can be wrong with a vocabulary or a request to it.

use crate::gguf::GgufError;

/// Why a tokenizer could not be loaded or asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TokenizerError {
    /// A metadata key is missing or holds another type.
    #[error(transparent)]
    Gguf(#[from] GgufError),
    /// `tokenizer.ggml.model` names an algorithm this crate does not have.
    #[error("tokenizer.ggml.model is {found:?}; supported are \"gpt2\" and \"llama\"")]
    UnsupportedModel {
        /// The name in the file.
        found: String,
    },
    /// `tokenizer.ggml.pre` names a pre-tokenizer this crate does not have: another one would give wrong ids.
    #[error("tokenizer.ggml.pre is {found:?}, a pre-tokenizer that is not supported")]
    UnknownPreTokenizer {
        /// The name in the file.
        found: String,
    },
    /// The vocabulary has no token, or more than 2³¹ − 1.
    #[error("the vocabulary has {found} tokens")]
    VocabularySize {
        /// Tokens in the file.
        found: usize,
    },
    /// An array that goes with the vocabulary has another length.
    #[error("{key} has {found} elements, the vocabulary has {expected} tokens")]
    ArrayLength {
        /// The array's key.
        key: &'static str,
        /// Tokens in the vocabulary.
        expected: usize,
        /// Elements in the array.
        found: usize,
    },
    /// A token type outside 1..=6.
    #[error("token {id} has type {found}, types go from 1 to 6")]
    TokenType {
        /// The token.
        id: u32,
        /// Its type in the file.
        found: i32,
    },
    /// A byte token whose text is not `<0x00>` … `<0xFF>`.
    #[error("byte token {id} is {text:?}, expected \"<0x00>\" to \"<0xFF>\"")]
    ByteToken {
        /// The token.
        id: u32,
        /// Its text.
        text: String,
    },
    /// A score that is not a number.
    #[error("the score of token {id} is not a number")]
    Score {
        /// The token.
        id: u32,
    },
    /// More merges than 32-bit ranks can number.
    #[error("the vocabulary has {found} merges")]
    MergeCount {
        /// Merges in the file.
        found: usize,
    },
    /// A merge that is not two pieces with a space between.
    #[error("merge {index} is {text:?}, expected two pieces with a space between")]
    Merge {
        /// Its place in `tokenizer.ggml.merges`.
        index: usize,
        /// Its text.
        text: String,
    },
    /// A merge of, or into, something that is not a token.
    #[error("merge {index} needs the token {text:?}, which the vocabulary does not have")]
    MergeToken {
        /// Its place in `tokenizer.ggml.merges`.
        index: usize,
        /// The missing token.
        text: String,
    },
    /// A special token id past the end of the vocabulary.
    #[error("{key} is {found}, the vocabulary has {len} tokens")]
    SpecialId {
        /// The key that names the token.
        key: &'static str,
        /// Its value.
        found: u32,
        /// Tokens in the vocabulary.
        len: usize,
    },
    /// A SentencePiece vocabulary with neither all byte tokens nor an unknown token: some text has no ids.
    #[error("the vocabulary has neither a token for byte 0x{byte:02X} nor an unknown token")]
    NoFallback {
        /// The first byte without a token.
        byte: u8,
    },
    /// A beginning-of-sequence token was asked for, or is demanded by the file, and there is none.
    #[error("a beginning-of-sequence token is asked for, the vocabulary names none")]
    NoBos,
    /// A text whose escaped form passes 4 GiB.
    #[error("the text is {bytes} bytes long, at most {max} can be tokenized at once")]
    TextTooLong {
        /// Bytes of the text.
        bytes: usize,
        /// The limit.
        max: usize,
    },
    /// An id past the end of the vocabulary.
    #[error("token {id} does not exist, the vocabulary has {len} tokens")]
    UnknownToken {
        /// The id asked for.
        id: u32,
        /// Tokens in the vocabulary.
        len: usize,
    },
}

/// A token's text for a message: lossy, and cut where a hostile file made it long.
pub(super) fn excerpt(text: &[u8]) -> String {
    const MAX: usize = 64;
    String::from_utf8_lossy(&text[..text.len().min(MAX)]).into_owned()
}
