//! Pausing and stopping a run from another thread.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use crate::session::CancelHandle;

/// Pauses a run at the end of its step and stops it within one. Cloning shares it.
#[derive(Debug, Clone, Default)]
pub struct TuneHandle {
    cancel: CancelHandle,
    pause: Arc<(Mutex<bool>, Condvar)>,
}

/// How often a paused run looks whether it was cancelled by a handle's [`CancelHandle`] alone.
const LOOK: Duration = Duration::from_millis(50);

impl TuneHandle {
    /// Asks the run to stop. The step under way is thrown away; what was learnt before it is kept.
    pub fn cancel(&self) {
        self.cancel.cancel();
        self.pause.1.notify_all();
    }

    /// Whether it was asked to.
    pub fn is_cancelled(&self) -> bool {
        self.cancel.is_cancelled()
    }

    /// The stop alone, for code that knows nothing else of a run.
    pub fn cancel_handle(&self) -> CancelHandle {
        self.cancel.clone()
    }

    /// Asks the run to wait at the end of its step. Waiting takes no processor time and none of a budget of seconds.
    pub fn pause(&self) {
        *self.lock() = true;
    }

    /// Lets it go on.
    pub fn resume(&self) {
        *self.lock() = false;
        self.pause.1.notify_all();
    }

    /// Whether it is asked to wait.
    pub fn is_paused(&self) -> bool {
        *self.lock()
    }

    /// Returns once the run may go on or is to stop.
    pub(super) fn wait(&self) {
        let mut paused = self.lock();
        while *paused && !self.is_cancelled() {
            paused = self.pause.1.wait_timeout(paused, LOOK).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, bool> {
        self.pause.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
