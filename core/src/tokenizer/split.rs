//! Pre-tokenizers: a text is cut into words before any pair may merge.
//!
//! Models publish these as regular expressions; the four families here are scanners written out by hand, one pass and
//! no backtracking, because compiling the patterns costs more time and memory than the rest of the tokenizer. The tests
//! hold the patterns and compare.

use super::unicode::{Class, class};

/// How a model's training cut text into words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PreTokenizer {
    family: Family,
    /// A word that is a token as a whole is that token, whatever the merges say. The models whose training did so
    /// also expect a beginning-of-sequence token unless the file says otherwise.
    pub(super) ignore_merges: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Family {
    /// GPT-2's pattern.
    Gpt2,
    /// Every digit cut out alone, then GPT-2's pattern between them.
    Digits,
    /// GPT-4's (`cl100k`) pattern with at most this many digits in a word.
    Cl100k { digits: usize },
}

impl PreTokenizer {
    /// The pre-tokenizer that `tokenizer.ggml.pre` names. `default`, which converters write where they know of none,
    /// is GPT-2's.
    pub(super) fn from_name(name: &str) -> Option<Self> {
        let (family, ignore_merges) = match name {
            "default" | "gpt-2" | "phi-2" | "olmo" | "mpt" | "jais" | "trillion" => (Family::Gpt2, false),
            "smollm" | "starcoder" | "refact" | "command-r" | "codeshell" | "exaone" => (Family::Digits, false),
            "llama-bpe" | "llama3" | "llama-v3" | "falcon3" | "pixtral" | "lfm2" => {
                (Family::Cl100k { digits: 3 }, true)
            }
            "dbrx" | "smaug-bpe" => (Family::Cl100k { digits: 3 }, false),
            "qwen2" | "deepseek-r1-qwen" | "stablelm2" => (Family::Cl100k { digits: 1 }, false),
            _ => return None,
        };
        Some(Self { family, ignore_merges })
    }

    /// The words of `text`; together they are `text`.
    pub(super) fn words<'a>(&self, text: &'a str) -> impl Iterator<Item = &'a str> + use<'a> {
        let family = self.family;
        let mut rest = text;
        std::iter::from_fn(move || {
            let (word, after) = rest.split_at(family.word_len(rest)?);
            rest = after;
            Some(word)
        })
    }
}

impl Family {
    /// Bytes of the first word, `None` at the end. The steps are the alternatives of the patterns, in their order.
    fn word_len(self, text: &str) -> Option<usize> {
        let first = text.chars().next()?;
        let lead = class(first);
        let behind = &text[first.len_utf8()..];
        let second = behind.chars().next().map(class);
        let modern = matches!(self, Self::Cl100k { .. });

        if first == '\''
            && let Some(len) = contraction(behind.as_bytes(), modern)
        {
            return Some(1 + len);
        }
        // Letters, with the space (cl100k: any one non-digit that is no line break) before them.
        if lead == Class::Letter {
            return Some(run(text, Class::Letter));
        }
        let joins = if modern { lead != Class::Number && !is_break(first) } else { first == ' ' };
        if joins && second == Some(Class::Letter) {
            return Some(first.len_utf8() + run(behind, Class::Letter));
        }
        match (self, lead) {
            (Self::Gpt2, Class::Number) => return Some(run(text, Class::Number)),
            (Self::Gpt2, _) if first == ' ' && second == Some(Class::Number) => {
                return Some(1 + run(behind, Class::Number));
            }
            (Self::Digits, Class::Number) => return Some(first.len_utf8()),
            (Self::Cl100k { digits }, Class::Number) => {
                let number = &text[..run_at_most(text, Class::Number, digits)];
                return Some(number.len());
            }
            _ => {}
        }
        let space = usize::from(first == ' ' && second == Some(Class::Other));
        if lead == Class::Other || space == 1 {
            let end = space + run(&text[space..], Class::Other);
            let breaks = text[end..].len() - text[end..].trim_start_matches(is_break).len();
            return Some(if modern { end + breaks } else { end });
        }
        Some(self.white_space(text))
    }

    /// Bytes of the word that starts with white space no word behind it takes.
    fn white_space(self, text: &str) -> usize {
        let (space, after) = text.split_at(run(text, Class::Space));
        if matches!(self, Self::Cl100k { .. })
            && let Some(last_break) = space.rfind(is_break)
        {
            return last_break + 1;
        }
        let ends = match after.chars().next() {
            None => true,
            // Digits were cut out first, so for this family the text ends before one.
            Some(c) => self == Self::Digits && class(c) == Class::Number,
        };
        match space.char_indices().next_back() {
            // The last one is left for the word behind, unless it is the only one.
            Some((last, _)) if !ends && last > 0 => last,
            _ => space.len(),
        }
    }
}

fn is_break(c: char) -> bool {
    matches!(c, '\r' | '\n')
}

/// Bytes of the characters of class `wanted` that `text` starts with.
fn run(text: &str, wanted: Class) -> usize {
    run_at_most(text, wanted, usize::MAX)
}

fn run_at_most(text: &str, wanted: Class, max: usize) -> usize {
    text.chars().take(max).take_while(|&c| class(c) == wanted).map(char::len_utf8).sum()
}

/// Bytes of the English ending behind an apostrophe (`'s`, `'t`, `'re`, `'ve`, `'m`, `'ll`, `'d`).
fn contraction(behind: &[u8], any_case: bool) -> Option<usize> {
    const ENDINGS: [&[u8]; 7] = [b"s", b"t", b"re", b"ve", b"m", b"ll", b"d"];
    let starts = |ending: &&[u8]| match behind.get(..ending.len()) {
        Some(found) if any_case => found.eq_ignore_ascii_case(ending),
        Some(found) => found == *ending,
        None => false,
    };
    ENDINGS.into_iter().find(starts).map(<[u8]>::len)
}

#[cfg(test)]
mod tests {
    use super::*;
    use fancy_regex::Regex;
    use proptest::prelude::*;

    /// The published patterns, applied one after the other to what the ones before left over.
    fn patterns(name: &str) -> Vec<Regex> {
        const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
        let cl100k = |digits: &str| {
            format!(
                r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|{digits}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
            )
        };
        let patterns = match name {
            "gpt-2" => vec![GPT2.to_owned()],
            "smollm" => vec![r"\p{N}".to_owned(), GPT2.to_owned()],
            "llama-bpe" => vec![cl100k(r"\p{N}{1,3}")],
            "qwen2" => vec![cl100k(r"\p{N}")],
            _ => unreachable!(),
        };
        patterns.iter().map(|pattern| Regex::new(pattern).unwrap()).collect()
    }

    fn by_pattern<'a>(patterns: &[Regex], text: &'a str) -> Vec<&'a str> {
        let mut pieces = vec![text];
        for pattern in patterns {
            let mut finer = Vec::new();
            for piece in pieces {
                let mut at = 0;
                for found in pattern.find_iter(piece).map(Result::unwrap) {
                    finer.extend([&piece[at..found.start()], found.as_str()]);
                    at = found.end();
                }
                finer.push(&piece[at..]);
            }
            finer.retain(|piece| !piece.is_empty());
            pieces = finer;
        }
        pieces
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]
        #[test]
        fn scanners_cut_as_the_published_patterns_do(
            text in r"([ \t\r\n\u{a0}]{0,3}|'(s|T|rE|ve|m|LL|d|x)|[0-9\u{b2}\u{663}\u{216b}]{1,5}|[a-zA-Zé한ǅ]{1,4}|[.,!'\u{301}👩\u{200d}]{1,3}|\PC){0,12}"
        ) {
            thread_local!(static PATTERNS: [(&'static str, Vec<Regex>); 4] =
                ["gpt-2", "smollm", "llama-bpe", "qwen2"].map(|name| (name, patterns(name))));
            PATTERNS.with(|all| {
                for (name, patterns) in all {
                    let words: Vec<_> = PreTokenizer::from_name(name).unwrap().words(&text).collect();
                    prop_assert_eq!(words, by_pattern(patterns, &text), "{}", name);
                }
                Ok(())
            })?;
        }
    }

    #[test]
    fn an_unknown_name_is_not_guessed() {
        assert_eq!(PreTokenizer::from_name("tekken"), None);
    }
}
