//! sled 0.34.7 as an index: a map in a folder of its own, copied into a fresh folder when the file has grown too large.
//!
//! * `map` is what readers and writers use; `pieces` says what the bytes mean; `space` decides when to copy; this does it.
//! * A write takes a lock of the whole process, which readers share: batches are large, so reads of what is not in the
//!   overlay wait for one now and then.
//! * Folders are numbered, and the file `current` names the one that counts. A copy is whole and on the medium before it is
//!   named; one that is not named is removed when the index is opened.
//! * While a copy grows, writes go to both, as far as the copy has come. A copy that fails is given up and tried again later:
//!   the index itself has lost nothing.
//! * Source: DESIGN D8; ADR 0009, ADR 0013.

mod map;
mod pieces;
mod space;
#[cfg(test)]
mod tests;

use self::map::{Map, MapConfig};
use self::pieces::Tally;
use self::space::{Look, ROOM_MULTIPLE};
use super::{Index, IndexError, Visit, Writes};
use bytes::Bytes;
use duramen_common::folder_lock::FolderLock;
use parking_lot::{Condvar, Mutex, RwLock};
use std::fs::File;
use std::io::{self, Write as _};
use std::ops::{Bound, ControlFlow};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// How often it is looked whether to copy.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How long a copy that failed is not tried again.
const AGAIN_AFTER: Duration = Duration::from_secs(60);
/// What a copy moves at once. Unit: bytes.
const STEP_BYTES: usize = 64 << 10;
/// After each step a copy rests this many times as long as the step took.
const REST: u32 = 3;
/// Names the folder that counts.
const CURRENT: &str = "current";

pub(super) struct SledIndex {
    inner: Arc<Inner>,
    copier: Option<std::thread::JoinHandle<()>>,
}

struct Inner {
    root: PathBuf,
    config: MapConfig,
    lock: Arc<FolderLock>,
    map: RwLock<Arc<Map>>,
    writer: Mutex<Writer>,
    stop: Mutex<bool>,
    stopped: Condvar,
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

/// A copy that grows.
struct FreshCopy {
    map: Map,
    tally: Tally,
    /// The last key that it has; `None` before the first.
    reached: Option<Vec<u8>>,
}

fn file_failed(action: &'static str) -> impl FnOnce(io::Error) -> IndexError {
    move |error| IndexError { kind: "sled", action, reason: error.to_string() }
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
            lock,
            map: RwLock::new(Arc::new(map)),
            writer: Mutex::new(writer),
            stop: Mutex::new(false),
            stopped: Condvar::new(),
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

    fn write(&self, writes: Writes) -> Result<(), IndexError> {
        super::check_folder("sled", &self.lock)?;
        let mut writer = self.writer.lock();
        let writer = &mut *writer;
        let behind = writer.copy.as_ref().map(|copy| copy.has_reached(&writes));
        let churned = self.map().write(&mut writer.tally, writes)?;
        writer.churned += churned;
        writer.churned_now += churned;
        if let (Some(copy), Some(behind)) = (&mut writer.copy, behind)
            && !behind.is_empty()
            && let Err(error) = copy.map.write(&mut copy.tally, behind)
        {
            tracing::warn!(%error, "the copy of the index is given up");
            writer.copy = None;
        }
        Ok(())
    }

    /// The copier's body.
    fn keep_small(&self) {
        let mut pause = LOOK_EVERY;
        while !self.rests(pause) {
            pause = LOOK_EVERY;
            let Some(look) = self.look() else { continue };
            let began = Instant::now();
            match self.copy() {
                Ok(true) => {
                    let (before_bytes, after_bytes) = (look.size, self.writer.lock().size_before);
                    let took_ms = began.elapsed().as_millis();
                    tracing::info!(before_bytes, after_bytes, took_ms, "the index was copied to give space back");
                }
                Ok(false) => {}
                Err(error) => {
                    tracing::warn!(%error, "the index could not be copied to give space back: tried again later");
                    self.writer.lock().copy = None;
                    pause = AGAIN_AFTER;
                }
            }
        }
    }

    /// Waits; says whether to stop.
    fn rests(&self, pause: Duration) -> bool {
        let mut stop = self.stop.lock();
        if !*stop {
            self.stopped.wait_for(&mut stop, pause);
        }
        *stop
    }

    /// What there is to copy, if it is time and there is room.
    fn look(&self) -> Option<Look> {
        let size = size_of(self.map().folder());
        let mut writer = self.writer.lock();
        let look = Look {
            size,
            live: writer.tally.live_bytes,
            churned: writer.churned,
            churned_now: std::mem::take(&mut writer.churned_now),
            size_before: writer.size_before,
        };
        drop(writer);
        let room = || rustix::fs::statvfs(&self.root).map(|stat| stat.f_bavail.saturating_mul(stat.f_frsize));
        let needed = look.live.saturating_mul(ROOM_MULTIPLE).saturating_add(space::FREE_BYTES);
        (look.is_due() && room().is_ok_and(|room| room > needed)).then_some(look)
    }

    /// Copies everything into the next folder, and lets that one count; `false` when it was given up.
    fn copy(&self) -> Result<bool, IndexError> {
        let number = self.writer.lock().number + 1;
        let folder = self.root.join(number.to_string());
        remove_folder(&folder).map_err(file_failed("removing what a copy left"))?;
        let (map, tally) = Map::open(&folder, self.config)?;
        self.writer.lock().copy = Some(FreshCopy { map, tally, reached: None });
        loop {
            let began = Instant::now();
            if !self.step()? {
                break;
            }
            if self.rests(began.elapsed() * REST) {
                self.writer.lock().copy = None;
                return Ok(false);
            }
        }
        self.switch(number)
    }

    /// Moves the next keys into the copy; says whether there were any.
    fn step(&self) -> Result<bool, IndexError> {
        let map = self.map();
        let mut writer = self.writer.lock();
        let Some(copy) = &mut writer.copy else { return Ok(false) };
        let start = copy.reached.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
        let (mut moved, mut bytes): (Writes, usize) = (Vec::new(), 0);
        map.range(start, Bound::Unbounded, &mut |key, value| {
            bytes += key.len() + value.len();
            moved.push((key.to_vec(), Some(value.to_vec())));
            if bytes < STEP_BYTES { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        })?;
        let Some((last, _)) = moved.last() else { return Ok(false) };
        copy.reached = Some(last.clone());
        copy.map.write(&mut copy.tally, moved)?;
        // sled uses a segment again only once what replaced it is written.
        copy.map.flush()?;
        Ok(true)
    }

    /// The copy is whole: it counts from now on, and the folder before goes with its last reader.
    fn switch(&self, number: u64) -> Result<bool, IndexError> {
        // Most of it without holding writers up.
        super::store::sync_tree(&self.root.join(number.to_string())).map_err(file_failed("syncing a copy"))?;
        let mut writer = self.writer.lock();
        let Some(FreshCopy { map, tally, .. }) = writer.copy.take() else { return Ok(false) };
        debug_assert_eq!(tally.live_bytes, writer.tally.live_bytes, "the copy holds what the index holds");
        map.sync()?;
        super::check_folder("sled", &self.lock)?;
        write_current(&self.root, number).map_err(file_failed("naming a copy"))?;
        let size_before = size_of(map.folder());
        let before = std::mem::replace(&mut *self.map.write(), Arc::new(map));
        *writer = Writer { number, tally, copy: None, churned: 0, churned_now: 0, size_before };
        drop(writer);
        before.retire();
        Ok(true)
    }
}

impl FreshCopy {
    /// The writes to keys that the copy has come to. Later ones come with the copying.
    fn has_reached(&self, writes: &Writes) -> Writes {
        let Some(reached) = &self.reached else { return Vec::new() };
        writes.iter().filter(|(key, _)| key <= reached).cloned().collect()
    }
}

/// The number of the folder that counts.
fn current(root: &Path) -> Result<u64, IndexError> {
    match std::fs::read_to_string(root.join(CURRENT)) {
        Ok(text) => text.trim().parse().map_err(|_| IndexError {
            kind: "sled",
            action: "opening",
            reason: format!("the file {CURRENT} names no folder: {text:?}"),
        }),
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
    File::open(root)?.sync_all()
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
        self.inner.map().get(key)
    }

    fn range(&self, start: Bound<&[u8]>, end: Bound<&[u8]>, visit: Visit<'_>) -> Result<(), IndexError> {
        self.inner.map().range(start, end, visit)
    }

    fn write(&self, writes: Writes) -> Result<(), IndexError> {
        self.inner.write(writes)
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
}
