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

/// Consecutive positions of one sequence that are rows of the batch: after those it shares with the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Segment {
    /// Positions before it, the first rows of the batch.
    pub shared: usize,
    /// Its first row, and how many there are.
    pub start: usize,
    pub len: usize,
}

impl Segment {
    /// The row of a position.
    pub fn row(&self, position: usize) -> usize {
        if position < self.shared { position } else { self.start + position - self.shared }
    }

    /// The position after its last.
    pub fn end(&self) -> usize {
        self.shared + self.len
    }
}

/// Sequences one after the other. Attention stays inside each. What all of them begin with is there once, before the others:
/// causal layers make the same of it in each.
#[derive(Debug, Default)]
pub(super) struct Packed {
    /// Token and position of every row.
    pub tokens: Vec<u32>,
    pub positions: Vec<usize>,
    /// The sequences, and last what they share if they do.
    pub segments: Vec<Segment>,
    /// What is predicted.
    pub targets: Vec<Target>,
    /// Rows that are computed together, in matrices that hold all rows of one head and then all of the next: of each segment
    /// by itself, or of all of them where they share some.
    pub spans: Vec<Range<usize>>,
    /// Rows that are shared.
    pub shared: usize,
}

impl Packed {
    /// Rows.
    pub fn rows(&self) -> usize {
        self.tokens.len()
    }

    /// The head of a span, its first row in the batch, and its segments.
    pub fn span(&self, index: usize) -> (usize, usize, &[Segment]) {
        if self.shared > 0 {
            return (index, 0, &self.segments);
        }
        let segment = index % self.segments.len();
        (index / self.segments.len(), self.segments[segment].start, &self.segments[segment..=segment])
    }

    /// Spans of one head.
    pub fn spans_of_head(&self) -> usize {
        if self.shared > 0 { 1 } else { self.segments.len() }
    }

    /// Replaces what is held by `sequences`, whose first `shared` tokens are the same, for attention of `heads` heads.
    pub fn fill<'s>(&mut self, sequences: impl Iterator<Item = &'s Sequence> + Clone, shared: usize, heads: usize) {
        let Self { tokens, positions, segments, targets, spans, .. } = self;
        tokens.clear();
        positions.clear();
        segments.clear();
        targets.clear();
        spans.clear();
        let shared = if sequences.clone().count() > 1 { shared } else { 0 };
        self.shared = shared;
        if let Some(first) = sequences.clone().next() {
            tokens.extend(&first.tokens[..shared]);
            positions.extend(0..shared);
        }
        for sequence in sequences {
            let rows = sequence.rows();
            let segment = Segment { shared, start: tokens.len(), len: rows - shared };
            tokens.extend(&sequence.tokens[shared..rows]);
            positions.extend(shared..rows);
            segments.push(segment);
            let marked = sequence.tokens.iter().zip(&sequence.targets).skip(1).enumerate();
            let marked = marked.filter(|(_, (_, target))| **target);
            targets.extend(marked.map(|(i, (&token, _))| Target { row: segment.row(i), token }));
        }
        if shared > 0 {
            segments.push(Segment { shared: 0, start: 0, len: shared });
        }
        let rows = tokens.len();
        for head in 0..heads {
            if shared > 0 {
                spans.push(head * rows..(head + 1) * rows);
            } else {
                spans.extend(segments.iter().map(|s| head * rows + s.start..head * rows + s.start + s.len));
            }
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

/// Shared rows below which sharing is not worth it.
const FEW_SHARED: usize = 8;

/// How many tokens all sequences with a target begin with, a row of each being left to itself; 0 if they are few.
pub(super) fn shared(sequences: &[&Sequence]) -> usize {
    let mut used = sequences.iter().filter(|sequence| sequence.rows() > 0);
    let Some(first) = used.next() else { return 0 };
    let shared = used.fold(first.rows() - 1, |shared, sequence| {
        let most = shared.min(sequence.rows() - 1);
        (0..most).find(|&i| sequence.tokens[i] != first.tokens[i]).unwrap_or(most)
    });
    if shared < FEW_SHARED { 0 } else { shared }
}

/// Which sequences are run together: each goes where there is room first, and several only up to `max` rows, those that they
/// share counted once. Sequences without a target go nowhere.
pub(super) fn groups(sequences: &[&Sequence], shared: usize, max: usize) -> Vec<Vec<usize>> {
    let mut groups: Vec<(usize, Vec<usize>)> = Vec::new();
    for (i, sequence) in sequences.iter().enumerate() {
        let rows = sequence.rows();
        if rows == 0 {
            continue;
        }
        match groups.iter_mut().find(|(held, _)| held + rows - shared <= max) {
            Some((held, group)) => {
                *held += rows - shared;
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
        packed.fill([&a, &b].into_iter(), 0, 2);
        assert_eq!(packed.tokens, [5, 6, 9, 4]);
        assert_eq!(packed.positions, [0, 1, 0, 1]);
        let segment = |shared, start, len| Segment { shared, start, len };
        assert_eq!(packed.segments, [segment(0, 0, 2), segment(0, 2, 2)]);
        let target = |row, token| Target { row, token };
        assert_eq!(packed.targets, [target(1, 7), target(2, 4), target(3, 3)]);
        assert_eq!(packed.spans, [0..2, 2..4, 4..6, 6..8]);
        assert_eq!(packed.span(3), (1, 2, &[segment(0, 2, 2)][..]));
    }

    #[test]
    fn what_sequences_begin_with_is_there_once() {
        let begin: Vec<u32> = (20..29).collect();
        let of = |rest: &[u32]| Sequence {
            tokens: [&begin, rest].concat(),
            targets: [vec![false; 8], vec![true; 1 + rest.len()]].concat(),
        };
        let (a, b) = (of(&[5, 6]), of(&[7, 8, 9]));
        assert_eq!(shared(&[&a, &b]), 9);
        assert_eq!(shared(&[&a, &sequence(&[1, 2], &[0, 0]), &b]), 9, "what is not run does not count");
        assert_eq!(shared(&[&a, &sequence(&begin[..8], &[0, 0, 0, 0, 0, 0, 0, 1])]), 0, "too few");
        assert_eq!(groups(&[&a, &b], 9, 12), [[0, 1]]);
        let mut packed = Packed::default();
        packed.fill([&a, &b].into_iter(), 9, 2);
        assert_eq!(packed.tokens, [&begin[..], &[5, 7, 8]].concat());
        assert_eq!(packed.positions, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 9, 10]);
        let segment = |shared, start, len| Segment { shared, start, len };
        assert_eq!(packed.segments, [segment(9, 9, 1), segment(9, 10, 2), segment(0, 0, 9)]);
        let target = |row, token| Target { row, token };
        let expected =
            [(7, 28), (8, 5), (9, 6), (7, 28), (8, 7), (10, 8), (11, 9)].map(|(row, token)| target(row, token));
        assert_eq!(packed.targets, expected);
        assert_eq!(packed.spans, [0..12, 12..24]);
        assert_eq!(packed.span(1), (1, 0, &packed.segments[..]));
        // Alone there is nobody to share with.
        packed.fill([&a].into_iter(), 9, 1);
        assert_eq!((packed.rows(), packed.shared), (10, 0));
    }

    #[test]
    fn groups_fill_up_in_order() {
        let of = |rows: usize| sequence(&vec![1; rows + 1], &[vec![0; rows], vec![1]].concat());
        let sequences = [of(5), of(4), of(0), of(3), of(9), of(2)];
        let all: Vec<&Sequence> = sequences.iter().collect();
        assert_eq!(groups(&all, 0, 9), [vec![0, 1], vec![3, 5], vec![4]]);
        assert!(groups(&[&sequence(&[1, 2], &[1, 0])], 0, 9).is_empty());
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
