//! Threads that sleep until there is something for them.

use super::sync::{AtomicUsize, Condvar, Mutex, MutexGuard, Ordering, PoisonError, fence};

/// Those asleep, and what wakes them.
pub(super) struct Sleepers {
    count: AtomicUsize,
    lock: Mutex<()>,
    wake: Condvar,
}

impl Sleepers {
    /// Nobody sleeps.
    pub fn new() -> Self {
        Self { count: AtomicUsize::new(0), lock: Mutex::new(()), wake: Condvar::new() }
    }

    /// Sleeps until `awake`.
    pub fn sleep_until(&self, awake: impl Fn() -> bool) {
        let mut guard = self.lock();
        self.count.fetch_add(1, Ordering::Relaxed);
        // As in `wake`: one of the two sees what the other stored before its fence.
        fence(Ordering::SeqCst);
        while !awake() {
            guard = self.wake.wait(guard).unwrap_or_else(PoisonError::into_inner);
        }
        self.count.fetch_sub(1, Ordering::Relaxed);
    }

    /// Wakes those that are seen asleep already.
    pub fn wake_seen(&self) {
        if self.count.load(Ordering::Relaxed) > 0 {
            self.wake_all();
        }
    }

    /// Wakes whoever did not see the stores of this thread before it slept.
    pub fn wake(&self) {
        // This thread sees it asleep, or it the stores: both have a fence between storing and looking.
        fence(Ordering::SeqCst);
        self.wake_seen();
    }

    fn wake_all(&self) {
        // Whoever found nothing, and does not wait yet, holds the lock.
        drop(self.lock());
        self.wake.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, ()> {
        self.lock.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
