//! Which positions a cache of keys and values holds, on the CPU or on a GPU: a layer with a sliding window keeps the last alone.

use std::ops::Range;

use crate::kernels::attention::{BLOCK, TILE};

use super::ModelError;
use super::blocks::Window;

/// Positions that a layer with a window keeps beyond it: as many rows can run in one batch, and about as many positions can be taken
/// back before those that the window would reach are gone.
pub(super) const SPARE: usize = 384;

/// The positions that one layer keeps: a ring, which a position enters in the place of the one `slots` before it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ring {
    window: Window,
    slots: usize,
}

impl Ring {
    /// That of a layer of a cache of `capacity` positions.
    pub fn new(window: Window, capacity: usize) -> Self {
        let all = capacity.next_multiple_of(BLOCK);
        let slots = match window {
            Window::Full => all,
            Window::Last(seen) => all.min(seen.saturating_add(SPARE).min(all).next_multiple_of(TILE)),
        };
        Self { window, slots }
    }

    /// Positions there is room for: whole blocks, and whole tiles if they are fewer than the cache's, so that a tile lies together.
    pub fn slots(self) -> usize {
        self.slots
    }

    /// Where a position lies.
    pub fn slot(self, position: usize) -> usize {
        if position < self.slots { position } else { position % self.slots }
    }

    /// Positions after the one at `start` that lie together with it, up to `end`.
    pub fn together(self, start: usize, end: usize) -> Range<usize> {
        start..end.min((start / self.slots + 1) * self.slots)
    }

    /// Whether all is there that the position `next` sees, if `written` positions were.
    fn holds(self, next: usize, written: usize) -> bool {
        written.saturating_sub(self.slots) <= self.window.first(next)
    }
}

/// How many positions a cache holds, and how many it can take and give back.
#[derive(Debug)]
pub(super) struct Held {
    /// Each layer's.
    rings: Vec<Ring>,
    capacity: usize,
    len: usize,
    /// Positions written since the cache was empty, those that were taken back included.
    written: usize,
}

impl Held {
    /// None yet, of a cache of `capacity` positions whose layers have these windows.
    pub fn new(windows: impl Iterator<Item = Window>, capacity: usize) -> Self {
        Self { rings: windows.map(|window| Ring::new(window, capacity)).collect(), capacity, len: 0, written: 0 }
    }

    /// Positions there is room for.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Positions held.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Forgets every position from `len` on; and every other, if a layer with a window no longer has what the next one would see.
    /// Some hundreds of positions can be taken back before that.
    pub fn truncate(&mut self, len: usize) {
        if len < self.len {
            self.len = if self.rings.iter().all(|ring| ring.holds(len, self.written)) { len } else { 0 };
        }
        if self.len == 0 {
            self.written = 0;
        }
    }

    /// Makes room for `added` more positions after those held. Called before they are written.
    ///
    /// # Errors
    /// [`ModelError::ContextFull`].
    pub fn reserve(&self, added: usize) -> Result<(), ModelError> {
        if added > self.capacity - self.len {
            return Err(ModelError::ContextFull { capacity: self.capacity, used: self.len, added });
        }
        Ok(())
    }

    /// Rows that can run together: while they are written, what the first of them sees must stay.
    pub fn batch(&self) -> usize {
        let forgets = self.rings.iter().any(|ring| ring.slots < self.capacity);
        if forgets { SPARE } else { usize::MAX }
    }

    /// Says that `added` positions are about to be written after those held, at most [`batch`](Self::batch): they take the place of
    /// others even if the pass then fails.
    pub fn begin(&mut self, added: usize) {
        self.written = self.written.max(self.len + added);
    }

    /// Counts `added` positions as held, once every layer has written them.
    pub fn commit(&mut self, added: usize) {
        self.len += added;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(window: usize, capacity: usize) -> Held {
        Held::new([Window::Last(window), Window::Full].into_iter(), capacity)
    }

    fn add(held: &mut Held, positions: usize) {
        held.begin(positions);
        held.commit(positions);
    }

    #[test]
    fn a_ring_is_whole_tiles_or_all() {
        let [ring, all] = held(100, 4096).rings.try_into().unwrap();
        assert!(ring.slots.is_multiple_of(TILE) && (100 + SPARE..100 + SPARE + TILE).contains(&ring.slots));
        assert_eq!(all.slots, 4096);
        assert_eq!(ring.together(3 * ring.slots - 5, 4000), 3 * ring.slots - 5..3 * ring.slots);
        assert_eq!((ring.slot(ring.slots - 1), ring.slot(3 * ring.slots + 7)), (ring.slots - 1, 7));
        // Room for all is no ring, however large the window.
        for seen in [300, usize::MAX] {
            assert_eq!(Ring::new(Window::Last(seen), 333).slots, 336);
        }
    }

    #[test]
    fn rows_run_together_as_long_as_their_windows_stay() {
        assert_eq!(held(100, 4096).batch(), SPARE);
        assert_eq!(held(100, 400).batch(), usize::MAX, "nothing is ever overwritten");
        assert_eq!(Held::new([Window::Full].into_iter(), 4096).batch(), usize::MAX);
    }

    #[test]
    fn what_a_window_would_see_bounds_how_far_back_it_goes() {
        let window = 100;
        let mut held = held(window, 4096);
        let slots = held.rings[0].slots;
        assert!(slots >= window - 1 + SPARE);
        // Nothing is overwritten yet.
        add(&mut held, slots);
        held.truncate(1);
        assert_eq!(held.len(), 1);
        // The next position sees `window - 1` before it, and what is overwritten ends at 2000 - slots.
        add(&mut held, 1999);
        assert_eq!(held.len(), 2000);
        let first = 2000 - slots + window - 1;
        held.truncate(first);
        assert_eq!(held.len(), first);
        // Those taken back were written all the same.
        add(&mut held, 10);
        held.truncate(first);
        assert_eq!(held.len(), first);
        held.truncate(first - 1);
        assert_eq!(held.len(), 0);
        // From the beginning nothing is overwritten.
        add(&mut held, slots);
        held.truncate(7);
        assert_eq!(held.len(), 7);
        // A pass that failed has overwritten, too.
        held.truncate(0);
        add(&mut held, slots);
        held.begin(1);
        held.truncate(window);
        assert_eq!(held.len(), window);
        held.truncate(window - 1);
        assert_eq!(held.len(), 0);
    }
}
