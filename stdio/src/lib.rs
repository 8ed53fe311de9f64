//! The process's standard output and standard error: every write of the binaries to them goes through here.
//!
//! * [`stderr`] and [`stdout`] are bounded queues. A node writes to nothing else: a write to a queue never waits, never
//!   fails and never panics, whatever is on the other end (a pipe without a reader, one whose reader sleeps, a full disk).
//! * [`write_all`] waits for the reader. Commands whose answer is wanted whole use it, nodes never do.
//! * [`install_panic_hook`] and [`logging`] send panics and log lines into the queue of stderr.
//! * Both queues are the process's own and the only globals of the project: a process has one stderr.
//! * Invariant: `print!`, `eprint!`, `std::io::stdout` and `std::io::stderr` are nowhere else in production code; clippy
//!   refuses them, because they panic or wait.
//! * Source: docs/adr/0017-output-never-stops-a-node.md.

mod fd;
pub mod logging;
mod panics;
mod queue;

pub use panics::install_panic_hook;
pub use queue::{QUEUE_BYTES_MAX, Queue};

use std::io;
use std::sync::OnceLock;
use std::time::Duration;

/// How long the end of a process waits until its last lines are written. A collector that does not read cannot hold up the
/// end for longer.
pub const FLUSH_WITHIN: Duration = Duration::from_secs(1);

/// The queue in front of standard error.
pub fn stderr() -> &'static Queue {
    static STDERR: OnceLock<Queue> = OnceLock::new();
    STDERR.get_or_init(|| Queue::new("stderr", fd::Descriptor::stderr()))
}

/// The queue in front of standard output, for what nodes say there.
pub fn stdout() -> &'static Queue {
    static STDOUT: OnceLock<Queue> = OnceLock::new();
    STDOUT.get_or_init(|| Queue::new("stdout", fd::Descriptor::stdout()))
}

/// Waits until both queues are written, at most [`FLUSH_WITHIN`] for each.
pub fn flush() {
    stdout().flush(FLUSH_WITHIN);
    stderr().flush(FLUSH_WITHIN);
}

/// Standard output as a writer that waits for its reader, also where the descriptor is a non-blocking one. It does not wait
/// for the queue of [`stdout`]: a program uses one or the other.
#[must_use]
pub fn blocking_stdout() -> impl io::Write + Send + 'static {
    fd::Descriptor::stdout()
}

/// Writes everything to [`blocking_stdout`].
pub fn write_all(bytes: &[u8]) -> io::Result<()> {
    io::Write::write_all(&mut blocking_stdout(), bytes)
}

/// True when standard output is a terminal.
#[must_use]
pub fn stdout_is_terminal() -> bool {
    rustix::termios::isatty(rustix::stdio::stdout())
}

/// True when standard error is a terminal.
#[must_use]
pub fn stderr_is_terminal() -> bool {
    rustix::termios::isatty(rustix::stdio::stderr())
}

/// True when standard input is a terminal.
#[must_use]
pub fn stdin_is_terminal() -> bool {
    rustix::termios::isatty(rustix::stdio::stdin())
}

/// Columns of the terminal that standard error is; 80 where nobody knows.
#[must_use]
pub fn stderr_columns() -> u16 {
    let size = rustix::termios::tcgetwinsize(rustix::stdio::stderr());
    size.map(|size| size.ws_col).ok().filter(|&columns| columns > 0).unwrap_or(80)
}
