//! The check of what an index holds, before anything of it is served: each entry against its checksum, all entries of a
//! partition against the set hash in its meta.
//!
//! * In: an index that opened, how many partitions it holds. Out: a verdict per partition.
//! * Partitions are checked side by side, as many as there are processors. It reads everything, says how far it is every
//!   few seconds, and ends early when told to.
//! * What it cannot see: entries that belong to no partition of this cluster. Nobody reads those.
//! * Source: ADR 0012.

use super::Index;
use super::fault::IndexFault;
use super::layout::{self, PartitionMeta};
use super::set_hash::SetHash;
use duramen_common::PartitionId;
use duramen_common::planted::{Plant, is_planted};
use parking_lot::Mutex;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering};
use std::time::Duration;
use tokio::time::Instant;

/// What a partition's entries are good for: the meta that they belong to, `None` where there is nothing at all.
pub(crate) type Verdict = Result<Option<PartitionMeta>, IndexFault>;

/// How often the progress is told.
const REPORT_EVERY: Duration = Duration::from_secs(3);
/// Entries after which the counters are moved on and the stop signal is looked at.
const COUNT_EVERY: u64 = 1024;

/// How far a check has come. Shared with whoever shows it, and stops it.
#[derive(Debug, Default)]
pub(crate) struct CheckProgress {
    entries: AtomicU64,
    entries_expected: AtomicU64,
    stop: AtomicBool,
    reported: Mutex<Option<(Instant, Instant)>>,
}

impl CheckProgress {
    /// Entries checked so far, and how many the metas speak of.
    pub(crate) fn entries(&self) -> (u64, u64) {
        (self.entries.load(Ordering::Relaxed), self.entries_expected.load(Ordering::Relaxed))
    }

    /// Makes the check end soon, without a verdict.
    pub(crate) fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    /// Whether it was told to stop.
    pub(crate) fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    fn begin(&self, entries_expected: u64) {
        self.entries.store(0, Ordering::Relaxed);
        self.entries_expected.store(entries_expected, Ordering::Relaxed);
        let now = Instant::now();
        *self.reported.lock() = Some((now, now));
    }

    /// Counts entries, and logs now and then.
    fn add(&self, entries: u64) {
        let entries = self.entries.fetch_add(entries, Ordering::Relaxed) + entries;
        let Some(mut reported) = self.reported.try_lock() else { return };
        let Some((began, last)) = reported.as_mut() else { return };
        let now = Instant::now();
        if now.duration_since(*last) < REPORT_EVERY {
            return;
        }
        *last = now;
        let rate_per_s = (entries as f64 / now.duration_since(*began).as_secs_f64().max(0.001)) as u64;
        let expected = self.entries_expected.load(Ordering::Relaxed);
        tracing::info!(entries, expected, rate_per_s, "checking the index");
    }

    fn done(&self) {
        let (entries, _) = self.entries();
        let took_ms = self.reported.lock().take().map_or(0, |(began, _)| began.elapsed().as_millis() as u64);
        if entries > 0 {
            tracing::info!(entries, took_ms, "the index was checked");
        }
    }
}

/// Checks all partitions on up to `threads` threads; `None` when it was stopped.
pub(crate) fn check_all(
    index: &Arc<dyn Index>,
    partitions: u16,
    threads: usize,
    progress: &CheckProgress,
) -> Option<Vec<Verdict>> {
    let metas: Vec<Verdict> = (0..partitions).map(|number| stored_meta(&**index, PartitionId::new(number))).collect();
    progress.begin(metas.iter().flatten().flatten().map(|meta| meta.set.entries).sum());
    let verdicts: Vec<Mutex<Option<Verdict>>> = metas.iter().map(|_| Mutex::new(None)).collect();
    let next = AtomicU16::new(0);
    let work = || {
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            let (Some(meta), Some(verdict)) = (metas.get(usize::from(number)), verdicts.get(usize::from(number)))
            else {
                return;
            };
            *verdict.lock() = match meta {
                Ok(meta) => check(&**index, PartitionId::new(number), *meta, progress),
                Err(fault) => Some(Err(fault.clone())),
            };
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..threads.min(usize::from(partitions)) {
            // Without a thread the others do its work.
            let _ = std::thread::Builder::new().name("index-check".to_owned()).spawn_scoped(scope, work);
        }
        work();
    });
    progress.done();
    verdicts.into_iter().map(Mutex::into_inner).collect()
}

fn stored_meta(index: &dyn Index, partition: PartitionId) -> Verdict {
    let stored = index.get(&layout::meta_key(partition))?;
    stored.map(|bytes| PartitionMeta::decode(partition, &bytes)).transpose()
}

/// The verdict on one partition; `None` when told to stop.
fn check(
    index: &dyn Index,
    partition: PartitionId,
    meta: Option<PartitionMeta>,
    progress: &CheckProgress,
) -> Option<Verdict> {
    if is_planted(Plant::IndexCheckSkipped) {
        return Some(Ok(meta));
    }
    let found = match stored_set(index, partition, progress) {
        Ok(found) => found?,
        Err(fault) => return Some(Err(fault)),
    };
    let wanted = meta.map(|meta| meta.set).unwrap_or_default();
    if found == wanted {
        return Some(Ok(meta));
    }
    Some(Err(IndexFault::Incomplete { found: found.entries, expected: wanted.entries }))
}

/// The set of a partition's entries, each verified; `None` when told to stop.
fn stored_set(
    index: &dyn Index,
    partition: PartitionId,
    progress: &CheckProgress,
) -> Result<Option<SetHash>, IndexFault> {
    let mut set = SetHash::default();
    let mut fault = None;
    let mut counted = 0;
    for (low, high) in layout::ranges(partition) {
        let (low, high) = (low.as_ref().map(Vec::as_slice), high.as_ref().map(Vec::as_slice));
        index.range(low, high, &mut |key, bytes| {
            match layout::verified_hash(key, bytes) {
                Ok(hash) => set.insert(hash),
                Err(error) => fault = Some(error),
            }
            if set.entries.is_multiple_of(COUNT_EVERY) {
                progress.add(set.entries - counted);
                counted = set.entries;
            }
            if fault.is_some() || progress.is_stopped() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })?;
    }
    progress.add(set.entries - counted);
    match fault {
        Some(fault) => Err(fault),
        None if progress.is_stopped() => Ok(None),
        None => Ok(Some(set)),
    }
}
