//! The folder of an index: locked, judged, opened or wiped at start; replaced while the node runs; marked at a clean stop.
//!
//! ```text
//! DATA_DIR/index/              locked itself while a node runs on it
//! DATA_DIR/index/lock          who that is, for messages
//! DATA_DIR/index/marker.json   whose it is, how it was left, where its files are
//! DATA_DIR/index/sled/ …       the index's own files; `sled-1` once it was replaced
//! ```
//!
//! * Invariant: the marker says `open` on the medium before the first write, and `clean` only after everything is synced.
//! * Invariant: a folder that another process holds is refused, never wiped.
//! * Opening runs where a panic is caught; if the process ends all the same, the marker's `opening` tells the next start.
//! * Source: DESIGN D8.

use super::current::{CurrentIndex, NoIndex};
use super::marker::{Left, Marker};
use super::memory::MemoryIndex;
use super::panics::caught;
use super::sled::SledIndex;
use super::{Index, IndexError};
use crate::partitions::IndexKind;
use duramen_common::HistoryId;
use duramen_common::folder_lock::{FolderLock, FolderLockError, named};
use duramen_common::shortage;
use parking_lot::Mutex;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

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
    #[error("{}: {source}: {}", path.display(), shortage::advice(source))]
    Folder {
        /// Which.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// What is there cannot be opened or checked now. It may be as good as it was, so that it is kept.
    #[error("{0}: free some space, or give this node more open files or memory, and start it again; its index is kept")]
    Short(IndexError),
    /// Not even a fresh index opens.
    #[error("a fresh index does not open: {0}")]
    Fresh(IndexError),
    /// The folder is not ours any more.
    #[error("{source}: put back what was there, and start the node again")]
    Lost {
        /// What became of it.
        source: io::Error,
    },
    /// The start was given up while the index was being checked.
    #[error("the node was stopped while its index was being checked")]
    Stopped,
}

impl StoreError {
    /// Whether descriptors, memory or space are lacking: it may work next time.
    pub(crate) fn is_passing(&self) -> bool {
        match self {
            StoreError::Short(_) => true,
            StoreError::Fresh(error) => error.is_passing(),
            StoreError::Folder { source, .. } => shortage::is_no_space(source) || shortage::is_shortage(source),
            StoreError::NoFolder { .. }
            | StoreError::NoFjall
            | StoreError::InUse { .. }
            | StoreError::Lost { .. }
            | StoreError::Stopped => false,
        }
    }
}

/// An open index with its folder.
pub(crate) struct IndexStore {
    config: StoreConfig,
    current: Arc<CurrentIndex>,
    index: Arc<dyn Index>,
    place: Option<Mutex<Place>>,
}

struct Place {
    folder: PathBuf,
    marker: Marker,
    /// Held until drop.
    lock: Arc<FolderLock>,
}

/// The result of opening.
pub(crate) struct Opened {
    pub store: IndexStore,
    pub wiped: Option<WipeReason>,
}

impl IndexStore {
    /// Opens what is there, or wipes it and opens a fresh one. What it holds is not checked yet: [`IndexStore::trust`] says
    /// that it was. Blocks.
    pub(crate) fn open(config: &StoreConfig) -> Result<Opened, StoreError> {
        if config.kind == IndexKind::Memory {
            let store = IndexStore::new(config, Arc::new(MemoryIndex::default()), None);
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
        let fresh = Marker::opening(&config.history.to_string(), config.kind, boot_id.trim(), name(config.kind));
        let found = find(&folder, &fresh)?;
        let (marker, mut wiped) = match found {
            Found::Usable { files } => (Marker { files, ..fresh.clone() }, None),
            Found::Nothing => (fresh.clone(), None),
            Found::Unusable(reason) => (fresh.clone(), Some(reason)),
        };
        remove_folders(&folder, wiped.is_none().then_some(marker.files.as_str()))?;
        let mut place = Place { folder, marker, lock };
        place.write_marker(Left::Opening)?;
        let index = match open_caught(config, &place.files(), &place.lock) {
            Ok(index) => index,
            Err(error) if error.is_passing() => return Err(StoreError::Short(error)),
            Err(error) => {
                wiped = Some(WipeReason::DoesNotOpen { reason: error.to_string() });
                remove_folders(&place.folder, None)?;
                place.marker = fresh;
                place.write_marker(Left::Opening)?;
                open_caught(config, &place.files(), &place.lock).map_err(StoreError::Fresh)?
            }
        };
        Ok(Opened { store: IndexStore::new(config, index, Some(place)), wiped })
    }

    fn new(config: &StoreConfig, index: Arc<dyn Index>, place: Option<Place>) -> IndexStore {
        let current = Arc::new(CurrentIndex::new(index));
        let index = Arc::clone(&current) as Arc<dyn Index>;
        IndexStore { config: config.clone(), current, index, place: place.map(Mutex::new) }
    }

    pub(crate) fn index(&self) -> &Arc<dyn Index> {
        &self.index
    }

    /// Puts another index in its place.
    #[cfg(test)]
    pub(crate) fn replace_for_test(&self, index: Arc<dyn Index>) {
        drop(self.current.replace(index));
    }

    /// What the index holds was checked, or is not wanted any more: the marker says so before the first write.
    pub(crate) fn trust(&self) -> Result<(), StoreError> {
        self.place.as_ref().map_or(Ok(()), |place| place.lock().write_marker(Left::Open))
    }

    /// Gives the index up, removes its files and opens a fresh one in a folder of its own; calls go there from then on. The
    /// caller sees to it that nobody believes what was read of the old one. Blocks.
    pub(crate) fn start_over(&self) -> Result<(), StoreError> {
        let Some(place) = &self.place else {
            self.current.replace(Arc::new(MemoryIndex::default()));
            return Ok(());
        };
        let mut place = place.lock();
        // Before anything is removed: what is under this name now may be somebody else's.
        place.check()?;
        let given_up = self.current.replace(Arc::new(NoIndex));
        // On a full disk this fails, and there is room only once the files are gone. Files that are half gone do not stand
        // their check.
        if let Err(error) = place.write_marker(Left::Broken) {
            tracing::debug!(%error, "the index could not be marked as broken");
        }
        close(given_up);
        remove_folders(&place.folder, None)?;
        place.marker.files = next_files(name(self.config.kind), &place.marker.files);
        place.write_marker(Left::Opening)?;
        let index = open_caught(&self.config, &place.files(), &place.lock).map_err(StoreError::Fresh)?;
        place.write_marker(Left::Open)?;
        self.current.replace(index);
        Ok(())
    }

    /// Everything onto the medium, then says so. Blocks.
    pub(crate) fn close_clean(&self) -> Result<(), IndexError> {
        self.index.sync()?;
        self.leave(Left::Clean)
    }

    fn leave(&self, left: Left) -> Result<(), IndexError> {
        let Some(place) = &self.place else { return Ok(()) };
        place.lock().write_marker(left).map_err(|error| IndexError {
            kind: name(self.config.kind),
            action: "writing the marker",
            reason: error.to_string(),
        })
    }
}

impl Place {
    /// Where the index's own files are.
    fn files(&self) -> PathBuf {
        self.folder.join(&self.marker.files)
    }

    /// The folder is still the one that was locked.
    fn check(&self) -> Result<(), StoreError> {
        self.lock.check().map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => StoreError::Lost { source },
            _ => folder_error(&self.folder, source),
        })
    }

    fn write_marker(&mut self, left: Left) -> Result<(), StoreError> {
        self.check()?;
        self.marker.left = left;
        let path = self.folder.join(MARKER);
        self.marker.write(&path).map_err(|error| folder_error(&path, error))
    }
}

/// The name of the folder after this one: an index that is given up may still be at work in its own.
fn next_files(kind: &str, files: &str) -> String {
    let number = files.rsplit_once('-').and_then(|(_, number)| number.parse().ok()).unwrap_or(0_u64);
    format!("{kind}-{}", number.saturating_add(1))
}

/// Drops an index on a thread of its own: it ends threads and writes files, and a damaged one may never come to an end.
/// Waits for it as long as [`CLOSE_WAIT`]; the next one has a folder of its own.
fn close(index: Arc<dyn Index>) {
    let (closed, is_closed) = std::sync::mpsc::sync_channel::<()>(1);
    let closing = caught(|| {
        std::thread::Builder::new().name("index-close".to_owned()).spawn(move || {
            // A panic must not take this thread's report with it.
            let _ = caught(|| drop(index));
            let _ = closed.send(());
        })
    });
    if !matches!(closing, Some(Ok(_))) || is_closed.recv_timeout(CLOSE_WAIT).is_err() {
        tracing::warn!("the index that is given up does not close; its files are removed all the same");
    }
}

/// How long an index that is given up may take to close.
const CLOSE_WAIT: Duration = Duration::from_secs(5);
const MARKER: &str = "marker.json";

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

/// What is in a folder, judged by its marker.
enum Found {
    Nothing,
    Usable { files: String },
    Unusable(WipeReason),
}

fn find(folder: &Path, ours: &Marker) -> Result<Found, StoreError> {
    let marker_path = folder.join(MARKER);
    match Marker::read(&marker_path).map_err(|error| folder_error(&marker_path, error))? {
        Some(Some(found)) => Ok(match ours.judge(&found) {
            Ok(()) if !is_ours(&found) => Found::Unusable(WipeReason::NoMarker),
            Ok(()) => Found::Usable { files: found.files },
            Err(reason) => Found::Unusable(reason),
        }),
        Some(None) => Ok(Found::Unusable(WipeReason::NoMarker)),
        None => {
            let found = folders(folder).map_err(|error| folder_error(folder, error))?;
            Ok(if found.is_empty() { Found::Nothing } else { Found::Unusable(WipeReason::NoMarker) })
        }
    }
}

/// Whether a marker names a folder that a store has made.
fn is_ours(found: &Marker) -> bool {
    found.files.starts_with(name(found.index)) && !found.files.contains(std::path::is_separator)
}

/// Folders inside: those of indexes.
fn folders(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            found.push(entry.path());
        }
    }
    Ok(found)
}

/// Removes the folders of indexes, all or all but one.
fn remove_folders(folder: &Path, except: Option<&str>) -> Result<(), StoreError> {
    for inside in folders(folder).map_err(|error| folder_error(folder, error))? {
        if except.is_none() || inside.file_name().and_then(std::ffi::OsStr::to_str) != except {
            std::fs::remove_dir_all(&inside).map_err(|error| folder_error(&inside, error))?;
        }
    }
    Ok(())
}

/// Opens in a thread of its own: damaged files make sled panic.
fn open_caught(config: &StoreConfig, files: &Path, lock: &Arc<FolderLock>) -> Result<Arc<dyn Index>, IndexError> {
    let failed = |reason: String| IndexError { kind: name(config.kind), action: "opening", reason };
    let (config, files, lock) = (config.clone(), files.to_path_buf(), Arc::clone(lock));
    let open = move || caught(|| open_files(&config, &files, lock));
    match std::thread::Builder::new().name("index-open".to_owned()).spawn(open).map(std::thread::JoinHandle::join) {
        Ok(Ok(Some(opened))) => opened,
        Ok(Ok(None) | Err(_)) => Err(failed("it panicked, which damaged files make it do".to_owned())),
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
