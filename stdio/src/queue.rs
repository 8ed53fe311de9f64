//! `Queue`: pieces of text on their way to a descriptor, written by a thread of its own.
//!
//! * In: whole pieces, from any thread. Out: the same bytes in the same order, or nothing of them.
//! * Invariant: [`Queue::push`] never waits for the other end, never fails, never panics. A piece that finds no room is
//!   dropped, and so is what the descriptor refuses (EPIPE, ENOSPC, EIO, EFBIG); the next piece is tried again.
//! * Dropped lines are counted. When the descriptor takes bytes again, one line there says how many were dropped.
//! * Limit: [`QUEUE_BYTES_MAX`] wait, and as many are being written.
//! * Deliberately absent: keeping what was refused. A log line about an hour ago is worth less than the memory.

use parking_lot::{Condvar, Mutex, MutexGuard};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Most bytes that wait to be written.
pub const QUEUE_BYTES_MAX: usize = 1024 * 1024;

/// Frames of a progress bar are left out while more than this waits. Unit: bytes.
const FRAME_BEHIND_MAX: usize = 16 * 1024;

/// How long a panic waits for the lock. It is held for a copy only, unless the panic came from inside.
const LOCK_WITHIN: Duration = Duration::from_millis(100);

type Out = Box<dyn io::Write + Send>;

/// A queue in front of a descriptor.
pub struct Queue {
    shared: Arc<Shared>,
}

struct Shared {
    name: &'static str,
    state: Mutex<State>,
    /// Something waits to be written.
    filled: Condvar,
    /// Everything is written or refused.
    emptied: Condvar,
    /// Lines that nobody will read. Shared with those who publish it.
    dropped: Arc<AtomicU64>,
}

#[derive(Default)]
struct State {
    /// Whole pieces, in order.
    waiting: Vec<u8>,
    /// True while the thread writes what it took out of `waiting`.
    writes: bool,
    /// Lines dropped since the descriptor was last told. Part of `dropped`.
    untold: u64,
    /// What the thread will write to, until the first piece starts the thread.
    out: Option<Out>,
}

impl Queue {
    /// A queue in front of `out`; `name` is its thread's.
    pub fn new(name: &'static str, out: impl io::Write + Send + 'static) -> Queue {
        let state = State { out: Some(Box::new(out)), ..State::default() };
        let shared = Shared {
            name,
            state: Mutex::new(state),
            filled: Condvar::new(),
            emptied: Condvar::new(),
            dropped: Arc::default(),
        };
        Queue { shared: Arc::new(shared) }
    }

    /// Adds a piece, or drops it when there is no room.
    pub fn push(&self, piece: &[u8]) {
        self.push_locked(self.shared.state.lock(), piece);
    }

    /// Adds a line.
    pub fn push_line(&self, line: &str) {
        self.push(format!("{line}\n").as_bytes());
    }

    /// Adds a piece that replaces the one before it on a screen: left out, uncounted, while much waits.
    pub fn push_frame(&self, frame: &[u8]) {
        let state = self.shared.state.lock();
        if state.waiting.len() <= FRAME_BEHIND_MAX {
            self.push_locked(state, frame);
        }
    }

    /// The same as [`Queue::push`] for a panic's message, which may come from a thread that holds the lock.
    pub(crate) fn push_from_panic(&self, piece: &[u8]) {
        if let Some(state) = self.shared.state.try_lock_for(LOCK_WITHIN) {
            self.push_locked(state, piece);
        }
    }

    fn push_locked(&self, mut state: MutexGuard<'_, State>, piece: &[u8]) {
        if state.waiting.len() + piece.len() > QUEUE_BYTES_MAX || !self.start(&mut state) {
            self.shared.count_dropped(&mut state, lines(piece));
            return;
        }
        state.waiting.extend_from_slice(piece);
        drop(state);
        self.shared.filled.notify_one();
    }

    /// Starts the thread unless it runs. False when there is none to be had: the next piece tries again.
    fn start(&self, state: &mut State) -> bool {
        let Some(out) = state.out.take() else { return true };
        // Handed over in a place that both sides see: a thread that cannot be started must not take `out` with it.
        let place = Arc::new(Mutex::new(Some(out)));
        let (shared, taken) = (Arc::clone(&self.shared), Arc::clone(&place));
        let started = std::thread::Builder::new().name(self.shared.name.to_owned()).spawn(move || {
            if let Some(out) = taken.lock().take() {
                shared.write_for_ever(out);
            }
        });
        if started.is_err() {
            state.out = place.lock().take();
        }
        started.is_ok()
    }

    /// Waits until everything is written or refused, at most this long. True when it is.
    pub fn flush(&self, within: Duration) -> bool {
        let Some(mut state) = self.shared.state.try_lock_for(within) else { return false };
        let is_under_way = |state: &mut State| !state.waiting.is_empty() || state.writes;
        !self.shared.emptied.wait_while_for(&mut state, is_under_way, within).timed_out()
    }

    /// Lines dropped since the process began.
    #[must_use]
    pub fn dropped_lines(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.shared.dropped)
    }
}

impl Shared {
    fn count_dropped(&self, state: &mut State, lines: u64) {
        self.dropped.fetch_add(lines, Ordering::Relaxed);
        state.untold += lines;
    }

    fn write_for_ever(&self, mut out: Out) {
        let mut batch = Vec::new();
        // What was refused in the middle of a line left a part of it behind.
        let mut is_mid_line = false;
        let mut state = self.state.lock();
        loop {
            self.filled.wait_while(&mut state, |state| state.waiting.is_empty());
            std::mem::swap(&mut batch, &mut state.waiting);
            // These were dropped before or while the batch waited. They are told after it, and only once it went out.
            let untold = std::mem::take(&mut state.untold);
            state.writes = true;
            drop(state);
            let written = write_batch(&mut *out, &batch, is_mid_line);
            is_mid_line = written.is_mid_line;
            let mut is_told = false;
            if written.refused == 0 && untold > 0 {
                let notice = format!("{untold} log lines dropped: {} did not take them\n", self.name);
                let told = write_batch(&mut *out, notice.as_bytes(), is_mid_line);
                is_mid_line = told.is_mid_line;
                is_told = told.refused == 0;
            }
            batch.clear();
            state = self.state.lock();
            state.untold += if is_told { 0 } else { untold };
            self.count_dropped(&mut state, written.refused);
            state.writes = false;
            self.emptied.notify_all();
        }
    }
}

/// How a batch ended.
struct Written {
    /// Lines that did not go out whole.
    refused: u64,
    /// The last byte that went out was not a line's end.
    is_mid_line: bool,
}

/// Writes all, or as much as is taken before the first error.
fn write_batch(out: &mut dyn io::Write, batch: &[u8], was_mid_line: bool) -> Written {
    if was_mid_line && !matches!(out.write(b"\n"), Ok(1)) {
        return Written { refused: lines(batch), is_mid_line: true };
    }
    let mut rest = batch;
    while !rest.is_empty() {
        match out.write(rest) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) | Ok(0) => break,
            Ok(written) => rest = rest.get(written..).unwrap_or_default(),
        }
    }
    let written = batch.get(..batch.len() - rest.len()).unwrap_or_default();
    let is_cut = !rest.is_empty() && written.last().is_some_and(|&byte| byte != b'\n');
    let refused = if rest.is_empty() { 0 } else { lines(rest) };
    Written { refused, is_mid_line: is_cut }
}

/// How many lines a text has; one that has no end counts.
fn lines(text: &[u8]) -> u64 {
    let ends = text.iter().filter(|&&byte| byte == b'\n').count() as u64;
    ends + u64::from(text.last().is_some_and(|&byte| byte != b'\n'))
}

#[cfg(test)]
mod tests;
