//! Sequences packed as rows of one batch.

use std::ops::Range;

use super::super::ModelError;

/// One text to learn from or to score.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sequence {
    /// Its tokens.
    pub tokens: Vec<u32>,
    /// One mark a token: whether it is predicted from those before it and counts in the loss. The first is ignored.
    pub targets: Vec<bool>,
}

impl Sequence {
    /// Rows that have to be run: those before the last target.
    fn rows(&self) -> usize {
        self.targets.iter().rposition(|&target| target).unwrap_or(0)
    }
}

/// A row of the batch and the token it is to predict.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Target {
    pub row: usize,
    pub token: u32,
}

/// Sequences one after the other. Attention stays inside each.
#[derive(Debug, Default)]
pub(super) struct Packed {
    /// Token and position of every row.
    pub tokens: Vec<u32>,
    pub positions: Vec<usize>,
    /// The rows of each sequence.
    pub sequences: Vec<Range<usize>>,
    /// What is predicted, in order of rows.
    pub targets: Vec<Target>,
    /// The rows of each sequence in matrices that hold all rows of one head, then all of the next.
    pub spans: Vec<Range<usize>>,
}

impl Packed {
    /// Rows.
    pub fn rows(&self) -> usize {
        self.tokens.len()
    }

    /// Replaces what is held by `sequences`, for attention of `heads` heads.
    pub fn fill<'s>(&mut self, sequences: impl Iterator<Item = &'s Sequence>, heads: usize) {
        let Self { tokens, positions, sequences: ranges, targets, spans } = self;
        tokens.clear();
        positions.clear();
        ranges.clear();
        targets.clear();
        spans.clear();
        for sequence in sequences {
            let (start, rows) = (tokens.len(), sequence.rows());
            tokens.extend(&sequence.tokens[..rows]);
            positions.extend(0..rows);
            ranges.push(start..start + rows);
            let marked = sequence.tokens.iter().zip(&sequence.targets).skip(1).enumerate();
            targets.extend(
                marked.filter(|(_, (_, target))| **target).map(|(i, (&token, _))| Target { row: start + i, token }),
            );
        }
        let rows = tokens.len();
        for head in 0..heads {
            spans.extend(ranges.iter().map(|range| head * rows + range.start..head * rows + range.end));
        }
    }
}

/// Refuses sequences that do not fit.
///
/// # Errors
/// [`ModelError::SequenceTargets`], [`ModelError::SequenceLength`] for more rows than `max`, [`ModelError::Token`].
pub(super) fn check(sequences: &[&Sequence], max: usize, vocab: usize) -> Result<(), ModelError> {
    for sequence in sequences {
        let (tokens, targets) = (sequence.tokens.len(), sequence.targets.len());
        if tokens != targets {
            return Err(ModelError::SequenceTargets { tokens, targets });
        }
        if tokens > max {
            return Err(ModelError::SequenceLength { found: tokens, max });
        }
        if let Some(&found) = sequence.tokens.iter().find(|&&token| token as usize >= vocab) {
            return Err(ModelError::Token { found, vocab });
        }
    }
    Ok(())
}

/// Which sequences are run together: each goes where there is room first, and several only up to `max` rows. Sequences without
/// a target go nowhere.
pub(super) fn groups(sequences: &[&Sequence], max: usize) -> Vec<Vec<usize>> {
    let mut groups: Vec<(usize, Vec<usize>)> = Vec::new();
    for (i, sequence) in sequences.iter().enumerate() {
        let rows = sequence.rows();
        if rows == 0 {
            continue;
        }
        match groups.iter_mut().find(|(held, _)| held + rows <= max) {
            Some((held, group)) => {
                *held += rows;
                group.push(i);
            }
            None => groups.push((rows, vec![i])),
        }
    }
    groups.into_iter().map(|(_, group)| group).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sequence(tokens: &[u32], targets: &[u8]) -> Sequence {
        Sequence { tokens: tokens.to_vec(), targets: targets.iter().map(|&t| t == 1).collect() }
    }

    #[test]
    fn rows_after_the_last_target_are_left_out() {
        let (a, b) = (sequence(&[5, 6, 7, 8], &[1, 0, 1, 0]), sequence(&[9, 4, 3], &[0, 1, 1]));
        let mut packed = Packed::default();
        packed.fill([&a, &b].into_iter(), 2);
        assert_eq!(packed.tokens, [5, 6, 9, 4]);
        assert_eq!(packed.positions, [0, 1, 0, 1]);
        assert_eq!(packed.sequences, [0..2, 2..4]);
        let target = |row, token| Target { row, token };
        assert_eq!(packed.targets, [target(1, 7), target(2, 4), target(3, 3)]);
        assert_eq!(packed.spans, [0..2, 2..4, 4..6, 6..8]);
    }

    #[test]
    fn groups_fill_up_in_order() {
        let of = |rows: usize| sequence(&vec![1; rows + 1], &[vec![0; rows], vec![1]].concat());
        let sequences = [of(5), of(4), of(0), of(3), of(9), of(2)];
        let all: Vec<&Sequence> = sequences.iter().collect();
        assert_eq!(groups(&all, 9), [vec![0, 1], vec![3, 5], vec![4]]);
        assert!(groups(&[&sequence(&[1, 2], &[1, 0])], 9).is_empty());
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let cases = [
            (sequence(&[1, 2], &[1]), "marks"),
            (sequence(&[1; 9], &[1; 9]), "9 tokens"),
            (sequence(&[99], &[0]), "99"),
        ];
        for (sequence, expected) in cases {
            let error = check(&[&sequence], 8, 12).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
