//! What can be wrong with an index that opened: it failed, an entry is not what was written, entries are missing.
//!
//! * In: errors of the index, checks of what it gives. Out: one type that says how much of the index must go.
//! * Source: DESIGN D8; ADR 0012.

use super::{Index, IndexError};

/// Why what an index holds cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IndexFault {
    /// The index itself failed. Nothing in it is trusted any more.
    #[error(transparent)]
    Engine(#[from] IndexError),
    /// An entry is there, and it is not what was written under its key.
    #[error("{what} does not match its checksum")]
    Checksum {
        /// What kind of entry.
        what: &'static str,
    },
    /// An entry stands where a read of its key does not find it.
    #[error("a key is not found where it stands")]
    Misplaced,
    /// Every entry is good, and they are not the set that the last flush left: some are missing, older, or of before.
    #[error("it holds {found} entries, and not the {expected} that were last written")]
    Incomplete {
        /// Entries found.
        found: u64,
        /// Entries that the partition's meta entry speaks of; 0 without one.
        expected: u64,
    },
}

/// Causes of a wipe, for the metric `duramen_index_wipes_total`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum WipeCause {
    /// It was not opened at all: of another history, kind or format, or left in a state that is not trusted.
    Start,
    /// It does not open, a call to it failed, or a write to it did.
    Engine,
    /// An entry does not match its checksum.
    Checksum,
    /// Entries are missing, older or too many.
    Incomplete,
}

impl WipeCause {
    /// All of them.
    pub const ALL: [WipeCause; 4] = [WipeCause::Start, WipeCause::Engine, WipeCause::Checksum, WipeCause::Incomplete];

    /// Its name, as the metric has it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            WipeCause::Start => "start",
            WipeCause::Engine => "engine",
            WipeCause::Checksum => "checksum",
            WipeCause::Incomplete => "incomplete",
        }
    }
}

impl IndexFault {
    /// Which cause a wipe for this counts under.
    #[must_use]
    pub fn cause(&self) -> WipeCause {
        match self {
            IndexFault::Engine(_) => WipeCause::Engine,
            IndexFault::Checksum { .. } => WipeCause::Checksum,
            IndexFault::Incomplete { .. } | IndexFault::Misplaced => WipeCause::Incomplete,
        }
    }

    /// Whether the index as a whole must be replaced, not only what it holds of one partition. Where entries are missing or
    /// misplaced, what they stood in is damaged, and nobody knows how far.
    #[must_use]
    pub(crate) fn is_of_the_whole(&self, index: &dyn Index) -> bool {
        match self {
            IndexFault::Engine(_) => true,
            IndexFault::Incomplete { .. } | IndexFault::Misplaced => !index.can_be_emptied(),
            IndexFault::Checksum { .. } => false,
        }
    }

    /// Whether a read failed for want of descriptors, memory or space: it says nothing about the index, and may work next time.
    #[must_use]
    pub fn is_passing(&self) -> bool {
        matches!(self, IndexFault::Engine(error) if error.is_passing())
    }

    /// Whether the disk is full, or a quota used up.
    #[must_use]
    pub fn is_of_full_disk(&self) -> bool {
        matches!(self, IndexFault::Engine(error) if error.is_of_full_disk())
    }
}

/// An index says only in words what the operating system said.
impl IndexError {
    /// As [`IndexFault::is_passing`].
    #[must_use]
    pub fn is_passing(&self) -> bool {
        self.says(&["Too many open files", "Cannot allocate memory", "Resource temporarily unavailable"])
            || self.is_of_full_disk()
    }

    /// As [`IndexFault::is_of_full_disk`].
    #[must_use]
    pub fn is_of_full_disk(&self) -> bool {
        self.says(&["No space left on device", "Disk quota exceeded"])
    }

    fn says(&self, reasons: &[&str]) -> bool {
        reasons.iter().any(|reason| self.reason.contains(reason))
    }
}
