//! [`SessionState`]: what a conversation is, in bytes that outlive the process.
//!
//! A first line of JSON, `{"timbre-session":1,"blake3":HEX}`, names the format's version and the BLAKE3 of everything after
//! its line break: one JSON object `{"base","messages":[{"role","content"},…],"tokens":[…]}`. Keys and values are not
//! stored: they are larger by a factor of thousands than the tokens they are computed from, hold for one adapter and one set
//! of kernels only, and restoring them is where other runtimes read out of bounds.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::durable::AtomicFile;

use super::Message;

const VERSION: u32 = 1;
/// Bytes of the largest state that is read: a million tokens and their text many times over.
const MAX_BYTES: u64 = 64 << 20;

/// Why a state was refused or could not be saved.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StateError {
    /// The file could not be read or written.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// Not a state, or one that was damaged.
    #[error("not a whole session: {reason}")]
    Damaged {
        /// What does not fit.
        reason: String,
    },
    /// Written by another version of this crate.
    #[error("session version {found}, expected {expected}")]
    Version {
        /// The file's.
        found: u32,
        /// This crate's.
        expected: u32,
    },
    /// Of a session with another base model, whose tokens mean something else.
    #[error("the session is of base model {found}, this is {expected}")]
    Base {
        /// The fingerprint it names.
        found: String,
        /// The model's.
        expected: String,
    },
    /// A token that the vocabulary does not have.
    #[error("token {found} is outside the vocabulary of {vocab}")]
    Token {
        /// The id.
        found: u32,
        /// Vocabulary size.
        vocab: usize,
    },
}

/// A conversation without what can be computed: its messages, and the tokens that were run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionState {
    /// Fingerprint of the base model.
    pub base: String,
    /// The messages, instructions included.
    pub messages: Vec<Message>,
    /// Every token of the history.
    pub tokens: Vec<u32>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    #[serde(rename = "timbre-session")]
    version: u32,
    blake3: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    role: String,
    content: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Body {
    base: String,
    messages: Vec<Line>,
    tokens: Vec<u32>,
}

impl SessionState {
    /// The state in bytes.
    ///
    /// # Errors
    /// [`StateError::Damaged`] if it cannot be written as JSON, which no state of a session causes.
    pub fn to_bytes(&self) -> Result<Vec<u8>, StateError> {
        let line = |message: &Message| Line { role: message.role.clone(), content: message.content.clone() };
        let messages = self.messages.iter().map(line).collect();
        let body = Body { base: self.base.clone(), messages, tokens: self.tokens.clone() };
        let body = serde_json::to_vec(&body).map_err(damaged)?;
        let header = Header { version: VERSION, blake3: blake3::hash(&body).to_hex().to_string() };
        let mut bytes = serde_json::to_vec(&header).map_err(damaged)?;
        bytes.push(b'\n');
        bytes.extend_from_slice(&body);
        Ok(bytes)
    }

    /// The state in `bytes`, for a model with this fingerprint and vocabulary.
    ///
    /// # Errors
    /// [`StateError::Damaged`], [`StateError::Version`]; [`StateError::Base`] and [`StateError::Token`] where it does not belong
    /// to the model.
    pub fn from_bytes(bytes: &[u8], base: &str, vocab: usize) -> Result<Self, StateError> {
        let broken = |reason: &str| StateError::Damaged { reason: reason.to_owned() };
        let end = bytes.iter().position(|&byte| byte == b'\n').ok_or_else(|| broken("it has no header"))?;
        let header: serde_json::Value = serde_json::from_slice(&bytes[..end]).map_err(damaged)?;
        // The version first, so that a newer state is refused for it and not for a field.
        let found = header.get("timbre-session").and_then(serde_json::Value::as_u64);
        let found = found.ok_or_else(|| broken("its header names no version"))?;
        if found != u64::from(VERSION) {
            let found = u32::try_from(found).unwrap_or(u32::MAX);
            return Err(StateError::Version { found, expected: VERSION });
        }
        let header: Header = serde_json::from_value(header).map_err(damaged)?;
        let body = &bytes[end + 1..];
        if blake3::hash(body).to_hex().as_str() != header.blake3 {
            return Err(broken("its hash does not match"));
        }
        let body: Body = serde_json::from_slice(body).map_err(damaged)?;
        if body.base != base {
            return Err(StateError::Base { found: body.base, expected: base.to_owned() });
        }
        if let Some(&found) = body.tokens.iter().find(|&&token| token as usize >= vocab) {
            return Err(StateError::Token { found, vocab });
        }
        let messages = body.messages.into_iter().map(|line| Message::new(line.role, line.content)).collect();
        Ok(Self { base: body.base, messages, tokens: body.tokens })
    }

    /// Makes `path` a file with this state: after a crash it is what it was, or the new state, whole.
    ///
    /// # Errors
    /// [`StateError::Io`]; as [`Self::to_bytes`].
    pub fn save(&self, path: &Path) -> Result<(), StateError> {
        let mut file = AtomicFile::create(path)?;
        file.write_all(&self.to_bytes()?)?;
        Ok(file.commit()?)
    }

    /// The state in a file.
    ///
    /// # Errors
    /// [`StateError::Io`]; as [`Self::from_bytes`].
    pub fn load(path: &Path, base: &str, vocab: usize) -> Result<Self, StateError> {
        // Looked at before it is opened: opening a pipe waits for a writer.
        let found = std::fs::metadata(path)?;
        if !found.is_file() || found.len() > MAX_BYTES {
            return Err(StateError::Damaged { reason: format!("no regular file of at most {MAX_BYTES} bytes") });
        }
        let mut bytes = Vec::new();
        File::open(path)?.take(MAX_BYTES).read_to_end(&mut bytes)?;
        Self::from_bytes(&bytes, base, vocab)
    }
}

fn damaged(error: serde_json::Error) -> StateError {
    StateError::Damaged { reason: error.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BASE: &str = "0123";

    fn state() -> SessionState {
        let messages = vec![Message::system("Be\nkind."), Message::user("\"Hi\" \u{1f980}"), Message::assistant("")];
        SessionState { base: BASE.to_owned(), messages, tokens: vec![1, 0, 99] }
    }

    #[test]
    fn what_is_saved_is_restored() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("chat.session");
        std::fs::write(&path, "what was there before").unwrap();
        state().save(&path).unwrap();
        assert_eq!(SessionState::load(&path, BASE, 100).unwrap(), state());
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left beside it");
        assert!(matches!(SessionState::load(folder.path(), BASE, 100), Err(StateError::Damaged { .. })));
        assert!(matches!(SessionState::load(&folder.path().join("no"), BASE, 100), Err(StateError::Io(_))));
    }

    #[test]
    fn every_damaged_byte_is_noticed() {
        let bytes = state().to_bytes().unwrap();
        for at in 0..bytes.len() {
            for bit in [1, 0x20] {
                let mut bad = bytes.clone();
                bad[at] ^= bit;
                assert!(SessionState::from_bytes(&bad, BASE, 100).is_err(), "byte {at} of {}", bytes.len());
            }
            assert!(SessionState::from_bytes(&bytes[..at], BASE, 100).is_err(), "cut at {at}");
        }
    }

    #[test]
    fn a_state_of_something_else_is_refused() {
        let bytes = state().to_bytes().unwrap();
        let error = SessionState::from_bytes(&bytes, "4567", 100).unwrap_err();
        assert!(
            matches!(&error, StateError::Base { found, expected } if found == BASE && expected == "4567"),
            "{error}"
        );
        let error = SessionState::from_bytes(&bytes, BASE, 99).unwrap_err();
        assert!(matches!(error, StateError::Token { found: 99, vocab: 99 }), "{error}");
        let newer = [b"{\"timbre-session\":2,\"more\":true}\n".as_slice(), &bytes].concat();
        let error = SessionState::from_bytes(&newer, BASE, 100).unwrap_err();
        assert!(matches!(error, StateError::Version { found: 2, expected: 1 }), "{error}");
    }
}
