//! How products that come again are split between threads.
//!
//! A worker begins later than the thread that calls it, by as much as their caches are apart, and cores differ. What one thread takes of another's share
//! at its end is in nobody's cache, so shares follow what each thread did of the same products before, layer after layer.

use std::ops::Range;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

/// Groups of products, told apart by their size, that are remembered: those of a layer, of a type or two, and the head.
const GROUPS: usize = 16;
/// Ends of shares are in parts of this.
const WHOLE: u32 = 1 << 24;
/// A share goes this part of the way to what was seen last.
const STEP: u32 = 8;
/// No share falls below this part of an equal one: a thread that was away for a while still begins with what it asked for.
const LEAST: u32 = 4;

/// The splits of all groups of products.
#[derive(Debug)]
pub(super) struct Splits {
    threads: usize,
    groups: Box<[Group]>,
}

#[derive(Debug)]
struct Group {
    /// Bytes of its weights; zero while there is none.
    bytes: AtomicUsize,
    split: Split,
}

/// How the tasks of a group's job are split.
#[derive(Debug)]
pub(super) struct Split {
    /// Tasks of the last job that came before those of the products.
    before: AtomicUsize,
    /// Where each thread's share ends.
    ends: Box<[AtomicU32]>,
}

impl Splits {
    /// Equal ones.
    pub fn new(threads: usize) -> Self {
        let group = || Group { bytes: AtomicUsize::new(0), split: Split::new(threads) };
        Self { threads, groups: (0..GROUPS).map(|_| group()).collect() }
    }

    /// That of products of so many bytes of weights; `None` if there are too many groups, or nothing to split.
    pub fn of(&self, bytes: usize) -> Option<&Split> {
        if self.threads == 1 || bytes == 0 {
            return None;
        }
        let is = |group: &&Group| match group.bytes.load(Ordering::Relaxed) {
            0 => group.bytes.compare_exchange(0, bytes, Ordering::Relaxed, Ordering::Relaxed).is_ok(),
            found => found == bytes,
        };
        self.groups.iter().find(is).map(|group| &group.split)
    }
}

impl Split {
    fn new(threads: usize) -> Self {
        let end = |thread: usize| ((thread as u64 + 1) * u64::from(WHOLE) / threads as u64) as u32;
        Self { before: AtomicUsize::new(0), ends: (0..threads).map(|thread| AtomicU32::new(end(thread))).collect() }
    }

    /// Tasks before the products'.
    pub fn before(&self) -> usize {
        self.before.load(Ordering::Relaxed)
    }

    /// Says how many there are.
    pub fn set_before(&self, tasks: usize) {
        if self.before() != tasks {
            self.before.store(tasks, Ordering::Relaxed);
        }
    }

    /// Where a thread's share ends.
    fn end(&self, thread: usize) -> u32 {
        self.ends[thread].load(Ordering::Relaxed)
    }

    /// The tasks of so many that a thread begins with.
    fn share(&self, thread: usize, tasks: usize) -> Range<usize> {
        let bound = |end: u32| (u128::from(end) * tasks as u128 + u128::from(WHOLE / 2)) / u128::from(WHOLE);
        let start = thread.checked_sub(1).map_or(0, |before| self.end(before));
        bound(start) as usize..bound(self.end(thread)) as usize
    }

    /// Takes in how many of `tasks` each thread did. Only one thread at a time learns.
    pub fn learn(&self, tasks: usize, done: impl Fn(usize) -> usize) {
        let threads = self.ends.len();
        if tasks == 0 || (0..threads).all(|thread| done(thread) == self.share(thread, tasks).len()) {
            return;
        }
        let least = WHOLE / threads as u32 / LEAST;
        let (mut start, mut before) = (0, 0);
        for thread in 0..threads - 1 {
            let end = self.end(thread);
            let was = i64::from(end) - i64::from(before);
            let seen = (done(thread) as u128 * u128::from(WHOLE) / tasks as u128) as i64;
            let now = (was + (seen - was) / i64::from(STEP)).clamp(0, i64::from(WHOLE)) as u32;
            // What is left suffices for the threads after this one.
            let most = WHOLE - start - least * (threads - 1 - thread) as u32;
            (start, before) = (start + now.max(least).min(most), end);
            self.ends[thread].store(start, Ordering::Relaxed);
        }
    }
}

/// The tasks of so many that a thread begins with, equal shares where there is no split.
pub(super) fn share(split: Option<&Split>, threads: usize, thread: usize, tasks: usize) -> Range<usize> {
    match split {
        Some(split) => split.share(thread, tasks),
        None => equal(threads, thread, tasks),
    }
}

fn equal(threads: usize, thread: usize, tasks: usize) -> Range<usize> {
    let bound = |thread: usize| (thread as u128 * tasks as u128 / threads as u128) as usize;
    bound(thread)..bound(thread + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_cover_the_tasks_and_begin_equal() {
        for threads in [1, 2, 3, 7] {
            let split = Split::new(threads);
            for tasks in [0, 1, 2, 3, 21, 1000] {
                let shares: Vec<_> = (0..threads).map(|thread| split.share(thread, tasks)).collect();
                assert!(shares.windows(2).all(|pair| pair[0].end == pair[1].start), "{shares:?}");
                assert_eq!((shares[0].start, shares[threads - 1].end), (0, tasks));
                let lengths = || shares.iter().map(Range::len);
                assert!(lengths().max().unwrap() - lengths().min().unwrap() <= 1, "{shares:?}");
            }
        }
    }

    #[test]
    fn shares_follow_what_is_done() {
        let split = Split::new(3);
        let speeds = [5, 3, 2];
        for _ in 0..100 {
            split.learn(1000, |thread| speeds[thread] * 100);
        }
        for (thread, speed) in speeds.into_iter().enumerate() {
            assert!(
                split.share(thread, 1000).len().abs_diff(speed * 100) <= STEP as usize,
                "{:?}",
                split.share(thread, 1000)
            );
        }
        // One that does nothing keeps a share, and gets its part when it is back.
        for _ in 0..100 {
            split.learn(1000, |thread| [1000, 0, 0][thread]);
        }
        let lengths: Vec<_> = (0..3).map(|thread| split.share(thread, 1200).len()).collect();
        assert_eq!(lengths, [1000, 100, 100]);
        for _ in 0..100 {
            split.learn(999, |_| 333);
        }
        assert!((0..3).all(|thread| split.share(thread, 999).len().abs_diff(333) <= STEP as usize));
    }

    #[test]
    fn groups_are_told_apart_until_there_are_too_many() {
        let splits = Splits::new(2);
        assert!(splits.of(0).is_none() && Splits::new(1).of(5).is_none());
        splits.of(100).unwrap().set_before(7);
        assert_eq!((splits.of(100).unwrap().before(), splits.of(200).unwrap().before()), (7, 0));
        assert_eq!((1..100).filter(|bytes| splits.of(bytes * 1000).is_some()).count(), GROUPS - 2);
        assert_eq!(splits.of(100).unwrap().before(), 7);
    }
}
