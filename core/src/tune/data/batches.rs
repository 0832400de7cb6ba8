//! The order examples come in.

use super::Rng;

/// Stream of [`Rng`] that epoch 0 is shuffled with.
const STREAM: u64 = 1 << 32;

/// Where a run is in its data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cursor {
    /// Passes over the data that are behind.
    pub epoch: u64,
    /// Examples of the present pass that are behind.
    pub position: usize,
}

/// Examples in batches, in an order of its own in every epoch. The order is a function of seed and epoch, so that a
/// [`Cursor`] is all that a checkpoint needs.
#[derive(Debug, Clone)]
pub struct Batches {
    size: usize,
    seed: u64,
    cursor: Cursor,
    order: Vec<u32>,
    /// The epoch that `order` is of.
    shuffled: Option<u64>,
}

impl Batches {
    /// Batches of `size` of `examples` examples; the last of an epoch has what is left.
    ///
    /// # Panics
    /// If either is 0, or there are 2³² examples.
    pub fn new(examples: usize, size: usize, seed: u64) -> Self {
        assert!(examples > 0 && size > 0, "batches of something");
        let count = u32::try_from(examples).expect("fewer than 2^32 examples");
        Self { size, seed, cursor: Cursor::default(), order: (0..count).collect(), shuffled: None }
    }

    /// Where it is.
    pub fn cursor(&self) -> Cursor {
        self.cursor
    }

    /// Goes to where another of the same size and seed was.
    pub fn seek(&mut self, cursor: Cursor) {
        self.cursor = cursor;
    }

    /// The next batch: numbers of examples.
    pub fn next_batch(&mut self) -> &[u32] {
        if self.cursor.position >= self.order.len() {
            self.cursor = Cursor { epoch: self.cursor.epoch + 1, position: 0 };
        }
        if self.shuffled != Some(self.cursor.epoch) {
            self.order.sort_unstable();
            Rng::new(self.seed, STREAM.wrapping_add(self.cursor.epoch)).shuffle(&mut self.order);
            self.shuffled = Some(self.cursor.epoch);
        }
        let from = self.cursor.position;
        let to = self.order.len().min(from + self.size);
        self.cursor.position = to;
        &self.order[from..to]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take(batches: &mut Batches, times: usize) -> Vec<Vec<u32>> {
        (0..times).map(|_| batches.next_batch().to_vec()).collect()
    }

    #[test]
    fn an_epoch_has_every_example_once() {
        let mut batches = Batches::new(10, 4, 1);
        let first = take(&mut batches, 3);
        assert_eq!(first.iter().map(Vec::len).collect::<Vec<_>>(), [4, 4, 2]);
        let mut all = first.concat();
        all.sort_unstable();
        assert_eq!(all, (0..10).collect::<Vec<_>>());
        let second = take(&mut batches, 3);
        assert_eq!(batches.cursor(), Cursor { epoch: 1, position: 10 });
        assert_ne!(first, second, "another order");
    }

    #[test]
    fn a_seed_gives_one_order_and_a_cursor_continues_it() {
        let mut whole = Batches::new(23, 4, 7);
        let expected = take(&mut whole, 20);
        let mut again = Batches::new(23, 4, 7);
        assert_eq!(take(&mut again, 8), expected[..8]);
        let mut resumed = Batches::new(23, 4, 7);
        resumed.seek(again.cursor());
        assert_eq!(take(&mut resumed, 12), expected[8..]);
        assert_ne!(take(&mut Batches::new(23, 4, 8), 8), expected[..8]);
    }

    #[test]
    fn fewer_examples_than_a_batch() {
        let mut batches = Batches::new(2, 8, 0);
        assert_eq!(batches.next_batch().len(), 2);
        assert_eq!(batches.next_batch().len(), 2);
    }
}
