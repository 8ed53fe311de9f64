//! What a node says about its index: wipes by cause, how far the check at start is, what was scrubbed. One per node, made
//! before the index is opened, so that a start can be watched.

use super::check::CheckProgress;
use super::fault::WipeCause;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The counters.
#[derive(Debug, Default)]
pub(crate) struct IndexHealth {
    wipes: [AtomicU64; WipeCause::ALL.len()],
    pub check: Arc<CheckProgress>,
    scrubs: AtomicU64,
    scrubbed: AtomicU64,
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
