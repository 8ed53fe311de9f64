//! When the index is copied into a fresh folder, because sled gives space back too late or never. Pure.
//!
//! * sled reuses a part of its file once half of it is dead, and hardly ever cuts the file: after overwrites it has up to
//!   five times what is stored, after deletes any number of times.
//! * While writes are heavy a copy would cost them, so that it waits until the file is [`MULTIPLE_BUSY`] times what is
//!   stored; when they are calm, [`MULTIPLE`] times.
//! * Invariant: between two copies as much is written or removed as the next one copies, or the file has doubled: copying
//!   costs at most as much again as the writes did.
//! * Source: ADR 0013.

/// The file may have this many times what is stored, and [`FREE_BYTES`].
pub(super) const MULTIPLE: u64 = 3;
/// The same while writes are heavy.
pub(super) const MULTIPLE_BUSY: u64 = 6;
/// What the file may have beyond a multiple of what is stored: an empty index has a few segments. Unit: bytes.
pub(super) const FREE_BYTES: u64 = 8 << 20;
/// Writes are calm below this many bytes between two looks.
pub(super) const CALM_BYTES: u64 = 256 << 10;
/// A copy is begun only where the disk has room for this many times what is stored.
pub(super) const ROOM_MULTIPLE: u64 = 4;

/// What a look finds. Unit: bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Look {
    /// Of the folder's files.
    pub size: u64,
    /// What is stored.
    pub live: u64,
    /// Written and removed since the last copy.
    pub churned: u64,
    /// The same since the last look.
    pub churned_now: u64,
    /// Of the folder's files after the last copy, or when it was opened.
    pub size_before: u64,
}

impl Look {
    /// Whether to copy now.
    pub fn is_due(self) -> bool {
        let pays = self.churned >= self.live || self.size >= self.size_before.saturating_mul(2);
        let is_over = |multiple: u64| self.size > self.live.saturating_mul(multiple).saturating_add(FREE_BYTES);
        pays && (is_over(MULTIPLE_BUSY) || (self.churned_now < CALM_BYTES && is_over(MULTIPLE)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_is_made_when_it_pays_and_does_not_disturb() {
        const MIB: u64 = 1 << 20;
        let look = Look { size: 70 * MIB, live: 20 * MIB, churned: 20 * MIB, churned_now: 0, size_before: 70 * MIB };
        assert!(look.is_due());
        assert!(!Look { size: 68 * MIB, ..look }.is_due(), "three times and 8 MiB are allowed");
        assert!(!Look { churned_now: MIB, ..look }.is_due(), "writes are heavy");
        assert!(Look { churned_now: MIB, size: 129 * MIB, ..look }.is_due(), "six times is too much at any time");
        assert!(!Look { churned: 19 * MIB, ..look }.is_due(), "it was copied just now");
        assert!(Look { churned: MIB, size_before: 35 * MIB, ..look }.is_due(), "the file has doubled");
        assert!(Look { live: 0, churned: 0, size: 9 * MIB, ..look }.is_due(), "everything was removed");
    }
}
