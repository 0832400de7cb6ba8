//! The loop both algorithms share: neighbouring symbols merge, best pair first, until no pair merges.
//!
//! Symbols form a linked list and candidate pairs wait in a heap, so a text of n symbols costs O(n log n) however long
//! its words are. A candidate whose symbols changed meanwhile is recognised by its length when it comes up: symbols only
//! grow, so the two it was made of are untouched exactly if they still add up to it.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// No token: a symbol the vocabulary has no entry for, which merges with nothing unless the rule says so.
pub(super) const NO_TOKEN: u32 = u32::MAX;
const NONE: u32 = u32::MAX;

/// A piece of the text on its way to becoming a token.
#[derive(Debug, Clone, Copy)]
pub(super) struct Symbol {
    /// First byte in the text.
    pub(super) start: u32,
    /// Bytes, 0 once merged into the symbol before.
    pub(super) len: u32,
    /// The token this piece is, or [`NO_TOKEN`].
    pub(super) id: u32,
    prev: u32,
    next: u32,
}

/// A pair that may merge; the order of the fields is the order of merging: best key, then leftmost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Candidate {
    key: u32,
    left: u32,
    len: u32,
    id: u32,
}

/// Scratch of the loop, reusable from word to word.
#[derive(Debug, Default)]
pub(super) struct Merger {
    symbols: Vec<Symbol>,
    queue: BinaryHeap<Reverse<Candidate>>,
}

impl Merger {
    /// Forgets the last word.
    pub(super) fn clear(&mut self) {
        self.symbols.clear();
        self.queue.clear();
    }

    /// Appends a symbol of `len` > 0 bytes from `start` on, right behind the one before.
    pub(super) fn push(&mut self, start: u32, len: u32, id: u32) {
        let at = self.symbols.len() as u32;
        let prev = at.checked_sub(1).unwrap_or(NONE);
        if let Some(last) = self.symbols.last_mut() {
            last.next = at;
        }
        self.symbols.push(Symbol { start, len, id, prev, next: NONE });
    }

    /// Merges until `rule` (left, right → key and merged id; the lowest key goes first) allows no more pairs.
    pub(super) fn merge(&mut self, rule: impl Fn(&Symbol, &Symbol) -> Option<(u32, u32)>) {
        let symbols = &mut self.symbols;
        let candidate = |symbols: &[Symbol], left: u32| {
            let a = symbols.get(left as usize)?;
            let b = symbols.get(a.next as usize)?;
            let (key, id) = rule(a, b)?;
            Some(Reverse(Candidate { key, left, len: a.len + b.len, id }))
        };
        // Built at once from the cleared heap's buffer: linear, where pushing one by one is not.
        let mut seeds = std::mem::take(&mut self.queue).into_vec();
        seeds.extend((0..symbols.len() as u32).filter_map(|left| candidate(symbols, left)));
        self.queue = BinaryHeap::from(seeds);

        while let Some(Reverse(best)) = self.queue.pop() {
            let left = symbols[best.left as usize];
            let Some(&right) = symbols.get(left.next as usize) else { continue };
            if left.len == 0 || left.len + right.len != best.len {
                continue;
            }
            symbols[left.next as usize].len = 0;
            symbols[best.left as usize] = Symbol { len: best.len, id: best.id, next: right.next, ..left };
            if let Some(after) = symbols.get_mut(right.next as usize) {
                after.prev = best.left;
            }
            self.queue.extend([left.prev, best.left].into_iter().filter_map(|at| candidate(symbols, at)));
        }
    }

    /// What is left, in order.
    pub(super) fn symbols(&self) -> impl Iterator<Item = &Symbol> {
        self.symbols.iter().filter(|symbol| symbol.len > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pieces(text: &str, rules: &[&str]) -> Vec<String> {
        let mut merger = Merger::default();
        for at in 0..text.len() as u32 {
            merger.push(at, 1, NO_TOKEN);
        }
        merger.merge(|a, b| {
            let joined = &text[a.start as usize..(b.start + b.len) as usize];
            rules.iter().position(|rule| *rule == joined).map(|key| (key as u32, key as u32))
        });
        merger.symbols().map(|s| text[s.start as usize..(s.start + s.len) as usize].to_owned()).collect()
    }

    #[test]
    fn the_best_pair_goes_first_and_the_leftmost_of_equals() {
        assert_eq!(pieces("abcd", &["bc", "ab", "bcd"]), ["a", "bcd"]);
        assert_eq!(pieces("aaaaa", &["aa", "aaaa"]), ["aaaa", "a"]);
        assert_eq!(pieces("abab", &["ba", "ab"]), ["a", "ba", "b"]);
        assert_eq!(pieces("", &["ab"]), [""; 0]);
    }

    #[test]
    fn a_pair_that_changed_while_waiting_is_not_merged() {
        // "bc" waits while "ab" takes its left half away.
        assert_eq!(pieces("abc", &["ab", "bc"]), ["ab", "c"]);
    }
}
