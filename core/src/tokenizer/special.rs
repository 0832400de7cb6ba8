//! Special tokens: finding them in text, and knowing the ones with a meaning.

use super::vocab::{TokenKind, View, Vocab};
use super::{Settings, TokenizerError};

/// Finds special tokens in text: at the first place where one starts, the longest.
///
/// Per first byte, the set of lengths (1 to 255 bytes; longer tokens are not found) that special tokens have; whether
/// a slice of such a length is one of them is then one look-up in the vocabulary.
#[derive(Debug)]
pub(super) struct SpecialMatcher {
    lengths: Box<[[u64; 4]; 256]>,
}

/// A part of a text.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Part<'a> {
    Text(&'a str),
    Special(u32),
}

impl SpecialMatcher {
    pub(super) fn new(view: View<'_>) -> Self {
        let mut lengths = Box::new([[0u64; 4]; 256]);
        for id in 0..view.len() as u32 {
            let text = view.text(id);
            if let (true, Some(&first), Ok(len)) = (is_special(view, id, true), text.first(), u8::try_from(text.len()))
            {
                lengths[first as usize][len as usize / 64] |= 1 << (len % 64);
            }
        }
        Self { lengths }
    }

    /// Cuts `text` at its special tokens; without `all`, at user-defined ones only, which are text.
    pub(super) fn parts<'a>(&self, view: View<'_>, text: &'a str, all: bool) -> impl Iterator<Item = Part<'a>> {
        let mut rest = text;
        let mut found = None;
        std::iter::from_fn(move || {
            if let Some(id) = found.take() {
                return Some(Part::Special(id));
            }
            if rest.is_empty() {
                return None;
            }
            let (at, len, id) = match self.next(view, rest, all) {
                Some((at, len, id)) => (at, len, Some(id)),
                None => (rest.len(), 0, None),
            };
            let before = &rest[..at];
            rest = &rest[at + len..];
            match id {
                Some(id) if before.is_empty() => Some(Part::Special(id)),
                _ => {
                    found = id;
                    Some(Part::Text(before))
                }
            }
        })
    }

    /// Place, length and id of the first special token.
    fn next(&self, view: View<'_>, text: &str, all: bool) -> Option<(usize, usize, u32)> {
        text.as_bytes().iter().enumerate().find_map(|(at, &first)| {
            self.longest_first(first).find_map(|len| {
                // Not at a character's boundary is not in the text.
                let slice = text.get(at..at + len)?;
                let id = view.find(slice.as_bytes()).filter(|&id| is_special(view, id, all))?;
                Some((at, len, id))
            })
        })
    }

    fn longest_first(&self, first: u8) -> impl Iterator<Item = usize> + use<'_> {
        let words = &self.lengths[first as usize];
        (0..4).rev().flat_map(move |word| {
            let mut bits = words[word];
            std::iter::from_fn(move || {
                let top = bits.checked_ilog2()?;
                bits &= !(1 << top);
                Some(word * 64 + top as usize)
            })
        })
    }

    pub(super) fn heap_bytes(&self) -> usize {
        size_of_val(&*self.lengths)
    }
}

fn is_special(view: View<'_>, id: u32, all: bool) -> bool {
    match view.kind(id) {
        Some(TokenKind::UserDefined) => true,
        Some(TokenKind::Control | TokenKind::Unknown) => all,
        _ => false,
    }
}

/// Texts of tokens that end a reply, in the order in which the first present one is taken for the end of a turn: a chat
/// model may use any, and its file names at most three in metadata. The ones that are not `<|…|>` also occur as pieces
/// of ordinary text, so they count only where the file marks them as special.
const ENDS: [&str; 13] = [
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<end_of_turn>",
    "<|end_of_turn|>",
    "<|eom_id|>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<end_of_utterance>",
    "<EOT>",
    "_<EOT>",
    "<eos>",
    "</s>",
];

/// The ids with a meaning.
#[derive(Debug)]
pub(super) struct Meanings {
    pub(super) bos: Option<u32>,
    pub(super) eos: Option<u32>,
    pub(super) eot: Option<u32>,
    pub(super) unknown: Option<u32>,
    pub(super) padding: Option<u32>,
    /// Every token that ends a reply, ascending.
    pub(super) ends: Box<[u32]>,
}

impl Meanings {
    /// Checks the ids of `settings`, finds the ends and makes sure they count as control tokens: some converters
    /// forget to mark them.
    pub(super) fn new(vocab: &mut Vocab, settings: &Settings) -> Result<Self, TokenizerError> {
        let len = vocab.len();
        let check = |key, id: Option<u32>| match id {
            Some(found) if found as usize >= len => Err(TokenizerError::SpecialId { key, found, len }),
            id => Ok(id),
        };
        let eos = check("tokenizer.ggml.eos_token_id", settings.eos)?;
        let named_eot = check("tokenizer.ggml.eot_token_id", settings.eot)?;
        let eom = check("tokenizer.ggml.eom_token_id", settings.eom)?;
        let view = vocab.view()?;
        let counts = |text: &str, id| is_special(view, id, true) || text.starts_with("<|");
        let known: Vec<u32> =
            ENDS.iter().filter_map(|text| view.find(text.as_bytes()).filter(|&id| counts(text, id))).collect();
        let eot = named_eot.or(known.first().copied());
        let mut ends: Vec<u32> = known.iter().copied().chain([eos, named_eot, eom].into_iter().flatten()).collect();
        ends.sort_unstable();
        ends.dedup();
        for id in known {
            vocab.set_kind(id, TokenKind::Control);
        }
        Ok(Self {
            bos: check("tokenizer.ggml.bos_token_id", settings.bos)?,
            eos,
            eot,
            unknown: check("tokenizer.ggml.unknown_token_id", settings.unknown)?,
            padding: check("tokenizer.ggml.padding_token_id", settings.padding)?,
            ends: ends.into_boxed_slice(),
        })
    }
}
