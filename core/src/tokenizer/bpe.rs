//! Byte-level BPE: bytes of a word merge by rank (GPT-2, Radford et al. 2019; `tokenizer.ggml.model = gpt2`).

use super::alphabet;
use super::error::{TokenizerError, excerpt};
use super::index::{Merge, MergeTable};
use super::merge::{Merger, NO_TOKEN};
use super::split::PreTokenizer;
use super::vocab::{Strings, TokenKind, View};

/// Merges as ids, the token of each byte and the pre-tokenizer.
#[derive(Debug)]
pub(super) struct Bpe {
    pre: PreTokenizer,
    merges: MergeTable,
    /// [`NO_TOKEN`] for a byte without a token: it has no id, and nothing merges across it.
    bytes: Box<[u32; 256]>,
}

impl Bpe {
    /// `merges` are `left right` in the vocabulary's spelling, best first.
    pub(super) fn new(view: View<'_>, merges: Strings<'_>, pre: PreTokenizer) -> Result<Self, TokenizerError> {
        let mut bytes = Box::new([NO_TOKEN; 256]);
        for (byte, id) in (0u8..=255).zip(bytes.iter_mut()) {
            *id = view.find_piece(alphabet::char_of(byte).encode_utf8(&mut [0; 4]).as_bytes()).unwrap_or(NO_TOKEN);
        }
        if merges.len() >= 1 << 31 {
            return Err(TokenizerError::MergeCount { found: merges.len() });
        }
        let mut joined = Vec::new();
        let table = (0..merges.len())
            .map(|index| {
                let text = merges.get(index);
                // Pieces never hold a space, but one may start with any other byte.
                let at = text.iter().skip(1).position(|&byte| byte == b' ').map(|at| at + 1);
                let (left, right) = match at.map(|at| (&text[..at], &text[at + 1..])) {
                    Some((left, right)) if !right.is_empty() => (left, right),
                    _ => return Err(TokenizerError::Merge { index, text: excerpt(text) }),
                };
                joined.clear();
                joined.extend_from_slice(left);
                joined.extend_from_slice(right);
                let id = |text: &[u8]| {
                    view.find(text).ok_or_else(|| TokenizerError::MergeToken { index, text: excerpt(text) })
                };
                Ok(Merge { left: id(left)?, right: id(right)?, merged: id(&joined)? })
            })
            .collect::<Result<_, _>>()?;
        Ok(Self { pre, merges: MergeTable::new(table), bytes })
    }

    /// Appends the ids of `text`, which holds no special tokens and is shorter than 4 GiB.
    pub(super) fn encode(&self, view: View<'_>, text: &str, merger: &mut Merger, out: &mut Vec<u32>) {
        for word in self.pre.words(text) {
            if self.pre.ignore_merges
                && let Some(id) = view.find_piece(spell(word).as_bytes())
            {
                out.push(id);
                continue;
            }
            merger.clear();
            for (at, &byte) in (0u32..).zip(word.as_bytes()) {
                merger.push(at, 1, self.bytes[byte as usize]);
            }
            merger.merge(|left, right| self.merges.get(left.id, right.id));
            out.extend(merger.symbols().map(|symbol| symbol.id).filter(|&id| id != NO_TOKEN));
        }
    }

    /// Appends the bytes a token's text spells.
    pub(super) fn decode(kind: TokenKind, text: &[u8], out: &mut Vec<u8>) {
        let spelled = match std::str::from_utf8(text) {
            Ok(spelled) if matches!(kind, TokenKind::Normal | TokenKind::Unused) => spelled,
            // Special tokens are written as they read, and what is not text can spell nothing.
            _ => return out.extend_from_slice(text),
        };
        for c in spelled.chars() {
            match alphabet::byte_of(c) {
                Some(byte) => out.push(byte),
                None => out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
            }
        }
    }

    pub(super) fn heap_bytes(&self) -> usize {
        self.merges.heap_bytes() + size_of_val(&*self.bytes)
    }
}

/// `word` in the vocabulary's spelling.
fn spell(word: &str) -> String {
    word.bytes().map(alphabet::char_of).collect()
}
