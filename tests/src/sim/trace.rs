//! Trace: everything that happens in a run, in order, as a hash and, if wanted, as lines to read.
//!
//! * In: events as a tag and numbers, and a closure that tells them in words. Out: one number a run: two runs of a seed are
//!   the same run if their numbers are.
//! * Invariant: nothing that differs between two runs of a seed (addresses, real time) goes in.

use std::io::Write as _;
use xxhash_rust::xxh3::Xxh3;

/// What a trace does with its lines.
pub enum Sink {
    /// Hashed only.
    None,
    /// Printed as they come.
    Stdout,
    /// The last ones kept, for a report.
    Keep(std::collections::VecDeque<String>),
}

/// How many lines [`Sink::Keep`] keeps.
const LINES_KEPT: usize = 400;

/// The trace of one run.
pub struct Trace {
    hash: Xxh3,
    events: u64,
    now_ms: u64,
    sink: Sink,
}

impl Trace {
    /// An empty trace.
    #[must_use]
    pub fn new(sink: Sink) -> Trace {
        Trace { hash: Xxh3::new(), events: 0, now_ms: 0, sink }
    }

    /// From now on events happen at this time.
    pub fn set_now(&mut self, now_ms: u64) {
        self.now_ms = now_ms;
    }

    /// Notes an event.
    pub fn note(&mut self, tag: &'static str, numbers: &[u64], words: impl FnOnce() -> String) {
        self.events += 1;
        self.hash.update(&self.now_ms.to_le_bytes());
        self.hash.update(tag.as_bytes());
        for number in numbers {
            self.hash.update(&number.to_le_bytes());
        }
        if matches!(self.sink, Sink::None) {
            return;
        }
        let line = format!("{:>8} {tag:<9} {}", self.now_ms, words());
        match &mut self.sink {
            Sink::None => {}
            Sink::Stdout => {
                #[expect(clippy::disallowed_methods, reason = "a program of the tests; no node runs in it")]
                let mut stdout = std::io::stdout();
                // A reader that has gone (`| head`) wants no more.
                if writeln!(stdout, "{line}").is_err() {
                    self.sink = Sink::None;
                }
            }
            Sink::Keep(lines) => {
                lines.push_back(line);
                if lines.len() > LINES_KEPT {
                    lines.pop_front();
                }
            }
        }
    }

    /// The run so far in one number, and of how many events.
    #[must_use]
    pub fn digest(&self) -> (u64, u64) {
        (self.hash.digest(), self.events)
    }
}
