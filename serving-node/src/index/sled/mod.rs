//! sled 0.34.7 as an index: a map in a folder of its own, copied into a fresh folder when the file has grown too large.
//!
//! * `map` is what readers and writers use; `pieces` says what the bytes mean; `space` decides when to copy, `copying` does.
//! * A write takes a lock of the whole process, which readers share: batches are large, so reads of what is not in the
//!   overlay wait for one now and then.
//! * Folders are numbered, and the file `current` names the one that counts. A copy is whole and on the medium before it is
//!   named; one that is not named is removed when the index is opened.
//! * While a copy grows, writes go to both, as far as the copy has come. A copy that fails is given up and tried again later:
//!   the index itself has lost nothing.
//! * Source: DESIGN D8; ADR 0009, ADR 0013.

mod copying;
mod map;
mod pieces;
mod space;
#[cfg(test)]
mod tests;

use self::copying::FreshCopy;
use self::map::{Map, MapConfig, Written};
use self::pieces::Tally;
use super::panics::caught;
use super::{Index, IndexError, Visit, Witness, WriteError, Writes};
use bytes::Bytes;
use duramen_common::folder_lock::FolderLock;
use parking_lot::{Condvar, Mutex, RwLock};
use std::fs::File;
use std::io::{self, Write as _};
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Names the folder that counts.
const CURRENT: &str = "current";

pub(super) struct SledIndex {
    inner: Arc<Inner>,
    copier: Option<std::thread::JoinHandle<()>>,
}

struct Inner {
    root: PathBuf,
    config: MapConfig,
    map: RwLock<Arc<Map>>,
    writer: Mutex<Writer>,
    /// What the copier met: every call fails with it from then on, so that the index is replaced.
    damage: RwLock<Option<IndexError>>,
    stop: Mutex<bool>,
    stopped: Condvar,
    /// The last field, so that the maps are closed before the folder is given up.
    lock: Arc<FolderLock>,
}

/// What belongs to whoever writes: one at a time.
struct Writer {
    /// The number of the folder that counts.
    number: u64,
    /// Of the map that counts.
    tally: Tally,
    copy: Option<FreshCopy>,
    /// As [`Look::churned`].
    churned: u64,
    churned_now: u64,
    size_before: u64,
}

fn file_failed(action: &'static str) -> impl FnOnce(io::Error) -> IndexError {
    move |error| IndexError { kind: "sled", action, reason: error.to_string() }
}

fn copying_failed(reason: &str) -> IndexError {
    IndexError { kind: "sled", action: "copying", reason: reason.to_owned() }
}

impl SledIndex {
    pub(super) fn open(
        root: &Path,
        cache_bytes: u64,
        flush_every_ms: u64,
        lock: Arc<FolderLock>,
    ) -> Result<SledIndex, IndexError> {
        let config = MapConfig { cache_bytes, flush_every_ms };
        std::fs::create_dir_all(root).map_err(file_failed("opening"))?;
        let number = current(root)?;
        remove_others(root, number).map_err(file_failed("removing what a copy left"))?;
        let folder = root.join(number.to_string());
        let (map, tally) = Map::open(&folder, config)?;
        let size_before = size_of(&folder);
        // What was churned before is not known: it may be enough.
        let churned = tally.live_bytes;
        let writer = Writer { number, tally, copy: None, churned, churned_now: 0, size_before };
        let inner = Arc::new(Inner {
            root: root.to_path_buf(),
            config,
            map: RwLock::new(Arc::new(map)),
            writer: Mutex::new(writer),
            damage: RwLock::new(None),
            stop: Mutex::new(false),
            stopped: Condvar::new(),
            lock,
        });
        let copier = {
            let inner = Arc::clone(&inner);
            let thread = std::thread::Builder::new().name("index-space".to_owned());
            thread.spawn(move || inner.keep_small()).map_err(file_failed("starting a thread"))?
        };
        Ok(SledIndex { inner, copier: Some(copier) })
    }
}

impl Drop for SledIndex {
    fn drop(&mut self) {
        *self.inner.stop.lock() = true;
        self.inner.stopped.notify_all();
        if let Some(copier) = self.copier.take() {
            // A panic has been printed.
            let _ = copier.join();
        }
    }
}

impl Inner {
    fn map(&self) -> Arc<Map> {
        Arc::clone(&self.map.read())
    }

    fn write(&self, writes: Writes, witness: Option<&mut dyn Witness>) -> Result<(), WriteError> {
        super::check_folder("sled", &self.lock)?;
        self.check_copied()?;
        let mut writer = self.writer.lock();
        let writer = &mut *writer;
        let behind = writer.copy.as_ref().map(|copy| copy.has_reached(&writes));
        let Written { churned, closing } = self.map().write(&mut writer.tally, writes, witness)?;
        writer.churned += churned;
        writer.churned_now += churned;
        if let (Some(copy), Some(mut behind)) = (&mut writer.copy, behind) {
            behind.extend(closing.into_iter().map(|(key, value)| (key, Some(value))).filter(|(key, _)| copy.has(key)));
            if !behind.is_empty()
                && let Err(error) = copy.map.write(&mut copy.tally, behind, None)
            {
                tracing::warn!(?error, "the copy of the index is given up");
                writer.give_up_copy();
            }
        }
        Ok(())
    }

    /// Fails once the copier has met damage: what it met is damage for everybody.
    fn check_copied(&self) -> Result<(), IndexError> {
        self.damage.read().clone().map_or(Ok(()), Err)
    }
}

impl Writer {
    /// Closing it may panic, where its disk fails.
    fn give_up_copy(&mut self) {
        let copy = self.copy.take();
        let _ = caught(move || drop(copy));
    }
}

/// The number of the folder that counts.
fn current(root: &Path) -> Result<u64, IndexError> {
    match std::fs::read_to_string(root.join(CURRENT)) {
        Ok(text) => match text.trim().parse() {
            Ok(number) if root.join(format!("{number}")).is_dir() => Ok(number),
            Ok(_) | Err(_) => Err(IndexError {
                kind: "sled",
                action: "opening",
                reason: format!("the file {CURRENT} names no folder: {text:?}"),
            }),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(1),
        Err(error) => Err(file_failed("opening")(error)),
    }
}

fn write_current(root: &Path, number: u64) -> io::Result<()> {
    let aside = root.join(format!("{CURRENT}.new"));
    let mut file = File::create(&aside)?;
    file.write_all(format!("{number}\n").as_bytes())?;
    file.sync_all()?;
    std::fs::rename(&aside, root.join(CURRENT))?;
    // It counts from here on. After a power cut the index is not believed anyway.
    if let Err(error) = File::open(root).and_then(|root| root.sync_all()) {
        tracing::warn!(%error, "the folder of the index was not synced");
    }
    Ok(())
}

fn remove_others(root: &Path, number: u64) -> io::Result<()> {
    for entry in std::fs::read_dir(root)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() && entry.file_name() != *number.to_string() {
            std::fs::remove_dir_all(entry.path())?;
        }
    }
    Ok(())
}

fn remove_folder(folder: &Path) -> io::Result<()> {
    match std::fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Of the files in a folder; what goes meanwhile does not count. Unit: bytes.
fn size_of(folder: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(folder) else { return 0 };
    let sizes = entries.flatten().filter_map(|entry| entry.metadata().ok()).map(|metadata| metadata.len());
    sizes.sum()
}

impl Index for SledIndex {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, IndexError> {
        self.inner.check_copied()?;
        self.inner.map().get(key)
    }

    fn range(&self, start: Bound<&[u8]>, end: Bound<&[u8]>, visit: Visit<'_>) -> Result<(), IndexError> {
        self.inner.check_copied()?;
        self.inner.map().range(start, end, visit)
    }

    fn write_seen(&self, writes: Writes, witness: Option<&mut dyn Witness>) -> Result<(), WriteError> {
        self.inner.write(writes, witness)
    }

    fn sync(&self) -> Result<(), IndexError> {
        // No copy may take this folder's place meanwhile.
        let _writer = self.inner.writer.lock();
        self.inner.map().sync()?;
        File::open(&self.inner.root).and_then(|root| root.sync_all()).map_err(file_failed("syncing files"))
    }

    fn blocks(&self) -> bool {
        true
    }

    /// In a damaged tree a point read may find what a range does not show: ADR 0012.
    fn can_be_emptied(&self) -> bool {
        false
    }
}
