//! The store of one node: its folder, its lock, its partitions and its sync driver.
//!
//! * In: a folder that this process alone has. Out: [`PartitionLog`]s. Files are in `<folder>/partitions/<partition>/`.
//! * A full disk is refused before it happens: [`Store::has_room`] keeps a reserve for what must go on.

use super::handles::OpenFiles;
use super::partition::PartitionLog;
use super::reserve::{Need, Reserve};
use super::sync::SyncShared;
use super::types::{Damage, EntryId, LogEntry, StoreConfig, StoreIdentity, SyncMode};
use super::writer::Place;
use super::{StoreError, open, repair, replace};
use crate::disk::{Claim, Disk, DiskLock};
use duramen_common::NodeId;
use duramen_common::ids::PartitionId;
use duramen_common::seams::Entropy;
use duramen_common::shortage::is_shortage;
use parking_lot::Mutex;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::task::AbortHandle;

/// A shortage that lasts longer than this is told.
const SHORT_FOR: Duration = Duration::from_secs(1);

/// A data folder that this process alone has. Take it before anything in the folder is read.
pub struct DataFolder {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    lock: DiskLock,
}

impl DataFolder {
    /// Makes the folder if needed and locks it; [`StoreError::InUse`] when another process has it.
    pub fn lock(disk: Arc<dyn Disk>, path: &Path) -> Result<DataFolder, StoreError> {
        let path = path.to_path_buf();
        disk.create_dir_all(&path).map_err(|error| StoreError::io("creating", &path, error))?;
        match disk.lock(&path).map_err(|error| StoreError::io("locking", &path, error))? {
            Claim::Taken(lock) => Ok(DataFolder { disk, path, lock }),
            Claim::Held { holder } => Err(StoreError::InUse { folder: path, holder }),
        }
    }

    /// Its path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The disk that it is on.
    #[must_use]
    pub fn disk(&self) -> &Arc<dyn Disk> {
        &self.disk
    }
}

/// All partitions of one node. Cloning shares it; [`Store::close`] or dropping the last one ends the thread.
#[derive(Clone)]
pub struct Store {
    owner: Arc<Owner>,
}

struct Owner {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    identity: StoreIdentity,
    config: Arc<StoreConfig>,
    entropy: Arc<dyn Entropy>,
    sync: Arc<SyncShared>,
    driver: Mutex<Driver>,
    lock: Mutex<Option<DiskLock>>,
    files: Arc<OpenFiles>,
}

/// Who drives the sync work.
enum Driver {
    Thread(std::thread::JoinHandle<()>),
    Task(AbortHandle),
    /// The caller, or nobody any more.
    Nobody,
}

/// How far a repair got.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Repair {
    /// The partition opens now.
    Whole,
    /// More is damaged: fetch again, from that index on.
    More(Damage),
}

impl Store {
    /// Starts the store in a folder. Panics outside of a runtime with [`SyncMode::Task`].
    pub fn open(
        folder: DataFolder,
        identity: StoreIdentity,
        config: StoreConfig,
        entropy: Arc<dyn Entropy>,
        mode: SyncMode,
    ) -> Result<Store, StoreError> {
        if [config.segment_bytes, config.meta_segment_bytes]
            .iter()
            .any(|&bytes| bytes < 4096 || !bytes.is_multiple_of(8))
        {
            let what = "segment_bytes and meta_segment_bytes must be multiples of 8, at least 4096";
            return Err(StoreError::Config { what });
        }
        if config.open_segments_max == 0 {
            return Err(StoreError::Config { what: "open_segments_max must be at least 1" });
        }
        if config.queue_bytes_max == 0 || config.dedup_window == 0 || config.idle_ms == 0 {
            return Err(StoreError::Config { what: "queue_bytes_max, dedup_window and idle_ms must not be 0" });
        }
        let DataFolder { disk, path, lock } = folder;
        let config = Arc::new(config);
        let reserve = Reserve::open(Arc::clone(&disk), &path, config.reserve_bytes)?;
        let sync = SyncShared::new(Arc::clone(&config), mode.threads(), reserve);
        let driver = match mode {
            SyncMode::Manual => Driver::Nobody,
            SyncMode::Task => {
                let (sync, disk) = (Arc::clone(&sync), Arc::clone(&disk));
                Driver::Task(tokio::spawn(async move { sync.drive(&*disk).await }).abort_handle())
            }
            SyncMode::Thread => {
                let sync = Arc::clone(&sync);
                let spawned = std::thread::Builder::new().name("log-sync".to_owned()).spawn(move || sync.run());
                Driver::Thread(spawned.map_err(|error| StoreError::io("starting the sync thread for", &path, error))?)
            }
        };
        let lock = Mutex::new(Some(lock));
        let files = OpenFiles::new(config.open_segments_max);
        let owner = Owner { disk, path, identity, config, entropy, sync, driver: Mutex::new(driver), lock, files };
        Ok(Store { owner: Arc::new(owner) })
    }

    /// Opens or makes a partition's log. On [`StoreError::Corrupt`] see [`Store::damage`] and [`Store::repair`].
    pub fn open_partition(&self, partition: PartitionId) -> Result<PartitionLog, StoreError> {
        self.owner.sync.check()?;
        if self.owner.sync.is_open(partition) {
            return Err(StoreError::AlreadyOpen { partition });
        }
        open::open(&self.place(partition), &self.owner.sync)
    }

    /// Whether there is room for records: the leader asks before it proposes, a follower before openraft sees them. Entries without
    /// records, votes and marks are never asked about.
    #[must_use]
    pub fn has_room(&self, need: Need) -> bool {
        self.owner.sync.reserve.has_room(need)
    }

    /// How many partitions wait for space: even the reserve is used up.
    #[must_use]
    pub fn waiting_for_space(&self) -> usize {
        self.owner.sync.waiting_for_space()
    }

    /// From now on a full disk is an error like any other: what waits for space gets it. For a node that stops.
    pub fn stop_waiting(&self) {
        self.owner.sync.stop_waiting();
    }

    /// Fails when the data folder under its path is not the one that this store was opened in: it was moved, removed or
    /// replaced, and what is written by name would go elsewhere.
    pub fn check_folder(&self) -> Result<(), StoreError> {
        let lock = self.owner.lock.lock();
        let checked = lock.as_ref().map_or(Ok(()), DiskLock::check);
        match checked {
            Ok(()) => Ok(()),
            // What cannot be looked at now is looked at again.
            Err(error) if is_shortage(&error) => Ok(()),
            Err(_) => Err(StoreError::Taken { file: self.owner.path.clone() }),
        }
    }

    /// Whether writing has been waiting for more than a moment because the system is short of descriptors or memory. Another
    /// node should lead meanwhile.
    #[must_use]
    pub fn is_short(&self) -> bool {
        self.owner.disk.short_since().is_some_and(|since| since.elapsed() > SHORT_FOR)
    }

    /// What stopped the store, when something did.
    #[must_use]
    pub fn poisoned(&self) -> Option<Arc<str>> {
        self.owner.sync.poisoned()
    }

    /// Returns when something has stopped the store, with what did. From then on nothing here can be acknowledged.
    pub async fn failed(&self) -> Arc<str> {
        self.owner.sync.failed().await
    }

    /// One round of sync work ([`SyncMode::Manual`]); says whether there was any.
    pub fn step(&self) -> bool {
        self.owner.sync.step()
    }

    /// One round that also marks durable ends where they are behind, which idleness does in [`SyncMode::Thread`].
    pub fn step_idle(&self) -> bool {
        self.owner.sync.step_idle()
    }

    /// Waits until there is sync work ([`SyncMode::Manual`] under an async runtime).
    pub async fn work(&self) {
        self.owner.sync.work().await;
    }

    /// Writes and syncs what waits, marks the durable ends, stops the thread, frees the folder. Waits for it.
    pub fn close(&self) {
        self.owner.close();
    }

    /// Where a partition is damaged, looking at every byte of it; `None` when it is whole.
    pub fn damage(&self, partition: PartitionId) -> Result<Option<Damage>, StoreError> {
        repair::damage(&self.place(partition))
    }

    /// Restores the damaged frame at [`Damage::index`] from what a peer holds there. The partition must not be open.
    pub fn repair(&self, partition: PartitionId, entries: &[LogEntry]) -> Result<Repair, StoreError> {
        repair::repair(&self.place(partition), entries)
    }

    /// Indexes of which a peer's committed entries could stand in for ours, when the one that is damaged was perhaps never
    /// committed: ask for all of them. `None` when they could not.
    pub fn replaceable(&self, partition: PartitionId) -> Result<Option<Range<u64>>, StoreError> {
        replace::span(&self.place(partition))
    }

    /// Puts a peer's entries, up to the last that it knows to be committed, in the place of ours from the first on that
    /// differs or is damaged. `None` when they do not reach far enough to do so safely. The partition must not be open. `node` is
    /// ours.
    pub fn replace(
        &self,
        partition: PartitionId,
        theirs: &[LogEntry],
        committed: EntryId,
        node: NodeId,
    ) -> Result<Option<Repair>, StoreError> {
        let place = self.place(partition);
        if !replace::replace(&place, theirs, committed, node)? {
            return Ok(None);
        }
        Ok(Some(repair::damage(&place)?.map_or(Repair::Whole, Repair::More)))
    }

    fn place(&self, partition: PartitionId) -> Place {
        let config = &self.owner.config;
        Place {
            disk: Arc::clone(&self.owner.disk),
            folder: self.owner.path.join("partitions").join(partition.to_string()),
            identity: self.owner.identity,
            partition,
            segment_bytes: if partition.is_meta() { config.meta_segment_bytes } else { config.segment_bytes },
            config: Arc::clone(config),
            reserve: Arc::clone(&self.owner.sync.reserve),
            entropy: Arc::clone(&self.owner.entropy),
            files: Arc::clone(&self.owner.files),
        }
    }
}

impl Owner {
    fn close(&self) {
        self.sync.stop();
        let driver = std::mem::replace(&mut *self.driver.lock(), Driver::Nobody);
        if let Driver::Thread(thread) = driver {
            if thread.join().is_err() {
                tracing::error!("the sync thread panicked");
            }
        } else {
            if let Driver::Task(task) = driver {
                task.abort();
            }
            while self.sync.step() {}
            self.sync.step_idle();
        }
        self.sync.clear();
        drop(self.lock.lock().take());
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        match std::mem::replace(self.driver.get_mut(), Driver::Nobody) {
            Driver::Thread(thread) => {
                self.sync.stop();
                // Dropped by a panic or a crash test: the thread finishes by itself.
                drop(thread.join());
            }
            Driver::Task(task) => task.abort(),
            Driver::Nobody => {}
        }
        self.sync.clear();
    }
}
