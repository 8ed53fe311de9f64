//! Panics of a simulated process, which its runtime would swallow: caught here, and told to the run.
//!
//! * The hook of the process is replaced once; threads that simulate nothing keep the hook that was there.

use std::cell::RefCell;
use std::sync::Once;

thread_local! {
    static CAUGHT: RefCell<Option<Vec<String>>> = const { RefCell::new(None) };
}

static HOOK: Once = Once::new();

/// From now on, panics of this thread are caught.
pub fn begin() {
    HOOK.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            let caught = CAUGHT.with_borrow_mut(|caught| match caught {
                Some(caught) => {
                    caught.push(panic.to_string());
                    true
                }
                None => false,
            });
            if !caught {
                before(panic);
            }
        }));
    });
    CAUGHT.set(Some(Vec::new()));
}

/// The panics since this was asked last.
#[must_use]
pub fn take() -> Vec<String> {
    CAUGHT.with_borrow_mut(|caught| caught.as_mut().map(std::mem::take).unwrap_or_default())
}

/// From now on, this thread's panics are its own again.
pub fn end() {
    CAUGHT.set(None);
}
