//! One partition's share of a round of the sync driver: what it writes and syncs, and what is published then.
//!
//! * In: what waits in the partition, in call order. Out: bytes on the medium, frontiers that have moved.
//! * Invariant: `write` goes on where it stopped: a full disk may stop it between two entries, or in a roll.
//! * Source: DESIGN D2.

use super::StoreError;
use super::partition::{Inner, Op, Shared, Waiting};
use super::segment::Segment;
use super::types::SmallState;
use super::writer::{Base, Writer};
use duramen_common::ids::Offset;
use std::sync::Arc;

/// One partition's share of a round.
pub(super) struct Group {
    pub shared: Arc<Shared>,
    pub waiting: Vec<Waiting>,
    /// The small state as of this round; a later one may hold marks that this round's entries do not lead to.
    state: SmallState,
    is_state_new: bool,
    marker: bool,
    rolled: bool,
    /// Where the partition will be durable up to: index after the last, offset end.
    durable: Option<(u64, Offset)>,
    superseded: bool,
    pub result: Result<(), StoreError>,
    /// It has waited for space.
    pub was_held: bool,
}

/// Takes what waits in a partition.
pub(super) fn take(shared: &Arc<Shared>, mark: bool) -> Option<Group> {
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
        rolled: false,
        durable: None,
        superseded: false,
        result: Ok(()),
        was_held: false,
    })
}

impl Group {
    /// Writes its operations, in order. What is done is taken out, so that it goes on where a full disk has stopped it.
    pub fn write(&mut self) -> Result<(), StoreError> {
        let mut writer = self.shared.writer.lock();
        // What a baseline replaces is not written any more: the segments that it would begin would hold the baseline's marks.
        let is_baseline = |waiting: &Waiting| matches!(&waiting.op, Some(Op::Roll(base)) if base.baseline);
        let replaced = self.waiting.iter().rposition(is_baseline).unwrap_or(0);
        self.waiting.iter_mut().take(replaced).for_each(|waiting| waiting.op = None);
        for waiting in &mut self.waiting {
            match &mut waiting.op {
                None => {}
                Some(Op::Entries(entries)) => {
                    while let Some(placed) = entries.front() {
                        if writer.is_full_for(&placed.entry) {
                            let base = writer.next_base();
                            roll(&self.shared, &mut writer, base, &self.state)?;
                            self.rolled = true;
                        }
                        writer.entry(&placed.entry, placed.first_offset);
                        self.durable = Some((placed.entry.id.index + 1, placed.end()));
                        entries.pop_front();
                    }
                }
                Some(Op::Roll(base)) => {
                    roll(&self.shared, &mut writer, *base, &self.state)?;
                    self.rolled = true;
                    self.superseded |= base.baseline;
                    self.durable = Some((base.index, base.offset));
                }
            }
            waiting.op = None;
        }
        if std::mem::take(&mut self.is_state_new) {
            writer.state(&self.state);
        } else if std::mem::take(&mut self.marker) && !self.rolled {
            writer.marker();
        }
        writer.write()
    }

    /// Makes durable what was written.
    pub fn sync(&mut self) -> Result<(), StoreError> {
        self.shared.writer.lock().sync()?;
        if self.superseded {
            drop_superseded(&self.shared)?;
        }
        Ok(())
    }

    /// Moves the frontiers; what the log took back meanwhile does not count.
    pub fn publish(&self, inner: &mut Inner, cache_bytes: usize) -> (Option<Offset>, Option<Offset>) {
        let Some((mut index, mut offset)) = self.durable else { return (None, None) };
        if let Some((cut_index, cut_offset)) = inner.cut {
            index = index.min(cut_index);
            offset = offset.min(cut_offset);
        }
        inner.durable_next = index.max(inner.durable_next);
        inner.ends.durable_end = offset.max(inner.ends.durable_end);
        inner.cache.evict(inner.durable_next, cache_bytes);
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
