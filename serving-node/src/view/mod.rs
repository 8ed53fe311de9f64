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
//! * Invariant: nothing is shown of an index in which damage was met, until it was wiped and replayed (`wipe`).
//! * Locks, in this order: `gate` (flush against scans), `publishing`, `state`, the wait queue. None is held across an await.
//! * Source: DESIGN D8, D9, D11, invariants 4 and 5; ADR 0012.

mod apply_batch;
mod flush_batch;
pub(crate) mod flusher;
mod outcomes;
mod overlay;
mod read;
mod recent;
pub(crate) mod scrub;
mod types;
mod waiters;
pub(crate) mod wipe;

pub use types::{Item, Outcome, PartitionStatus, Progress, ReadAt, ReadError, Recent, SCAN_BYTES_MAX, WaitError};
pub(crate) use waiters::WaitersLimit;

use crate::index::check::Verdict;
use crate::index::layout::{self, PartitionMeta};
use crate::index::{Index, IndexFault, SetHash};
use crate::tail::TailQuestion;
use duramen_common::log::{Fetched, TailError};
use duramen_common::protocol::BatchId;
use duramen_common::{Offset, PartitionId};
use flusher::Budget;
use outcomes::Outcomes;
use overlay::{Flushing, Generation};
use parking_lot::{Mutex, RwLock};
use recent::RecentBatches;
use scrub::Scrub;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use waiters::Waiters;
use wipe::Standing;

/// One partition, as this node sees it.
pub struct PartitionView {
    partition: PartitionId,
    index: Arc<dyn Index>,
    /// Held for reading by whoever needs the index to stand still, for writing by who changes it.
    gate: RwLock<()>,
    state: RwLock<State>,
    /// Held while what reads can see is published, so that an older state never follows a newer one.
    publishing: Mutex<()>,
    /// The set hash of what the index holds of this partition. Changes under `gate` only, by flushes and wipes.
    set: Mutex<SetHash>,
    /// The scrub that is under way.
    scrub: Mutex<Option<Scrub>>,
    /// Counts generations that began to move to the index, and wipes: a read of the index in between is repeated.
    rotations: AtomicU64,
    waiters: Waiters,
    changes: watch::Sender<Option<Offset>>,
    recent: Mutex<RecentBatches>,
    frontiers: Mutex<Frontiers>,
    committed_end: AtomicU64,
    /// Changes with each wipe, once it is done.
    epochs: watch::Sender<u64>,
    /// Tells the keeper that damage was met.
    alarm: Arc<Notify>,
    budget: Arc<Budget>,
    tail: Arc<TailQuestion>,
}

/// Where a subscriber goes on fetching.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Position {
    pub from: Offset,
    /// The batch before it.
    pub last: Option<BatchId>,
    /// Names the state that this continues. What was fetched for one from before a wipe is not applied.
    pub epoch: u64,
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
    /// Whether it has once caught up with an end that its leader confirmed: since the start, or since the last wipe.
    ready: bool,
    /// Counts wipes.
    epoch: u64,
    standing: Standing,
    /// A write met a full disk: nobody knows how much of it is in the index. Nothing more is flushed.
    unfinished: Option<IndexFault>,
    /// Since when the oldest generation is not flushed, because what it replaces cannot be read.
    waits_since: Option<Instant>,
    outcomes: Outcomes,
}

impl State {
    fn fresh(epoch: u64) -> State {
        State {
            active: Generation::default(),
            closed: VecDeque::new(),
            is_moving: false,
            applied_end: Offset::ZERO,
            last: None,
            settled_end: Offset::ZERO,
            begun: false,
            ready: false,
            epoch,
            standing: Standing::Good,
            unfinished: None,
            waits_since: None,
            outcomes: Outcomes::default(),
        }
    }

    /// What reads may see.
    fn shown(&self) -> Option<Offset> {
        (self.is_good() && self.begun && self.applied_end >= self.settled_end).then_some(self.applied_end)
    }

    fn is_good(&self) -> bool {
        self.standing == Standing::Good
    }

    /// Whether this still is the state that a position was taken of, and may be changed.
    fn is_of(&self, epoch: u64) -> bool {
        self.is_good() && self.epoch == epoch
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
    pub alarm: Arc<Notify>,
}

impl PartitionView {
    /// Takes up what the index holds of a partition, as its check has found it. Blocks.
    pub(crate) fn open(
        partition: PartitionId,
        verdict: Verdict,
        shared: &Shared,
        tail: Arc<TailQuestion>,
    ) -> PartitionView {
        let index = Arc::clone(&shared.index);
        let mut state = State::fresh(0);
        let meta = verdict.and_then(|meta| {
            let Some(meta) = meta else { return Ok(PartitionMeta::default()) };
            let key = layout::chunk_key(partition, layout::chunk_of(meta.persisted_end));
            let stored = index.get(&key)?.map(|bytes| layout::decode_chunk(&key, &bytes)).transpose()?;
            state.outcomes = Outcomes::restore(meta.persisted_end, stored);
            state.applied_end = meta.persisted_end;
            state.settled_end = meta.settled_end;
            state.last = meta.last;
            state.begun = true;
            Ok(meta)
        });
        if let Err(fault) = &meta {
            state.standing = Standing::Condemned(fault.clone());
            shared.alarm.notify_one();
        }
        let set = meta.unwrap_or_default().set;
        let shown = state.shown();
        PartitionView {
            partition,
            index,
            gate: RwLock::new(()),
            publishing: Mutex::new(()),
            set: Mutex::new(set),
            scrub: Mutex::new(None),
            rotations: AtomicU64::new(0),
            waiters: Waiters::new(shown, Arc::clone(&shared.limit)),
            changes: watch::Sender::new(shown),
            recent: Mutex::new(RecentBatches::new(state.applied_end, shared.recent_bytes_max)),
            frontiers: Mutex::new(Frontiers { persisted_end: state.applied_end, ..Frontiers::default() }),
            committed_end: AtomicU64::new(state.applied_end.get()),
            epochs: watch::Sender::new(0),
            alarm: Arc::clone(&shared.alarm),
            budget: Arc::clone(&shared.budget),
            state: RwLock::new(state),
            tail,
        }
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

    /// Whether it has once caught up with an end that its leader confirmed after the start, and after the last wipe.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.state.read().ready
    }

    /// Readers that wait for an applied end now, over all partitions of the node.
    pub(crate) fn readers_waiting(&self) -> usize {
        self.waiters.limit().waiting()
    }

    /// What is applied and not in the index yet, over all partitions of the node. Unit: bytes.
    pub(crate) fn overlay_bytes(&self) -> usize {
        self.budget.used()
    }

    /// Whether that is so much that nothing more is applied.
    pub(crate) fn memory_is_full(&self) -> bool {
        self.budget.is_used_up()
    }

    /// It has caught up, unless it was wiped since `epoch`.
    pub(crate) fn set_ready(&self, epoch: u64) {
        let mut state = self.state.write();
        if state.is_of(epoch) {
            state.ready = true;
        }
    }

    pub(crate) fn set_catching_up(&self, progress: Option<Progress>) {
        self.frontiers.lock().catching_up = progress;
    }

    /// Where to go on fetching; `None` until damage that was met is wiped: wait for [`PartitionView::good`].
    pub(crate) fn position(&self) -> Option<Position> {
        let state = self.state.read();
        state.is_good().then_some(Position { from: state.applied_end, last: state.last, epoch: state.epoch })
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
    pub(crate) fn hear(&self, fetched: &Fetched, epoch: u64) {
        self.hear_committed(fetched.committed_end);
        {
            let mut frontiers = self.frontiers.lock();
            frontiers.horizon = frontiers.horizon.max(fetched.horizon);
            frontiers.first_offset = frontiers.first_offset.max(fetched.first_offset);
        }
        {
            let mut state = self.state.write();
            if fetched.settled_end <= state.settled_end || !state.is_of(epoch) {
                return;
            }
            state.settled_end = fetched.settled_end;
        }
        self.publish();
    }

    /// Publishes what reads can see, after `state` holds it.
    fn publish(&self) {
        let _publishing = self.publishing.lock();
        let shown = self.state.read().shown();
        self.waiters.publish(shown);
        self.changes.send_if_modified(|published| std::mem::replace(published, shown) != shown);
    }
}

#[cfg(test)]
mod tests;
