//! Where progress bars are drawn: on the terminal that stderr is, through the queue of stderr.
//!
//! * In: indicatif's moves and texts. Out: one piece for each frame.
//! * Invariant: drawing never waits. A frame that finds others waiting is left out; the next one replaces it anyway.
//! * Deliberately absent: what the bars show; lines for where there is no terminal.

use indicatif::{ProgressDrawTarget, TermLike};
use std::fmt;
use std::io;
use std::sync::{Mutex, PoisonError};

/// True where bars are drawn: on a terminal that can move its cursor.
#[must_use]
pub fn has_bars() -> bool {
    duramen_stdio::stderr_is_terminal() && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}

/// What a bar draws on; nothing where there is no terminal.
#[must_use]
pub fn draw_target() -> ProgressDrawTarget {
    match has_bars() {
        true => ProgressDrawTarget::term_like(Box::new(Screen::default())),
        false => ProgressDrawTarget::hidden(),
    }
}

/// A terminal whose frames go into the queue.
#[derive(Default)]
struct Screen {
    frame: Mutex<String>,
}

impl fmt::Debug for Screen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Screen")
    }
}

impl Screen {
    fn add(&self, text: fmt::Arguments<'_>) -> io::Result<()> {
        let mut frame = self.frame.lock().unwrap_or_else(PoisonError::into_inner);
        fmt::Write::write_fmt(&mut *frame, text).map_err(io::Error::other)
    }

    /// A move by `count`; by none, nothing: terminals take 0 for 1.
    fn go(&self, count: usize, direction: char) -> io::Result<()> {
        if count == 0 { Ok(()) } else { self.add(format_args!("\x1b[{count}{direction}")) }
    }
}

impl TermLike for Screen {
    fn width(&self) -> u16 {
        duramen_stdio::stderr_columns()
    }

    fn move_cursor_up(&self, lines: usize) -> io::Result<()> {
        self.go(lines, 'A')
    }

    fn move_cursor_down(&self, lines: usize) -> io::Result<()> {
        self.go(lines, 'B')
    }

    fn move_cursor_right(&self, columns: usize) -> io::Result<()> {
        self.go(columns, 'C')
    }

    fn move_cursor_left(&self, columns: usize) -> io::Result<()> {
        self.go(columns, 'D')
    }

    fn write_line(&self, text: &str) -> io::Result<()> {
        self.add(format_args!("{text}\n"))
    }

    fn write_str(&self, text: &str) -> io::Result<()> {
        self.add(format_args!("{text}"))
    }

    fn clear_line(&self) -> io::Result<()> {
        self.add(format_args!("\r\x1b[2K"))
    }

    fn flush(&self) -> io::Result<()> {
        let frame = std::mem::take(&mut *self.frame.lock().unwrap_or_else(PoisonError::into_inner));
        duramen_stdio::stderr().push_frame(frame.as_bytes());
        Ok(())
    }
}
