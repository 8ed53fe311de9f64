//! Descriptors of segment files: those that are written are open, of the others a bounded number.
//!
//! * In: a segment's path. Out: an open file, for as long as somebody holds it.
//! * A log has as many segments as its history is long; a process has few descriptors. A segment that is only read is
//!   opened when it is read, and the one that was opened first is closed when too many are open.
//! * Invariant: a file that is written, or whose name is about to go while somebody reads it, stays open.
//! * Source: docs/adr/0015-files-are-a-budget.md.

use crate::disk::{Disk, DiskFile};
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};

/// How many files of closed segments a store keeps open, and which.
pub struct OpenFiles {
    max: usize,
    /// Those that are open, in the order in which they were opened.
    order: Mutex<VecDeque<Weak<Slot>>>,
}

/// One segment's file.
pub struct Handle {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    slot: Arc<Slot>,
    files: Arc<OpenFiles>,
}

#[derive(Default)]
struct Slot(Mutex<Held>);

#[derive(Default)]
enum Held {
    #[default]
    Closed,
    /// Until others are read.
    Open(Arc<dyn DiskFile>),
    /// Until the segment is dropped, or settled.
    Kept(Arc<dyn DiskFile>),
}

impl OpenFiles {
    /// A bounded number.
    #[must_use]
    pub fn new(max: usize) -> Arc<OpenFiles> {
        Arc::new(OpenFiles { max, order: Mutex::default() })
    }

    /// Notes a slot that was just opened; closes the ones opened first.
    fn note(&self, slot: &Arc<Slot>) {
        let mut order = self.order.lock();
        order.push_back(Arc::downgrade(slot));
        let mut surplus = Vec::new();
        while order.len() > self.max
            && let Some(first) = order.pop_front()
        {
            surplus.extend(first.upgrade());
        }
        drop(order);
        surplus.iter().for_each(|slot| slot.close());
    }
}

impl Slot {
    fn close(&self) {
        let mut held = self.0.lock();
        if matches!(*held, Held::Open(_)) {
            *held = Held::Closed;
        }
    }
}

impl Handle {
    /// A file that is open and stays so.
    pub fn kept(disk: &Arc<dyn Disk>, path: &Path, files: &Arc<OpenFiles>, file: Arc<dyn DiskFile>) -> Handle {
        let handle = Handle::closed(disk, path, files);
        *handle.slot.0.lock() = Held::Kept(file);
        handle
    }

    /// A file that is opened when it is read.
    pub fn closed(disk: &Arc<dyn Disk>, path: &Path, files: &Arc<OpenFiles>) -> Handle {
        let slot = Arc::new(Slot::default());
        Handle { disk: Arc::clone(disk), path: path.to_path_buf(), slot, files: Arc::clone(files) }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The open file.
    pub fn file(&self) -> io::Result<Arc<dyn DiskFile>> {
        let mut held = self.slot.0.lock();
        if let Held::Open(file) | Held::Kept(file) = &*held {
            return Ok(Arc::clone(file));
        }
        let file = self.disk.open(&self.path, false)?;
        *held = Held::Open(Arc::clone(&file));
        drop(held);
        self.files.note(&self.slot);
        Ok(file)
    }

    /// From now on the file is only read.
    pub fn settle(&self) {
        let mut held = self.slot.0.lock();
        let Held::Kept(file) = std::mem::take(&mut *held) else { return };
        *held = Held::Open(file);
        drop(held);
        self.files.note(&self.slot);
    }

    /// Keeps the file open for those who read it, because its name is about to go.
    pub fn keep(&self) -> io::Result<()> {
        let file = self.file()?;
        *self.slot.0.lock() = Held::Kept(file);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::MemDisk;

    fn is_open(handle: &Handle) -> bool {
        !matches!(*handle.slot.0.lock(), Held::Closed)
    }

    /// Goal: however many segments there are, a bounded number is open, each can be read, and what is kept stays open.
    #[test]
    fn few_files_are_open_and_all_can_be_read() {
        let disk: Arc<dyn Disk> = Arc::new(MemDisk::default());
        let folder = Path::new("/log");
        disk.create_dir_all(folder).unwrap();
        let files = OpenFiles::new(3);
        let made = |number: u8| {
            let path = folder.join(number.to_string());
            let file = disk.open(&path, true).unwrap();
            file.write_at(&[&[number]], 0).unwrap();
            (path, file)
        };
        let (path, file) = made(99);
        let kept = Handle::kept(&disk, &path, &files, file);
        let closed: Vec<Handle> = (0..10).map(|number| Handle::closed(&disk, &made(number).0, &files)).collect();
        for round in 0..3 {
            for (number, handle) in closed.iter().enumerate() {
                let mut byte = [0];
                handle.file().unwrap().read_at(&mut byte, 0).unwrap();
                assert_eq!(usize::from(byte[0]), number, "round {round}");
                assert!(closed.iter().filter(|handle| is_open(handle)).count() <= 3);
            }
        }
        assert!(is_open(&kept));
        kept.settle();
        assert!(is_open(&kept), "it was opened last");
        closed.iter().for_each(|handle| drop(handle.file().unwrap()));
        assert!(!is_open(&kept));
        closed[0].keep().unwrap();
        closed.iter().for_each(|handle| drop(handle.file().unwrap()));
        assert!(is_open(&closed[0]));
        disk.remove(closed[0].path()).unwrap();
        assert!(closed[0].file().is_ok(), "who reads it goes on reading it");
    }
}
