//! The sync driver: one thread a node writes and syncs what all partitions have waiting.
//!
//! * A round: take everything that waits, write one gathered piece per partition, then sync each file, then complete the
//!   callbacks of each partition in order.
//! * The first failure poisons the store: what waits gets the error, in order, and nothing is acknowledged or written
//!   until the store is opened again, which rewrites the tail (after a failed fsync the kernel's pages are clean, so
//!   that a second fsync would lie). Reads go on.
//! * A partition idle for `idle_ms`: its small state and durable end are marked, so that recovery can tell damage from a
//!   torn tail. That others are busy does not put it off.
//! * The driver is a seam: a thread, a task (simulation), or whoever calls `step` (tests).
//! * Source: DESIGN D2.

use super::StoreError;
use super::partition::{Inner, Op, Shared, Waiting};
use super::segment::Segment;
use super::types::{SmallState, StoreConfig};
use super::writer::{Base, Writer};
use crate::disk::Disk;
use duramen_common::ids::{Offset, PartitionId};
use duramen_common::planted::{Plant, is_planted};
use duramen_common::seams::Threads;
use parking_lot::{Condvar, Mutex, RwLock};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, timeout};

/// What all partitions of a node share.
pub(super) struct SyncShared {
    pub config: Arc<StoreConfig>,
    /// Where reading files may block.
    pub threads: Threads,
    partitions: RwLock<Vec<Arc<Shared>>>,
    cache_share: AtomicUsize,
    poison: watch::Sender<Option<Arc<str>>>,
    signal: Mutex<Signal>,
    wakes: Condvar,
    notify: Notify,
}

#[derive(Default)]
struct Signal {
    work: bool,
    stop: bool,
}

/// One partition's share of a round.
struct Group {
    shared: Arc<Shared>,
    waiting: Vec<Waiting>,
    /// The small state as of this round; a later one may hold marks that this round's entries do not lead to.
    state: SmallState,
    is_state_new: bool,
    marker: bool,
    /// Where the partition will be durable up to: index after the last, offset end.
    durable: Option<(u64, Offset)>,
    superseded: bool,
    result: Result<(), StoreError>,
}

impl SyncShared {
    pub fn new(config: Arc<StoreConfig>, threads: Threads) -> Arc<SyncShared> {
        Arc::new(SyncShared {
            cache_share: AtomicUsize::new(config.cache_bytes_partition_max),
            config,
            threads,
            partitions: RwLock::default(),
            poison: watch::Sender::new(None),
            signal: Mutex::default(),
            wakes: Condvar::new(),
            notify: Notify::new(),
        })
    }

    /// Whether somebody has this partition's log; one that nobody has any more is let go.
    pub fn is_open(&self, partition: PartitionId) -> bool {
        let mut partitions = self.partitions.write();
        partitions.retain(|other| other.partition != partition || Arc::strong_count(other) > 1);
        partitions.iter().any(|other| other.partition == partition)
    }

    /// Lets a partition take part. It stays until the store is closed, so that a clean stop marks it.
    pub fn register(&self, shared: &Arc<Shared>) {
        let mut partitions = self.partitions.write();
        partitions.push(Arc::clone(shared));
        let share = self.config.cache_bytes_max / partitions.len().max(1);
        self.cache_share.store(share.min(self.config.cache_bytes_partition_max), Ordering::Relaxed);
    }

    /// Refuses new work once something has failed or the store is closing.
    pub fn admit(&self) -> Result<(), StoreError> {
        if self.signal.lock().stop {
            return Err(StoreError::Closed);
        }
        self.check()
    }

    /// Refuses once something has failed.
    pub fn check(&self) -> Result<(), StoreError> {
        match self.poisoned() {
            None => Ok(()),
            Some(cause) => Err(StoreError::Poisoned { cause }),
        }
    }

    /// What failed, when something did.
    pub fn poisoned(&self) -> Option<Arc<str>> {
        self.poison.borrow().clone()
    }

    /// Returns when something has failed, with what did.
    pub async fn failed(&self) -> Arc<str> {
        let mut poison = self.poison.subscribe();
        let cause = poison.wait_for(Option::is_some).await.ok().and_then(|cause| cause.clone());
        match cause {
            Some(cause) => cause,
            None => std::future::pending().await,
        }
    }

    /// Says that there is work.
    pub fn wake(&self) {
        {
            let mut signal = self.signal.lock();
            if signal.work {
                return;
            }
            signal.work = true;
        }
        self.wakes.notify_one();
        self.notify.notify_one();
    }

    /// Waits for work, for a driver that is a task.
    pub async fn work(&self) {
        self.notify.notified().await;
    }

    /// Lets all partitions go: they refer back to this.
    pub fn clear(&self) {
        self.partitions.write().clear();
    }

    /// Tells the thread to finish.
    pub fn stop(&self) {
        self.signal.lock().stop = true;
        self.wakes.notify_one();
    }

    /// The thread's body.
    pub fn run(&self) {
        let idle = Duration::from_millis(self.config.idle_ms);
        let mut marked = Instant::now();
        loop {
            let (work, stop) = {
                let mut signal = self.signal.lock();
                if !signal.work && !signal.stop {
                    self.wakes.wait_for(&mut signal, idle);
                }
                (std::mem::take(&mut signal.work), signal.stop)
            };
            // A partition may be idle while others keep this thread busy.
            if !work || marked.elapsed() >= idle {
                self.step_idle();
                marked = Instant::now();
            } else {
                self.step();
            }
            if stop {
                while self.step() {}
                self.step_idle();
                return;
            }
        }
    }

    /// The task's body; never ends by itself.
    pub async fn drive(&self, disk: &dyn Disk) {
        let idle = Duration::from_millis(self.config.idle_ms);
        let mut marked = Instant::now();
        loop {
            let is_work = timeout(idle, self.work()).await.is_ok();
            let delay = disk.delay();
            if delay > Duration::ZERO {
                sleep(delay).await;
            }
            if !is_work || marked.elapsed() >= idle {
                self.step_idle();
                marked = Instant::now();
            } else {
                self.step();
            }
        }
    }

    /// One round; says whether there was anything.
    pub fn step(&self) -> bool {
        self.signal.lock().work = false;
        self.round(false)
    }

    /// One round that also marks; says whether there was anything.
    pub fn step_idle(&self) -> bool {
        self.round(true)
    }

    fn round(&self, mark: bool) -> bool {
        let partitions: Vec<Arc<Shared>> = self.partitions.read().clone();
        let mut groups: Vec<Group> = partitions.iter().filter_map(|shared| take(shared, mark)).collect();
        for group in &mut groups {
            group.result = self.check().and_then(|()| group.write());
            self.note_failure(&group.result);
        }
        for group in &mut groups {
            if group.result.is_ok() {
                group.result = self.check().and_then(|()| group.sync());
                if is_planted(Plant::SyncErrorIgnored) {
                    group.result = Ok(());
                }
                self.note_failure(&group.result);
            }
            self.complete(group);
        }
        !groups.is_empty()
    }

    fn note_failure(&self, result: &Result<(), StoreError>) {
        let Err(error) = result else { return };
        let first = self.poison.send_if_modified(|poison| {
            let first = poison.is_none();
            poison.get_or_insert_with(|| Arc::from(error.to_string()));
            first
        });
        if first {
            tracing::error!(%error, "the store stops writing until this node is restarted");
        }
    }

    /// Publishes what is durable and answers who waits.
    fn complete(&self, group: &mut Group) {
        let shared = &group.shared;
        let (durable, committed) = {
            let mut inner = shared.inner.lock();
            inner.waiting_bytes -= group.waiting.iter().map(|waiting| waiting.bytes).sum::<usize>();
            if group.result.is_ok() { group.publish(&mut inner, self) } else { (None, None) }
        };
        if let Some(durable) = durable {
            shared.durable_watch.send_replace(durable);
        }
        if let Some(committed) = committed {
            shared.committed_watch.send_replace(committed);
        }
        for done in group.waiting.iter_mut().filter_map(|waiting| waiting.done.take()) {
            done(group.result.clone());
        }
        shared.drained.notify_waiters();
    }
}

/// Takes what waits in a partition.
fn take(shared: &Arc<Shared>, mark: bool) -> Option<Group> {
    let mut inner = shared.inner.lock();
    // What waits records the durable end by itself, and is marked once nothing follows it.
    let marker = mark && inner.waiting.is_empty() && (inner.unmarked || inner.small_dirty);
    if inner.waiting.is_empty() && !marker {
        return None;
    }
    let waiting: Vec<Waiting> = inner.waiting.drain(..).collect();
    let (state, is_state_new) = (inner.small.clone(), std::mem::take(&mut inner.small_dirty));
    inner.unmarked = !marker;
    inner.cut = None;
    Some(Group {
        shared: Arc::clone(shared),
        waiting,
        state,
        is_state_new,
        marker,
        durable: None,
        superseded: false,
        result: Ok(()),
    })
}

impl Group {
    fn write(&mut self) -> Result<(), StoreError> {
        let mut writer = self.shared.writer.lock();
        let mut rolled = false;
        // What a baseline replaces is not written any more: the segments that it would begin would hold the baseline's marks.
        let is_baseline = |waiting: &Waiting| matches!(&waiting.op, Some(Op::Roll(base)) if base.baseline);
        let replaced = self.waiting.iter().rposition(is_baseline).unwrap_or(0);
        for op in self.waiting.iter_mut().skip(replaced).filter_map(|waiting| waiting.op.take()) {
            match op {
                Op::Entries(entries) => {
                    for placed in &entries {
                        if writer.is_full_for(&placed.entry) {
                            let base = writer.next_base();
                            roll(&self.shared, &mut writer, base, &self.state)?;
                            rolled = true;
                        }
                        writer.entry(&placed.entry, placed.first_offset);
                        self.durable = Some((placed.entry.id.index + 1, placed.end()));
                    }
                }
                Op::Roll(base) => {
                    roll(&self.shared, &mut writer, base, &self.state)?;
                    rolled = true;
                    self.superseded |= base.baseline;
                    self.durable = Some((base.index, base.offset));
                }
            }
        }
        if self.is_state_new {
            writer.state(&self.state);
        } else if self.marker && !rolled {
            writer.marker();
        }
        writer.write()
    }

    fn sync(&mut self) -> Result<(), StoreError> {
        self.shared.writer.lock().sync()?;
        if self.superseded {
            drop_superseded(&self.shared)?;
        }
        Ok(())
    }

    /// Moves the frontiers; what the log took back meanwhile does not count.
    fn publish(&self, inner: &mut Inner, sync: &SyncShared) -> (Option<Offset>, Option<Offset>) {
        let Some((mut index, mut offset)) = self.durable else { return (None, None) };
        if let Some((cut_index, cut_offset)) = inner.cut {
            index = index.min(cut_index);
            offset = offset.min(cut_offset);
        }
        inner.durable_next = index.max(inner.durable_next);
        inner.ends.durable_end = offset.max(inner.ends.durable_end);
        inner.cache.evict(inner.durable_next, sync.cache_share.load(Ordering::Relaxed));
        (Some(inner.ends.durable_end), inner.publish_committed())
    }
}

/// Begins a new segment and shows it to readers.
fn roll(shared: &Shared, writer: &mut Writer, base: Base, small: &SmallState) -> Result<(), StoreError> {
    writer.roll(base, small)?;
    shared.inner.lock().segments.push(Arc::clone(writer.segment()));
    Ok(())
}

/// Removes what a baseline has replaced.
fn drop_superseded(shared: &Shared) -> Result<(), StoreError> {
    let old: Vec<Arc<Segment>> = {
        let mut inner = shared.inner.lock();
        let keep = inner.segments.iter().rposition(|segment| segment.header.baseline).unwrap_or(0);
        inner.segments.drain(..keep).collect()
    };
    old.into_iter().try_for_each(|segment| shared.writer.lock().place().discard(segment))
}
