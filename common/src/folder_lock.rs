//! A data folder that one process has: the lock of log nodes, of indexes and of the command line.
//!
//! * The lock is on the folder itself (`flock` of its inode), not on a file in it: whatever is removed inside, and by which
//!   path, symbolic link or bind mount the folder is reached, the second process is refused. The kernel releases it when
//!   the process ends, however that happens.
//! * The file beside it (`LOCK`) names the holder for error messages. It is locked as well, for file systems that cannot
//!   lock a folder (NFS); where folders can be locked, removing it changes nothing.
//! * [`FolderLock::check`]: the folder is still the one under its path. A folder that was moved or removed is not a place
//!   where anything may be promised.
//! * Deliberately absent: a copy of a folder is another folder. Whoever starts one must see to it that the original is down.
//! * Source: ADR 0014.

use crate::planted::{Plant, is_planted};
use rustix::fs::{FlockOperation, Mode, OFlags, flock, fstat, open, stat};
use rustix::io::Errno;
use std::fs::File;
use std::io::{self, Read as _, Seek as _, Write as _};
use std::path::{Path, PathBuf};

/// Why a folder could not be taken.
#[derive(Debug, thiserror::Error)]
pub enum FolderLockError {
    /// Another process has it.
    #[error("{} is in use by another process{}", folder.display(), named(*holder))]
    Held {
        /// The folder.
        folder: PathBuf,
        /// The process, where it has said so.
        holder: Option<u32>,
    },
    /// The operating system refused.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// How a message names the holder of a folder.
#[must_use]
pub fn named(holder: Option<u32>) -> String {
    holder.map_or_else(String::new, |process| format!(" (process {process})"))
}

/// A folder that belongs to this process until this is dropped.
#[derive(Debug)]
pub struct FolderLock {
    path: PathBuf,
    id: FileId,
    /// Held for their locks.
    folder: File,
    note: File,
}

impl FolderLock {
    /// Takes a folder that exists. `note` is the name of the file that says who holds it.
    pub fn take(folder: &Path, note: &str) -> Result<FolderLock, FolderLockError> {
        let file = File::from(open_folder(folder)?);
        let mut note = File::options().read(true).write(true).create(true).truncate(false).open(folder.join(note))?;
        let is_free = match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            _ if is_planted(Plant::LockOnFileOnly) => true,
            Ok(()) => true,
            Err(Errno::WOULDBLOCK) => false,
            // A file system that cannot lock folders: the lock on the file decides.
            Err(Errno::BADF | Errno::INVAL | Errno::NOTSUP | Errno::NOSYS) => true,
            Err(error) => return Err(io::Error::from(error).into()),
        };
        let is_free = is_free
            && match flock(&note, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => true,
                Err(Errno::WOULDBLOCK) => false,
                Err(error) => return Err(io::Error::from(error).into()),
            };
        if !is_free {
            let mut text = String::new();
            // Only for the message: a holder that cannot be read is not named.
            let _ = note.read_to_string(&mut text);
            return Err(FolderLockError::Held { folder: folder.to_path_buf(), holder: text.trim().parse().ok() });
        }
        // On a full disk the note stays empty; the lock holds all the same.
        let _ = note
            .set_len(0)
            .and_then(|()| note.rewind())
            .and_then(|()| note.write_all(format!("{}\n", std::process::id()).as_bytes()));
        let id = FileId::of(&file)?;
        let lock = FolderLock { path: folder.to_path_buf(), id, folder: file, note };
        lock.check()?;
        Ok(lock)
    }

    /// Fails when the folder under the path is not the one that was taken: it was moved, removed or replaced.
    pub fn check(&self) -> io::Result<()> {
        if self.id.is_under(&self.path)? {
            return Ok(());
        }
        let what = format!("{} was moved, removed or replaced while this process uses it", self.path.display());
        Err(io::Error::new(io::ErrorKind::NotFound, what))
    }
}

impl Drop for FolderLock {
    /// Closing the files is not enough: a child process has them too until its program starts.
    fn drop(&mut self) {
        for file in [&self.folder, &self.note] {
            // A file system without locks has nothing to release.
            let _ = flock(file, FlockOperation::Unlock);
        }
    }
}

/// Which file or folder an open one is: the same for as long as it is open, whatever its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileId {
    device: u64,
    inode: u64,
}

impl FileId {
    /// Of an open file or folder.
    pub fn of(file: impl std::os::fd::AsFd) -> io::Result<FileId> {
        let stat = fstat(file)?;
        Ok(FileId { device: stat.st_dev, inode: stat.st_ino })
    }

    /// Whether a path names this very file or folder.
    pub fn is_under(self, path: &Path) -> io::Result<bool> {
        match stat(path) {
            Ok(found) => Ok(self == FileId { device: found.st_dev, inode: found.st_ino }),
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

fn open_folder(folder: &Path) -> io::Result<std::os::fd::OwnedFd> {
    Ok(open(folder, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_held(folder: &Path) -> bool {
        match FolderLock::take(folder, "LOCK") {
            Err(FolderLockError::Held { holder, .. }) => holder.is_none_or(|holder| holder == std::process::id()),
            _ => false,
        }
    }

    #[test]
    fn what_is_removed_in_the_folder_does_not_give_it_away() {
        let above = tempfile::tempdir().unwrap();
        let folder = above.path().join("data");
        std::fs::create_dir(&folder).unwrap();
        let lock = FolderLock::take(&folder, "LOCK").unwrap();
        let refused = FolderLock::take(&folder, "LOCK").unwrap_err().to_string();
        assert!(refused.contains(&format!("(process {})", std::process::id())), "{refused}");
        std::fs::remove_file(folder.join("LOCK")).unwrap();
        assert!(is_held(&folder), "the file was only the note");
        let link = above.path().join("link");
        std::os::unix::fs::symlink(&folder, &link).unwrap();
        assert!(is_held(&link), "another path to the same folder");
        drop(lock);
        assert!(FolderLock::take(&folder, "LOCK").is_ok());
    }

    #[test]
    fn a_copy_of_its_descriptors_does_not_keep_it() {
        let folder = tempfile::tempdir().unwrap();
        let lock = FolderLock::take(folder.path(), "LOCK").unwrap();
        // As a child process has them until its program starts.
        let copies = (lock.folder.try_clone().unwrap(), lock.note.try_clone().unwrap());
        assert!(is_held(folder.path()));
        drop(lock);
        assert!(FolderLock::take(folder.path(), "LOCK").is_ok());
        drop(copies);
    }

    #[test]
    fn a_folder_that_was_moved_or_replaced_is_noticed() {
        let above = tempfile::tempdir().unwrap();
        let (folder, aside) = (above.path().join("data"), above.path().join("aside"));
        std::fs::create_dir(&folder).unwrap();
        let lock = FolderLock::take(&folder, "LOCK").unwrap();
        lock.check().unwrap();
        std::fs::rename(&folder, &aside).unwrap();
        assert!(lock.check().is_err());
        assert!(is_held(&aside), "a moved folder is still held");
        std::fs::create_dir(&folder).unwrap();
        assert!(lock.check().unwrap_err().to_string().contains("moved, removed or replaced"));
    }
}
