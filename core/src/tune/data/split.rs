//! Setting a held-out part aside.

use super::{Examples, Rng};

/// Most examples held out of a file: scoring them takes time from learning.
pub const MAX_HELDOUT: usize = 32;

/// Fewest examples that a part is taken from.
const MIN_EXAMPLES: usize = 5;

/// Stream of [`Rng`] that chooses.
const STREAM: u64 = 1;

/// The examples without, and the part held out: a `share` of them, at least one and at most [`MAX_HELDOUT`], chosen by the seed;
/// none of fewer than five examples or for a share of 0. Both keep the file's order.
pub fn split(examples: Examples, share: f64, seed: u64) -> (Examples, Option<Examples>) {
    let total = examples.sequences().len();
    if share <= 0.0 || total < MIN_EXAMPLES {
        return (examples, None);
    }
    let wanted = ((total as f64 * share).round() as usize).clamp(1, MAX_HELDOUT.min(total));
    let mut order: Vec<usize> = (0..total).collect();
    Rng::new(seed, STREAM).shuffle(&mut order);
    let mut held = vec![false; total];
    order[..wanted].iter().for_each(|&index| held[index] = true);
    let (train, heldout) = examples.partition(&held);
    (train, Some(heldout))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tune::data::Sequence;

    fn examples(count: u32) -> Examples {
        let sequence = |i| Sequence { tokens: vec![i, i + 1], targets: vec![false, true] };
        Examples::new((0..count).map(sequence).collect())
    }

    fn firsts(examples: &Examples) -> Vec<u32> {
        examples.sequences().iter().map(|s| s.tokens[0]).collect()
    }

    #[test]
    fn parts_are_complete_ordered_and_seeded() {
        let (train, heldout) = split(examples(50), 0.1, 4);
        let (train, heldout) = (firsts(&train), firsts(&heldout.unwrap()));
        assert_eq!((train.len(), heldout.len()), (45, 5));
        assert!(train.is_sorted() && heldout.is_sorted());
        let mut all = [train, heldout.clone()].concat();
        all.sort_unstable();
        assert_eq!(all, (0..50).collect::<Vec<_>>());
        assert_eq!(firsts(&split(examples(50), 0.1, 4).1.unwrap()), heldout);
        assert_ne!(firsts(&split(examples(50), 0.1, 5).1.unwrap()), heldout);
    }

    #[test]
    fn few_examples_are_all_learnt_from_and_many_not_all_scored() {
        assert!(split(examples(4), 0.5, 0).1.is_none());
        assert!(split(examples(50), 0.0, 0).1.is_none());
        assert_eq!(split(examples(5), 0.01, 0).1.unwrap().sequences().len(), 1);
        assert_eq!(split(examples(1000), 0.9, 0).1.unwrap().sequences().len(), MAX_HELDOUT);
    }
}
