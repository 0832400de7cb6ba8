//! SentencePiece by score: characters merge into the best-scored piece they spell, left to right among equals
//! (`tokenizer.ggml.model = llama`; Kudo and Richardson 2018, the BPE model of `sentencepiece`).

use super::merge::{Merger, NO_TOKEN};
use super::vocab::{TokenKind, View};
use super::{TokenizerError, error};

/// What pieces spell a space with: U+2581, lower one eighth block.
const SPACE: &str = "\u{2581}";
pub(super) const SCORES: &str = "tokenizer.ggml.scores";

/// Scores, byte tokens and the space rule.
#[derive(Debug)]
pub(super) struct Spm {
    /// Per token: the lower, the earlier it merges.
    keys: Box<[u32]>,
    /// The token of each byte, or the unknown token, or [`NO_TOKEN`] where a character has the unknown token at once.
    bytes: Box<[u32; 256]>,
    unknown: Option<u32>,
    /// Bytes of the longest piece: nothing longer needs to be looked up.
    longest: u32,
    /// Text starts with a space that it does not show.
    pub(super) add_space_prefix: bool,
}

impl Spm {
    /// `scores` holds one finite or infinite number per token.
    pub(super) fn new(
        view: View<'_>,
        scores: Vec<f32>,
        unknown: Option<u32>,
        add_space_prefix: bool,
    ) -> Result<Self, TokenizerError> {
        if scores.len() != view.len() {
            return Err(TokenizerError::ArrayLength { key: SCORES, expected: view.len(), found: scores.len() });
        }
        let mut bytes = Box::new([NO_TOKEN; 256]);
        let mut keys = Vec::with_capacity(scores.len());
        let mut longest = 0;
        for (id, &score) in (0u32..).zip(&scores) {
            keys.push(key(score).ok_or(TokenizerError::Score { id })?);
            if view.kind(id) == Some(TokenKind::Byte) {
                let slot = &mut bytes[view.byte(id)? as usize];
                *slot = (*slot).min(id);
            } else {
                longest = longest.max(view.text(id).len());
            }
        }
        if let (None, Some(byte)) = (unknown, bytes.iter().position(|&id| id == NO_TOKEN)) {
            return Err(error::TokenizerError::NoFallback { byte: byte as u8 });
        }
        let longest = u32::try_from(longest).unwrap_or(u32::MAX);
        Ok(Self { keys: keys.into_boxed_slice(), bytes, unknown, longest, add_space_prefix })
    }

    /// Appends the ids of `text`, which holds no special tokens and is shorter than 4 GiB when escaped. `starts` says
    /// that nothing but a special token stands before it.
    pub(super) fn encode(&self, view: View<'_>, text: &str, starts: bool, merger: &mut Merger, out: &mut Vec<u32>) {
        let mut escaped = String::with_capacity(text.len() + SPACE.len());
        if starts && self.add_space_prefix {
            escaped.push_str(SPACE);
        }
        for (at, part) in text.split(' ').enumerate() {
            if at > 0 {
                escaped.push_str(SPACE);
            }
            escaped.push_str(part);
        }
        let piece = |start: u32, len: u32| escaped.as_bytes().get(start as usize..)?.get(..len as usize);
        merger.clear();
        for (at, c) in escaped.char_indices() {
            let (start, len) = (at as u32, c.len_utf8() as u32);
            let id = piece(start, len).and_then(|text| view.find_piece(text));
            merger.push(start, len, id.unwrap_or(NO_TOKEN));
        }
        merger.merge(|left, right| {
            let len = left.len + right.len;
            if len > self.longest {
                return None;
            }
            let id = view.find_piece(piece(left.start, len)?)?;
            Some((self.keys[id as usize], id))
        });
        for symbol in merger.symbols() {
            match symbol.id {
                NO_TOKEN => self.fall_back(piece(symbol.start, symbol.len).unwrap_or_default(), out),
                id => out.push(id),
            }
        }
    }

    /// A character without a piece: its bytes, or the unknown token once if a byte has none.
    fn fall_back(&self, character: &[u8], out: &mut Vec<u32>) {
        let ids = character.iter().map(|&byte| self.bytes[byte as usize]);
        if ids.clone().all(|id| id != NO_TOKEN) {
            out.extend(ids);
        } else {
            out.extend(self.unknown);
        }
    }

    /// Appends the bytes token `id` spells.
    pub(super) fn decode(view: View<'_>, id: u32, kind: TokenKind, out: &mut Vec<u8>) -> Result<(), TokenizerError> {
        let text = view.text(id);
        match kind {
            TokenKind::Byte => out.push(view.byte(id)?),
            TokenKind::Normal | TokenKind::Unused => {
                let mut rest = text;
                while let Some((&first, after)) = rest.split_first() {
                    if let Some(after) = rest.strip_prefix(SPACE.as_bytes()) {
                        out.push(b' ');
                        rest = after;
                    } else {
                        out.push(first);
                        rest = after;
                    }
                }
            }
            TokenKind::UserDefined | TokenKind::Control | TokenKind::Unknown => out.extend_from_slice(text),
        }
        Ok(())
    }

    /// The longest escaped form of a text of `bytes` bytes.
    pub(super) fn escaped_len(bytes: usize) -> Option<usize> {
        bytes.checked_mul(SPACE.len())?.checked_add(SPACE.len())
    }

    pub(super) fn heap_bytes(&self) -> usize {
        size_of_val::<[u32]>(&self.keys) + size_of_val(&*self.bytes)
    }
}

/// Maps scores to integers in reverse order; `None` for NaN.
fn key(score: f32) -> Option<u32> {
    if score.is_nan() {
        return None;
    }
    // Adding zero makes -0 and 0 one score. Then the usual order-preserving map of IEEE bits, complemented.
    let bits = (score + 0.0).to_bits();
    Some(!(if bits >> 31 == 1 { !bits } else { bits | 1 << 31 }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_reverse_the_order_of_scores() {
        let scores = [f32::INFINITY, 1e9, 1.0, 0.0, -1e-40, -1.0, -255_504.0, f32::NEG_INFINITY];
        assert!(scores.windows(2).all(|pair| key(pair[0]) < key(pair[1])));
        assert_eq!(key(0.0), key(-0.0));
        assert_eq!(key(f32::NAN), None);
    }
}
