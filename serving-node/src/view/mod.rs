//! What a partition looks like here: overlay over index, applied end, waiters.
//!
//! ```text
//! subscriber ── apply ──▶ active generation ─▶ closed generations ─▶ index
//!                 │               └────────── reads ─────────┴─────────┘
//!                 └─▶ applied end published ─▶ readers wake
//! ```
//!
//! * In: fetched batches, in order, from one subscriber. Out: reads that name the position they were read at.
//! * Invariant: an applied end is published only after everything below it can be read.
//! * Invariant: a page of a scan is the state at one applied end: the gate keeps the index still meanwhile, and overlay and
//!   applied end are taken under one lock.
//! * Invariant (D11): while the position lies below the largest settled end seen, no applied end is published: in between,
//!   records that were superseded are missing, so that an older value or none would show.
//! * Locks, in this order: `gate` (flush against scans), `state`, the wait queue. None is held across an await.
//! * Source: DESIGN D8, D9, D11, invariants 4 and 5.

mod apply_batch;
pub(crate) mod flusher;
mod outcomes;
mod overlay;
mod read;
mod recent;
mod types;
mod waiters;

pub use types::{Item, Outcome, PartitionStatus, Progress, ReadAt, ReadError, Recent, SCAN_BYTES_MAX, WaitError};
pub(crate) use waiters::WaitersLimit;

use crate::index::layout::{self, PartitionMeta};
use crate::index::{Index, IndexError};
use crate::tail::TailQuestion;
use duramen_common::log::{Fetched, TailError};
use duramen_common::protocol::BatchId;
use duramen_common::{Offset, PartitionId};
use flusher::Budget;
use outcomes::Outcomes;
use overlay::{Flushing, Generation};
use parking_lot::{Mutex, RwLock};
use recent::RecentBatches;
use std::collections::VecDeque;
use std::ops::{Bound, ControlFlow};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use tokio::sync::watch;
use tokio::time::Instant;
use waiters::Waiters;

/// One partition, as this node sees it.
pub struct PartitionView {
    partition: PartitionId,
    index: Arc<dyn Index>,
    /// Held for reading by whoever needs the index to stand still, for writing by who changes it.
    gate: RwLock<()>,
    state: RwLock<State>,
    /// Counts generations that began to move to the index, and wipes: a read of the index in between is repeated.
    rotations: AtomicU64,
    waiters: Waiters,
    changes: watch::Sender<Option<Offset>>,
    recent: Mutex<RecentBatches>,
    frontiers: Mutex<Frontiers>,
    committed_end: AtomicU64,
    ready: AtomicBool,
    budget: Arc<Budget>,
    tail: Arc<TailQuestion>,
}

/// What changes with each batch, under one lock.
struct State {
    active: Generation,
    /// Full generations on their way to the index, the oldest first: each one atomic batch of bounded size, because nobody
    /// reads the index while one goes in.
    closed: VecDeque<Arc<Flushing>>,
    /// Whether the flusher has taken the oldest of them in hand, and will give its bytes back.
    is_moving: bool,
    applied_end: Offset,
    last: Option<BatchId>,
    /// The largest settled end seen in this run, or stored by an earlier one.
    settled_end: Offset,
    /// Whether the log was heard of, or there is state from before: else there is nothing to show.
    begun: bool,
    outcomes: Outcomes,
}

impl State {
    fn fresh() -> State {
        State {
            active: Generation::default(),
            closed: VecDeque::new(),
            is_moving: false,
            applied_end: Offset::ZERO,
            last: None,
            settled_end: Offset::ZERO,
            begun: false,
            outcomes: Outcomes::default(),
        }
    }

    /// What reads may see.
    fn shown(&self) -> Option<Offset> {
        (self.begun && self.applied_end >= self.settled_end).then_some(self.applied_end)
    }
}

/// What is only reported.
#[derive(Clone, Copy, Debug, Default)]
struct Frontiers {
    horizon: Offset,
    first_offset: Offset,
    persisted_end: Offset,
    /// Chunks of outcomes below this one are out of the index.
    forgotten_chunk: u64,
    catching_up: Option<Progress>,
}

/// What all views of a node share.
#[derive(Clone)]
pub(crate) struct Shared {
    pub index: Arc<dyn Index>,
    pub limit: Arc<WaitersLimit>,
    pub budget: Arc<Budget>,
    pub recent_bytes_max: usize,
}

impl PartitionView {
    /// Takes up what the index holds of a partition. Blocks.
    pub(crate) fn open(
        partition: PartitionId,
        shared: &Shared,
        tail: Arc<TailQuestion>,
    ) -> Result<PartitionView, IndexError> {
        let index = Arc::clone(&shared.index);
        let mut state = State::fresh();
        match index.get(&layout::meta_key(partition))? {
            Some(bytes) => {
                let meta = PartitionMeta::decode(&bytes)?;
                let stored = index.get(&layout::chunk_key(partition, layout::chunk_of(meta.persisted_end)))?;
                let stored = stored.map(|bytes| layout::decode_chunk(&bytes)).transpose()?;
                state.outcomes = Outcomes::restore(meta.persisted_end, stored);
                state.applied_end = meta.persisted_end;
                state.settled_end = meta.settled_end;
                state.last = meta.last;
                state.begun = true;
            }
            // Nothing, or what a wipe did not finish removing.
            None => clear(&*index, partition)?,
        }
        let shown = state.shown();
        Ok(PartitionView {
            partition,
            index,
            gate: RwLock::new(()),
            rotations: AtomicU64::new(0),
            waiters: Waiters::new(shown, Arc::clone(&shared.limit)),
            changes: watch::Sender::new(shown),
            recent: Mutex::new(RecentBatches::new(state.applied_end, shared.recent_bytes_max)),
            frontiers: Mutex::new(Frontiers { persisted_end: state.applied_end, ..Frontiers::default() }),
            committed_end: AtomicU64::new(state.applied_end.get()),
            ready: AtomicBool::new(false),
            budget: Arc::clone(&shared.budget),
            state: RwLock::new(state),
            tail,
        })
    }

    /// Which.
    #[must_use]
    pub fn partition(&self) -> PartitionId {
        self.partition
    }

    /// How far it has come.
    #[must_use]
    pub fn status(&self) -> PartitionStatus {
        let frontiers = *self.frontiers.lock();
        let (applied_end, settled_end, shown) = {
            let state = self.state.read();
            (state.applied_end, state.settled_end, state.shown())
        };
        let committed_end = self.committed_end_hint();
        PartitionStatus {
            applied_end: shown,
            committed_end,
            lag: committed_end.since(applied_end),
            horizon: frontiers.horizon,
            settled_end,
            first_offset: frontiers.first_offset,
            persisted_end: frontiers.persisted_end,
            catching_up: frontiers.catching_up,
        }
    }

    /// Answers everybody who waits for an end or asks for one, now and from now on, that this node stops.
    pub(crate) fn end_waits(&self) {
        self.waiters.end();
        self.tail.end();
    }

    /// Waits until what reads see covers `end`.
    pub async fn wait_applied(&self, end: Offset, deadline: Instant) -> Result<(), WaitError> {
        self.waiters.wait(end, deadline).await
    }

    /// An end that covers every write acknowledged before this call: one question to the leader, shared by all who came
    /// before it was sent.
    pub async fn linearizable_end(&self, deadline: Instant) -> Result<Offset, TailError> {
        let end = self.tail.ask(deadline).await?;
        self.hear_committed(end);
        Ok(end)
    }

    /// The last committed end heard of: a lower bound.
    #[must_use]
    pub fn committed_end_hint(&self) -> Offset {
        Offset::new(self.committed_end.load(Ordering::Relaxed))
    }

    /// Changes whenever the applied end does: for those who follow.
    #[must_use]
    pub fn applied_changes(&self) -> watch::Receiver<Option<Offset>> {
        self.changes.subscribe()
    }

    /// Recently applied batches from `from` on, up to the applied end.
    #[must_use]
    pub fn recent(&self, from: Offset) -> Recent {
        self.recent.lock().from(from)
    }

    /// Whether it has once caught up with an end that its leader confirmed after the start.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Relaxed)
    }

    /// Readers that wait for an applied end now, over all partitions of the node.
    pub(crate) fn readers_waiting(&self) -> usize {
        self.waiters.limit().waiting()
    }

    /// What is applied and not in the index yet, over all partitions of the node. Unit: bytes.
    pub(crate) fn overlay_bytes(&self) -> usize {
        self.budget.used()
    }

    pub(crate) fn set_ready(&self) {
        self.ready.store(true, Ordering::Relaxed);
    }

    pub(crate) fn set_catching_up(&self, progress: Option<Progress>) {
        self.frontiers.lock().catching_up = progress;
    }

    /// Where to go on fetching: the position, and the batch before it.
    pub(crate) fn position(&self) -> (Offset, Option<BatchId>) {
        let state = self.state.read();
        (state.applied_end, state.last)
    }

    /// Whether the log was heard of, or there is state from before.
    pub(crate) fn has_begun(&self) -> bool {
        self.state.read().begun
    }

    fn hear_committed(&self, end: Offset) {
        self.committed_end.fetch_max(end.get(), Ordering::Relaxed);
    }

    /// Takes note of what the log said beside the batches; before they are applied, so that nothing inside a settled stretch
    /// shows.
    pub(crate) fn hear(&self, fetched: &Fetched) {
        self.hear_committed(fetched.committed_end);
        {
            let mut frontiers = self.frontiers.lock();
            frontiers.horizon = frontiers.horizon.max(fetched.horizon);
            frontiers.first_offset = frontiers.first_offset.max(fetched.first_offset);
        }
        let shown = {
            let mut state = self.state.write();
            if fetched.settled_end <= state.settled_end {
                return;
            }
            state.settled_end = fetched.settled_end;
            state.shown()
        };
        self.publish(shown);
    }

    /// Publishes what reads can see. Called by the subscriber only, after `state` holds it.
    fn publish(&self, shown: Option<Offset>) {
        self.waiters.publish(shown);
        self.changes.send_if_modified(|published| std::mem::replace(published, shown) != shown);
    }

    /// Forgets everything and starts over at 0. Blocks.
    pub(crate) fn wipe(&self) -> Result<(), IndexError> {
        let _gate = self.gate.write();
        {
            let mut state = self.state.write();
            self.budget.release(state.bytes_to_release());
            *state = State::fresh();
            self.rotations.fetch_add(1, Ordering::Release);
        }
        self.publish(None);
        self.recent.lock().reset(Offset::ZERO);
        *self.frontiers.lock() = Frontiers::default();
        self.committed_end.store(0, Ordering::Relaxed);
        // The meta first: without it, whatever else is left is removed at the next start.
        self.index.write(vec![(layout::meta_key(self.partition), None)])?;
        clear(&*self.index, self.partition)
    }
}

/// How many keys one write removes when a partition is cleared.
const CLEAR_KEYS: usize = 4096;

/// Removes a partition's data and outcomes from the index.
fn clear(index: &dyn Index, partition: PartitionId) -> Result<(), IndexError> {
    let data = layout::data_range(partition, Bound::Unbounded, Bound::Unbounded);
    let first_chunk = Bound::Included(layout::chunk_key(partition, 0));
    let last_chunk = Bound::Included(layout::chunk_key(partition, u64::MAX));
    for (start, end) in [data, (first_chunk, last_chunk)] {
        loop {
            let mut writes = Vec::new();
            let (start, end) = (start.as_ref().map(Vec::as_slice), end.as_ref().map(Vec::as_slice));
            index.range(start, end, &mut |key, _| {
                writes.push((key.to_vec(), None));
                if writes.len() < CLEAR_KEYS { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
            })?;
            if writes.is_empty() {
                break;
            }
            index.write(writes)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
