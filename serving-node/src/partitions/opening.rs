//! From a folder to views: the index is opened and checked before anything is served.
//!
//! * In: the configuration, what the log says about the cluster. Out: the store, and a view per partition.
//! * A partition that does not stand the check begins condemned, and the keeper wipes it while the others serve. An index
//!   that fails as a whole is replaced.
//! * The marker says `opening` until the check is over, so that files which kill the process are wiped by the next start.
//! * Source: DESIGN D8; ADR 0012.

use super::{PartitionsConfig, StartError};
use crate::index::check::{Verdict, check_all};
use crate::index::{IndexFault, IndexHealth, IndexStore, StoreConfig, StoreError, WipeCause, WipeReason};
use crate::tail::TailQuestion;
use crate::view::flusher::Budget;
use crate::view::{PartitionView, Shared, WaitersLimit};
use duramen_common::PartitionId;
use duramen_common::log::Log;
use duramen_common::protocol::ClusterInfo;
use duramen_common::seams::Threads;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;

/// How long a start waits for descriptors, memory or space, and how long between two tries.
const SHORTAGE_WAIT: Duration = Duration::from_secs(60);
const SHORTAGE_PAUSE: Duration = Duration::from_secs(1);

type Opened = (Arc<IndexStore>, Vec<Arc<PartitionView>>);

/// What views share, before there is an index.
pub(super) struct SharedParts {
    pub budget: Arc<Budget>,
    pub alarm: Arc<Notify>,
    limit: Arc<WaitersLimit>,
    recent_bytes_max: usize,
}

/// Everything that opening needs.
pub(super) struct Opening {
    pub shared: SharedParts,
    store: StoreConfig,
    questions: Vec<Arc<TailQuestion>>,
    health: Arc<IndexHealth>,
    threads: Threads,
}

/// Stops the check when the start is given up: the thread that checks does not end with the task that waits for it.
struct StopCheck(Arc<IndexHealth>);

impl Drop for StopCheck {
    fn drop(&mut self) {
        self.0.check.stop();
    }
}

impl Opening {
    pub(super) fn new(
        config: &PartitionsConfig,
        cluster: &ClusterInfo,
        log: &Arc<dyn Log>,
        health: &Arc<IndexHealth>,
        threads: Threads,
    ) -> Opening {
        let tail_timeout = Duration::from_millis(config.tail_timeout_ms);
        let question = |number| TailQuestion::new(Arc::clone(log), PartitionId::new(number), tail_timeout);
        Opening {
            shared: SharedParts {
                budget: Arc::new(Budget::new(config.overlay_bytes_max, config.flush_bytes)),
                alarm: Arc::new(Notify::new()),
                limit: Arc::new(WaitersLimit::new(config.waiters_max)),
                recent_bytes_max: config.recent_bytes_max / usize::from(cluster.partitions),
            },
            store: StoreConfig {
                data_dir: config.data_dir.clone(),
                kind: config.index,
                cache_bytes: config.cache_bytes,
                flush_every_ms: config.flush_interval_ms,
                history: cluster.history,
                boot_id_path: config.boot_id_path.clone(),
            },
            questions: (0..cluster.partitions).map(question).collect(),
            health: Arc::clone(health),
            threads,
        }
    }

    /// Opens and checks, where that may block.
    pub(super) async fn open(self) -> Result<Opened, StartError> {
        let _stop = StopCheck(Arc::clone(&self.health));
        let threads = self.threads;
        let opened = threads.run(move || self.open_here()).await;
        opened.map_err(|error| StartError::Thread { reason: error.to_string() })?
    }

    fn open_here(self) -> Result<Opened, StartError> {
        let (store, verdicts) = self.open_in_time()?;
        let shared = Shared {
            index: Arc::clone(store.index()),
            limit: self.shared.limit,
            budget: self.shared.budget,
            recent_bytes_max: self.shared.recent_bytes_max,
            alarm: self.shared.alarm,
        };
        let views = verdicts.into_iter().zip(self.questions).enumerate().map(|(number, (verdict, tail))| {
            Arc::new(PartitionView::open(PartitionId::new(number as u16), verdict, &shared, tail))
        });
        Ok((Arc::new(store), views.collect()))
    }

    /// As [`Opening::open_once`], for as long as only descriptors, memory or space are lacking.
    fn open_in_time(&self) -> Result<(IndexStore, Vec<Verdict>), StartError> {
        let began = Instant::now();
        loop {
            match self.open_once() {
                Err(StartError::Store(error))
                    if error.is_passing() && began.elapsed() < SHORTAGE_WAIT && !self.health.check.is_stopped() =>
                {
                    tracing::warn!(%error, "the index cannot be opened now: it is tried again");
                    self.health.set_cannot_open(Some(format!("its index cannot be opened now: {error}")));
                    #[expect(clippy::disallowed_methods, reason = "nothing tells when the system is less short")]
                    std::thread::sleep(SHORTAGE_PAUSE);
                }
                opened => {
                    self.health.set_cannot_open(None);
                    return opened;
                }
            }
        }
    }

    /// The index, checked.
    fn open_once(&self) -> Result<(IndexStore, Vec<Verdict>), StartError> {
        let opened = IndexStore::open(&self.store)?;
        if let Some(reason) = &opened.wiped {
            tracing::warn!(%reason, "the index was wiped, and is replayed from the log");
            let does_not_open = matches!(reason, WipeReason::DoesNotOpen { .. });
            self.health.count_wipe(if does_not_open { WipeCause::Engine } else { WipeCause::Start });
        }
        let store = opened.store;
        let verdicts = self.verdicts(&store)?;
        store.trust()?;
        Ok((store, verdicts))
    }

    /// The verdicts on the partitions. An index that fails as a whole is replaced here.
    fn verdicts(&self, store: &IndexStore) -> Result<Vec<Verdict>, StartError> {
        let partitions = self.questions.len() as u16;
        let threads = match self.threads {
            Threads::System => std::thread::available_parallelism().map_or(1, usize::from),
            Threads::None => 1,
        };
        let Some(verdicts) = check_all(store.index(), partitions, threads, &self.health.check) else {
            store.trust()?;
            return Err(StoreError::Stopped.into());
        };
        let mut faults = verdicts.iter().filter_map(|verdict| verdict.as_ref().err());
        let Some(fault) = faults.find(|fault| fault.is_of_the_whole(&**store.index())) else { return Ok(verdicts) };
        if let IndexFault::Engine(error) = fault
            && error.is_passing()
        {
            return Err(StoreError::Short(error.clone()).into());
        }
        tracing::warn!(%fault, "the index failed its check: it is wiped, and replayed from the log");
        self.health.count_wipe(fault.cause());
        store.start_over()?;
        Ok((0..partitions).map(|_| Ok(None)).collect())
    }
}
