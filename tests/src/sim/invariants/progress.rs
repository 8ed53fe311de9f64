//! Invariant 9: after faults stop, the cluster makes progress within bounded time.
//!
//! Progress is: every log node runs and has published everything that any of them has; every serving node is ready and has
//! applied it; and all of it happened after a write to each partition that was begun after the faults had stopped. Where
//! clients leave no such moment for half of the time, what anybody had then is what everybody must reach.

use super::super::violation::Broken;

/// How long recovery may take. Unit: milliseconds of virtual time.
pub const PROGRESS_MS_MAX: u64 = 40_000;

/// Since when the cluster has been left alone.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    since_ms: u64,
}

impl Progress {
    /// Faults stop now.
    #[must_use]
    pub fn begin(now_ms: u64) -> Progress {
        Progress { since_ms: now_ms }
    }

    /// Complains once it has taken too long. `lacks` says what is still missing.
    pub fn check(&self, now_ms: u64, lacks: &str) -> Result<(), Broken> {
        if now_ms - self.since_ms <= PROGRESS_MS_MAX {
            return Ok(());
        }
        Err(Broken::new(9, format!("{PROGRESS_MS_MAX} ms after the last fault: {lacks}")))
    }

    /// How long it has taken by now. Unit: milliseconds.
    #[must_use]
    pub fn took_ms(&self, now_ms: u64) -> u64 {
        now_ms - self.since_ms
    }
}
