//! The sync driver: one thread a node writes and syncs what all partitions have waiting.
//!
//! * A round: take everything that waits, write one gathered piece per partition, then sync each file, then complete the
//!   callbacks of each partition in order.
//! * The first failure poisons the store: what waits gets the error, in order, and nothing is acknowledged or written
//!   until the store is opened again, which rewrites the tail (after a failed fsync the kernel's pages are clean, so
//!   that a second fsync would lie). Reads go on.
//! * A full disk is not a failure: once the reserve is used up too, a partition's share of the round is held and tried again at each
//!   idle time until there is space. Its callbacks wait so long, and what comes after it waits in order; other partitions go on.
//! * A partition idle for `idle_ms`: its small state and durable end are marked, so that recovery can tell damage from a
//!   torn tail. That others are busy does not put it off.
//! * The driver is a seam: a thread, a task (simulation), or whoever calls `step` (tests).
//! * Source: DESIGN D2.

use super::StoreError;
use super::partition::Shared;
use super::reserve::Reserve;
use super::round::{Group, take};
use super::types::StoreConfig;
use crate::disk::Disk;
use duramen_common::ids::PartitionId;
use duramen_common::planted::{Plant, is_planted};
use duramen_common::seams::Threads;
use parking_lot::{Condvar, Mutex, RwLock};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, timeout};

/// What all partitions of a node share.
pub(super) struct SyncShared {
    pub config: Arc<StoreConfig>,
    /// Where reading files may block.
    pub threads: Threads,
    /// What is left when the disk is full.
    pub reserve: Arc<Reserve>,
    partitions: RwLock<Vec<Arc<Shared>>>,
    cache_share: AtomicUsize,
    poison: watch::Sender<Option<Arc<str>>>,
    signal: Mutex<Signal>,
    wakes: Condvar,
    notify: Notify,
    /// Shares of rounds that found no space, at most one per partition; only the driver takes them.
    held: Mutex<Vec<Group>>,
    may_wait: AtomicBool,
}

#[derive(Default)]
struct Signal {
    work: bool,
    stop: bool,
}

impl SyncShared {
    pub fn new(config: Arc<StoreConfig>, threads: Threads, reserve: Arc<Reserve>) -> Arc<SyncShared> {
        Arc::new(SyncShared {
            cache_share: AtomicUsize::new(config.cache_bytes_partition_max),
            config,
            threads,
            reserve,
            partitions: RwLock::default(),
            poison: watch::Sender::new(None),
            signal: Mutex::default(),
            wakes: Condvar::new(),
            notify: Notify::new(),
            held: Mutex::default(),
            may_wait: AtomicBool::new(true),
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
        self.held.lock().clear();
    }

    /// How many partitions wait for space.
    pub fn waiting_for_space(&self) -> usize {
        self.held.lock().len()
    }

    /// Makes a full disk an error like any other.
    pub fn stop_waiting(&self) {
        self.may_wait.store(false, Ordering::Release);
        self.wake();
    }

    /// Tells the thread to finish.
    pub fn stop(&self) {
        self.may_wait.store(false, Ordering::Release);
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
        if mark {
            self.reserve.refill();
        }
        let mut groups = self.due(mark);
        let any = !groups.is_empty();
        for group in &mut groups {
            group.result = self.check().and_then(|()| group.write());
            self.note_failure(&group.result);
        }
        for mut group in groups {
            if group.result.is_ok() {
                group.result = self.check().and_then(|()| group.sync());
                if is_planted(Plant::SyncErrorIgnored) {
                    group.result = Ok(());
                }
                self.note_failure(&group.result);
            }
            match &group.result {
                Err(error) if self.waits_for(error) => self.hold(group),
                _ => self.complete(&mut group),
            }
        }
        any
    }

    fn hold(&self, mut group: Group) {
        if !std::mem::replace(&mut group.was_held, true)
            && let (partition, Err(error)) = (group.shared.partition, &group.result)
        {
            tracing::warn!(%partition, %error, "even the reserve is used up: this partition waits for space on the disk");
        }
        self.held.lock().push(group);
    }

    /// What this round is about: what waits in each partition, or what has waited for space since an earlier round.
    fn due(&self, mark: bool) -> Vec<Group> {
        let partitions: Vec<Arc<Shared>> = self.partitions.read().clone();
        let mut held = self.held.lock();
        let is_held = |shared: &Arc<Shared>| held.iter().any(|group| Arc::ptr_eq(&group.shared, shared));
        let fresh: Vec<Group> =
            partitions.iter().filter(|shared| !is_held(shared)).filter_map(|shared| take(shared, mark)).collect();
        let again = mark || !self.may_wait.load(Ordering::Acquire);
        let mut due = if again { std::mem::take(&mut *held) } else { Vec::new() };
        due.extend(fresh);
        due
    }

    fn waits_for(&self, error: &StoreError) -> bool {
        error.is_no_space() && self.may_wait.load(Ordering::Acquire)
    }

    fn note_failure(&self, result: &Result<(), StoreError>) {
        let Err(error) = result else { return };
        if self.waits_for(error) {
            return;
        }
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
        if group.was_held && group.result.is_ok() {
            tracing::info!(partition = %shared.partition, "there is space again: this partition goes on");
        }
        let (durable, committed) = {
            let mut inner = shared.inner.lock();
            inner.waiting_bytes -= group.waiting.iter().map(|waiting| waiting.bytes).sum::<usize>();
            if group.result.is_ok() {
                group.publish(&mut inner, self.cache_share.load(Ordering::Relaxed))
            } else {
                (None, None)
            }
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
