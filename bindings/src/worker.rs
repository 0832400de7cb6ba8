//! A thread that produces and a caller that pulls.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::error::{Outcome, TimbreError};
use crate::guard::guarded;

/// What a thread hands over: items on the way, one result at the end. Both sides hold it by `Arc`.
pub(crate) struct Channel<I, R> {
    state: Mutex<State<I, R>>,
    changed: Condvar,
    /// Items kept for a caller that does not pull; older ones go.
    most: usize,
}

struct State<I, R> {
    items: VecDeque<I>,
    taken: bool,
    end: Option<Outcome<R>>,
}

impl<I, R: Clone> Channel<I, R> {
    pub(crate) fn new(most: usize) -> Self {
        let state = State { items: VecDeque::new(), taken: false, end: None };
        Self { state: Mutex::new(state), changed: Condvar::new(), most }
    }

    /// Hands an item over.
    pub(crate) fn send(&self, item: I) {
        let mut state = self.lock();
        if state.items.len() == self.most {
            state.items.pop_front();
        }
        state.items.push_back(item);
        self.changed.notify_all();
    }

    /// Ends it. Only the first end counts.
    pub(crate) fn finish(&self, result: Outcome<R>) {
        let mut state = self.lock();
        state.end.get_or_insert(result);
        self.changed.notify_all();
    }

    /// All items there are, waiting for the first; more of them that come within `gather` after it, but for the very first of
    /// all, which nobody should wait for. Empty at the end; an error comes once, after the items before it.
    pub(crate) fn next(&self, gather: Duration) -> Outcome<Vec<I>> {
        let mut state = self.lock();
        while state.items.is_empty() {
            match &state.end {
                None => state = self.wait(state),
                Some(Ok(_)) => return Ok(Vec::new()),
                Some(Err(error)) => return Err(error.clone()),
            }
        }
        if state.taken && !gather.is_zero() {
            let until = Instant::now() + gather;
            while state.end.is_none() {
                let left = until.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    break;
                }
                state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
            }
        }
        state.taken = true;
        Ok(state.items.drain(..).collect())
    }

    /// The result, waiting for it.
    pub(crate) fn result(&self) -> Outcome<R> {
        let mut state = self.lock();
        loop {
            match &state.end {
                None => state = self.wait(state),
                Some(end) => return end.clone(),
            }
        }
    }

    /// Whether it has ended.
    pub(crate) fn is_finished(&self) -> bool {
        self.lock().end.is_some()
    }

    fn lock(&self) -> MutexGuard<'_, State<I, R>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State<I, R>>) -> MutexGuard<'a, State<I, R>> {
        self.changed.wait(state).unwrap_or_else(PoisonError::into_inner)
    }
}

/// Runs `work` on a thread of its own; a panic in it is handed to `end` as an error like any other.
///
/// # Errors
/// [`TimbreError::Internal`] if the system gives no thread; `end` has then been called with it.
pub(crate) fn spawn<R: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> Outcome<R> + Send + 'static,
    end: impl FnOnce(Outcome<R>) + Send + 'static,
) -> Outcome<()> {
    // Shared, so that it can be called here where the thread never began.
    let end = std::sync::Arc::new(Mutex::new(Some(end)));
    let theirs = std::sync::Arc::clone(&end);
    let finish = move |result| {
        let end = theirs.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(end) = end {
            end(result);
        }
    };
    let spawned = std::thread::Builder::new().name(name.to_owned()).spawn(move || finish(guarded(work)));
    match spawned {
        Ok(_) => Ok(()),
        Err(error) => {
            let error = TimbreError::internal(format!("no thread for {name}: {error}"));
            let end = end.lock().unwrap_or_else(PoisonError::into_inner).take();
            if let Some(end) = end {
                end(Err(error.clone()));
            }
            Err(error)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn items_come_in_order_then_the_end() {
        let channel = Channel::new(8);
        [1, 2, 3].into_iter().for_each(|item| channel.send(item));
        channel.finish(Ok("done"));
        channel.finish(Ok("again"));
        assert_eq!(channel.next(Duration::ZERO), Ok(vec![1, 2, 3]));
        assert_eq!(channel.next(Duration::ZERO), Ok(vec![]));
        assert_eq!(channel.result(), Ok("done"));
        assert!(channel.is_finished());
    }

    #[test]
    fn the_first_item_is_not_gathered_and_later_ones_are() {
        let channel = Arc::new(Channel::<i32, ()>::new(8));
        channel.send(1);
        let begin = Instant::now();
        assert_eq!(channel.next(Duration::from_secs(60)), Ok(vec![1]));
        assert!(begin.elapsed() < Duration::from_secs(30));
        let theirs = Arc::clone(&channel);
        let thread = std::thread::spawn(move || {
            theirs.send(2);
            theirs.send(3);
            theirs.finish(Err(TimbreError::Cancelled));
        });
        assert_eq!(channel.next(Duration::from_secs(60)), Ok(vec![2, 3]));
        assert_eq!(channel.next(Duration::ZERO), Err(TimbreError::Cancelled));
        thread.join().unwrap();
    }

    #[test]
    fn who_does_not_pull_gets_the_latest() {
        let channel = Channel::<i32, ()>::new(2);
        (0..5).for_each(|item| channel.send(item));
        assert_eq!(channel.next(Duration::ZERO), Ok(vec![3, 4]));
    }

    #[test]
    fn a_panic_in_a_thread_is_its_result() {
        let channel = Arc::new(Channel::<(), ()>::new(1));
        let theirs = Arc::clone(&channel);
        spawn("panics", || panic!("on purpose"), move |result| theirs.finish(result)).unwrap();
        assert_eq!(channel.result(), Err(TimbreError::internal("on purpose")));
    }
}
