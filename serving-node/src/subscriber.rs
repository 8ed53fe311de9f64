//! Subscriber: one task a partition that fetches, applies, and follows.
//!
//! ```text
//! room in the overlay? ─▶ fetch(position, last batch) ─▶ hear ─▶ apply each ─▶ position
//!                            │ compacted, other log: wipe, start over at 0
//!                            │ other history: the node stops
//!                            └ not available: again, a little later
//! ```
//!
//! * Damage met in the index condemns the partition; it goes on here from 0 once the keeper has wiped it.
//!
//! * Flow control, restart and catching up are this same path (DESIGN D7).
//! * What blocks (judging guards against an index on disk, wiping) runs on threads for that.
//! * Deliberately absent: what a batch means (`apply`), how it is kept (`view`).

use crate::index::{IndexError, IndexFault};
use crate::view::{PartitionView, Position, Progress};
use duramen_common::log::{FetchError, Fetched, FetchedBatch, Log};
use duramen_common::seams::Threads;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

/// Further behind than this, a partition counts as catching up. Unit: records.
const CATCHING_UP_RECORDS: u64 = 8_192;
/// How often catching up is reported.
const REPORT_EVERY: Duration = Duration::from_secs(3);
/// Between attempts while the log does not answer: from this, doubling, up to the next.
const RETRY_FIRST: Duration = Duration::from_millis(20);
const RETRY_MAX: Duration = Duration::from_secs(1);

/// How a subscriber fetches.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SubscriberConfig {
    pub bytes_max: u32,
    pub wait: Duration,
    pub lag: Duration,
    /// Whether looking up versions may block.
    pub index_blocks: bool,
    pub threads: Threads,
}

/// Why a subscriber cannot go on: the node must stop.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SubscriberError {
    #[error("{0}: stop the node, give it an empty data folder or the address of its own cluster, and start it again")]
    OtherHistory(FetchError),
}

/// Follows one partition's log.
pub(crate) struct Subscriber {
    pub view: Arc<PartitionView>,
    pub log: Arc<dyn Log>,
    pub config: SubscriberConfig,
    pub room: Arc<crate::view::flusher::Budget>,
    pub stop: watch::Receiver<bool>,
}

impl Subscriber {
    /// Runs until told to stop, or until it cannot go on.
    pub(crate) async fn run(mut self) -> Result<(), SubscriberError> {
        let mut retry = RETRY_FIRST;
        let mut catch_up = CatchUp::default();
        loop {
            let room = Arc::clone(&self.room);
            if self.or_stop(async move { room.room().await }).await.is_none() {
                return Ok(());
            }
            let Some(position) = self.view.position() else {
                let view = Arc::clone(&self.view);
                match self.or_stop(async move { view.good().await }).await {
                    Some(()) => continue,
                    None => return Ok(()),
                }
            };
            let Position { from, last, .. } = position;
            let (log, bytes_max) = (Arc::clone(&self.log), self.config.bytes_max);
            let partition = self.view.partition();
            // The first answer must not park: on an empty log it is what there is to show.
            let wait = if self.view.has_begun() { self.config.wait } else { Duration::ZERO };
            let asked = async move { log.fetch(partition, from, last, bytes_max, wait).await };
            let Some(answer) = self.or_stop(asked).await else { return Ok(()) };
            match answer {
                Ok(fetched) => {
                    retry = RETRY_FIRST;
                    if self.take(fetched, position, &mut catch_up).await.is_none() {
                        return Ok(());
                    }
                }
                Err(error @ FetchError::OtherHistory { .. }) => return Err(SubscriberError::OtherHistory(error)),
                Err(error) => {
                    if matches!(error, FetchError::Compacted { .. } | FetchError::OtherLog { .. }) {
                        tracing::warn!(%partition, %from, reason = %error, "wiping this partition here, and replaying it from 0");
                        self.wipe().await;
                    } else {
                        tracing::debug!(%partition, %error, "fetch failed, trying again");
                    }
                    if self.or_stop(tokio::time::sleep(retry)).await.is_none() {
                        return Ok(());
                    }
                    retry = (retry * 2).min(RETRY_MAX);
                }
            }
        }
    }

    /// What the index holds is of another log. When it does not empty, the keeper is told.
    async fn wipe(&self) {
        let view = Arc::clone(&self.view);
        let wiped = run_blocking(self.config.threads, move || view.wipe()).await;
        if let Err(fault) = wiped {
            tracing::warn!(partition = %self.view.partition(), %fault, "the index does not let itself be emptied");
        }
    }

    /// Applies what was fetched for a position; `None` when told to stop meanwhile.
    async fn take(&mut self, fetched: Fetched, position: Position, catch_up: &mut CatchUp) -> Option<()> {
        if self.config.lag > Duration::ZERO {
            self.or_stop(tokio::time::sleep(self.config.lag)).await?;
        }
        self.view.hear(&fetched, position.epoch);
        let mut records = 0;
        for batch in fetched.batches {
            match self.apply(batch, position.epoch).await {
                Ok(Some(applied)) => records += applied,
                // Wiped meanwhile.
                Ok(None) => return Some(()),
                Err(fault) => {
                    // Nothing of this batch was applied: it is fetched again.
                    self.view.read_failed(&fault, position.epoch);
                    return self.or_stop(tokio::time::sleep(RETRY_FIRST)).await;
                }
            }
        }
        self.view.skip_to(fetched.next_offset, position.epoch);
        let remaining = fetched.committed_end.since(fetched.next_offset);
        self.view.set_catching_up(catch_up.note(&self.view, records, remaining));
        if fetched.next_offset == position.from {
            // An empty answer that came at once must not become a spin.
            tokio::task::yield_now().await;
        }
        Some(())
    }

    async fn apply(&self, batch: FetchedBatch, epoch: u64) -> Result<Option<u64>, IndexFault> {
        if self.config.index_blocks && crate::apply::has_guards(&batch.batch) {
            let view = Arc::clone(&self.view);
            return run_blocking(self.config.threads, move || view.apply(&batch, epoch)).await;
        }
        self.view.apply(&batch, epoch)
    }

    /// The future's output; `None` when told to stop first.
    async fn or_stop<T>(&mut self, future: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            biased;
            _ = self.stop.wait_for(|stop| *stop) => None,
            output = future => Some(output),
        }
    }
}

/// Runs what may block where that is allowed.
pub(crate) async fn run_blocking<T: Send + 'static>(
    threads: Threads,
    work: impl FnOnce() -> Result<T, IndexFault> + Send + 'static,
) -> Result<T, IndexFault> {
    threads.run(work).await.unwrap_or_else(|error| {
        let reason = error.to_string();
        Err(IndexError { kind: "index", action: "working in a thread", reason }.into())
    })
}

/// Follows how catching up comes along, and says so now and then.
#[derive(Default)]
struct CatchUp {
    /// Set while behind: records so far, and the last report.
    under_way: Option<UnderWay>,
}

struct UnderWay {
    began: Instant,
    records: u64,
    reported: Instant,
    reported_records: u64,
    rate_per_s: f64,
}

impl CatchUp {
    fn note(&mut self, view: &PartitionView, records: u64, remaining: u64) -> Option<Progress> {
        let partition = view.partition();
        if remaining == 0 {
            if let Some(done) = self.under_way.take() {
                let took_ms = done.began.elapsed().as_millis() as u64;
                tracing::info!(%partition, records = done.records + records, took_ms, "caught up with the log");
            }
            return None;
        }
        if self.under_way.is_none() && remaining < CATCHING_UP_RECORDS {
            return None;
        }
        let now = Instant::now();
        let under_way = self.under_way.get_or_insert(UnderWay {
            began: now,
            records: 0,
            reported: now,
            reported_records: 0,
            rate_per_s: 0.0,
        });
        under_way.records += records;
        let since_report = now.duration_since(under_way.reported);
        if since_report >= REPORT_EVERY {
            let lately = (under_way.records - under_way.reported_records) as f64;
            under_way.rate_per_s = lately / since_report.as_secs_f64();
            (under_way.reported, under_way.reported_records) = (now, under_way.records);
            let seconds_left = (remaining as f64 / under_way.rate_per_s.max(1.0)).ceil() as u64;
            let (records, rate_per_s) = (under_way.records, under_way.rate_per_s as u64);
            tracing::info!(%partition, records, rate_per_s, remaining, seconds_left, "catching up with the log");
        }
        let rate_per_s = if under_way.rate_per_s > 0.0 {
            under_way.rate_per_s
        } else {
            under_way.records as f64 / now.duration_since(under_way.began).as_secs_f64().max(0.001)
        };
        Some(Progress { records: under_way.records, rate_per_s, remaining })
    }
}
