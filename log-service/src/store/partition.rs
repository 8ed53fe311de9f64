//! One partition's log in memory: where it ends, what waits to be written, and how it is read.
//!
//! * In: Raft's calls, in order. Out: operations for the sync driver in the same order; entries, from the tail cache or
//!   the files.
//! * What is appended is readable at once. Frontiers: DESIGN invariant 3, asserted whenever one moves.
//! * Invariant: one lock, held only for memory work; files are read outside it.
//! * Source: DESIGN D2, D3.

use super::cache::{Placed, TailCache};
use super::dedup::{BatchIds, DedupTable};
use super::segment::Segment;
use super::types::{Ends, EntryBody, EntryId, LogEntry, LogState, SmallState, StoredMembership, StoredVote};
use super::writer::{Base, Writer};
use super::{IdCheck, StoreError};
use duramen_common::batch::IdRun;
use duramen_common::ids::{Offset, PartitionId};
use duramen_common::planted::{Plant, is_planted};
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::sync::Arc;
use tokio::sync::{Notify, oneshot, watch};

use super::sync::SyncShared;

/// Called once: `Ok` when durable, an error when it never will be.
pub type DoneCallback = Box<dyn FnOnce(Result<(), StoreError>) + Send>;

/// What waits for the sync driver, in call order.
pub(super) enum Op {
    /// Entries with their places; those that are gathered are taken out.
    Entries(VecDeque<Placed>),
    /// A new segment: after a truncation, a gap or a baseline.
    Roll(Base),
}

/// An operation and who waits for it.
pub(super) struct Waiting {
    pub op: Option<Op>,
    pub bytes: usize,
    pub done: Option<DoneCallback>,
}

/// What both the callers and the sync driver see.
pub(super) struct Shared {
    pub partition: PartitionId,
    pub inner: Mutex<Inner>,
    pub writer: Mutex<Writer>,
    pub drained: Notify,
    pub durable_watch: watch::Sender<Offset>,
    pub committed_watch: watch::Sender<Offset>,
    pub sync: Arc<SyncShared>,
}

/// The log's state; everything under one lock.
pub(super) struct Inner {
    pub segments: Vec<Arc<Segment>>,
    pub small: SmallState,
    pub small_dirty: bool,
    /// Something was written since the last marker.
    pub unmarked: bool,
    /// First index that can be read.
    pub first_index: u64,
    pub next_index: u64,
    pub last: Option<EntryId>,
    pub ends: Ends,
    /// Offset end of what is known to be committed, durable here or not.
    pub committed_offset: Offset,
    /// Index after the last durable entry.
    pub durable_next: u64,
    pub cache: TailCache,
    pub waiting: VecDeque<Waiting>,
    pub waiting_bytes: usize,
    /// The lowest place the log went back to since the driver took its current group.
    pub cut: Option<(u64, Offset)>,
    pub dedup: DedupTable,
}

impl Inner {
    /// Moves the published committed end; returns it when it moved.
    pub fn publish_committed(&mut self) -> Option<Offset> {
        let mut published = self.committed_offset.min(self.ends.durable_end);
        if is_planted(Plant::DurableAsCommitted) {
            published = self.ends.durable_end;
        }
        self.ends.check();
        if published <= self.ends.committed_end {
            return None;
        }
        self.ends.committed_end = published;
        self.ends.check();
        self.dedup.evict(published);
        Some(published)
    }

    /// The live segment that holds an index, and the index after the last that it holds.
    pub fn segment_of_index(&self, index: u64) -> Option<(Arc<Segment>, u64)> {
        let mut end = u64::MAX;
        for segment in self.segments.iter().rev() {
            if segment.header.base_index <= index {
                return Some((Arc::clone(segment), end));
            }
            end = end.min(segment.header.base_index);
        }
        None
    }

    pub fn segment_of_offset(&self, offset: Offset) -> Option<(Arc<Segment>, u64)> {
        let mut end = u64::MAX;
        for segment in self.segments.iter().rev() {
            if segment.header.base_offset <= offset {
                return Some((Arc::clone(segment), end));
            }
            end = end.min(segment.header.base_index);
        }
        None
    }
}

/// One partition's log. Cloning shares it.
#[derive(Clone)]
pub struct PartitionLog {
    pub(super) shared: Arc<Shared>,
}

impl PartitionLog {
    /// Which one.
    #[must_use]
    pub fn partition(&self) -> PartitionId {
        self.shared.partition
    }

    /// Vote, marks, last entry, ends.
    #[must_use]
    pub fn state(&self) -> LogState {
        let inner = self.shared.inner.lock();
        LogState { small: inner.small.clone(), last: inner.last, ends: inner.ends }
    }

    /// The frontiers.
    #[must_use]
    pub fn ends(&self) -> Ends {
        self.shared.inner.lock().ends
    }

    /// Whether an entry is on the medium: from then on an empty log is one that was lost.
    #[must_use]
    pub fn has_durable_entry(&self) -> bool {
        self.shared.inner.lock().durable_next > 0
    }

    /// The last vote.
    #[must_use]
    pub fn vote(&self) -> Option<StoredVote> {
        self.shared.inner.lock().small.vote
    }

    /// Waits until less than the queue's limit waits to become durable.
    pub async fn wait_writable(&self) -> Result<(), StoreError> {
        loop {
            let drained = self.shared.drained.notified();
            self.shared.sync.admit()?;
            if self.shared.inner.lock().waiting_bytes < self.shared.sync.config.queue_bytes_max {
                return Ok(());
            }
            drained.await;
        }
    }

    /// Appends entries. They are readable when this returns, durable when `done` is called with `Ok`. Batches get their
    /// first offsets: the end of what is before them. On an error `done` is called with it too.
    pub fn append(&self, entries: Vec<LogEntry>, done: DoneCallback) -> Result<(), StoreError> {
        if let Err(error) = self.shared.sync.admit() {
            done(Err(error.clone()));
            return Err(error);
        }
        let mut inner = self.shared.inner.lock();
        let start = match entries.first() {
            Some(first) => self.follow(&mut inner, first.id),
            None => Ok(inner.next_index),
        };
        let in_order = |start: u64| entries.iter().zip(start..).find(|(entry, index)| entry.id.index != *index);
        let start = start.and_then(|start| match in_order(start) {
            Some((entry, next_index)) => Err(StoreError::Gap { found: entry.id, next_index }),
            None => Ok(start),
        });
        if let Err(error) = start {
            drop(inner);
            done(Err(error.clone()));
            return Err(error);
        }
        let mut placed = Vec::with_capacity(entries.len());
        let mut bytes = 0;
        for mut entry in entries {
            let first_offset = inner.ends.append_end;
            if let EntryBody::Batch(batch) = entry.body {
                let batch = batch.at(first_offset);
                inner.dedup.insert(&BatchIds::of(&batch));
                entry.body = EntryBody::Batch(batch);
            }
            bytes += entry.body.bytes_len();
            inner.last = Some(entry.id);
            inner.next_index = entry.id.index + 1;
            let place = Placed { entry, first_offset };
            inner.ends.append_end = place.end();
            inner.cache.push(place.clone());
            placed.push(place);
        }
        inner.ends.check();
        inner.waiting_bytes += bytes;
        inner.waiting.push_back(Waiting { op: Some(Op::Entries(placed.into())), bytes, done: Some(done) });
        drop(inner);
        self.shared.sync.wake();
        Ok(())
    }

    /// The index that comes next; a log without entries may start anywhere, which takes a new segment.
    fn follow(&self, inner: &mut Inner, first: EntryId) -> Result<u64, StoreError> {
        if first.index == inner.next_index {
            return Ok(first.index);
        }
        if inner.next_index > inner.first_index || first.index < inner.next_index {
            return Err(StoreError::Gap { found: first, next_index: inner.next_index });
        }
        let term = inner.last.map_or(0, |last| last.term);
        let base = Base { index: first.index, offset: inner.ends.append_end, term, baseline: false };
        inner.waiting.push_back(Waiting { op: Some(Op::Roll(base)), bytes: 0, done: None });
        inner.first_index = first.index;
        inner.next_index = first.index;
        inner.durable_next = inner.durable_next.max(first.index);
        Ok(first.index)
    }

    /// Saves a vote; durable when this returns.
    pub async fn save_vote(&self, vote: StoredVote) -> Result<(), StoreError> {
        self.shared.sync.admit()?;
        let (sender, receiver) = oneshot::channel();
        {
            let mut inner = self.shared.inner.lock();
            inner.small.vote = Some(vote);
            inner.small_dirty = true;
            push_done(&mut inner, None, sender);
        }
        self.shared.sync.wake();
        if is_planted(Plant::VoteNotSynced) {
            return Ok(());
        }
        receiver.await.unwrap_or(Err(StoreError::Closed))
    }

    /// Removes every entry after `last` (all for `None`). In force at once; on the medium before anything that follows.
    /// Panics when it would take back what is known to be committed: Raft never does.
    pub fn truncate_after(&self, last: Option<EntryId>) -> Result<(), StoreError> {
        self.shared.sync.admit()?;
        let next_index = last.map_or(0, |last| last.index + 1);
        let (known_next, first_index) = {
            let inner = self.shared.inner.lock();
            (inner.next_index, inner.first_index)
        };
        if next_index >= known_next {
            return Ok(());
        }
        let next_index = next_index.max(first_index);
        let end = self.end_before(next_index)?;
        let mut inner = self.shared.inner.lock();
        assert!(end >= inner.ends.committed_end, "a truncation to {end} below the committed end {:?}", inner.ends);
        inner.cache.truncate(next_index);
        inner.dedup.truncate(end);
        inner.next_index = next_index;
        inner.last = last.filter(|last| last.index + 1 == next_index).or(inner.small.purged);
        inner.ends.append_end = end;
        inner.ends.durable_end = inner.ends.durable_end.min(end);
        inner.durable_next = inner.durable_next.min(next_index);
        inner.committed_offset = inner.committed_offset.min(end);
        let lowest = inner.cut.map_or(next_index, |(index, _)| index.min(next_index));
        let lowest_end = inner.cut.map_or(end, |(_, offset)| offset.min(end));
        inner.cut = Some((lowest, lowest_end));
        let term = inner.last.map_or(0, |last| last.term);
        let base = Base { index: next_index, offset: end, term, baseline: false };
        inner.waiting.push_back(Waiting { op: Some(Op::Roll(base)), bytes: 0, done: None });
        inner.ends.check();
        drop(inner);
        self.shared.sync.wake();
        Ok(())
    }

    /// First offset after the entry before `index`.
    fn end_before(&self, index: u64) -> Result<Offset, StoreError> {
        {
            let inner = self.shared.inner.lock();
            if index == inner.next_index {
                return Ok(inner.ends.append_end);
            }
            if let Some(placed) = inner.cache.since_index(index).next() {
                return Ok(placed.first_offset);
            }
        }
        let found = self.offset_of_index(index)?;
        Ok(found.map_or(Offset::ZERO, |(offset, _)| offset))
    }

    /// Moves the purge mark; deletes nothing.
    pub fn purge(&self, upto: EntryId) -> Result<(), StoreError> {
        self.shared.sync.admit()?;
        let mut inner = self.shared.inner.lock();
        if inner.small.purged.is_some_and(|purged| purged.index >= upto.index) {
            return Ok(());
        }
        inner.small.purged = Some(upto);
        inner.small_dirty = true;
        inner.first_index = inner.first_index.max(upto.index + 1);
        if inner.next_index <= upto.index {
            inner.cache.truncate(0);
            inner.last = Some(upto);
            inner.next_index = upto.index + 1;
            inner.durable_next = inner.durable_next.max(inner.next_index);
            let base =
                Base { index: inner.next_index, offset: inner.ends.append_end, term: upto.term, baseline: false };
            inner.waiting.push_back(Waiting { op: Some(Op::Roll(base)), bytes: 0, done: None });
        }
        drop(inner);
        self.shared.sync.wake();
        Ok(())
    }

    /// Replaces the whole log by a baseline: entries up to `last` are elsewhere, the next record's offset is
    /// `offset_end`. Durable when this returns: everything before it is gone, a divergent tail included.
    pub async fn install(
        &self,
        last: EntryId,
        offset_end: Offset,
        membership: StoredMembership,
    ) -> Result<(), StoreError> {
        self.shared.sync.admit()?;
        let (sender, receiver) = oneshot::channel();
        {
            let mut inner = self.shared.inner.lock();
            inner.cache = TailCache::default();
            inner.dedup = DedupTable::new(self.shared.sync.config.dedup_window, offset_end);
            inner.small.purged = Some(last);
            inner.small.committed = Some(last);
            inner.small.applied_membership = Some(membership);
            inner.last = Some(last);
            inner.first_index = last.index + 1;
            inner.next_index = last.index + 1;
            inner.durable_next = last.index + 1;
            inner.ends = Ends {
                first_offset: offset_end,
                committed_end: offset_end,
                durable_end: offset_end,
                append_end: offset_end,
            };
            inner.committed_offset = offset_end;
            inner.cut = Some((last.index + 1, offset_end));
            let base = Base { index: last.index + 1, offset: offset_end, term: last.term, baseline: true };
            push_done(&mut inner, Some(Op::Roll(base)), sender);
        }
        self.shared.sync.wake();
        receiver.await.unwrap_or(Err(StoreError::Closed))
    }

    /// Notes how far entries are applied, as an offset end, and the membership among them if there was one; publishes up to
    /// what is durable here. Mark and membership are written together, with the next group or when idle: a mark past a
    /// membership that is not written would leave a restarted node without one.
    pub fn advance_committed(&self, committed: EntryId, offset_end: Offset, membership: Option<StoredMembership>) {
        let published = {
            let mut inner = self.shared.inner.lock();
            inner.committed_offset = inner.committed_offset.max(offset_end);
            if let Some(membership) = membership {
                inner.small.applied_membership = Some(membership);
                inner.small_dirty = true;
            }
            if inner.small.committed.is_none_or(|known| known.index < committed.index) {
                inner.small.committed = Some(committed);
                inner.small_dirty = true;
            }
            inner.publish_committed()
        };
        if let Some(published) = published {
            self.shared.committed_watch.send_replace(published);
        }
    }

    /// The published committed end, as it moves.
    #[must_use]
    pub fn watch_committed_end(&self) -> watch::Receiver<Offset> {
        self.shared.committed_watch.subscribe()
    }

    /// The durable end, as it moves.
    #[must_use]
    pub fn watch_durable_end(&self) -> watch::Receiver<Offset> {
        self.shared.durable_watch.subscribe()
    }

    /// Empties the duplicate table, which no correct program does: for [`Plant::IdsForgotten`].
    pub(crate) fn forget_ids(&self) {
        let mut inner = self.shared.inner.lock();
        inner.dedup = DedupTable::new(self.shared.sync.config.dedup_window, inner.ends.append_end);
    }

    /// What the duplicate table says about each record of a set, in order.
    #[must_use]
    pub fn check_ids(&self, ids: &[IdRun], fingerprints: &[u64]) -> Vec<IdCheck> {
        let inner = self.shared.inner.lock();
        inner.dedup.check(ids, fingerprints, inner.ends.committed_end)
    }
}

fn push_done(inner: &mut Inner, op: Option<Op>, sender: oneshot::Sender<Result<(), StoreError>>) {
    let done: DoneCallback = Box::new(move |result| {
        // Whoever asked may have gone.
        let _gone = sender.send(result);
    });
    inner.waiting.push_back(Waiting { op, bytes: 0, done: Some(done) });
}
