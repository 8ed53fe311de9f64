//! What a panic says, and how: through the queue of stderr, so that saying it neither waits nor panics again.
//!
//! * Release builds abort after the hook. It therefore waits until the message is written, for a bounded time.
//! * Source: `std::panic`; the standard hook writes to stderr itself and waits as long as its reader does.

use crate::{FLUSH_WITHIN, stderr};
use std::backtrace::{Backtrace, BacktraceStatus};
use std::panic::PanicHookInfo;

/// Replaces the process's panic hook. A panic says its thread, place and message, and with `RUST_BACKTRACE=1` the stack.
pub fn install_panic_hook() {
    std::panic::set_hook(Box::new(|panic| {
        stderr().push_from_panic(message(panic, &Backtrace::capture()).as_bytes());
        stderr().flush(FLUSH_WITHIN);
    }));
}

fn message(panic: &PanicHookInfo<'_>, stack: &Backtrace) -> String {
    let thread = std::thread::current();
    let name = thread.name().unwrap_or("<unnamed>");
    let place = panic.location().map(|place| format!(" at {place}")).unwrap_or_default();
    let what = panic.payload_as_str().unwrap_or("(no message)");
    let stack = match stack.status() {
        BacktraceStatus::Captured => format!("{stack}\n"),
        _ => String::new(),
    };
    format!("thread '{name}' panicked{place}:\n{what}\n{stack}")
}
