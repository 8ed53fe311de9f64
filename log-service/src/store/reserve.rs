//! Reserve: the space that is kept for what must go on when the disk is full, and the question whether there is room.
//!
//! * `reserve_bytes` of the disk are not for records. A quarter of them ([`CONTROL_SHARE`]) is a file, so that no other program
//!   can take it: [`Reserve::give`] cuts a piece of the file when the disk refuses what the store must write (votes, marks,
//!   blank entries, a segment's start, records that were admitted before). It grows again once the whole reserve is free.
//! * Invariant: new records are admitted only while the file is whole and the rest of the reserve is free. This also covers quotas,
//!   which the free space of a file system does not show.
//! * Deliberately absent: waiting. What happens when the file is used up: `sync`.
//! * Source: docs/adr/0019-a-full-disk.md.

use super::StoreError;
use crate::disk::{Disk, DiskFile};
use duramen_common::shortage::is_no_space;
use parking_lot::Mutex;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The file's name in the data folder.
pub const RESERVE_FILE: &str = "reserve";
/// One part in so many of the reserve is held as a file, for what needs next to no room.
pub const CONTROL_SHARE: u64 = 4;
/// In so many pieces the file is given back.
const PIECES: u64 = 64;
/// No piece is smaller. Unit: bytes.
const PIECE_BYTES_MIN: u64 = 4096;
/// Zeros written at once where the file system cannot reserve. Unit: bytes.
static ZEROS: [u8; 64 * 1024] = [0; 64 * 1024];

/// What room is needed for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// Records that a client asks for now.
    New,
    /// Records that were on their way when the disk became full, and those of the cluster's own log.
    InFlight,
    /// Records that were admitted by an earlier leader, and what the cluster writes for itself: later entries can only follow
    /// once these are taken.
    Admitted,
}

/// The reserve of one store.
pub struct Reserve {
    disk: Arc<dyn Disk>,
    folder: PathBuf,
    reserve_bytes: u64,
    held: Mutex<Held>,
}

#[derive(Default)]
struct Held {
    file: Option<Arc<dyn DiskFile>>,
    bytes: u64,
}

impl Reserve {
    /// Takes what a store's folder holds of it, and the rest if there is room.
    pub fn open(disk: Arc<dyn Disk>, folder: &Path, reserve_bytes: u64) -> Result<Arc<Reserve>, StoreError> {
        let folder = folder.to_path_buf();
        let reserve = Reserve { disk, folder, reserve_bytes, held: Mutex::default() };
        let path = reserve.path();
        match reserve.fill() {
            Err(error) if !is_no_space(&error) => Err(StoreError::io("reserving space in", &path, error)),
            _ => Ok(Arc::new(reserve)),
        }
    }

    fn path(&self) -> PathBuf {
        self.folder.join(RESERVE_FILE)
    }

    /// Length of the whole file. Unit: bytes.
    fn file_bytes(&self) -> u64 {
        self.reserve_bytes / CONTROL_SHARE
    }

    /// What is given at once; half of it is what a segment may take ahead when there is no room for a whole one. Unit: bytes.
    pub fn piece_bytes(&self) -> u64 {
        (self.file_bytes() / PIECES).max(PIECE_BYTES_MIN)
    }

    /// Whether there is room.
    pub fn has_room(&self, need: Need) -> bool {
        let held = self.held.lock().bytes;
        let Ok(free) = self.disk.free_bytes(&self.folder) else { return false };
        if self.reserve_bytes == 0 {
            return true;
        }
        match need {
            Need::New => held >= self.file_bytes() && free.saturating_add(held) >= self.reserve_bytes,
            Need::InFlight => held > 0 && free >= self.file_bytes(),
            // The rest of the file is for what needs next to no room.
            Need::Admitted => held > self.file_bytes() / 2 || (held > 0 && free >= self.file_bytes()),
        }
    }

    /// Gives a piece of the file back to the disk; false when there is none left.
    pub fn give(&self) -> bool {
        let mut held = self.held.lock();
        let left = held.bytes.saturating_sub(self.piece_bytes());
        let Some(file) = held.file.as_ref().filter(|_| held.bytes > 0) else { return false };
        if file.set_len(left).is_err() {
            return false;
        }
        if held.bytes >= self.file_bytes() {
            tracing::warn!(folder = %self.folder.display(), "the disk is full: the reserve is used for what must go on");
        }
        held.bytes = left;
        true
    }

    /// Makes the file whole again if the whole reserve is free.
    pub fn refill(&self) {
        if self.held.lock().bytes >= self.file_bytes() {
            return;
        }
        match self.fill() {
            Ok(()) => {}
            Err(error) => tracing::debug!(folder = %self.folder.display(), %error, "the reserve is not whole yet"),
        }
    }

    fn fill(&self) -> io::Result<()> {
        let wanted = self.file_bytes();
        let mut held = self.held.lock();
        if wanted == 0 {
            return Ok(());
        }
        if held.file.is_none() {
            let file = self.disk.open(&self.path(), true)?;
            let length = file.len()?;
            if length > wanted {
                file.set_len(wanted)?;
            }
            *held = Held { bytes: length.min(wanted), file: Some(file) };
        }
        let Held { file: Some(file), bytes } = &mut *held else { return Ok(()) };
        if *bytes >= wanted || self.disk.free_bytes(&self.folder)?.saturating_add(*bytes) < self.reserve_bytes {
            return Ok(());
        }
        let filled = fill_up(&**file, wanted);
        if filled.is_err() {
            // What was taken of a last rest is of no use here.
            file.set_len(*bytes)?;
        } else {
            *bytes = wanted;
        }
        filled
    }
}

/// Extends a file to a length, with blocks that are its own.
fn fill_up(file: &dyn DiskFile, wanted: u64) -> io::Result<()> {
    file.allocate(wanted)?;
    let mut length = file.len()?;
    while length < wanted {
        let piece = ZEROS.get(..(wanted - length).min(ZEROS.len() as u64) as usize).unwrap_or(&ZEROS);
        file.write_at(&[piece], length)?;
        length += piece.len() as u64;
    }
    Ok(())
}
