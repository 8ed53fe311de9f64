//! Flusher: the one thread of a node that brings applied updates into the index, and the budget that bounds them before.
//!
//! * A generation is closed when it is full, when it is old, or when the node's budget is half used. It goes as one atomic
//!   batch: its updates sorted and each key once, the end that they lead to, the outcomes. One that was cut in parts would
//!   leave an index that is ahead of its end after a kill, and guards would be judged by it.
//! * Generations are small, because sled lets nobody read while a batch goes in (about 20 µs a record): under load they
//!   queue up, and go one after the other, the partitions in turn.
//! * One thread, because sled's write lock is one for the process. Without threads, a task that does the same.
//! * A failed write is final: the node stops, and the next start wipes the index.
//! * Source: DESIGN D8.

use super::overlay::{Flushing, Generation};
use super::{PartitionView, State};
use crate::index::IndexError;
use crate::index::layout::{self, PartitionMeta, chunk_of};
use duramen_common::Offset;
use duramen_common::planted::{Plant, is_planted};
use duramen_common::seams::Threads;
use parking_lot::{Condvar, Mutex};
use std::ops::{Bound, ControlFlow};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::task::AbortHandle;
use tokio::time::{Instant, timeout_at};

/// Bounds the bytes that are applied and not in the index yet, over all partitions.
pub(crate) struct Budget {
    used: AtomicUsize,
    max: usize,
    flush_bytes: usize,
    freed: Notify,
    signal: Mutex<Signal>,
    wake: Condvar,
    wake_task: Notify,
}

#[derive(Default)]
struct Signal {
    nudged: bool,
    stop: bool,
}

impl Budget {
    pub(crate) fn new(max: usize, flush_bytes: usize) -> Budget {
        Budget {
            used: AtomicUsize::new(0),
            max,
            flush_bytes,
            freed: Notify::new(),
            signal: Mutex::new(Signal::default()),
            wake: Condvar::new(),
            wake_task: Notify::new(),
        }
    }

    /// Waits until there is room. What is taken then may go over by one fetch a partition.
    pub(crate) async fn room(&self) {
        loop {
            let freed = self.freed.notified();
            tokio::pin!(freed);
            freed.as_mut().enable();
            if self.used() < self.max {
                return;
            }
            self.nudge();
            freed.await;
        }
    }

    pub(super) fn take(&self, bytes: usize) {
        let used = self.used.fetch_add(bytes, Ordering::AcqRel) + bytes;
        if used >= self.max / 2 {
            self.nudge();
        }
    }

    /// Whether a generation of this size is to be closed.
    pub(super) fn is_full(&self, active_bytes: usize) -> bool {
        active_bytes >= self.flush_bytes
    }

    pub(super) fn release(&self, bytes: usize) {
        self.used.fetch_sub(bytes, Ordering::AcqRel);
        self.freed.notify_waiters();
    }

    /// How much is used now. Unit: bytes.
    pub(super) fn used(&self) -> usize {
        self.used.load(Ordering::Acquire)
    }

    fn is_half_used(&self) -> bool {
        self.used() >= self.max / 2
    }

    pub(super) fn nudge(&self) {
        self.signal.lock().nudged = true;
        self.wake.notify_one();
        self.wake_task.notify_one();
    }

    fn stop(&self) {
        self.signal.lock().stop = true;
        self.wake.notify_one();
    }

    /// Sleeps until nudged, stopped, or the time has come; says whether to stop.
    fn sleep_until(&self, due: Instant) -> bool {
        let mut signal = self.signal.lock();
        if !signal.nudged && !signal.stop {
            let left = due.saturating_duration_since(Instant::now());
            let _ = self.wake.wait_for(&mut signal, left);
        }
        signal.nudged = false;
        signal.stop
    }

    /// As [`Budget::sleep_until`], for a task, which is never told to stop.
    async fn rest_until(&self, due: Instant) {
        if !self.signal.lock().nudged {
            let _ = timeout_at(due, self.wake_task.notified()).await;
        }
        self.signal.lock().nudged = false;
    }
}

/// What flushes. Dropping stops it without a last flush; [`Flusher::stop`] waits for one.
pub(crate) struct Flusher {
    budget: Arc<Budget>,
    driver: Option<Driver>,
}

enum Driver {
    Thread(std::thread::JoinHandle<()>),
    Task(AbortHandle, Arc<Rounds>),
}

impl Flusher {
    /// Starts it. `failed` is told the first error, and no flush happens afterwards.
    pub(crate) fn start(
        views: Vec<Arc<PartitionView>>,
        budget: Arc<Budget>,
        interval: Duration,
        threads: Threads,
        failed: impl Fn(IndexError) + Send + 'static,
    ) -> std::io::Result<Flusher> {
        let rounds = Rounds { views, budget: Arc::clone(&budget), interval };
        let driver = match threads {
            Threads::System => {
                let thread = std::thread::Builder::new().name("index-flush".to_owned());
                Driver::Thread(thread.spawn(move || {
                    if let Err(error) = rounds.run() {
                        failed(error);
                    }
                })?)
            }
            Threads::None => {
                let rounds = Arc::new(rounds);
                let running = Arc::clone(&rounds);
                let task = tokio::spawn(async move {
                    if let Err(error) = running.drive().await {
                        failed(error);
                    }
                });
                Driver::Task(task.abort_handle(), rounds)
            }
        };
        Ok(Flusher { budget, driver: Some(driver) })
    }

    /// Flushes everything once more and ends. Blocks.
    pub(crate) fn stop(mut self) {
        self.join();
    }

    fn join(&mut self) {
        self.budget.stop();
        match self.driver.take() {
            Some(Driver::Thread(thread)) => {
                // It reports its errors through `failed`; a panic has been printed.
                let _ = thread.join();
            }
            Some(Driver::Task(task, rounds)) => {
                task.abort();
                if let Err(error) = rounds.last() {
                    tracing::error!(%error, "the last flush failed");
                }
            }
            None => {}
        }
    }
}

impl Drop for Flusher {
    fn drop(&mut self) {
        self.budget.stop();
        if let Some(Driver::Task(task, _)) = &self.driver {
            task.abort();
        }
    }
}

/// The flusher's work, whoever does it.
struct Rounds {
    views: Vec<Arc<PartitionView>>,
    budget: Arc<Budget>,
    interval: Duration,
}

impl Rounds {
    /// The thread's body.
    fn run(&self) -> Result<(), IndexError> {
        let mut due = Instant::now() + self.interval;
        while !self.budget.sleep_until(due) {
            self.round(&mut due)?;
        }
        self.last()
    }

    /// The task's body; never ends by itself.
    async fn drive(&self) -> Result<(), IndexError> {
        let mut due = Instant::now() + self.interval;
        loop {
            self.budget.rest_until(due).await;
            self.round(&mut due)?;
        }
    }

    /// Closes what is old, and moves one generation of each partition.
    fn round(&self, due: &mut Instant) -> Result<(), IndexError> {
        let now = Instant::now();
        let all = now >= *due || self.budget.is_half_used();
        if all {
            *due = now + self.interval;
        }
        let mut is_more_left = false;
        for view in &self.views {
            if all {
                view.state.write().close();
            }
            is_more_left |= view.flush_oldest()?;
        }
        if is_more_left {
            self.budget.nudge();
        }
        Ok(())
    }

    /// Everything that is left; nothing is applied any more.
    fn last(&self) -> Result<(), IndexError> {
        for view in &self.views {
            view.state.write().close();
            while view.flush_oldest()? {}
        }
        Ok(())
    }
}

impl PartitionView {
    /// Brings the oldest closed generation into the index; says whether another one waits. Blocks.
    pub(super) fn flush_oldest(&self) -> Result<bool, IndexError> {
        let Some(flushing) = self.begin_to_move() else { return Ok(false) };
        let forgotten = self.forgotten_chunks(flushing.meta.settled_end)?;
        let mut writes = flushing.writes(self.partition, &forgotten);
        if is_planted(Plant::AppliedEndBeforeData) {
            let meta = PartitionMeta { persisted_end: self.committed_end_hint(), last: None, ..flushing.meta };
            writes.push((layout::meta_key(self.partition), Some(meta.encode())));
        }
        {
            let _gate = self.gate.write();
            if self.is_on_its_way(&flushing) {
                self.index.write(writes)?;
                self.landed(&flushing);
            }
        }
        self.budget.release(flushing.generation.bytes);
        Ok(!self.state.read().closed.is_empty())
    }

    /// Whether the partition was not wiped since this generation was taken away.
    fn is_on_its_way(&self, flushing: &Arc<Flushing>) -> bool {
        self.state.read().closed.front().is_some_and(|oldest| Arc::ptr_eq(oldest, flushing))
    }

    /// The index holds it now: reads go there.
    fn landed(&self, flushing: &Flushing) {
        {
            let mut state = self.state.write();
            state.closed.pop_front();
            state.is_moving = false;
            let dirty = state.generations().filter_map(|generation| generation.dirty_chunks.first().copied());
            let dirty = dirty.min().unwrap_or(u64::MAX);
            let dirty_from = dirty.min(chunk_of(state.applied_end));
            let settled_end = state.settled_end;
            state.outcomes.trim(dirty_from, settled_end);
        }
        let mut frontiers = self.frontiers.lock();
        frontiers.persisted_end = flushing.meta.persisted_end;
        frontiers.forgotten_chunk = chunk_of(flushing.meta.settled_end);
    }

    /// The oldest closed generation, which now goes into the index.
    fn begin_to_move(&self) -> Option<Arc<Flushing>> {
        let mut state = self.state.write();
        let oldest = Arc::clone(state.closed.front()?);
        state.is_moving = true;
        self.rotations.fetch_add(1, Ordering::Release);
        Some(oldest)
    }

    /// Chunks of outcomes in the index that lie wholly below the settled end.
    fn forgotten_chunks(&self, settled_end: Offset) -> Result<Vec<u64>, IndexError> {
        let (first, end) = (self.frontiers.lock().forgotten_chunk, chunk_of(settled_end));
        let mut forgotten = Vec::new();
        if first >= end {
            return Ok(forgotten);
        }
        let (low, high) = (layout::chunk_key(self.partition, first), layout::chunk_key(self.partition, end));
        self.index.range(Bound::Included(&low), Bound::Excluded(&high), &mut |key, _| {
            forgotten.extend(key.last_chunk::<8>().map(|number| u64::from_be_bytes(*number)));
            ControlFlow::Continue(())
        })?;
        Ok(forgotten)
    }
}

impl State {
    /// Closes the active generation, so that it goes to the index; says whether anything was applied since the last.
    pub(super) fn close(&mut self) -> bool {
        if !self.active.moved {
            return false;
        }
        let generation = std::mem::take(&mut self.active);
        let closed = Arc::new(self.on_its_way(generation));
        self.closed.push_back(closed);
        true
    }

    /// What a wipe gives back to the budget: all but what the flusher has in hand.
    pub(super) fn bytes_to_release(&self) -> usize {
        let in_hand = if self.is_moving { self.closed.front().map_or(0, |oldest| oldest.generation.bytes) } else { 0 };
        self.generations().map(|generation| generation.bytes).sum::<usize>() - in_hand
    }

    fn on_its_way(&self, generation: Generation) -> Flushing {
        let kept = chunk_of(self.settled_end);
        let numbers = generation.dirty_chunks.iter().filter(|&&number| number >= kept);
        let chunks = numbers.filter_map(|&number| Some((number, self.outcomes.chunk(number)?))).collect();
        let meta = PartitionMeta { persisted_end: self.applied_end, settled_end: self.settled_end, last: self.last };
        Flushing { generation, meta, chunks }
    }
}
