//! Damage: what becomes of a partition whose index cannot be believed, while the node runs.
//!
//! ```text
//! good ── damage met ──▶ condemned ── keeper ──▶ wiping ──▶ good, from offset 0
//!  └───────── compacted, other log ─────────────▶
//! ```
//!
//! * Invariant: a condemned partition shows nothing, and nothing is applied or flushed, until its wipe is done.
//! * Invariant: what was read of the index, or fetched for it, before a wipe is not believed afterwards: wipes count as
//!   rotations for readers and are numbered (`epoch`) for whoever applies.
//! * Deliberately absent: when it happens (`keeper`).
//! * Source: ADR 0012.

use super::{Frontiers, PartitionView, State};
use crate::index::layout;
use crate::index::{Index, IndexError, IndexFault, IndexStore, SetHash, StoreError};
use duramen_common::{Offset, PartitionId};
use std::ops::{Bound, ControlFlow};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

/// How long a flush may lack descriptors or memory.
const SHORTAGE_MAX: Duration = Duration::from_secs(10);

/// Whether a partition's index can be believed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// As far as anybody knows.
    Good,
    /// Damage was met in it, and nobody has seen to it yet.
    Condemned(IndexFault),
    /// It is being emptied.
    Wiping,
}

impl PartitionView {
    /// A read of what the state of `epoch` has in the index failed. That is damage, unless it may work next time.
    pub(crate) fn read_failed(&self, fault: &IndexFault, epoch: u64) {
        if fault.is_of_full_disk() {
            // Reads write where an index keeps its tree in shape. One that failed so fails from then on.
            self.write_failed(fault.clone(), epoch);
        } else if !fault.is_passing() {
            self.condemn(fault, epoch);
        }
    }

    /// A flush could not read what it replaces. What does not pass is damage after all.
    pub(super) fn flush_waits(&self, fault: &IndexFault, epoch: u64) {
        let since = *self.state.write().waits_since.get_or_insert_with(Instant::now);
        if fault.is_passing() && since.elapsed() >= SHORTAGE_MAX {
            self.condemn(fault, epoch);
        } else {
            self.read_failed(fault, epoch);
        }
    }

    /// A write failed: nobody knows how much of it is in the index, and the set hash is not known any more. On a full disk
    /// reads go on meanwhile: what was to be written is in memory still, and hides what the index has under the same keys.
    pub(super) fn write_failed(&self, fault: IndexFault, epoch: u64) {
        if !fault.is_of_full_disk() {
            return self.condemn(&fault, epoch);
        }
        {
            let mut state = self.state.write();
            if !state.is_of(epoch) || state.unfinished.is_some() {
                return;
            }
            let partition = self.partition;
            tracing::warn!(%partition, %fault, "the index met a full disk: it is replaced once there is room");
            state.unfinished = Some(fault);
        }
        // Its sum would not be right either.
        *self.scrub.lock() = None;
    }

    /// There is room again: an index that met the full disk goes.
    pub(super) fn condemn_unfinished(&self) {
        let (unfinished, epoch) = {
            let state = self.state.read();
            (state.unfinished.clone(), state.epoch)
        };
        if let Some(fault) = unfinished {
            self.condemn(&fault, epoch);
        }
    }

    /// Damage was met in what the state of `epoch` has in the index. From now on nothing is shown, and the keeper is told.
    fn condemn(&self, fault: &IndexFault, epoch: u64) {
        {
            let mut state = self.state.write();
            if !state.is_of(epoch) {
                return;
            }
            state.standing = Standing::Condemned(fault.clone());
            state.ready = false;
        }
        self.publish();
        self.alarm.notify_one();
    }

    /// Why this partition must be wiped; `None` when it need not be.
    pub(crate) fn condemned(&self) -> Option<IndexFault> {
        match &self.state.read().standing {
            Standing::Condemned(fault) => Some(fault.clone()),
            Standing::Good | Standing::Wiping => None,
        }
    }

    /// Whether nothing speaks against what the index holds.
    pub(crate) fn is_good(&self) -> bool {
        self.state.read().is_good()
    }

    /// Whether the index is known to hold what its meta says.
    pub(crate) fn is_whole(&self) -> bool {
        let state = self.state.read();
        state.is_good() && state.unfinished.is_none()
    }

    /// Returns once nothing speaks against what the index holds.
    pub(crate) async fn good(&self) {
        let mut wipes = self.wipes();
        while !self.is_good() {
            // The view holds the sender, so that this cannot fail.
            let _ = wipes.changed().await;
        }
    }

    /// Changes to the number of the state that follows, whenever a wipe is done.
    pub(crate) fn wipes(&self) -> watch::Receiver<u64> {
        self.epochs.subscribe()
    }

    /// Names the state of now: as [`super::Position`] does.
    pub(crate) fn epoch(&self) -> u64 {
        self.state.read().epoch
    }

    /// Forgets everything and starts over at 0. When that fails the partition stays condemned. Blocks.
    pub(crate) fn wipe(&self) -> Result<(), IndexFault> {
        let _gate = self.gate.write();
        self.forget();
        match remove(&*self.index, self.partition) {
            Ok(()) => {
                self.begin_anew();
                Ok(())
            }
            Err(error) => {
                let fault = IndexFault::from(error);
                self.state.write().standing = Standing::Condemned(fault.clone());
                self.alarm.notify_one();
                Err(fault)
            }
        }
    }

    /// The state from before is gone, and nothing is done with the index. Under the gate.
    fn forget(&self) {
        {
            let mut state = self.state.write();
            self.budget.release(state.bytes_to_release());
            *state = State { standing: Standing::Wiping, ..State::fresh(state.epoch + 1) };
            self.rotations.fetch_add(1, Ordering::Release);
        }
        self.publish();
        self.recent.lock().reset(Offset::ZERO);
        *self.frontiers.lock() = Frontiers::default();
        self.committed_end.store(0, Ordering::Relaxed);
    }

    /// The index is empty: whoever waited for that goes on. Under the gate.
    fn begin_anew(&self) {
        *self.set.lock() = SetHash::default();
        *self.scrub.lock() = None;
        let epoch = {
            let mut state = self.state.write();
            state.standing = Standing::Good;
            state.epoch
        };
        self.epochs.send_replace(epoch);
    }
}

/// Replaces the index of all partitions by a fresh one. When that fails they stay condemned. Blocks.
pub(crate) fn replace_index(views: &[Arc<PartitionView>], store: &IndexStore) -> Result<(), StoreError> {
    let gates: Vec<_> = views.iter().map(|view| view.gate.write()).collect();
    views.iter().for_each(|view| view.forget());
    let replaced = store.start_over();
    match &replaced {
        Ok(()) => views.iter().for_each(|view| view.begin_anew()),
        Err(error) => {
            let reason = error.to_string();
            let fault = IndexFault::Engine(IndexError { kind: "index", action: "replacing it", reason });
            views.iter().for_each(|view| view.state.write().standing = Standing::Condemned(fault.clone()));
        }
    }
    drop(gates);
    replaced
}

/// How many keys one write removes when a partition is cleared.
const CLEAR_KEYS: usize = 4096;

/// Removes a partition from the index. Fails where entries are left that do not go: then the index must be replaced.
pub(crate) fn remove(index: &dyn Index, partition: PartitionId) -> Result<(), IndexError> {
    // The meta first: without it, whatever else is left does not pass for the partition's state.
    index.write(vec![(layout::meta_key(partition), None)])?;
    for (start, end) in layout::ranges(partition) {
        let (start, end) = (start.as_ref().map(Vec::as_slice), end.as_ref().map(Vec::as_slice));
        let mut next = start.map(<[u8]>::to_vec);
        loop {
            let keys = some_keys(index, next.as_ref().map(Vec::as_slice), end)?;
            let Some(last) = keys.last() else { break };
            next = Bound::Excluded(last.clone());
            index.write(keys.into_iter().map(|key| (key, None)).collect())?;
        }
        // In a damaged tree a key may be shown that a removal does not reach.
        if !some_keys(index, start, end)?.is_empty() {
            let reason = "entries are left that cannot be removed".to_owned();
            return Err(IndexError { kind: "index", action: "removing a partition", reason });
        }
    }
    Ok(())
}

fn some_keys(index: &dyn Index, start: Bound<&[u8]>, end: Bound<&[u8]>) -> Result<Vec<Vec<u8>>, IndexError> {
    let mut keys = Vec::new();
    index.range(start, end, &mut |key, _| {
        keys.push(key.to_vec());
        if keys.len() < CLEAR_KEYS { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    })?;
    Ok(keys)
}
