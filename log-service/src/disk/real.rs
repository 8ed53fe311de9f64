//! The operating system's file system.
//!
//! * Positional reads and gathered writes, `fdatasync`, `posix_fallocate`-like reservation, all through rustix.
//! * Invariant: every write is whole or an error; short writes are continued.
//! * Deliberately absent: caching of descriptors, direct I/O.

use super::{Claim, Disk, DiskFile, DiskLock, HeldFolder};
use duramen_common::folder_lock::{FileId, FolderLock, FolderLockError};
use rustix::fs::{CWD, FallocateFlags, RenameFlags};
use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;

/// Slices handed to one system call; the kernel takes 1024.
const SLICES_MAX: usize = 512;
/// The file of a data folder that names the process which has it.
const HOLDER_NOTE: &str = "LOCK";

/// The real one.
#[derive(Clone, Copy, Debug, Default)]
pub struct RealDisk;

impl Disk for RealDisk {
    fn create_dir_all(&self, folder: &Path) -> io::Result<()> {
        let parent = folder.parent().filter(|parent| !parent.as_os_str().is_empty());
        if !folder.is_dir() {
            if let Some(parent) = parent {
                self.create_dir_all(parent)?;
            }
            match std::fs::create_dir(folder) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                _ => {}
            }
        }
        // Also for one that is there: whoever made it may have been killed before its name was durable. The folder above
        // may be one that we must not read, at the root of what was given to us; then it is not ours to make durable.
        match self.sync_dir(parent.unwrap_or(Path::new("."))) {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(()),
            result => result,
        }
    }

    fn open(&self, path: &Path, create: bool) -> io::Result<Arc<dyn DiskFile>> {
        let file = OpenOptions::new().read(true).write(true).create(create).truncate(false).open(path)?;
        let id = FileId::of(&file)?;
        Ok(Arc::new(RealFile { file, id }))
    }

    fn list(&self, folder: &Path) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(folder)? {
            let entry = entry?;
            if entry.file_type()?.is_file()
                && let Ok(name) = entry.file_name().into_string()
            {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::rename(from, to)
    }

    fn rename_new(&self, from: &Path, to: &Path) -> io::Result<()> {
        match rustix::fs::renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
            Ok(()) => Ok(()),
            // Some file systems cannot: then it is looked for, which the folder's lock makes as good.
            Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS | rustix::io::Errno::NOTSUP) => {
                if std::fs::exists(to)? {
                    return Err(io::ErrorKind::AlreadyExists.into());
                }
                std::fs::rename(from, to)
            }
            Err(error) => Err(error.into()),
        }
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        std::fs::remove_file(path)
    }

    fn sync_dir(&self, folder: &Path) -> io::Result<()> {
        File::open(folder)?.sync_all()
    }

    fn lock(&self, folder: &Path) -> io::Result<Claim> {
        match FolderLock::take(folder, HOLDER_NOTE) {
            Ok(lock) => Ok(Claim::Taken(DiskLock(Box::new(lock)))),
            Err(FolderLockError::Held { holder, .. }) => Ok(Claim::Held { holder }),
            Err(FolderLockError::Io(error)) => Err(error),
        }
    }

    fn free_bytes(&self, folder: &Path) -> io::Result<u64> {
        let stat = rustix::fs::statvfs(folder)?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }
}

impl HeldFolder for FolderLock {
    fn check(&self) -> io::Result<()> {
        FolderLock::check(self)
    }
}

struct RealFile {
    file: File,
    id: FileId,
}

impl DiskFile for RealFile {
    fn read_at(&self, buffer: &mut [u8], position: u64) -> io::Result<usize> {
        let mut done = 0;
        while let Some(rest) = buffer.get_mut(done..).filter(|rest| !rest.is_empty()) {
            match self.file.read_at(rest, position + done as u64) {
                Ok(0) => break,
                Ok(count) => done += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }

    fn write_at(&self, slices: &[&[u8]], mut position: u64) -> io::Result<()> {
        let mut slices: Vec<IoSlice<'_>> = slices.iter().map(|slice| IoSlice::new(slice)).collect();
        let mut rest = &mut slices[..];
        IoSlice::advance_slices(&mut rest, 0);
        while !rest.is_empty() {
            let group = rest.get(..rest.len().min(SLICES_MAX)).unwrap_or_default();
            match rustix::io::pwritev(&self.file, group, position) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => {
                    position += count as u64;
                    IoSlice::advance_slices(&mut rest, count);
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn allocate(&self, length: u64) -> io::Result<()> {
        match rustix::fs::fallocate(&self.file, FallocateFlags::empty(), 0, length) {
            Ok(()) => Ok(()),
            // Some file systems cannot reserve: then writes find out by themselves.
            Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.file.set_len(length)
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn is_named(&self, path: &Path) -> io::Result<bool> {
        self.id.is_under(path)
    }
}
