//! Keeper: the one task of a node that wipes what damage was met in, so that it is replayed from the log.
//!
//! ```text
//! the check at start, a read, a flush, a guard, the scrub ── condemn ──▶ alarm ──▶ keeper ─┬─ wipe that partition
//!                                   the index itself, or every partition: ─────────────────┴─ replace the index
//! ```
//!
//! * Invariant: a condemned partition is wiped without anybody's help; what fails is tried again, with growing pauses.
//! * One log line and one count for each wipe. Readiness follows by itself: a wiped partition is not ready until it has
//!   caught up.
//! * Deliberately absent: how damage is noticed (`view`), what replays (`subscriber`).
//! * Source: ADR 0012.

use crate::index::{IndexFault, IndexHealth, IndexStore, StoreError};
use crate::partitions::fail;
use crate::subscriber::run_blocking;
use crate::view::{PartitionView, wipe};
use duramen_common::seams::Threads;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep};

/// Pauses between wipes: from the first, doubling, up to the longest. A medium that damages everything must not keep the
/// node busy with nothing but replays.
const PAUSE_FIRST: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(60);
/// Without a wipe for this long, pauses begin anew.
const CALM: Duration = Duration::from_secs(600);

/// Sees to damage.
pub(crate) struct Keeper {
    pub views: Vec<Arc<PartitionView>>,
    pub store: Arc<IndexStore>,
    pub health: Arc<IndexHealth>,
    pub alarm: Arc<Notify>,
    /// Told when the index's folder is not this node's any more: then it cannot go on.
    pub failure: watch::Sender<Option<String>>,
    pub threads: Threads,
    pub stop: watch::Receiver<bool>,
}

impl Keeper {
    /// Runs until told to stop.
    pub(crate) async fn run(mut self) {
        let mut stop = self.stop.clone();
        tokio::select! {
            () = self.keep() => {}
            _ = stop.wait_for(|stop| *stop) => {}
        }
    }

    async fn keep(&mut self) {
        let mut pause = PAUSE_FIRST;
        let mut last = Instant::now();
        loop {
            self.alarm.notified().await;
            while self.views.iter().any(|view| view.condemned().is_some()) {
                self.wipe_condemned().await;
                if last.elapsed() > CALM {
                    pause = PAUSE_FIRST;
                }
                last = Instant::now();
                sleep(pause).await;
                pause = (pause * 2).min(PAUSE_MAX);
            }
        }
    }

    /// Wipes every condemned partition; or everything, if the index as a whole is condemned or nothing in it is good.
    async fn wipe_condemned(&self) {
        let condemned: Vec<_> = self.views.iter().filter_map(|view| Some((view, view.condemned()?))).collect();
        let index = self.store.index();
        let whole = condemned.iter().find(|(_, fault)| fault.is_of_the_whole(&**index));
        let is_all = condemned.len() == self.views.len();
        if let Some((_, fault)) = whole.or(condemned.first().filter(|_| is_all)) {
            return self.replace(fault).await;
        }
        for (view, fault) in condemned {
            let partition = view.partition();
            tracing::warn!(%partition, %fault, "damage in the index: this partition is wiped, and replayed from the log");
            self.health.count_wipe(fault.cause());
            let view = Arc::clone(view);
            if let Err(failed) = run_blocking(self.threads, move || view.wipe()).await {
                return self.replace(&failed).await;
            }
        }
    }

    /// The index as a whole cannot be used.
    async fn replace(&self, fault: &IndexFault) {
        tracing::warn!(%fault, "damage in the index: all of it is wiped, and replayed from the log");
        self.health.count_wipe(fault.cause());
        let (views, store) = (self.views.clone(), Arc::clone(&self.store));
        match self.threads.run(move || wipe::replace_index(&views, &store)).await {
            Ok(Ok(())) => {}
            Ok(Err(error @ StoreError::Lost { .. })) => fail(&self.failure, error.to_string()),
            Ok(Err(error)) => tracing::error!(%error, "no fresh index can be opened; it is tried again"),
            Err(error) => tracing::error!(%error, "the index was not replaced; it is tried again"),
        }
    }
}
