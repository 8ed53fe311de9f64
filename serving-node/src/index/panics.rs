//! Panics of an index: damaged files make some indexes panic, and a node survives that.
//!
//! * Everywhere else a panic is a broken invariant, and ends the process in release builds: [`abort_on_panic`]. They unwind
//!   only so that a panic inside [`caught`] can be caught.
//! * Deliberately absent: threads of the index's own. A panic there ends the process; the next start checks what is left.
//! * Source: ADR 0012.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};

thread_local! {
    /// How deep this thread is in calls of an index.
    static CALLS: Cell<u32> = const { Cell::new(0) };
}

/// Does something with an index; `None` when that panicked. What was shared with it must not be believed afterwards.
pub(super) fn caught<T>(work: impl FnOnce() -> T) -> Option<T> {
    CALLS.set(CALLS.get() + 1);
    let done = catch_unwind(AssertUnwindSafe(work));
    CALLS.set(CALLS.get() - 1);
    done.ok()
}

/// From now on a panic ends the process once it was said, unless an index panicked in a call. Release builds only: debug
/// builds keep what the tests expect of them.
pub fn abort_on_panic() {
    if cfg!(debug_assertions) {
        return;
    }
    let said = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        said(panic);
        if CALLS.get() == 0 {
            std::process::abort();
        }
    }));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_in_a_call_is_caught_and_the_next_call_works() {
        assert_eq!(caught(|| -> u32 { panic!("as damaged files make it do") }), None);
        assert_eq!(CALLS.get(), 0);
        assert_eq!(caught(|| caught(|| 7)), Some(Some(7)));
    }
}
