//! The folder of an index: locked, judged, opened or wiped at start; marked at a clean stop.
//!
//! ```text
//! DATA_DIR/index/              locked itself while a node runs on it
//! DATA_DIR/index/lock          who that is, for messages
//! DATA_DIR/index/marker.json   whose it is, how it was left
//! DATA_DIR/index/sled/ …       the index's own files
//! ```
//!
//! * Invariant: the marker says `open` on the medium before the first write, and `clean` only after everything is synced.
//! * Invariant: a folder that another process holds is refused, never wiped.
//! * Opening runs where a panic is caught; where panics abort, the marker's `opening` tells the next start.
//! * Source: DESIGN D8.

use super::marker::{Left, Marker};
use super::memory::MemoryIndex;
use super::sled::SledIndex;
use super::{Index, IndexError};
use crate::partitions::IndexKind;
use duramen_common::HistoryId;
use duramen_common::folder_lock::{FolderLock, FolderLockError, named};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use super::marker::WipeReason;

/// What to open.
#[derive(Clone, Debug)]
pub(crate) struct StoreConfig {
    pub data_dir: Option<PathBuf>,
    pub kind: IndexKind,
    pub cache_bytes: u64,
    pub flush_every_ms: u64,
    pub history: HistoryId,
    pub boot_id_path: PathBuf,
}

/// Why no index can be used. Each says what to do.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// No folder for an index on disk.
    #[error("an index of kind {kind:?} needs a data folder: name one, or take the memory index")]
    NoFolder {
        /// Which.
        kind: IndexKind,
    },
    /// Not built in.
    #[error("this program was built without fjall: build it with the cargo feature `fjall`, or take sled")]
    NoFjall,
    /// Another process runs on it.
    #[error(
        "{} is in use by another process{}: stop it, or take another data folder. Removing the lock file does not help: the \
         folder itself is locked", folder.display(), named(*holder)
    )]
    InUse {
        /// Which.
        folder: PathBuf,
        /// The process that has it, where it has said so.
        holder: Option<u32>,
    },
    /// The folder cannot be used.
    #[error("{}: {source}: {}", path.display(), duramen_common::shortage::advice(source))]
    Folder {
        /// Which.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// Not even a fresh index opens.
    #[error("a fresh index does not open: {0}")]
    Fresh(IndexError),
}

/// An open index with its folder.
pub(crate) struct IndexStore {
    index: Arc<dyn Index>,
    place: Option<Place>,
}

struct Place {
    marker_path: PathBuf,
    marker: Marker,
    /// Held until drop.
    _lock: Arc<FolderLock>,
}

/// What opening came to.
pub(crate) struct Opened {
    pub store: IndexStore,
    pub wiped: Option<WipeReason>,
}

impl IndexStore {
    /// Opens what is there, or wipes it and opens a fresh one. Blocks.
    pub(crate) fn open(config: &StoreConfig) -> Result<Opened, StoreError> {
        if config.kind == IndexKind::Memory {
            let store = IndexStore { index: Arc::new(MemoryIndex::default()), place: None };
            return Ok(Opened { store, wiped: None });
        }
        if config.kind == IndexKind::Fjall && !cfg!(feature = "fjall") {
            return Err(StoreError::NoFjall);
        }
        let data_dir = config.data_dir.as_ref().ok_or(StoreError::NoFolder { kind: config.kind })?;
        let folder = data_dir.join("index");
        std::fs::create_dir_all(&folder).map_err(|error| folder_error(&folder, error))?;
        let lock = lock(&folder)?;
        let boot_id = std::fs::read_to_string(&config.boot_id_path).unwrap_or_default();
        let mut marker = Marker::opening(&config.history.to_string(), config.kind, boot_id.trim());
        let marker_path = folder.join("marker.json");
        let files = folder.join(name(config.kind));
        let mut wiped = judge(&folder, &marker_path, &marker)?;
        if wiped.is_some() {
            wipe(&folder)?;
        }
        let write = |marker: &Marker| marker.write(&marker_path).map_err(|error| folder_error(&marker_path, error));
        write(&marker)?;
        let index = match open_caught(config, &files, &lock) {
            Ok(index) => index,
            Err(error) => {
                wiped = Some(WipeReason::DoesNotOpen { reason: error.to_string() });
                wipe(&folder)?;
                write(&marker)?;
                open_caught(config, &files, &lock).map_err(StoreError::Fresh)?
            }
        };
        marker.left = Left::Open;
        write(&marker)?;
        let place = Place { marker_path, marker, _lock: lock };
        Ok(Opened { store: IndexStore { index, place: Some(place) }, wiped })
    }

    pub(crate) fn index(&self) -> &Arc<dyn Index> {
        &self.index
    }

    /// Everything onto the medium, then says so. Blocks.
    pub(crate) fn close_clean(&self) -> Result<(), IndexError> {
        self.index.sync()?;
        self.leave(Left::Clean)
    }

    /// Says that a write failed, so that the next start does not trust what is there.
    pub(crate) fn leave_broken(&self) {
        if let Err(error) = self.leave(Left::Broken) {
            tracing::error!(%error, "the index could not be marked as broken: remove its folder before the next start");
        }
    }

    fn leave(&self, left: Left) -> Result<(), IndexError> {
        let Some(place) = &self.place else { return Ok(()) };
        Marker { left, ..place.marker.clone() }.write(&place.marker_path).map_err(|error| IndexError {
            kind: name(place.marker.index),
            action: "writing the marker",
            reason: error.to_string(),
        })
    }
}

fn name(kind: IndexKind) -> &'static str {
    match kind {
        IndexKind::Sled => "sled",
        IndexKind::Fjall => "fjall",
        IndexKind::Memory => "memory",
    }
}

fn folder_error(path: &Path, source: io::Error) -> StoreError {
    StoreError::Folder { path: path.to_path_buf(), source }
}

fn lock(folder: &Path) -> Result<Arc<FolderLock>, StoreError> {
    match FolderLock::take(folder, "lock") {
        Ok(lock) => Ok(Arc::new(lock)),
        Err(FolderLockError::Held { folder, holder }) => Err(StoreError::InUse { folder, holder }),
        Err(FolderLockError::Io(error)) => Err(folder_error(folder, error)),
    }
}

/// Why what is in the folder must go; `None` when it may be used, or nothing is there.
fn judge(folder: &Path, marker_path: &Path, ours: &Marker) -> Result<Option<WipeReason>, StoreError> {
    match Marker::read(marker_path).map_err(|error| folder_error(marker_path, error))? {
        Some(Some(found)) => Ok(ours.judge(&found).err()),
        Some(None) => Ok(Some(WipeReason::NoMarker)),
        None => {
            let found = contents(folder).map_err(|error| folder_error(folder, error))?;
            Ok((!found.is_empty()).then_some(WipeReason::NoMarker))
        }
    }
}

/// Folders inside: those of indexes.
fn contents(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            found.push(entry.path());
        }
    }
    Ok(found)
}

fn wipe(folder: &Path) -> Result<(), StoreError> {
    for inside in contents(folder).map_err(|error| folder_error(folder, error))? {
        std::fs::remove_dir_all(&inside).map_err(|error| folder_error(&inside, error))?;
    }
    Ok(())
}

/// Opens in a thread of its own: damaged files make sled panic.
fn open_caught(config: &StoreConfig, files: &Path, lock: &Arc<FolderLock>) -> Result<Arc<dyn Index>, IndexError> {
    let failed = |reason: String| IndexError { kind: name(config.kind), action: "opening", reason };
    let (config, files, lock) = (config.clone(), files.to_path_buf(), Arc::clone(lock));
    let opener =
        std::thread::Builder::new().name("index-open".to_owned()).spawn(move || open_files(&config, &files, lock));
    match opener.map(std::thread::JoinHandle::join) {
        Ok(Ok(opened)) => opened,
        Ok(Err(_)) => Err(failed("it panicked, which damaged files make it do".to_owned())),
        Err(error) => Err(failed(error.to_string())),
    }
}

fn open_files(config: &StoreConfig, files: &Path, lock: Arc<FolderLock>) -> Result<Arc<dyn Index>, IndexError> {
    match config.kind {
        IndexKind::Sled => Ok(Arc::new(SledIndex::open(files, config.cache_bytes, config.flush_every_ms, lock)?)),
        #[cfg(feature = "fjall")]
        IndexKind::Fjall => Ok(Arc::new(super::fjall::FjallIndex::open(files, config.cache_bytes, lock)?)),
        _ => Ok(Arc::new(MemoryIndex::default())),
    }
}

/// Syncs every file and folder below.
pub(super) fn sync_tree(folder: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            sync_tree(&entry.path())?;
            continue;
        }
        match File::open(entry.path()) {
            Ok(file) => file.sync_all()?,
            // sled removes a file of a large value when it is superseded.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    File::open(folder)?.sync_all()
}
