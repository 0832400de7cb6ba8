//! Panics as errors.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::error::{Outcome, TimbreError};

/// Runs `work`; a panic in it ends as [`TimbreError::Internal`]. What `work` held is dropped, so that nothing half-changed is
/// seen again.
pub(crate) fn guarded<T>(work: impl FnOnce() -> Outcome<T>) -> Outcome<T> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(outcome) => outcome,
        Err(panic) => Err(panicked(&*panic)),
    }
}

fn panicked(panic: &(dyn Any + Send)) -> TimbreError {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    TimbreError::internal(text.unwrap_or("a panic without words"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_an_error_with_its_words() {
        let internal = |reason: &str| Err::<(), _>(TimbreError::internal(reason));
        assert_eq!(guarded(|| -> Outcome<()> { panic!("in {}", 3) }), internal("in 3"));
        assert_eq!(guarded(|| -> Outcome<()> { panic!("plain") }), internal("plain"));
        assert_eq!(guarded(|| -> Outcome<()> { std::panic::panic_any(7) }), internal("a panic without words"));
        assert_eq!(guarded(|| Ok(7)), Ok(7));
    }
}
