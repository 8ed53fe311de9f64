//! The index: an ordered map of bytes on disk that holds what was applied, behind a trait: sled, fjall, memory.
//!
//! * In: sorted, deduplicated batches of writes, each applied whole or not at all. Out: values, ranges.
//! * `layout` says what the bytes mean; `marker` and `store` decide at start whether what is found may be used.
//! * Invariant: disposable. Whatever is wrong with it, it is wiped and replayed from the log, and the node says so.
//! * Invariant: not believed but checked. `check` verifies everything before it is served, `layout` each entry that is read.
//! * Deliberately absent: snapshots. Iterators of sled are none, so that a consistent page is the view's work.
//! * Source: DESIGN D8; docs/formats.md "Index"; ADR 0009.

pub(crate) mod check;
mod current;
mod fault;
#[cfg(feature = "fjall")]
mod fjall;
mod health;
mod known_history;
pub(crate) mod layout;
mod marker;
mod memory;
mod panics;
mod room;
mod set_hash;
mod sled;
mod store;
#[cfg(test)]
mod tests;

pub use fault::{IndexFault, WipeCause};
pub(crate) use health::IndexHealth;
pub(crate) use known_history::known_history;
#[cfg(test)]
pub(crate) use marker::Marker;
#[cfg(test)]
pub(crate) use memory::MemoryIndex;
pub use panics::abort_on_panic;
pub(crate) use room::IndexRoom;
pub(crate) use set_hash::SetHash;
pub(crate) use store::{IndexStore, StoreConfig};
pub use store::{StoreError, WipeReason};

use bytes::Bytes;
use duramen_common::folder_lock::FolderLock;
use std::ops::{Bound, ControlFlow};

/// Why the index did not do it. Nothing in it is trusted afterwards: it is replaced by a fresh one, and the log replayed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{kind}: {action} failed: {reason}")]
pub struct IndexError {
    /// Which index.
    pub kind: &'static str,
    /// What was tried.
    pub action: &'static str,
    /// What it said.
    pub reason: String,
}

/// Writes that are applied together: keys ascending, each once; `None` removes.
pub type Writes = Vec<(Vec<u8>, Option<Vec<u8>>)>;

/// Is shown each key and value of a range, and says whether to go on.
pub type Visit<'a> = &'a mut dyn FnMut(&[u8], &[u8]) -> ControlFlow<()>;

/// Why a write did not happen, or may not have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WriteError {
    /// What it replaces could not be read, or is damaged. Nothing was written.
    Nothing(IndexFault),
    /// How much of it was written is not known.
    Unknown(IndexError),
}

impl From<IndexError> for WriteError {
    fn from(error: IndexError) -> WriteError {
        WriteError::Unknown(error)
    }
}

impl From<WriteError> for IndexError {
    fn from(error: WriteError) -> IndexError {
        match error {
            WriteError::Unknown(error) | WriteError::Nothing(IndexFault::Engine(error)) => error,
            WriteError::Nothing(fault) => {
                IndexError { kind: "index", action: "reading what is replaced", reason: fault.to_string() }
            }
        }
    }
}

/// Sees what a write replaces, before anything is written, and adds an entry that depends on it.
///
/// An index looks up what it replaces anyway, so that this saves a second look.
pub trait Witness {
    /// Write `number` of the batch replaces or removes this value; `None` where there was none.
    fn replaces(&mut self, number: usize, key: &[u8], old: Option<&[u8]>) -> Result<(), IndexFault>;

    /// One more entry for the batch. Called once, after all of them were shown.
    fn closing(&mut self) -> (Vec<u8>, Vec<u8>);
}

/// Shows a witness what `writes` replace, as `get` finds it, and adds its entry.
fn show(
    witness: &mut dyn Witness,
    writes: &mut Writes,
    mut get: impl FnMut(&[u8]) -> Result<Option<Bytes>, IndexError>,
) -> Result<(), WriteError> {
    for (number, (key, _)) in writes.iter().enumerate() {
        let old = get(key).map_err(|error| WriteError::Nothing(error.into()))?;
        witness.replaces(number, key, old.as_deref()).map_err(WriteError::Nothing)?;
    }
    let (key, value) = witness.closing();
    writes.push((key, Some(value)));
    Ok(())
}

/// An ordered map of bytes.
///
/// 1. `write` is atomic, also across a kill of the process: all of it is found afterwards, or nothing.
/// 2. A finished `write` is seen by every later `get` and `range`.
/// 3. Writes of which nobody called `sync` may be lost when the machine stops, and the files may be damaged then.
/// 4. A witness sees each value that a write replaces as it is before the batch. When it refuses, nothing is written.
/// 5. `range` visits keys in ascending order of bytes; it is no snapshot: the caller keeps writers out.
pub trait Index: Send + Sync + 'static {
    /// A key's value.
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, IndexError>;

    /// Visits keys in order until told to break.
    fn range(&self, start: Bound<&[u8]>, end: Bound<&[u8]>, visit: Visit<'_>) -> Result<(), IndexError>;

    /// Applies writes, all or none, with the entry that the witness adds.
    fn write_seen(&self, writes: Writes, witness: Option<&mut dyn Witness>) -> Result<(), WriteError>;

    /// Applies writes, all or none.
    fn write(&self, writes: Writes) -> Result<(), IndexError> {
        self.write_seen(writes, None).map_err(IndexError::from)
    }

    /// Brings everything written onto the medium.
    fn sync(&self) -> Result<(), IndexError>;

    /// Whether a call may block on a disk.
    fn blocks(&self) -> bool;

    /// Whether a partition is empty once every entry that it shows is removed, however it was damaged.
    fn can_be_emptied(&self) -> bool {
        true
    }
}

/// Before each write: what is written by name must not go into a folder that somebody else has put there.
fn check_folder(kind: &'static str, lock: &FolderLock) -> Result<(), IndexError> {
    lock.check().map_err(|error| IndexError { kind, action: "writing", reason: error.to_string() })
}
