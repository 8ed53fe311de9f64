//! Until when a connection between nodes may be silent, in the middle of a frame, or not read from.
//!
//! * In: what the connection is doing. Out: why its time is over, if it is. Pure: moments are handed in.

use crate::TcpServerConfig;
use std::time::Duration;
use tokio::time::Instant;

/// While clients hold more than they may, one that takes no answer has only so long.
const PRESSED_WRITE_TIMEOUT: Duration = Duration::from_secs(2);
/// How often a connection is looked at, at least and at most.
const LOOK_MIN: Duration = Duration::from_millis(10);
const LOOK_MAX: Duration = Duration::from_secs(2);

/// The moments of one connection.
pub(crate) struct Times {
    idle_max: Duration,
    frame_max: Duration,
    write_max: Duration,
    /// When bytes came last.
    pub(crate) heard: Instant,
    /// When the caller last took bytes, or had taken all.
    pub(crate) took: Instant,
    /// When the last request was answered.
    answered: Instant,
    /// Since when a frame has been here in part.
    partial: Option<Instant>,
    is_asking: bool,
    is_writing: bool,
    looked: Instant,
}

impl Times {
    pub(crate) fn new(config: &TcpServerConfig, now: Instant) -> Times {
        Times {
            idle_max: Duration::from_millis(config.idle_timeout_ms),
            frame_max: Duration::from_millis(config.frame_timeout_ms),
            write_max: Duration::from_millis(config.write_timeout_ms),
            heard: now,
            took: now,
            answered: now,
            partial: None,
            is_asking: false,
            is_writing: false,
            looked: now,
        }
    }

    /// What the connection is doing from now on: has requests under way or answers to give, has answers to write, has a part of
    /// a frame that it would read on.
    pub(crate) fn note(&mut self, is_asking: bool, is_writing: bool, is_partial: bool, now: Instant) {
        if self.is_asking && !is_asking {
            self.answered = now;
        }
        if !self.is_writing && is_writing {
            self.took = now;
        }
        (self.is_asking, self.is_writing) = (is_asking, is_writing);
        self.partial = is_partial.then(|| self.partial.unwrap_or(now));
    }

    /// A frame is whole.
    pub(crate) fn frame_came(&mut self) {
        self.partial = None;
    }

    /// When to look next.
    pub(crate) fn look_at(&self) -> Instant {
        let shortest = self.idle_max.min(self.frame_max).min(self.write_max);
        self.looked + (shortest / 4).clamp(LOOK_MIN, LOOK_MAX)
    }

    /// Why the connection has to end, if it has to.
    pub(crate) fn over(&mut self, is_pressed: bool, now: Instant) -> Option<String> {
        self.looked = now;
        let is_over = |since: Instant, limit: Duration| now.saturating_duration_since(since) >= limit;
        let write_max = if is_pressed { self.write_max.min(PRESSED_WRITE_TIMEOUT) } else { self.write_max };
        if self.is_writing && is_over(self.took, write_max) {
            return Some(format!("no answer was taken for {} ms", write_max.as_millis()));
        }
        if self.partial.is_some_and(|since| is_over(since, self.frame_max)) {
            return Some(format!("a frame did not come whole within {} ms", self.frame_max.as_millis()));
        }
        if !self.is_asking && is_over(self.heard.max(self.answered), self.idle_max) {
            return Some(format!("nothing was asked for {} ms", self.idle_max.as_millis()));
        }
        None
    }
}
