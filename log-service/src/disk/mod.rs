//! The disk as the store sees it (DESIGN D13): a seam, so that tests and simulation can lose what was not synced.
//!
//! * `RealDisk` is the operating system's file system. `MemDisk` keeps live and durable bytes apart.
//! * Contract: what `write_at` took is readable at once, and survives a crash only after `sync_data` returned; a file's
//!   name survives only after `sync_dir` of its folder. After a failed sync nothing is known about what was written.
//! * Deliberately absent: buffering, retries, formats.

mod mem;
mod patient;
mod real;

pub use mem::{DiskCall, MemDisk};
pub use patient::{PatientDisk, SHORTAGE_WAIT_MAX};
pub use real::RealDisk;

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// A file system.
pub trait Disk: Send + Sync + 'static {
    /// Makes a folder and those above it, durably.
    fn create_dir_all(&self, folder: &Path) -> io::Result<()>;
    /// Opens a file for reading and writing; `create` makes it (empty) when it is not there.
    fn open(&self, path: &Path, create: bool) -> io::Result<Arc<dyn DiskFile>>;
    /// Names of the files in a folder, sorted.
    fn list(&self, folder: &Path) -> io::Result<Vec<String>>;
    /// Moves a file, replacing what has the new name.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Moves a file to a name that nothing has; `AlreadyExists` when something has it.
    fn rename_new(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Makes names in a folder durable.
    fn sync_dir(&self, folder: &Path) -> io::Result<()>;
    /// Takes a folder exclusively: the folder itself, so that no file that is removed gives it away. Dropping the guard
    /// releases it.
    fn lock(&self, folder: &Path) -> io::Result<Claim>;
    /// Bytes that can still be written in the file system of a folder.
    fn free_bytes(&self, folder: &Path) -> io::Result<u64>;
    /// How long the next round of writing and syncing takes where time is simulated. A real disk takes the time itself.
    fn delay(&self) -> Duration {
        Duration::ZERO
    }
    /// Since when calls have been waiting because the system is short of descriptors or memory.
    fn short_since(&self) -> Option<Instant> {
        None
    }
    /// How many calls have waited for that.
    fn shortages(&self) -> u64 {
        0
    }
}

/// An open file. Positions and lengths are bytes.
#[expect(clippy::len_without_is_empty, reason = "a file is not a collection; its length can fail")]
pub trait DiskFile: Send + Sync + 'static {
    /// Reads up to `buffer.len()` bytes; fewer only at the end of the file.
    fn read_at(&self, buffer: &mut [u8], position: u64) -> io::Result<usize>;
    /// Writes all slices one behind the other.
    fn write_at(&self, slices: &[&[u8]], position: u64) -> io::Result<()>;
    /// Waits until everything written so far is on the medium.
    fn sync_data(&self) -> io::Result<()>;
    /// Makes room up to `length`, zero-filled; the file is at least that long afterwards.
    fn allocate(&self, length: u64) -> io::Result<()>;
    /// Cuts the file, or extends it with zeros.
    fn set_len(&self, length: u64) -> io::Result<()>;
    /// Its length.
    fn len(&self) -> io::Result<u64>;
    /// Whether a path names this very file, and no other one.
    fn is_named(&self, path: &Path) -> io::Result<bool>;
}

/// What came of taking a folder.
pub enum Claim {
    /// It is ours.
    Taken(DiskLock),
    /// Another process has it.
    Held {
        /// Its number, where it has said so.
        holder: Option<u32>,
    },
}

/// Holds a folder until dropped.
pub struct DiskLock(Box<dyn HeldFolder>);

trait HeldFolder: Send + Sync {
    fn check(&self) -> io::Result<()>;
}

impl DiskLock {
    /// Fails when the folder under the path is not the one that was taken: it was moved, removed or replaced.
    pub fn check(&self) -> io::Result<()> {
        self.0.check()
    }
}
