//! Flusher: the one thread of a node that brings applied updates into the index, and the budget that bounds them before.
//!
//! * A generation is closed when it is full, when it is old, or when the node's budget is half used. It goes as one atomic
//!   batch: its updates sorted and each key once, the end that they lead to, the outcomes. One that was cut in parts would
//!   leave an index that is ahead of its end after a kill, and guards would be judged by it.
//! * Generations are small, because sled lets nobody read while a batch goes in (about 20 µs a record): under load they
//!   queue up, and go one after the other, the partitions in turn.
//! * One thread, because sled's write lock is one for the process. Without threads, a task that does the same.
//! * Damage or a failed write condemns the partition, and the keeper wipes what must be wiped; the others go on. A full disk
//!   does so only once there is room for a fresh index.
//! * Source: DESIGN D8.

use super::flush_batch::FlushWitness;
use super::overlay::{Flushing, Generation};
use super::{PartitionView, State};
use crate::index::layout::chunk_of;
use crate::index::{IndexRoom, WriteError};
use duramen_common::seams::Threads;
use parking_lot::{Condvar, Mutex};
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
            if !self.is_used_up() {
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

    /// Whether nothing more is applied until something is flushed.
    pub(super) fn is_used_up(&self) -> bool {
        self.used() >= self.max
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
    /// Starts it.
    pub(crate) fn start(
        views: Vec<Arc<PartitionView>>,
        budget: Arc<Budget>,
        room: IndexRoom,
        interval: Duration,
        threads: Threads,
    ) -> std::io::Result<Flusher> {
        let rounds = Rounds { views, budget: Arc::clone(&budget), room, interval };
        let driver = match threads {
            Threads::System => {
                let thread = std::thread::Builder::new().name("index-flush".to_owned());
                Driver::Thread(thread.spawn(move || rounds.run())?)
            }
            Threads::None => {
                let rounds = Arc::new(rounds);
                let running = Arc::clone(&rounds);
                let task = tokio::spawn(async move { running.drive().await });
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
                // A panic has been printed.
                let _ = thread.join();
            }
            Some(Driver::Task(task, rounds)) => {
                task.abort();
                rounds.last();
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
    room: IndexRoom,
    interval: Duration,
}

impl Rounds {
    /// The thread's body.
    fn run(&self) {
        let mut due = Instant::now() + self.interval;
        while !self.budget.sleep_until(due) {
            self.round(&mut due);
        }
        self.last();
    }

    /// The task's body; never ends by itself.
    async fn drive(&self) {
        let mut due = Instant::now() + self.interval;
        loop {
            self.budget.rest_until(due).await;
            self.round(&mut due);
        }
    }

    /// Closes what is old, and moves one generation of each partition. Without room on the disk, nothing: what is old then
    /// stays in one generation, so that reads need not look through more and more of them.
    fn round(&self, due: &mut Instant) {
        let now = Instant::now();
        if !self.room.is_there() {
            *due = now + self.interval;
            return;
        }
        self.views.iter().for_each(|view| view.condemn_unfinished());
        let all = now >= *due || self.budget.is_half_used();
        if all {
            *due = now + self.interval;
        }
        let mut is_more_left = false;
        for view in &self.views {
            if all {
                view.state.write().close();
            }
            is_more_left |= self.flush_oldest(view);
        }
        if is_more_left {
            self.budget.nudge();
        }
    }

    /// Everything that is left; nothing is applied any more.
    fn last(&self) {
        for view in &self.views {
            view.state.write().close();
            while self.flush_oldest(view) {}
        }
    }

    fn flush_oldest(&self, view: &PartitionView) -> bool {
        // Most partitions have nothing: for those the disk is not asked.
        if !view.has_to_flush() || !self.room.is_there() {
            return false;
        }
        self.room.health().set_flushing(true);
        let is_more_left = view.flush_oldest();
        self.room.health().set_flushing(false);
        is_more_left
    }
}

impl PartitionView {
    /// Brings the oldest closed generation into the index; says whether another one waits. Damage condemns the partition:
    /// then nothing is flushed until it was wiped. Blocks.
    pub(super) fn flush_oldest(&self) -> bool {
        let Some((flushing, epoch)) = self.begin_to_move() else { return false };
        let flushed = self.flush(&flushing);
        let is_kept = {
            let mut state = self.state.write();
            let is_kept = state.is_oldest(&flushing);
            state.is_moving &= !is_kept;
            is_kept
        };
        // What is kept is given back by a later flush, or by a wipe.
        if !is_kept {
            self.budget.release(flushing.generation.bytes);
        }
        match flushed {
            Ok(()) => {}
            Err(WriteError::Nothing(fault)) => {
                self.flush_waits(&fault, epoch);
                return false;
            }
            Err(WriteError::Unknown(error)) => {
                self.write_failed(error.into(), epoch);
                return false;
            }
        }
        !is_kept && self.has_to_flush()
    }

    /// Whether a closed generation waits for the index.
    fn has_to_flush(&self) -> bool {
        !self.state.read().closed.is_empty()
    }

    fn flush(&self, flushing: &Arc<Flushing>) -> Result<(), WriteError> {
        let mut batch = self.flush_batch(flushing).map_err(WriteError::Nothing)?;
        let _gate = self.gate.write();
        let is_on_its_way = {
            let state = self.state.read();
            state.is_good() && state.is_oldest(flushing)
        };
        if is_on_its_way {
            let mut scrub = self.scrub.lock();
            let set = *self.set.lock();
            let mut witness = FlushWitness::new(self, flushing, &mut batch, set, scrub.as_ref());
            self.index.write_seen(batch.writes, Some(&mut witness))?;
            let (set, scrubbed) = witness.sets();
            if let Some(scrub) = &mut *scrub {
                scrub.merge(scrubbed);
            }
            *self.set.lock() = set;
            self.landed(flushing);
        }
        Ok(())
    }

    /// The index holds it now: reads go there.
    fn landed(&self, flushing: &Flushing) {
        {
            let mut state = self.state.write();
            state.closed.pop_front();
            state.is_moving = false;
            state.waits_since = None;
            let dirty = state.generations().filter_map(|generation| generation.dirty_chunks.first().copied());
            let dirty = dirty.min().unwrap_or(u64::MAX);
            let dirty_from = dirty.min(chunk_of(state.applied_end));
            let settled_end = state.settled_end;
            state.outcomes.trim(dirty_from, settled_end);
        }
        let mut frontiers = self.frontiers.lock();
        frontiers.persisted_end = flushing.applied_end;
        frontiers.forgotten_chunk = chunk_of(flushing.settled_end);
    }

    /// The oldest closed generation, which now goes into the index, and the epoch of the state that it is of.
    fn begin_to_move(&self) -> Option<(Arc<Flushing>, u64)> {
        let mut state = self.state.write();
        if !state.is_good() || state.unfinished.is_some() {
            return None;
        }
        let oldest = Arc::clone(state.closed.front()?);
        state.is_moving = true;
        self.rotations.fetch_add(1, Ordering::Release);
        Some((oldest, state.epoch))
    }
}

impl State {
    /// Whether this generation waits for the index: it is neither there nor wiped.
    fn is_oldest(&self, flushing: &Arc<Flushing>) -> bool {
        self.closed.front().is_some_and(|oldest| Arc::ptr_eq(oldest, flushing))
    }

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
        Flushing { generation, applied_end: self.applied_end, settled_end: self.settled_end, last: self.last, chunks }
    }
}
