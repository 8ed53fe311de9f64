//! All partitions of this node: started together, found by key, stopped together.
//!
//! * In: a configuration, what the log says about the cluster, the log. Out: a view per partition, readiness, failure.
//! * Invariant: nothing is served before the index is known to belong to this history, and was checked (`opening`).
//! * Source: DESIGN D7, D8; ARCHITECTURE "The serving node".

use crate::index::{IndexHealth, IndexRoom, IndexStore, StoreError};
use crate::keeper::Keeper;
use crate::scrubber::Scrubber;
use crate::subscriber::{Subscriber, SubscriberConfig, run_blocking};
use crate::view::PartitionView;
use crate::view::flusher::Flusher;
use duramen_common::limits::{FETCH_BYTES_MAX, FETCH_WAIT_MS_MAX, PARTITIONS_MAX};
use duramen_common::log::Log;
use duramen_common::placement::partition_of;
use duramen_common::protocol::ClusterInfo;
use duramen_common::seams::{Seams, Threads};
use duramen_common::{HistoryId, PartitionId};
use parking_lot::Mutex;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

mod opening;

use opening::Opening;

/// Which index holds what was applied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum IndexKind {
    /// sled, a B-tree like index on disk: the default.
    #[default]
    Sled,
    /// fjall, a log-structured merge tree on disk, for heavy writes (cargo feature `fjall`).
    Fjall,
    /// Nothing on disk: everything is replayed at each start.
    Memory,
}

/// How the partitions of a node are kept. Checked by [`Partitions::start`].
#[derive(Clone, Debug)]
pub struct PartitionsConfig {
    /// Where the index lives; needed unless it is [`IndexKind::Memory`].
    pub data_dir: Option<PathBuf>,
    /// Which index.
    pub index: IndexKind,
    /// Page cache of the index. Unit: bytes.
    pub cache_bytes: u64,
    /// Most bytes that recent updates may hold before they are in the index, over all partitions (and at most one fetch
    /// a partition more). Unit: bytes.
    pub overlay_bytes_max: usize,
    /// A partition's recent updates go to the index when they hold this much. Reads that miss the overlay wait while they do:
    /// with sled about 20 µs a record. Unit: bytes.
    pub flush_bytes: usize,
    /// And at the latest after this long. Unit: milliseconds.
    pub flush_interval_ms: u64,
    /// The index is not written while its disk has less than this free; fjall needs at least 128 MiB. Unit: bytes.
    pub index_room_bytes: u64,
    /// Most readers that may wait for an applied end, over all partitions.
    pub waiters_max: usize,
    /// How long one question to a leader may take. Unit: milliseconds.
    pub tail_timeout_ms: u64,
    /// How much one fetch asks for. Unit: bytes.
    pub fetch_bytes_max: u32,
    /// How long one fetch parks at the log. Unit: milliseconds.
    pub fetch_wait_ms: u64,
    /// Recent batches kept for feeds, over all partitions. Unit: bytes.
    pub recent_bytes_max: usize,
    /// The index is read whole and verified this often while the node runs; never, with zero. The memory index is not.
    pub scrub_period: Duration,
    /// Delays applying by this long, so that anybody can see a read wait. Zero but in demonstrations and tests.
    pub lag: Duration,
    /// Where the operating system tells which start of the machine this is.
    pub boot_id_path: PathBuf,
}

impl Default for PartitionsConfig {
    fn default() -> PartitionsConfig {
        PartitionsConfig {
            data_dir: None,
            index: IndexKind::Sled,
            cache_bytes: 256 * 1024 * 1024,
            overlay_bytes_max: 16 * 1024 * 1024,
            flush_bytes: 128 * 1024,
            flush_interval_ms: 500,
            index_room_bytes: 16 * 1024 * 1024,
            waiters_max: 65_536,
            tail_timeout_ms: 1_000,
            fetch_bytes_max: 1024 * 1024,
            fetch_wait_ms: 1_000,
            recent_bytes_max: 8 * 1024 * 1024,
            scrub_period: Duration::from_secs(24 * 3600),
            lag: Duration::ZERO,
            boot_id_path: PathBuf::from("/proc/sys/kernel/random/boot_id"),
        }
    }
}

impl PartitionsConfig {
    /// Refuses what cannot work, by name.
    fn check(&self, partitions: u16) -> Result<(), StartError> {
        let refuse = |setting, reason: String| Err(StartError::Config { setting, reason });
        let within = |setting, value: u64, low: u64, high: u64| {
            if (low..=high).contains(&value) {
                return Ok(());
            }
            Err(StartError::Config { setting, reason: format!("{value} is not within {low} to {high}") })
        };
        if partitions == 0 || partitions > PARTITIONS_MAX {
            return refuse("partitions", format!("the log has {partitions}, this program takes 1 to {PARTITIONS_MAX}"));
        }
        within("cache_bytes", self.cache_bytes, 1 << 20, 1 << 42)?;
        within("overlay_bytes_max", self.overlay_bytes_max as u64, 1 << 16, 1 << 40)?;
        within("flush_bytes", self.flush_bytes as u64, 1, self.overlay_bytes_max as u64)?;
        within("flush_interval_ms", self.flush_interval_ms, 1, 60_000)?;
        within("waiters_max", self.waiters_max as u64, 1, 1 << 24)?;
        within("tail_timeout_ms", self.tail_timeout_ms, 1, 60_000)?;
        within("fetch_bytes_max", u64::from(self.fetch_bytes_max), 1, FETCH_BYTES_MAX as u64)?;
        within("fetch_wait_ms", self.fetch_wait_ms, 1, FETCH_WAIT_MS_MAX)?;
        within("scrub_period", self.scrub_period.as_secs(), 0, 366 * 24 * 3600)?;
        within("lag", self.lag.as_millis() as u64, 0, 60_000)
    }
}

/// Why a node's partitions could not be started. Each says what to do.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A setting is out of range.
    #[error("{setting}: {reason}")]
    Config {
        /// Which.
        setting: &'static str,
        /// What is wrong and what would be right.
        reason: String,
    },
    /// No index can be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The operating system gives no thread.
    #[error("no thread for the index: {reason}")]
    Thread {
        /// What it said.
        reason: String,
    },
}

/// All partitions of this node. Cloning is cheap and shares them.
#[derive(Clone)]
pub struct Partitions {
    inner: Arc<Inner>,
}

struct Inner {
    history: HistoryId,
    views: Vec<Arc<PartitionView>>,
    store: Arc<IndexStore>,
    stop: watch::Sender<bool>,
    failure: watch::Sender<Option<String>>,
    running: Mutex<Option<Running>>,
    #[cfg(test)]
    health: Arc<IndexHealth>,
}

/// What must end before the index is closed.
struct Running {
    tasks: JoinSet<()>,
    flusher: Flusher,
    threads: Threads,
}

impl Partitions {
    /// Opens the index (or wipes it and says why), starts a subscriber a partition and the flusher.
    pub async fn start(
        config: PartitionsConfig,
        cluster: &ClusterInfo,
        log: Arc<dyn Log>,
        seams: Seams,
    ) -> Result<Partitions, StartError> {
        Partitions::start_watched(config, cluster, log, seams, Arc::default()).await
    }

    /// As [`Partitions::start`], for somebody who watches how the index does. Dropping the future stops a check under way.
    pub(crate) async fn start_watched(
        config: PartitionsConfig,
        cluster: &ClusterInfo,
        log: Arc<dyn Log>,
        seams: Seams,
        health: Arc<IndexHealth>,
    ) -> Result<Partitions, StartError> {
        let threads = seams.threads;
        config.check(cluster.partitions)?;
        let opening = Opening::new(&config, cluster, &log, &health, threads);
        let (budget, alarm) = (Arc::clone(&opening.shared.budget), Arc::clone(&opening.shared.alarm));
        let (store, views) = opening.open().await?;
        let (stop, failure) = (watch::Sender::new(false), watch::Sender::new(None));
        let interval = Duration::from_millis(config.flush_interval_ms);
        let room =
            IndexRoom::new(config.index, config.data_dir.as_deref(), config.index_room_bytes, Arc::clone(&health));
        let flusher = Flusher::start(views.clone(), Arc::clone(&budget), room, interval, threads)
            .map_err(|error| StartError::Thread { reason: error.to_string() })?;
        let mut tasks = JoinSet::new();
        for view in &views {
            let subscriber = Subscriber {
                view: Arc::clone(view),
                log: Arc::clone(&log),
                config: SubscriberConfig {
                    bytes_max: config.fetch_bytes_max,
                    wait: Duration::from_millis(config.fetch_wait_ms),
                    lag: config.lag,
                    index_blocks: store.index().blocks(),
                    threads,
                },
                room: Arc::clone(&budget),
                stop: stop.subscribe(),
            };
            let (view, failure) = (Arc::clone(view), failure.clone());
            tasks.spawn(async move {
                if let Err(error) = subscriber.run().await {
                    fail(&failure, format!("partition {}: {error}", view.partition()));
                }
            });
        }
        for view in &views {
            tasks.spawn(stay_ready(Arc::clone(view), stop.subscribe()));
        }
        let keeper = Keeper {
            views: views.clone(),
            store: Arc::clone(&store),
            health: Arc::clone(&health),
            alarm,
            failure: failure.clone(),
            threads,
            stop: stop.subscribe(),
        };
        tasks.spawn(keeper.run());
        if config.scrub_period > Duration::ZERO && store.index().blocks() {
            let (views, period) = (views.clone(), config.scrub_period);
            let health = Arc::clone(&health);
            tasks.spawn(Scrubber { views, health, period, threads, stop: stop.subscribe() }.run());
        }
        let running = Mutex::new(Some(Running { tasks, flusher, threads }));
        let inner = Inner {
            history: cluster.history,
            views,
            store,
            stop,
            failure,
            running,
            #[cfg(test)]
            health,
        };
        Ok(Partitions { inner: Arc::new(inner) })
    }

    /// How many.
    #[must_use]
    pub fn count(&self) -> u16 {
        self.inner.views.len() as u16
    }

    /// The history that they belong to.
    #[must_use]
    pub fn history(&self) -> HistoryId {
        self.inner.history
    }

    /// The partition where a key lives.
    #[must_use]
    pub fn of_key(&self, key: &[u8]) -> &Arc<PartitionView> {
        &self.inner.views[usize::from(partition_of(key, self.count()).get())]
    }

    /// A partition by number; `None` when there is none.
    #[must_use]
    pub fn get(&self, partition: PartitionId) -> Option<&Arc<PartitionView>> {
        self.inner.views.get(usize::from(partition.get()))
    }

    /// All, by number.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<PartitionView>> + '_ {
        self.inner.views.iter()
    }

    /// Whether every partition has once caught up with an end that its leader confirmed after the start.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.inner.views.iter().all(|view| view.is_ready())
    }

    /// Resolves when this node cannot go on, with a sentence that says why and what to do; else never.
    pub async fn failed(&self) -> String {
        let mut failure = self.inner.failure.subscribe();
        let failed = failure.wait_for(Option::is_some).await.ok().and_then(|failure| failure.clone());
        match failed {
            Some(sentence) => sentence,
            None => std::future::pending().await,
        }
    }

    /// Answers everybody who waits here, now and from now on, that this node stops. Reads that need not wait go on.
    pub(crate) fn end_waits(&self) {
        self.iter().for_each(|view| view.end_waits());
    }

    /// Stops the subscribers, brings everything applied into the index and onto the medium, and marks a clean stop. Reads go
    /// on at the last position. A second call does nothing.
    pub async fn shutdown(&self) {
        self.inner.stop.send_replace(true);
        let Some(mut running) = self.inner.running.lock().take() else { return };
        while running.tasks.join_next().await.is_some() {}
        let inner = Arc::clone(&self.inner);
        let closed = run_blocking(running.threads, move || {
            running.flusher.stop();
            // What is still to be wiped does not stand the next start's check.
            match inner.views.iter().all(|view| view.is_whole()) {
                true => Ok(inner.store.close_clean()?),
                false => Ok(()),
            }
        });
        if let Err(error) = closed.await {
            tracing::warn!(%error, "the index was not closed cleanly: it may be replayed at the next start");
        }
    }
}

/// Notes the first failure.
pub(crate) fn fail(failure: &watch::Sender<Option<String>>, sentence: String) {
    tracing::error!("{sentence}");
    failure.send_if_modified(|failed| {
        let first = failed.is_none();
        if first {
            *failed = Some(sentence);
        }
        first
    });
}

/// Asks the leader for an end until it answers, waits until that is applied, and the partition is ready; again after each
/// wipe.
async fn stay_ready(view: Arc<PartitionView>, mut stop: watch::Receiver<bool>) {
    let staying = async {
        let mut wipes = view.wipes();
        loop {
            let epoch = *wipes.borrow_and_update();
            let end = loop {
                match view.linearizable_end(Instant::now() + READY_ASK).await {
                    Ok(end) => break end,
                    Err(_) => tokio::time::sleep(READY_RETRY).await,
                }
            };
            let mut changes = view.applied_changes();
            // The view holds both senders, so that neither wait can fail.
            let _ = changes.wait_for(|shown| shown.is_some_and(|applied_end| applied_end >= end)).await;
            view.set_ready(epoch);
            let _ = wipes.changed().await;
        }
    };
    tokio::select! {
        () = staying => {}
        _ = stop.wait_for(|stop| *stop) => {}
    }
}

/// How long one question for readiness may take, and the pause after one that failed.
const READY_ASK: Duration = Duration::from_secs(5);
const READY_RETRY: Duration = Duration::from_millis(100);

#[cfg(test)]
mod damage_tests;
#[cfg(test)]
mod tests;
