//! The mark that damage was met in a partition's files, so that the next start reads every byte of them.
//!
//! * Why: a start reads the last segment only; damage in an older one is met by a reader, in a run that cannot repair it
//!   because its group is running.
//! * Invariant: the mark goes only after the partition was found whole.
//! * Source: DESIGN D2; ADR 0003.

use super::StoreError;
use super::repair::damage;
use super::types::Damage;
use super::writer::Place;

/// The mark: an empty file in the partition's folder.
pub(super) const SUSPECT: &str = "SUSPECT";

/// Leaves the mark, durably.
pub(super) fn mark(place: &Place) -> Result<(), StoreError> {
    let path = place.folder.join(SUSPECT);
    let file = place.io("making", &path, place.disk.open(&path, true))?;
    place.io("syncing", &path, file.sync_data())?;
    place.io("syncing", &place.folder, place.disk.sync_dir(&place.folder))
}

/// Where a marked partition is damaged; a whole one loses its mark.
pub(super) fn examine(place: &Place) -> Result<Option<Damage>, StoreError> {
    let names = place.io("listing", &place.folder, place.disk.list(&place.folder))?;
    if !names.iter().any(|name| name == SUSPECT) {
        return Ok(None);
    }
    tracing::warn!(partition = %place.partition, "damage was met here: every byte of this partition is being verified");
    let found = damage(place)?;
    if found.is_none() {
        let path = place.folder.join(SUSPECT);
        place.io("removing", &path, place.disk.remove(&path))?;
        place.io("syncing", &place.folder, place.disk.sync_dir(&place.folder))?;
    }
    Ok(found)
}
