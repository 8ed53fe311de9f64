//! What a node says about its index: wipes by cause, how far the check at start is, what was scrubbed, whether its disk is
//! full. One per node, made before the index is opened, so that a start can be watched.

use super::check::CheckProgress;
use super::fault::WipeCause;
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tokio::time::Instant;

/// The counters.
#[derive(Debug, Default)]
pub(crate) struct IndexHealth {
    wipes: [AtomicU64; WipeCause::ALL.len()],
    pub check: Arc<CheckProgress>,
    scrubs: AtomicU64,
    scrubbed: AtomicU64,
    waits_for_space: AtomicBool,
    flushing_since: Mutex<Option<Instant>>,
    cannot_open: Mutex<Option<String>>,
}

impl IndexHealth {
    /// Counts a wipe of one partition, or of the whole index.
    pub(crate) fn count_wipe(&self, cause: WipeCause) {
        self.wipes[cause as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Wipes for a cause since the start.
    pub(crate) fn wipes(&self, cause: WipeCause) -> u64 {
        self.wipes[cause as usize].load(Ordering::Relaxed)
    }

    /// Whether the index's disk has too little room for a flush.
    pub(crate) fn waits_for_space(&self) -> bool {
        self.waits_for_space.load(Ordering::Relaxed)
    }

    /// Sets that; says what it was before.
    pub(super) fn set_waiting_for_space(&self, waits: bool) -> bool {
        self.waits_for_space.swap(waits, Ordering::Relaxed)
    }

    /// Why the index cannot be opened now, while that is so.
    pub(crate) fn cannot_open(&self) -> Option<String> {
        self.cannot_open.lock().clone()
    }

    /// Sets that.
    pub(crate) fn set_cannot_open(&self, why: Option<String>) {
        *self.cannot_open.lock() = why;
    }

    /// A flush begins, or is over.
    pub(crate) fn set_flushing(&self, is_flushing: bool) {
        *self.flushing_since.lock() = is_flushing.then(Instant::now);
    }

    /// How long the flush that is under way has taken so far; zero without one.
    pub(crate) fn flushing_for(&self) -> Duration {
        self.flushing_since.lock().map_or(Duration::ZERO, |since| since.elapsed())
    }

    /// Counts a scrub of all partitions.
    pub(crate) fn count_scrub(&self) {
        self.scrubs.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts entries that a scrub has found good.
    pub(crate) fn count_scrubbed(&self, entries: u64) {
        self.scrubbed.fetch_add(entries, Ordering::Relaxed);
    }

    /// Finished scrubs, and entries scrubbed, since the start.
    pub(crate) fn scrubbed(&self) -> (u64, u64) {
        (self.scrubs.load(Ordering::Relaxed), self.scrubbed.load(Ordering::Relaxed))
    }
}
